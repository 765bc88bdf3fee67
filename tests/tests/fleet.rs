//! One question for a whole fleet: many daemons are asked side by side, what they say is merged, and who
//! is dead or slow is named.

use std::{fs, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    host::{self, seconds},
    program::{Ended, Program},
    stand_in::{Answers, Mood, StandIns},
    tests, tracer,
};

tests![
    two_hundred_daemons_answer_and_the_dead_and_slow_are_named,
    every_command_asks_the_whole_fleet,
    a_headless_service_is_asked_at_each_address,
];

/// Recordings with a leak that the stand-ins serve in turn, and one without.
const RECORDINGS: [&str; 3] = ["go-bodies.rec", "python-forgets.rec", "c-keeps.rec"];

fn recorded() -> Result<Vec<Arc<Answers>>> {
    let all = RECORDINGS.iter();
    all.map(|name| Ok(Arc::new(Answers::of(name)?))).collect()
}

/// A number of a finding, over all that the stand-ins have of it.
fn sum(moods: &[Mood], id: &Value, number: fn(&Value) -> u64) -> u64 {
    let answers = moods.iter().filter_map(|mood| match mood {
        Mood::Answers(answers) => Some(answers),
        _ => None,
    });
    let findings = answers.flat_map(|answers| answers.findings());
    findings
        .filter(|finding| finding["id"] == *id)
        .map(number)
        .sum()
}

fn outlived(finding: &Value) -> u64 {
    finding["connections"]["outlived"].as_u64().unwrap_or(0)
}

fn instances(finding: &Value) -> u64 {
    finding["instances"].as_array().map_or(0, Vec::len) as u64
}

/// Holds the merged findings against those of each stand-in.
fn hold_sums(report: &Value, moods: &[Mood]) -> Result<()> {
    let findings = report["findings"].as_array().context("no findings")?;
    ensure!(findings.len() >= 2, "{report:#}");
    for finding in findings {
        for number in [outlived, instances] {
            let expected = sum(moods, &finding["id"], number);
            ensure!(number(finding) == expected, "{expected} of {finding:#}");
        }
    }
    Ok(())
}

