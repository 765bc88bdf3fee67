//! The fixtures do what they are said to do: by the kernel's own count, before tracer is asked.

use anyhow::{Result, ensure};
use tracer_tests::{
    fixtures,
    host::{seconds, socket_inodes, tcp_states},
    program::Program,
    tests, wait,
};

use crate::scenes::{self, Scene};

tests![
    leaky_clients_pile_up_connections,
    python_client_piles_up_close_wait,
    healthy_twins_hold_few_sockets,
    helpers_inherit_the_descriptors,
    leaking_servers_keep_what_they_accepted,
    fixtures_end_with_their_input,
];

/// Sockets of a kind that a process holds by the time it has made its calls.
fn piled(scene: &Scene, state: &str) -> Result<()> {
    let what = format!("{} to hold 15 sockets in {state}", scene.name);
    wait::until(&what, seconds(20), || {
        Ok(tcp_states(scene.program.pid())?
            .get(state)
            .copied()
            .unwrap_or(0)
            >= 15)
    })
}

fn leaky_clients_pile_up_connections() -> Result<()> {
    for mode in ["fetch", "idle", "unread", "reuse", "both"] {
        piled(
            &scenes::client("client", mode, 50, 20, "leak")?,
            "ESTABLISHED",
        )?;
    }
    piled(
        &scenes::rust("rates", "http", 50, 20, "leak")?,
        "ESTABLISHED",
    )?;
    piled(&scenes::rust("feed", "sse", 50, 20, "leak")?, "ESTABLISHED")?;
    let store = scenes::store(50, 20, "leak")?;
    wait::until("the store's client to hold 20 sockets", seconds(20), || {
        Ok(socket_inodes(store.program.pid())?.len() >= 20)
    })
}

fn python_client_piles_up_close_wait() -> Result<()> {
    piled(
        &scenes::python("close_wait.py", "once", 50, 20, "leak")?,
        "CLOSE_WAIT",
    )?;
    piled(
        &scenes::python("per_request.py", "http", 50, 20, "leak")?,
        "ESTABLISHED",
    )
}

fn healthy_twins_hold_few_sockets() -> Result<()> {
    let twins = [
        (scenes::client("client", "fetch", 50, 40, "close")?, 1),
        (scenes::client("client", "idle", 50, 40, "close")?, 1),
        (scenes::client("client", "unread", 50, 40, "close")?, 1),
        (scenes::client("client", "reuse", 50, 40, "close")?, 1),
        (scenes::client("client", "pool", 50, 40, "close")?, 4),
        (scenes::client("client", "linger", 50, 40, "close")?, 16),
        (scenes::rust("rates", "http", 50, 40, "close")?, 1),
        (scenes::rust("feed", "sse", 10, 20, "close")?, 19),
        (scenes::store(50, 40, "close")?, 1),
    ];
    for (mut scene, most) in twins {
        wait::until(
            &format!("{} to make its calls", scene.name),
            seconds(20),
            || {
                let open = socket_inodes(scene.program.pid())?.len();
                ensure!(
                    open <= most,
                    "{} holds {open} sockets, not at most {most}",
                    scene.name
                );
                Ok(scene.program.stdout().contains("DONE"))
            },
        )?;
        ensure!(scene.program.runs()?, "{} ended", scene.name);
    }
    Ok(())
}

fn helpers_inherit_the_descriptors() -> Result<()> {
    let scene = scenes::inherit(20, 5, "leak")?;
    let pid = scene.program.pid();
    let children = || -> Result<Vec<u32>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(text
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect())
    };
    wait::until("five helpers", seconds(20), || Ok(children()?.len() == 5))?;
    for child in children()? {
        wait::until("a helper with the socket", seconds(5), || {
            Ok(socket_inodes(child)?.len() == 1)
        })?;
    }
    ensure!(
        socket_inodes(pid)?.is_empty(),
        "the opener still holds sockets"
    );
    Ok(())
}

fn leaking_servers_keep_what_they_accepted() -> Result<()> {
    let (server, traffic) = scenes::python_server("leak", "leak", 50, 20)?;
    piled(&server, "ESTABLISHED")?;
    drop(traffic);
    piled(&server, "CLOSE_WAIT")?;
    let (server, _traffic) = scenes::unix_server("keep", "leak", 50, 20)?;
    wait::until("the UNIX server to keep 20 sockets", seconds(20), || {
        Ok(socket_inodes(server.program.pid())?.len() > 20)
    })
}

fn fixtures_end_with_their_input() -> Result<()> {
    let (server, address) =
        Program::ready(fixtures::path("fixture-server")?, &["http", "127.0.0.1:0"])?;
    let (client, _) = Program::ready(
        fixtures::path("client")?,
        &["fetch", &address, "50", "20", "leak"],
    )?;
    let (shop, _) = Program::ready(fixtures::path("leaky-shop")?, &[&address, "50"])?;
    let (inherit, _) = Program::ready(fixtures::path("inherit")?, &[&address, "50", "20", "leak"])?;
    for mut program in [client, shop, inherit, server] {
        program.close_stdin();
        let ended = program.end(seconds(10))?;
        ensure!(
            ended.code() == 0,
            "status {}: {}",
            ended.code(),
            ended.stderr
        );
    }
    Ok(())
}
