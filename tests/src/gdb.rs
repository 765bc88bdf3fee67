//! gdb's opinion of a stack: what an unwinder with everything at hand says at the same call.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::host;

/// Attaches, waits for `connect` and for a send on a socket, and prints the program counters of
/// each such stack: but for those that are not on the stack, inlined frames and callers that gdb
/// infers where a call was a jump.
const SCRIPT: &str = r#"
import gdb, os

def value(name):
    return int(gdb.parse_and_eval(name)) & 0xffffffffffffffff

seen = {"connect": 0, "send": 0}

def show(kind):
    seen[kind] += 1
    print("STACK", kind)
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            print("PC", hex(frame.pc()))
        frame = frame.older()

gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute("set backtrace past-main on")
gdb.execute("set backtrace limit 200")
gdb.execute("handle all nostop noprint pass")
gdb.execute("catch syscall connect sendto sendmsg write writev")
try:
    gdb.execute("break *uv_tcp_init")  # where Node's functions ask for a connection
    asks = int(gdb.parse_and_eval("(long)&uv_tcp_init"))
except gdb.error:
    asks = None
pid = gdb.selected_inferior().pid
for _ in range(2000):
    # a program that sends nothing after it has connected is known by then, too
    if seen["connect"] >= (6 if asks or not seen["send"] else 3):
        break
    gdb.execute("continue", to_string=True)
    if value("$rip") == asks:
        show("connect")
        continue
    number = value("$orig_rax")
    if value("$rax") != 0xffffffffffffffda:
        continue  # the call's end: -ENOSYS stands there only at its beginning
    try:
        socket = os.readlink("/proc/%d/fd/%d" % (pid, value("$rdi"))).startswith("socket:")
    except OSError:
        continue
    kind = "connect" if number == 42 else "send"
    if socket and seen[kind] < 6:
        show(kind)
print("DONE")
"#;

/// One frame: the file's name and the address as linked in it; no file for generated code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the executable or library, without directories.
    pub module: Option<String>,
    /// Address; a caller's lies in its call instruction.
    pub address: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let module = self.module.as_deref().unwrap_or("?");
        write!(f, "{module}+{:#x}", self.address)
    }
}

/// What gdb sees of a process when it connects and when it sends, each some times.
#[derive(Debug, Default)]
pub struct Opinion {
    /// Stacks at `connect`, innermost frame first.
    pub connect: Vec<Vec<Place>>,
    /// Stacks at the calls that send.
    pub send: Vec<Vec<Place>>,
}

/// Asks gdb about a running process that connects and sends again and again.
///
/// # Errors
/// When gdb can't attach or sees no such call.
pub fn ask(pid: u32) -> Result<Opinion> {
    let gdb = host::tool("gdb")?;
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("stacks.py");
    fs::write(&script, SCRIPT)?;
    let output = Command::new("timeout")
        .arg("90")
        .arg(gdb)
        .args(["-nx", "-batch", "-iex", "set auto-load off", "-p"])
        .arg(pid.to_string())
        .arg("-x")
        .arg(&script)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains("\nDONE"),
        "gdb did not see what it waited for: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let maps = Maps::of(pid)?;
    let mut opinion = Opinion::default();
    let mut stack: Option<&mut Vec<Place>> = None;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("STACK ") {
            let stacks = match kind {
                "connect" => &mut opinion.connect,
                _ => &mut opinion.send,
            };
            stacks.push(Vec::new());
            stack = stacks.last_mut();
        } else if let (Some(pc), Some(frames)) = (line.strip_prefix("PC 0x"), &mut stack) {
            let pc = u64::from_str_radix(pc, 16)?;
            // callers are at their next instruction
            let address = if frames.is_empty() {
                pc
            } else {
                pc.wrapping_sub(1)
            };
            frames.push(maps.place(address));
        }
    }
    ensure!(!opinion.connect.is_empty(), "gdb saw no connect: {text}");
    Ok(opinion)
}

