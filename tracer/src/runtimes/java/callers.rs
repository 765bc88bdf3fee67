//! Who asked, where a client hands requests to threads of its own.
//!
//! On such a thread no frame of the application's is left. But where all the classes that are
//! loaded have exactly one instruction that calls the client, that one asked: there is nobody else.
//! Where there are two it stays unknown.

use std::collections::HashMap;

use super::{
    layout::{CallersLayout, MethodLayout, Resolved},
    method::{self, Method, symbol},
    scopes::Scope,
};
use crate::memory::Memory;

/// A client, and the methods by which applications call it.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    /// Beginnings of the names of its own classes.
    inside: &'static [&'static str],
    /// Class and method, as call instructions name them.
    calls: &'static [(&'static str, &'static str)],
}

const CLIENTS: &[Client] = &[
    Client {
        inside: &["jdk/internal/net/http/"],
        calls: &[
            ("java/net/http/HttpClient", "send"),
            ("java/net/http/HttpClient", "sendAsync"),
            ("java/net/http/WebSocket$Builder", "buildAsync"),
        ],
    },
    Client {
        inside: &["okhttp3/", "okio/"],
        calls: &[
            ("okhttp3/Call", "execute"),
            ("okhttp3/Call", "enqueue"),
            ("okhttp3/OkHttpClient", "newWebSocket"),
            ("okhttp3/WebSocket$Factory", "newWebSocket"),
        ],
    },
    Client {
        inside: &["org/apache/http/"],
        calls: &[
            ("org/apache/http/nio/client/HttpAsyncClient", "execute"),
            (
                "org/apache/http/impl/nio/client/CloseableHttpAsyncClient",
                "execute",
            ),
        ],
    },
    Client {
        inside: &["org/apache/hc/"],
        calls: &[
            (
                "org/apache/hc/client5/http/async/HttpAsyncClient",
                "execute",
            ),
            (
                "org/apache/hc/client5/http/impl/async/CloseableHttpAsyncClient",
                "execute",
            ),
        ],
    },
    Client {
        inside: &["io/netty/"],
        calls: &[("io/netty/bootstrap/Bootstrap", "connect")],
    },
];

/// The runtime's own classes.
const SYSTEM: [&str; 5] = ["java/", "javax/", "jdk/", "sun/", "com/sun/"];
/// Methods by which threads begin.
const BEGINNINGS: [(&str, &str); 5] = [
    ("java/lang/Thread", "run"),
    ("java/lang/VirtualThread", "run"),
    ("java/util/concurrent/ForkJoinWorkerThread", "run"),
    ("jdk/internal/misc/InnocuousThread", "run"),
    (
        "jdk/internal/net/http/HttpClientImpl$SelectorManager",
        "run",
    ),
];
/// Loaders and classes looked at.
const LOADERS_MAX: usize = 4096;
const CLASSES_MAX: usize = 40_000;
/// Entries of a class's constant pool, and of what it resolved.
const ENTRIES_MAX: u32 = 65_535;
/// Bytes of an entry of what a class resolved.
const ENTRY_BYTES_MAX: u64 = 128;
/// Bytes read in one search: 20,000 classes have about 60 MiB of constant pools.
const BYTES_MAX: u64 = if cfg!(any(test, fuzzing)) {
    1 << 20
} else {
    160 << 20
};
/// Bytes that looking at a class costs at least.
const CLASS_BYTES: u64 = 256;
/// Names of which it is remembered whether they are meant.
const NAMES_MAX: usize = 65_536;
/// `invokevirtual`, `invokespecial`, `invokestatic`, `invokeinterface` (JVM specification, 6.5).
const INVOKES: std::ops::RangeInclusive<u8> = 182..=185;
/// Kinds of constants: `Methodref`, `InterfaceMethodref`, `Class`, `NameAndType` (JVM
/// specification, 4.4), and HotSpot's for a class that was not resolved so far.
const METHOD_REFERENCES: [u8; 2] = [10, 11];
const CLASSES: [u8; 2] = [7, 100];
const NAME_AND_TYPE: u8 = 12;

/// What the frames of one stack say so far, inwards to outwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trail {
    client: Option<&'static Client>,
    others: bool,
}

