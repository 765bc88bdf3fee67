use super::{Case, Class, Fit, Kind, Mask, Rules, Spec};

const MASK: Mask = Mask::of(&[Class::Inherited]);

/// Another process than the opener holds the descriptor.
pub const SPEC: Spec = Spec {
    kind: Kind::InheritedFd,
    summary: "The opener closed it, or is gone; another process still holds the descriptor.",
    documentation: DOCUMENTATION,
    client: rule,
    server: rule,
    condition,
    advice: |_| {
        "Open sockets close-on-exec (SOCK_CLOEXEC), or close them in the child after fork; a \
         process that is handed a descriptor must close it when done."
    },
};

fn rule(rules: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    let all = rules.gather(MASK);
    rules.scanned(SPEC.kind, MASK).or_else(|| {
        (all.peer_gone * 2 > all.count)
            .then(|| rules.standing(SPEC.kind, MASK, &all))
            .flatten()
    })
}

fn condition(case: &Case<'_>) -> String {
    match case.state.tally.other_holder {
        Some(pid) => format!(
            "{} are held by another process than the one that opened them (pid {pid}) and have \
             been idle for up to {}.",
            case.of(),
            case.longest()
        ),
        None => format!(
            "{} are held by another process than the one that opened them.",
            case.of()
        ),
    }
}

const DOCUMENTATION: &str = r#"
A socket ends when its last descriptor is closed. A child inherits all descriptors that are not
close-on-exec, so a connection that its opener closes stays open in the child, as long as that lives.

**Healthy look-alikes.** A daemon that forks once and goes on in the child; a pre-forking server
whose workers use what the parent opened; a descriptor handed to a helper that works with it and
closes it. Those transfer data, or do not grow.

**Confidence.** Medium: five and more such connections, idle for three seconds and growing; or, where
nothing grows, ten seconds old with the peer gone.

**What to change.**

- C: `socket(…, SOCK_STREAM | SOCK_CLOEXEC, 0)`, `accept4(…, SOCK_CLOEXEC)`.
- Python: sockets are not inherited since 3.4, unless `set_inheritable(True)` or
  `subprocess.Popen(close_fds=False)` says so.
- Ruby: `spawn(…, close_others: true)`. PHP, Perl: close in the child right after the fork.
"#;
