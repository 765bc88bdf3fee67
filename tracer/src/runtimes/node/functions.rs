//! Names, scripts and lines of functions, from what all closures of a function share.

use std::{collections::HashMap, sync::Arc};

use super::{
    heap::{Heap, Object, object, small},
    positions,
};
use crate::model::Named;

/// Longest name, characters.
const NAME_MAX: u64 = 1_024;
/// Longest path of a script, characters.
const PATH_MAX: u64 = 8_192;
/// Longest source text whose lines are counted, characters.
const SOURCE_MAX: u64 = 16 << 20;
/// Lines of all scripts that are remembered.
const LINES_MAX: usize = 4 << 20;
/// Scripts that are remembered.
const SCRIPTS_MAX: usize = 1_024;
/// Functions that are remembered.
const FUNCTIONS_MAX: usize = 8_192;
/// Bytecode of functions seen, to know them by.
const BYTECODES_MAX: usize = 8_192;
/// Longest table of source positions, bytes.
pub const TABLE_MAX: u64 = 4 << 20;
/// Scopes around one another that are looked through for a name.
const SCOPES_MAX: usize = 16;
/// What functions without a name are called, as V8 does in its own stack traces.
pub const ANONYMOUS: &str = "<anonymous>";

/// A function as it was compiled once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    name: Arc<str>,
    script: Option<Arc<Script>>,
    /// Where it begins and ends in the script.
    range: Option<(u32, u32)>,
    first_line: Option<u32>,
}

/// A source text.
#[derive(Debug, PartialEq, Eq)]
struct Script {
    path: Option<String>,
    /// Positions at which lines end; `None` where the text can't be read.
    ends: Option<Vec<u32>>,
    /// Lines before the text, where it was cut out of another.
    first: u32,
}

/// What tells whether an address still holds what it held: the words that were read.
type Words = [u64; 3];

/// What is known of a process's functions.
#[derive(Debug, Default)]
pub struct Functions {
    functions: HashMap<Object, (Words, Arc<Function>)>,
    scripts: HashMap<Object, (Words, Arc<Script>)>,
    lines: usize,
    /// The function that bytecode belongs to, as it was found last.
    by_bytecodes: HashMap<Object, Object>,
}

impl Function {
    /// The function at the place where it is written.
    #[must_use]
    pub fn begins(&self) -> Named {
        self.at(self.range.map(|(start, _)| start), false)
    }

    /// The function at a place in its script.
    #[must_use]
    pub fn at(&self, offset: Option<u32>, inlined: bool) -> Named {
        // A position outside of the function is not the function's.
        let offset = offset.filter(|at| self.range.is_none_or(|(a, b)| (a..=b).contains(at)));
        let line = |at: u32| {
            let script = self.script.as_ref()?;
            let line = positions::line(script.ends.as_ref()?, at);
            Some(line.saturating_add(script.first))
        };
        Named {
            function: self.name.to_string(),
            file: self.script.as_ref().and_then(|script| script.path.clone()),
            line: offset.and_then(line),
            inlined,
            function_line: self.first_line,
        }
    }
}

impl Functions {
    /// The function whose shared part this is; `None` where it is not one (any more).
    pub fn get(&mut self, heap: Heap<'_>, shared: Object) -> Option<Arc<Function>> {
        let fields = heap.layout.shared;
        let words = [
            heap.field(shared, fields.name_or_scope)?,
            heap.field(shared, fields.script)?,
            0,
        ];
        if let Some((known, function)) = self.functions.get(&shared)
            && *known == words
        {
            return Some(Arc::clone(function));
        }
        let script = self.script(heap, words[1]);
        let (name, range) = named(heap, words[0])?;
        let first_line = range.and_then(|(start, _)| {
            let script = script.as_ref()?;
            let line = positions::line(script.ends.as_ref()?, start);
            Some(line.saturating_add(script.first))
        });
        let function = Arc::new(Function {
            name: name.into(),
            script,
            range,
            first_line,
        });
        if self.functions.len() >= FUNCTIONS_MAX {
            self.functions.clear();
        }
        self.functions
            .insert(shared, (words, Arc::clone(&function)));
        Some(function)
    }

