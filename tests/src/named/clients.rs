//! The clients of the table, as commands.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{Ground, Where, ground::NAME};
use crate::{
    go, host, java,
    languages::{self, run, source},
    node as npm,
    runner::Skip,
};

/// Drivers of Python, and the server of gRPC; exact, so that a new release breaks nothing unseen.
const PYTHON_DRIVERS: [&str; 4] = [
    "grpcio==1.85.1",
    "psycopg==3.3.9",
    "psycopg-binary==3.3.9",
    "pymysql==1.2.4",
];
/// Clients of Python's that have a TLS library within a module.
const PYTHON_MODULES: [&str; 5] = [
    "cryptography==50.0.2",
    "curl_cffi==0.17.0",
    "idna==3.11",
    "pyOpenSSL==26.4.0",
    "urllib3==2.8.0",
];
/// The driver of PostgreSQL for Node.js.
const PG: &str = "pg@8.23.1";
/// The newest Go that the tests use.
const GO: &str = "1.27.3";

/// Debian's Python with [`PYTHON_DRIVERS`].
///
/// # Errors
/// When they can't be had.
pub fn python_with_drivers() -> Result<PathBuf> {
    languages::python_with(&PYTHON_DRIVERS)
}

/// What a client of HTTP asks for.
fn asked(place: &Where<'_>, path: &str) -> String {
    match place.port {
        0 => format!("http://{NAME}/{path}?key=SECRET"),
        port => format!("https://{NAME}:{port}/{path}?key=SECRET"),
    }
}

/// What a library asks for: what never ends, where it closes a connection without a request soon.
fn path(library: &str) -> String {
    let folder = match library {
        "aiohttp" | "fetch" | "url" | "h2-feed" => "feed",
        _ => "orders",
    };
    format!("{folder}/{library}")
}

/// A command that is executed when it is told to, and reads nothing.
fn later(command: &Command) -> Result<Command> {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "echo READY; read line; echo OPEN; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.context("a variable is removed")?);
    }
    Ok(shell)
}

/// A script below `tests/fixtures/names`.
fn script(
    interpreter: impl Into<PathBuf>,
    script: &str,
    words: &[&str],
    ground: &Ground,
) -> Command {
    let mut command = Command::new(interpreter.into());
    command
        .arg(source(&format!("names/{script}")))
        .args(words)
        .arg(&ground.certificate);
    command
}

/// curl of this machine.
pub fn curl(ground: &Ground, place: &Where<'_>, version: &str) -> Result<Command> {
    curl_of(Command::new(host::tool("curl")?), ground, place, version)
}

fn curl_of(
    mut command: Command,
    ground: &Ground,
    place: &Where<'_>,
    version: &str,
) -> Result<Command> {
    command
        .args(["--silent", "--no-buffer", version, "--cacert"])
        .arg(&ground.certificate);
    if place.port == 0 {
        command.args(["--unix-socket", place.path]);
    }
    later(command.arg(asked(place, "feed/curl")))
}

/// Where a client asks for through a proxy.
const BEHIND: Where<'_> = Where {
    port: 8443,
    path: "",
};

