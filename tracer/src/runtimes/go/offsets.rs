//! Where members are in Go's structures, by Go version, and the functions that are probed.
//!
//! Taken from the DWARF of programs built with Go 1.21 to 1.27 for x86-64. A version that is not
//! in the table gets the newest layout; whether it fits is checked on every value that is read
//! through it (see [`super::state`]).

use tracer_ebpf::GoLayout;

/// Oldest minor version whose functions have a place for probes (`push %rbp`).
pub const OLDEST: u32 = 21;
/// Newest minor version whose layout was looked at.
pub const NEWEST: u32 = 27;

/// Members that user space reads from the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Members {
    /// `net/http.Transport.DisableKeepAlives`; `MaxIdleConns`, `MaxIdleConnsPerHost`,
    /// `MaxConnsPerHost` and `IdleConnTimeout` follow it, eight bytes each.
    pub transport_keep_alives: u64,
    /// `net/url.URL.RawQuery`
    pub url_query: u64,
    /// `runtime.g.atomicstatus`
    pub g_status: u64,
    /// `runtime.g.goid`
    pub g_goid: u64,
    /// `runtime.g.startpc`
    pub g_startpc: u64,
    /// `runtime.g.waitreason`
    pub g_wait_reason: u64,
    /// `internal/poll.FD.fdmu` within `net.netFD`
    pub fd_mutex: u64,
    /// `internal/poll.FD.Sysfd` within `net.netFD`
    pub fd_sysfd: u64,
    /// `net/http.persistConn.readLimit`
    pub conn_read_limit: u64,
    /// `net/http.persistConn.numExpectedResponses`
    pub conn_expected: u64,
    /// `net/http.persistConn.closed`
    pub conn_closed: u64,
    /// `net/http.Transport.MaxResponseHeaderBytes`
    pub transport_header_bytes: u64,
    /// `net/http.conn.curState`, of a server
    pub server_state: u64,
}

/// The members for a minor version (`None`: unknown).
#[must_use]
pub fn members(minor: Option<u32>) -> Members {
    let minor = minor.unwrap_or(NEWEST).clamp(OLDEST, NEWEST);
    // runtime.g grew in 1.23, shrank in 1.25 and got a member in its middle in 1.26.
    let (status, goid) = match minor {
        23 | 24 => (152, 160),
        _ => (144, 152),
    };
    let start = match minor {
        ..=22 | 25 => 296,
        _ => 304,
    };
    let keep_alives = if minor <= 22 { 176 } else { 232 };
    let expected = if minor <= 25 { 224 } else { 232 };
    Members {
        transport_keep_alives: keep_alives,
        url_query: if minor <= 25 { 96 } else { 88 },
        g_status: status,
        g_goid: goid,
        g_startpc: start,
        g_wait_reason: status + 32,
        fd_mutex: 0,
        fd_sysfd: u64::from(FD_SYSFD),
        conn_read_limit: expected - 64,
        conn_expected: expected,
        conn_closed: expected + 8,
        transport_header_bytes: keep_alives + 80,
        server_state: 120,
    }
}

/// Offset of `m` in `runtime.g`.
pub const G_M: u32 = 48;
/// Offset of `T` in `persistConn`.
pub const CONN_TRANSPORT: u32 = 16;
/// Offset of the `net.Conn` in `persistConn`.
pub const CONN_CONN: u32 = 80;
/// Offset of `Host` in `net/url.URL`.
pub const URL_HOST: u32 = 40;
/// Offset of `Path` in `net/url.URL`.
pub const URL_PATH: u32 = 56;
/// Offset of the first method in an interface table.
pub const ITAB_FUN: u32 = 24;
/// Offset of the descriptor in `net.netFD`.
pub const FD_SYSFD: u32 = 16;

/// Offsets of `p` in `runtime.m` and of `runnext` in `runtime.p`.
fn processor(minor: Option<u32>) -> (u32, u32) {
    match minor.unwrap_or(NEWEST).clamp(OLDEST, NEWEST) {
        21 | 22 => (208, 2456),
        23 | 24 => (208, 2448),
        25 => (200, 2448),
        _ => (208, 2456),
    }
}

/// The members that the kernel side reads, for a minor version. Addresses and the kernel's own
/// offsets are left 0.
#[must_use]
pub fn layout(minor: Option<u32>) -> GoLayout {
    let members = members(minor);
    let old_streams = minor.is_some_and(|m| m < 27);
    let (processor, next) = processor(minor);
    GoLayout {
        g_goid: members.g_goid as u32,
        g_startpc: members.g_startpc as u32,
        g_m: G_M,
        // `parentGoid`, `gopc`, `ancestors` and `startpc` follow one another since 1.21.
        g_parent: members.g_startpc as u32 - 24,
        g_gopc: members.g_startpc as u32 - 16,
        m_p: processor,
        p_runnext: next,
        conn_transport: CONN_TRANSPORT,
        conn_conn: CONN_CONN,
        server_conn: 16,
        server_hijacked: 136,
        request_method: 0,
        request_url: 16,
        // Before 1.27 streams get a `*http.Request`, then an `http2.ClientRequest`.
        stream_method: if old_streams { 0 } else { 16 },
        stream_url: if old_streams { 16 } else { 32 },
        stream_conn: 8,
        stream_pipe: 48,
        url_host: URL_HOST,
        url_path: URL_PATH,
        url_query: members.url_query as u32,
        itab_fun: ITAB_FUN,
        fd_sysfd: FD_SYSFD,
        ..GoLayout::default()
    }
}

