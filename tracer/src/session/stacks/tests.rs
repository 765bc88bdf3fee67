//! Real stacks of real processes, compiled or started here, stopped and read with ptrace.

mod runtimes;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use tracer_ebpf::{COPY_BYTES_MAX, StackCopy, TRIE_END};

use super::{Limits, Stacks};
use crate::model::{Frame, StackQuality};
use crate::{elf::Image, runtimes::Runtimes, symbols::symbolize::Names, unwind::walk::Stop};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A child that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts a program and waits for its first line of output.
    fn start(command: &mut Command) -> Result<Program> {
        let mut child = Program(
            command
                .stdout(Stdio::piped())
                .stdin(Stdio::piped())
                .spawn()?,
        );
        let mut line = String::new();
        BufReader::new(child.0.stdout.as_mut().ok_or("stdout")?).read_line(&mut line)?;
        until_asleep(child.pid())?;
        Ok(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// Waits until the main thread sleeps in a system call.
fn until_asleep(pid: u32) -> Result {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        match stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
        {
            Some('S') => return Ok(()),
            Some('Z' | 'X') => return Err("the program has ended".into()),
            _ => std::thread::yield_now(),
        }
    }
}

/// What the kernel side would hand over: registers and stack bytes of the main thread.
fn capture(pid: u32, bytes: usize) -> Result<(StackCopy, Vec<u8>)> {
    capture_all(pid, bytes).map(|(copy, stack, _)| (copy, stack))
}

/// The same with the thread's `fsbase`.
fn capture_all(pid: u32, bytes: usize) -> Result<(StackCopy, Vec<u8>, u64)> {
    capture_thread(pid, pid, bytes)
}

/// The same of any thread.
fn capture_thread(pid: u32, tid: u32, bytes: usize) -> Result<(StackCopy, Vec<u8>, u64)> {
    let id = libc::pid_t::try_from(tid)?;
    // SAFETY: plain integers; the target is our own child.
    let attached = unsafe { libc::ptrace(libc::PTRACE_ATTACH, id, 0, 0) };
    if attached != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(id, &raw mut status, libc::__WALL) };
    // SAFETY: all-zero registers are valid values.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the target is stopped and `regs` is what PTRACE_GETREGS fills.
    unsafe { libc::ptrace(libc::PTRACE_GETREGS, id, 0, &raw mut regs) };
    let maps = crate::procs::maps::parse(&std::fs::read(format!("/proc/{pid}/maps"))?);
    let end = maps
        .iter()
        .find(|m| m.range.contains(&regs.rsp))
        .ok_or("no stack")?
        .range
        .end;
    let mut stack = vec![0; bytes.min(usize::try_from(end - regs.rsp)?)];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut stack, regs.rsp)?;
    // SAFETY: plain integers.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, id, 0, 0) };
    // The system call begins anew.
    until_asleep(tid)?;
    let copy = StackCopy {
        tgid: pid,
        tid,
        ticket: 1,
        len: u32::try_from(stack.len())?,
        ip: regs.rip,
        sp: regs.rsp,
        bp: regs.rbp,
        saved: [regs.rbx, regs.r12, regs.r13, regs.r14, regs.r15],
        ..StackCopy::default()
    };
    Ok((copy, stack, regs.fs_base))
}

/// Sleeps at the end of `depth` calls through frames of several shapes.
const C_SOURCE: &str = r#"
#include <alloca.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int sink;

__attribute__((noinline)) void leaf(void) {
    char c;
    puts("ready");
    fflush(stdout);
    sink = (int)read(0, &c, 1);
}
__attribute__((noinline)) void aligned(int n) {
    char buffer[128] __attribute__((aligned(64)));
    memset(buffer, n, sizeof buffer);
    leaf();
    sink += buffer[n & 127];
}
__attribute__((noinline)) void variable(int n) {
    char *buffer = alloca((size_t)n * 16);
    memset(buffer, n, (size_t)n * 16);
    aligned(n);
    sink += buffer[0];
}
__attribute__((noinline)) void big(int n) {
    char buffer[3000];
    memset(buffer, n, sizeof buffer);
    variable(n);
    sink += buffer[n];
}
__attribute__((noinline)) int fetch(int n) {
    if (n > 0) return fetch(n - 1) + 1;
    big(7);
    return sink;
}
static void handler(int number) { sink = fetch(number & 1); }
int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "signal") == 0) {
        signal(SIGUSR1, handler);
        raise(SIGUSR1);
        return sink;
    }
    return fetch(3);
}
"#;

fn compile(dir: &Path, flags: &[&str]) -> Result<PathBuf> {
    let (source, program) = (dir.join("shapes.c"), dir.join("shapes"));
    std::fs::write(&source, C_SOURCE)?;
    let status = Command::new("cc")
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()?;
    if !status.success() {
        return Err("cc failed".into());
    }
    Ok(program)
}

fn functions(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|f| f.function.as_str()).collect()
}

