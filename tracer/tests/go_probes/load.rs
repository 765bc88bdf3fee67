//! Programs under load: nothing is taken for something else, and nothing misbehaves.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tracer::testing::{GoKind, PoolState};
use tracer_tests::{
    go::{self, Variant},
    wait,
};

use crate::{Kernel, Scene, full};

tracer_tests::tests![
    requests_under_load_are_told_apart,
    probes_come_and_go_under_load,
];

/// Clients that send requests as fast as they can, 100 in each of 16 goroutines per repetition.
/// Of each hundred one is leaked, and the client prints its path and local port.
fn load(n: u32) -> Result<Scene> {
    Scene::start(go::DEFAULT_VERSIONS[1], Variant::Stripped, "load", n)
}

/// Client and server are both probed. While they run, what is known of any connection makes sense;
/// at the end, each leaked connection is known by the path and the socket that the client itself
/// says it used.
fn requests_under_load_are_told_apart() -> Result<()> {
    let repetitions = if full() { 125 } else { 6 };
    let mut kernel = Kernel::load()?;
    let mut scene = load(repetitions)?;
    kernel.watch(&scene)?;
    kernel.watch_pid(scene.server.pid())?;
    scene.client.write("go\n")?;
    let server = scene.server.pid();
    let mut looks = (0u32, 0u32);
    while !scene.client.stdout().contains("DONE") {
        ensure!(
            scene.client.runs()? && scene.server.runs()?,
            "it ended: {} {}",
            scene.client.stderr(),
            scene.server.stderr()
        );
        for c in kernel.go.sweep()? {
            if c.kind == GoKind::Server {
                ensure!(c.tgid == server && c.request.is_none(), "{c:?}");
                looks.1 += 1;
                continue;
            }
            let Some(request) = &c.request else { continue };
            let site = c
                .stack
                .and_then(|id| kernel.go.site(id))
                .context("no stack")?;
            let blamed = site.blamed().context("nobody to blame")?;
            let function = match &*request.target {
                "/small" => "main.deep",
                _ => "main.forget",
            };
            ensure!(
                request.method == "GET"
                    && !c.tls
                    && c.kind == GoKind::Client
                    && c.tgid == scene.client.pid()
                    && (request.target == "/small" || request.target.starts_with("/v2/forgotten/"))
                    && blamed.function == function,
                "{c:?} {site:#?}"
            );
            looks.0 += 1;
        }
    }
    let stdout = scene.client.stdout();
    let leaked: HashMap<&str, u16> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("FORGOTTEN ")?.split_once(' '))
        .map(|(path, port)| Ok((path, port.parse()?)))
        .collect::<Result<_>>()?;
    let mut found = kernel.of(&scene)?;
    found.retain(|c| c.state == PoolState::Response);
    println!(
        "{} requests, {} of them leaked: {} and {} looks at client and server",
        repetitions * 1600,
        leaked.len(),
        looks.0,
        looks.1
    );
    ensure!(leaked.len() as u32 == repetitions * 16, "{}", leaked.len());
    ensure!(
        found.len() == leaked.len(),
        "{} known as leaked, {} leaked",
        found.len(),
        leaked.len()
    );
    for c in &found {
        let path = c.request.as_ref().map_or("", |r| &r.target);
        let sock = kernel.probes.socks.get(&c.sk)?.context("no such socket")?;
        ensure!(
            leaked.get(path) == Some(&sock.local_port),
            "{path} was sent from {:?}, not {}",
            leaked.get(path),
            sock.local_port
        );
    }
    ensure!(looks.0 > 0 && looks.1 > 0, "never seen");
    ensure!(scene.client.stderr().is_empty() && scene.server.stderr().is_empty());
    Ok(())
}

/// The kernel detaches one uprobe after the other, and waits some 90 ms for each, so the program has
/// no functions to probe beyond those that the load passes through. The load leaves the CPUs to
/// whoever else wants them, or the kernel would wait longer.
fn probes_come_and_go_under_load() -> Result<()> {
    let times = if full() { 500 } else { 20 };
    let mut kernel = Kernel::load()?;
    let mut scene = Scene::start(
        go::DEFAULT_VERSIONS[1],
        Variant::WithoutHttp2,
        "load-healthy",
        100_000,
    )?;
    let pid = scene.client.pid();
    yield_cpus(pid)?;
    yield_cpus(scene.server.pid())?;
    scene.client.write("go\n")?;
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

/// Gives all threads of a process, and those to come, the lowest priority.
fn yield_cpus(pid: u32) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_string_lossy().parse()?;
        // SAFETY: the call takes numbers only.
        let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, 19) };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
    }
    Ok(())
}
