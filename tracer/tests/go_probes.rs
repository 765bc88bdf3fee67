//! The Go probes against real Go programs on the running kernel.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tracer::{
    go::{GoBinary, GoConnection, GoKind, GoTracer},
    kernel::probes::{Probes, Setup},
    model::PoolState,
};
use tracer_ebpf::{Config, FILTER_PROCESS};
use tracer_tests::{
    go::{self, Variant},
    program::Program,
    runner, wait,
};

tracer_tests::tests![
    states_sites_and_urls_of_leaks,
    healthy_clients_leave_nothing_behind,
    settings_are_those_of_the_program,
    probes_come_once_and_go_with_the_last_process,
    connections_from_before_are_found,
    names_and_lines_agree_with_dwarf,
    requests_under_load_are_told_apart_and_cheap,
    probes_come_and_go_under_load,
];

fn main() -> ExitCode {
    runner::main(&[TESTS])
}

/// The probes, loaded once for many scenes.
struct Kernel {
    probes: Probes,
    go: GoTracer,
}

impl Kernel {
    fn load() -> Result<Kernel> {
        tracer_tests::host::require_root()?;
        let mut probes = Probes::load(Setup {
            config: Config {
                filter: FILTER_PROCESS,
                own_tgid: std::process::id(),
                ..Config::default()
            },
            max_sockets: 4096,
            btf: None,
            pin: None,
            backend: None,
            without: &[],
            trace_syscalls: false,
        })?;
        let go = GoTracer::new(&mut probes)?;
        Ok(Kernel { probes, go })
    }

    fn watch(&mut self, scene: &Scene) -> Result<()> {
        let pid = scene.client.pid();
        self.probes.targets.set(&pid, &1)?;
        ensure!(
            self.go.consider(&mut self.probes, pid)?,
            "not taken for a Go program"
        );
        if let Some(program) = self.go.program_of(pid)
            && let Some(reason) = &program.kernel_only
        {
            bail!("not probed: {reason}");
        }
        Ok(())
    }

    /// What the client's pools say.
    fn of(&mut self, scene: &Scene) -> Result<Vec<GoConnection>> {
        let pid = scene.client.pid();
        let mut found = self.go.sweep()?;
        found.retain(|c| c.tgid == pid);
        Ok(found)
    }
}

/// A client of a fixture server, waiting to be let go.
struct Scene {
    client: Program,
    _server: Program,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn start(version: &str, variant: Variant, scenario: &str, n: u32) -> Result<Scene> {
        let program = go::build(version, variant)?;
        let directory = tempfile::tempdir()?;
        let (server, addresses) = Program::ready(
            &program,
            &["serve", "-dir", &directory.path().to_string_lossy()],
        )?;
        let repetitions = n.to_string();
        let (client, _) = Program::ready(
            &program,
            &[
                scenario,
                "-load",
                "16",
                "-wait",
                "-n",
                &repetitions,
                "-every",
                "20ms",
                "-servers",
                &addresses,
            ],
        )?;
        Ok(Scene {
            client,
            _server: server,
            _directory: directory,
        })
    }

    fn run(&mut self) -> Result<()> {
        self.client.write("go\n")?;
        self.client.line("DONE", Duration::from_secs(60))?;
        Ok(())
    }
}

/// What a leaky scenario leaves behind.
struct Leak {
    scenario: &'static str,
    kind: GoKind,
    state: PoolState,
    url: &'static str,
    mark: &'static str,
    /// Of 6 repetitions.
    count: usize,
    tls: bool,
}

const fn leak(
    scenario: &'static str,
    mark: &'static str,
    state: PoolState,
    url: &'static str,
) -> Leak {
    Leak {
        scenario,
        kind: GoKind::Client,
        state,
        url,
        mark,
        count: 6,
        tls: false,
    }
}