/// A client that asks through a proxy, as its environment says.
pub fn by_proxy(
    client: impl Fn(&Where<'_>) -> Result<Command>,
    place: &Where<'_>,
) -> Result<Command> {
    let mut command = client(&BEHIND)?;
    command.env("https_proxy", format!("http://127.0.0.1:{}", place.port));
    command.env_remove("no_proxy").env_remove("NO_PROXY");
    command.env_remove("HTTPS_PROXY");
    Ok(command)
}

/// The same of Java, where properties say it.
pub fn java_by_proxy(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let mut command = java("url", ground, &BEHIND)?;
    let options = format!(
        "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={}",
        place.port
    );
    command.env("JDK_JAVA_OPTIONS", options);
    Ok(command)
}

pub fn wget(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let mut command = Command::new(host::tool("wget")?);
    command
        .args(["--quiet", "--output-document", "/dev/null"])
        .arg("--ca-certificate")
        .arg(&ground.certificate);
    later(command.arg(asked(place, "feed/wget")))
}

pub fn python(library: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    python_by(languages::python_with_packages()?, library, ground, place)
}

/// Another interpreter.
pub fn python_by(
    interpreter: PathBuf,
    library: &str,
    ground: &Ground,
    place: &Where<'_>,
) -> Result<Command> {
    let url = asked(place, &path(library));
    let mut command = script(interpreter, "client.py", &[library, &url], ground);
    if place.port == 0 {
        command.arg(place.path);
    }
    Ok(command)
}

/// An older Python, which `cargo xtask setup` unpacks, with its OpenSSL.
pub fn python_with_openssl_1(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let root = host::cache()?.join("packages/python3.9");
    let interpreter = root.join("usr/bin/python3.9");
    if !interpreter.exists() {
        bail!(Skip("OpenSSL 1.1 was not unpacked here".to_owned()));
    }
    let mut command = python_by(interpreter, "urllib", ground, place)?;
    command
        .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
        .env("PYTHONHOME", root.join("usr"));
    Ok(command)
}

/// With one of [`PYTHON_MODULES`].
pub fn python_with_module(library: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    python_by(
        languages::python_with(&PYTHON_MODULES)?,
        library,
        ground,
        place,
    )
}

/// With a driver, which takes its own kind of address.
pub fn driver(library: &str, address: &str, ground: &Ground) -> Result<Command> {
    let words = [library, address];
    Ok(script(python_with_drivers()?, "client.py", &words, ground))
}

pub fn node(library: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let url = asked(place, &path(library));
    let words = [library, &url];
    let mut command = script(host::tool("node")?, "client.js", &words, ground);
    command.env("NODE_EXTRA_CA_CERTS", &ground.certificate);
    if place.port == 0 {
        command.arg(place.path);
    }
    Ok(command)
}

pub fn node_pg(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let folder = npm::installed(PG, &[PG])?;
    let words = ["pg", &database(place)];
    let mut command = script(host::tool("node")?, "client.js", &words, ground);
    command.env("NODE_PATH", folder.join("node_modules"));
    Ok(command)
}

fn database(place: &Where<'_>) -> String {
    format!("postgres://shop@{NAME}:{}/orders", place.port)
}

pub fn java_with(library: &str, url: &str, class_path: &str, ground: &Ground) -> Result<Command> {
    let classes = java::classes_in(&source("names/Client.java"), "17")?;
    let mut command = Command::new(host::tool("java")?);
    command
        .args(["-Xmx96m", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}:{class_path}", classes.display()))
        .args(["Client", library, url])
        .arg(&ground.certificate);
    Ok(command)
}

pub fn java(library: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let url = asked(place, &path(library));
    java_with(library, &url, "", ground)
}

pub fn jdbc(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let root = ground.unpacked("jdbc", &["libpostgresql-jdbc-java"])?;
    let url = format!(
        "jdbc:postgresql://{NAME}:{}/orders?user=shop&sslmode=verify-full",
        place.port
    );
    let jar = root.join("usr/share/java/postgresql.jar");
    java_with("jdbc", &url, &jar.to_string_lossy(), ground)
}

/// reqwest, with one of two TLS libraries.
pub fn rust(library: &str, ground: &Ground, place: &Where<'_>, stripped: bool) -> Result<Command> {
    let built = languages::cargo_project(&source("names/rust"))?.join("client");
    let mut command = Command::new(&built);
    if stripped {
        let program = ground
            .folder("rust")?
            .join(format!("{library}-{}", place.port));
        run(Command::new(host::tool("strip")?)
            .arg("-o")
            .arg(&program)
            .arg(&built))?;
        command = Command::new(program);
    }
    command
        .args([library, &asked(place, &path(library))])
        .arg(&ground.certificate);
    Ok(command)
}

pub fn ruby(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let url = asked(place, "orders/net-http");
    let words = ["net-http", &url];
    Ok(script(host::tool("ruby")?, "client.rb", &words, ground))
}

/// Erlang's own client, with its own TLS.
pub fn erlang(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let packages = [
        "erlang-base",
        "erlang-asn1",
        "erlang-crypto",
        "erlang-inets",
        "erlang-public-key",
        "erlang-ssl",
    ];
    let root = ground.unpacked("erlang", &packages)?.join("usr/lib/erlang");
    let is_emulator = |name: &str| name.starts_with("erts-");
    let emulator = fs::read_dir(&root)?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(is_emulator))
        .context("no emulator")?;
    let programs = emulator.path().join("bin");
    let evaluate = format!("file:eval(\"{}\").", source("names/client.erl").display());
    let mut command = Command::new(programs.join("erlexec"));
    command
        .env("ROOTDIR", &root)
        .env("BINDIR", &programs)
        .env("EMU", "beam")
        .env("PROGNAME", "erl")
        .args(["-noshell", "-eval", &evaluate, "-extra"])
        .arg(asked(place, "orders/httpc"))
        .arg(&ground.certificate);
    Ok(command)
}

pub fn php(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let url = asked(place, "orders/php");
    let words = ["curl", &url];
    Ok(script(host::tool("php")?, "client.php", &words, ground))
}

pub fn golang(library: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let program = go::build_folder(GO, "names", &source("names/go"))?;
    let mut command = Command::new(program);
    command
        .args([library, &asked(place, &path(library))])
        .arg(&ground.certificate);
    Ok(command)
}

/// A program of google.golang.org/grpc.
pub fn grpc_go(scheme: &str, _: &Ground, place: &Where<'_>) -> Result<Command> {
    let mut command = Command::new(go::build_with_grpc(GO)?);
    command.args(["one", &format!("{scheme}{NAME}:{}", place.port)]);
    Ok(command)
}

pub fn psql(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let mut command = ground.postgres("psql")?;
    command
        .arg(format!("{}?sslmode=require", database(place)))
        .args(["--command", "select pg_sleep(600)"]);
    later(&command)
}

pub fn psycopg(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    let address = format!("{}?sslmode=require", database(place));
    driver("psycopg", &address, ground)
}

pub fn pymysql(ground: &Ground, place: &Where<'_>) -> Result<Command> {
    driver("pymysql", &format!("{NAME}:{}", place.port), ground)
}

pub fn grpc(scheme: &str, ground: &Ground, place: &Where<'_>) -> Result<Command> {
    driver("grpc", &format!("{scheme}://{NAME}:{}", place.port), ground)
}

/// A program of Redis.
pub fn redis(ground: &Ground, program: &str) -> Result<Command> {
    let packages = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1"];
    ground.debian("redis", &packages, &format!("usr/bin/{program}"))
}

pub fn redis_cli(ground: &Ground, place: &Where<'_>, more: &[&str]) -> Result<Command> {
    let mut command = redis(ground, "redis-cli")?;
    command
        .args(["-h", NAME, "-p", &place.port.to_string(), "-n", "3"])
        .args(more);
    if !more.is_empty() {
        command.arg("--cacert").arg(&ground.certificate);
    }
    later(command.args(["blpop", "orders", "0"]))
}

/// A program of mosquitto.
pub fn mosquitto(ground: &Ground, program: &str) -> Result<Command> {
    let packages = [
        "mosquitto",
        "mosquitto-clients",
        "libmosquitto1",
        "libcjson1",
        "libdlt2",
        "libwrap0",
    ];
    ground.debian("mosquitto", &packages, program)
}

pub fn mosquitto_sub(ground: &Ground, place: &Where<'_>, tls: bool) -> Result<Command> {
    let mut command = mosquitto(ground, "usr/bin/mosquitto_sub")?;
    command.args(["-h", NAME, "-p", &place.port.to_string(), "-t", "orders"]);
    if tls {
        command.arg("--cafile").arg(&ground.certificate);
    }
    later(&command)
}

/// A program of MariaDB.
pub fn mariadb(ground: &Ground, program: &str) -> Result<Command> {
    let packages = [
        "mariadb-server-core",
        "mariadb-client-core",
        "mariadb-common",
        "libmariadb3",
    ];
    ground.debian("mariadb", &packages, program)
}

pub fn mariadb_client(ground: &Ground, place: &Where<'_>, tls: bool) -> Result<Command> {
    let mut command = mariadb(ground, "usr/bin/mariadb")?;
    command.args(["--no-defaults", "--user=root"]);
    match place.port {
        0 => command.arg(format!("--socket={}", place.path)),
        port => command.args([format!("--host={NAME}"), format!("--port={port}")]),
    };
    if tls {
        command.arg(format!("--ssl-ca={}", ground.certificate.display()));
    } else {
        command.arg("--skip-ssl");
    }
    later(command.args(["--execute=select sleep(600)", "orders"]))
}
