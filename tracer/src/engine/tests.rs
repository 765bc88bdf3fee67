//! What the engine promises beside its verdicts.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Engine, Judgement, Level, Lineage, Settings, State, explain_servers};
use crate::model::{
    CohortId, Confidence, Connection, Ended, Framing, Holder, Kind, PoolState, Protocol,
    ResponseState, Role,
};

const SECOND: u64 = 1_000_000_000;

fn idle(sk: u64, opened_ns: u64) -> Connection {
    Connection {
        sk,
        opened_ns,
        connected: true,
        ..Connection::default()
    }
}

/// A leak of two connections a second, watched for `seconds`.
fn leak(seconds: u64, reconciled: bool, backwards: bool) -> Engine {
    let mut engine = Engine::new(Settings::default());
    for s in 0..=seconds {
        engine.begin_sweep(s * SECOND, reconciled);
        let mut live: Vec<u64> = (0..2 * s).collect();
        if backwards {
            live.reverse();
        }
        for i in live {
            engine.observe(CohortId(1), Role::Client, &idle(i, i * SECOND / 2));
        }
        engine.end_sweep();
    }
    engine
}

#[test]
fn connections_closed_by_the_garbage_collector_are_proof_at_any_level() {
    let mut engine = Engine::new(Settings::default());
    for s in 0..20 {
        engine.begin_sweep(s * SECOND, true);
        let ended = Ended {
            count: 1,
            lifetime_ns: SECOND,
            turns: 0,
        };
        engine.ended(CohortId(1), Role::Client, &ended);
        if s == 15 {
            assert_eq!(engine.judge().len(), 0);
        }
        if s > 15 {
            engine.collected(CohortId(1), Role::Client, 2);
        }
        engine.end_sweep();
    }
    let judged = engine.judge();
    assert_eq!(judged.len(), 1);
    assert_eq!(judged[0].kind, Kind::NeverClosed);
    assert_eq!(judged[0].confidence, Confidence::High);
    assert!(judged[0].evidence.iter().any(|e| e.starts_with("8 of 20 ")));
}

#[test]
fn order_within_a_sweep_does_not_matter() {
    let (mut a, mut b) = (leak(30, true, false), leak(30, true, true));
    let judged = a.judge();
    assert_eq!(judged.len(), 1);
    assert_eq!(judged, b.judge());
    assert_eq!(judged, a.judge());
}

#[test]
fn numbers_are_those_of_the_history() {
    let judged = leak(30, true, false).judge();
    let [j] = judged.as_slice() else {
        panic!("{judged:?}");
    };
    assert_eq!(
        (j.kind, j.confidence),
        (Kind::NeverClosed, Confidence::High)
    );
    assert_eq!(j.connections.open, 60);
    assert_eq!(j.connections.opened, 60);
    assert_eq!(j.connections.closed, 0);
    assert_eq!(j.connections.peak_open, 60);
    // All but the youngest, which are not idle yet.
    assert_eq!(j.connections.outlived, 57);
    assert!((j.growth_per_minute - 120.0).abs() < 2.0, "{j:?}");
    assert_eq!(j.oldest_opened_ns, Some(0));
    assert_eq!((j.requests, j.leaked_per_request), (0, 0.0));
    assert_eq!(j.settle_seconds, None);
}

#[test]
fn nothing_is_certain_before_the_kernels_lists_agree() {
    let judged = leak(30, false, false).judge();
    assert_eq!(judged[0].confidence, Confidence::Low);
}

#[test]
fn a_watch_too_short_says_how_long_it_would_take() {
    let judged = leak(7, true, false).judge();
    let [j] = judged.as_slice() else {
        panic!("{judged:?}");
    };
    assert_eq!(j.confidence, Confidence::Low);
    let settle = j.settle_seconds.unwrap_or(0.0);
    assert!((1.0..30.0).contains(&settle), "{settle}");
    let longer = 7 + settle.ceil() as u64;
    assert!(leak(longer, true, false).judge()[0].confidence > Confidence::Low);
}

#[test]
fn first_seen_stays_when_the_verdict_is_repeated() {
    let mut engine = leak(30, true, false);
    let first = engine.judge()[0].first_seen_ns;
    engine.begin_sweep(31 * SECOND, true);
    for i in 0..62 {
        engine.observe(CohortId(1), Role::Client, &idle(i, i * SECOND / 2));
    }
    engine.end_sweep();
    assert_eq!(engine.judge()[0].first_seen_ns, first);
}

