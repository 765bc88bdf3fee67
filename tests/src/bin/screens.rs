//! Takes the screens of `docs/screens`: runs tracer on a terminal of three widths against programs
//! that leak over loopback, and keeps what is to be seen as text and as a picture.
//!
//! `screens FOLDER`; as root, with `TRACER_BIN` set or tracer beside it.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Result, bail, ensure};
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    picture::Pen,
    program::Program,
    shop::Shop,
    tasks,
    terminal::{Session, Terminal},
    tracer,
};

/// Columns and rows: a terminal as it opens, half a screen, a whole one.
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 50)];
/// Rows of a terminal that nothing scrolls off.
const TALL: u16 = 300;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("screens: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(folder) = env::args().nth(1) else {
        bail!("usage: screens FOLDER");
    };
    host::require_root()?;
    let album = Album {
        folder: folder.into(),
        pen: Pen::new()?,
    };
    fs::create_dir_all(&album.folder)?;
    album.tasks()?;
    let shop = Shop::open()?;
    album.demo(&shop)?;
    album.checks(&shop)?;
    // what it sells is used up some minutes after it opened
    drop(shop);
    let shop = Shop::open()?;
    let daemon = Daemon::start(&shop.pids(), &[])?;
    let id = shop.found(&daemon)?;
    album.lists(&daemon, &id)?;
    album.live(&daemon)
}

/// Where screens are kept.
struct Album {
    folder: PathBuf,
    pen: Pen,
}

impl Album {
    /// The one that the README begins with.
    fn demo(&self, shop: &Shop) -> Result<()> {
        let pid = shop.leaky().to_string();
        let words = ["check", "--pid", &pid, "--duration", "20s"];
        let (columns, _) = tasks::SCREEN;
        let size = (columns, TALL);
        let terminal = Terminal::start(&mut shown(&words, None)?, size, Session::Own)?;
        self.keep("demo", columns, &terminal.left(seconds(120))?)
    }

    /// The last screen of each of the five tasks.
    fn tasks(&self) -> Result<()> {
        let client = |mode: &str, how: &str| -> Result<(Program, Program, String)> {
            let (server, address) =
                Program::ready(fixtures::path("fixture-server")?, &["http", "127.0.0.1:0"])?;
            let words = [mode, &*address, "8", "5000", how];
            let (program, _) = Program::ready(fixtures::path("client")?, &words)?;
            Ok((program, server, address))
        };
        let (leaky, _one, _) = client("fetch", "leak")?;
        let (tidy, _two, _) = client("fetch", "close")?;
        let (pool, _three, _) = client("pool", "close")?;
        let (_server, address) =
            Program::ready(fixtures::path("fixture-server")?, &["http", "127.0.0.1:0"])?;
        let words = [&*address, "2", "6", "leak"];
        let (inherit, _) = Program::ready(fixtures::path("inherit")?, &words)?;
        let daemon = Daemon::start(&[inherit.pid()], &[])?;
        let [leaky, tidy, pool] = [leaky.pid(), tidy.pid(), pool.pid()].map(|pid| pid.to_string());
        let values = [
            ("which-client", "Which client leaks?", ("PID", &leaky)),
            ("healthy-pool", "Is my pool healthy?", ("PID", &pool)),
            ("fix", "Did my fix work?", ("BEFORE", &leaky)),
            ("holder", "Who holds this socket?", ("ADDRESS", &address)),
            ("until", "How long until it breaks?", ("PID", &leaky)),
        ];
        let folder = tempfile::tempdir()?;
        for (name, title, (word, value)) in values {
            let values = [(word, value.as_str()), ("AFTER", &tidy)];
            for line in tasks::lines(title)? {
                let endpoint = Some(daemon.socket());
                let screen = tasks::screen(&line, &values, folder.path(), endpoint)?;
                self.keep(&format!("task-{name}"), tasks::SCREEN.0, &screen)?;
            }
        }
        Ok(())
    }

