//! The report as people read it, by example.

use super::*;
use crate::{cli::finding::Detail, model::StackQuality, samples};

#[test]
fn a_leak_is_told_in_the_order_of_the_readers_questions() {
    let shown = report(&samples::report(), Style::plain(Detail::Short, 100));
    let expected = "\
LEAK  1 finding, watched for 60s

1. response_body_not_closed, high confidence  id 3f9a1c2b4d5e6f70
   at      main.fetch /src/main.go:24
   called  by main.main /src/main.go:40
   to      http://127.0.0.1:8080/v2/{}/tags/list
           GET http://127.0.0.1:8080/v2/app/tags/list
   by      app, pid 4711 (7 in its container), go1.27.3
   count   820 outlived of 820 open, +16.4/min, 0.91 per request, oldest 60s; 900 opened, 80 closed
   until   descriptors (752 of 1024 used) run out in 1h 25m at this growth
   because - 820 responses began and none of their bodies was finished or closed.
   do      Close the response body on every path: `defer resp.Body.Close()`.
   e.g.    defer resp.Body.Close()

Limits
  pid 4711: 28232 of 28232 ports to 10.0.0.7:443, exhausted
  pid 4711: connect failed with EADDRNOTAVAIL 16 times

Coverage
  - hooks: tracepoint or better; 912 sockets seen, 832 tracked, 1 without owner or stack; nothing
    lost
  - ring_full: 3
  - not seen: UNIX closes are seen at sweeps only: fentry is refused.
";
    assert_eq!(shown, expected, "{shown}");
}

#[test]
fn a_finding_without_stack_or_url_is_still_told() {
    let mut one = samples::finding();
    one.call_site = None;
    one.stack = vec![];
    one.stack_quality = StackQuality::None;
    one.stack_of = None;
    one.remote.url = None;
    one.remote.examples = vec![];
    one.oldest_opened_at = None;
    one.growth_per_minute = 0.0;
    let mut out = String::new();
    let style = Style::plain(Detail::Full, 100);
    finding(&mut out, &one, None, samples::start(), &[], style);
    assert!(out.contains("unknown: no stack could be taken"), "{out}");
    assert!(out.contains("127.0.0.1:8080"), "{out}");
    assert!(out.contains("not growing"), "{out}");
}

#[test]
fn an_inconclusive_result_says_why_and_what_would_settle_it() {
    let mut unsure = samples::report();
    unsure.verdict = Verdict::Inconclusive;
    unsure.findings.clear();
    unsure.inconclusive_because = vec!["The target ended after 3s.".to_owned()];
    unsure.settle_seconds = Some(90.0);
    let shown = report(&unsure, Style::plain(Detail::Short, 100));
    assert!(
        shown.starts_with(
            "INCONCLUSIVE  no findings, watched for 60s\n  - The target ended after 3s.\n  \
             - watching 90s longer would settle it\n"
        ),
        "{shown}"
    );
}

#[test]
fn names_from_watched_programs_cannot_drive_the_terminal() {
    let mut hostile = samples::report();
    let finding = &mut hostile.findings[0];
    finding.process.comm = "\x1b[2Jx".to_owned();
    finding.remote.url = Some("http://h/\x07\r\n".to_owned());
    finding.stack[0].frame.function = "a\x1b]0;t\x07".to_owned();
    let shown = report(&hostile, Style::plain(Detail::Short, 100));
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
}

#[test]
fn a_baseline_is_compared_by_name() {
    let mut compared = samples::report();
    compared.baseline = Some(Comparison {
        file: "base.json".to_owned(),
        new: vec!["3f9a1c2b4d5e6f70".to_owned()],
        gone: vec!["77".to_owned()],
        ..Comparison::default()
    });
    let shown = report(&compared, Style::plain(Detail::Short, 100));
    assert!(shown.contains("Against base.json\n  new       3f9a1c2b4d5e6f70  response_body_not_closed main.fetch /src/main.go:24\n  gone      77\n"), "{shown}");
}
