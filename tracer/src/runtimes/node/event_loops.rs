//! Probes on the event loop of Node.js programs, so that a connection's stack is that of the
//! function that asked for it.

use crate::{
    kernel::probes::Probes,
    runtimes::{
        probed_files::{Needed, Probe, ProbeSet, ProbedFiles},
        view::InView,
    },
};

/// Executables that are looked into, by name.
const PROGRAMS: [&str; 2] = ["node", "nodejs"];
/// Files with libuv in them: the executable, or a library of its own.
const FILES: [&str; 3] = ["node", "libnode", "libuv"];
/// Programs, and the functions they sit on.
const PROBES: [Probe; 3] = [
    ("uv_handle_made", "uv_tcp_init"),
    ("uv_handle_made", "uv_tcp_init_ex"),
    ("uv_connecting", "uv_tcp_connect"),
];

/// The same for Node.js's way of trying the addresses of a host one after another, which other
/// programs with libuv don't have.
const RETRIES: [Probe; 2] = [
    (
        "uv_connected",
        "_ZN4node14ConnectionWrapINS_7TCPWrapE8uv_tcp_sE12AfterConnectEP12uv_connect_si",
    ),
    ("uv_closing", "uv_close"),
];
/// The same for pipes, which are UNIX sockets. Versions have one or both functions that connect.
const PIPES: [Probe; 3] = [
    ("uv_pipe_connecting", "uv_pipe_connect"),
    ("uv_pipe_connecting", "uv_pipe_connect2"),
    (
        "uv_pipe_connected",
        "_ZN4node14ConnectionWrapINS_8PipeWrapE9uv_pipe_sE12AfterConnectEP12uv_connect_si",
    ),
];

/// Where a request gets a connection that is open already.
const REUSES: [Probe; 1] = [(
    "node_reusing",
    "_ZN4node9AsyncWrap10AsyncResetERKN2v820FunctionCallbackInfoINS1_5ValueEEE",
)];

/// Where a stream of HTTP/2 is asked for, and where it is written.
const STREAMS: [Probe; 2] = [
    (
        "node_h2_submit",
        "_ZN4node5http212Http2Session13SubmitRequestERKNS0_13Http2PriorityERKNS_9NgHeadersINS0_\
         18Http2HeadersTraitsEEEPii",
    ),
    (
        "node_h2_write",
        "_ZN4node5http212Http2Session15SendPendingDataEv",
    ),
];

/// Where a URL is parsed.
const URLS: [Probe; 1] = [(
    "node_url_parsed",
    "_ZN3ada5parseINS_14url_aggregatorEEEN2tl8expectedIT_NS_6errorsEEESt17basic_string_viewIcSt11\
     char_traitsIcEEPKS4_",
)];

/// All of them.
const SETS: [ProbeSet; 6] = [
    (&PROBES, Needed::All),
    (&RETRIES, Needed::AllOrNone),
    (&PIPES, Needed::Any),
    (&REUSES, Needed::Any),
    (&STREAMS, Needed::AllOrNone),
    (&URLS, Needed::Any),
];

/// The event loops that are probed.
#[derive(Debug)]
pub struct EventLoops(ProbedFiles);

impl Default for EventLoops {
    fn default() -> EventLoops {
        let lost = "connections are charged to the event loop";
        EventLoops(ProbedFiles::new(&SETS, lost))
    }
}

impl EventLoops {
    /// Looks at a process that came into view.
    pub fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) {
        if is_node(process) {
            self.0.attach(process, probes, |file| {
                FILES.iter().any(|prefix| file.name().starts_with(prefix))
            });
        }
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.0.forget(pid);
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> {
        self.0.degraded()
    }
}

fn is_node(process: &InView<'_>) -> bool {
    process.executable().is_some_and(|exe| {
        let name = exe.rsplit('/').next().unwrap_or(&exe);
        PROGRAMS.contains(&name)
    })
}
