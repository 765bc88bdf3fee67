//! Every threshold of the engine, each with its reason.
//!
//! Where a reason names a history, it is one of the corpus (`engine/corpus`): the value was set so
//! that this history and its opposite are told apart, with room on both sides.

use crate::model::Confidence;

const SECOND: u64 = 1_000_000_000;

/// What the engine takes for granted about healthy programs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Fewest survivors that growth may be concluded from. Four connections are an ordinary pool;
    /// a fifth that comes as late as the others came apart is no accident any more.
    pub min_survivors: u32,
    /// Fewest separate seconds those survivors must have been opened in: a burst is one event,
    /// however many connections it opens.
    pub min_intervals: u32,
    /// Populations kept at one time; connections of further ones are counted as overflow. One takes
    /// up to 25 kB, so that this is 200 MB when all of them grow.
    pub max_cohorts: usize,
    /// Without a transfer for this long a connection is idle, nanoseconds: longer than one answer
    /// takes, shorter than the interval of the slowest leaks that must be found within a minute.
    pub idle_ns: u64,
    /// Unread bytes, an open body or a half-shut socket are suspicious after this long without
    /// a transfer, nanoseconds. A consumer that is merely busy comes back sooner.
    pub stuck_ns: u64,
    /// A peer's close is overdue for an answer after this long, nanoseconds: the program was told,
    /// and has only to call close.
    pub close_wait_ns: u64,
    /// Proof per connection must have lasted this long where nothing grows, nanoseconds.
    pub standing_ns: u64,
    /// A request that waits for its answer this long counts as abandoned where answers do come to
    /// others, nanoseconds: most clients give up after 30 s, servers after 60 s.
    pub waiting_ns: u64,
    /// The same where none of the population was ever answered or ended, nanoseconds: a slow server
    /// ends what waits for it, so its callers' number levels off.
    pub unanswered_ns: u64,
    /// A client that reuses more than one connection in this many is no client per request.
    pub reuse_one_in: u32,
    /// One in this many of a server's connections closed lately: its clients come and go, and its
    /// idle ones are theirs.
    pub going_one_in: u64,
    /// A kind names a finding only when it covers at least one in this many of what outlived.
    pub naming_one_in: u32,
    /// An empty population is forgotten after this long, nanoseconds: an hour holds the slowest
    /// batch job whose connections should be seen as one population.
    pub forget_ns: u64,
    /// A suspicion that comes again within this time is the same one, nanoseconds.
    pub cleared_for_ns: u64,
    /// How a series must look to be called growth.
    pub shape: Shape,
    /// What ordinary growth needs.
    pub ordinary: Growing,
    /// Streams that keep arriving: they are in use, so a high confidence takes longer.
    pub streaming: Growing,
    /// Idle connections of a server: the clients may be many and slow.
    pub accepting: Growing,
    /// Accepted connections beside others that are closed at once.
    pub forgotten: Growing,
    /// Those are idle for this many times as long as the others live: a factor that no slow client
    /// makes up for.
    pub forgotten_times: u64,
    /// Connections that are reused: a pool that warms up under load looks the same for a minute.
    pub pooled: Growing,
    /// So many entries that are used as often as ever, and more all the time: few pools have a bound
    /// beyond this.
    pub pooled_in_use: u32,
    /// Requests without an answer.
    pub unanswered: Growing,
    /// A level at which timeouts hold what is used once and replaced.
    pub plateau: Plateau,
    /// What connections look like that a pool does not get back.
    pub parked: Parked,
    /// What a whole process needs before it is a finding by itself.
    pub process: WholeProcess,
}

/// How a series must look to be called growth.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Fewest samples a trend is read from: three points lie on a line too easily.
    pub min_samples: usize,
    /// Least (rising pairs − falling pairs) / all pairs. Noise gives 0 ± 0.2 at ten samples, a leak
    /// beside a third as many closings 0.7.
    pub min_concordance: f64,
    /// The same for a high confidence.
    pub high_concordance: f64,
    /// The same for a low confidence, which rests on little else.
    pub low_concordance: f64,
    /// The last third must rise at least this share of what the second third rose: a pool that
    /// fills up flattens.
    pub late_share: f64,
    /// Least rise between the means of the first and last third.
    pub least_rise: f64,
    /// The last value must be this share of the peak: what fell away at the end was in use.
    pub end_of_peak: f64,
    /// Share of the survivors that must be at least a third of the watch old: less is mere
    /// replacement.
    pub old_share: f64,
    /// Share of the rise that must have been opened meanwhile, not only have changed its condition.
    pub born_share: f64,
    /// A connection enters a class up to this long after it was opened, seconds.
    pub ripening_s: f64,
    /// Where the whole population above (all call sites of a remote, all remotes of a call site,
    /// the process) moved by less than this share of a part's growth, its own deaths explain that
    /// part's births: it was replaced.
    pub replaced_share: f64,
    /// The same in connections: one is closed a moment before its successor opens.
    pub replaced_least: f64,
    /// Fewest closings that a usual lifetime is read from.
    pub lifetimes_least: u64,
    /// Where most are closed, a survivor must be older than this many usual lifetimes: load that
    /// rises keeps more connections open, each for as long as before.
    pub lifetimes: f64,
    /// Fewest survivors for a high confidence.
    pub high_survivors: u32,
    /// Fall that ends a tooth of a sawtooth, in connections.
    pub tooth_least: f64,
    /// The same as a share of the value before.
    pub tooth_share: f64,
    /// A tooth's climb must be this steady.
    pub tooth_concordance: f64,
    /// Share of the time that climbs must cover.
    pub tooth_cover: f64,
}

