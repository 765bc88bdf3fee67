//! The sentences of a judgement.

use super::{classify::Class, history::Mask, judge::Case, rules::Ground};
use crate::model::Kind;

/// Evidence with the numbers, the strongest first.
pub fn sentences(case: &Case<'_>) -> Vec<String> {
    let mut out = vec![condition(case)];
    out.push(spread(case));
    out.push(ground(case));
    let c = case.connections;
    out.push(match (case.requests, c.closed) {
        (0, closed) => format!(
            "{} opened, {closed} closed; none was seen to carry a request.",
            c.opened
        ),
        (requests, closed) => format!(
            "{} opened, {closed} closed; together they carried {requests} {}.",
            c.opened,
            plural(requests, "request", "requests")
        ),
    });
    if let Some(period) = case.burst_period_seconds {
        out.push(format!(
            "They are opened in bursts, one every {}.",
            seconds(period)
        ));
    }
    let tally = &case.state.tally;
    if tally.preexisting > 0 {
        out.push(format!(
            "{} of them {} open before the watch began.",
            tally.preexisting,
            plural(u64::from(tally.preexisting), "was", "were")
        ));
    }
    out
}

/// What state they are in.
fn condition(case: &Case<'_>) -> String {
    let (n, open) = (case.all.count, case.connections.open);
    let longest = seconds(case.all.stuck_max_ns as f64 / 1e9);
    let of = format!("{n} of {open} open connections");
    let tally = &case.state.tally;
    match case.fit.kind {
        Kind::InheritedFd => match tally.other_holder {
            Some(pid) => format!(
                "{of} are held by another process than the one that opened them (pid {pid}) and \
                 have been idle for up to {longest}."
            ),
            None => format!("{of} are held by another process than the one that opened them."),
        },
        Kind::ResponseBodyNotClosed => format!(
            "{of} have an HTTP response whose body was neither finished nor closed, without \
             progress for up to {longest}."
        ),
        Kind::ClientPerRequest => format!(
            "{of} were used once and have been idle since, for up to {longest}; {} ever reused.",
            match tally.reused {
                0 => "none was".to_owned(),
                1 => "1 was".to_owned(),
                n => format!("{n} were"),
            }
        ),
        Kind::StreamNeverCancelled => {
            format!("{of} carry streams that have been arriving for up to {longest}.")
        }
        Kind::ResponseNotRead => format!(
            "{of} hold {} unread bytes or messages that nobody has read for up to {longest}.",
            tally.unread
        ),
        Kind::CloseWait => format!(
            "{of} were {} by the peer up to {longest} ago and are still held.",
            match (tally.reset, tally.reset >= n) {
                (0, _) => "closed",
                (_, true) => "reset",
                _ => "closed or reset",
            }
        ),
        Kind::AcceptedNeverClosed => {
            let shut = tally.class(Class::Shut).count;
            match shut * 2 > n {
                true => format!(
                    "{of} were shut down for sending by the server but never closed; idle for up \
                     to {longest}."
                ),
                false => format!(
                    "{of} were accepted and have been idle for up to {longest}; their peers are \
                     still there."
                ),
            }
        }
        Kind::PoolUnbounded => {
            format!("{of} are idle entries of a pool that opens more instead of using them.")
        }
        Kind::NeverClosed => {
            let unused = tally.class(Class::Unused).count;
            let failed = tally.class(Class::Failed).count;
            let waiting = tally.gather(Mask::of(&[Class::Waiting])).count;
            if failed * 2 > n {
                format!("{of} failed to connect, and their descriptors are kept.")
            } else if waiting * 2 > n {
                format!("{of} have been waiting for an answer for up to {longest}.")
            } else if unused * 2 > n {
                format!("{of} were never used and have been idle for up to {longest}.")
            } else {
                format!("{of} have been idle for up to {longest} and are not closed.")
            }
        }
    }
}

fn spread(case: &Case<'_>) -> String {
    let oldest = case.now_ns.saturating_sub(case.all.oldest_ns) as f64 / 1e9;
    // Births are hashed into 64 seconds: a full set says only "many".
    let births = case.all.birth_seconds();
    let at_least = if births > 24 { "at least " } else { "" };
    format!(
        "They were opened in {at_least}{births} separate {}, the oldest {} ago.",
        plural(u64::from(births), "second", "seconds"),
        seconds(oldest)
    )
}

fn ground(case: &Case<'_>) -> String {
    match case.fit.ground {
        Ground::Growth(t) => format!(
            "Their number grew by {:.1} per minute over {}, up to the end of the watch \
             (steadiness {:.2} of 1).",
            t.per_minute,
            seconds(t.seconds),
            t.concordance
        ),
        Ground::Sawtooth(s) => format!(
            "Their number climbed {} times by {:.1} per minute and fell suddenly in between: \
             something, such as a finalizer or a timeout, frees some of what leaked.",
            s.teeth, s.per_minute
        ),
        Ground::Collected(n) => format!(
            "{n} of {} that ended were closed by the garbage collector: the program had lost them \
             without closing them, and a finalizer is no promise.",
            case.state.closed.max(n)
        ),
        Ground::Standing => format!(
            "Their number need not grow: no healthy program leaves a connection like this for {}.",
            seconds(case.all.stuck_max_ns as f64 / 1e9)
        ),
        Ground::Plateau => format!(
            "New ones were opened while these sat idle, and {} were closed in the watch of {}: \
             timeouts hold the number, nothing reuses them.",
            case.connections.closed,
            seconds(case.watched_seconds)
        ),
    }
}

/// What to change.
pub fn advice(kind: Kind, ground: Ground) -> &'static str {
    match kind {
        Kind::InheritedFd => {
            "Open sockets close-on-exec (SOCK_CLOEXEC), or close them in the child after fork; a \
             process that is handed a descriptor must close it when done."
        }
        Kind::ResponseBodyNotClosed => {
            "Read the response body to its end and close it on every path, error paths included \
             (in Go: `defer resp.Body.Close()` right after the error check)."
        }
        Kind::ClientPerRequest => {
            "Create one client (transport, session, pool) at start and share it between calls; \
             where a client must be short-lived, close it and its idle connections."
        }
        Kind::StreamNeverCancelled => {
            "End each stream when its consumer goes: cancel its context or request, or close its \
             body, and give it a deadline."
        }
        Kind::ResponseNotRead => {
            "Read each response to its end or close the connection when the rest is of no use, on \
             every path, error paths included."
        }
        Kind::CloseWait => {
            "Close the socket when a read returns end of file or an error; an idle pool needs a \
             check or an idle timeout shorter than the peer's."
        }
        Kind::AcceptedNeverClosed => {
            "Close each accepted connection when its handler ends, however it ends, and give idle \
             ones a timeout."
        }
        Kind::PoolUnbounded => "Give the pool a maximum size and an idle timeout.",
        Kind::NeverClosed => match ground {
            Ground::Sawtooth(_) | Ground::Collected(_) => {
                "Close each connection when it is done with, on every path, rather than leaving it \
                 to a finalizer or a timeout."
            }
            _ => {
                "Close each connection when it is done with, on every path, error paths included, \
                 or keep one and reuse it; set timeouts."
            }
        },
    }
}

fn plural<'a>(n: u64, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// A duration for people.
fn seconds(s: f64) -> String {
    match s {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