/// The functions of [`C_SOURCE`] on the way to the sleeping leaf, innermost first.
const SHAPES: [&str; 9] = [
    "leaf", "aligned", "variable", "big", "fetch", "fetch", "fetch", "fetch", "main",
];

fn own(frames: &[Frame]) -> Vec<&str> {
    functions(frames)
        .into_iter()
        .filter(|f| SHAPES.contains(f))
        .collect()
}

#[test]
fn c_without_frame_pointers_is_unwound_to_the_end_with_file_and_line() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &[
            "-O2",
            "-g",
            "-fomit-frame-pointer",
            "-fno-inline",
            "-fno-optimize-sibling-calls",
        ],
    )?;
    let child = Program::start(&mut Command::new(&program))?;
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let taken = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]);
    let site = stacks.site(taken.id);
    assert_eq!(
        stacks.stop(taken.id),
        Some(Stop::Complete),
        "{:#?}",
        site.frames
    );
    assert_eq!(own(&site.frames), SHAPES, "{:#?}", site.frames);
    assert_eq!(site.quality, StackQuality::Complete);
    let blamed = site.blamed().ok_or("no call site")?;
    assert_eq!(blamed.function, "leaf");
    assert!(
        blamed
            .file
            .as_deref()
            .is_some_and(|f| f.ends_with("/shapes.c")),
        "{blamed:?}"
    );
    let line = C_SOURCE
        .lines()
        .position(|l| l.contains("read(0"))
        .ok_or("line")?
        + 1;
    assert_eq!(blamed.line, Some(u32::try_from(line)?));
    assert_eq!(
        site.line_in_function,
        Some(4),
        "four lines below that of the function"
    );
    assert_eq!(functions(&site.frames).last(), Some(&"_start"));

    // The same stack again is the same number and teaches nothing new.
    let again = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]);
    assert_eq!((again.id, again.learned.entries.len()), (taken.id, 0));
    // What was learned leads over the very words of the stack to the number.
    let (mut address, mut slot, mut node) = (copy.ip, copy.sp, 0);
    for (key, value) in &taken.learned.entries {
        assert_eq!((key.address, key.node), (address, node));
        node = value.node;
        if value.delta != TRIE_END {
            slot += u64::from(value.delta);
            let at = usize::try_from(slot - copy.sp)?;
            address = u64::from_le_bytes(stack[at..at + 8].try_into()?);
        }
    }
    assert_eq!(node, taken.id);
    let native = stacks.records[&taken.id].frames.len();
    assert_eq!(taken.learned.entries.len(), native);
    assert_eq!(stacks.forget_process(child.pid()).keys.len(), native);
    assert!(stacks.is_empty());
    Ok(())
}

#[test]
fn a_deleted_and_replaced_binary_keeps_its_own_names() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &[
            "-O1",
            "-g",
            "-fomit-frame-pointer",
            "-fno-inline",
            "-fno-optimize-sibling-calls",
        ],
    )?;
    let child = Program::start(&mut Command::new(&program))?;
    std::fs::remove_file(&program)?;
    std::fs::copy("/bin/true", &program)?;
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    assert_eq!(own(&stacks.site(id).frames), SHAPES);
    Ok(())
}

#[test]
fn a_stripped_binary_has_places_of_functions_and_a_complete_stack() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &[
            "-O2",
            "-s",
            "-fomit-frame-pointer",
            "-fno-optimize-sibling-calls",
        ],
    )?;
    let child = Program::start(&mut Command::new(&program))?;
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    let site = stacks.site(id);
    assert_eq!(site.quality, StackQuality::Complete);
    let blamed = site.blamed().ok_or("no call site")?;
    assert!(blamed.function.starts_with("shapes+0x"), "{blamed:?}");
    assert!(
        functions(&site.frames).iter().any(|f| f.contains("read")),
        "dynamic symbols"
    );
    Ok(())
}