/// The frames of a reported stack that are on the native one: neither inlined nor interpreted;
/// and how many of them, from the innermost, are found without passing through generated code or
/// builtins of V8, which have no unwind information.
///
/// # Errors
/// When an address is none.
pub fn native(stack: &Value) -> Result<(Vec<Place>, usize)> {
    let frames = stack.as_array().context("no stack")?;
    let native = frames
        .iter()
        .filter(|frame| frame["inlined"] != true && !frame["address"].is_null());
    let generated = |frame: &Value| {
        let function = frame["function"].as_str().unwrap_or_default();
        frame["module"].is_null() || function.starts_with("Builtins_")
    };
    // frames that the runtime named have no address
    let first = frames.iter().position(generated).unwrap_or(frames.len());
    let told = frames[..first]
        .iter()
        .filter(|frame| frame["inlined"] != true)
        .count();
    let builtin = frames
        .get(first)
        .is_some_and(|frame| !frame["module"].is_null());
    let places = native
        .map(|frame| {
            let address = frame["address"].as_str().context("no address")?;
            let module = frame["module"].as_str();
            Ok(Place {
                module: module.map(|m| m.rsplit('/').next().unwrap_or(m).to_owned()),
                address: u64::from_str_radix(address.trim_start_matches("0x"), 16)?,
            })
        })
        .collect::<Result<Vec<Place>>>()?;
    // A builtin is where it is; generated code may be replaced by better code at any time. The
    // first of either is found by the rules of the frame that it called.
    let told = told + usize::from(builtin);
    Ok((places, told))
}

/// A process's mapped files, to tell where they were linked to be.
struct Maps {
    regions: Vec<Region>,
}

struct Region {
    start: u64,
    end: u64,
    /// Of the address in the file over that in the process; `None` without a file.
    file: Option<(String, u64)>,
}

impl Maps {
    fn of(pid: u32) -> Result<Maps> {
        let mut segments: BTreeMap<String, Vec<Segment>> = BTreeMap::new();
        let mut regions = Vec::new();
        for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [range, _, offset, _, _, path @ ..] = &fields[..] else {
                continue;
            };
            let (start, end) = range.split_once('-').context("range")?;
            let (start, end) = (hex(start)?, hex(end)?);
            let offset = hex(offset)?;
            let file = match path.first() {
                Some(path) if path.starts_with('/') => {
                    let known = segments
                        .entry((*path).to_owned())
                        .or_insert_with(|| read_segments(Path::new(path)).unwrap_or_default());
                    let name = path.rsplit('/').next().unwrap_or(path);
                    known
                        .iter()
                        .find(|s| s.offset & !0xfff <= offset && offset < s.offset + s.size)
                        .map(|s| {
                            let linked = offset.wrapping_sub(s.offset).wrapping_add(s.address);
                            (name.to_owned(), start.wrapping_sub(linked))
                        })
                }
                _ => None,
            };
            regions.push(Region { start, end, file });
        }
        Ok(Maps { regions })
    }

    fn place(&self, address: u64) -> Place {
        let region = self
            .regions
            .iter()
            .find(|r| r.start <= address && address < r.end);
        match region.and_then(|r| r.file.as_ref()) {
            Some((name, bias)) => Place {
                module: Some(name.clone()),
                address: address.wrapping_sub(*bias),
            },
            None => Place {
                module: None,
                address,
            },
        }
    }
}

fn hex(text: &str) -> Result<u64> {
    Ok(u64::from_str_radix(text, 16)?)
}

struct Segment {
    offset: u64,
    address: u64,
    size: u64,
}

/// The loadable segments of an ELF file, the executable one first: mappings overlap in a page.
fn read_segments(path: &Path) -> Result<Vec<Segment>> {
    let bytes = fs::read(path)?;
    let word = |at: usize| -> Result<u64> {
        let word = bytes.get(at..at + 8).context("a short file")?;
        Ok(u64::from_le_bytes(word.try_into()?))
    };
    let half = |at: usize| -> Result<usize> {
        let half = bytes.get(at..at + 2).context("a short file")?;
        Ok(usize::from(u16::from_le_bytes(half.try_into()?)))
    };
    ensure!(bytes.starts_with(b"\x7fELF"), "no ELF file");
    let (table, each, count) = (usize::try_from(word(32)?)?, half(54)?, half(56)?);
    let mut found = Vec::new();
    for number in 0..count {
        let at = table + number * each;
        let (kind, flags) = (word(at)? as u32, word(at)? >> 32);
        if kind == 1 {
            let segment = Segment {
                offset: word(at + 8)?,
                address: word(at + 16)?,
                size: word(at + 32)?,
            };
            if flags & 1 == 1 {
                found.insert(0, segment);
            } else {
                found.push(segment);
            }
        }
    }
    Ok(found)
}
