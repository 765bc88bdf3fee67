//! The API in one table: the router is made of it, and so is `docs/schema/openapi.json`.

/// What a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The verdict and the findings.
    Report,
    /// What the daemon says of itself.
    Overview,
    /// One finding and its past.
    Finding,
    /// The open connections.
    Connections,
    /// What is attached and what is not.
    Doctor,
    /// Open connections by stack, for pprof.
    Profile,
    /// Metrics for Prometheus.
    Metrics,
    /// Whether the daemon is alive.
    Alive,
    /// Whether it watches already.
    Ready,
}

/// Something that may stand in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// In the path.
    Id,
    /// In the query.
    Limit,
}

/// One route; all are asked with GET.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a test writes and holds the document")
)]
pub struct Route {
    /// Path, with parameters in braces.
    pub path: &'static str,
    /// What it answers with.
    pub answer: Answer,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// What may be said in a request.
    pub parameters: &'static [Parameter],
    /// Statuses other than 200, on the local socket.
    pub failures: &'static [u16],
    /// Over TCP, whoever reaches the port may ask.
    pub open: bool,
}

/// What fails where the session can't answer, or not now.
const TROUBLE: &[u16] = &[500, 503];

/// All routes but those of the page.
pub const ALL: &[Route] = &[
    Route {
        path: "/v1/report",
        answer: Answer::Report,
        summary: "The verdict, the findings, the worst first, and what was seen.",
        parameters: &[],
        failures: TROUBLE,
        open: false,
    },
    Route {
        path: "/v1/overview",
        answer: Answer::Overview,
        summary: "Who is watched, and how the worst findings went.",
        parameters: &[],
        failures: TROUBLE,
        open: false,
    },
    Route {
        path: "/v1/findings/{id}",
        answer: Answer::Finding,
        summary: "One finding and its past.",
        parameters: &[Parameter::Id],
        failures: &[404, 409, 500, 503],
        open: false,
    },
    Route {
        path: "/v1/connections",
        answer: Answer::Connections,
        summary: "The open connections: owner, age, idle time, state, call site, remote.",
        parameters: &[Parameter::Limit],
        failures: &[400, 500, 503],
        open: false,
    },
    Route {
        path: "/v1/doctor",
        answer: Answer::Doctor,
        summary: "What is attached, what this kernel and these privileges do not allow, and what it costs.",
        parameters: &[],
        failures: TROUBLE,
        open: false,
    },
    Route {
        path: "/debug/pprof/connections",
        answer: Answer::Profile,
        summary: "The open connections by stack, as a gzipped profile of pprof.",
        parameters: &[],
        failures: TROUBLE,
        open: false,
    },
    Route {
        path: "/metrics",
        answer: Answer::Metrics,
        summary: "Metrics in Prometheus' text format.",
        parameters: &[],
        failures: TROUBLE,
        open: true,
    },
    Route {
        path: "/healthz",
        answer: Answer::Alive,
        summary: "Whether the daemon is alive.",
        parameters: &[],
        failures: &[503],
        open: true,
    },
    Route {
        path: "/readyz",
        answer: Answer::Ready,
        summary: "Whether probes are attached and the baseline is taken.",
        parameters: &[],
        failures: &[503],
        open: true,
    },
];

/// Whether a path is served to everybody who can reach the port.
#[must_use]
pub fn is_open(path: &str) -> bool {
    ALL.iter().any(|route| route.open && route.path == path)
}

/// All paths, in a sentence for who asked for another one.
#[must_use]
pub fn paths() -> String {
    let paths = ALL.iter().map(|route| route.path.replace("{id}", "ID"));
    format!("there are /, {}", paths.collect::<Vec<_>>().join(", "))
}
