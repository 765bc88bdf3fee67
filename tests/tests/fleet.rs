//! One question for a whole fleet: many daemons are asked side by side, what they say is merged, and who
//! is dead or slow is named.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    cluster::Cluster,
    host::{self, seconds},
    program::{Ended, Program},
    stand_in::{Answers, Mood, StandIns},
    tests, tracer,
};

tests![
    two_hundred_daemons_answer_and_the_dead_and_slow_are_named,
    every_command_asks_the_whole_fleet,
    a_headless_service_is_asked_at_each_address,
    a_cluster_is_asked_through_its_api_server,
    kubectl_tracer_asks_the_namespace_that_kubectl_would,
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

/// Starts a cluster of so many daemons, with a kubeconfig for it in a folder.
fn cluster(folder: &Path, daemons: Vec<Mood>, pending: Vec<usize>) -> Result<PathBuf> {
    let api = Mood::Cluster(Arc::new(Cluster { daemons, pending }));
    let server = StandIns::start(&[api])?;
    let kubeconfig = folder.join("kubeconfig");
    // JSON is YAML
    let text = Cluster::kubeconfig(&server.address(0)).to_string();
    fs::write(&kubeconfig, text)?;
    Ok(kubeconfig)
}

fn a_cluster_is_asked_through_its_api_server() -> Result<()> {
    let recorded = recorded()?;
    let mut moods: Vec<Mood> = (0..200)
        .map(|index| Mood::Answers(Arc::clone(&recorded[index % recorded.len()])))
        .collect();
    let (dead, pending) = (150, 7);
    moods[dead] = Mood::Dead;
    moods[pending] = Mood::Dead;
    let folder = tempfile::tempdir()?;
    let kubeconfig = cluster(folder.path(), moods.clone(), vec![pending])?;
    let kubeconfig = kubeconfig.to_string_lossy();
    let asks = |words: &[&str]| -> Result<Ended> {
        let more = ["--kube", "--kubeconfig", &kubeconfig, "--timeout", "60s"];
        let ended = tracer::run(&[words, &more].concat(), seconds(120))?;
        ensure!(ended.code() == 0, "{words:?}: {}", ended.stderr);
        Ok(ended)
    };
    let begun = Instant::now();
    let ended = asks(&["top", "-A", "-o", "json"])?;
    println!(
        "fleet: 200 daemons through one API server in {:.2} s",
        begun.elapsed().as_secs_f64()
    );
    let report: Value = serde_json::from_str(&ended.stdout).context(ended.stderr.clone())?;
    let nodes = report["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 200, "{} nodes", nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        ensure!(
            node["endpoint"] == Cluster::node(index).as_str(),
            "{node:#}"
        );
        let error = node["error"].as_str().unwrap_or_default();
        let expected = match index {
            _ if index == dead => "error trying to reach service",
            _ if index == pending => "is Pending",
            _ => "",
        };
        let fine = error.is_empty() == expected.is_empty() && error.contains(expected);
        ensure!(fine, "{node:#}");
    }
    for index in [dead, pending] {
        let name = Cluster::node(index);
        ensure!(ended.stderr.contains(&name), "{name}: {}", ended.stderr);
    }
    hold_sums(&report, &moods)?;

    let finding = recorded[0].findings().first().context("no finding")?;
    let id = finding["id"].as_str().context("no id")?;
    for words in [
        &["describe", id][..],
        &["connections", "-A"],
        &["profile", "-o", "folded"],
        &["doctor"],
    ] {
        ensure!(!asks(words)?.stdout.is_empty(), "{words:?}");
    }

    // Somebody else's token opens nothing, and that is said.
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "a-token-of-somebody-else\n")?;
    let refused = tracer::run(
        &[
            "top",
            "--kube",
            "--kubeconfig",
            &kubeconfig,
            "--token-file",
            &tokens.to_string_lossy(),
        ],
        seconds(60),
    )?;
    ensure!(
        refused.code() == 1 && refused.stderr.contains("needs a token"),
        "{}",
        refused.stderr
    );
    let elsewhere = tracer::run(
        &[
            "top",
            "--kube",
            "--kubeconfig",
            &kubeconfig,
            "--tracer-namespace",
            "other",
        ],
        seconds(60),
    )?;
    ensure!(
        elsewhere.code() == 1 && elsewhere.stderr.contains("namespace other"),
        "{}",
        elsewhere.stderr
    );
    Ok(())
}

fn kubectl_tracer_asks_the_namespace_that_kubectl_would() -> Result<()> {
    let mut shop = Answers::of(RECORDINGS[0])?;
    for finding in shop.report["findings"].as_array_mut().into_iter().flatten() {
        finding["process"]["pod"] = "web-0".into();
        finding["process"]["namespace"] = "shop".into();
    }
    let other = Answers::of(RECORDINGS[1])?;
    let (in_shop, in_all) = (shop.findings().len(), other.findings().len());
    let in_all = in_shop + in_all;
    let moods = [shop, other].map(|answers| Mood::Answers(Arc::new(answers)));
    let folder = tempfile::tempdir()?;
    let kubeconfig = cluster(folder.path(), moods.into(), Vec::new())?;
    let plugin = folder.path().join("kubectl-tracer");
    symlink(fs::canonicalize(tracer::binary()?)?, &plugin)?;
    let says = |program: &Path, words: &[&str]| -> Result<String> {
        let mut command = Command::new(program);
        command.args(words).env("KUBECONFIG", &kubeconfig);
        let path = format!(
            "{}:{}",
            folder.path().display(),
            host::search_path().display()
        );
        let ended = Program::start(command.env("PATH", path))?.end(seconds(60))?;
        ensure!(ended.code() == 0, "{words:?}: {}", ended.stderr);
        Ok(ended.stdout)
    };
    for (words, count) in [
        (&["top", "-o", "jsonl"][..], in_shop),
        (&["top", "-o", "jsonl", "-n", "shop"], in_shop),
        (&["top", "-o", "jsonl", "-n", "default"], 0),
        (&["top", "-o", "jsonl", "-A"], in_all),
        (&["top", "-o", "jsonl", "-A", "--context", "x"], in_all),
    ] {
        let shown = says(&plugin, words)?;
        ensure!(shown.lines().count() == count, "{words:?}: {shown}");
    }
    let help = says(&plugin, &["top", "--help"])?;
    ensure!(help.contains("Usage: kubectl tracer top"), "{help}");
    // kubectl itself finds it
    if let Ok(kubectl) = host::tool("kubectl") {
        let shown = says(&kubectl, &["tracer", "top", "-A", "-o", "jsonl"])?;
        ensure!(shown.lines().count() == in_all, "{shown}");
    }
    Ok(())
}
