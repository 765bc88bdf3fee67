//! Which hooks observe which event, best first; what is attached is the first choice that this
//! kernel takes. Everything refused on the way is remembered for `tracer doctor`.

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// `tp_btf`: a tracepoint with typed arguments (5.5).
    Tracepoint,
    /// A tracepoint without type information (4.17).
    RawTracepoint,
    /// A function's entry through a trampoline (5.5).
    Fentry,
    /// A function's return through a trampoline; loads only for this number of arguments.
    Fexit {
        /// Arguments of the function that the program was written for.
        arguments: usize,
    },
    /// A function's entry through a breakpoint or ftrace.
    Kprobe,
    /// The same, only where the function has this number of arguments.
    KprobeOf {
        /// Arguments of the function that the program was written for.
        arguments: usize,
    },
    /// A function's return.
    Kretprobe,
    /// A raw tracepoint that every system call of the host passes.
    Syscalls,
}

/// Tracepoints that slow down every system call of the host: never without being asked for.
pub const SYSCALLS: &str = "syscalls";
/// Entry and return of kernel functions.
pub const FENTRY: &str = "fentry";
/// The same where the kernel has no type information or no trampolines.
pub const KPROBE: &str = "kprobe";
/// What `--backend` takes.
pub const BACKENDS: [&str; 5] = [TRACEPOINT, RAW_TRACEPOINT, FENTRY, KPROBE, SYSCALLS];
/// Nothing observes an event.
pub const NONE: &str = "none";
const TRACEPOINT: &str = "tracepoint";
const RAW_TRACEPOINT: &str = "raw_tracepoint";

impl Attach {
    /// The backend as users name it.
    #[must_use]
    pub const fn backend(self) -> &'static str {
        match self {
            Attach::Tracepoint => TRACEPOINT,
            Attach::RawTracepoint => RAW_TRACEPOINT,
            Attach::Fentry | Attach::Fexit { .. } => FENTRY,
            Attach::Kprobe | Attach::KprobeOf { .. } | Attach::Kretprobe => KPROBE,
            Attach::Syscalls => SYSCALLS,
        }
    }
}

/// One program on one hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Name of the program in the object.
    pub program: &'static str,
    /// Tracepoint or kernel function.
    pub hook: &'static str,
    /// How.
    pub attach: Attach,
}

/// One way to observe an event: all of its probes, or it is not a way.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The probes.
    pub probes: &'static [Probe],
    /// What this way sees that the ways after it do not.
    pub adds: &'static str,
}

impl Choice {
    /// The backend of its probes.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.probes.first().map_or(NONE, |p| p.attach.backend())
    }

    /// What it would have added, where the kernel refuses it.
    #[must_use]
    pub fn would_add(&self) -> String {
        match self.adds {
            "" => "nothing that the other ways don't tell".to_owned(),
            adds => adds.to_owned(),
        }
    }
}

/// One event of a connection's life.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Name, as in `coverage.hooks`.
    pub name: &'static str,
    /// The ways, best first.
    pub choices: &'static [Choice],
    /// What remains when none works; `None`: without this event nothing can be traced.
    pub without: Option<&'static str>,
}

const fn tp(program: &'static str, hook: &'static str) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::Tracepoint,
    }
}

const fn raw(program: &'static str, hook: &'static str) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::RawTracepoint,
    }
}

const fn syscalls(program: &'static str) -> Probe {
    Probe {
        program,
        hook: "sys_exit",
        attach: Attach::Syscalls,
    }
}

const fn fexit(program: &'static str, hook: &'static str, arguments: usize) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::Fexit { arguments },
    }
}

const fn fentry(program: &'static str, hook: &'static str) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::Fentry,
    }
}

const fn kprobe(program: &'static str, hook: &'static str) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::Kprobe,
    }
}

const fn kprobe_of(program: &'static str, hook: &'static str, arguments: usize) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::KprobeOf { arguments },
    }
}

const fn kretprobe(program: &'static str, hook: &'static str) -> Probe {
    Probe {
        program,
        hook,
        attach: Attach::Kretprobe,
    }
}

const fn only(probes: &'static [Probe]) -> Choice {
    Choice { probes, adds: "" }
}

const OWNER_AT_ONCE: &str = "the owner and the stack of an accepted socket at once, not at its \
                             first transfer or the next descriptor scan";
const UNIX_OPEN_AT_ONCE: &str =
    "UNIX connections that are accepted and never used, with the stack that accepted them";
const TRANSFERS: &str = "activity, request counts and URLs";
const UNIX_END_AT_ONCE: &str = "the end of UNIX sockets at once, not at the next descriptor scan";

