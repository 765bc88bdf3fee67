//! Requests between Go programs whose own functions are probed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Bar, Bench, Row, Section,
    traced::{Daemon, Process},
};
use crate::{
    build::{self, Profile},
    sh,
};

/// What a request costs with all handlers.
pub const SECTION: Section = Section {
    name: "go",
    title: "Requests of Go programs",
    about: "A client and a server of Go 1.27.3, stripped, on loopback, both traced: 16 goroutines send requests of HTTP/1 on \
            kept connections without a pause, from stacks that grow. One request is one for both ends together: what is \
            counted is CPU time of client and server (with the kernel's work for them) and of the tracer's own process, per \
            request, less that of the same two processes just before and after without a tracer. Without Go probes, the \
            kernel's hooks alone watch them. Hits alone means that other processes of the same executable are watched: the \
            probes are hit, and leave after one look-up. One of the probes is on the way of a request: the client's roundTrip, at \
            a `push` that the kernel emulates. In a tight loop a hit with an empty program takes 0.6 to 0.8 µs here (perf events \
            or uprobe_multi, one thread or two), among the work of a program up to 2. Where its time goes, a profile of this load \
            tells (perf, cpu-clock), more steadily than the difference of two noisy runs: the trap with its handler 5.9 % of the \
            CPU time of client and server, of which the handler 4.0 % (most of it reads of the stack, up to 40 frames of more than 512 \
            bytes each, and of the URL), the kernel's hooks 2.0 to 2.5 %.",
    run,
};

/// Requests of a repetition of the load: 100 in each of its goroutines.
const REQUESTS: usize = 1600;
/// Repetitions that are measured.
const MEASURED: usize = 18;
/// Those before, after a change of tracer: call sites are known then.
const WARM_UP: usize = 8;
/// Microseconds allowed for a request.
const MOST: f64 = 5.0;

/// What tracing added, round by round; microseconds per request, but for the rate.
#[derive(Default)]
struct Cost {
    plain: Vec<f64>,
    rate: Vec<f64>,
    added: Vec<f64>,
    own: Vec<f64>,
}

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let program = fixture(bench)?;
    let mut pair = Pair::start(bench, &program, "go-watched")?;
    let bystander = Pair::start(bench, &program, "go-bystander")?;
    let (mut all, mut kernel, mut hits) = (Cost::default(), Cost::default(), Cost::default());
    pair.measure(WARM_UP, None)?;
    for _ in 0..bench.rounds(5) {
        pair.compare(bench, &pair.pids(), &[], &mut all)?;
        pair.compare(bench, &pair.pids(), &["--without=go"], &mut kernel)?;
        pair.compare(bench, &bystander.pids(), &[], &mut hits)?;
    }
    let share = all.added.iter().zip(&kernel.added);
    let share = share.map(|(all, kernel)| all - kernel).collect();
    Ok(vec![
        Row::new("untraced", "requests/s", all.rate),
        Row::new("untraced, per request", "µs", all.plain),
        Row::new("everything, per request", "µs", all.added)
            .bar(Bar::AtMost(MOST))
            .note("all handlers, those of the kernel's hooks included, and the daemon"),
        Row::new("without Go probes, per request", "µs", kernel.added),
        Row::new("Go probes, per request", "µs", share)
            .bar(Bar::AtMost(MOST))
            .note("the difference of the two"),
        Row::new("hits alone, per request", "µs", hits.added)
            .note("one probe is passed: roundTrip of the client"),
        Row::new("daemon, per request", "µs", all.own).note("its own CPU time, part of everything"),
    ])
}

/// The fixture program, built as for guests.
fn fixture(bench: &Bench) -> Result<PathBuf> {
    let programs = build::cargo(
        &bench.ready,
        Profile::default(),
        &["build", "--package", "tracer-tests", "--test", "behaviour"],
    )?;
    let tests = programs
        .iter()
        .find(|program| program.target == "behaviour" && program.is_test)
        .context("cargo built no test program `behaviour`")?;
    let folder = bench.folder.join("fixtures");
    sh::quiet(
        sh::command(&tests.path)
            .arg("--build-fixtures")
            .arg(&folder)
            .arg("--go"),
    )?;
    Ok(folder.join("fixture-1.27.3-stripped"))
}

/// A client and its server.
struct Pair {
    server: Process,
    client: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// CPU time per request, and requests per second.
struct Measured {
    load_us: f64,
    own_us: f64,
    rate: f64,
}

impl Pair {
    /// Starts both; `name` is that of a folder of their own.
    fn start(bench: &Bench, program: &Path, name: &str) -> Result<Self> {
        let start = |arguments: &[&str]| -> Result<(Process, BufReader<ChildStdout>, String)> {
            let mut child = sh::command(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start the Go program")?;
            let output = child.stdout.take();
            let process = Process(child);
            let mut output = BufReader::new(output.context("no output")?);
            let mut line = String::new();
            output.read_line(&mut line)?;
            let Some(rest) = line.strip_prefix("READY") else {
                bail!("the Go program did not become ready: {line:?}");
            };
            let rest = rest.trim().to_owned();
            Ok((process, output, rest))
        };
        let folder = bench.folder.join(name);
        fs::create_dir_all(&folder)?;
        let (server, _, addresses) = start(&["serve", "-dir", &folder.to_string_lossy()])?;
        let (mut client, output, _) = start(&[
            "load-healthy",
            "-load=16",
            "-step",
            "-n=1000000000",
            "-servers",
            &addresses,
        ])?;
        let input = client.0.stdin.take().context("no input")?;
        Ok(Self {
            server,
            client,
            input,
            output,
        })
    }

    /// One round: without a tracer, with one that watches these, and without.
    fn compare(
        &mut self,
        bench: &Bench,
        watched: &[u32],
        arguments: &[&str],
        cost: &mut Cost,
    ) -> Result<()> {
        let before = self.measure(MEASURED, None)?;
        let daemon = Daemon::start_for(bench, watched, arguments)?;
        self.measure(WARM_UP, None)?;
        let traced = self.measure(MEASURED, Some(&daemon.process))?;
        drop(daemon);
        let after = self.measure(MEASURED, None)?;
        let plain_us = (before.load_us + after.load_us) / 2.0;
        cost.plain.push(plain_us);
        cost.rate.push(after.rate);
        cost.own.push(traced.own_us);
        cost.added.push(traced.load_us + traced.own_us - plain_us);
        Ok(())
    }

    /// Lets it run so many repetitions.
    fn measure(&mut self, repetitions: usize, tracer: Option<&Process>) -> Result<Measured> {
        let own_ns = || tracer.map_or(0.0, Process::cpu_ns);
        let (load_before, own_before) = (self.cpu_ns(), own_ns());
        let began = Instant::now();
        self.input
            .write_all("\n".repeat(repetitions).as_bytes())
            .context("the Go client has ended")?;
        for _ in 0..repetitions {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            if line.trim_end() != "DID" {
                bail!("the Go client said {line:?}");
            }
        }
        let requests = (repetitions * REQUESTS) as f64;
        Ok(Measured {
            load_us: (self.cpu_ns() - load_before) / requests / 1e3,
            own_us: (own_ns() - own_before) / requests / 1e3,
            rate: requests / began.elapsed().as_secs_f64(),
        })
    }

    fn pids(&self) -> [u32; 2] {
        [self.client.0.id(), self.server.0.id()]
    }

    fn cpu_ns(&self) -> f64 {
        self.client.cpu_ns() + self.server.cpu_ns()
    }
}
