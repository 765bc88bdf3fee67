use super::{Case, Class, Confidence, Fit, Kind, Mask, Rules, Spec};

const MASK: Mask = Mask::of(&[Class::PeerClosed]);

/// The peer closed.
pub const SPEC: Spec = Spec {
    kind: Kind::CloseWait,
    summary: "The peer closed it, we never did.",
    documentation: DOCUMENTATION,
    client: rule,
    server: rule,
    condition,
    advice: |_| {
        "Close the socket when a read returns end of file or an error; an idle pool needs a check or \
         an idle timeout shorter than the peer's."
    },
};

fn rule(rules: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    let all = rules.gather(MASK);
    let growing = rules.scanned(SPEC.kind, MASK);
    if growing.is_some_and(|f| f.confidence > Confidence::Low) {
        return growing;
    }
    // Entries of an idle pool notice the peer's close only when they are used next: a stock of them
    // that does not grow is proof only once it is old.
    let pooled = all.pool_like * 2 > all.count;
    if pooled && all.stuck_max_ns < 6 * rules.settings().standing_ns {
        return growing;
    }
    rules
        .standing(SPEC.kind, MASK, &all)
        .or_else(|| {
            (!pooled)
                .then(|| rules.few(SPEC.kind, MASK, &all))
                .flatten()
        })
        .or(growing)
}

fn condition(case: &Case<'_>) -> String {
    let reset = case.state.tally.reset;
    format!(
        "{} were {} by the peer up to {} ago and are still held.",
        case.of(),
        match (reset, reset >= case.all.count) {
            (0, _) => "closed",
            (_, true) => "reset",
            _ => "closed or reset",
        },
        case.longest()
    )
}

const DOCUMENTATION: &str = r#"
The other side sent FIN or RST (for UNIX sockets: its end is gone); this side knows, and keeps the
descriptor. The kernel calls the state CLOSE_WAIT and never ends it by itself.

**Healthy look-alikes.** The moment between the peer's close and ours; idle entries of a pool, which
notice only when they are used next; one end of a socket pair that a runtime parks with the other end
closed. Those do not grow, or are soon gone.

**Confidence.** Medium: five and more, growing; where nothing grows, ten seconds old (a minute for
what may be a pool's); a single one after two minutes. High: ten, after thirty seconds.

**What to change.**

- Any language: a read that returns 0 bytes, EOF or an error ends the connection: close it there.
- Go: `defer conn.Close()` in the goroutine that reads. Java: try-with-resources.
- Pools: an idle timeout shorter than the server's, or a check before reuse.
"#;
