//! What a reader gives up before it reads the first byte of a stranger's.
//!
//! Afterwards it can compute, use the memory that its limits allow, and answer. It can't open, send
//! to, signal or start anything. Where the library that it uses opens a file by name, the name can
//! only be `/proc/self/fd/N`, and means that descriptor: the kernel refuses the call by a signal,
//! whose handler duplicates the descriptor instead.

use std::{collections::BTreeMap, io, os::raw::c_int};

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Memory that it may use of its own. What unpacks to more is refused before it is asked.
const DATA_BYTES: u64 = 448 << 20;
/// Addresses that it may use, files mapped included.
const ADDRESS_BYTES: u64 = 32 << 30;
/// Processor seconds in all.
pub(super) const CPU_SECONDS: u64 = 60;
/// Descriptors.
const DESCRIPTORS: u64 = 256;
/// Who owns nothing (`include/linux/highuid.h`: what users without a mapping are shown as).
const NOBODY: u32 = 65_534;

/// Gives everything up.
///
/// # Errors
/// When the limits or the filter can't be set: then nothing must be read.
pub(super) fn enter() -> io::Result<()> {
    let limit = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    limit(Resource::As, ADDRESS_BYTES)?;
    limit(Resource::Data, DATA_BYTES)?;
    limit(Resource::Cpu, CPU_SECONDS)?;
    limit(Resource::Nofile, DESCRIPTORS)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // Where memory is short, this process goes first, and is missed for a moment only.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // SAFETY: closes descriptors from 3 on that nothing in this program refers to: it has opened
    // none that it holds, and the standard three stay.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    set_no_new_privs(true)?;
    drop_privileges()?;
    // SAFETY: takes no pointer. Other processes of the same user must not read or trace this one.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    handle_opens()?;
    filter().map_err(|error| io::Error::other(error.to_string()))
}

fn drop_privileges() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    // Refused without CAP_SETUID, or where a user namespace has no such user.
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let _ = set_thread_groups(&[]);
    let _ = set_thread_res_gid(group, group, group);
    let _ = set_thread_res_uid(user, user, user);
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

/// The calls that reach [`on_refused`]; what they ask for has a descriptor already.
const BY_NAME: [i64; 2] = [libc::SYS_openat, libc::SYS_newfstatat];
#[cfg(target_arch = "x86_64")]
const BY_NAME_OLD: &[i64] = &[libc::SYS_open, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const BY_NAME_OLD: &[i64] = &[];

/// What parsing needs: memory, reading, the time, and an end.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

fn filter() -> Result<(), seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let is = |argument: u8, operation: SeccompCmpOp, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
    };
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    allowed.insert(libc::SYS_poll, Vec::new());
    for call in BY_NAME.iter().chain(BY_NAME_OLD) {
        allowed.insert(*call, Vec::new());
    }
    // Memory, but none that can be executed.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not = is(2, SeccompCmpOp::MaskedEq(executable), 0)?;
        allowed.insert(call, vec![SeccompRule::new(vec![not])?]);
    }
    let duplicate = is(1, SeccompCmpOp::Eq, libc::F_DUPFD_CLOEXEC as u64)?;
    allowed.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![duplicate])?]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let allowed = SeccompFilter::new(allowed, refused, SeccompAction::Allow, architecture)?;

    let by_name = BY_NAME.iter().chain(BY_NAME_OLD);
    let by_name = by_name.map(|call| (*call, Vec::new())).collect();
    let (other, signal) = (SeccompAction::Allow, SeccompAction::Trap);
    let by_name = SeccompFilter::new(by_name, other, signal, architecture)?;

    // The stricter answer of all filters counts, and a signal is stricter than an error. The second
    // one to be installed is let through by the first.
    let by_name: BpfProgram = by_name.try_into()?;
    let allowed: BpfProgram = allowed.try_into()?;
    seccompiler::apply_filter(&by_name)?;
    seccompiler::apply_filter(&allowed)
}

fn handle_opens() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_refused as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and only does what is allowed
    // in a signal handler.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Number and arguments of the call that was refused, and the place of its result.
#[cfg(target_arch = "x86_64")]
fn registers(context: &mut libc::ucontext_t) -> (i64, [u64; 4], &mut i64) {
    let all = &mut context.uc_mcontext.gregs;
    let of = |register: c_int| all[register as usize];
    let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10].map(of);
    let call = of(libc::REG_RAX);
    (
        call,
        arguments.map(|a| a as u64),
        &mut all[libc::REG_RAX as usize],
    )
}

/// The same where arguments are in x0 to x5 and the call's number in x8.
#[cfg(target_arch = "aarch64")]
fn registers(context: &mut libc::ucontext_t) -> (i64, [u64; 4], &mut u64) {
    let all = &mut context.uc_mcontext.regs;
    let arguments = [all[0], all[1], all[2], all[3]];
    (all[8] as i64, arguments, &mut all[0])
}

/// Does for descriptors what the call would have done for the name `/proc/self/fd/N`.
extern "C" fn on_refused(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a ucontext_t that is its own until it
    // returns.
    let Some(context) = (unsafe { context.cast::<libc::ucontext_t>().as_mut() }) else {
        return;
    };
    let (call, arguments, result) = registers(context);
    let old = BY_NAME_OLD.contains(&call);
    let stat = call == libc::SYS_newfstatat || (old && call != BY_NAME_OLD[0]);
    let [first, second, third, _] = arguments;
    let (path, buffer) = if old {
        (first, second)
    } else {
        (second, third)
    };
    let done = match descriptor(path) {
        Some(Name::Descriptor(fd)) if stat => fstat(fd, buffer),
        // `fstat` as the C library calls it.
        Some(Name::Empty) if call == libc::SYS_newfstatat => fstat(first as c_int, buffer),
        Some(Name::Descriptor(fd)) => {
            // SAFETY: takes no pointer.
            unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 0) }
        }
        // There is nothing else: neither split debug information beside the file nor any other.
        _ => {
            *result = -i64::from(libc::ENOENT) as _;
            return;
        }
    };
    // SAFETY: points to the errno of this thread.
    let error = i64::from(unsafe { *libc::__errno_location() });
    *result = (if done < 0 { -error } else { done }) as _;
}

fn fstat(fd: c_int, buffer: u64) -> i64 {
    // SAFETY: the buffer is the one that the call which was refused would have filled in; the kernel
    // checks it. The two calls fill in the same structure (`struct stat`).
    unsafe { libc::syscall(libc::SYS_fstat, fd, buffer) }
}

enum Name {
    Empty,
    Descriptor(c_int),
}

/// What a name means, if it may be opened at all.
fn descriptor(path: u64) -> Option<Name> {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let byte = |at: usize| {
        // SAFETY: the name is the argument of a call of this process, thus ends with a zero byte;
        // nothing behind one is read, as reading goes on only after bytes that are not zero.
        unsafe { *(path as *const u8).add(at) }
    };
    if path == 0 {
        return None;
    }
    if byte(0) == 0 {
        return Some(Name::Empty);
    }
    for (at, wanted) in PREFIX.iter().enumerate() {
        if byte(at) != *wanted {
            return None;
        }
    }
    let mut number: c_int = 0;
    for at in PREFIX.len()..PREFIX.len() + 6 {
        match byte(at) {
            0 if at > PREFIX.len() => return Some(Name::Descriptor(number)),
            digit @ b'0'..=b'9' => number = number * 10 + c_int::from(digit - b'0'),
            _ => return None,
        }
    }
    None
}