impl Trail {
    /// A method on the stack.
    pub fn pass(&mut self, method: &Method) {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|p| method.class.starts_with(p));
        if let Some(client) = CLIENTS.iter().find(|client| begins(client.inside)) {
            self.others |= self.client.is_some_and(|known| known != client);
            self.client = Some(client);
        } else if !begins(&SYSTEM) {
            self.others = true;
        }
    }

    /// Whose client's thread began with this method, and nothing else runs on it.
    #[must_use]
    pub fn handed_over(&self, first: &Method) -> Option<&'static Client> {
        let begins = BEGINNINGS.contains(&(&first.class, &first.name));
        self.client.filter(|_| begins && !self.others)
    }
}

/// The only callers, as far as they were looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Callers {
    /// For each client, how often it was asked for, and what was found last.
    found: HashMap<&'static str, (u64, Option<Scope>)>,
}

impl Callers {
    /// The only call of a client. Classes are looked through at the first, second, fourth, eighth,
    /// ... question: more may have been loaded.
    pub fn of(
        &mut self,
        client: &'static Client,
        layout: &MethodLayout,
        callers: &CallersLayout,
        memory: &dyn Memory,
    ) -> Option<Scope> {
        let key = client.inside.first()?;
        let (asked, known) = self.found.entry(key).or_default();
        *asked = asked.saturating_add(1);
        if asked.is_power_of_two() {
            let search = Search {
                client,
                layout,
                callers,
                memory,
                names: HashMap::new(),
                found: Vec::new(),
                left: BYTES_MAX,
            };
            *known = search.only();
        }
        *known
    }
}

/// A name that a call may have.
#[derive(Debug, Clone, Copy, Default)]
struct Meaning {
    class: bool,
    method: bool,
}

struct Search<'a> {
    client: &'static Client,
    layout: &'a MethodLayout,
    callers: &'a CallersLayout,
    memory: &'a dyn Memory,
    names: HashMap<u64, Meaning>,
    found: Vec<Scope>,
    left: u64,
}

