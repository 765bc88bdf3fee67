//! Writes a recording while the engine works.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use flate2::{Compression, write::ZlibEncoder};

use super::{
    Answer, FORMAT, Header, INFLATED_MAX, MAGIC, SLOTS_MAX,
    connection::{self, Member},
    flag, other, tag, wire,
};
use crate::{
    engine::{Input, Lineage, Observer},
    model::{CohortId, Role},
};

/// A connection's identity: socket, opening, and which of several with the same.
type Key = (u64, u64, u8);
/// Connections of one identity in one sweep.
const ALIKE_MAX: u8 = 8;

/// A recording under way; clones write to the same.
#[derive(Clone)]
pub struct Tape(Arc<Mutex<Recorder>>);

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tape")
    }
}

impl PartialEq for Tape {
    fn eq(&self, other: &Tape) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tape {}

impl Tape {
    /// Begins a recording.
    ///
    /// # Errors
    /// Those of writing its head.
    pub fn begin(mut to: Box<dyn Write + Send>, header: &Header) -> io::Result<Tape> {
        to.write_all(MAGIC)?;
        writeln!(to, "{FORMAT}")?;
        let mut recorder = Recorder {
            out: Some(ZlibEncoder::new(to, Compression::best())),
            failure: None,
            written: 0,
            held: None,
            answer: None,
            now_ns: 0,
            slots: Vec::new(),
            by_key: HashMap::new(),
            free: Vec::new(),
            sweeps: 0,
            sweep: None,
        };
        let json = serde_json::to_vec(header)?;
        let mut bytes = Vec::new();
        wire::put(&mut bytes, json.len() as u64);
        bytes.extend_from_slice(&json);
        recorder.write(&bytes);
        Ok(Tape(Arc::new(Mutex::new(recorder))))
    }

    /// What the report of the latest judgement is made from. Of several answers the last is kept.
    pub fn answer(&self, answer: Answer) {
        let mut recorder = self.recorder();
        if let Some(held) = recorder.held.take() {
            recorder.write(&held);
        }
        recorder.held = Some(Vec::new());
        recorder.answer = Some(answer);
    }

    /// Completes the file. What came after the last answer is left out.
    ///
    /// # Errors
    /// The first failure since the beginning: then the file is of no use.
    pub fn finish(&self) -> io::Result<()> {
        let mut recorder = self.recorder();
        recorder.held = None;
        if let Some(answer) = recorder.answer.take() {
            let json = serde_json::to_vec(&answer)?;
            let mut bytes = vec![tag::ANSWER];
            wire::put(&mut bytes, json.len() as u64);
            bytes.extend_from_slice(&json);
            recorder.write(&bytes);
        }
        recorder.write(&[tag::END]);
        if let Some(failure) = recorder.failure.take() {
            return Err(failure);
        }
        match recorder.out.take() {
            Some(out) => out.finish()?.flush(),
            None => Err(io::Error::other("it was finished before")),
        }
    }

    fn recorder(&self) -> std::sync::MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Tape {
    fn told(&mut self, input: Input<'_>) {
        self.recorder().told(input);
    }
}

/// A connection that was written.
struct Slot {
    key: Key,
    member: Member,
    /// Number of the sweep that saw it last.
    seen: u64,
    live: bool,
}

/// A sweep under way.
#[derive(Default)]
struct Sweep {
    now_ns: u64,
    reconciled: bool,
    /// Slots with where their changes are in `bytes`.
    changed: Vec<(u32, std::ops::Range<usize>)>,
    bytes: Vec<u8>,
    others: Others,
}

/// Things the engine was told beside connections.
#[derive(Default)]
struct Others {
    count: u64,
    bytes: Vec<u8>,
}

struct Recorder {
    out: Option<ZlibEncoder<Box<dyn Write + Send>>>,
    failure: Option<io::Error>,
    /// Bytes before compression.
    written: u64,
    /// What came after an answer; of no use unless another answer follows.
    held: Option<Vec<u8>>,
    answer: Option<Answer>,
    now_ns: u64,
    slots: Vec<Slot>,
    by_key: HashMap<Key, u32>,
    free: Vec<u32>,
    sweeps: u64,
    sweep: Option<Sweep>,
}

impl Recorder {
    fn told(&mut self, input: Input<'_>) {
        match input {
            Input::Begin { now_ns, reconciled } => {
                self.flush(false);
                self.sweeps += 1;
                self.sweep = Some(Sweep {
                    now_ns,
                    reconciled,
                    ..Sweep::default()
                });
            }
            Input::Observe(leaf, role, connection) => self.observe(leaf, role, connection),
            Input::End => self.flush(true),
            Input::Judge => {
                self.flush(false);
                self.emit(&[tag::JUDGE]);
            }
            Input::Enroll(leaf, role, lineage) => {
                self.other(|out| enroll(out, leaf, role, lineage));
            }
            Input::Ended(leaf, role, ended) => self.other(|out| {
                head(out, other::ENDED, leaf, role);
                for number in [ended.count, ended.lifetime_ns, ended.turns] {
                    wire::put(out, number);
                }
            }),
            Input::Collected(leaf, role, count) => self.other(|out| {
                head(out, other::COLLECTED, leaf, role);
                wire::put(out, count);
            }),
        }
    }

