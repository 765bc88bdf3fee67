use super::{
    Case, Class, Confidence, Fit, Ground, Kind, Mask, Rules, Spec, client_per_request, never,
    stream_never_cancelled,
};

const REST: Mask = Mask::of(&[Class::Unused, Class::Quiet, Class::Shut, Class::Failed]);
const WAITING: Mask = Mask::of(&[Class::Waiting]);

/// None of the others.
pub const SPEC: Spec = Spec {
    kind: Kind::NeverClosed,
    summary: "None of the above: opened, used or not, never closed, and growing.",
    documentation: DOCUMENTATION,
    client: rule,
    server: never,
    condition,
    advice: |ground| match ground {
        Ground::Sawtooth(_) | Ground::Collected(_) => {
            "Close each connection when it is done with, on every path, rather than leaving it to a \
             finalizer or a timeout."
        }
        _ => {
            "Close each connection when it is done with, on every path, error paths included, or \
             keep one and reuse it; set timeouts."
        }
    },
};

fn rule(rules: &Rules<'_>, before: &[Fit]) -> Option<Fit> {
    let ordinary = rules.settings().ordinary;
    let fitted = |kind: Kind| before.iter().any(|fit| fit.kind == kind);
    let mut mask = REST;
    let taken = before
        .iter()
        .any(|f| f.mask.contains(client_per_request::MASK));
    if !taken {
        mask = mask.with(client_per_request::MASK);
    }
    let own = rules.growth(SPEC.kind, mask, ordinary);
    if own.is_some_and(|fit| fit.confidence > Confidence::Low) {
        return own;
    }
    // What is quiet for a while and receives for a while is in two classes by turns.
    let mixed = (!fitted(Kind::StreamNeverCancelled)).then(|| {
        let mask = mask.with(stream_never_cancelled::MASK);
        rules.growth(SPEC.kind, mask, ordinary)
    });
    let mixed = mixed
        .flatten()
        .filter(|fit| fit.confidence > Confidence::Low);
    mixed.or(own).or_else(|| waiting(rules))
}

/// Requests that wait for their answer: a slow server looks the same for a while, but it ends what
/// waits for it.
fn waiting(rules: &Rules<'_>) -> Option<Fit> {
    let settings = rules.settings();
    let all = rules.gather(WAITING);
    let fit = rules.growth(SPEC.kind, WAITING, settings.unanswered)?;
    let history = &rules.state.history;
    let ended = history.recently_closed(rules.state.closed);
    let unanswered = ended * settings.going_one_in <= u64::from(all.count)
        && all.count * 10 >= rules.state.tally.open * 7;
    let patience = match unanswered {
        true => settings.unanswered_ns,
        false => settings.waiting_ns,
    };
    if fit.confidence == Confidence::Low || all.stuck_max_ns >= patience {
        return Some(fit);
    }
    Some(Fit {
        confidence: Confidence::Low,
        settle_seconds: Some((patience - all.stuck_max_ns) as f64 / 1e9),
        ..fit
    })
}

fn condition(case: &Case<'_>) -> String {
    let tally = &case.state.tally;
    let count = |class: Class| tally.class(class).count * 2 > case.all.count;
    let (of, longest) = (case.of(), case.longest());
    if case.all.count == 0 {
        "None of them is idle at this moment.".to_owned()
    } else if count(Class::Failed) {
        format!("{of} failed to connect, and their descriptors are kept.")
    } else if count(Class::Waiting) {
        format!("{of} have been waiting for an answer for up to {longest}.")
    } else if count(Class::Unused) {
        format!("{of} were never used and have been idle for up to {longest}.")
    } else if case.all.upgraded * 2 > case.all.count {
        format!("{of} were upgraded to another protocol, such as websocket, and are not closed.")
    } else {
        format!("{of} have been idle for up to {longest} and are not closed.")
    }
}

const DOCUMENTATION: &str = r#"
Connections that were opened and whose number only grows: never used, used once with a protocol of
their own, upgraded to a websocket and forgotten, failed and kept, or waiting for an answer that
nobody expects any more.

**Healthy look-alikes.** A set whose oldest member is replaced: what is closed explains what is opened,
also where the closed ones were opened before the watch or at another place. A slow server: its
callers' number levels off. A pool or a fleet of subscriptions that is being set up: it stops.

**Confidence.** Medium: five survivors, opened in three separate seconds, growing over eight seconds.
High: ten, over twelve seconds, with a steadiness of 0.75. Requests without an answer: half a minute
where none was ever answered, a minute otherwise. What a garbage collector closed is proof by itself.

**What to change.**

- Go: `defer conn.Close()`. Python: `with socket.create_connection(…) as s:`.
- Node: `socket.destroy()` also in the error path; close the old websocket before a new one is made.
- Java: try-with-resources. C: close on every path out of the function that opened it.
- A deadline on every request, so that what never answers ends.
"#;