const LEAKS: &[Leak] = &[
    leak(
        "body-http",
        "LEAK body-http",
        PoolState::Response,
        "GET http://H/v2/app/tags/list",
    ),
    Leak {
        tls: true,
        ..leak(
            "body-https",
            "LEAK body-https",
            PoolState::Response,
            "GET https://H/v2/app/manifests/latest",
        )
    },
    leak(
        "body-unix",
        "LEAK body-unix",
        PoolState::Response,
        "GET http://engine/containers/json",
    ),
    Leak {
        count: 3,
        ..leak(
            "error-path",
            "LEAK error-path",
            PoolState::Response,
            "GET http://H/missing",
        )
    },
    leak(
        "dependency",
        "LEAK dependency",
        PoolState::Response,
        "GET http://H/v2/dependency",
    ),
    leak(
        "helper",
        "LEAK helper",
        PoolState::Response,
        "GET http://H/v2/helper",
    ),
    leak(
        "client-per-call",
        "LEAK client-per-call",
        PoolState::Idle,
        "GET http://H/small",
    ),
    leak(
        "follow",
        "LEAK follow",
        PoolState::Response,
        "GET http://H/logs",
    ),
    leak(
        "later-request",
        "LEAK later-request",
        PoolState::Response,
        "GET http://H/v2/later",
    ),
    Leak {
        kind: GoKind::Stream,
        tls: true,
        ..leak(
            "h2-stream",
            "LEAK h2-stream",
            PoolState::Response,
            "GET https://H/v2/watch",
        )
    },
];

fn versions() -> Vec<&'static str> {
    if full() {
        go::ALL_VERSIONS.to_vec()
    } else {
        go::DEFAULT_VERSIONS.to_vec()
    }
}