    /// The shared part that bytecode belongs to: that of the function in the frame, else the one
    /// that it belonged to before. It must refer to that bytecode.
    pub fn of_bytecodes(
        &mut self,
        heap: Heap<'_>,
        bytecodes: Object,
        function: Option<u64>,
    ) -> Option<Object> {
        let types = &heap.layout.types;
        let closure = function.and_then(|word| heap.typed(word, |t| types.function.contains(&t)));
        let of_closure = closure.and_then(|closure| {
            let is = |t| t == types.shared;
            heap.typed_field(closure, heap.layout.function_shared, is)
        });
        let known = self.by_bytecodes.get(&bytecodes).copied();
        let known = known.filter(|shared| heap.kind(*shared) == Some(types.shared));
        let found = [of_closure, known]
            .into_iter()
            .flatten()
            .find(|shared| bytecodes_of(heap, *shared) == Some(bytecodes))?;
        if self.by_bytecodes.len() >= BYTECODES_MAX {
            self.by_bytecodes.clear();
        }
        self.by_bytecodes.insert(bytecodes, found);
        Some(found)
    }

    fn script(&mut self, heap: Heap<'_>, word: u64) -> Option<Arc<Script>> {
        let layout = heap.layout;
        let script = heap.typed(word, |t| t == layout.types.script)?;
        let words = [
            heap.field(script, layout.script_name)?,
            heap.field(script, layout.script_source)?,
            // the line that the text begins at follows the name
            heap.field(script, layout.script_name.wrapping_add(8))?,
        ];
        if let Some((known, script)) = self.scripts.get(&script)
            && *known == words
        {
            return Some(Arc::clone(script));
        }
        let string = |word, max| {
            let text = heap.typed(word, |t| heap.is_string(t))?;
            heap.text(text, max)
        };
        let ends = heap
            .typed(words[1], |t| heap.is_string(t))
            .and_then(|source| heap.units(source, SOURCE_MAX))
            .and_then(|units| units.line_ends(LINES_MAX));
        let read = Arc::new(Script {
            path: string(words[0], PATH_MAX)
                .filter(|path| !path.is_empty())
                .map(path),
            ends,
            first: small(words[2]).map_or(0, |line| u32::try_from(line).unwrap_or(0)),
        });
        let count = read.ends.as_ref().map_or(0, Vec::len);
        if self.scripts.len() >= SCRIPTS_MAX || self.lines.saturating_add(count) > LINES_MAX {
            // functions hold on to their scripts
            self.scripts.clear();
            self.functions.clear();
            self.lines = 0;
        }
        self.lines += count;
        self.scripts.insert(script, (words, Arc::clone(&read)));
        Some(read)
    }
}

