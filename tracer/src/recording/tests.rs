#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{Arc, Mutex},
};

use proptest::prelude::*;

use super::{Answer, FORMAT, Fault, Header, Named, Shown, Tape, connection::tests::member, replay};
use crate::{
    engine::{Engine, Lineage, Settings},
    findings::{Authority, Identity, Lives, Suspect},
    model::{Cohort, CohortId, Connection, Ended, Protocol, Remote, Role, StackOf},
    report::{Report, Verdict},
    samples,
};

const SECOND: u64 = 1_000_000_000;
const LEAF: CohortId = CohortId(3);

/// A file in memory that can be looked at while it is written.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn begin() -> (Memory, Tape, Engine) {
    let file = Memory::default();
    let header = Header {
        tracer: "1.2.3".to_owned(),
        target: "app".to_owned(),
    };
    let tape = Tape::begin(Box::new(file.clone()), &header).unwrap();
    let mut engine = Engine::new(Settings::default());
    engine.observed_by(Box::new(tape.clone()));
    (file, tape, engine)
}

fn cohort() -> (Cohort, Identity) {
    let process = crate::model::Process {
        pid: 4711,
        ns_pid: None,
        start_ticks: 7,
        comm: "app".to_owned(),
        exe: Some("/app".to_owned()),
        runtime: None,
        container_id: None,
        pod_uid: None,
    };
    let remote = Remote {
        family: crate::model::Family::Tcp4,
        address: "10.0.0.1:80".to_owned(),
        host: None,
        url: Some("http://10.0.0.1/a/{}".to_owned()),
        peer: None,
        resolved: None,
        in_cluster: None,
    };
    let cohort = Cohort {
        process: Arc::new(process),
        site: None,
        site_of: StackOf::Connect,
        opener: None,
        remote: Arc::new(remote),
        role: Role::Client,
    };
    let authority = Authority::Address("10.0.0.1:80".to_owned());
    (cohort, Identity::leaf(None, Role::Client, authority))
}

fn answer(engine: &mut Engine, tape: &Tape) -> Report {
    let judgements = engine.judge();
    let (cohort, identity) = cohort();
    let suspects = judgements.iter().map(|judgement| {
        Shown::of(&Suspect {
            judgement: judgement.clone(),
            cohort: cohort.clone(),
            identity: identity.clone(),
            examples: vec!["GET http://10.0.0.1/a/4711".to_owned()],
            callers: Vec::new(),
            called_by: Vec::new(),
            go: None,
            pod: None,
        })
    });
    let mut coverage = samples::report().coverage.unwrap_or_default();
    coverage.lost_events = 0;
    let answer = Answer {
        started_at: samples::start(),
        started_ns: SECOND,
        ended_ns: 61 * SECOND + 123_456_789,
        now_ns: 61 * SECOND + 123_456_790,
        coverage,
        resources: Vec::new(),
        brief: Vec::new(),
        unsettled: vec!["Something was not seen.".to_owned()],
        pairs: vec![(CohortId(8), CohortId(9))],
        cohorts: vec![(LEAF, Named::of(&cohort, &identity, &[]).without_url())],
        suspects: suspects.collect(),
        lives: Lives::default(),
        told_at: samples::start(),
        because: BTreeMap::new(),
    };
    tape.answer(answer.clone());
    answer.report(engine, judgements)
}

/// A connection that carried one request when it was opened.
fn used_once(sk: u64, opened_ns: u64) -> Connection {
    Connection {
        sk,
        opened_ns,
        sent_ns: Some(opened_ns + 1_000_000),
        received_ns: Some(opened_ns + 2_000_000),
        turn_ns: Some(opened_ns + 1_000_000),
        turns: 1,
        connected: true,
        protocol: Protocol::Http,
        ..super::connection::unknown(0).connection
    }
}

/// A minute in which a connection a second is opened and every second one stays.
fn leak() -> (Vec<u8>, Report) {
    let (file, tape, mut engine) = begin();
    let lineage = Lineage {
        site: CohortId(4),
        authority: CohortId(5),
        process: CohortId(6),
        sited: false,
        pairs: false,
    };
    for second in 1..=60u64 {
        let now_ns = second * SECOND;
        engine.begin_sweep(now_ns, second % 3 == 1);
        // as a table would: in another order each time
        for at in (1..=second).rev().filter(|at| at % 2 == 0 || *at == second) {
            let connection = used_once(at * 64, at * SECOND);
            engine.observe(LEAF, Role::Client, &connection);
        }
        if second == 1 {
            engine.enroll(LEAF, Role::Client, lineage);
        }
        let ended = Ended {
            count: second % 2,
            lifetime_ns: SECOND,
            turns: 1,
        };
        engine.ended(LEAF, Role::Client, &ended);
        engine.end_sweep();
        if second % 20 == 0 {
            engine.judge();
        }
    }
    let report = answer(&mut engine, &tape);
    // what comes after the answer is no part of it
    engine.begin_sweep(62 * SECOND, true);
    engine.end_sweep();
    tape.finish().unwrap();
    let bytes = file.0.lock().unwrap().clone();
    (bytes, report)
}