/// One more sweep at `second`, in which `open` connections are there and `closed` ended.
fn sweep(engine: &mut Engine, second: u64, open: std::ops::Range<u64>, closed: u64) {
    engine.begin_sweep(second * SECOND, true);
    for i in open {
        engine.observe(CohortId(1), Role::Client, &idle(i, i * SECOND / 2));
    }
    let ended = Ended {
        count: closed,
        lifetime_ns: closed * SECOND,
        turns: 0,
    };
    engine.ended(CohortId(1), Role::Client, &ended);
    engine.end_sweep();
}

fn because(engine: &mut Engine) -> Vec<String> {
    let judged = engine.judge();
    let over = engine.over(&judged).into_iter();
    over.map(|over| over.because).collect()
}

#[test]
fn what_was_suspected_and_is_closed_is_over_with_the_reason() {
    let mut engine = leak(30, true, false);
    assert_eq!(because(&mut engine), [""; 0]);
    // It goes on: nothing is over.
    sweep(&mut engine, 31, 0..62, 0);
    assert_eq!(because(&mut engine), [""; 0]);
    sweep(&mut engine, 32, 0..0, 62);
    let told = because(&mut engine);
    assert_eq!(
        told,
        ["None is open any more: 62 connections were closed since."]
    );
    // It stays said.
    sweep(&mut engine, 33, 0..0, 0);
    assert_eq!(because(&mut engine), told);
    // It begins again.
    for second in 34..80 {
        sweep(&mut engine, second, 68..2 * second, 0);
    }
    assert_eq!(because(&mut engine), [""; 0]);
}

#[test]
fn what_only_looked_like_a_leak_is_taken_back_with_the_reason() {
    let mut engine = leak(30, true, false);
    assert_eq!(engine.judge().len(), 1);
    for second in 31..120 {
        engine.begin_sweep(second * SECOND, true);
        for i in 0..60 {
            let used = Connection {
                turns: u32::try_from(second).unwrap_or(0),
                sent_ns: Some(second * SECOND - SECOND / 2),
                received_ns: Some(second * SECOND - SECOND / 4),
                turn_ns: Some(second * SECOND - SECOND / 2),
                ..idle(i, i * SECOND / 2)
            };
            engine.observe(CohortId(1), Role::Client, &used);
        }
        engine.end_sweep();
    }
    let told = because(&mut engine);
    assert_eq!(
        told,
        ["It turned out to be no leak: pool of 60, used 7140 times."]
    );
}

#[test]
fn where_only_errors_leak_the_evidence_says_so_first() {
    let mut engine = Engine::new(Settings::default());
    let refused = ResponseState {
        status: 503,
        upgraded: false,
        framing: Framing::Length,
        complete: false,
    };
    for second in 1..=40 {
        let now_ns = second * SECOND;
        engine.begin_sweep(now_ns, true);
        for i in 1..=second {
            let begun_ns = i * SECOND - SECOND / 2;
            let kept = Connection {
                sent_ns: Some(begun_ns),
                received_ns: Some(begun_ns),
                turn_ns: Some(begun_ns),
                turns: 1,
                unread: 3_000,
                protocol: Protocol::Http,
                response: Some(refused),
                ..idle(i, begun_ns)
            };
            engine.observe(CohortId(1), Role::Client, &kept);
        }
        let good = Ended {
            count: 3,
            lifetime_ns: SECOND / 4,
            turns: 3,
        };
        engine.ended(CohortId(1), Role::Client, &good);
        engine.end_sweep();
    }
    let judged = engine.judge();
    let told: Vec<&str> = judged
        .iter()
        .filter_map(|j| j.evidence.get(1))
        .map(String::as_str)
        .collect();
    let [told] = told.as_slice() else {
        panic!("{judged:?}");
    };
    assert!(
        told.contains(" of 160 requests leaked, all with status 503. The path that deals with"),
        "{told}"
    );
    assert_eq!(judged[0].responses.first().map(|r| r.0), Some(503));
}