/// What a growth rule asks for beyond the survivors and intervals of the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growing {
    /// Shorter series give low confidence, seconds.
    pub medium_seconds: f64,
    /// Longer ones, if steep and steady, give high confidence, seconds.
    pub high_seconds: f64,
    /// Fewest survivors for more than low confidence.
    pub medium_survivors: u32,
    /// Best confidence this rule can give.
    pub ceiling: Confidence,
    /// Low confidence is worth a word; otherwise it is left unsaid.
    pub speak_low: bool,
}

/// A level at which timeouts hold what is used once and replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plateau {
    /// Fewest connections: a browser-like client may keep six to a host.
    pub least: u32,
    /// Fewest separate seconds they were opened in.
    pub intervals: u32,
    /// The oldest has been idle for at least this long, seconds.
    pub idle_s: f64,
    /// Fewest that were closed lately: without closings it would be growth.
    pub closed: u64,
    /// For this long half of [`Plateau::least`] must have been there, seconds.
    pub held_s: f64,
}

/// What connections look like that were used for a while and are not given back to their pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parked {
    /// Idle for this many times as long as it was between its uses so far: gaps that come at random
    /// exceed it one time in e³ = 20, those of a steady rhythm never.
    pub gaps: u64,
    /// So many standard deviations beyond that share, of all that are reused, are no chance.
    pub deviations: f64,
    /// Share of them that must have been idle when the youngest was opened: a pool that has an idle
    /// connection opens none, but pools of several threads pass each other's over.
    pub passed_over: f64,
    /// The longest idle one must be so for this long, seconds: threads that poll every ten or
    /// fifteen seconds use theirs again before.
    pub longest_s: f64,
    /// This long, seconds, ...
    pub long_s: f64,
    /// ... this share of them.
    pub long_share: f64,
}

/// What a whole process needs before it is a finding by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WholeProcess {
    /// Fewest survivors: many small, healthy things may each rise by one or two at a time.
    pub survivors: u32,
    /// Shortest series, seconds.
    pub seconds: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        let ordinary = Growing {
            medium_seconds: 8.0,
            high_seconds: 12.0,
            medium_survivors: 5,
            ceiling: Confidence::High,
            speak_low: true,
        };
        Settings {
            min_survivors: 5,
            min_intervals: 3,
            max_cohorts: 8192,
            idle_ns: 2 * SECOND,
            stuck_ns: 5 * SECOND,
            close_wait_ns: 3 * SECOND,
            standing_ns: 10 * SECOND,
            waiting_ns: 60 * SECOND,
            unanswered_ns: 30 * SECOND,
            reuse_one_in: 10,
            going_one_in: 10,
            naming_one_in: 5,
            forget_ns: 3600 * SECOND,
            cleared_for_ns: 60 * SECOND,
            shape: Shape::default(),
            ordinary,
            streaming: Growing {
                medium_seconds: 6.0,
                high_seconds: 30.0,
                ..ordinary
            },
            accepting: Growing {
                medium_seconds: 10.0,
                high_seconds: 120.0,
                medium_survivors: 8,
                ..ordinary
            },
            forgotten: Growing {
                medium_seconds: 30.0,
                high_seconds: 300.0,
                medium_survivors: 10,
                ..ordinary
            },
            forgotten_times: 100,
            pooled: Growing {
                medium_seconds: 60.0,
                high_seconds: 600.0,
                medium_survivors: 20,
                ceiling: Confidence::Medium,
                speak_low: false,
            },
            pooled_in_use: 50,
            unanswered: Growing {
                medium_seconds: 20.0,
                high_seconds: 60.0,
                medium_survivors: 8,
                ..ordinary
            },
            plateau: Plateau {
                least: 10,
                intervals: 6,
                idle_s: 10.0,
                closed: 5,
                held_s: 20.0,
            },
            parked: Parked {
                gaps: 3,
                deviations: 3.0,
                passed_over: 0.8,
                longest_s: 20.0,
                long_s: 12.0,
                long_share: 0.3,
            },
            process: WholeProcess {
                survivors: 20,
                seconds: 60.0,
            },
        }
    }
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            min_samples: 4,
            min_concordance: 0.6,
            high_concordance: 0.75,
            low_concordance: 0.8,
            late_share: 0.4,
            least_rise: 1.5,
            end_of_peak: 0.6,
            old_share: 0.25,
            born_share: 0.5,
            ripening_s: 6.0,
            replaced_share: 0.3,
            replaced_least: 2.0,
            lifetimes_least: 10,
            lifetimes: 1.5,
            high_survivors: 10,
            tooth_least: 5.0,
            tooth_share: 0.4,
            tooth_concordance: 0.8,
            tooth_cover: 0.6,
        }
    }
}
