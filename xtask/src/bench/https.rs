//! A server of HTTPS, and what the probes on its TLS library add to the kernel's hooks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Bar, Bench, Row, Section,
    churn::{ALL, Watcher},
    compile,
    load::Load,
    profile,
};
use crate::sh;

/// What TLS probes add.
pub const SECTION: Section = Section {
    name: "https",
    title: "A busy HTTPS server",
    about: "A server with OpenSSL, a thread for each of 8 kept connections, is traced; its clients, another process, are \
            not. They send 10,000 requests a second together where the machine has room for them. Each is answered in one \
            write of the library, so its probe is hit once; it is no head of a request, which the probe's program sees \
            by the first four bytes, so what is left is the kernel's way into and out of it. By profile: samples of the server \
            (perf, cpu-clock), all of them to those outside of tracer's programs, tracepoints' calls and the handling of \
            breakpoints. The bar is held against the same with the kernel's hooks alone, round by round.",
    run,
};

/// Everything, over the kernel's hooks alone.
const BAR: Bar = Bar::AtMost(1.05);
/// The kernel's hooks alone.
const HOOKS: Watcher = Watcher::Tracer(&["--without", "tls"]);
const CONNECTIONS: &str = "8";
const REQUESTS_PER_SECOND: &str = "10000";
const WINDOW: Duration = Duration::from_millis(1500);

/// Server and clients, and which processes they are.
pub struct Https {
    pub load: Load,
    pub server: u32,
    pub clients: u32,
}

impl Https {
    /// Starts both; each answer is written in so many pieces.
    pub fn start(bench: &Bench, writes: &str) -> Result<Self> {
        let (certificate, key) = certificate(&bench.folder)?;
        let program = compile("https", &["-lssl", "-lcrypto", "-lpthread"])?;
        let arguments = [
            certificate.to_string_lossy(),
            key.to_string_lossy(),
            CONNECTIONS.into(),
            REQUESTS_PER_SECOND.into(),
            writes.into(),
        ];
        let (load, ready) = Load::of(&program, &arguments.each_ref().map(AsRef::as_ref))?;
        let mut words = ready.split_whitespace().skip(1);
        let mut pid = || words.next()?.parse().ok();
        let (server, clients) = pid()
            .zip(pid())
            .context("the load did not say its processes")?;
        Ok(Self {
            load,
            server,
            clients,
        })
    }
}

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut https = Https::start(bench, "1")?;
    let (mut rate, mut cpu_us) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        let plain = https.load.run(WINDOW)?;
        rate.push(plain.units / plain.wall_ns * 1e9);
        cpu_us.push(plain.cpu_ns / plain.units / 1e3);
    }
    let (mut hooks, mut all) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        let (load, server) = (&mut https.load, https.server);
        hooks.push(profile::one_ratio(bench, load, server, &HOOKS)?);
        all.push(profile::one_ratio(bench, load, server, &ALL)?);
    }
    let over = all.iter().zip(&hooks).map(|(all, hooks)| all / hooks);
    let over = over.collect();
    Ok(vec![
        Row::new("untraced", "requests/s", rate),
        Row::new("untraced, per request", "µs of CPU", cpu_us).note("of the server"),
        Row::new("by profile: the kernel's hooks alone", "ratio", hooks),
        Row::new("by profile: everything", "ratio", all),
        Row::new(
            "HTTPS server, 10,000 requests/s over kept connections: everything against kernel hooks only",
            "ratio",
            over,
        )
        .bar(BAR),
    ])
}

/// A certificate of its own making, and its key.
fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let curve = "ec_paramgen_curve:prime256v1";
    sh::quiet(
        sh::command("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes"])
            .args(["-days", "2", "-subj", "/CN=load.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;
    Ok((certificate, key))
}
