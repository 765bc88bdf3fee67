//! What the machine and this process's privileges allow, read once: who serves requests later may
//! have given its privileges up by then.

use std::{fs, path::Path};

use rustix::system::uname;

use crate::{
    procs::capabilities::{capabilities, kernel_version},
    report::{Capability, Doctor, SCHEMA},
};

/// Kernel type information of the running kernel.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Lockdown state; missing where securityfs is not mounted, or the kernel was built without.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Kernel, type information, lockdown and capabilities, as one process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    kernel: String,
    architecture: String,
    btf: String,
    lockdown: Option<String>,
    capabilities: Vec<Capability>,
    /// Why capabilities do not count, where they don't.
    user_namespace: Option<String>,
}

impl Surroundings {
    /// Reads them; `btf` is the file given in place of the kernel's own type information.
    #[must_use]
    pub fn read(btf: Option<&Path>) -> Surroundings {
        let system = uname();
        let kernel = system.release().to_string_lossy().into_owned();
        let lockdown = fs::read_to_string(LOCKDOWN).ok();
        Surroundings {
            architecture: system.machine().to_string_lossy().into_owned(),
            btf: describe_btf(btf.unwrap_or(Path::new(BTF))),
            lockdown: lockdown.and_then(|text| chosen(&text)),
            capabilities: capabilities(kernel_version(&kernel).unwrap_or((0, 0)))
                .into_iter()
                .map(|known| Capability {
                    name: known.name,
                    held: known.held,
                    needed_for: known.needed_for,
                })
                .collect(),
            user_namespace: user_namespace(),
            kernel,
        }
    }

    /// What `tracer doctor` says where nothing is attached.
    #[must_use]
    pub fn doctor(&self) -> Doctor {
        Doctor {
            schema: SCHEMA,
            node: None,
            kernel: self.kernel.clone(),
            architecture: self.architecture.clone(),
            btf: self.btf.clone(),
            lockdown: self.lockdown.clone(),
            capabilities: self.capabilities.clone(),
            events: Vec::new(),
            degraded: self.user_namespace.iter().cloned().collect(),
            accounting: Default::default(),
            usable: false,
        }
    }
}

fn describe_btf(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(meta) => format!("{} ({} bytes)", path.display(), meta.len()),
        Err(error) => format!(
            "none: {}: {error}; the kernel needs CONFIG_DEBUG_INFO_BTF, or give a file with --btf",
            path.display()
        ),
    }
}

/// The word in brackets, as in `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

/// Capabilities of a user namespace are not those of the host.
fn user_namespace() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let all: Vec<&str> = map.split_ascii_whitespace().collect();
    (all != ["0", "0", "4294967295"]).then(|| {
        "this process runs in a user namespace, whose capabilities do not count for eBPF: run it \
         as the host's root, or in a privileged container"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_probes_the_facts_remain() {
        let doctor = Surroundings::read(None).doctor();
        assert!(!doctor.usable);
        assert!(!doctor.kernel.is_empty() && !doctor.architecture.is_empty());
        assert!(!doctor.capabilities.is_empty());
        let missing = Surroundings::read(Some(Path::new("/no/btf"))).doctor();
        assert!(missing.btf.starts_with("none: /no/btf"), "{}", missing.btf);
    }

    #[test]
    fn the_lockdown_in_force_is_the_one_in_brackets() {
        assert_eq!(
            chosen("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(chosen("none"), None);
    }
}
