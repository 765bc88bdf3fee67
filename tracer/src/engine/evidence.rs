//! The sentences of a judgement.

use super::{
    classify::Class,
    growth::{Fit, Ground},
    history::{ClassTally, Mask},
    population::{Counts, State},
};

/// Everything that the sentences of a judgement are made from.
#[derive(Debug)]
pub struct Case<'a> {
    pub state: &'a State,
    /// The fit that names it.
    pub fit: &'a Fit,
    /// The classes it is about.
    pub mask: Mask,
    /// The connections it is about.
    pub all: ClassTally,
    pub connections: &'a Counts,
    pub requests: u64,
    pub burst_period_seconds: Option<f64>,
    pub now_ns: u64,
    pub watched_seconds: f64,
}

impl Case<'_> {
    /// "12 of 15 open connections".
    pub fn of(&self) -> String {
        let open = self.connections.open;
        let noun = match self.of_streams() {
            true => plural(open, "stream", "streams"),
            false => plural(open, "connection", "connections"),
        };
        format!("{} of {open} open {noun}", self.all.count)
    }

    /// Whether it is about requests that share connections, and not about these.
    pub fn of_streams(&self) -> bool {
        self.all.count > 0 && self.all.streams * 2 > self.all.count
    }

    /// The longest time that one of them has been in its condition.
    pub fn longest(&self) -> String {
        seconds(self.all.stuck_max_ns as f64 / 1e9)
    }
}

/// Evidence with the numbers, the strongest first; `condition` is the kind's own sentence.
pub fn sentences(case: &Case<'_>, condition: fn(&Case<'_>) -> String) -> Vec<String> {
    let mut out = vec![condition(case)];
    if case.all.count > 0 {
        out.push(spread(case));
    }
    let (error_path, statuses) = match statuses(case) {
        Some((true, sentence)) => (Some(sentence), None),
        Some((false, sentence)) => (None, Some(sentence)),
        None => (None, None),
    };
    // what explains the leak comes first
    out.splice(1..1, error_path);
    out.splice(1..1, transactions(case));
    out.push(ground(case));
    let c = case.connections;
    out.push(match (case.requests, c.closed) {
        (_, ended) if case.of_streams() => {
            format!(
                "{} streams opened, {ended} ended; they share connections, which stay open.",
                c.opened
            )
        }
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
    out.extend(statuses);
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

/// How many were left in a transaction, which shows that nobody gave them back.
fn transactions(case: &Case<'_>) -> Option<String> {
    let n = u64::from(case.all.in_transaction);
    (n > 0).then(|| {
        format!(
            "{n} of them {} idle in a transaction of PostgreSQL: what was begun was neither committed nor \
             rolled back.",
            plural(n, "is", "are")
        )
    })
}

/// Which answers leak, where their heads could be read, and whether that explains the leak: errors
/// do, and most requests have other answers.
fn statuses(case: &Case<'_>) -> Option<(bool, String)> {
    let tally = &case.state.tally;
    let mut statuses = tally.statuses;
    if case.mask.has(Class::Parked) {
        statuses.merge(&tally.parked_statuses);
    }
    let counts = statuses.counts();
    let known: u32 = counts.iter().map(|&(_, n)| n).sum();
    let errors: u32 = counts.iter().filter(|(s, _)| *s >= 400).map(|c| c.1).sum();
    let requests = case.requests.max(u64::from(known));
    let noun = plural(requests, "request", "requests");
    let explains = u64::from(known) * 2 <= requests && errors * 10 >= known * 9;
    let cause = match explains {
        true => " The path that deals with errors does not close the connection.",
        false => "",
    };
    let told = match counts.as_slice() {
        [] => return None,
        &[(status, n)] => format!("{n} of {requests} {noun} leaked, all with status {status}."),
        several => {
            let list: Vec<String> = several
                .iter()
                .map(|(status, n)| format!("{n} with status {status}"))
                .collect();
            let list = list.join(", ");
            format!("{known} of {requests} {noun} leaked: {list}.")
        }
    };
    Some((explains && errors > 0, told + cause))
}

fn ground(case: &Case<'_>) -> String {
    match case.fit.ground {
        Ground::Growth(t) => format!(
            "Their number grew by {:.1} per minute over {} (half of all slopes lie between {:.1} and \
             {:.1}), up to the end of the watch (steadiness {:.2} of 1).",
            t.per_minute,
            seconds(t.seconds),
            t.between.0,
            t.between.1,
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
