//! Interpreters, JIT compilers and gdb's opinion.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use tracer_ebpf::{
    COPY_BYTES_MAX, RUNTIME_FRAMES_MAX, RUNTIME_NONE, RuntimeFrame, RuntimePlan, StackCopy,
};

use super::{
    Limits, Program, Result, Stacks, capture, capture_all, capture_thread, compile, functions,
    until_asleep,
};
use crate::{
    model::{Frame, StackQuality},
    runtimes::Runtimes,
    unwind::{trie::Learned, walk::Stop},
};

/// Sleeps in `connect`'s neighbourhood: the main thread in `recv` below several Python calls, one
/// of them through a C function (`sorted` calls back).
const PYTHON_SOURCE: &str = "import socket, sys
a, b = socket.socketpair()

def wait(x):
    print('ready', flush=True)
    return a.recv(
        1)

def outer(n):
    if n:
        return outer(n - 1)
    return sorted([1], key=wait)

class Job:
    def run(self):
        # the caller
        return outer(2)

Job().run()
";

/// Interpreters of several versions, where they are installed, and those that `cargo xtask setup
/// --tests` unpacks from other releases of Debian, each with the libraries of its release.
fn pythons() -> Vec<Command> {
    let mut found: Vec<PathBuf> = vec!["/usr/bin/python3".into()];
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let unpacked = (8..=14).filter_map(|minor| {
        let root = cache.join(format!("tracer/packages/python3.{minor}"));
        let python = root.join(format!("usr/bin/python3.{minor}"));
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let loader = [&libraries, &root.join("lib/x86_64-linux-gnu")]
            .map(|dir| dir.join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|loader| loader.exists())?;
        python.exists().then(|| {
            let mut command = Command::new(loader);
            command
                .arg("--library-path")
                .arg(format!(
                    "{}:{}",
                    libraries.display(),
                    root.join("lib/x86_64-linux-gnu").display()
                ))
                .arg(python)
                .env("PYTHONHOME", root.join("usr"));
            command
        })
    });
    if let Ok(versions) = std::fs::read_dir(home.join(".pyenv/versions")) {
        found.extend(versions.flatten().flat_map(|v| {
            (8..=13).map(move |minor| v.path().join(format!("bin/python3.{minor}")))
        }));
    }
    found.retain(|path| path.exists());
    found
        .into_iter()
        .map(Command::new)
        .chain(unpacked)
        .collect()
}

/// What the kernel side does with a plan.
fn follow(pid: u32, plan: &RuntimePlan, fs_base: u64) -> Result<Vec<RuntimeFrame>> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let word = |address: u64, distance: i32, len: u32| -> Result<u64> {
        let mut bytes = [0; 8];
        let at = address.wrapping_add_signed(i64::from(distance));
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes[..len as usize], at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    assert_eq!(plan.base, 0);
    let mut frame = fs_base;
    for distance in plan.way {
        if distance != RUNTIME_NONE {
            frame = word(frame, distance, 8)?;
        }
    }
    let mut found = Vec::new();
    while frame != 0 && found.len() < RUNTIME_FRAMES_MAX {
        found.push(RuntimeFrame {
            code: word(frame, plan.code, 8)?,
            instruction: word(frame, plan.instruction, plan.instruction_bytes)?,
            extra: match plan.extra {
                RUNTIME_NONE => 0,
                distance => word(frame, distance, 1)?,
            },
        });
        frame = word(frame, plan.previous, 8)?;
    }
    Ok(found)
}