    /// The bar while `check` watches, and the report.
    fn checks(&self, shop: &Shop) -> Result<()> {
        let pids: Vec<String> = shop.pids().iter().map(u32::to_string).collect();
        let mut words = vec!["check", "--duration", "20s"];
        for pid in &pids {
            words.extend(["--pid", pid]);
        }
        let mut running = Vec::new();
        for (columns, _) in SIZES {
            let mut command = shown(&words, None)?;
            running.push((
                columns,
                Terminal::start(&mut command, (columns, TALL), Session::Own)?,
            ));
        }
        for (columns, terminal) in &running {
            terminal.shows(&["left"], seconds(60))?;
            thread::sleep(seconds(3));
            self.keep("check-progress", *columns, &terminal.cells())?;
        }
        for (columns, terminal) in running {
            self.keep("check", columns, &terminal.left(seconds(120))?)?;
        }
        Ok(())
    }

    /// Commands that print and end.
    fn lists(&self, daemon: &Daemon, id: &str) -> Result<()> {
        for (name, words) in [
            ("top", &["top"][..]),
            (
                "connections",
                &["connections", "--call-site", "lookup", "--limit", "12"],
            ),
            ("describe", &["describe", id]),
            ("explain", &["explain", "client_per_request"]),
        ] {
            for (columns, _) in SIZES {
                let mut command = shown(words, Some(daemon))?;
                let terminal = Terminal::start(&mut command, (columns, TALL), Session::Own)?;
                self.keep(name, columns, &terminal.left(seconds(60))?)?;
            }
        }
        Ok(())
    }

    /// The live view and what its keys open.
    fn live(&self, daemon: &Daemon) -> Result<()> {
        for size in SIZES {
            let mut command = tracer::command(&["top", "-w", "--endpoint", daemon.socket()])?;
            let view = Terminal::start(&mut command, size, Session::Own)?;
            view.shows(&["LEAKED", "q quit"], seconds(30))?;
            // a few answers make a trend
            thread::sleep(seconds(10));
            self.keep("live", size.0, &view.cells())?;
            for (name, keys, words, back) in [
                ("live-finding", "\r", &["Esc back", "trend"][..], "\x1b"),
                ("live-help", "?", &["Keys"], "\x1b"),
                ("live-populations", "\t", &["VERDICT", "healthy"], "\t"),
            ] {
                view.press(keys)?;
                view.shows(words, seconds(30))?;
                self.keep(name, size.0, &view.cells())?;
                view.press(back)?;
                view.shows(&["LEAKED", "q quit"], seconds(30))?;
            }
            view.press("q")?;
        }
        Ok(())
    }

    /// Keeps a screen without the empty rows at its end.
    fn keep(&self, name: &str, columns: u16, screen: &vt100::Screen) -> Result<()> {
        let text = screen.contents();
        let text = text.trim_end();
        ensure!(!text.is_empty(), "{name}: nothing is on the screen");
        let rows: Vec<String> = screen.rows(0, columns).collect();
        let last = rows.iter().rposition(|row| !row.trim_end().is_empty());
        let rows_shown = u16::try_from(last.map_or(1, |row| row + 1))?;
        let lines: Vec<&str> = rows.iter().map(|row| row.trim_end()).collect();
        let text = lines[..usize::from(rows_shown)].join("\n") + "\n";
        let file = self.folder.join(format!("{name}-{columns}"));
        fs::write(file.with_extension("txt"), text)?;
        fs::write(
            file.with_extension("png"),
            self.pen.png(screen, rows_shown)?,
        )?;
        Ok(())
    }
}

/// A command of tracer that shows its own line first, as a shell does.
fn shown(words: &[&str], daemon: Option<&Daemon>) -> Result<Command> {
    let tracer = tracer::command(words)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", "printf '$ %s\\n' \"$0\"; exec \"$@\""])
        .arg(format!("tracer {}", words.join(" ")))
        .arg(tracer.get_program())
        .args(tracer.get_args())
        .env_remove("NO_COLOR");
    if let Some(daemon) = daemon {
        command.env("TRACER_ENDPOINT", daemon.socket());
    }
    Ok(command)
}
