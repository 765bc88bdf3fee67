//! What a daemon says of itself, the same as long as it runs.

use crate::{procs, session::Target};

/// Processes that are named where many are watched.
const NAMED_MAX: usize = 5;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub(super) struct About {
    /// Name of the host.
    pub host: String,
    /// Who is watched.
    pub watched: String,
}

impl About {
    /// Of a daemon that watches `target` on this host.
    pub(super) fn of(target: &Target) -> About {
        About {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            watched: watched(target, |pid| Some(procs::read(pid)?.comm)),
        }
    }
}

fn watched(target: &Target, comm: impl Fn(u32) -> Option<String>) -> String {
    let pids = match target {
        Target::Host => return "every process".to_owned(),
        Target::Cgroup(path) => return format!("the processes below {}", path.display()),
        Target::Processes(pids) => pids,
    };
    let named = pids.iter().take(NAMED_MAX).map(|&pid| match comm(pid) {
        Some(comm) => format!("{comm} (pid {pid})"),
        None => format!("pid {pid}"),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    match (pids.len(), pids.len().saturating_sub(NAMED_MAX)) {
        (1, _) => format!("{named}, with what it starts"),
        (_, 0) => format!("{named}, with what they start"),
        (_, more) => format!("{named} and {more} more, with what they start"),
    }
}

#[cfg(test)]
mod tests {
    use super::watched;
    use crate::session::Target;

    #[test]
    fn a_target_is_told_as_a_phrase() {
        let of = |target| watched(&target, |pid| (pid > 1).then(|| "shop".to_owned()));
        assert_eq!(of(Target::Host), "every process");
        assert_eq!(
            of(Target::Cgroup("/sys/fs/cgroup/a".into())),
            "the processes below /sys/fs/cgroup/a"
        );
        assert_eq!(
            of(Target::Processes(vec![1, 7])),
            "pid 1, shop (pid 7), with what they start"
        );
        let one = of(Target::Processes(vec![7]));
        assert_eq!(one, "shop (pid 7), with what it starts");
        let many = of(Target::Processes((1..9).collect()));
        assert!(
            many.ends_with("shop (pid 5) and 3 more, with what they start"),
            "{many}"
        );
    }
}