#[test]
fn python_frames_are_shown_inside_the_interpreters() -> Result {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("job.py");
    std::fs::write(&script, PYTHON_SOURCE)?;
    for mut command in pythons() {
        let child = Program::start(command.arg(&script))?;
        let (copy, stack, fs_base) = capture_all(child.pid(), COPY_BYTES_MAX)?;
        let python = format!("{command:?}");
        let mut stacks = Stacks::new(Limits::default());
        let mut runtimes = Runtimes::default();
        let taken = stacks.take(&mut runtimes, &copy, &stack, &[]);
        assert!(
            taken.learned.entries.is_empty(),
            "{python}: native frames alone say nothing"
        );
        let site = stacks.site(taken.id);
        let place = |f: &Frame| (f.function.clone(), f.line.unwrap_or(0));
        let script_frames: Vec<_> = site
            .frames
            .iter()
            .filter(|f| f.file.as_deref() == script.to_str())
            .map(place)
            .collect();
        let qualified = script_frames.iter().any(|(f, _)| f == "Job.run");
        let expected = [
            ("wait", 6),
            ("outer", 12),
            ("outer", 11),
            ("outer", 11),
            (if qualified { "Job.run" } else { "run" }, 17),
            ("<module>", 19),
        ];
        assert_eq!(
            script_frames,
            expected.map(|(f, l)| (f.to_owned(), l)),
            "{python}: {:#?}",
            site.frames
        );
        let blamed = site.blamed().ok_or("no call site")?;
        assert_eq!(place(blamed), ("wait".to_owned(), 6), "{python}");
        assert_eq!(site.line_in_function, Some(2), "{python}");
        assert_eq!(stacks.stop(taken.id), Some(Stop::Complete), "{python}");
        // What the kernel side would collect gives the same stack, and can be learned.
        let plan = runtimes.plan(child.pid(), stacks.modules());
        let plan = plan.ok_or("no plan")?;
        let found = follow(child.pid(), &plan, fs_base)?;
        let with = stacks.take(&mut runtimes, &copy, &stack, &found);
        assert_eq!(with.id, taken.id, "{python}");
        let native = stacks.records[&taken.id]
            .frames
            .iter()
            .filter(|f| matches!(f, crate::symbols::naming::Kept::Native(_)))
            .count();
        assert_eq!(with.learned.entries.len(), native + found.len(), "{python}");
        assert_eq!(
            with.learned
                .entries
                .last()
                .map(|(key, value)| (key.address, value.node)),
            found.last().map(|f| (f.key(), taken.id))
        );
        // A thread that has gone on since a first copy shows no Python frames rather than others.
        let gone = StackCopy { tid: 1, ..copy };
        let first = stacks.take_first(&mut runtimes, &gone, &stack);
        let late = stacks.site(first.id);
        assert!(!late.frames.is_empty() && late.blamed().is_none());
        assert_eq!(late.quality, StackQuality::Truncated, "{python}");
        assert_eq!(first.learned, Learned::default(), "{python}");
        let again = stacks.take_first(&mut runtimes, &copy, &stack);
        assert_eq!(again.id, taken.id, "{python}");
        // `sorted` lies between the two calls of the interpreter.
        let names = functions(&site.frames);
        let (inner, outer) = (
            names.iter().position(|f| *f == "wait"),
            names.iter().position(|f| *f == "outer"),
        );
        let (Some(inner), Some(outer)) = (inner, outer) else {
            return Err("frames".into());
        };
        // Where the compiler has put the interpreter's main part elsewhere, that has no name.
        let interprets = |name: &&str| name.contains("_PyEval_EvalFrameDefault");
        assert!(
            outer > inner + 3 || names[inner..outer].iter().any(interprets),
            "{python}: {names:?}"
        );
    }
    Ok(())
}

/// Program counters of the main thread's frames as gdb sees them, apart from those that are not on
/// the stack: inlined ones, and callers that gdb infers where a call was a jump.
fn gdb_frames(pid: u32) -> Result<Vec<u64>> {
    let script = "
f = gdb.newest_frame()
while f is not None:
    if f.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
        print('PC', hex(f.pc()))
    f = f.older()
";
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("frames.py");
    std::fs::write(&file, script)?;
    let pid = pid.to_string();
    let output = Command::new("gdb")
        .args([
            "-nx",
            "-batch",
            "-p",
            &pid,
            "-ex",
            "set backtrace past-main on",
        ])
        .args(["-ex", "set backtrace past-entry off", "-x"])
        .arg(&file)
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let frames: Vec<u64> = text
        .lines()
        .filter_map(|l| u64::from_str_radix(l.strip_prefix("PC 0x")?, 16).ok())
        .collect();
    if frames.is_empty() {
        Err(format!("gdb said: {text}").into())
    } else {
        Ok(frames)
    }
}

/// A JavaScript program that sleeps below several calls.
const NODE_SOURCE: &str = "
const fs = require('fs');
function wait() { fs.writeSync(1, 'ready\\n'); fs.readSync(0, Buffer.alloc(1)); }
function outer(n) { return n > 0 ? outer(n - 1) : wait(); }
outer(3);
";

