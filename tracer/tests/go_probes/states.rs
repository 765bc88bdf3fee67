//! What the pools of programs say: states, requesters, URLs, sockets, settings.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tracer::testing::{GoKind, PoolState};
use tracer_tests::{
    go::{self, Variant},
    program::Program,
    wait,
};

use crate::{Kernel, Scene, versions};

tracer_tests::tests![
    states_sites_and_urls_of_leaks,
    healthy_clients_leave_nothing_behind,
    servers_tell_the_states_of_their_connections,
    settings_are_those_of_the_program,
    probes_come_once_and_go_with_the_last_process,
    another_program_is_looked_at_after_exec,
    connections_from_before_are_found,
];

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
        PoolState::Reading,
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
        // An upgraded connection leaves the pool; a stream of events is being read.
        for (scenario, state) in [
            ("websocket", PoolState::Released),
            ("events", PoolState::Reading),
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

/// Of a server: new, active, idle, hijacked (`net/http.ConnState`), and nothing when closed.
fn servers_tell_the_states_of_their_connections() -> Result<()> {
    let mut kernel = Kernel::load()?;
    for version in versions() {
        for (scenario, n, expected) in [
            ("server-new", 1, (true, PoolState::Unknown)),
            ("follow", 3, (false, PoolState::InFlight)),
            ("read-eof", 2, (false, PoolState::Idle)),
            ("websocket", 1, (false, PoolState::Released)),
        ] {
            let mut scene = Scene::start(version, Variant::Stripped, scenario, n)?;
            let server = scene.server.pid();
            kernel.watch_pid(server)?;
            scene.run()?;
            let mut last = Vec::new();
            wait::until("the server's states", Duration::from_secs(5), || {
                last = kernel.go.sweep()?;
                last.retain(|c| c.tgid == server && c.kind == GoKind::Server);
                let all = last.iter().all(|c| (c.fresh, c.state) == expected);
                Ok(all && !last.is_empty())
            })
            .with_context(|| format!("{version} {scenario}: {last:#?}"))?;
            for c in &last {
                let fd = c.fd.context("no descriptor")?;
                let link = Path::new("/proc").join(server.to_string());
                let link = fs::read_link(link.join(format!("fd/{fd}")))?;
                ensure!(
                    link.to_string_lossy() == format!("socket:[{}]", c.inode),
                    "{version} {scenario}: {c:?}"
                );
            }
            // The client ends, and its connections with it; what was hijacked is net/http's no more.
            drop(scene.client);
            wait::until("closed connections", Duration::from_secs(5), || {
                let left = kernel.go.sweep()?;
                Ok(expected.1 == PoolState::Released || left.iter().all(|c| c.tgid != server))
            })
            .with_context(|| format!("{version} {scenario}"))?;
            kernel.go.forget_process(server);
        }
    }
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
        .map(tracer::testing::GoProgram::probes)
        .collect();
    let known: usize = tracer::testing::offsets::FAMILIES
        .iter()
        .filter(|family| !family.of.contains("golang.org"))
        .map(|family| family.probes.len())
        .sum();
    ensure!(probes == [known], "{probes:?}, not {known}");
    kernel.go.forget_process(first.client.pid());
    ensure!(kernel.go.programs().count() == 1, "probes left too early");
    kernel.go.forget_process(second.client.pid());
    ensure!(kernel.go.programs().count() == 0, "probes stayed");
    Ok(())
}

/// A process that executes another program is looked at anew, and a file that its path does not
/// lead to any more (deleted, or in another mount namespace) is probed all the same.
fn another_program_is_looked_at_after_exec() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let version = go::DEFAULT_VERSIONS[1];
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("client");
    fs::copy(go::build(version, Variant::Stripped)?, &copy)?;
    let (_server, addresses) = Program::ready(
        go::build(version, Variant::Stripped)?,
        &["serve", "-dir", &directory.path().to_string_lossy()],
    )?;
    let script = format!(
        "read line; exec {} body-http -wait -n 3 -servers '{addresses}'",
        copy.display()
    );
    let mut client = Program::start(std::process::Command::new("sh").args(["-c", &script]))?;
    let pid = client.pid();
    ensure!(
        !kernel.go.consider(&mut kernel.probes, pid)?,
        "a shell was taken for a Go program"
    );
    client.write("go\n")?;
    client.line("READY", Duration::from_secs(20))?;
    fs::remove_file(&copy)?;
    kernel.go.forget_process(pid);
    kernel.watch_pid(pid)?;
    client.write("go\n")?;
    client.line("DONE", Duration::from_secs(20))?;
    let mut found = kernel.go.sweep()?;
    found.retain(|c| c.tgid == pid && c.state == PoolState::Response);
    ensure!(found.len() == 3, "{found:#?}");
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