fn two_hundred_daemons_answer_and_the_dead_and_slow_are_named() -> Result<()> {
    let recorded = recorded()?;
    let mut moods: Vec<Mood> = (0..200)
        .map(|index| Mood::Answers(Arc::clone(&recorded[index % recorded.len()])))
        .collect();
    // dead and slow ones among those that are asked first, and last
    let bad = [0, 1, 2, 60, 61, 100, 101, 197, 198, 199];
    for (turn, index) in bad.into_iter().enumerate() {
        moods[index] = match turn % 2 {
            0 => Mood::Dead,
            _ => Mood::Silent,
        };
    }
    let endless = 150;
    moods[endless] = Mood::Endless;
    let fleet = StandIns::start(&moods)?;
    let endpoints = fleet.endpoints();
    let asks = |more: &[&str]| -> Result<Ended> {
        let words = [&["top", "--endpoint", &endpoints], more].concat();
        let ended = tracer::run(&words, seconds(120))?;
        ensure!(ended.code() == 0, "{more:?}: {}", ended.stderr);
        Ok(ended)
    };

    // As it is without further ado: who is slow is not waited for.
    let begun = Instant::now();
    let table = asks(&[])?;
    println!(
        "fleet: 200 daemons, 5 dead and 5 slow, in {:.2} s",
        begun.elapsed().as_secs_f64()
    );
    let last = table.stdout.lines().last().unwrap_or_default();
    ensure!(last.contains(" of 200 daemons answered; "), "{last}");
    for index in bad.into_iter().chain([endless]) {
        let name = fleet.address(index);
        ensure!(table.stderr.contains(&name), "{name}: {}", table.stderr);
    }
    for reason in ["cannot connect", "longer than 16 MiB"] {
        ensure!(table.stderr.contains(reason), "{reason}: {}", table.stderr);
    }

    // With time enough for all who answer at all, none of them is missing.
    let answering: Vec<String> = (0..200)
        .filter(|index| !matches!(moods[*index], Mood::Silent))
        .map(|index| fleet.address(index))
        .collect();
    let endpoints = answering.join(",");
    let words = ["top", "-o", "json", "--timeout", "60s", "--endpoint"];
    let ended = tracer::run(&[&words[..], &[&endpoints]].concat(), seconds(120))?;
    let report: Value = serde_json::from_str(&ended.stdout).context(ended.stderr)?;
    let nodes = report["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 195, "{} nodes", nodes.len());
    for (node, address) in nodes.iter().zip(&answering) {
        ensure!(node["endpoint"] == format!("http://{address}"), "{node:#}");
    }
    let failed = nodes.iter().filter(|node| !node["error"].is_null()).count();
    ensure!(failed == 6, "{failed} without an answer");
    hold_sums(&report, &moods)
}

fn every_command_asks_the_whole_fleet() -> Result<()> {
    let recorded = recorded()?;
    let mut moods: Vec<Mood> = (0..12)
        .map(|index| Mood::Answers(Arc::clone(&recorded[index % recorded.len()])))
        .collect();
    moods[5] = Mood::Dead;
    let fleet = StandIns::start(&moods)?;
    let (endpoints, dead) = (fleet.endpoints(), fleet.address(5));
    let asks = |words: &[&str]| -> Result<Ended> {
        let more = ["--timeout", "60s", "--endpoint", &endpoints];
        let ended = tracer::run(&[words, &more].concat(), seconds(120))?;
        ensure!(ended.code() == 0, "{words:?}: {}", ended.stderr);
        ensure!(ended.stderr.contains(&dead), "{words:?}: {}", ended.stderr);
        Ok(ended)
    };
    let last = |ended: &Ended| ended.stdout.lines().last().unwrap_or_default().to_owned();
    let share = "11 of 12 daemons answered";

    let finding = recorded[0].findings().first().context("no finding")?;
    let id = finding["id"].as_str().context("no id")?;
    let wide = asks(&["top", "-o", "wide"])?;
    ensure!(wide.stdout.contains("NODES"), "{}", wide.stdout);
    let described: Value = serde_json::from_str(&asks(&["describe", id, "-o", "json"])?.stdout)?;
    let merged = &described["finding"];
    for number in [outlived, instances] {
        let expected = sum(&moods, &merged["id"], number);
        ensure!(number(merged) == expected, "{expected} of {merged:#}");
    }
    // who does not know it has answered, too
    let told = asks(&["describe", id])?;
    ensure!(last(&told) == share, "{}", told.stdout);

    let listed = asks(&["connections"])?;
    ensure!(last(&listed) == share, "{}", listed.stdout);
    let listed: Value = serde_json::from_str(&asks(&["connections", "-o", "json"])?.stdout)?;
    let rows = listed["connections"].as_array().context("no connections")?;
    ensure!(!rows.is_empty(), "{listed:#}");
    for row in rows {
        ensure!(row["node"].is_string(), "{row:#}");
    }
    ensure!(listed["omitted"] == 11, "{listed:#}");

    let folded = asks(&["profile", "-o", "folded"])?;
    let function = finding["call_site"]["function"].as_str();
    let function = function.context("no call site")?;
    ensure!(folded.stdout.contains(function), "{}", folded.stdout);

    // all say the same, so it is said once
    let doctor = asks(&["doctor"])?;
    ensure!(
        doctor.stdout.matches("tracer works here").count() == 1 && last(&doctor) == share,
        "{}",
        doctor.stdout
    );
    Ok(())
}

fn a_headless_service_is_asked_at_each_address() -> Result<()> {
    host::require_root()?;
    let recorded = recorded()?;
    let moods: Vec<Mood> = (0..20)
        .map(|index| Mood::Answers(Arc::clone(&recorded[index % 2])))
        .collect();
    let fleet = StandIns::start(&moods)?;
    let directory = tempfile::tempdir()?;
    let hosts = directory.path().join("hosts");
    let lines = fleet.addresses.iter();
    let lines: Vec<String> = lines
        .map(|address| format!("{address} tracer.test\n"))
        .collect();
    fs::write(&hosts, lines.concat())?;
    for scheme in ["", "dns:"] {
        let name = format!("{scheme}tracer.test:{}", fleet.port);
        let words = ["top", "-o", "json", "--timeout", "60s", "--endpoint", &name];
        let mut command = tracer::command(&words)?;
        host::with_hosts(&mut command, &hosts)?;
        let ended = Program::start(&mut command)?.end(seconds(120))?;
        let report: Value = serde_json::from_str(&ended.stdout).context(ended.stderr)?;
        let nodes = report["nodes"].as_array().context("no nodes")?;
        ensure!(nodes.len() == 20, "{name}: {} nodes", nodes.len());
        hold_sums(&report, &moods)?;
    }
    Ok(())
}