/// The same in Java.
const JAVA_SOURCE: &str = "
public class Wait {
    static void outer(int n) throws Exception {
        if (n > 0) { outer(n - 1); return; }
        System.out.println(\"ready\");
        System.in.read();
    }
    public static void main(String[] a) throws Exception { outer(3); }
}
";

fn native(stacks: &Stacks, id: crate::session::stacks::StackId) -> Vec<u64> {
    let frames = stacks.records.get(&id).map(|r| r.frames.clone());
    let address = |f: &crate::symbols::naming::Kept| match f {
        crate::symbols::naming::Kept::Native(raw) => Some(raw.address),
        crate::symbols::naming::Kept::Interpreted(_) => None,
    };
    frames
        .map(|f| f.iter().filter_map(address).collect())
        .unwrap_or_default()
}

#[test]
#[ignore = "needs gdb; run with --ignored"]
fn native_frames_equal_gdbs() -> Result {
    let dir = tempfile::tempdir()?;
    let shapes = compile(dir.path(), &["-O2", "-g", "-fomit-frame-pointer"])?;
    let script = dir.path().join("job.py");
    std::fs::write(&script, PYTHON_SOURCE)?;
    let mut signal = Command::new(&shapes);
    signal.arg("signal");
    let mut python = Command::new("/usr/bin/python3");
    python.arg(&script);
    for command in &mut [Command::new(&shapes), signal, python] {
        let child = Program::start(command)?;
        let expected = gdb_frames(child.pid())?;
        until_asleep(child.pid())?;
        let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
        let mut stacks = Stacks::new(Limits::default());
        let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
        assert_eq!(
            native(&stacks, id),
            expected,
            "{command:?}: {:?}",
            stacks.stop(id)
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs node; run with --ignored"]
fn node_frames_are_named() -> Result {
    name_node_frames(&[])?;
    // code that enters the interpreter for one function, and a perf map beside it
    name_node_frames(&["--perf-basic-prof", "--interpreted-frames-native-stack"])
}

fn name_node_frames(flags: &[&str]) -> Result {
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("job.js");
    std::fs::write(&script, NODE_SOURCE)?;
    let mut node = Command::new("/usr/bin/node");
    // It writes a log where it is started.
    node.current_dir(dir.path());
    node.args(flags).arg(&script);
    let child = Program::start(&mut node)?;
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    let site = stacks.site(id);
    let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", child.pid()));
    assert_eq!(stacks.stop(id), Some(Stop::Complete));
    let blamed = site.blamed().ok_or("no call site")?;
    assert_eq!(
        (
            blamed.function.as_str(),
            blamed.file.as_deref(),
            blamed.line
        ),
        ("wait", script.to_str(), Some(3))
    );
    assert_eq!(
        functions(&site.frames)
            .iter()
            .filter(|f| **f == "outer")
            .count(),
        4
    );
    Ok(())
}

#[test]
#[ignore = "needs a JDK; run with --ignored"]
fn java_frames_are_named_by_its_own_metadata() -> Result {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("Wait.java");
    std::fs::write(&source, JAVA_SOURCE)?;
    let status = Command::new("javac")
        .arg("-d")
        .arg(dir.path())
        .arg(&source)
        .status()?;
    assert!(status.success());
    let child = Program::start(
        Command::new("/usr/bin/java")
            .args(["-Xcomp", "-XX:TieredStopAtLevel=1"])
            .arg("-cp")
            .arg(dir.path())
            .arg("Wait"),
    )?;
    let main = std::fs::read_dir(format!("/proc/{}/task", child.pid()))?
        .flatten()
        .find(|t| {
            std::fs::read_to_string(t.path().join("comm"))
                .is_ok_and(|c| c.trim() == "java" && t.file_name() != *child.pid().to_string())
        })
        .ok_or("no main thread")?;
    let tid: u32 = main.file_name().to_str().ok_or("tid")?.parse()?;
    let (copy, stack, _) = capture_thread(child.pid(), tid, COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    let site = stacks.site(id);
    let names = functions(&site.frames);
    assert_eq!(stacks.stop(id), Some(Stop::Complete), "{names:#?}");
    assert_eq!(
        site.blamed().map(|f| f.function.as_str()),
        Some("Wait.outer"),
        "{names:#?}"
    );
    Ok(())
}
