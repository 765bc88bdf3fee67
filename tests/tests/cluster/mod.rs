//! With `--kube`, what the API server says of this node's pods is said of findings: workload, labels,
//! names; and who is annotated to be left alone is. With `--kube-remotes`, what it calls their other end.

mod many;
mod pod;
mod real;
mod remotes;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    cluster::{Account, ApiServer, NODE, configuration},
    daemon::Daemon,
    host::{self, seconds},
    tests,
    tracer::Report,
    wait,
};

use self::{
    many::pods_coming_and_going, pod::Pod, real::a_container_of_runc,
    remotes::remote_addresses_have_names_of_services,
};
use crate::{scenes, targets::Group};

tests![
    names_come_from_the_api_server_and_come_back,
    in_a_pod_its_service_account_asks,
    a_container_of_runc,
    pods_coming_and_going,
    remote_addresses_have_names_of_services,
];

/// A daemon that asks this server about the pods of [`NODE`].
fn daemon(api: &ApiServer, root: &Path, pids: &[u32], more: &[&str]) -> Result<Daemon> {
    let config = configuration(api, root)?;
    let config = config.to_string_lossy();
    let kube = ["--kube", "--node", NODE, "--config", &config];
    Daemon::start(pids, &[&kube, more].concat())
}

/// The finding in this process, once there is one.
fn finding(daemon: &Daemon, pid: u32, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::for_value("the leak with its names", seconds(120), || {
        let report = daemon.report()?;
        let mut found = report.findings().iter();
        Ok(found
            .find(|f| f["process"]["pid"] == pid && fits(f))
            .cloned())
    })
}

/// The pod that a process's connections are said to be of.
fn pod_of_connections(daemon: &Daemon, pid: u32) -> Result<Option<String>> {
    let (rows, _) = daemon.connections(10_000)?;
    let row = rows.iter().find(|row| row["pid"] == pid);
    Ok(row.and_then(|row| row["pod"].as_str().map(str::to_owned)))
}

fn in_a_pod_its_service_account_asks() -> Result<()> {
    host::require_root()?;
    let api = ApiServer::start()?;
    let account = Account::at(&api)?;
    let _group: Group;
    let scene = scenes::client("client", "pool", 8, 800, "close")?;
    let pod = Pod::new(4);
    _group = pod.enclose(scene.pid())?;
    api.put(&pod.metadata("web-0", &json!({})));
    let mut given = Ok(());
    let kube = ["--kube", "--node", NODE];
    let daemon = Daemon::start_as(&[scene.pid()], &kube, |command| {
        given = account.give(command);
    })?;
    given?;
    wait::until("the pod's name", seconds(60), || {
        Ok(pod_of_connections(&daemon, scene.pid())?.as_deref() == Some("web-0"))
    })
}

