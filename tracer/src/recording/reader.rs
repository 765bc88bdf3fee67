//! Reads a recording, which may come from anybody, and tells it to an engine.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::ZlibDecoder;
use serde::de::DeserializeOwned;

use super::{
    Answer, FORMAT, Fault, Header, INFLATED_MAX, MAGIC, SLOTS_MAX,
    connection::{self, Member},
    flag, other, tag,
    wire::{self, Take},
};
use crate::{
    engine::{Engine, Judgement, Lineage, Settings},
    model::{CohortId, Ended, Role},
    report::Report,
};

/// Longest JSON in a recording, bytes.
const JSON_MAX: u64 = 64 << 20;
/// Most connections shown to the engine in all: a thousand of them for ten days, or minutes of
/// work.
const SHOWN_MAX: u64 = 1 << 30;
/// Most of anything that is counted at one time: sums of it stay far from the end of 64 bits.
const COUNT_MAX: u64 = 1 << 40;

/// What a recording says when it is judged anew.
#[derive(Debug)]
pub struct Replayed {
    /// Who recorded what.
    pub header: Header,
    /// The report.
    pub report: Report,
}

/// Reads a recording and judges it. `look` sees the engine after each sweep.
///
/// # Errors
/// [`Fault`], in words that follow the file's name.
pub fn replay(from: impl Read, mut look: impl FnMut(&mut Engine, u64)) -> Result<Replayed, Fault> {
    let mut from = BufReader::new(from);
    version(&mut from)?;
    let mut reader = Reader {
        from: BufReader::new(ZlibDecoder::new(from)),
        left: INFLATED_MAX,
        shown: 0,
        now_ns: 0,
        slots: Vec::new(),
    };
    let header: Header = reader.json()?;
    let mut engine = Engine::new(Settings::default());
    let mut judged: Option<Vec<Judgement>> = None;
    let mut report = None;
    loop {
        match reader.byte()? {
            tag::SWEEP => {
                reader.sweep(&mut engine)?;
                look(&mut engine, reader.now_ns);
            }
            tag::LOOSE => reader.others(&mut engine)?,
            tag::JUDGE => judged = Some(engine.judge()),
            tag::ANSWER => {
                let answer: Answer = reader.json()?;
                let judged = judged.take().ok_or(Fault::NoAnswer)?;
                report = Some(answer.report(&engine, judged));
            }
            tag::END => break,
            _ => return Err(Fault::Malformed("the kind of a record")),
        }
    }
    reader.end()?;
    let report = report.ok_or(Fault::NoAnswer)?;
    Ok(Replayed { header, report })
}

/// Reads bytes as a recording, and as the records of one before they are compressed.
#[cfg(any(test, fuzzing))]
pub fn read_hostile(data: &[u8]) {
    use std::io::Write as _;

    let _ = replay(data, |_, _| ());
    let mut whole = MAGIC.to_vec();
    whole.extend_from_slice(format!("{FORMAT}\n").as_bytes());
    let mut out = flate2::write::ZlibEncoder::new(whole, flate2::Compression::fast());
    if out
        .write_all(b"\x19{\"tracer\":\"\",\"target\":\"\"}")
        .is_ok()
        && out.write_all(data).is_ok()
        && let Ok(whole) = out.finish()
    {
        let _ = replay(whole.as_slice(), |engine, _| {
            engine.judge();
        });
    }
}

/// Checks how the file begins.
fn version(from: &mut impl Read) -> Result<(), Fault> {
    let mut begins = Vec::new();
    let mut head = from.take(MAGIC.len() as u64);
    head.read_to_end(&mut begins).map_err(Fault::Io)?;
    if begins != MAGIC {
        return Err(match !begins.is_empty() && MAGIC.starts_with(&begins) {
            true => Fault::CutOff,
            false => Fault::Foreign,
        });
    }
    let mut version = 0u64;
    for _ in 0..10 {
        let mut byte = [0];
        from.read_exact(&mut byte).map_err(fault)?;
        match byte[0] {
            b'\n' if version == u64::from(FORMAT) => return Ok(()),
            b'\n' => return Err(Fault::Version(version)),
            digit @ b'0'..=b'9' => version = version * 10 + u64::from(digit - b'0'),
            _ => return Err(Fault::Foreign),
        }
    }
    Err(Fault::Foreign)
}

fn fault(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::CutOff,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Fault::Malformed("a compressed block")
        }
        _ => Fault::Io(error),
    }
}

struct Reader<R: BufRead> {
    from: BufReader<ZlibDecoder<R>>,
    /// Bytes that may still come.
    left: u64,
    /// Connections shown to the engine.
    shown: u64,
    now_ns: u64,
    slots: Vec<Option<Member>>,
}

impl<R: BufRead> Take for Reader<R> {
    fn byte(&mut self) -> Result<u8, Fault> {
        self.less(1)?;
        let mut byte = [0];
        self.from.read_exact(&mut byte).map_err(fault)?;
        Ok(byte[0])
    }
}