    fn observe(&mut self, leaf: CohortId, role: Role, c: &crate::model::Connection) {
        let Some(sweep) = &mut self.sweep else {
            return;
        };
        let mut key = (c.sk, c.opened_ns, 0);
        let slot = loop {
            match self.by_key.get(&key) {
                Some(&slot) if self.slots[slot as usize].seen == self.sweeps => key.2 += 1,
                Some(&slot) => break slot,
                None => {
                    let slot = match self.free.pop() {
                        Some(slot) => slot,
                        None => u32::try_from(self.slots.len()).unwrap_or(SLOTS_MAX),
                    };
                    if slot >= SLOTS_MAX {
                        let full = format!("more than {SLOTS_MAX} connections at one time");
                        self.failure.get_or_insert(io::Error::other(full));
                        return;
                    }
                    let new = Slot {
                        key,
                        member: connection::unknown(slot),
                        seen: 0,
                        live: true,
                    };
                    match self.slots.get_mut(slot as usize) {
                        Some(free) => *free = new,
                        None => self.slots.push(new),
                    }
                    self.by_key.insert(key, slot);
                    break slot;
                }
            }
            if key.2 == ALIKE_MAX {
                return;
            }
        };
        let known = &mut self.slots[slot as usize];
        let is_new = known.seen == 0;
        known.seen = self.sweeps;
        let member = Member {
            leaf,
            role,
            connection: crate::model::Connection {
                sk: u64::from(slot),
                ..*c
            },
        };
        if is_new || member != known.member {
            let from = sweep.bytes.len();
            connection::put(&mut sweep.bytes, sweep.now_ns, &known.member, &member);
            sweep.changed.push((slot, from..sweep.bytes.len()));
            known.member = member;
        }
    }

    fn other(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if let Some(sweep) = &mut self.sweep {
            sweep.others.count += 1;
            put(&mut sweep.others.bytes);
            return;
        }
        let mut bytes = vec![tag::LOOSE, 1];
        put(&mut bytes);
        self.emit(&bytes);
    }

    /// Writes the sweep under way. One that does not end has seen only a part of the connections.
    fn flush(&mut self, complete: bool) {
        let Some(mut sweep) = self.sweep.take() else {
            return;
        };
        let mut out = vec![tag::SWEEP];
        wire::put_signed(&mut out, sweep.now_ns.wrapping_sub(self.now_ns) as i64);
        self.now_ns = sweep.now_ns;
        let flags = flag::RECONCILED * u64::from(sweep.reconciled);
        wire::put(&mut out, flags + flag::COMPLETE * u64::from(complete));
        let gone = match complete {
            true => self.gone(),
            false => Vec::new(),
        };
        wire::put(&mut out, gone.len() as u64);
        let mut before = 0;
        for slot in gone {
            wire::put(&mut out, u64::from(slot - before));
            before = slot;
        }
        sweep.changed.sort_unstable_by_key(|(slot, _)| *slot);
        wire::put(&mut out, sweep.changed.len() as u64);
        before = 0;
        for (slot, range) in sweep.changed {
            wire::put(&mut out, u64::from(slot - before));
            before = slot;
            out.extend_from_slice(&sweep.bytes[range]);
        }
        wire::put(&mut out, sweep.others.count);
        out.extend_from_slice(&sweep.others.bytes);
        self.emit(&out);
    }

    /// Slots that the sweep has not seen, ascending; they are free from now on.
    fn gone(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        for (slot, known) in (0..).zip(&mut self.slots) {
            if known.live && known.seen != self.sweeps {
                known.live = false;
                self.by_key.remove(&known.key);
                gone.push(slot);
            }
        }
        self.free.extend(gone.iter().rev());
        gone
    }

    fn emit(&mut self, bytes: &[u8]) {
        match &mut self.held {
            Some(held) => held.extend_from_slice(bytes),
            None => self.write(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        if self.failure.is_some() {
            return;
        }
        let result = match &mut self.out {
            Some(_) if self.written > INFLATED_MAX => Err(io::Error::other(format!(
                "the recording is full: it would take more than {} MiB before compression",
                INFLATED_MAX >> 20
            ))),
            Some(out) => out.write_all(bytes),
            None => Ok(()),
        };
        self.failure = result.err();
    }
}

fn head(out: &mut Vec<u8>, kind: u8, leaf: CohortId, role: Role) {
    out.push(kind);
    wire::put(out, u64::from(leaf.0));
    out.push(u8::from(role == Role::Server));
}

fn enroll(out: &mut Vec<u8>, leaf: CohortId, role: Role, lineage: Lineage) {
    head(out, other::ENROLL, leaf, role);
    for above in [lineage.site, lineage.authority, lineage.process] {
        wire::put(out, u64::from(above.0));
    }
    out.push(u8::from(lineage.sited) | u8::from(lineage.pairs) << 1);
}
