use super::{Case, Class, Fit, Kind, Mask, Rules, Spec, never};

/// Nothing more will happen on them.
const OVER: Mask = Mask::of(&[Class::Shut, Class::Failed, Class::Body]);
/// Nothing has happened for a while.
const IDLE: Mask = Mask::of(&[Class::Unused, Class::OneShot, Class::Quiet, Class::Shut]);

/// The same of protocols that have no requests.
const QUIET: Mask = Mask::of(&[Class::Quiet]);

/// Server side.
pub const SPEC: Spec = Spec {
    kind: Kind::AcceptedNeverClosed,
    summary: "Server side: accepted, served or abandoned, never closed.",
    documentation: DOCUMENTATION,
    client: never,
    server: rule,
    condition,
    advice: |_| {
        "Close each accepted connection when its handler ends, however it ends, and give idle ones a \
         timeout."
    },
};

fn rule(rules: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    let settings = rules.settings();
    if let Some(fit) = rules.growth(SPEC.kind, OVER, settings.ordinary) {
        return Some(fit);
    }
    // Idle peers that are all alive: keep-alive clients look the same until they go, so a population
    // whose connections do get closed or reused is explained by its clients.
    let (tally, history) = (&rules.state.tally, &rules.state.history);
    let closed = history.recently_closed(rules.state.closed);
    let coming_and_going = closed * settings.going_one_in > u64::from(tally.open);
    let kept_alive = tally.reused * 10 > tally.open * 3;
    if kept_alive {
        return None;
    }
    if !coming_and_going {
        return rules.growth(SPEC.kind, IDLE, settings.accepting);
    }
    served_in_moments(rules)
        .then(|| rules.growth(SPEC.kind, QUIET, settings.forgotten))
        .flatten()
}

/// Whether those that ended did so at once, and those that are idle stay many times as long and are
/// not served any more: one way through the handler closes, and another does not. Only of protocols
/// without requests, whose clients have no reason to keep a connection for the next one. Subscribers
/// look the same until one asks who listens: theirs are read from, or waited on.
fn served_in_moments(rules: &Rules<'_>) -> bool {
    let state = rules.state;
    let quiet = rules.gather(QUIET);
    let mean_ns = state.closed_lifetime_ns.checked_div(state.closed);
    let many_times = rules.settings().forgotten_times;
    let abandoned = quiet.abandoned * 10 >= quiet.count * 9;
    abandoned && mean_ns.is_some_and(|mean| mean.saturating_mul(many_times) < quiet.stuck_max_ns)
}

fn condition(case: &Case<'_>) -> String {
    let shut = case.state.tally.class(Class::Shut).count;
    match shut * 2 > case.all.count {
        true => format!(
            "{} were shut down for sending by the server but never closed; idle for up to {}.",
            case.of(),
            case.longest()
        ),
        false if case.fit.mask == QUIET && case.state.closed > 0 => format!(
            "{} were accepted and have been idle for up to {}, unanswered or with nobody who waits \
             for what comes on them; those that were closed had lived for {:.3} s on average.",
            case.of(),
            case.longest(),
            case.state.closed_lifetime_ns as f64 / case.state.closed as f64 / 1e9
        ),
        false => format!(
            "{} were accepted and have been idle for up to {}; their peers are still there.",
            case.of(),
            case.longest()
        ),
    }
}

const DOCUMENTATION: &str = r#"
A handler that ended without closing its connection: after an error, after it handed the connection
to something that forgot it, or because the server only shuts down its sending side.

**Healthy look-alikes.** Keep-alive clients that are idle, websockets, feeds: their peers keep them
open, use them again, and go at some time. A server whose connections get closed or reused is
explained by its clients, and so is one whose clients are in view and leak themselves.

**Confidence.** Medium: eight and more idle ones, growing over ten seconds, while less than one in ten
was closed; high after two minutes. Where more were closed, of a protocol without requests only: after
half a minute, when those that ended had lived for moments and the idle ones stay a hundred times as
long, unanswered or without anybody who waits for what comes. Shut-down ones: as for any other growth.

**What to change.**

- Go: `defer conn.Close()` first thing in the handler; a hijacked connection is the handler's to close.
- Python: `with conn:` around the handler; asyncio: `writer.close()` in a `finally`.
- Java: try-with-resources around the accepted `Socket`. C: close on every path out.
- An idle timeout: `http.Server{IdleTimeout: …}`, `server.keepAliveTimeout`, `SO_RCVTIMEO`.
"#;
