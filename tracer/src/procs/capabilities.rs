//! Which capabilities this process has, and what each is needed for.

use std::fs;

use super::parse;

/// `CAP_BPF` and `CAP_PERFMON` exist since this kernel; `CAP_SYS_ADMIN` stands for both.
const SPLIT_SINCE: (u32, u32) = (5, 8);
/// Maps are charged to the memory cgroup and no longer to `RLIMIT_MEMLOCK` since this kernel.
const NO_MEMLOCK_SINCE: (u32, u32) = (5, 11);
/// `CAP_CHECKPOINT_RESTORE` exists since this kernel.
const RESTORE_SINCE: (u32, u32) = (5, 9);

/// Bits of include/uapi/linux/capability.h.
const DAC_READ_SEARCH: u32 = 2;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
const CHECKPOINT_RESTORE: u32 = 40;
/// Those that can be asked for by name.
const NUMBERS: &[(&str, u32)] = &[
    ("CAP_DAC_READ_SEARCH", DAC_READ_SEARCH),
    ("CAP_SYS_PTRACE", SYS_PTRACE),
    ("CAP_SYS_ADMIN", SYS_ADMIN),
    ("CAP_SYS_RESOURCE", SYS_RESOURCE),
    ("CAP_PERFMON", PERFMON),
    ("CAP_BPF", BPF),
    ("CAP_CHECKPOINT_RESTORE", CHECKPOINT_RESTORE),
];
/// Those for which `CAP_SYS_ADMIN` stands as well.
const ADMINISTRATIVE: u64 = 1 << PERFMON | 1 << BPF | 1 << CHECKPOINT_RESTORE;

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Such as `CAP_BPF`.
    pub name: String,
    /// Effective now.
    pub held: bool,
    /// What does not work without it.
    pub needed_for: String,
}

/// The capabilities of this process that matter to the tracer, on a kernel of this version.
#[must_use]
pub fn capabilities(kernel: (u32, u32)) -> Vec<Capability> {
    table(effective(), kernel)
}

fn effective() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    parse::effective_capabilities(&status).unwrap_or_default()
}

/// Of these capabilities, those that this thread has not and nothing stands for.
#[must_use]
pub fn lacking(names: &[&'static str]) -> Vec<&'static str> {
    lacked(effective(), names)
}

fn lacked(held: u64, names: &[&'static str]) -> Vec<&'static str> {
    let implied = match held & (1 << SYS_ADMIN) {
        0 => 0,
        _ => ADMINISTRATIVE,
    };
    let has = |bit: u32| (held | implied) & (1 << bit) != 0;
    let asked = |name: &&str| {
        NUMBERS
            .iter()
            .any(|(known, bit)| known == name && !has(*bit))
    };
    names.iter().copied().filter(asked).collect()
}

/// Whether the maps of a kernel of this version count against the limit of locked memory.
#[must_use]
pub fn counts_locked_memory(kernel: (u32, u32)) -> bool {
    kernel < NO_MEMLOCK_SINCE
}

/// Names of the capabilities without which no probe can be attached.
#[must_use]
pub fn missing(kernel: (u32, u32)) -> Vec<String> {
    let needed: &[&str] = if kernel < SPLIT_SINCE {
        &["CAP_SYS_ADMIN"]
    } else {
        &["CAP_BPF", "CAP_PERFMON"]
    };
    capabilities(kernel)
        .into_iter()
        .filter(|capability| !capability.held && needed.contains(&capability.name.as_str()))
        .map(|capability| capability.name)
        .collect()
}

fn table(held: u64, kernel: (u32, u32)) -> Vec<Capability> {
    let has = |bit: u32| held & (1 << bit) != 0;
    let row = |name: &str, held: bool, needed_for: &str| Capability {
        name: name.to_owned(),
        held,
        needed_for: needed_for.to_owned(),
    };
    let mut rows = Vec::new();
    if kernel < SPLIT_SINCE {
        rows.push(row(
            "CAP_SYS_ADMIN",
            has(SYS_ADMIN),
            "loading and attaching every probe (kernels before 5.8 know no smaller one)",
        ));
    } else {
        rows.push(row(
            "CAP_BPF",
            has(BPF) || has(SYS_ADMIN),
            "loading every probe",
        ));
        rows.push(row(
            "CAP_PERFMON",
            has(PERFMON) || has(SYS_ADMIN),
            "attaching every probe, reading kernel memory and user stacks",
        ));
    }
    rows.push(row(
        "CAP_SYS_PTRACE",
        has(SYS_PTRACE),
        "the executables, descriptors and memory maps of other users' processes: without it \
         stacks and holders are unknown",
    ));
    rows.push(row(
        "CAP_DAC_READ_SEARCH",
        has(DAC_READ_SEARCH),
        "reading executables, debug information and memory that only their owner may read",
    ));
    if kernel >= RESTORE_SINCE {
        rows.push(row(
            "CAP_CHECKPOINT_RESTORE",
            has(CHECKPOINT_RESTORE) || has(SYS_ADMIN),
            "code from files that were deleted or replaced while they were in use",
        ));
    }
    if counts_locked_memory(kernel) {
        rows.push(row(
            "CAP_SYS_RESOURCE",
            has(SYS_RESOURCE),
            "raising the limit of locked memory for the kernel maps",
        ));
    }
    rows
}

/// Major and minor version in a kernel release such as `6.18.5-hardened`.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bits: u64, kernel: (u32, u32)) -> Vec<(String, bool)> {
        let rows = table(bits, kernel).into_iter();
        rows.map(|row| (row.name, row.held)).collect()
    }

    #[test]
    fn small_capabilities_suffice_since_they_exist() {
        let rows = held(1 << BPF | 1 << PERFMON, (6, 18));
        assert!(rows.contains(&("CAP_BPF".to_owned(), true)), "{rows:?}");
        assert!(rows.contains(&("CAP_PERFMON".to_owned(), true)));
        assert!(rows.contains(&("CAP_SYS_PTRACE".to_owned(), false)));
        assert!(rows.iter().all(|(name, _)| name != "CAP_SYS_RESOURCE"));
        let rows = held(1 << SYS_ADMIN, (6, 18));
        assert!(rows.contains(&("CAP_BPF".to_owned(), true)));
    }

    #[test]
    fn old_kernels_need_the_large_one() {
        let rows = held(1 << BPF, (5, 4));
        assert_eq!(rows[0], ("CAP_SYS_ADMIN".to_owned(), false));
        assert!(rows.iter().any(|(name, _)| name == "CAP_SYS_RESOURCE"));
    }

    #[test]
    fn what_is_lacking_is_named() {
        let asked = ["CAP_SYS_PTRACE", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"];
        assert_eq!(lacked(0, &asked), asked);
        assert_eq!(lacked(1 << SYS_ADMIN, &asked), ["CAP_SYS_PTRACE"]);
        let all = 1 << SYS_PTRACE | 1 << BPF | 1 << CHECKPOINT_RESTORE;
        assert!(lacked(all, &asked).is_empty());
    }

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(kernel_version("6.18.5-hardened"), Some((6, 18)));
        assert_eq!(kernel_version("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(kernel_version("7.2-rc1"), Some((7, 2)));
        assert_eq!(kernel_version("linux"), None);
        assert_eq!(kernel_version(""), None);
    }
}
