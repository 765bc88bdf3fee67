//! A leak in a real container.

use std::process;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use tracer_tests::{
    cluster::ApiServer,
    fixtures,
    host::{self, seconds},
    runc::{Cgroups, Runc},
    runner::NotApplicable,
};

use super::{daemon, finding, pod::Pod};
use crate::scenes;

/// Whether what takes long is to run.
pub fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}

pub fn a_container_of_runc() -> Result<()> {
    host::require_root()?;
    if !full() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let runc = Runc::unpacked()?;
    let api = ApiServer::start()?;
    let root = tempfile::tempdir()?;
    let pod = Pod::new(16);
    api.put(&pod.metadata("db-0", &json!({
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1",
            "controller": true }],
    })));
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    // as the kubelet has it with the driver `cgroupfs`
    let groups = Cgroups::named(format!("tracer-test-{}", process::id()));
    let path = format!(
        "{}/kubepods/burstable/pod{}/{}",
        groups.path(),
        pod.uid,
        pod.id
    );
    let client = fixtures::path("client")?;
    let mut container = runc.run(
        &pod.id,
        &path,
        &client,
        &["fetch", &address, "8", "800", "leak"],
    )?;
    container.program.line("READY", seconds(20))?;
    let daemon = daemon(&api, root.path(), &[container.pid], &[])?;
    let leak = finding(&daemon, container.pid, |f| {
        f["process"]["workload"].is_object()
    })?;
    let process = &leak["process"];
    for (field, expected) in [
        ("container_id", json!(pod.id)),
        ("namespace", json!("shop")),
        ("pod", json!("db-0")),
        ("workload", json!({ "kind": "StatefulSet", "name": "db" })),
        ("ns_pid", json!(1)),
    ] {
        ensure!(process[field] == expected, "{field}: {process}");
    }
    ensure!(leak["call_site"]["function"] == "fetch_price", "{leak}");
    drop(container);
    drop(groups);
    Ok(())
}
