use super::{
    Case, Class, Confidence, Fit, Ground, Kind, Mask, Rules, Spec, Tally, client_per_request, never,
};

const MASK: Mask = Mask::of(&[Class::Body]);
const PARKED: Mask = Mask::of(&[Class::Parked]);

/// The runtime says that a body was neither finished nor closed.
pub const SPEC: Spec = Spec {
    kind: Kind::ResponseBodyNotClosed,
    summary: "The response came; the application neither finished nor closed its body, so that the \
              connection can neither be reused nor freed.",
    documentation: DOCUMENTATION,
    client: rule,
    server: never,
    condition,
    advice: |_| {
        "Read the response body to its end and close it on every path, error paths included (in \
         Go: `defer resp.Body.Close()` right after the error check)."
    },
};

fn rule(rules: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    // A few open bodies may be quiet streams that somebody waits on.
    let told = rules.proof(SPEC.kind, MASK).filter(|fit| {
        rules.gather(MASK).count >= rules.settings().min_survivors
            || matches!(fit.ground, Ground::Growth(_))
    });
    told.or_else(|| not_given_back(rules))
}

/// Where the runtime can't be asked: requests of HTTP in the clear, a client that is shared, and
/// connections that it opens others for although they are idle. What keeps them is a response that
/// was not finished; the client's library has it in its own buffer.
fn not_given_back(rules: &Rules<'_>) -> Option<Fit> {
    let tally = &rules.state.tally;
    let parked = tally.class(Class::Parked).count;
    let refused = refused(tally);
    let in_use = tally.reused > parked;
    if !refused && !in_use {
        return None;
    }
    let mut mask = Mask::default();
    if rules.passed_over() {
        mask = mask.with(PARKED);
    }
    // used only once: beside connections that are used again and again, or all for one reason
    if refused || tally.reused * rules.settings().reuse_one_in > tally.open {
        mask = mask.with(client_per_request::MASK);
    }
    let all = rules.gather(mask);
    (all.count > 0 && all.http * 10 >= all.count * 9)
        .then(|| rules.growth(SPEC.kind, mask, rules.settings().ordinary))
        .flatten()
        .filter(|fit| fit.confidence > Confidence::Low)
}

/// Whether what is idle was answered with errors, nearly all of it: a path for errors forgets what
/// the path for successes does.
fn refused(tally: &Tally) -> bool {
    let all = [tally.statuses.counts(), tally.parked_statuses.counts()].concat();
    let sum = |of: fn(u16) -> bool| -> u32 {
        all.iter()
            .filter(|(status, _)| of(*status))
            .map(|(_, n)| n)
            .sum()
    };
    let (errors, known) = (sum(|status| status >= 400), sum(|_| true));
    known >= 3 && errors * 10 >= known * 9
}

fn condition(case: &Case<'_>) -> String {
    match case.fit.mask == MASK {
        true => format!(
            "{} have an HTTP response whose body was neither finished nor closed, without progress \
             for up to {}.",
            case.of(),
            case.longest()
        ),
        false => format!(
            "{} were not given back to their pool after their last response and have been idle for \
             up to {}, while others were opened instead.",
            case.of(),
            case.longest()
        ),
    }
}

const DOCUMENTATION: &str = r#"
The runtime's own connection pool says so: the head of the response was delivered, the body's reader
exists, and nobody reads it. Where the runtime can't be asked, the same leak is `response_not_read`
(unread bytes in the socket) or, with a small body that lies in the client's own buffer, it is told by
what the client does: it is shared (its other connections are used again and again, or only those
leak that were answered with an error), and yet it opens new ones while these are idle. Where nothing
tells a shared client from a new one for each call, the name is `client_per_request`.

**Healthy look-alikes.** A body that somebody reads slowly, or waits for more of: that is a stream.

**Confidence.** Medium: five and more, growing, or ten seconds without progress where nothing
grows. From outside: growth over eight seconds, idle for twelve and more.

**What to change.**

- Go: `resp, err := client.Get(url); if err != nil { return err }; defer resp.Body.Close()`, also
  where only the status is looked at.
- Python (requests): `with session.get(url, stream=True) as r:`; (urllib, http.client):
  `with urlopen(url) as r:` or `r.read()`.
- Node: `res.resume()` when the body is of no use; with fetch `await res.body.cancel()`.
- Java: `try (InputStream in = response.body()) { in.readAllBytes(); }`, or
  `BodyHandlers.discarding()`.
"#;
