//! System calls that a daemon never makes: refused to it, and to the readers that it starts.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// What changes the machine, other processes, or what this process may do.
const NEVER: &[i64] = &[
    // other processes: they are only read, by /proc
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // file systems and namespaces
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // the kernel and the machine
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // ways around a filter, or much used to attack the kernel
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_personality,
    libc::SYS_execveat,
];

#[cfg(target_arch = "x86_64")]
const NEVER_OLD: &[i64] = &[
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_OLD: &[i64] = &[];

/// The bit of numbers of the x32 interface, which has the same calls
/// (arch/x86/include/uapi/asm/unistd.h).
const X32: i64 = 0x4000_0000;

/// Sockets that the daemon and its libraries make; all others are refused.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Refuses these calls with `EPERM` from here on, in every thread of this process and in what it
/// starts. Without new privileges only (`no_new_privs`).
///
/// # Errors
/// When the kernel has no filters of system calls, or refuses this one; nothing is refused then.
pub fn refuse() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter_all_threads(&program()?)
}

fn program() -> Result<BpfProgram, seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in NEVER.iter().chain(NEVER_OLD) {
        refused.insert(call, Vec::new());
    }
    let other = FAMILIES.map(|family| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    });
    let other = other.into_iter().collect::<Result<Vec<_>, _>>()?;
    refused.insert(libc::SYS_socket, vec![SeccompRule::new(other)?]);
    if cfg!(target_arch = "x86_64") {
        let again = refused.clone().into_iter();
        refused.extend(again.map(|(call, rules)| (call | X32, rules)));
    }
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, eperm, architecture)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::{io, process::Command, thread};

    use rustix::{
        net::{AddressFamily, SocketType, socket},
        thread::set_no_new_privs,
    };

    use super::program;

    fn errno(call: i64) -> Option<i32> {
        // SAFETY: null and zero are arguments that these calls refuse, or that change nothing.
        let result = unsafe { libc::syscall(call, 0, 0, 0, 0, 0) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error())?
    }

    #[test]
    fn what_is_never_called_is_refused_and_the_rest_is_not() {
        let filtered = || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            for call in [libc::SYS_ptrace, libc::SYS_keyctl, libc::SYS_unshare] {
                assert_eq!(errno(call), Some(libc::EPERM), "{call}");
            }
            assert!(socket(AddressFamily::VSOCK, SocketType::STREAM, None).is_err());
            for family in [AddressFamily::UNIX, AddressFamily::INET] {
                socket(family, SocketType::STREAM, None).unwrap();
            }
            assert_eq!(errno(libc::SYS_getpid), None);
            // what it starts runs, with the same filter
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("Seccomp:\t2"), "{status}");
            let child = Command::new("cat").arg("/proc/self/status").output();
            let child = String::from_utf8(child.unwrap().stdout).unwrap();
            assert!(child.contains("Seccomp:\t2"), "{child}");
            thread::spawn(|| assert_eq!(errno(libc::SYS_ptrace), Some(libc::EPERM)))
                .join()
                .unwrap();
        };
        // a filter stays for the life of its thread
        thread::spawn(filtered).join().unwrap();
    }
}