/// The accepting process.
const TCP_OWNER: &[Choice] = &[
    Choice {
        probes: &[fexit("tcp_accepted2", "inet_csk_accept", 2)],
        adds: OWNER_AT_ONCE,
    },
    Choice {
        probes: &[fexit("tcp_accepted4", "inet_csk_accept", 4)],
        adds: OWNER_AT_ONCE,
    },
    Choice {
        probes: &[kretprobe("k_tcp_accepted", "inet_csk_accept")],
        adds: OWNER_AT_ONCE,
    },
    Choice {
        probes: &[syscalls("syscall_opened")],
        adds: OWNER_AT_ONCE,
    },
];

const UNIX_OPEN: &[Choice] = &[
    Choice {
        probes: &[
            fexit("unix_connected", "unix_stream_connect", 4),
            fexit("unix_accepted3", "unix_accept", 3),
        ],
        adds: UNIX_OPEN_AT_ONCE,
    },
    Choice {
        probes: &[
            fexit("unix_connected", "unix_stream_connect", 4),
            fexit("unix_accepted4", "unix_accept", 4),
        ],
        adds: UNIX_OPEN_AT_ONCE,
    },
    Choice {
        probes: &[
            kprobe("k_unix_connect", "unix_stream_connect"),
            kretprobe("k_unix_connected", "unix_stream_connect"),
            kprobe("k_unix_accept", "unix_accept"),
            kretprobe("k_unix_accepted", "unix_accept"),
        ],
        adds: UNIX_OPEN_AT_ONCE,
    },
    only(&[tp("unix_queued", "sk_data_ready")]),
    only(&[raw("raw_unix_queued", "sk_data_ready")]),
    Choice {
        probes: &[syscalls("syscall_opened")],
        adds: UNIX_OPEN_AT_ONCE,
    },
];

const UNIX_END: &[Choice] = &[
    Choice {
        probes: &[fentry("unix_closed", "unix_release")],
        adds: UNIX_END_AT_ONCE,
    },
    Choice {
        probes: &[kprobe("k_unix_closed", "unix_release")],
        adds: UNIX_END_AT_ONCE,
    },
];

const SEND: &[Choice] = &[
    only(&[tp("sent", "sock_send_length")]),
    only(&[raw("raw_sent", "sock_send_length")]),
    only(&[
        fexit("tcp_sent", "tcp_sendmsg", 3),
        fexit("unix_sent", "unix_stream_sendmsg", 3),
    ]),
    only(&[
        kprobe("k_tcp_send", "tcp_sendmsg"),
        kretprobe("k_sent", "tcp_sendmsg"),
        kprobe("k_unix_send", "unix_stream_sendmsg"),
        kretprobe("k_sent", "unix_stream_sendmsg"),
    ]),
    BY_SYSCALLS,
];

const BY_SYSCALLS: Choice = Choice {
    probes: &[syscalls("syscall_transferred")],
    adds: TRANSFERS,
};

const UNIX_RECEIVED: Probe = fexit("unix_received", "unix_stream_recvmsg", 4);

const RECEIVE: &[Choice] = &[
    only(&[tp("received", "sock_recv_length")]),
    only(&[raw("raw_received", "sock_recv_length")]),
    only(&[fexit("tcp_received4", "tcp_recvmsg", 4), UNIX_RECEIVED]),
    only(&[fexit("tcp_received5", "tcp_recvmsg", 5), UNIX_RECEIVED]),
    only(&[fexit("tcp_received6", "tcp_recvmsg", 6), UNIX_RECEIVED]),
    only(&[
        kprobe_of("k_tcp_receive6", "tcp_recvmsg", 6),
        kprobe("k_tcp_received", "tcp_cleanup_rbuf"),
        kprobe("k_unix_receive", "unix_stream_recvmsg"),
        kprobe("k_unix_received", "unix_stream_read_actor"),
    ]),
    only(&[
        kprobe("k_tcp_receive", "tcp_recvmsg"),
        kprobe("k_tcp_received", "tcp_cleanup_rbuf"),
        kprobe("k_unix_receive", "unix_stream_recvmsg"),
        kprobe("k_unix_received", "unix_stream_read_actor"),
    ]),
    BY_SYSCALLS,
];

const TCP_STATE: &[Choice] = &[
    only(&[tp("tcp_state", "inet_sock_set_state")]),
    only(&[raw("raw_tcp_state", "inet_sock_set_state")]),
];

