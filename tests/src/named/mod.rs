//! Real clients of real servers, and by what name each of their connections must be known.
//!
//! A client has its libraries loaded when it says `READY`, connects when it is told to, says `OPEN`
//! and keeps what it has. All are watched by one daemon, as on a node.

mod clients;
mod ground;
mod rows;
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

pub use self::{
    ground::Ground,
    rows::ROWS,
    servers::{Place, Service},
};
use crate::{daemon::Daemon, host::seconds, program::Program, runner::Skip, wait};

/// What a connection must be known by.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// The rung.
    by: &'static str,
    /// `url`; `{port}` stands for the port of the server. `None`: there is none.
    url: Option<&'static str>,
    /// What is in the reason why it has no better name; empty where there is to be none.
    because: &'static str,
}

/// A client of a server.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What asks.
    client: &'static str,
    /// What it asks.
    place: Place,
    /// The client.
    start: fn(&Ground, &Where<'_>) -> Result<std::process::Command>,
    /// What its connections are to be known by.
    named: Named,
    /// Whose connections.
    whose: Whose,
}

/// Which end of its connections a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Those that the client opens.
    Client,
    /// Those of the client that the server accepts.
    Server,
}

/// The server of a row.
#[derive(Debug, Clone, Copy)]
pub struct Where<'a> {
    /// Its port; 0 where it has none.
    pub port: u16,
    /// Its UNIX socket.
    pub path: &'a str,
}

/// What became of a row.
enum Outcome {
    Right(Vec<Value>),
    Wrong(String),
    Skipped(String),
}

/// A client that is there.
struct Client<'a> {
    row: &'a Row,
    program: Program,
    remote: String,
    port: u16,
    /// The process whose connections are judged.
    judged: u32,
}

/// Rows with one of the words of `TRACER_NAMES` in them; all where there is none.
fn chosen() -> Vec<&'static Row> {
    let words = env::var("TRACER_NAMES").unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    let wanted = |row: &&Row| {
        let text = row.to_string();
        words.is_empty() || words.iter().any(|word| text.contains(word))
    };
    ROWS.iter().filter(wanted).collect()
}

/// Starts everything, prints the table.
///
/// # Errors
/// When a row is wrong, or the daemon fails.
pub fn table() -> Result<()> {
    let rows = chosen();
    ensure!(!rows.is_empty(), "no row is chosen");
    let ground = Ground::new()?;
    let mut services: BTreeMap<&'static str, Result<Service>> = BTreeMap::new();
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let mut clients: BTreeMap<usize, Client<'_>> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        let service = services
            .entry(row.place.server())
            .or_insert_with(|| row.place.start(&ground));
        let started = match service {
            Ok(service) => Client::start(row, &ground, service),
            Err(error) => Err(copied(error)),
        };
        match started {
            Ok(client) => drop(clients.insert(number, client)),
            Err(error) => drop(outcomes.insert(number, Outcome::of(&error))),
        }
    }
    for (&number, client) in &mut clients {
        if let Err(error) = client.program.line("READY", seconds(60)) {
            outcomes.insert(number, Outcome::of(&error));
        }
    }
    clients.retain(|number, _| !outcomes.contains_key(number));
    let of_client = |client: &Client<'_>| [client.program.pid(), client.judged];
    let pids: BTreeSet<u32> = clients.values().flat_map(of_client).collect();
    let pids: Vec<u32> = pids.into_iter().collect();
    ensure!(
        !pids.is_empty(),
        "{}",
        print(&rows, &outcomes).unwrap_or_default()
    );
    let daemon = Daemon::start(&pids, &[])?;
    for (&number, client) in &mut clients {
        let asked = client.program.write("\n");
        let open = asked.and_then(|()| client.program.line("OPEN", seconds(60)));
        if let Err(error) = open {
            outcomes.insert(number, Outcome::Wrong(format!("{error:#}")));
        }
    }
    clients.retain(|number, _| !outcomes.contains_key(number));
    let mut seen = BTreeMap::new();
    let mut look = || -> Result<bool> {
        let (all, _) = daemon.connections(10_000)?;
        seen = clients
            .iter()
            .map(|(&number, client)| (number, client.judged(&all)))
            .collect();
        Ok(seen
            .values()
            .all(|outcome| matches!(outcome, Outcome::Right(_))))
    };
    // what is wrong in the end is shown in the table
    let _ = wait::until("right names", seconds(40), &mut look);
    // and right names stay
    std::thread::sleep(seconds(3));
    look()?;
    outcomes.append(&mut seen);
    match print(&rows, &outcomes) {
        Some(wrong) => bail!("{wrong}"),
        None => Ok(()),
    }
}

