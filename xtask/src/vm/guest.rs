//! One boot of one kernel, and the job that it runs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Image, Kernel, work_dir};
use crate::setup::Emulator;

/// A guest that has said nothing after this time does not boot; it takes 5 to 20 s here.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How often a guest that does not boot is tried.
const TRIES: u32 = 3;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The job's exit status.
    pub status: i32,
    /// How many boots it took; more than 1 is worth a remark.
    pub boots: u32,
}

/// Why a boot came to nothing.
enum Failure {
    /// The job never started; another try may help.
    NoBoot(String),
    Other(anyhow::Error),
}

/// What a guest is to do.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// Shell script.
    pub script: &'a str,
    /// Variables for it.
    pub env: &'a [(String, String)],
    /// Longer than this it hangs.
    pub limit: Duration,
}

/// Boots `kernel`, runs the job in it and hands over each line it prints.
pub fn run(
    emulator: &Emulator,
    kernel: &Kernel,
    image: &Image,
    job: Job<'_>,
    on_line: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let limit = job.limit;
    let folder = work_dir().join(&kernel.version);
    fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("initramfs-{}.cpio", std::process::id()));
    image.write(&archive, job.script, job.env)?;
    let console = folder.join("console.log");

    let mut ended = Err(anyhow::anyhow!("not tried"));
    for boots in 1..=TRIES {
        let mut qemu = emulator.command();
        // two processors on one thread: with a thread each, QEMU sometimes runs code that the
        // kernel has just patched (attaching to a tracepoint does), and the guest dies of it
        qemu.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
        ])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial"])
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio", "-kernel"])
        .arg(&kernel.path)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", "console=ttyS0 quiet panic=-1"]);
        match boot(qemu, limit, on_line) {
            Ok(status) => {
                ended = Ok(Ended { status, boots });
                break;
            }
            Err(Failure::NoBoot(why)) => {
                let said = fs::read(&console).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                eprintln!(
                    "xtask: Linux {} did not boot: {why}\n{said}",
                    kernel.version
                );
                ended = Err(anyhow::anyhow!(
                    "Linux {} did not boot in {boots} tries: {why}",
                    kernel.version
                ));
            }
            Err(Failure::Other(error)) => {
                ended = Err(error.context(format!(
                    "Linux {}; its messages: {}",
                    kernel.version,
                    console.display()
                )));
                break;
            }
        }
    }
    // tens of megabytes; only a leftover in the cache if it fails
    let _ = fs::remove_file(&archive);
    ended
}

/// Ends QEMU with the value, so that no error path leaves it running.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // it may be gone already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(mut qemu: Command, limit: Duration, on_line: &mut dyn FnMut(&str)) -> Result<i32, Failure> {
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")
        .map_err(Failure::Other)?;
    let stdout = child.stdout.take();
    let _guard = Guard(child);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let lines = stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).split(b'\n'));
        for line in lines.map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let mut deadline = Instant::now() + BOOT_LIMIT;
    let mut started = false;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if !started => {
                // firmware may write here too
                if line.contains("GUEST STARTED ") {
                    started = true;
                    deadline = Instant::now() + limit;
                }
            }
            // the job's last line may have had no end
            Ok(line) => match line.split_once("GUEST ENDED ") {
                Some((last, status)) => {
                    if !last.is_empty() {
                        on_line(last);
                    }
                    return status
                        .parse()
                        .with_context(|| format!("the guest ended with {status:?}"))
                        .map_err(Failure::Other);
                }
                None => on_line(&line),
            },
            Err(RecvTimeoutError::Timeout) if started => {
                return fail(format!("the job did not end within {} s", limit.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) if started => {
                return fail("the guest died while it ran the job".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::NoBoot(format!(
                    "silent for {} s",
                    BOOT_LIMIT.as_secs()
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::NoBoot("QEMU ended".to_owned()));
            }
        }
    }
}

fn fail(why: String) -> Result<i32, Failure> {
    Err(Failure::Other(anyhow::anyhow!(why)))
}
