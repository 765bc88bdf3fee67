//! A program under watch together with its other end.

use anyhow::Result;
use tempfile::TempDir;
use tracer_tests::{fixtures, program::Program};

/// A program to watch, and whatever it talks to.
#[derive(Debug)]
pub struct Scene {
    /// For messages.
    pub name: String,
    /// The program to watch.
    pub program: Program,
    /// What a report calls the other end (for a server: its own address).
    pub address: String,
    _server: Option<Program>,
    _directory: Option<TempDir>,
}

impl Scene {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// The fixture server.
pub fn server(mode: &str, address: &str) -> Result<(Program, String)> {
    Program::ready(fixtures::path("fixture-server")?, &[mode, address])
}

/// A C client (`program` is one of its builds) and an HTTP server.
pub fn client(program: &str, mode: &str, rate: u32, count: u32, how: &str) -> Result<Scene> {
    client_to("127.0.0.1:0", "http", program, mode, rate, count, how)
}

/// A C client and a server of another mood or address family.
pub fn client_to(
    listen: &str,
    server_mode: &str,
    program: &str,
    mode: &str,
    rate: u32,
    count: u32,
    how: &str,
) -> Result<Scene> {
    let (server, address) = server(server_mode, listen)?;
    let (rate, count) = (rate.to_string(), count.to_string());
    let (client, _) = Program::ready(
        fixtures::path(program)?,
        &[mode, &address, &rate, &count, how],
    )?;
    let name = format!("{program} {mode} {how}");
    Ok(Scene {
        name,
        program: client,
        address,
        _server: Some(server),
        _directory: None,
    })
}

/// The C client of the store, over a UNIX socket.
pub fn store(rate: u32, count: u32, how: &str) -> Result<Scene> {
    let directory = tempfile::tempdir()?;
    let address = format!("unix:{}", directory.path().join("store.sock").display());
    let scene = client_to(&address, "line", "client", "store", rate, count, how)?;
    Ok(Scene {
        _directory: Some(directory),
        ..scene
    })
}

/// A Rust client.
pub fn rust(mode: &str, server_mode: &str, rate: u32, count: u32, how: &str) -> Result<Scene> {
    client_to(
        "127.0.0.1:0",
        server_mode,
        "fixture-client",
        mode,
        rate,
        count,
        how,
    )
}

/// A Python client.
pub fn python(script: &str, server_mode: &str, rate: u32, count: u32, how: &str) -> Result<Scene> {
    let (interpreter, path) = fixtures::python(script)?;
    let (server, address) = server(server_mode, "127.0.0.1:0")?;
    let path = path.to_string_lossy();
    let (rate, count) = (rate.to_string(), count.to_string());
    let (client, _) = Program::ready(interpreter, &[&*path, &address, &rate, &count, how])?;
    let name = format!("{script} {how}");
    Ok(Scene {
        name,
        program: client,
        address,
        _server: Some(server),
        _directory: None,
    })
}

/// The program whose helpers inherit its connections.
pub fn inherit(rate: u32, count: u32, how: &str) -> Result<Scene> {
    let (server, address) = server("http", "127.0.0.1:0")?;
    let (rate, count) = (rate.to_string(), count.to_string());
    let (program, _) =
        Program::ready(fixtures::path("inherit")?, &[&*address, &rate, &count, how])?;
    let name = format!("inherit {how}");
    Ok(Scene {
        name,
        program,
        address,
        _server: Some(server),
        _directory: None,
    })
}

/// The Python server as the program to watch, and a client that keeps (`leak`) or closes its ends.
pub fn python_server(how: &str, traffic: &str, rate: u32, count: u32) -> Result<(Scene, Program)> {
    let (interpreter, path) = fixtures::python("accept.py")?;
    let path = path.to_string_lossy();
    let (server, address) = Program::ready(interpreter, &[&*path, "127.0.0.1:0", "0", "0", how])?;
    let (rate, count) = (rate.to_string(), count.to_string());
    let client = fixtures::path("client")?;
    let (traffic, _) = Program::ready(client, &["fetch", &address, &rate, &count, traffic])?;
    let name = format!("accept.py {how}");
    let scene = Scene {
        name,
        program: server,
        address,
        _server: None,
        _directory: None,
    };
    Ok((scene, traffic))
}

/// The Rust server on a UNIX socket as the program to watch, and its client.
pub fn unix_server(mode: &str, traffic: &str, rate: u32, count: u32) -> Result<(Scene, Program)> {
    let directory = tempfile::tempdir()?;
    let address = format!("unix:{}", directory.path().join("shop.sock").display());
    let (server, _) = server(mode, &address)?;
    let (rate, count) = (rate.to_string(), count.to_string());
    let client = fixtures::path("client")?;
    let (traffic, _) = Program::ready(client, &["fetch", &address, &rate, &count, traffic])?;
    let name = format!("fixture-server {mode}");
    let scene = Scene {
        name,
        program: server,
        address,
        _server: None,
        _directory: Some(directory),
    };
    Ok((scene, traffic))
}