fn names_come_from_the_api_server_and_come_back() -> Result<()> {
    host::require_root()?;
    let mut api = ApiServer::start()?;
    let root = tempfile::tempdir()?;
    // dropped last: a group can be removed once nobody is in it
    let _groups: Vec<Group>;
    let scene = |mode| scenes::client("client", mode, 8, 2_000, "leak");
    let (web, hidden, late) = (scene("fetch")?, scene("idle")?, scene("fetch")?);
    let [of_web, of_hidden, of_late] = [1, 2, 3].map(Pod::new);
    let groups = [(&web, &of_web), (&hidden, &of_hidden), (&late, &of_late)];
    _groups = groups
        .map(|(scene, pod)| pod.enclose(scene.pid()))
        .into_iter()
        .collect::<Result<_>>()?;
    let labelled = |tier: &str| {
        of_web.metadata("web-5d4-x2", &json!({
            "labels": { "app": "web", "tier": tier, "pod-template-hash": "5d4" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4",
                "uid": "1", "controller": true }],
        }))
    };
    api.put(&labelled("front"));
    let ignored = json!({ "annotations": { "tracer.dev/ignore": "true" } });
    api.put(&of_hidden.metadata("hidden-0", &ignored));
    let daemon = daemon(
        &api,
        root.path(),
        &[web.pid(), hidden.pid(), late.pid()],
        &[],
    )?;

    let leak = finding(&daemon, web.pid(), |f| f["process"]["workload"].is_object())?;
    let process = &leak["process"];
    for (field, expected) in [
        ("container_id", json!(of_web.id)),
        ("namespace", json!("shop")),
        ("pod", json!("web-5d4-x2")),
        ("workload", json!({ "kind": "Deployment", "name": "web" })),
    ] {
        ensure!(process[field] == expected, "{field}: {process}");
    }
    ensure!(process["labels"]["app"] == "web", "{process}");

    let chosen =
        |selector: &str| Ok::<_, anyhow::Error>(Report(daemon.ask(&["top", "-l", selector])?));
    let front = chosen("app=web,tier in (front, back)")?;
    ensure!(front.only()?["process"]["pid"] == web.pid(), "{front}");
    ensure!(
        chosen("app!=web,tier")?.findings().is_empty(),
        "another's labels"
    );
    let metrics = daemon.metrics()?;
    ensure!(metrics.contains("workload=\"web\""), "{metrics}");
    let (rows, _) = daemon.connections(1000)?;
    let row = rows.iter().find(|row| row["pid"] == web.pid());
    ensure!(
        row.is_some_and(|row| row["workload"] == process["workload"]),
        "{rows:?}"
    );

    wait::until("the suspicion that is passed over", seconds(60), || {
        Ok(daemon.report()?.0["ignored"] == 1)
    })?;
    let report = daemon.report()?;
    let of_hidden =
        |row: &Value| row["pid"] == hidden.pid() || row["process"]["pid"] == hidden.pid();
    for list in ["findings", "populations", "resources"] {
        let all = report.0[list].as_array().context(list)?;
        ensure!(!all.iter().any(of_hidden), "{list}: {report}");
    }
    let (rows, _) = daemon.connections(10_000)?;
    ensure!(
        !rows.iter().any(of_hidden),
        "connections of who is left alone"
    );

    // It is away, with what came meanwhile; only names are lost, and new ones at that.
    api.kill()?;
    api.want_token("second")?;
    api.put(&of_late.metadata("late-0", &json!({})));
    wait::until("the daemon to say so", seconds(60), || {
        let report = daemon.report()?;
        Ok(report.0["coverage"]["degraded"]
            .to_string()
            .contains("API server"))
    })?;
    ensure!(
        pod_of_connections(&daemon, late.pid())?.is_none(),
        "a name of nowhere"
    );
    let away = finding(&daemon, web.pid(), |_| true)?;
    ensure!(away["process"]["workload"] == process["workload"], "{away}");
    ensure!(away["id"] == leak["id"], "{away}");
    api.start_again()?;
    wait::until("names again", seconds(150), || {
        Ok(pod_of_connections(&daemon, late.pid())?.as_deref() == Some("late-0"))
    })?;
    // reports are some seconds old
    wait::until("the daemon to be content", seconds(60), || {
        let report = daemon.report()?;
        let degraded = report.0["coverage"]["degraded"].to_string();
        Ok(!degraded.contains("API server"))
    })?;

    // Where the watch was is forgotten (410): everything is listed again.
    api.put(&labelled("back"));
    api.forget();
    finding(&daemon, web.pid(), |f| {
        f["process"]["labels"]["tier"] == "back"
    })?;
    // The pod is gone, its process is not: what was found keeps its name.
    api.remove(&of_web.uid);
    api.put(&of_late.metadata("later-0", &json!({})));
    wait::until("the next change", seconds(60), || {
        Ok(pod_of_connections(&daemon, late.pid())?.as_deref() == Some("later-0"))
    })?;
    let gone = finding(&daemon, web.pid(), |_| true)?;
    ensure!(gone["process"]["pod"] == "web-5d4-x2", "{gone}");

    // Nothing but metadata of this node's pods was asked for, and that rarely.
    let asked = api.asked();
    ensure!(
        asked.iter().all(|a| matches!(a.status, 200 | 401)),
        "{asked:?}"
    );
    ensure!(
        asked
            .iter()
            .all(|a| a.accept.contains("PartialObjectMetadata")
                && a.path.starts_with("/api/v1/pods?")),
        "{asked:?}"
    );
    ensure!(asked.len() < 20, "{asked:?}");
    Ok(())
}
