//! Names of remote addresses.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    cluster::{ApiServer, how_to_ask},
    daemon::Daemon,
    host::{self, seconds},
    wait,
};

use super::finding;
use crate::scenes::{self, Scene};

/// A client that connects, and says nothing.
fn silent(listen: &str) -> Result<Scene> {
    scenes::client_to(listen, "http", "client", "idle", 8, 2_000, "leak")
}

/// Address and port of a scene's server.
fn parts(scene: &Scene) -> Result<(String, u16)> {
    let at: SocketAddr = scene.address.parse()?;
    Ok((at.ip().to_string(), at.port()))
}

fn service(name: &str, address: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("service-{name}") },
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{ "port": port, "protocol": "TCP", "targetPort": "http" }],
        },
    })
}

fn slice(of: &str, address: &str, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{of}-x7k2p"), "namespace": "shop", "uid": format!("slice-{of}"),
            "labels": { "kubernetes.io/service-name": of },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address], "targetRef": { "kind": "Pod", "name": "stock-0" } }],
        "ports": [{ "port": port, "protocol": "TCP" }],
    })
}

/// Rows of a process's connections with the host, each with when it was opened.
fn hosts(daemon: &Daemon, pid: u32) -> Result<Vec<(String, String)>> {
    let (rows, _) = daemon.connections(10_000)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_it = rows.iter().filter(|row| row["pid"] == pid);
    let named = of_it.filter(|row| row["named_by"] == "cluster");
    Ok(named
        .map(|row| (text(&row["opened_at"]), text(&row["host"])))
        .collect())
}

pub fn remote_addresses_have_names_of_services() -> Result<()> {
    host::require_root()?;
    let api = ApiServer::start()?;
    let root = tempfile::tempdir()?;
    let (orders, stock) = (silent("[::1]:0")?, silent("127.0.0.1:0")?);
    for (name, address) in [("x", "None"), ("y", "10.96.0.8"), ("z", "10.96.0.9")] {
        api.put_whole(service(name, address, 80));
    }
    let (address, port) = parts(&orders)?;
    api.put_whole(service("orders", &address, port));
    let named = format!("orders.shop.svc:{port}");
    let (address, port) = parts(&stock)?;
    api.put_whole(slice("stock", &address, port));
    let [before, after] = ["stock", "depot"].map(|name| format!("{name}.shop.svc:{port}"));

    let config = how_to_ask(&api, root.path())?;
    let config = config.to_string_lossy();
    let options = ["--kube-remotes", "--config", &config];
    let daemon = Daemon::start(&[orders.pid(), stock.pid()], &options)?;
    let leak = finding(&daemon, orders.pid(), |f| {
        f["remote"]["host"] == named.as_str()
    })?;
    let remote = &leak["remote"];
    ensure!(
        remote["named_by"] == "cluster" && remote["url"].is_null(),
        "{remote}"
    );
    ensure!(remote["address"] == orders.address.as_str(), "{remote}");
    ensure!(remote["not_higher_because"].is_string(), "{remote}");
    finding(&daemon, stock.pid(), |f| {
        f["remote"]["host"] == before.as_str()
    })?;

    // The address is another service's from now on.
    api.remove("slice-stock");
    api.put_whole(slice("depot", &address, port));
    wait::until("connections by the later name", seconds(60), || {
        let hosts = hosts(&daemon, stock.pid())?;
        Ok(hosts.iter().filter(|(_, host)| *host == after).count() > 8)
    })?;
    let mut opened = hosts(&daemon, stock.pid())?;
    opened.sort();
    let first_later = opened.iter().position(|(_, host)| *host == after);
    let (earlier, later) = opened.split_at(first_later.unwrap_or_default());
    ensure!(
        earlier.len() > 8 && earlier.iter().all(|(_, host)| *host == before),
        "{opened:?}"
    );
    ensure!(later.iter().all(|(_, host)| *host == after), "{opened:?}");

    // It is away: what had a name has it still.
    api.kill()?;
    wait::until("the daemon to say so", seconds(60), || {
        let report = daemon.report()?;
        Ok(report.0["coverage"]["degraded"]
            .to_string()
            .contains("not named by it"))
    })?;
    let away = finding(&daemon, orders.pid(), |_| true)?;
    ensure!(away["remote"]["host"] == named.as_str(), "{away}");
    ensure!(away["id"] == leak["id"], "{away}");

    // Nothing but services and slices was asked for, by pages, and that rarely.
    let asked = api.asked();
    let allowed = [
        "/api/v1/services?",
        "/apis/discovery.k8s.io/v1/endpointslices?",
    ];
    let is_allowed = |path: &str| allowed.iter().any(|start| path.starts_with(start));
    ensure!(
        asked.iter().all(|a| a.status == 200 && is_allowed(&a.path)),
        "{asked:?}"
    );
    let is_list = |path: &str| !path.contains("watch=true");
    ensure!(
        asked
            .iter()
            .all(|a| !is_list(&a.path) || a.path.contains("limit=500")),
        "{asked:?}"
    );
    ensure!(
        asked.iter().any(|a| a.path.contains("continue=")),
        "{asked:?}"
    );
    ensure!(asked.len() < 12, "{asked:?}");
    Ok(())
}
