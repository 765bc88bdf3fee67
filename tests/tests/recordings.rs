//! `tracer record` keeps what a replay needs to say the same, byte for byte, without a kernel and
//! without privileges; and nothing of a request but its route.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tracer_tests::{
    host::{self, seconds},
    program::{Ended, Program},
    tests,
    tracer::{self, Report},
};

use crate::pairs::{self, PACE};

tests![
    a_replay_says_the_same_byte_for_byte,
    what_is_no_whole_recording_is_refused,
];

/// Seconds that are recorded.
const WATCH: u64 = 15;

/// A folder that everybody can read, with the program in it.
struct Public {
    directory: tempfile::TempDir,
    binary: PathBuf,
}

impl Public {
    fn new() -> Result<Public> {
        let directory = tempfile::Builder::new()
            .prefix("tracer-test-")
            .tempdir_in("/tmp")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let binary = directory.path().join("tracer");
        host::copy_program(tracer::binary()?, &binary)?;
        Ok(Public { directory, binary })
    }

    /// Runs tracer as nobody, who may do nothing.
    fn run(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).uid(65534).gid(65534);
        Program::start(&mut command)?.end(seconds(60))
    }

    /// Records a process; returns the recording and the report printed.
    fn record(&self, name: &str, pid: u32) -> Result<(PathBuf, Program)> {
        let file = self.directory.path().join(name);
        let time = format!("{}s", seconds(WATCH).as_secs());
        let program = tracer::start(&[
            "record",
            &file.to_string_lossy(),
            "--pid",
            &pid.to_string(),
            "-d",
            &time,
            "-o",
            "json",
        ])?;
        Ok((file, program))
    }
}

fn a_replay_says_the_same_byte_for_byte() -> Result<()> {
    host::require_root()?;
    let public = Public::new()?;
    let pair = pairs::in_c(PACE)?;
    let recorded = [
        ("leak", public.record("leaky", pair.leaky.pid())?),
        ("clean", public.record("healthy", pair.twin.pid())?),
    ];
    for (verdict, (file, program)) in recorded {
        let live = program.end(seconds(WATCH + 60))?;
        ensure!(live.code() == 0, "status {}: {}", live.code(), live.stderr);
        let report = Report::parse(&live.stdout)?;
        report.expect_verdict(verdict)?;
        let path = file.to_string_lossy().into_owned();
        let replayed = public.run(&["replay", &path, "-o", "json"])?;
        ensure!(
            replayed.stdout == live.stdout,
            "live:\n{}\nreplayed:\n{}{}",
            live.stdout,
            replayed.stdout,
            replayed.stderr
        );
        let size = fs::metadata(&file)?.len();
        ensure!(size < 100_000, "{verdict}: {size} bytes");
        let status = public.run(&["replay", &path, "--exit-code"])?.code();
        let expected = if verdict == "leak" { 4 } else { 0 };
        ensure!(status == expected, "{verdict}: status {status}");
        if verdict == "leak" {
            let id = report.only()?["id"].as_str().context("an id")?.to_owned();
            let told = public.run(&["describe", &id, "--from", &path])?;
            ensure!(told.stdout.contains("fetch_price"), "{}", told.stdout);
            let unknown = public.run(&["describe", "nosuch", "--from", &path])?;
            ensure!(unknown.code() == 1, "status {}", unknown.code());
            refused(&public, &file)?;
        }
    }
    Ok(())
}

/// Damage of a whole recording.
fn refused(public: &Public, file: &Path) -> Result<()> {
    let whole = fs::read(file)?;
    let damaged = public.directory.path().join("damaged");
    let mut newer = whole.clone();
    let version = newer.iter().position(|&b| b == b'\n').context("a head")? - 1;
    newer[version] = b'9';
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle..middle + 4].copy_from_slice(b"oops");
    for (bytes, says) in [
        (&whole[..whole.len() - 1], "cut off"),
        (&whole[..40], "cut off"),
        (newer.as_slice(), "format 9"),
        (changed.as_slice(), "damaged"),
    ] {
        fs::write(&damaged, bytes)?;
        expect_refusal(public, &damaged, says)?;
    }
    Ok(())
}

fn expect_refusal(public: &Public, file: &Path, says: &str) -> Result<()> {
    let ended = public.run(&["replay", &file.to_string_lossy()])?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    ensure!(
        ended.code() == 2 && ended.stderr.contains(&*name) && ended.stderr.contains(says),
        "{says}: status {}: {}",
        ended.code(),
        ended.stderr
    );
    Ok(())
}

fn what_is_no_whole_recording_is_refused() -> Result<()> {
    host::require_root()?;
    let public = Public::new()?;
    let file = public.directory.path().join("notes.txt");
    expect_refusal(&public, &file, "can't be opened")?;
    fs::write(&file, "some notes")?;
    expect_refusal(&public, &file, "no recording")?;
    let ended = tracer::run(&["record", "/no/such/folder/file", "-d", "1s"], seconds(30))?;
    ensure!(
        ended.code() == 2,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    Ok(())
}
