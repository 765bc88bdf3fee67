//! The daemon end to end, with a source that needs no kernel.

use std::{
    io::{Read as _, Write as _},
    os::{fd::RawFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;
use crate::{
    report::{ConnectionList, Doctor, FindingDetail, Report, SCHEMA},
    samples,
    session::{Health, Surroundings},
};

struct Fake {
    ended: Arc<AtomicBool>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl worker::Source for Fake {
    fn wake_fd(&self) -> RawFd {
        -1
    }

    fn tick(&mut self) -> Result<Duration, String> {
        Ok(Duration::from_secs(1))
    }

    fn report(&mut self) -> Result<Report, String> {
        Ok(samples::report())
    }

    fn connections(&mut self, limit: usize) -> Result<ConnectionList, String> {
        Ok(ConnectionList {
            schema: SCHEMA,
            connections: vec![],
            omitted: limit as u64,
        })
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn doctor(&self) -> Doctor {
        Surroundings::read(None).doctor()
    }
}

fn get(socket: &Path, path: &str) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let mut stream = UnixStream::connect(socket)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: tracer\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

#[test]
fn the_whole_interface_answers_and_ends_cleanly() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tracer.sock");
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let bound = socket::bind(&path)?;
    let (end, asked_to_end) = tokio::sync::oneshot::channel::<()>();
    let client_path = path.clone();
    let fake = Fake {
        ended: ended.clone(),
    };
    let client = std::thread::spawn(move || -> Result<(), String> {
        let result = ask_everything(&client_path);
        let _ = end.send(());
        result.map_err(|e| e.to_string())
    });
    let asked_to_end = async {
        let _ = asked_to_end.await;
    };
    let start = move || Ok(fake);
    runtime.block_on(serve(bound, None, Ignore::default(), start, asked_to_end))?;
    client.join().map_err(|_| "the client panicked")??;
    assert!(ended.load(Ordering::SeqCst), "the session was not ended");
    assert!(!path.exists(), "the socket file is still there");
    Ok(())
}

fn ask_everything(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    while get(socket, "/readyz")?.0 != 200 {
        std::thread::yield_now();
    }
    assert_eq!(get(socket, "/healthz")?, (200, "ok\n".to_owned()));
    let (status, body) = get(socket, "/v1/report")?;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Report>(&body)?, samples::report());
    for id in ["3f9a1c2b4d5e6f70", "3f9a"] {
        let (status, body) = get(socket, &format!("/v1/findings/{id}"))?;
        assert_eq!(status, 200, "{body}");
        let detail: FindingDetail = serde_json::from_str(&body)?;
        assert_eq!(detail.finding, samples::finding());
        assert_eq!(detail.timeline.len(), 1);
    }
    let (status, body) = get(socket, "/v1/findings/ffff")?;
    assert_eq!((status, body.contains("ffff")), (404, true));
    let (_, body) = get(socket, "/v1/connections?limit=7")?;
    assert_eq!(serde_json::from_str::<ConnectionList>(&body)?.omitted, 7);
    assert_eq!(get(socket, "/v1/connections?limit=x")?.0, 400);
    let (_, body) = get(socket, "/v1/doctor")?;
    let doctor: Doctor = serde_json::from_str(&body)?;
    assert!(!doctor.capabilities.is_empty(), "{body}");
    let (status, body) = get(socket, "/metrics")?;
    assert_eq!(status, 200);
    assert!(body.contains("tracer_connections_open 832"), "{body}");
    assert_eq!(get(socket, "/nosuch")?.0, 404);
    Ok(())
}

#[test]
fn a_session_that_cannot_start_ends_the_daemon() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tracer.sock");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let bound = socket::bind(&path)?;
    let start = || Err::<Fake, _>(StartError::Unsupported("CAP_BPF is missing".to_owned()));
    let never = std::future::pending();
    let result = runtime.block_on(serve(bound, None, Ignore::default(), start, never));
    assert!(matches!(
        result,
        Err(Error::Start(StartError::Unsupported(_)))
    ));
    assert!(!path.exists());
    Ok(())
}