/// Every event, in the order of a connection's life.
pub const EVENTS: &[Event] = &[
    Event {
        name: "tcp_open",
        choices: TCP_STATE,
        without: None,
    },
    Event {
        name: "tcp_result",
        choices: TCP_STATE,
        without: None,
    },
    Event {
        name: "tcp_accept",
        choices: TCP_STATE,
        without: None,
    },
    Event {
        name: "tcp_close",
        choices: TCP_STATE,
        without: None,
    },
    Event {
        name: "tcp_peer_close",
        choices: TCP_STATE,
        without: None,
    },
    Event {
        name: "tcp_end",
        choices: &[
            only(&[tp("tcp_destroy", "tcp_destroy_sock")]),
            only(&[raw("raw_tcp_destroy", "tcp_destroy_sock")]),
        ],
        without: Some("the end of TCP sockets is inferred from descriptor scans"),
    },
    Event {
        name: "send",
        choices: SEND,
        without: Some(
            "no activity, request counts and URLs; UNIX sockets are found by descriptor scans only",
        ),
    },
    Event {
        name: "receive",
        choices: RECEIVE,
        without: Some("no receive activity; requests of servers are not counted"),
    },
    Event {
        name: "tcp_accept_owner",
        choices: TCP_OWNER,
        without: Some(
            "which process accepted a socket is known at its first transfer or the next \
             descriptor scan",
        ),
    },
    Event {
        name: "unix_open",
        choices: UNIX_OPEN,
        without: Some(
            "UNIX connections come into view at their first transfer or the next descriptor scan",
        ),
    },
    Event {
        name: "unix_end",
        choices: UNIX_END,
        without: Some("the end of UNIX sockets is inferred from descriptor scans"),
    },
    Event {
        name: "process_fork",
        choices: &[
            only(&[tp("process_fork", "sched_process_fork")]),
            only(&[raw("raw_process_fork", "sched_process_fork")]),
        ],
        without: Some("children of target processes join the target only at the next sweep"),
    },
    Event {
        name: "process_exec",
        choices: &[
            only(&[tp("process_exec", "sched_process_exec")]),
            only(&[raw("raw_process_exec", "sched_process_exec")]),
        ],
        without: Some("a process that replaces its program may be shown with stale stacks"),
    },
    Event {
        name: "process_exit",
        choices: &[
            only(&[tp("process_exit", "sched_process_exit")]),
            only(&[raw("raw_process_exit", "sched_process_exit")]),
        ],
        without: Some("ended processes leave the target only at the next sweep"),
    },
];

/// What no way of observing an event shows, on any kernel.
#[must_use]
pub fn unseen(event: &str) -> Option<&'static str> {
    match event {
        // the route is looked up before the socket's state changes, net/ipv4/tcp_ipv4.c
        "tcp_result" => {
            Some("connects that fail before a packet is sent (ENETUNREACH, EHOSTUNREACH, EACCES)")
        }
        "unix_open" => Some("connects that fail (ECONNREFUSED, ENOENT, EAGAIN)"),
        _ => None,
    }
}

impl Event {
    /// The ways to try. Forcing a backend leaves its own ways; an event that has none of these
    /// keeps its tracepoints, so that what the backend is not about still works, unless it is
    /// tracepoints of one sort that were asked for.
    pub fn ways(&self, forced: Option<&str>) -> impl Iterator<Item = &'static Choice> + use<> {
        let choices = self.choices;
        let kept = match forced {
            None => None,
            Some(TRACEPOINT | RAW_TRACEPOINT) => forced,
            Some(name) if choices.iter().any(|c| c.backend() == name) => forced,
            Some(_) => Some(TRACEPOINT),
        }
        .map(str::to_owned);
        choices
            .iter()
            .filter(move |choice| kept.as_deref().is_none_or(|name| name == choice.backend()))
    }
}

#[cfg(test)]
mod tests {
    use super::{BACKENDS, EVENTS};

    #[test]
    fn a_forced_backend_is_used_alone_where_there_is_a_choice() {
        for event in EVENTS {
            assert_eq!(event.ways(None).count(), event.choices.len());
            for backend in BACKENDS {
                let used: Vec<_> = event
                    .ways(Some(backend))
                    .map(super::Choice::backend)
                    .collect();
                if event.choices.iter().any(|c| c.backend() == backend) {
                    assert!(
                        used.iter().all(|b| *b == backend),
                        "{}: {used:?}",
                        event.name
                    );
                } else {
                    assert!(
                        used.iter().all(|b| *b == "tracepoint"),
                        "{}: {used:?}",
                        event.name
                    );
                }
            }
        }
    }

    #[test]
    fn tracepoints_alone_see_every_tcp_state() {
        for event in EVENTS.iter().filter(|event| event.without.is_none()) {
            for backend in ["tracepoint", "raw_tracepoint"] {
                assert_eq!(event.ways(Some(backend)).count(), 1, "{}", event.name);
            }
        }
    }
}
