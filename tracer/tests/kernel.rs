//! The programs against the running kernel: what verifying them takes, and whether the functions
//! they sit on are still what their documentation says.
//!
//! Prints a line `verifier PROGRAM INSTRUCTIONS` for each program that loads.

use std::{
    arch::asm,
    collections::BTreeMap,
    ffi::{CStr, c_long},
    fs,
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use tracer::testing::{BACKENDS, Btf, ProbeError, Probes, Setup};
use tracer_ebpf::{Config, FILTER_PROCESS};
use tracer_tests::{host, runner};

tracer_tests::tests![
    programs_stay_far_from_the_verifiers_limit,
    prototypes_are_those_of_this_kernel,
];

fn main() -> ExitCode {
    runner::main(&[TESTS])
}

/// Instructions that the verifier processed for each program, by the first 15 letters of its name.
static PROCESSED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// A kernel gives up at a million (`BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h); another
/// version may take many times as many for the same program, and each costs time at every start.
const FAR: u64 = 250_000;

const BPF_PROG_LOAD: c_long = 5;
/// `BPF_LOG_STATS`
const STATS: u32 = 4;
// offsets in `union bpf_attr`, include/uapi/linux/bpf.h
const LOG_LEVEL: usize = 24;
const LOG_SIZE: usize = 28;
const LOG_BUF: usize = 32;
const NAME: usize = 48;

/// # Safety
/// As for the system call.
unsafe fn raw(number: c_long, arguments: [c_long; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the caller's promise; the kernel changes rax, rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// Stands before the C library's: the loader throws away what the verifier says of a program that
/// it accepts, and before 5.16 the kernel tells it nowhere else.
///
/// # Safety
/// As for the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let mut result = None;
    if number == libc::SYS_bpf && a == BPF_PROG_LOAD {
        // SAFETY: for this command the second argument points to as many bytes as the third says.
        result = unsafe { load_and_ask(b, c) };
    }
    // SAFETY: the caller's promise.
    let result = result.unwrap_or_else(|| unsafe { raw(number, [a, b, c, d, e, f]) });
    if (-4095..0).contains(&result) {
        // SAFETY: errno is a thread's own.
        unsafe { *libc::__errno_location() = i32::try_from(-result).unwrap_or(libc::EIO) };
        return -1;
    }
    result
}

/// Loads a program with the verifier's statistics asked for; `None` when that is no success.
///
/// # Safety
/// `attribute` points to `size` bytes.
unsafe fn load_and_ask(attribute: c_long, size: c_long) -> Option<c_long> {
    let size = usize::try_from(size).ok()?;
    // SAFETY: the caller's promise.
    let given = unsafe { std::slice::from_raw_parts(attribute as *const u8, size) };
    let mut own = given.to_vec();
    let mut log = vec![0_u8; 64 << 10];
    let log_size = u32::try_from(log.len()).ok()?;
    own.get_mut(LOG_LEVEL..LOG_SIZE)?
        .copy_from_slice(&STATS.to_ne_bytes());
    own.get_mut(LOG_SIZE..LOG_BUF)?
        .copy_from_slice(&log_size.to_ne_bytes());
    own.get_mut(LOG_BUF..LOG_BUF + 8)?
        .copy_from_slice(&(log.as_mut_ptr() as u64).to_ne_bytes());
    let arguments = [
        BPF_PROG_LOAD,
        own.as_ptr() as c_long,
        c_long::try_from(size).ok()?,
        0,
        0,
        0,
    ];
    // SAFETY: a valid attribute of the size given, with a live log buffer.
    let result = unsafe { raw(libc::SYS_bpf, arguments) };
    if result < 0 {
        return None;
    }
    let log = CStr::from_bytes_until_nul(&log).ok()?.to_str().ok()?;
    let processed = log
        .lines()
        .find_map(|line| line.strip_prefix("processed "))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let name = CStr::from_bytes_until_nul(own.get(NAME..NAME + 16)?).ok()?;
    // what the loader tries out the kernel with
    if name.is_empty() || name == c"aya_name_check" {
        return Some(result);
    }
    PROCESSED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name.to_string_lossy().into_owned(), processed);
    Some(result)
}

fn programs_stay_far_from_the_verifiers_limit() -> Result<()> {
    host::require_root()?;
    for backend in BACKENDS {
        let loaded = Probes::load(Setup {
            config: Config {
                filter: FILTER_PROCESS,
                own_tgid: std::process::id(),
                want_heads: 1,
                want_stacks: 2,
                ..Config::default()
            },
            max_sockets: 1024,
            trace_syscalls: backend == "syscalls",
            backend: Some(backend),
            ..Setup::default()
        });
        match loaded {
            Ok(mut probes) if backend == "tracepoint" => probes.load_waiting()?,
            Ok(_) => {}
            Err(ProbeError::Refused { .. }) if backend != "tracepoint" => {}
            Err(error) => return Err(error.into()),
        }
    }
    let processed = PROCESSED.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(processed.len() > 10, "hardly any program was loaded");
    for (program, instructions) in processed.iter() {
        println!("verifier {program} {instructions}");
    }
    for (program, instructions) in processed.iter() {
        ensure!(
            *instructions < FAR,
            "{program} takes {instructions} instructions of the verifier"
        );
    }
    Ok(())
}

/// A function that a documentation comment cites.
#[derive(Debug)]
struct Prototype {
    name: String,
    arguments: usize,
}

/// The prototypes in a source file, each in the comment before the program that sits there.
fn cited(source: &str) -> Vec<Prototype> {
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in source.lines() {
        match line.trim().strip_prefix("/// ") {
            Some(text) => {
                comment.push_str(text);
                comment.push(' ');
            }
            None => {
                found.extend(comment.split('`').skip(1).step_by(2).filter_map(prototype));
                comment.clear();
            }
        }
    }
    found
}

/// Reads `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`.
fn prototype(code: &str) -> Option<Prototype> {
    let (head, arguments) = code.strip_suffix(')')?.split_once('(')?;
    // one that cites only a part of the arguments says so
    if arguments.contains('…') {
        return None;
    }
    let name = head.rsplit([' ', '*']).next()?;
    Some(Prototype {
        name: name.to_owned(),
        arguments: arguments.split(',').count(),
    })
}

/// Of a function that changed, the variant of this kernel is cited in words; there the number of
/// arguments decides which program is loaded, so any of those cited will do.
fn prototypes_are_those_of_this_kernel() -> Result<()> {
    let probes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer-ebpf/src/probes");
    let mut sources = Vec::new();
    for file in fs::read_dir(&probes).with_context(|| format!("listing {}", probes.display()))? {
        let path = file?.path();
        if path.is_file() {
            sources.push(fs::read_to_string(&path)?);
        }
    }
    let Ok(blob) = fs::read("/sys/kernel/btf/vmlinux") else {
        bail!(runner::Skip("no /sys/kernel/btf/vmlinux here".to_owned()));
    };
    let btf = Btf::parse(blob).context("this kernel's type information is damaged")?;
    let mut compared = 0;
    for cited in sources.iter().flat_map(|source| cited(source)) {
        let name = cited.name.as_str();
        // a tracepoint's own argument is the program's data
        let given = match btf.arguments(name) {
            Some(number) => number,
            None => match btf.arguments(&format!("__traceiter_{name}")) {
                Some(number) => number - 1,
                None => continue,
            },
        };
        // programs exist for these numbers of arguments
        let known: &[usize] = match name {
            "inet_csk_accept" => &[2, 4],
            "unix_accept" => &[3, 4],
            "tcp_recvmsg" => &[4, 5, 6],
            "sched_process_exit" => &[1, 2],
            _ => &[cited.arguments],
        };
        ensure!(
            known.contains(&given),
            "{name} has {given} arguments here, {} are cited",
            cited.arguments
        );
        compared += 1;
    }
    ensure!(compared >= 8, "only {compared} prototypes were compared");
    println!("{compared} prototypes compared");
    Ok(())
}