impl Search<'_> {
    /// This many bytes, unless the search has read too much.
    fn read(&mut self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(bytes as u64)?;
        let mut read = vec![0; bytes];
        self.memory.read(address, &mut read).then_some(read)
    }

    /// The only call; `None` where there is another or something could not be read.
    fn only(mut self) -> Option<Scope> {
        let mut loader = self.memory.word(self.callers.loaders)?;
        let mut classes = 0;
        for _ in 0..LOADERS_MAX {
            if loader == 0 {
                return match self.found.as_slice() {
                    [one] => Some(*one),
                    _ => None,
                };
            }
            let at = |offset: u64| self.memory.word(loader.wrapping_add(offset));
            let (next, boot) = (
                at(self.callers.next_loader)?,
                at(self.layout.loader_object)? == 0,
            );
            let mut class = if boot { 0 } else { at(self.callers.classes)? };
            while class != 0 {
                classes += 1;
                if classes > CLASSES_MAX || self.found.len() > 1 {
                    return None;
                }
                self.left = self.left.checked_sub(CLASS_BYTES)?;
                self.look(class)?;
                class = self
                    .memory
                    .word(class.wrapping_add(self.callers.next_class))?;
            }
            loader = next;
        }
        None
    }

    /// Looks for calls in one class; `None` where one is made in a way that can't be seen.
    fn look(&mut self, class: u64) -> Option<()> {
        let (layout, memory) = (self.layout, self.memory);
        let word = |base: u64, offset: u64| memory.word(base.wrapping_add(offset));
        let kind = memory.half(class.wrapping_add(self.callers.kind))?;
        if kind.cast_signed() <= 0 {
            return Some(()); // an array's
        }
        let name = symbol(layout, word(class, layout.class_name)?, memory)?;
        let own = |prefix: &&str| name.starts_with(prefix);
        if SYSTEM.iter().any(own) || self.client.inside.iter().any(own) {
            return Some(());
        }
        let pool = word(class, self.callers.constants)?;
        if pool == 0 {
            return Some(());
        }
        for reference in self.references(pool)? {
            let cache = word(pool, self.callers.cache)?;
            let before = self.found.len();
            if cache == 0 {
                continue; // never linked, so it never ran
            }
            for slot in self.slots(cache, reference)? {
                self.calls(class, slot)?;
            }
            if self.found.len() == before {
                return None;
            }
        }
        Some(())
    }

    /// Places in a constant pool of references to the client's methods.
    fn references(&mut self, pool: u64) -> Option<Vec<u16>> {
        let (layout, memory) = (self.layout, self.memory);
        let entries = memory.half(pool.wrapping_add(layout.entries))?;
        if entries > ENTRIES_MAX {
            return None;
        }
        let tags = memory.word(pool.wrapping_add(layout.tags))?;
        let kinds = self.read(tags.wrapping_add(layout.bytes_data), entries as usize)?;
        if !kinds.iter().any(|kind| METHOD_REFERENCES.contains(kind)) {
            return Some(Vec::new());
        }
        let words = self.read(pool.wrapping_add(layout.pool_bytes), entries as usize * 8)?;
        let word = |place: usize| {
            let bytes = words.get(place * 8..place * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let mut found = Vec::new();
        for (place, _) in kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| METHOD_REFERENCES.contains(kind))
        {
            // In a reference the class is below name and type; in those the name is below the type;
            // in a class the name is above (`ConstantPool::method_at_put`,
            // `ConstantPool::name_and_type_at_put`, `CPKlassSlot`).
            let low = |word: u64| (word & 0xffff) as usize;
            let reference = word(place)?;
            let (class, name) = (low(reference), low(reference >> 16));
            let kind = |place: usize| kinds.get(place).copied();
            if !kind(class).is_some_and(|kind| CLASSES.contains(&kind))
                || kind(name) != Some(NAME_AND_TYPE)
            {
                continue;
            }
            let class = word(low(word(class)? >> 16))?;
            let name = word(low(word(name)?))?;
            if self.means(class).class && self.means(name).method {
                found.extend(u16::try_from(place));
            }
        }
        Some(found)
    }

    /// Whether a `Symbol` is a name of the client's. They are unique, so each is read once.
    fn means(&mut self, address: u64) -> Meaning {
        if let Some(known) = self.names.get(&address) {
            return *known;
        }
        let text = symbol(self.layout, address, self.memory).unwrap_or_default();
        let meaning = Meaning {
            class: self.client.calls.iter().any(|(class, _)| *class == text),
            method: self.client.calls.iter().any(|(_, method)| *method == text),
        };
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(address, meaning);
        meaning
    }

    /// What stands in linked bytecode for a reference: its numbers among those that the class uses.
    fn slots(&mut self, cache: u64, reference: u16) -> Option<Vec<u16>> {
        let memory = self.memory;
        let (start, len, each, at) = match self.callers.resolved {
            Resolved::Entries {
                len,
                start,
                each,
                place,
            } => {
                let len = memory.half(cache.wrapping_add(len))?;
                (cache.wrapping_add(start), len, each, place)
            }
            Resolved::Methods {
                list,
                data,
                each,
                place,
            } => {
                let list = memory.word(cache.wrapping_add(list))?;
                if list == 0 {
                    return Some(Vec::new());
                }
                (list.wrapping_add(data), memory.half(list)?, each, place)
            }
        };
        if len > ENTRIES_MAX || each > ENTRY_BYTES_MAX {
            return None;
        }
        let (each, at) = (usize::try_from(each).ok()?, usize::try_from(at).ok()?);
        let all = self.read(start, each.checked_mul(len as usize)?)?;
        let place = |entry: &[u8]| {
            let bytes = entry.get(at..at.checked_add(2)?)?;
            Some(u16::from_le_bytes(bytes.try_into().ok()?))
        };
        let slots = (0u32..).zip(all.chunks_exact(each.max(1)));
        let meant = slots.filter(|(_, entry)| place(entry) == Some(reference));
        Some(
            meant
                .filter_map(|(slot, _)| u16::try_from(slot).ok())
                .collect(),
        )
    }

    /// Calls of a slot in the methods of a class.
    fn calls(&mut self, class: u64, slot: u16) -> Option<()> {
        let [low, high] = slot.to_le_bytes();
        for address in method::all_of(self.layout, class, self.memory)? {
            let method = Method::read(self.layout, address, self.memory)?;
            let code = self.read(method.code, method.code_bytes as usize)?;
            for (position, window) in (0u32..).zip(code.windows(3)) {
                if INVOKES.contains(&window[0]) && window[1..] == [low, high] {
                    self.found.push(Scope {
                        method: address,
                        position: Some(position),
                    });
                }
            }
        }
        Some(())
    }
}

/// Looks for each client's caller in hostile memory.
#[cfg(any(test, fuzzing))]
pub(super) fn search_hostile(layout: &super::layout::Layout, memory: &dyn Memory) {
    if let Some(callers) = &layout.callers {
        for client in CLIENTS {
            let _ = Callers::default().of(client, &layout.method, callers, memory);
        }
    }
}