/// A program of the object and the Go functions that it may be attached to: the first that the
/// executable has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbedFunction {
    /// Program name.
    pub program: &'static str,
    /// Full names, newest first.
    pub functions: &'static [&'static str],
    /// It is attached where they return, not where they begin.
    pub returns: bool,
}

const fn probed(program: &'static str, functions: &'static [&'static str]) -> ProbedFunction {
    ProbedFunction {
        program,
        functions,
        returns: false,
    }
}

const fn returning(program: &'static str, functions: &'static [&'static str]) -> ProbedFunction {
    ProbedFunction {
        returns: true,
        ..probed(program, functions)
    }
}

/// Functions that are probed together: with one of them missing, the others would tell what is
/// not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// What they tell about.
    pub of: &'static str,
    /// The functions.
    pub probes: &'static [ProbedFunction],
}

/// Every probe.
pub const FAMILIES: &[Family] = &[
    Family {
        of: "client connections of net/http",
        probes: &[
            probed("go_read_loop", &["net/http.(*persistConn).readLoop"]),
            probed("go_round_trip", &["net/http.(*persistConn).roundTrip"]),
            probed("go_close", &["net/http.(*persistConn).closeLocked"]),
        ],
    },
    Family {
        of: "HTTP/2 streams of net/http",
        probes: &[
            probed(
                "go_stream_round_trip",
                &[
                    "net/http/internal/http2.(*ClientConn).roundTrip",
                    "net/http.(*http2ClientConn).roundTrip",
                    "net/http.(*http2ClientConn).RoundTrip",
                ],
            ),
            probed(
                "go_stream_start",
                &[
                    "net/http/internal/http2.(*clientStream).doRequest",
                    "net/http.(*http2clientStream).doRequest",
                ],
            ),
            probed(
                "go_stream_response",
                &[
                    "net/http/internal/http2.(*clientConnReadLoop).handleResponse",
                    "net/http.(*http2clientConnReadLoop).handleResponse",
                ],
            ),
            probed(
                "go_stream_end",
                &[
                    "net/http/internal/http2.(*clientStream).cleanupWriteRequest",
                    "net/http.(*http2clientStream).cleanupWriteRequest",
                ],
            ),
            probed(
                "go_stream_read",
                &[
                    "net/http/internal/http2.(*pipe).Read",
                    "net/http.(*http2pipe).Read",
                ],
            ),
            probed(
                "go_stream_data",
                &[
                    "net/http/internal/http2.(*pipe).Write",
                    "net/http.(*http2pipe).Write",
                ],
            ),
        ],
    },
    Family {
        of: "streams of golang.org/x/net/http2",
        probes: &[
            probed(
                "go_module_round_trip",
                &[
                    "golang.org/x/net/http2.(*ClientConn).roundTrip",
                    "golang.org/x/net/http2.(*ClientConn).RoundTrip",
                ],
            ),
            probed(
                "go_stream_start",
                &["golang.org/x/net/http2.(*clientStream).doRequest"],
            ),
            probed(
                "go_stream_response",
                &["golang.org/x/net/http2.(*clientConnReadLoop).handleResponse"],
            ),
            probed(
                "go_stream_end",
                &["golang.org/x/net/http2.(*clientStream).cleanupWriteRequest"],
            ),
            probed("go_stream_read", &["golang.org/x/net/http2.(*pipe).Read"]),
            probed("go_stream_data", &["golang.org/x/net/http2.(*pipe).Write"]),
        ],
    },
    Family {
        of: "streams of google.golang.org/grpc",
        probes: &[
            // in this order, so that of no stream only the beginning is seen
            probed(
                "go_grpc_close",
                &["google.golang.org/grpc/internal/transport.(*http2Client).closeStream"],
            ),
            returning("go_grpc_stream", &[GRPC_NEW_STREAM]),
            probed("go_grpc_call", &[GRPC_NEW_STREAM]),
        ],
    },
    Family {
        of: "server connections of net/http",
        probes: &[probed("go_server_conn", &["net/http.(*Server).trackConn"])],
    },
    Family {
        of: "connections closed by finalizers",
        probes: &[probed("go_net_close", &["net.(*netFD).Close"])],
    },
];

const GRPC_NEW_STREAM: &str = "google.golang.org/grpc/internal/transport.(*http2Client).NewStream";

#[cfg(test)]
mod tests {
    use super::{layout, members};

    /// A row of the table as measured: version, RawQuery, goid, startpc, DisableKeepAlives, expected.
    const MEASURED: [(u32, u64, u64, u64, u64, u64); 7] = [
        (21, 96, 152, 296, 176, 224),
        (22, 96, 152, 296, 176, 224),
        (23, 96, 160, 304, 232, 224),
        (24, 96, 160, 304, 232, 224),
        (25, 96, 152, 296, 232, 224),
        (26, 88, 152, 304, 232, 232),
        (27, 88, 152, 304, 232, 232),
    ];

    #[test]
    fn members_are_as_measured() {
        for (minor, query, goid, start, transport, expected) in MEASURED {
            let m = members(Some(minor));
            assert_eq!(
                (
                    m.url_query,
                    m.g_goid,
                    m.g_startpc,
                    m.transport_keep_alives,
                    m.conn_expected
                ),
                (query, goid, start, transport, expected),
                "Go 1.{minor}"
            );
        }
    }

    #[test]
    fn unknown_versions_get_the_newest_layout() {
        assert_eq!(members(None), members(Some(27)));
        assert_eq!(layout(Some(40)), layout(Some(27)));
        assert_eq!(layout(Some(26)).stream_url, 16);
        assert_eq!(layout(None).stream_url, 32);
    }
}
