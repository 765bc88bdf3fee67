use super::{Case, Class, Fit, Kind, Mask, Rules, Spec, never};

const MASK: Mask = Mask::of(&[Class::Unread]);

/// Unread bytes.
pub const SPEC: Spec = Spec {
    kind: Kind::ResponseNotRead,
    summary: "Unread response bytes sit in the socket and nobody reads any more.",
    documentation: DOCUMENTATION,
    client: |rules: &Rules<'_>, _: &[Fit]| rules.proof(SPEC.kind, MASK),
    server: never,
    condition: |case: &Case<'_>| {
        format!(
            "{} hold {} unread bytes or messages that nobody has read for up to {}.",
            case.of(),
            case.state.tally.unread,
            case.longest()
        )
    },
    advice: |_| {
        "Read each response to its end or close the connection when the rest is of no use, on every \
         path, error paths included."
    },
};

const DOCUMENTATION: &str = r#"
The kernel's view of `response_body_not_closed`, where no runtime can be asked: bytes lie in the
receive queue, and the last read is seconds ago.

**Healthy look-alikes.** A consumer that pauses for a moment; a TLS peer's closing alert that nobody
needs to read; data pushed to a connection that is about to be used. Those are few, or soon read.

**Confidence.** Medium: five and more, growing, or ten seconds old where nothing grows; a single one
after two minutes. High: ten, after thirty seconds.

**What to change.** As for `response_body_not_closed`; with raw sockets: read what was asked for, or
close.
"#;
