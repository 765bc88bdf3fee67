//! Stand-ins for daemons: they serve over loopback what a recording's replay says, as many as a test
//! likes, and some of them badly.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    host::{self, seconds},
    runner::Skip,
    tracer,
};

/// How a stand-in answers.
#[derive(Debug, Clone)]
pub enum Mood {
    /// As a daemon does.
    Answers(Arc<Answers>),
    /// Not at all: it accepts and says nothing.
    Silent,
    /// Without an end.
    Endless,
    /// Nobody is there.
    Dead,
    /// As an API server that lists daemons' pods and passes requests on to them.
    Cluster(Arc<Cluster>),
}

/// What a daemon answers.
#[derive(Debug)]
pub struct Answers {
    /// To `/v1/report`.
    pub report: Value,
    /// To `/v1/connections`.
    pub connections: Value,
    /// To `/v1/doctor`.
    pub doctor: Value,
}

impl Answers {
    /// What a daemon would say that had seen what is in a recording of `tests/histories`.
    ///
    /// # Errors
    /// [`Skip`] where there is no checkout; when it can't be replayed.
    pub fn of(recording: &str) -> Result<Answers> {
        let file = host::repository("tests/histories").join(recording);
        if !file.is_file() {
            bail!(Skip("no checkout here".to_owned()));
        }
        Answers::replayed(&file)
    }

    fn replayed(file: &Path) -> Result<Answers> {
        let ended = tracer::run(
            &["replay", &file.to_string_lossy(), "-o", "json"],
            seconds(60),
        )?;
        let report: Value = serde_json::from_str(&ended.stdout).context(ended.stderr)?;
        let rows = report["findings"].as_array().context("no findings")?.iter();
        let rows = rows.map(|finding| {
            json!({
                "pid": finding["process"]["pid"], "comm": finding["process"]["comm"],
                "role": finding["role"], "family": "tcp4", "state": "established",
                "remote": finding["remote"]["address"], "opened_at": report["started_at"],
                "age_seconds": 60.0, "idle_seconds": 6.0, "requests": 1, "unread": 0, "inode": 7,
            })
        });
        let connections =
            json!({ "schema": 1, "connections": rows.collect::<Vec<_>>(), "omitted": 1 });
        let doctor = json!({
            "schema": 1, "kernel": "6.12.1", "architecture": "x86_64",
            "btf": "/sys/kernel/btf/vmlinux (7 bytes)", "lockdown": null, "capabilities": [],
            "events": [], "degraded": [], "accounting": { "seen": 9 }, "usable": true,
        });
        Ok(Answers {
            report,
            connections,
            doctor,
        })
    }

    /// The findings of the report.
    #[must_use]
    pub fn findings(&self) -> &[Value] {
        self.report["findings"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    /// The answer to a request for this path: status and body.
    pub(crate) fn to(&self, path: &str) -> (u16, Value) {
        let path = path.split('?').next().unwrap_or(path);
        match path {
            "/v1/report" => (200, self.report.clone()),
            "/v1/connections" => (200, self.connections.clone()),
            "/v1/doctor" => (200, self.doctor.clone()),
            _ => {
                let id = path.strip_prefix("/v1/findings/").unwrap_or("no id");
                let known = |finding: &&Value| {
                    let known = finding["id"].as_str();
                    known.is_some_and(|known| known.starts_with(id))
                };
                match self.findings().iter().find(known) {
                    Some(finding) => (
                        200,
                        json!({
                            "schema": 1, "observed_at": self.report["started_at"],
                            "finding": finding, "timeline": [], "resources": [],
                        }),
                    ),
                    None => (404, json!({ "error": format!("there is no finding {id}") })),
                }
            }
        }
    }
}

/// Stand-ins at one port of addresses of their own: 127.0.1.1, 127.0.1.2, …
#[derive(Debug)]
pub struct StandIns {
    /// The port.
    pub port: u16,
    /// The addresses, in the order of the moods.
    pub addresses: Vec<Ipv4Addr>,
}

impl StandIns {
    /// Starts them; they serve as long as the test runs.
    ///
    /// # Errors
    /// When no port is free on all addresses.
    pub fn start(moods: &[Mood]) -> Result<StandIns> {
        let place = |index: usize| -> Result<Ipv4Addr> {
            let low = u8::try_from(index % 200)? + 1;
            Ok(Ipv4Addr::new(127, 0, u8::try_from(index / 200)? + 1, low))
        };
        let addresses = (0..moods.len()).map(place).collect::<Result<Vec<_>>>()?;
        let first = *addresses.first().context("nobody to start")?;
        for _ in 0..20 {
            let port = TcpListener::bind((first, 0))?.local_addr()?.port();
            let bound = addresses.iter().map(|&one| TcpListener::bind((one, port)));
            // somebody else may have the port somewhere
            let Ok(listeners) = bound.collect::<Result<Vec<_>, _>>() else {
                continue;
            };
            for (listener, mood) in listeners.into_iter().zip(moods.iter().cloned()) {
                if !matches!(mood, Mood::Dead) {
                    thread::spawn(move || serve(&listener, &mood));
                }
            }
            return Ok(StandIns { port, addresses });
        }
        bail!("no port is free on {} addresses", addresses.len())
    }

    /// `HOST:PORT` of one of them.
    #[must_use]
    pub fn address(&self, index: usize) -> String {
        format!("{}:{}", self.addresses[index], self.port)
    }

    /// All of them, as `--endpoint` takes them.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let all = (0..self.addresses.len()).map(|index| self.address(index));
        all.collect::<Vec<_>>().join(",")
    }
}

fn serve(listener: &TcpListener, mood: &Mood) {
    for stream in listener.incoming().map_while(Result::ok) {
        let mood = mood.clone();
        // whoever asked may be gone
        thread::spawn(move || drop(answer(&stream, &mood)));
    }
}

fn answer(stream: &TcpStream, mood: &Mood) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "it ended amid the head");
    }
    let path = head.split(' ').nth(1).context("no path")?;
    let mut out = stream;
    let answer = match mood {
        Mood::Answers(answers) => Some(answers.to(path)),
        Mood::Cluster(cluster) => cluster.to(path, &head),
        _ => None,
    };
    if let Some((status, body)) = answer {
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
        let rest = format!(
            "Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        out.write_all((head + &rest + &body).as_bytes())?;
        return Ok(());
    }
    match mood {
        Mood::Endless => {
            out.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n[")?;
            while out.write_all(&[b' '; 4096]).is_ok() {}
        }
        // until the other side has had enough
        _ => while reader.read_line(&mut head)? > 0 {},
    }
    Ok(())
}
