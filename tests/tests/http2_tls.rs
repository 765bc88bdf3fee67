//! HTTP/2 inside TLS: requests have their URLs, streams that are never ended are found although their
//! connection is one and healthy, and those of busy services are no leak.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{
    daemon::Daemon,
    fixtures, host,
    languages::{self, run},
    program::Program,
    tests, tracer, wait,
};

tests![streams_are_told_apart, connections_have_urls];

/// Seconds that the check watches.
const WATCH: u64 = 25;

/// A server of HTTP/2 over TLS, with a certificate of its own making.
struct Server {
    _program: Program,
    _directory: TempDir,
    origin: String,
}

impl Server {
    fn start(node: &Path) -> Result<Server> {
        let directory = tempfile::tempdir()?;
        let [key, certificate] = ["key", "cert"].map(|name| directory.path().join(name));
        run(Command::new(host::tool("openssl")?)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=topics.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
        let script = languages::source("node/streams.js");
        let arguments = [script, PathBuf::from("serve"), certificate, key];
        let (program, port) = Program::ready(node, &arguments)?;
        Ok(Server {
            _program: program,
            _directory: directory,
            origin: format!("https://127.0.0.1:{}", port.trim()),
        })
    }
}

/// Node.js's own client, and Python's httpx, in threads and in an event loop.
fn client(library: &str, mode: &str, origin: &str) -> Result<Program> {
    let node = library == "node";
    let (program, script) = match node {
        true => (host::tool("node")?, languages::source("node/streams.js")),
        false => (
            languages::python_with_packages()?,
            languages::source("python/streams.py"),
        ),
    };
    let mut arguments = vec![script.to_string_lossy().into_owned()];
    arguments.extend((!node).then(|| library.to_owned()));
    arguments.extend([mode.to_owned(), origin.to_owned()]);
    Ok(Program::ready(&program, &arguments)?.0)
}

const LIBRARIES: [&str; 3] = ["node", "httpx", "asyncio"];

fn streams_are_told_apart() -> Result<()> {
    host::require_root()?;
    let server = Server::start(&host::tool("node")?)?;
    let mut clients = Vec::new();
    for library in LIBRARIES {
        for mode in ["leak", "healthy", "busy"] {
            clients.push((library, mode, client(library, mode, &server.origin)?));
        }
    }
    let pids: Vec<u32> = clients.iter().map(|(_, _, of)| of.pid()).collect();
    let report = tracer::check_all(&pids, WATCH)?.report()?;
    for (library, mode, of) in &clients {
        let all = report.findings().iter();
        let own: Vec<&Value> = all.filter(|f| f["process"]["pid"] == of.pid()).collect();
        if *mode != "leak" {
            ensure!(own.is_empty(), "{library} {mode}: {report}");
            continue;
        }
        let [finding] = own[..] else {
            anyhow::bail!("{library}: one finding: {report}");
        };
        holds(finding, library).with_context(|| format!("{library}: {finding:#}"))?;
    }
    ensure!(!format!("{report:?}").contains("SECRET"), "{report}");
    Ok(())
}

fn holds(finding: &Value, library: &str) -> Result<()> {
    ensure!(finding["kind"] == "stream_never_cancelled", "kind");
    let url = finding["remote"]["url"].as_str().unwrap_or_default();
    ensure!(
        url.starts_with("https://") && url.ends_with("/watch/topics/{}?key=…"),
        "{url}"
    );
    // 2 or 3 a second, those of the beginning left out
    let open = finding["connections"]["open"].as_u64();
    ensure!(open > Some(20) && open < Some(80), "{open:?}");
    let evidence = finding["evidence"].to_string();
    ensure!(evidence.contains("stream"), "{evidence}");
    let source = match library {
        "node" => "node/streams.js",
        _ => "python/streams.py",
    };
    let source = std::fs::read_to_string(languages::source(source))?;
    let line = fixtures::line_of(&source, library)?;
    ensure!(finding["call_site"]["line"] == line, "line {line}");
    Ok(())
}

/// Of each connection the latest request is shown, of curl's as of those of libraries.
fn connections_have_urls() -> Result<()> {
    host::require_root()?;
    let server = Server::start(&host::tool("node")?)?;
    let mut waiting = Program::start(Command::new("/bin/sh").args([
        "-c",
        "echo READY; read line; exec curl --silent --insecure --http2 --output /dev/null \"$1/feed/curl?key=SECRET-KEY\"",
        "sh",
        &server.origin,
    ]))?;
    waiting.line("READY", host::seconds(10))?;
    let mut clients = vec![];
    for library in LIBRARIES {
        clients.push(client(library, "busy", &server.origin)?);
    }
    let mut pids: Vec<u32> = clients.iter().map(Program::pid).collect();
    pids.push(waiting.pid());
    let daemon = Daemon::start(&pids, &[])?;
    for (place, pid) in pids.iter().enumerate() {
        let curl = place == clients.len();
        if curl {
            // its library has its probes since it was seen in another program
            waiting.write("\n")?;
        }
        let right = |url: &str| match curl {
            true => url == format!("GET {}/feed/curl?key=…", server.origin),
            false => {
                url.starts_with(&format!("GET {}/", server.origin))
                    && [
                        "/small/items/",
                        "/brief/jobs/",
                        "/feed/orders",
                        "/ticks/orders",
                    ]
                    .iter()
                    .any(|path| url.contains(path))
            }
        };
        let mut last = Value::Null;
        wait::until("the URL of a connection", host::seconds(60), || {
            // on a busy machine probes take a while to be set, and answers wait for that
            let Ok((rows, _)) = daemon.connections(50) else {
                return Ok(false);
            };
            let row = rows
                .iter()
                .find(|row| row["pid"] == *pid && row["family"] != "unix");
            last = row.cloned().unwrap_or_default();
            Ok(last["url"].as_str().is_some_and(right))
        })
        .with_context(|| format!("client {place}: {last:#}"))?;
    }
    Ok(())
}