impl<R: BufRead> Reader<R> {
    fn less(&mut self, bytes: u64) -> Result<(), Fault> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or(Fault::TooLarge(
            "it has more than 512 MiB before compression",
        ))?;
        Ok(())
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        let len = self.at_most(JSON_MAX, "the length of names")?;
        self.less(len)?;
        let mut bytes = Vec::new();
        let mut json = self.from.by_ref().take(len);
        json.read_to_end(&mut bytes).map_err(fault)?;
        match bytes.len() as u64 == len {
            true => Ok(serde_json::from_slice(&bytes)?),
            false => Err(Fault::CutOff),
        }
    }

    /// After the last record comes the checksum, and nothing else.
    fn end(mut self) -> Result<(), Fault> {
        let mut more = [0];
        if self.from.read(&mut more).map_err(fault)? > 0 {
            return Err(Fault::Malformed("what follows the last record"));
        }
        let mut file = self.from.into_inner().into_inner();
        match file.read(&mut more).map_err(Fault::Io)? {
            0 => Ok(()),
            _ => Err(Fault::Malformed("what follows the end")),
        }
    }

    fn sweep(&mut self, engine: &mut Engine) -> Result<(), Fault> {
        let step = self.signed()?;
        self.now_ns = wire::sane(self.now_ns.wrapping_add(step as u64))?;
        let flags = self.at_most(3, "the flags of a sweep")?;
        engine.begin_sweep(self.now_ns, flags & flag::RECONCILED != 0);
        let gone = self.at_most(u64::from(SLOTS_MAX), "a number of connections")?;
        let mut slot = 0;
        for _ in 0..gone {
            slot = self.slot(slot)?;
            let known = self.slots.get_mut(slot as usize);
            if known.and_then(Option::take).is_none() {
                return Err(Fault::Malformed("a connection that ended"));
            }
        }
        let changed = self.at_most(u64::from(SLOTS_MAX), "a number of connections")?;
        slot = 0;
        for _ in 0..changed {
            slot = self.slot(slot)?;
            let at = slot as usize;
            if at > self.slots.len() {
                return Err(Fault::Malformed("the place of a connection"));
            }
            if at == self.slots.len() {
                self.slots.push(None);
            }
            let old = self.slots[at].unwrap_or_else(|| connection::unknown(slot));
            let now_ns = self.now_ns;
            self.slots[at] = Some(connection::take(self, now_ns, &old)?);
        }
        self.shown += self.slots.len() as u64;
        if self.shown > SHOWN_MAX {
            return Err(Fault::TooLarge(
                "it has too many sweeps of too many connections",
            ));
        }
        for member in self.slots.iter().flatten() {
            engine.observe(member.leaf, member.role, &member.connection);
        }
        self.others(engine)?;
        if flags & flag::COMPLETE != 0 {
            engine.end_sweep();
        }
        Ok(())
    }

    fn slot(&mut self, before: u32) -> Result<u32, Fault> {
        let step = self.at_most(u64::from(SLOTS_MAX), "the place of a connection")?;
        let slot = u64::from(before) + step;
        match u32::try_from(slot) {
            Ok(slot) if slot < SLOTS_MAX => Ok(slot),
            _ => Err(Fault::Malformed("the place of a connection")),
        }
    }

    fn others(&mut self, engine: &mut Engine) -> Result<(), Fault> {
        for _ in 0..self.at_most(INFLATED_MAX, "a number of records")? {
            let kind = self.byte()?;
            let leaf = self.id()?;
            let role = match self.byte()? {
                0 => Role::Client,
                1 => Role::Server,
                _ => return Err(Fault::Malformed("a role")),
            };
            match kind {
                other::ENROLL => {
                    let (site, authority, process) = (self.id()?, self.id()?, self.id()?);
                    let flags = self.byte()?;
                    if flags > 3 {
                        return Err(Fault::Malformed("the flags of a population"));
                    }
                    let lineage = Lineage {
                        site,
                        authority,
                        process,
                        sited: flags & 1 != 0,
                        pairs: flags & 2 != 0,
                    };
                    engine.enroll(leaf, role, lineage);
                }
                other::ENDED => {
                    let ended = Ended {
                        count: self.at_most(COUNT_MAX, "a number of connections")?,
                        lifetime_ns: self.number()?,
                        turns: self.at_most(COUNT_MAX, "a number of requests")?,
                    };
                    engine.ended(leaf, role, &ended);
                }
                other::COLLECTED => {
                    let count = self.at_most(COUNT_MAX, "a number of connections")?;
                    engine.collected(leaf, role, count);
                }
                _ => return Err(Fault::Malformed("the kind of a record")),
            }
        }
        Ok(())
    }

    fn id(&mut self) -> Result<CohortId, Fault> {
        self.word("the number of a population").map(CohortId)
    }
}
