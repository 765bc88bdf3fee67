use super::{Case, Class, Fit, Kind, Mask, Rules, Spec, never};

/// Connections that carry a stream.
pub const MASK: Mask = Mask::of(&[Class::Stream]);

/// Streams that nobody ends.
pub const SPEC: Spec = Spec {
    kind: Kind::StreamNeverCancelled,
    summary: "Streams (log follow, SSE, watch, long poll) keep being opened and none of the earlier \
              ones is ended.",
    documentation: DOCUMENTATION,
    client: rule,
    server: never,
    condition: |case: &Case<'_>| {
        let carry = match case.of_streams() {
            true => "",
            false => "carry streams that ",
        };
        format!(
            "{} {carry}have been going on for up to {}.",
            case.of(),
            case.longest()
        )
    },
    advice: |_| {
        "End each stream when its consumer goes: cancel its context or request, or close its body, \
         and give it a deadline."
    },
};

fn rule(rules: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    rules.growth(SPEC.kind, MASK, rules.settings().streaming)
}

const DOCUMENTATION: &str = r#"
A body that somebody still reads or waits on. Each stream is in use; what leaks is that nobody ends
the earlier ones, because their consumer is gone or never says so.

**Healthy look-alikes.** A fixed number of streams, or streams that are replaced: their number does
not grow. Long downloads end.

**Confidence.** Medium: growth over six seconds; high: over thirty.

**What to change.**

- Go: `ctx, cancel := context.WithCancel(ctx); defer cancel()` around the request that follows.
- Python: `with client.stream("GET", url) as r:`; cancel the task that reads.
- Node: an `AbortController` whose `abort()` is called when the consumer leaves.
- Java: cancel the `CompletableFuture` or close the stream of lines.
"#;
