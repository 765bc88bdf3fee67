//! The dashboards in `deploy/grafana` ask Prometheus for what there is, in words that it understands. That
//! they are of Grafana's types is held by `cargo xtask manifests`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{host, prometheus, runner::Skip, tests};

tests![
    dashboards_ask_for_metrics_and_labels_that_there_are,
    prometheus_understands_the_dashboards,
];

/// Labels that Prometheus adds, and that of a histogram's buckets.
const ADDED: [&str; 3] = ["instance", "job", "le"];
/// Words of PromQL after which labels stand in parentheses.
const BY: [&str; 4] = ["by", "without", "on", "ignoring"];

/// An expression, and where it stands.
struct Asked {
    place: String,
    expression: String,
}

/// All expressions of all dashboards, those of variables among them.
fn expressions() -> Result<Vec<Asked>> {
    let folder = host::repository("deploy/grafana");
    if !folder.is_dir() {
        bail!(Skip("no checkout here".to_owned()));
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_name().context("no name")?.to_string_lossy();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let before = all.len();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for panel in list(&board["panels"]) {
            for target in list(&panel["targets"]) {
                let expression = target["expr"].as_str().context("no expression")?;
                all.push(Asked {
                    place: format!("{name}: {}", panel["title"]),
                    expression: expression.replace("$__rate_interval", "5m"),
                });
            }
        }
        ensure!(all.len() > before + 5, "{name} has hardly a panel");
        for variable in list(&board["templating"]["list"]) {
            let Some(query) = variable["query"]["query"].as_str() else {
                continue;
            };
            let inner = query.strip_prefix("label_values(");
            let inner = inner.and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = inner
                .and_then(|i| i.rsplit_once(", "))
                .context(query.to_owned())?;
            all.push(Asked {
                place: format!("{name}: variable {}", variable["name"]),
                expression: format!("count by ({label}) ({series})"),
            });
        }
    }
    Ok(all)
}

/// The labels of each metric that `docs/metrics.md` lists.
fn documented() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = fs::read_to_string(host::repository("docs/metrics.md"))?;
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let labels = cells
            .get(3)?
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned());
        Some((name.to_owned(), labels.collect()))
    });
    Ok(rows.collect())
}

/// Words of an expression outside of strings, and for each whether it names a label.
fn words(expression: &str) -> Vec<(String, bool)> {
    let mut words: Vec<(String, bool)> = Vec::new();
    // inside braces, or in the parentheses after `by`
    let (mut of_labels, mut quoted) = (false, false);
    let mut word = String::new();
    for c in expression.chars().chain([' ']) {
        if c == '"' {
            quoted = !quoted;
        }
        if quoted {
            continue;
        }
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.push((std::mem::take(&mut word), of_labels));
        }
        let after_by = words
            .last()
            .is_some_and(|(last, _)| BY.contains(&last.as_str()));
        match c {
            '{' => of_labels = true,
            '(' if after_by => of_labels = true,
            '}' | ')' => of_labels = false,
            _ => {}
        }
    }
    words
}

fn dashboards_ask_for_metrics_and_labels_that_there_are() -> Result<()> {
    let known = documented()?;
    for Asked { place, expression } in expressions()? {
        let words = words(&expression);
        let metrics: Vec<&str> = (words.iter())
            .filter(|(word, label)| !label && word.starts_with("tracer_"))
            .map(|(word, _)| word.strip_suffix("_bucket").unwrap_or(word))
            .collect();
        ensure!(
            !metrics.is_empty(),
            "{place} asks for no metric: {expression}"
        );
        let mut labels: BTreeSet<&str> = ADDED.into();
        for metric in metrics {
            let of = known
                .get(metric)
                .with_context(|| format!("{place}: no metric {metric}"))?;
            labels.extend(of.iter().map(String::as_str));
        }
        for (label, _) in words.iter().filter(|(_, label)| *label) {
            ensure!(
                labels.contains(label.as_str()),
                "{place}: no label {label}: {expression}"
            );
        }
    }
    Ok(())
}

fn prometheus_understands_the_dashboards() -> Result<()> {
    let rules: Vec<Value> = (expressions()?.into_iter().enumerate())
        .map(|(number, asked)| {
            serde_json::json!({ "record": format!("asked:{number}"), "expr": asked.expression })
        })
        .collect();
    let directory = tempfile::tempdir()?;
    let check = |rules: &[Value]| -> Result<(i32, String)> {
        let file = serde_json::json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
        // what is JSON is YAML
        fs::write(directory.path().join("rules.yml"), file.to_string())?;
        prometheus::promtool(directory.path(), &["check", "rules", "rules.yml"])
    };
    let (status, said) = check(&rules)?;
    ensure!(status == 0, "{said}");
    let mut wrong = rules;
    wrong[0]["expr"] = "sum(tracer_findings".into();
    let (status, said) = check(&wrong)?;
    ensure!(status != 0, "nothing is refused: {said}");
    Ok(())
}
