//! What can be told before anything is attached: missing privileges, missing kernel type
//! information, a kernel that is too old.

use std::{fs::File, path::Path};

use rustix::system::uname;

use super::{Failure, STATUS_UNSUPPORTED, args::AttachArgs};
use crate::{
    procs::capabilities::{kernel_version, missing},
    session::BTF,
};

/// Oldest kernel that is tested.
const OLDEST: (u32, u32) = (5, 10);

/// Checks what can be checked cheaply.
///
/// # Errors
/// [`Failure`] with status 3 naming what is missing, or 2 for a `--btf` file that is not there.
pub fn check(args: &AttachArgs) -> Result<(), Failure> {
    let release = uname().release().to_string_lossy().into_owned();
    let kernel = kernel_version(&release).unwrap_or(OLDEST);
    old_kernel(&release, kernel)?;
    privileges(&missing(kernel))?;
    match &args.btf {
        Some(path) => File::open(path).map(drop).map_err(|e| {
            Failure::usage(format!("--btf: {} cannot be opened: {e}", path.display()))
        }),
        None => type_information(Path::new(BTF)),
    }
}

fn unsupported(message: String) -> Failure {
    let mut failure = Failure::failed(message);
    failure.status = STATUS_UNSUPPORTED;
    failure
}

fn old_kernel(release: &str, kernel: (u32, u32)) -> Result<(), Failure> {
    if kernel >= OLDEST {
        return Ok(());
    }
    Err(unsupported(format!(
        "Linux {release} is too old: {}.{} or newer is needed",
        OLDEST.0, OLDEST.1
    )))
}

fn privileges(missing: &[String]) -> Result<(), Failure> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" and ");
    Err(unsupported(format!(
        "no probe can be attached: this process lacks {names}. Run it as root, or in a container \
         with these capabilities added (and CAP_SYS_PTRACE for the stacks of other users' \
         processes); `tracer doctor` shows what each is for"
    )))
}

fn type_information(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    Err(unsupported(format!(
        "no probe can be attached: the kernel's type information (BTF) is missing at {}. Boot a \
         kernel built with CONFIG_DEBUG_INFO_BTF, make /sys visible here, or give a BTF file of \
         this very kernel with --btf",
        path.display()
    )))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let failure = privileges(&["CAP_BPF".to_owned(), "CAP_PERFMON".to_owned()]).unwrap_err();
        assert_eq!(failure.status, 3);
        let text = failure.to_string();
        assert!(text.contains("CAP_BPF and CAP_PERFMON"), "{text}");
        assert!(text.contains("tracer doctor"), "{text}");
        assert!(privileges(&[]).is_ok());
    }

    #[test]
    fn a_kernel_without_btf_is_told_what_to_do() {
        let failure = type_information(Path::new("/no/btf")).unwrap_err();
        assert_eq!(failure.status, 3);
        let text = failure.to_string();
        assert!(text.contains("/no/btf") && text.contains("--btf"), "{text}");
    }

    #[test]
    fn an_old_kernel_is_refused_by_version() {
        let failure = old_kernel("4.19.0-27-amd64", (4, 19)).unwrap_err();
        assert_eq!(failure.status, 3);
        assert!(failure.to_string().contains("4.19.0-27-amd64"), "{failure}");
        assert!(old_kernel("5.10.0", (5, 10)).is_ok());
    }
}