#[test]
fn what_is_left_in_a_transaction_is_said_to_be() {
    let mut engine = Engine::new(Settings::default());
    for second in 1..=40 {
        engine.begin_sweep(second * SECOND, true);
        for i in 1..=second {
            let kept = Connection {
                in_transaction: i % 2 == 0,
                ..idle(i, i * SECOND - SECOND / 2)
            };
            engine.observe(CohortId(1), Role::Client, &kept);
        }
        engine.end_sweep();
    }
    let judged = engine.judge();
    let [judgement] = judged.as_slice() else {
        panic!("{judged:?}");
    };
    let told = &judgement.evidence[1];
    assert!(
        told.ends_with("of them are idle in a transaction of PostgreSQL: what was begun was neither committed nor rolled back."),
        "{told}"
    );
}

#[test]
fn too_many_cohorts_are_counted_and_cost_nothing() {
    let mut engine = Engine::new(Settings {
        max_cohorts: 10,
        ..Settings::default()
    });
    engine.begin_sweep(SECOND, true);
    for i in 0..25 {
        engine.observe(CohortId(i), Role::Client, &idle(u64::from(i), 0));
    }
    let one = Ended {
        count: 1,
        lifetime_ns: 1,
        turns: 1,
    };
    engine.ended(CohortId(99), Role::Client, &one);
    engine.end_sweep();
    // a quarter is for what they are parts of
    assert_eq!(engine.overflow(), 19);
    assert!(engine.connections(CohortId(6)).is_some());
    assert!(engine.connections(CohortId(7)).is_none());
}

#[test]
fn what_finds_no_room_counts_for_its_process() {
    let mut engine = Engine::new(Settings {
        max_cohorts: 8,
        ..Settings::default()
    });
    let process = CohortId(1_000);
    for second in 1..=120u32 {
        engine.begin_sweep(u64::from(second) * SECOND, true);
        for i in 0..second {
            let lineage = Lineage {
                site: CohortId(2_000 + i),
                authority: CohortId(3_000 + i),
                process,
                sited: true,
                pairs: false,
            };
            if i + 1 == second {
                engine.enroll(CohortId(i), Role::Client, lineage);
            }
            let opened_ns = u64::from(i) * SECOND;
            engine.observe(CohortId(i), Role::Client, &idle(u64::from(i), opened_ns));
        }
        engine.end_sweep();
    }
    let whole = engine.connections(process).map(|counts| counts.open);
    assert_eq!(whole, Some(120));
    let judged = engine.judge();
    let [judgement] = judged.as_slice() else {
        panic!("{judged:?}");
    };
    assert_eq!(
        (judgement.level, judgement.confidence),
        (Level::Process, Confidence::Medium)
    );
}

#[test]
fn what_finds_room_later_is_a_part_of_its_process_still() {
    let mut engine = Engine::new(Settings {
        max_cohorts: 16,
        ..Settings::default()
    });
    let lineage = |leaf: u32| Lineage {
        site: CohortId(2_000),
        authority: CohortId(3_000),
        process: CohortId(1_000 + leaf / 100),
        sited: true,
        pairs: false,
    };
    let mut sweep = |second: u64, leaves: std::ops::Range<u32>| {
        engine.begin_sweep(second * SECOND, true);
        for leaf in leaves {
            if second == 1 {
                engine.enroll(CohortId(leaf), Role::Client, lineage(leaf));
            }
            let connection = idle(u64::from(leaf), 0);
            engine.observe(CohortId(leaf), Role::Client, &connection);
        }
        engine.end_sweep();
        let open = |id| engine.connections(CohortId(id)).map(|counts| counts.open);
        (open(1_000), open(1_001))
    };
    // twelve of them find room, and four places are left for what they are parts of
    assert_eq!(sweep(1, 97..112), (Some(3), Some(12)));
    // the others have gone: once they are forgotten, it is kept by itself
    assert_eq!(sweep(2, 111..112).1, Some(1));
    assert_eq!(sweep(3, 111..112), (None, Some(1)));
    assert!(engine.connections(CohortId(111)).is_some());
}