fn text(report: &Report) -> String {
    serde_json::to_string_pretty(report).unwrap()
}

#[test]
fn a_replay_says_the_same_byte_for_byte() {
    let (bytes, report) = leak();
    assert_eq!(report.verdict, Verdict::Leak);
    assert!(bytes.len() < 3000, "{}", bytes.len());
    let replayed = replay(bytes.as_slice(), |_, _| ()).unwrap();
    assert_eq!(text(&replayed.report), text(&report));
    assert_eq!(replayed.header.target, "app");
    let remote = &report.findings[0].remote;
    assert!(remote.examples.is_empty(), "{remote:?}");
}

#[test]
fn a_part_of_a_recording_is_refused_wherever_it_was_cut() {
    let (bytes, _) = leak();
    for len in 0..bytes.len() {
        let fault = replay(&bytes[..len], |_, _| ()).unwrap_err();
        match len {
            0 => assert!(matches!(fault, Fault::Foreign), "{fault}"),
            _ => assert!(matches!(fault, Fault::CutOff), "{len}: {fault}"),
        }
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    let fault = replay(longer.as_slice(), |_, _| ()).unwrap_err();
    assert!(matches!(fault, Fault::Malformed(_)), "{fault}");
}

#[test]
fn other_files_and_other_formats_are_told_apart() {
    let says = |bytes: &[u8]| replay(bytes, |_, _| ()).unwrap_err().to_string();
    assert!(says(b"{\"schema\": 1}").contains("no recording of tracer"));
    assert!(says(b"tracer recording 99\nwhatever").contains("has format 99"));
    assert!(says(b"tracer recording x").contains("no recording"));
    let damaged = format!("tracer recording {FORMAT}\nnot compressed");
    assert!(says(damaged.as_bytes()).contains("damaged"));
}

#[test]
fn a_recording_without_a_report_says_so() {
    let (file, tape, mut engine) = begin();
    engine.begin_sweep(SECOND, true);
    engine.end_sweep();
    tape.finish().unwrap();
    let bytes = file.0.lock().unwrap().clone();
    let fault = replay(bytes.as_slice(), |_, _| ()).unwrap_err();
    assert!(matches!(fault, Fault::NoAnswer), "{fault}");
}

#[test]
fn a_full_disk_is_told_at_the_end() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len() {
                ..100 => Ok(bytes.len()),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tape = Tape::begin(Box::new(Full), &Header::default()).unwrap();
    let mut engine = Engine::new(Settings::default());
    engine.observed_by(Box::new(tape.clone()));
    for second in 0..400u64 {
        engine.begin_sweep(second * second * SECOND, true);
        let sk = second.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        engine.observe(LEAF, Role::Client, &used_once(sk, sk >> 8));
        engine.end_sweep();
    }
    let error = tape.finish().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an engine is told, one that is told the recording knows the same.
    #[test]
    fn an_engine_told_the_recording_knows_the_same(
        sweeps in proptest::collection::vec(
            (0..5_000_000_000u64, any::<bool>(), proptest::collection::vec((0..12u64, member(0)), 0..8)),
            1..20,
        )
    ) {
        let (file, tape, mut engine) = begin();
        let mut now_ns = 1 << 60;
        for (step, reconciled, seen) in &sweeps {
            now_ns += step;
            engine.begin_sweep(now_ns, *reconciled);
            for (sk, member) in seen {
                let c = Connection { sk: *sk, ..member.connection };
                let leaf = CohortId(member.leaf.0 % 3);
                engine.observe(leaf, member.role, &c);
            }
            engine.collected(CohortId(1), Role::Client, *step % 2);
            if step % 5 > 0 {
                engine.end_sweep();
            }
        }
        let report = answer(&mut engine, &tape);
        tape.finish().unwrap();
        let bytes = file.0.lock().unwrap().clone();
        let replayed = replay(bytes.as_slice(), |_, _| ()).unwrap();
        prop_assert_eq!(text(&replayed.report), text(&report));
    }

    #[test]
    fn any_change_of_a_recording_is_refused_or_judged(at in 0..4000usize, bit in 0..8u32) {
        let (mut bytes, _) = leak();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = replay(bytes.as_slice(), |_, _| ());
    }
}
