//! What stacks cost in user space, and how much memory they keep: one line for each value, read by
//! `cargo xtask bench stacks`.
//!
//! The stacks are those of programs compiled here, 50 with 20 call sites each, which stop at every
//! one; registers and stack are then read as the kernel side would copy them.

mod values;

use std::{
    collections::HashSet,
    fs,
    hint::black_box,
    io,
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapData, RingBuf};
use tracer::testing::{Frame, Limits, Probes, Runtimes, Setup, Stacks, maps};
use tracer_ebpf::{COPY_BYTES_MIN, Config, FILTER_PROCESS, StackCopy};

use values::{anonymous_bytes, line};

const PROGRAMS: usize = 50;
const SITES: usize = 20;
/// Unwinds of one warm measurement.
const WARM: u32 = 2_000;
/// Rounds of copies of one size.
const ROUNDS: usize = 51;

fn main() -> Result<()> {
    // for a profile of the copies alone
    if std::env::args().any(|a| a == "kernel") {
        return kernel();
    }
    // `cargo test` runs this, too: a few programs, to see that it works.
    let programs = if std::env::args().any(|a| a == "--bench") {
        PROGRAMS
    } else {
        2
    };
    let directory = tempfile::tempdir()?;
    let mut copies = Vec::new();
    let mut children = Vec::new();
    for number in 0..programs {
        let program = compile(directory.path(), number)?;
        children.push(stops(&program, &mut copies)?);
    }
    ensure!(copies.len() == programs * SITES, "a call site was missed");

    let before = anonymous_bytes()?;
    let mut stacks = Stacks::new(Limits::default());
    let mut runtimes = Runtimes::default();
    let began = Instant::now();
    let ids: Vec<_> = copies
        .iter()
        .map(|(copy, bytes)| stacks.take(&mut runtimes, copy, bytes, &[]).id)
        .collect();
    line(
        "unwind, first of a program and call site",
        "µs",
        per(began, copies.len()),
    );
    let frames: usize = ids.iter().map(|id| stacks.site(*id).frames.len()).sum();
    line("frames of a stack", "", frames as f64 / ids.len() as f64);
    let memory = anonymous_bytes()?.saturating_sub(before);
    line(
        "all caches after these call sites",
        "MiB",
        memory as f64 / f64::from(1 << 20),
    );

    let (copy, bytes) = copies.first().context("no copy")?;
    // the maps are read anew for each copy: what is cached does not hide that they changed
    let began = Instant::now();
    for _ in 0..WARM {
        black_box(stacks.take(&mut runtimes, black_box(copy), black_box(bytes), &[]));
    }
    line(
        "take a copy, warm, with /proc/PID/maps",
        "µs",
        per(began, WARM as usize),
    );
    let began = Instant::now();
    for _ in 0..WARM {
        black_box(stacks.unwind_again(black_box(copy), black_box(bytes)));
    }
    line("unwind, warm", "µs", per(began, WARM as usize));

    let mut fresh = Stacks::new(Limits::default());
    let id = fresh.take(&mut runtimes, copy, bytes, &[]).id;
    let began = Instant::now();
    let mut known = addresses(&fresh.site(id).frames);
    line(
        "name the first stack of a program and of the C library",
        "ms",
        per(began, 1) / 1e3,
    );
    // other addresses of files whose debug information is known
    let (mut spent, mut named) = (0.0, 0);
    for (copy, bytes) in copies.iter().skip(1).filter(|(c, _)| c.tgid == copy.tgid) {
        let id = fresh.take(&mut runtimes, copy, bytes, &[]).id;
        let began = Instant::now();
        let frames = addresses(&fresh.site(id).frames);
        spent += per(began, 1);
        named += frames.difference(&known).count();
        known.extend(frames);
    }
    line(
        "symbolize an address, cold",
        "µs",
        spent / named.max(1) as f64,
    );
    // the same addresses under another number: names are known, the site is not
    let began = Instant::now();
    let mut named = 0;
    for _ in 0..100 {
        named += fresh.name_again(id);
    }
    line("symbolize an address, warm", "µs", per(began, named));
    drop(children);
    kernel()
}