fn states_sites_and_urls_of_leaks() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let mut wrong = Vec::new();
    for version in versions() {
        let mut variants = vec![Variant::Plain, Variant::Stripped];
        if version == go::ALL_VERSIONS[6] {
            variants.extend([Variant::Pie, Variant::Cgo]);
        }
        for variant in variants {
            for leak in LEAKS {
                let name = format!("{version} {} {}", variant.name(), leak.scenario);
                match one_leak(&mut kernel, version, variant, leak) {
                    Ok(()) => println!("{name:40} ok"),
                    Err(error) => {
                        println!("{name:40} WRONG: {error:#}");
                        wrong.push(name);
                    }
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "wrong: {}", wrong.join(", "));
    Ok(())
}

fn one_leak(kernel: &mut Kernel, version: &str, variant: Variant, leak: &Leak) -> Result<()> {
    let mut scene = Scene::start(version, variant, leak.scenario, 6)?;
    kernel.watch(&scene)?;
    scene.run()?;
    let pid = scene.client.pid();
    let mut mine = Vec::new();
    wait::until("the states", Duration::from_secs(10), || {
        mine = kernel.of(&scene)?;
        mine.retain(|c| c.kind == leak.kind && c.state == leak.state);
        Ok(mine.len() == leak.count)
    })
    .with_context(|| format!("{:#?}", kernel.of(&scene)))?;
    let [(file, line)] = &go::marked(leak.mark)?[..] else {
        bail!("{} is marked more than once", leak.mark);
    };
    for c in &mine {
        let request = c.request.as_ref().context("no request")?;
        let (host, path) = (
            &request.host,
            request.target.split('?').next().unwrap_or(""),
        );
        let scheme = if request.https { "https" } else { "http" };
        let host = if host.starts_with("127.0.0.1:") {
            "H"
        } else {
            host
        };
        let url = format!("{} {scheme}://{host}{path}", request.method);
        ensure!(url == leak.url, "the URL is {url}");
        ensure!(c.tls == leak.tls, "tls is {}", c.tls);
        let fd = c.fd.context("no descriptor")?;
        let inode = fs::read_link(
            Path::new("/proc")
                .join(pid.to_string())
                .join(format!("fd/{fd}")),
        )?;
        ensure!(
            inode.to_string_lossy() == format!("socket:[{}]", c.inode),
            "descriptor {fd} is {}, not inode {}",
            inode.display(),
            c.inode
        );
        ensure!(c.confirmed, "the kernel does not know the socket");
        let sock = kernel.probes.socks.get(&c.sk)?.context("no such socket")?;
        // Streams share their socket, which shows the latest.
        ensure!(
            leak.kind == GoKind::Stream || Some(sock.request_stack) == c.stack,
            "charged to another stack"
        );
        let site = c
            .stack
            .and_then(|id| kernel.go.site(id))
            .context("no stack")?;
        let blamed = site
            .blamed()
            .with_context(|| format!("nobody to blame in {site:#?}"))?;
        ensure!(
            blamed.file.as_deref() == file.to_str() && blamed.line == Some(*line),
            "blamed {}:{:?} in {site:#?}",
            blamed.file.as_deref().unwrap_or("?"),
            blamed.line
        );
        ensure!(
            site.frames
                .last()
                .is_some_and(|f| f.function.starts_with("runtime.goexit")),
            "the stack does not end at its goroutine's start: {site:#?}"
        );
        if leak.kind == GoKind::Client {
            let before = u32::from(leak.scenario == "later-request");
            ensure!(
                c.requests == 1 + before || leak.scenario == "error-path",
                "{} requests",
                c.requests
            );
        }
    }
    Ok(())
}

fn healthy_clients_leave_nothing_behind() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let mut wrong = Vec::new();
    for version in versions() {
        for scenario in [
            "pool",
            "read-eof",
            "no-body",
            "slow-body",
            "long-poll",
            "timeout",
            "h2-healthy",
        ] {
            let mut scene = Scene::start(version, Variant::Stripped, scenario, 4)?;
            kernel.watch(&scene)?;
            scene.run()?;
            let busy = wait::until("idle connections", Duration::from_secs(5), || {
                Ok(kernel
                    .of(&scene)?
                    .iter()
                    .all(|c| c.state == PoolState::Idle && c.kind == GoKind::Client))
            });
            match busy {
                Ok(()) => println!("{version} {scenario:12} ok"),
                Err(_) => {
                    println!("{version} {scenario:12} WRONG: {:#?}", kernel.of(&scene)?);
                    wrong.push(format!("{version} {scenario}"));
                }
            }
        }
        // An upgraded connection leaves the pool; a stream of events stays a response.
        for (scenario, state) in [
            ("websocket", PoolState::Released),
            ("events", PoolState::Response),
        ] {
            let mut scene = Scene::start(version, Variant::Stripped, scenario, 2)?;
            kernel.watch(&scene)?;
            scene.run()?;
            let states: Vec<PoolState> = kernel.of(&scene)?.iter().map(|c| c.state).collect();
            if states != [state] {
                println!("{version} {scenario:12} WRONG: {states:?}");
                wrong.push(format!("{version} {scenario}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "wrong: {}", wrong.join(", "));
    Ok(())
}

fn settings_are_those_of_the_program() -> Result<()> {
    let mut kernel = Kernel::load()?;
    for version in versions() {
        let mut scene = Scene::start(version, Variant::Stripped, "body-http", 1)?;
        kernel.watch(&scene)?;
        scene.run()?;
        let found = kernel.of(&scene)?;
        let transport = found.first().context("no connection")?.transport;
        let settings = kernel
            .go
            .settings(scene.client.pid(), transport)
            .context("no settings")?;
        ensure!(
            settings.max_conns_per_host == 500
                && settings.max_idle_conns_per_host == 7
                && !settings.disable_keep_alives,
            "{version}: {settings:?}"
        );
    }
    Ok(())
}

fn probes_come_once_and_go_with_the_last_process() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let first = Scene::start(go::DEFAULT_VERSIONS[1], Variant::Pie, "pool", 1)?;
    let second = Scene::start(go::DEFAULT_VERSIONS[1], Variant::Pie, "pool", 1)?;
    let own = std::process::id();
    ensure!(
        !kernel.go.consider(&mut kernel.probes, own)?,
        "the test itself was taken for a Go program"
    );
    ensure!(
        kernel
            .go
            .consider(&mut kernel.probes, u32::MAX - 1)
            .is_err()
    );
    kernel.watch(&first)?;
    kernel.watch(&second)?;
    kernel.watch(&second)?;
    let probes: Vec<usize> = kernel
        .go
        .programs()
        .map(tracer::go::GoProgram::probes)
        .collect();
    ensure!(probes == [13], "{probes:?}");
    kernel.go.forget_process(first.client.pid());
    ensure!(kernel.go.programs().count() == 1, "probes left too early");
    kernel.go.forget_process(second.client.pid());
    ensure!(kernel.go.programs().count() == 0, "probes stayed");
    Ok(())
}

/// CPU time that a process has used, user and system.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("no name in stat")?
        .1
        .split_whitespace()
        .collect();
    // utime and stime, fields 14 and 15 of proc(5), in ticks of a hundredth of a second
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}

/// Clients that send requests as fast as they can, 100 in each of 16 goroutines per repetition.
fn load(n: u32) -> Result<Scene> {
    Scene::start(go::DEFAULT_VERSIONS[1], Variant::Stripped, "load", n)
}

fn requests_under_load_are_told_apart_and_cheap() -> Result<()> {
    let repetitions = if full() { 125 } else { 12 };
    let requests = f64::from(repetitions) * 1600.0;
    let mut kernel = Kernel::load()?;
    let mut cost = Vec::new();
    for probed in [false, true] {
        let mut scene = load(repetitions)?;
        if probed {
            kernel.watch(&scene)?;
        }
        let before = cpu(scene.client.pid())?;
        scene.client.write("go\n")?;
        let mut looks = 0u32;
        while !scene.client.stdout().contains("DONE") {
            ensure!(scene.client.runs()?, "it ended: {}", scene.client.stderr());
            for c in kernel.of(&scene)? {
                let Some(request) = &c.request else { continue };
                ensure!(
                    request.method == "GET" && request.target == "/small",
                    "{c:?}"
                );
                ensure!(!c.tls && c.kind == GoKind::Client, "{c:?}");
                let site = c
                    .stack
                    .and_then(|id| kernel.go.site(id))
                    .context("no stack")?;
                let blamed = site.blamed().context("nobody to blame")?;
                ensure!(blamed.function == "main.deep", "{site:#?}");
                looks += 1;
            }
        }
        let used = cpu(scene.client.pid())?.saturating_sub(before);
        cost.push(used.as_secs_f64() * 1e6 / requests);
        println!(
            "{} requests {}: {:.2} us of CPU each, {looks} looks at their state",
            requests,
            if probed { "with probes" } else { "without" },
            cost.last().copied().unwrap_or(0.0),
        );
        ensure!(!probed || looks > 0, "never seen");
    }
    Ok(())
}

fn probes_come_and_go_under_load() -> Result<()> {
    let times = if full() { 500 } else { 20 };
    let mut kernel = Kernel::load()?;
    let mut scene = load(100_000)?;
    scene.client.write("go\n")?;
    let pid = scene.client.pid();
    for _ in 0..times {
        kernel.watch(&scene)?;
        wait::until("a request", Duration::from_secs(10), || {
            Ok(!kernel.of(&scene)?.is_empty())
        })?;
        kernel.go.forget_process(pid);
        ensure!(scene.client.runs()?, "it ended: {}", scene.client.stderr());
    }
    ensure!(
        scene.client.stderr().is_empty(),
        "{}",
        scene.client.stderr()
    );
    ensure!(kernel.go.programs().count() == 0);
    Ok(())
}

fn connections_from_before_are_found() -> Result<()> {
    let mut kernel = Kernel::load()?;
    for version in versions() {
        for (scenario, state, url) in [
            ("body-http", PoolState::Response, "/v2/app/tags/list"),
            (
                "body-https",
                PoolState::Response,
                "/v2/app/manifests/latest",
            ),
            ("body-unix", PoolState::Response, "/containers/json"),
            ("client-per-call", PoolState::Idle, ""),
        ] {
            let mut scene = Scene::start(version, Variant::Stripped, scenario, 12)?;
            scene.run()?;
            kernel.watch(&scene)?;
            let found = kernel.of(&scene)?;
            ensure!(found.len() == 12, "{version} {scenario}: {found:#?}");
            for c in &found {
                ensure!(
                    c.state == state && c.stack.is_none(),
                    "{version} {scenario}: {c:?}"
                );
                let target = c.request.as_ref().map_or("", |r| &r.target);
                ensure!(
                    target.split('?').next() == Some(url),
                    "{version} {scenario}: {c:?}"
                );
                let fd = c.fd.context("no descriptor")?;
                let link = Path::new("/proc")
                    .join(scene.client.pid().to_string())
                    .join(format!("fd/{fd}"));
                ensure!(fs::read_link(link)?.to_string_lossy() == format!("socket:[{}]", c.inode));
            }
            if scenario == "body-http" {
                // Each call has a query of its own: nobody's request is taken for another's.

                let distinct: std::collections::HashSet<_> =
                    found.iter().map(|c| &c.request).collect();
                ensure!(distinct.len() == found.len(), "{version}: {found:#?}");
            }
            println!("{version} {scenario:16} found");
        }
    }
    Ok(())
}

/// Name without type arguments, which DWARF spells out and Go's table does not.
fn plain(name: &str) -> String {
    let mut depth = 0;
    let mut out = String::new();
    for c in name.chars() {
        depth += i32::from(c == '[');
        if depth == 0 {
            out.push(c);
        }
        depth -= i32::from(c == ']');
    }
    out
}

/// What a stripped program's own table says, against what `llvm-symbolizer` reads from the DWARF of
/// the same program. (`addr2line` names inlined calls after their caller.)
fn names_and_lines_agree_with_dwarf() -> Result<()> {
    const SAMPLES: usize = 11_000;
    let symbolizer = tracer_tests::host::tool("llvm-symbolizer")
        .or_else(|_| tracer_tests::host::tool("llvm-symbolizer-22"))?;
    for version in versions() {
        let with_dwarf = go::build(version, Variant::Plain)?;
        let stripped = fs::read(go::build(version, Variant::Stripped)?)?;
        let binary = GoBinary::parse(stripped.into())?;
        let table = binary.table();
        let image = binary.image();
        let functions: Vec<_> = (0..table.len())
            .filter_map(|i| table.function(image, i))
            .collect();
        let (first, last) = match (functions.first(), functions.last()) {
            (Some(first), Some(last)) => (first.entry, last.end),
            _ => bail!("no functions"),
        };
        let step = (last - first) / SAMPLES as u64;
        let addresses: Vec<u64> = (0..SAMPLES as u64).map(|i| first + i * step).collect();
        let directory = tempfile::tempdir()?;
        let list = directory.path().join("addresses");
        let text: Vec<String> = addresses.iter().map(|a| format!("{a:#x}")).collect();
        fs::write(&list, text.join("\n"))?;
        let output = std::process::Command::new(&symbolizer)
            .args(["--addresses", "--inlines", "--obj"])
            .arg(&with_dwarf)
            .stdin(fs::File::open(&list)?)
            .output()?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let (mut known, mut same_function, mut same_lines) = (0u32, 0u32, 0u32);
        // An address, then a name and a place for each frame, innermost first.
        for block in output.split("\n\n").filter(|b| !b.trim().is_empty()) {
            let mut lines = block.trim().trim_start_matches("0x").lines();
            let address = u64::from_str_radix(lines.next().unwrap_or(""), 16)?;
            let lines: Vec<&str> = lines.collect();
            let dwarf: Vec<(String, u32)> = lines
                .chunks_exact(2)
                .map(|pair| {
                    // file:line:column
                    let line = pair[1].rsplit(':').nth(1).and_then(|l| l.parse().ok());
                    let name = pair[0].trim_end_matches(".abi0");
                    (plain(name), line.unwrap_or(0))
                })
                .collect();
            // Padding between functions and assembly have no DWARF to compare with.
            let go: Vec<(String, u32)> = binary
                .positions(address)
                .iter()
                .map(|p| (plain(&p.function), p.line.unwrap_or(0)))
                .collect();
            if go.is_empty() || dwarf.iter().any(|(name, line)| name == "??" || *line == 0) {
                continue;
            }
            known += 1;
            let outermost = go.last().map(|f| &f.0) == dwarf.last().map(|f| &f.0);
            same_function += u32::from(outermost);
            same_lines += u32::from(go == dwarf);
            if go != dwarf && known - same_lines < 4 {
                println!("{version} {address:#x}: {go:?} against {dwarf:?}");
            }
        }
        let share = |n: u32| f64::from(n) / f64::from(known);
        println!(
            "{version}: of {known} addresses {:.2} % agree in the function, {:.2} % in every line and inlined call",
            share(same_function) * 100.0,
            share(same_lines) * 100.0
        );
        ensure!(
            known as usize > SAMPLES / 2,
            "only {known} could be compared"
        );
        ensure!(share(same_function) >= 0.999 && share(same_lines) >= 0.99);
    }
    Ok(())
}