/// The path of a script as the file system has it: modules are named by URL.
fn path(name: String) -> String {
    let Some(path) = name.strip_prefix("file://") else {
        return name;
    };
    // what follows asks for the module under another name
    let path = path.split(['?', '#']).next().unwrap_or(path);
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
        let escaped = (*first == b'%').then(|| hex(after.first()).zip(hex(after.get(1))));
        match escaped.flatten() {
            Some((high, low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}

/// The bytecode that a function runs; `None` where it has none (any more).
pub fn bytecodes_of(heap: Heap<'_>, shared: Object) -> Option<Object> {
    let is = |word: u64| heap.typed(word, |t| t == heap.layout.types.bytecodes);
    let data = heap.field(shared, heap.layout.shared.data)?;
    is(data).or_else(|| {
        // its baseline code, or its entry trampoline, refers to it
        let between = object(data)?;
        [8, 16, 24]
            .into_iter()
            .find_map(|offset| is(heap.field(between, offset)?))
    })
}

/// The position in the script of a place in bytecode.
pub fn position(heap: Heap<'_>, bytecodes: Object, offset: u64) -> Option<u32> {
    let types = &heap.layout.types;
    let is_bytes = |t: u16| types.byte_arrays.contains(&t);
    let table = heap.typed_field(bytecodes, heap.layout.bytecode_positions, is_bytes)?;
    let table = heap.bytes(table, TABLE_MAX)?;
    // what was inlined is inlined in optimized code only
    let position = positions::at(&table, offset).filter(|p| p.inlining.is_none());
    position.and_then(|p| p.offset)
}

/// Name and range of a function, by its name or the description of its scope.
fn named(heap: Heap<'_>, word: u64) -> Option<(String, Option<(u32, u32)>)> {
    let types = &heap.layout.types;
    let found = heap.typed(word, |t| t == types.scope_info || heap.is_string(t));
    let Some(found) = found else {
        // a function of V8's own has a number for a name
        return small(word).map(|_| (ANONYMOUS.to_owned(), None));
    };
    if heap.kind(found)? != types.scope_info {
        let name = heap.text(found, NAME_MAX)?;
        let name = if name.is_empty() {
            ANONYMOUS.to_owned()
        } else {
            name
        };
        return Some((name, None));
    }
    let of_function = scope(heap, found)?;
    let (mut name, range) = (of_function.name, of_function.range);
    if name.is_empty() {
        name = match around(heap, of_function.outer) {
            Some(outer) => format!("{outer}.{ANONYMOUS}"),
            None => ANONYMOUS.to_owned(),
        };
    }
    Some((name, range))
}

/// The nearest function with a name around a scope.
fn around(heap: Heap<'_>, outer: Option<u64>) -> Option<String> {
    let mut outer = outer;
    for _ in 0..SCOPES_MAX {
        let found = heap.typed(outer?, |t| t == heap.layout.types.scope_info)?;
        let next = scope(heap, found)?;
        if !next.name.is_empty() {
            return Some(next.name);
        }
        outer = next.outer;
    }
    None
}

/// What the description of a scope says.
struct Scope {
    /// Of a function; empty where there is none.
    name: String,
    range: Option<(u32, u32)>,
    /// The scope around it.
    outer: Option<u64>,
}

/// src/objects/scope-info.tq: a header, the variables that closures use, and then what the flags
/// say that there is.
fn scope(heap: Heap<'_>, of: Object) -> Option<Scope> {
    let order = heap.layout.scope;
    let slot = |index: u64| heap.field(of, index.checked_mul(8)?.checked_add(8)?);
    let number = |index: u64| u64::try_from(small(slot(index)?)?).ok();
    let flags = if order.plain_flags {
        slot(0)? as u32
    } else {
        small(slot(0)?)? as u32
    };
    // class, eval, function, module and script scopes have a range; blocks have not
    let kind = flags & 0xf;
    let (saved, function, inferred) = (flags >> 10 & 1, flags >> 12 & 3, flags >> 14 & 1);
    let locals = number(2).filter(|n| *n < 1 << 20)?;
    let mut at = 3;
    let range_at = |at: u64| {
        let (start, end) = (number(at)?, number(at.checked_add(1)?)?);
        let (start, end) = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
        (start <= end).then_some((start, end))
    };
    let mut range = None;
    if order.positions_first {
        range = range_at(at);
        at += 2;
    }
    // a module says here how many variables it has
    let counted = order.module_counts == Some(kind) && slot(at).and_then(small).is_some();
    at += u64::from(counted);
    at += match order.inlined_names {
        Some(max) if locals >= max => 1 + locals,
        _ => 2 * locals,
    };
    // on the stack (1) or in the context (2)
    let receiver = order.receiver && matches!(flags >> 7 & 3, 1 | 2);
    at += u64::from(saved) + u64::from(receiver);
    let mut name = String::new();
    let string = |word: u64| heap.typed(word, |t| heap.is_string(t));
    if function != 0 {
        // a string, or zero for none, and then the variable that holds the function
        let word = slot(at)?;
        if small(word) != Some(0) {
            name = heap.text(string(word)?, NAME_MAX)?;
        }
        small(slot(at.checked_add(1)?)?)?;
        at += 2;
    }
    if inferred != 0 {
        if name.is_empty()
            && let Some(text) = string(slot(at)?)
        {
            name = heap.text(text, NAME_MAX)?;
        }
        at += 1;
    }
    // Blocks have no range; those of functions, scripts, modules and classes are always one.
    if !order.positions_first
        && let Some(found) = range_at(at)
    {
        range = Some(found);
        at += 2;
    }
    let outer = (flags >> OUTER & 1 == 1).then(|| slot(at)).flatten();
    Some(Scope { name, range, outer })
}

/// Bit of a scope's flags: there is one around it.
const OUTER: u32 = 22;

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn modules_have_paths() {
        let named = |name: &str| path(name.to_owned());
        assert_eq!(named("file:///srv/app/a%20b.mjs"), "/srv/app/a b.mjs");
        assert_eq!(named("file:///srv/app.mjs?v=2"), "/srv/app.mjs");
        assert_eq!(named("/srv/100%.js"), "/srv/100%.js");
        assert_eq!(named("node:internal/timers"), "node:internal/timers");
        assert_eq!(named("file:///a%f"), "/a%f");
    }
}