/// What a copy costs in the kernel, by size, where this process may load programs.
fn kernel() -> Result<()> {
    // SAFETY: geteuid takes nothing and always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    let mut probes = Probes::load(Setup {
        config: Config {
            filter: FILTER_PROCESS,
            own_tgid: std::process::id(),
            ..Config::default()
        },
        max_sockets: 1_024,
        btf: None,
        backend: None,
        without: &[],
        trace_syscalls: false,
        pin: None,
    })?;
    let mut ring = probes.stack_copies()?;
    // so that there is as much stack as is copied
    let room = [0u8; 128 << 10];
    black_box(&room);
    for kib in [16u64, 32, 64] {
        // half of a ring buffer's worth, since each copy has a head, too
        let times = u32::try_from(1_024 / kib)?;
        let copies = rounds(&mut probes, &mut ring, kib << 10, times)?;
        let nothing = rounds(&mut probes, &mut ring, 0, times)?;
        line(
            &format!("copy in the kernel, {kib} KiB"),
            "ns",
            copies - nothing,
        );
        if kib << 10 == COPY_BYTES_MIN as u64 {
            // The ring buffer is empty each time, so that its reader is woken.
            let lone = rounds(&mut probes, &mut ring, kib << 10, 1)?
                - rounds(&mut probes, &mut ring, 0, 1)?;
            line("a lone copy, 16 KiB, with the wake-up", "ns", lone);
        }
    }
    Ok(())
}

/// Nanoseconds for one of `times` copies in a row (of no bytes: for not copying), which are then
/// removed: the median of many such rounds, of which the first ones warm the caches.
fn rounds(probes: &mut Probes, ring: &mut RingBuf<MapData>, bytes: u64, times: u32) -> Result<f64> {
    let mut spent = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let copied = probes.copy_stack(bytes, times)?;
        spent.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(times));
        let expected = if bytes == 0 { 0 } else { u64::from(times) };
        ensure!(copied == expected, "{copied} of {expected} copies taken");
        while ring.next().is_some() {}
    }
    spent.sort_by(f64::total_cmp);
    spent.get(ROUNDS / 2).copied().context("no rounds")
}

fn addresses(frames: &[Frame]) -> HashSet<u64> {
    frames.iter().filter_map(|frame| frame.address).collect()
}

fn per(began: Instant, count: usize) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64
}

/// A program without frame pointers whose functions differ from those of the others.
fn compile(directory: &Path, number: usize) -> Result<std::path::PathBuf> {
    use std::fmt::Write as _;
    let mut source = String::from("#include <signal.h>\nvolatile int sink;\n");
    for site in 0..SITES {
        write!(
            source,
            "__attribute__((noinline)) void stop_{number}_{site}(int n) {{\n\
             char room[{}]; room[n] = n; raise(SIGSTOP); sink += room[n]; }}\n\
             __attribute__((noinline)) void call_{number}_{site}(int n) {{\n\
             if (n > 0) call_{number}_{site}(n - 1); else stop_{number}_{site}({site});\n\
             sink++; }}\n",
            64 + 16 * (site + number)
        )?;
    }
    source.push_str("int main(void) {\n");
    for site in 0..SITES {
        writeln!(source, "call_{number}_{site}(8);")?;
    }
    source.push_str("return 0; }\n");
    let (file, program) = (
        directory.join(format!("p{number}.c")),
        directory.join(format!("p{number}")),
    );
    fs::write(&file, source)?;
    let status = Command::new("cc")
        .args([
            "-O1",
            "-g",
            "-fomit-frame-pointer",
            "-fno-optimize-sibling-calls",
            "-o",
        ])
        .arg(&program)
        .arg(&file)
        .status()?;
    ensure!(status.success(), "cc failed");
    Ok(program)
}

/// A child that is ended with the benchmark.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program from stop to stop and copies its stack at each; it is left at the last.
fn stops(program: &Path, copies: &mut Vec<(StackCopy, Vec<u8>)>) -> Result<Stopped> {
    let mut command = Command::new(program);
    // SAFETY: ptrace takes plain numbers here and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Ok(())
        });
    }
    let child = Stopped(command.spawn()?);
    let pid = libc::pid_t::try_from(child.0.id())?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    // the first stop is that of the exec
    wait(pid)?;
    for _ in 0..SITES {
        // SAFETY: plain numbers; the child is stopped and ours.
        unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, 0) };
        wait(pid)?;
        // SAFETY: all-zero registers are valid values.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: `regs` is what PTRACE_GETREGS fills.
        unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut regs) };
        let mapped = maps::parse(&fs::read(format!("/proc/{pid}/maps"))?);
        let stack = mapped
            .iter()
            .find(|m| m.range.contains(&regs.rsp))
            .context("no stack")?;
        let len = usize::try_from(stack.range.end - regs.rsp)?.min(COPY_BYTES_MIN);
        let mut bytes = vec![0; len];
        memory.read_exact_at(&mut bytes, regs.rsp)?;
        let copy = StackCopy {
            tgid: child.0.id(),
            tid: child.0.id(),
            len: u32::try_from(len)?,
            ip: regs.rip,
            sp: regs.rsp,
            bp: regs.rbp,
            saved: [regs.rbx, regs.r12, regs.r13, regs.r14, regs.r15],
            ..StackCopy::default()
        };
        copies.push((copy, bytes));
    }
    Ok(child)
}

fn wait(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(
        waited == pid && libc::WIFSTOPPED(status),
        "{}",
        io::Error::last_os_error()
    );
    Ok(())
}