#[test]
fn damaged_debug_information_costs_lines_and_not_the_symbol_table() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(dir.path(), &["-O1", "-g", "-gz=none"])?;
    let whole = std::fs::read(&program)?;
    let sound = Image::open(std::fs::File::open(&program)?)?;
    let (leaf, _) = sound.symbols(&["leaf"])[0].ok_or("no leaf")?;
    let mut names = Names::default();
    for section in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str"] {
        let part = &sound.section(section).ok_or(section)?.bytes;
        let part = part.start as usize..part.end as usize;
        for step in [1, 3, 7, 31] {
            let mut damaged = whole.clone();
            for (turn, at) in part.clone().step_by(step).enumerate() {
                damaged[at] ^= 0xff - turn as u8;
            }
            let file = dir.path().join(format!("damaged{section}{step}"));
            std::fs::write(&file, damaged)?;
            let image = Arc::new(Image::open(std::fs::File::open(&file)?)?);
            let found = names.at(0, &image, leaf + 1).ok_or("no time")?;
            let outer = found.last().ok_or("no name")?;
            // Strings are names, too: what is written there is believed.
            if section != ".debug_str" {
                assert_eq!(outer.function, "leaf", "{section} {step}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_process_that_is_gone_is_named_from_what_was_pinned() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &["-O2", "-g", "-fno-inline", "-fno-optimize-sibling-calls"],
    )?;
    let child = Program::start(&mut Command::new(&program))?;
    let mut stacks = Stacks::new(Limits::default());
    stacks.pin(child.pid());
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    drop(child);
    drop(dir);
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    assert_eq!(own(&stacks.site(id).frames), SHAPES);
    Ok(())
}

#[test]
fn a_short_copy_says_how_much_it_wants_and_is_not_learned() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &["-O2", "-g", "-fno-inline", "-fno-optimize-sibling-calls"],
    )?;
    let child = Program::start(&mut Command::new(&program))?;
    let (copy, stack) = capture(child.pid(), 1024)?;
    let mut stacks = Stacks::new(Limits::default());
    let taken = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]);
    assert!(taken.learned.entries.is_empty());
    assert!(
        taken.want_bytes.is_some_and(|want| want > 3000),
        "{:?}",
        taken.want_bytes
    );
    assert_eq!(stacks.quality(taken.id), StackQuality::Truncated);
    assert_eq!(own(&stacks.site(taken.id).frames)[..3], SHAPES[..3]);
    Ok(())
}

#[test]
fn a_signal_handler_is_followed_into_the_code_it_interrupted() -> Result {
    let dir = tempfile::tempdir()?;
    let program = compile(
        dir.path(),
        &[
            "-O1",
            "-g",
            "-fomit-frame-pointer",
            "-fno-inline",
            "-fno-optimize-sibling-calls",
        ],
    )?;
    let child = Program::start(Command::new(&program).arg("signal"))?;
    let (copy, stack) = capture(child.pid(), COPY_BYTES_MAX)?;
    let mut stacks = Stacks::new(Limits::default());
    let id = stacks.take(&mut Runtimes::default(), &copy, &stack, &[]).id;
    let site = stacks.site(id);
    let names = functions(&site.frames);
    assert_eq!(stacks.stop(id), Some(Stop::Complete), "{names:?}");
    assert!(
        names.contains(&"handler") && names.contains(&"main"),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn the_facade_can_move_to_another_thread() {
    fn movable<T: Send>(_: &T) {}
    movable(&Stacks::new(Limits::default()));
}

#[test]
fn the_test_binary_itself_is_named_by_its_debug_information() -> Result {
    // Own stack, own registers: everything a copy has, taken from inside.
    #[inline(never)]
    fn here(stacks: &mut Stacks) -> Result<super::Taken> {
        let maps = crate::procs::maps::parse(&std::fs::read("/proc/self/maps")?);
        let (ip, sp, bp, bx, r12, r13, r14, r15): (u64, u64, u64, u64, u64, u64, u64, u64);
        // SAFETY: only reads registers.
        unsafe {
            std::arch::asm!(
                "lea {ip}, [rip]", "mov {sp}, rsp", "mov {bp}, rbp", "mov {bx}, rbx",
                ip = out(reg) ip, sp = out(reg) sp, bp = out(reg) bp, bx = out(reg) bx,
                options(nomem, nostack, preserves_flags)
            );
            std::arch::asm!(
                "mov {a}, r12", "mov {b}, r13", "mov {c}, r14", "mov {d}, r15",
                a = out(reg) r12, b = out(reg) r13, c = out(reg) r14, d = out(reg) r15,
                options(nomem, nostack, preserves_flags)
            );
        }
        let end = maps
            .iter()
            .find(|m| m.range.contains(&sp))
            .ok_or("no stack")?
            .range
            .end;
        let mut bytes = vec![0; usize::try_from(end - sp)?.min(COPY_BYTES_MAX)];
        std::os::unix::fs::FileExt::read_exact_at(
            &std::fs::File::open("/proc/self/mem")?,
            &mut bytes,
            sp,
        )?;
        let copy = StackCopy {
            tgid: std::process::id(),
            len: u32::try_from(bytes.len())?,
            ip,
            sp,
            bp,
            saved: [bx, r12, r13, r14, r15],
            ..StackCopy::default()
        };
        Ok(stacks.take(&mut Runtimes::default(), &copy, &bytes, &[]))
    }
    let mut stacks = Stacks::new(Limits::default());
    let taken = here(&mut stacks)?;
    let site = stacks.site(taken.id);
    let blamed = site.blamed().ok_or("no call site")?;
    assert!(blamed.function.ends_with("::here"), "{blamed:?}");
    assert!(
        blamed
            .file
            .as_deref()
            .is_some_and(|f| f.ends_with("session/stacks/tests.rs")),
        "{blamed:?}"
    );
    assert_eq!(
        stacks.stop(taken.id),
        Some(Stop::Complete),
        "{:#?}",
        functions(&site.frames)
    );
    Ok(())
}