impl<'a> Client<'a> {
    fn start(row: &'a Row, ground: &Ground, service: &Service) -> Result<Client<'a>> {
        let place = service.place(row.place);
        let mut command = (row.start)(ground, &place)?;
        ground.inside(&mut command)?;
        let remote = match place.port {
            0 => place.path.to_owned(),
            port => format!("127.0.0.1:{port}"),
        };
        let program = Program::start(&mut command)?;
        Ok(Client {
            row,
            judged: match row.whose {
                Whose::Client => program.pid(),
                Whose::Server => service.pid(),
            },
            program,
            remote,
            port: place.port,
        })
    }

    /// Its connections among all.
    fn judged(&self, all: &[Value]) -> Outcome {
        let client = self.program.pid();
        let opened =
            |c: &&Value| c["pid"] == client && c["role"] == "client" && c["remote"] == *self.remote;
        let mut own: Vec<Value> = all.iter().filter(opened).cloned().collect();
        if self.row.whose == Whose::Server {
            let ends = own.iter().map(|c| format!("127.0.0.1:{}", c["local_port"]));
            let ends: Vec<String> = ends.collect();
            let accepted = |c: &&Value| {
                let remote = c["remote"].as_str().unwrap_or_default();
                c["role"] == "server" && ends.iter().any(|end| end == remote)
            };
            own = all.iter().filter(accepted).cloned().collect();
        }
        if own.is_empty() {
            let theirs: Vec<_> = all.iter().filter(|c| c["pid"] == self.judged).collect();
            return Outcome::Wrong(format!("no connection to {}; {theirs:?}", self.remote));
        }
        match own.iter().find_map(|c| self.wrong(c)) {
            Some(wrong) => Outcome::Wrong(wrong),
            None => Outcome::Right(own),
        }
    }

    fn wrong(&self, connection: &Value) -> Option<String> {
        let Named { by, url, because } = self.row.named;
        let url = url.map(|url| url.replace("{port}", &self.port.to_string()));
        let url = url.map(|url| url.replace("{path}", &self.remote.replace('/', "%2F")));
        let why = connection["not_higher_because"].as_str();
        let right = connection["named_by"] == by
            && connection["url"].as_str() == url.as_deref()
            && why.is_some() != because.is_empty()
            && why.unwrap_or_default().contains(because);
        (!right).then(|| {
            let expected = url.as_deref().unwrap_or("no URL");
            format!(
                "{} by {}, {}; expected {expected} by {by}, {because:?}",
                connection["url"], connection["named_by"], connection["not_higher_because"]
            )
        })
    }
}

impl Outcome {
    fn of(error: &anyhow::Error) -> Outcome {
        match error.downcast_ref::<Skip>() {
            Some(skip) => Outcome::Skipped(skip.0.clone()),
            None => Outcome::Wrong(format!("{error:#}")),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:34} {:28}", self.client, self.place.name())
    }
}

/// The same error once more.
fn copied(error: &anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Skip>() {
        Some(skip) => Skip(skip.0.clone()).into(),
        None => anyhow::anyhow!("{error:#}"),
    }
}

/// Prints the table; what is wrong in it.
fn print(rows: &[&Row], outcomes: &BTreeMap<usize, Outcome>) -> Option<String> {
    let mut wrong = String::new();
    let (mut right, mut skipped) = (0, 0);
    println!("{:34} {:28} {:9} name", "client", "server", "rung");
    for (number, row) in rows.iter().enumerate() {
        match outcomes.get(&number) {
            Some(Outcome::Right(connections)) => {
                right += 1;
                let shown = &connections[0];
                let text = |key: &str| shown[key].as_str().unwrap_or_default();
                let name = match text("url") {
                    "" => text("remote"),
                    url => url,
                };
                println!("{row} {:9} {name}", text("named_by"));
                if let Some(why) = shown["not_higher_because"].as_str() {
                    println!("{:74}{why}", "");
                }
            }
            Some(Outcome::Skipped(why)) => {
                skipped += 1;
                println!("{row} skipped   {why}");
            }
            Some(Outcome::Wrong(why)) => {
                println!("{row} WRONG     {why}");
                wrong += &format!("\n{} of {}: {why}", row.client, row.place.name());
            }
            None => {}
        }
    }
    println!(
        "{right} rows of {} are right, {skipped} skipped",
        rows.len()
    );
    (!wrong.is_empty()).then_some(wrong)
}
