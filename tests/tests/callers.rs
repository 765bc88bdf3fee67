//! The call site of a leak through a real client of a real server is the program's own: its function,
//! file and line, though the client's frames are around the connection.
//!
//! `TRACER_TEST_FULL=1` adds other versions of the runtimes, half of them seen from their beginning.

use std::{fmt::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use tracer_tests::{
    beginning, debian,
    fixtures::line_of,
    host, java,
    languages::{Server, source},
    named::{Ground, Place, Service},
    node,
    program::Program,
    runner::Skip,
    scripts, tests,
    tracer::{self, Report},
};

tests![call_sites_of_real_clients];

/// Seconds that a check watches.
const WATCH: u64 = 20;
/// Packages of npm; exact, so that a new release breaks nothing unseen.
const PACKAGES: [&str; 5] = [
    "undici@7.30.2",
    "axios@1.21.1",
    "pg@8.23.1",
    "mysql2@3.24.5",
    "ioredis@6.0.0",
];
/// Those of them that are for Node.js before 20 as well.
const OLDER_PACKAGES: [&str; 5] = [
    "undici@5.29.0",
    "axios@1.21.1",
    "pg@8.23.1",
    "mysql2@3.24.5",
    "ioredis@5.11.1",
];
/// Debian's packages of Java's clients, and the jars of them that are needed.
const JAVA_PACKAGES: [&str; 10] = [
    "libokhttp-java",
    "libokio-java",
    "libhttpclient-java",
    "libhttpcore-java",
    "libcommons-logging-java",
    "libcommons-codec-java",
    "libhttpclient5-java",
    "libhttpcore5-java",
    "libslf4j-java",
    "libpostgresql-jdbc-java",
];
/// See [`JAVA_PACKAGES`].
const JARS: [&str; 12] = [
    "okhttp",
    "okio",
    "httpclient",
    "httpcore",
    "commons-logging",
    "commons-codec",
    "httpclient5",
    "httpcore5",
    "httpcore5-h2",
    "slf4j-api",
    "slf4j-nop",
    "postgresql",
];

/// What must be known of a client that connects where nothing leads to who asked any more.
const LATER: &str = "it connects in `process.nextTick`, which V8 keeps no stack of, and has no URL";

/// A client, in the program that has it.
#[derive(Clone, Copy)]
struct Client {
    /// Its name, and the mark of the line.
    name: &'static str,
    /// The function with that line; [`LATER`] where it can't be known.
    function: &'static str,
    /// What it is a client of; `None`: of HTTP.
    server: Option<Place>,
}

const fn client(name: &'static str, function: &'static str, server: Option<Place>) -> Client {
    Client {
        name,
        function,
        server,
    }
}

const IN_NODE: &[Client] = &[
    client("undici", "askUndici", None),
    client("axios", "askAxios", None),
    client("pg", "connectPg", Some(Place::Postgres)),
    client("pool", "queryPool", Some(Place::Postgres)),
    client("mysql2", "connectMysql", Some(Place::MariaDb)),
    client("ioredis", LATER, Some(Place::Redis)),
];
const IN_JAVA: &[Client] = &[
    client("okhttp", "Callers.askOkHttp", None),
    client("apache4", "Callers.askApache4", None),
    client("apache5", "Callers.askApache5", None),
    client("jdbc", "Callers.connectJdbc", Some(Place::Postgres)),
];
const IN_RUBY: &[Client] = &[
    client("net-http", "ask_net_http", None),
    client("ruby-pg", "connect_pg", Some(Place::Postgres)),
];
const IN_PHP: &[Client] = &[
    client("curl", "ask_curl", None),
    client("pdo", "connect_pdo", Some(Place::Postgres)),
];

const NODE: &str = include_str!("../fixtures/callers/callers.js");
const JAVA: &str = include_str!("../fixtures/callers/Callers.java");
const RUBY: &str = include_str!("../fixtures/callers/callers.rb");
const PHP: &str = include_str!("../fixtures/callers/callers.php");

/// A program with clients.
struct Caller {
    name: String,
    command: Command,
    /// Its source, and the file as call sites have it.
    text: &'static str,
    file: String,
    clients: &'static [Client],
}

/// What a program wrote, and the process that it was.
struct Written {
    pid: u32,
    stdout: String,
    stderr: String,
}

/// The versions of one check, `None` for the machine's own, and when they are seen.
struct Round {
    node: Option<&'static str>,
    java: Option<&'static str>,
    unpacked: bool,
    later: bool,
}

const fn round(
    node: Option<&'static str>,
    java: Option<&'static str>,
    unpacked: bool,
    later: bool,
) -> Round {
    Round {
        node,
        java,
        unpacked,
        later,
    }
}

/// Each version with each client, some seen from their beginning. The first is in the short run.
const ROUNDS: [Round; 6] = [
    round(None, None, false, true),
    round(None, None, false, false),
    round(Some("16"), Some("11.0.13.1"), true, true),
    round(Some("18"), Some("21.0.4.1"), true, false),
    round(Some("22"), Some("25.0.2.1"), false, true),
    round(Some("24"), Some("25.0.2.1"), false, false),
];

/// The servers, or why there is none.
struct Servers {
    plain: Server,
    services: Vec<(Place, Result<Service>)>,
}

fn call_sites_of_real_clients() -> Result<()> {
    host::require_root()?;
    let ground = Ground::new()?;
    let servers = Servers::start(&ground)?;
    let full = std::env::var_os("TRACER_TEST_FULL").is_some();
    let mut wrong = String::new();
    for round in &ROUNDS[..if full { ROUNDS.len() } else { 1 }] {
        let callers = round.callers(&servers)?;
        ensure!(!callers.is_empty(), Skip("no runtime is here".to_owned()));
        let (report, written) = if round.later {
            seen_later(callers.iter().map(|caller| &caller.command))?
        } else {
            seen_from_the_beginning(&callers)?
        };
        let when = if round.later {
            "later"
        } else {
            "from the beginning"
        };
        for (caller, written) in callers.iter().zip(&written) {
            if let Err(error) = caller.no_other(&report, written) {
                let _ = write!(wrong, "\n{} seen {when}: {error:#}", caller.name);
            }
            for client in caller.clients {
                let name = format!("{:12} {:10} seen {when:19}", caller.name, client.name);
                match caller.hold(&report, written, client, &servers) {
                    Ok(()) => println!("{name} ok"),
                    Err(error) => match error.downcast_ref::<Skip>() {
                        Some(skip) => println!("{name} skipped: {}", skip.0),
                        None => {
                            println!("{name} WRONG: {error:#}");
                            let _ = write!(wrong, "\n{name}: {error:#}");
                        }
                    },
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

fn seen_later<'a>(commands: impl Iterator<Item = &'a Command>) -> Result<(Report, Vec<Written>)> {
    let mut programs = Vec::new();
    for command in commands {
        let mut copy = Command::new(command.get_program());
        copy.args(command.get_args());
        let variables = command.get_envs();
        copy.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        let mut program = Program::start(&mut copy)?;
        program.line("READY", host::seconds(60))?;
        programs.push(program);
    }
    let pids: Vec<u32> = programs.iter().map(Program::pid).collect();
    let report = tracer::check_all(&pids, WATCH)?.report()?;
    let written = programs.into_iter().map(|program| Written {
        pid: program.pid(),
        stdout: program.stdout(),
        stderr: program.stderr(),
    });
    Ok((report, written.collect()))
}

fn seen_from_the_beginning(callers: &[Caller]) -> Result<(Report, Vec<Written>)> {
    let commands: Vec<Command> = callers
        .iter()
        .map(|caller| {
            let mut copy = Command::new(caller.command.get_program());
            copy.args(caller.command.get_args());
            let variables = caller.command.get_envs();
            copy.envs(variables.filter_map(|(name, value)| Some((name, value?))));
            copy
        })
        .collect();
    // executables are read first, and all that is opened meanwhile has no call site
    let seen = beginning::watch(&commands, WATCH + 15)?;
    let written = seen.programs.into_iter().map(|program| Written {
        pid: program.pid,
        stdout: program.stdout,
        stderr: program.stderr,
    });
    Ok((seen.report, written.collect()))
}

impl Round {
    /// Its programs; those whose runtime is not here are left out, which is said.
    fn callers(&self, servers: &Servers) -> Result<Vec<Caller>> {
        let made = [self.with_node(servers), self.with_java(servers)];
        let mut callers = Vec::new();
        for caller in made {
            match caller {
                Ok(caller) => callers.push(caller),
                Err(error) => match error.downcast_ref::<Skip>() {
                    Some(skip) => println!("skipped: {}", skip.0),
                    None => return Err(error),
                },
            }
        }
        let interpreters = match self.unpacked {
            true => scripts::unpacked(true),
            false => scripts::installed(),
        };
        for interpreter in interpreters.unwrap_or_default() {
            let (script, text, clients) = match interpreter.is_ruby {
                true => ("callers/callers.rb", RUBY, IN_RUBY),
                false => ("callers/callers.php", PHP, IN_PHP),
            };
            let script = source(script);
            let addresses = servers.addresses(clients);
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            callers.push(Caller {
                command: interpreter.runs(&script, &addresses)?,
                name: interpreter.name,
                text,
                file: script.to_string_lossy().into_owned(),
                clients,
            });
        }
        Ok(callers)
    }

    fn with_node(&self, servers: &Servers) -> Result<Caller> {
        let node: PathBuf = match self.node {
            Some(version) => node::version(version)?,
            None => host::tool("node")?,
        };
        let packages = match self.node {
            Some("16" | "18") => node::installed("callers-older", &OLDER_PACKAGES)?,
            _ => node::installed("callers", &PACKAGES)?,
        };
        let script = source("callers/callers.js");
        let mut command = Command::new(node);
        command
            .arg(&script)
            .args(servers.addresses(IN_NODE))
            .env("NODE_PATH", packages.join("node_modules"));
        Ok(Caller {
            name: format!("Node.js {}", self.node.unwrap_or("here")),
            command,
            text: NODE,
            file: script.to_string_lossy().into_owned(),
            clients: IN_NODE,
        })
    }

    fn with_java(&self, servers: &Servers) -> Result<Caller> {
        let machine = match self.java {
            Some(version) => java::runtime(version)?,
            None => host::tool("java")?,
        };
        let base = host::cache()?.join("debian");
        let folder = debian::unpacked(&base, "java-clients", &JAVA_PACKAGES)?;
        let jars = JARS.map(|jar| {
            let path = folder.join("usr/share/java").join(jar);
            format!("{}.jar", path.display())
        });
        let jars = jars.join(":");
        let classes = java::classes_with(&source("callers/Callers.java"), "11", &jars)?;
        let mut command = Command::new(machine);
        command
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-cp"])
            .arg(format!("{}:{jars}", classes.display()))
            .arg("Callers")
            .args(servers.addresses(IN_JAVA));
        Ok(Caller {
            name: format!("Java {}", self.java.unwrap_or("here")),
            command,
            text: JAVA,
            file: "Callers.java".to_owned(),
            clients: IN_JAVA,
        })
    }
}

impl Servers {
    fn start(ground: &Ground) -> Result<Servers> {
        let places = [Place::Postgres, Place::MariaDb, Place::Redis];
        Ok(Servers {
            plain: Server::start()?,
            services: places.map(|place| (place, place.start(ground))).into(),
        })
    }

    /// What a program is told of the clients whose server is there.
    fn addresses(&self, clients: &[Client]) -> Vec<String> {
        let address = |client: &Client| {
            let address = match client.server {
                None => self.plain.plain.clone(),
                Some(place) => {
                    let port = self.service(place).ok()?.place(place).port;
                    format!("127.0.0.1:{port}")
                }
            };
            Some(format!("{}={address}", client.name))
        };
        clients.iter().filter_map(address).collect()
    }

    fn service(&self, place: Place) -> Result<&Service> {
        let mut services = self.services.iter();
        let found = services.find(|(of, _)| *of == place);
        let (_, service) = found.context("no such server")?;
        service
            .as_ref()
            .map_err(|error| match error.downcast_ref() {
                Some(Skip(why)) => Skip(why.clone()).into(),
                None => anyhow::anyhow!("{error:#}"),
            })
    }
}

impl Caller {
    /// The finding of a client is at its line, in its function.
    fn hold(
        &self,
        report: &Report,
        written: &Written,
        client: &Client,
        servers: &Servers,
    ) -> Result<()> {
        if let Some(place) = client.server {
            servers.service(place)?;
        }
        let without = format!("WITHOUT {} ", client.name);
        let mut lines = written.stdout.lines();
        if let Some(why) = lines.find_map(|line| line.strip_prefix(&without)) {
            return Err(Skip(why.to_owned()).into());
        }
        let line = line_of(self.text, client.name)?;
        let of_process = report
            .findings()
            .iter()
            .filter(|finding| finding["process"]["pid"] == written.pid);
        let sites: Vec<_> = of_process.map(|finding| &finding["call_site"]).collect();
        let Some(site) = sites.iter().find(|site| site["line"] == line) else {
            if client.function == LATER {
                return Err(Skip(LATER.to_owned()).into());
            }
            let shown: Vec<String> = sites.iter().map(ToString::to_string).collect();
            bail!(
                "no finding at line {line} but {shown:#?}; {}",
                written.stderr
            );
        };
        ensure!(
            site["function"] == client.function && site["file"] == *self.file,
            "{site} instead of {}",
            client.function
        );
        Ok(())
    }

    /// No finding names another line of the program than one that connects.
    fn no_other(&self, report: &Report, written: &Written) -> Result<()> {
        let lines: Result<Vec<u32>> = self
            .clients
            .iter()
            .map(|client| line_of(self.text, client.name))
            .collect();
        let lines = lines?;
        for finding in report.findings() {
            let site = &finding["call_site"];
            let is_right = lines.iter().any(|line| site["line"] == *line);
            ensure!(
                finding["process"]["pid"] != written.pid || site["file"] != *self.file || is_right,
                "{site} connects to nobody"
            );
        }
        Ok(())
    }
}
