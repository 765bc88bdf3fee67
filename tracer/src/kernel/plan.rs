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
    /// A function's return.
    Kretprobe,
}

impl Attach {
    /// The backend as users name it.
    #[must_use]
    pub const fn backend(self) -> &'static str {
        match self {
            Attach::Tracepoint | Attach::RawTracepoint => "tracepoint",
            Attach::Fentry | Attach::Fexit { .. } => "fentry",
            Attach::Kprobe | Attach::Kretprobe => "kprobe",
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

const TCP_STATE: &[Choice] = &[Choice {
    probes: &[tp("tcp_state", "inet_sock_set_state")],
    adds: "",
}];

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
        choices: &[Choice {
            probes: &[tp("tcp_destroy", "tcp_destroy_sock")],
            adds: "",
        }],
        without: Some("the end of TCP sockets is inferred from descriptor scans"),
    },
    Event {
        name: "send",
        choices: &[Choice {
            probes: &[tp("sent", "sock_send_length")],
            adds: "",
        }],
        without: Some(
            "no activity, request counts and URLs; UNIX sockets are found by descriptor scans only",
        ),
    },
    Event {
        name: "receive",
        choices: &[Choice {
            probes: &[tp("received", "sock_recv_length")],
            adds: "",
        }],
        without: Some("no receive activity; requests of servers are not counted"),
    },
    Event {
        name: "process_fork",
        choices: &[Choice {
            probes: &[tp("process_fork", "sched_process_fork")],
            adds: "",
        }],
        without: Some("children of target processes join the target only at the next sweep"),
    },
    Event {
        name: "process_exec",
        choices: &[Choice {
            probes: &[tp("process_exec", "sched_process_exec")],
            adds: "",
        }],
        without: Some("a process that replaces its program may be shown with stale stacks"),
    },
    Event {
        name: "process_exit",
        choices: &[Choice {
            probes: &[tp("process_exit", "sched_process_exit")],
            adds: "",
        }],
        without: Some("ended processes leave the target only at the next sweep"),
    },
];