#[test]
fn memory_is_per_cohort() {
    // With 8192 cohorts at most, and without their series, this is 40 MB.
    assert!(size_of::<State>() <= 5 << 10, "{}", size_of::<State>());
    let mut engine = Engine::new(Settings::default());
    for s in 0..300u64 {
        engine.begin_sweep(s * SECOND, true);
        for i in 0..10 {
            engine.observe(CohortId(1), Role::Client, &idle(i, 0));
        }
        engine.end_sweep();
    }
    let state = &engine.cohorts[&CohortId(1)];
    assert!((0..4).all(|level| state.history.points(level) <= 64));
}

#[test]
fn a_client_that_leaks_excuses_the_server() {
    let client = leak(30, true, false).judge()[0].clone();
    let server = |kind| Judgement {
        cohort: CohortId(2),
        members: vec![CohortId(2)],
        kind,
        ..client.clone()
    };
    let pairs = [(CohortId(2), CohortId(1))];
    let mut judged = vec![client.clone(), server(Kind::AcceptedNeverClosed)];
    explain_servers(&mut judged, &pairs);
    assert_eq!(judged.len(), 1);
    let mut judged = vec![client.clone(), server(Kind::CloseWait)];
    explain_servers(&mut judged, &pairs);
    assert_eq!(judged.len(), 2);
    let mut judged = vec![client.clone(), server(Kind::AcceptedNeverClosed)];
    explain_servers(&mut judged, &[]);
    assert_eq!(judged.len(), 2);
}

/// A million live connections in one cohort: the counts are right, and the state no larger.
#[test]
fn a_million_connections() {
    let mut engine = Engine::new(Settings::default());
    for s in [10, 11] {
        engine.begin_sweep(s * SECOND, true);
        for i in 0..1_000_000 {
            engine.observe(CohortId(1), Role::Client, &idle(i, i * 1000));
        }
        engine.end_sweep();
    }
    let counts = engine.connections(CohortId(1)).unwrap_or_default();
    assert_eq!((counts.open, counts.outlived), (1_000_000, 1_000_000));
    assert_eq!(engine.candidates(), 1);
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let time = || prop_oneof![Just(0), Just(u64::MAX), 0..200 * SECOND];
    let moment = move || proptest::option::of(time());
    let holder = prop_oneof![
        Just(Holder::Opener),
        any::<u32>().prop_map(Holder::Other),
        Just(Holder::Nobody),
        Just(Holder::Unknown),
    ];
    let pool = prop_oneof![
        Just(PoolState::Unknown),
        Just(PoolState::InFlight),
        Just(PoolState::Response),
        Just(PoolState::Reading),
        Just(PoolState::Idle),
        Just(PoolState::Released),
    ];
    let times = (time(), moment(), moment(), moment(), moment());
    let flags = Arc::new((any::<[bool; 5]>(), any::<u16>()));
    (times, any::<u32>(), any::<u32>(), holder, pool, flags).prop_map(
        |(
            (opened_ns, sent_ns, received_ns, turn_ns, peer_closed_ns),
            turns,
            unread,
            holder,
            pool,
            (f, error),
        )| {
            Connection {
                sent_ns,
                received_ns,
                turn_ns,
                peer_closed_ns,
                turns,
                unread,
                holder,
                pool,
                error,
                connected: f[0],
                reset: f[1],
                shutdown: f[2],
                preexisting: f[3],
                last_was_send: f[4],
                ..idle(1, opened_ns)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_history_is_survived(
        sweeps in proptest::collection::vec(
            (0..30 * SECOND, proptest::collection::vec(any_connection(), 0..40)),
            1..30,
        ),
        server in any::<bool>(),
    ) {
        let role = if server { Role::Server } else { Role::Client };
        let mut engine = Engine::new(Settings::default());
        let mut now = 0;
        for (step, connections) in &sweeps {
            now += step;
            engine.begin_sweep(now, true);
            for c in connections {
                engine.observe(CohortId(1), role, c);
            }
            engine.ended(CohortId(1), role, &Ended { count: 1, lifetime_ns: *step, turns: 1 });
            engine.end_sweep();
            for j in engine.judge() {
                prop_assert!(j.connections.outlived <= j.connections.open);
                prop_assert!(j.growth_per_minute.is_finite() && j.growth_per_minute >= 0.0);
                prop_assert!(!j.also.contains(&j.kind));
                prop_assert!(!j.evidence.is_empty());
            }
        }
    }
}
