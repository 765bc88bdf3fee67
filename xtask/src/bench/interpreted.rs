//! Call sites of interpreted and managed programs: what a new one costs, and a known one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Bench, Row, Section,
    load::Load,
    memory::resident_bytes,
    stats::{Runs, Stats},
    traced::Daemon,
};
use crate::sh;

/// What call sites cost.
pub const SECTION: Section = Section {
    name: "interpreted",
    title: "Call sites of interpreted programs",
    about: "Programs with 1,000 functions that each connect over loopback, as they run in production \
            (`tests/fixtures/sites`). A new call site: each function is called once and its connection stays, so that its \
            stack is copied, unwound and named. A known one: each is called five times more, and its connections are closed \
            at once. In the kernel: all programs that run for one such connection, by the kernel's statistics \
            (BPF_ENABLE_STATS). In user space: the daemon's CPU time until it has settled, without what it takes in the same \
            time when nothing happens. Memory: what the daemon has resident after them, over what it had before.",
    run,
};

/// Functions of a program.
const SITES: usize = 1_000;
/// How often each is called when it is known.
const AGAIN: f64 = 5.0;
/// By then the daemon has named everything.
const SETTLED: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// A language: its name, what runs it, and its fixture.
struct Language {
    name: &'static str,
    command: &'static str,
    file: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "Python",
        command: "python3",
        file: "sites.py",
    },
    Language {
        name: "Node.js",
        command: "node",
        file: "sites.js",
    },
    Language {
        name: "Java",
        command: "java",
        file: "Sites.java",
    },
    Language {
        name: "Ruby",
        command: "ruby",
        file: "sites.rb",
    },
    Language {
        name: "PHP",
        command: "php",
        file: "sites.php",
    },
];

/// What one language costs, a value for each round.
#[derive(Default)]
struct Costs {
    kernel_new_ns: Vec<f64>,
    kernel_known_ns: Vec<f64>,
    user_new_us: Vec<f64>,
    user_known_us: Vec<f64>,
    memory_mib: Vec<f64>,
}

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let stats = Stats::enable()?;
    let mut rows = Vec::new();
    for language in LANGUAGES {
        let name = language.name;
        if !sh::has_program(language.command) {
            let missing = format!("{} is not installed", language.command);
            rows.push(Row::new(name, "", Vec::new()).note(missing));
            continue;
        }
        let program = write(language, &bench.folder)?;
        let mut costs = Costs::default();
        for _ in 0..bench.rounds(3) {
            measure(bench, &stats, language, &program, &mut costs).context(name)?;
        }
        let of = |what: &str| format!("{name}: {what}");
        rows.extend([
            Row::new(of("a new call site, kernel"), "ns", costs.kernel_new_ns),
            Row::new(of("a known one, kernel"), "ns", costs.kernel_known_ns),
            Row::new(of("a new call site, user space"), "µs", costs.user_new_us),
            Row::new(of("a known one, user space"), "µs", costs.user_known_us),
            Row::new(of("1,000 call sites, memory"), "MiB", costs.memory_mib),
        ]);
    }
    Ok(rows)
}

fn measure(
    bench: &Bench,
    stats: &Stats,
    language: &Language,
    program: &Path,
    costs: &mut Costs,
) -> Result<()> {
    let server = sh::root().join("tests/fixtures/sites/server.py");
    let (_server, port) = Load::of(Path::new("python3"), &[&*server.to_string_lossy()])?;
    let program = program.to_string_lossy();
    let (mut load, _) = Load::of(
        Path::new("sh"),
        &[
            "-c",
            "ulimit -n 8192; exec \"$@\"",
            "sh",
            language.command,
            &program,
            port.trim(),
        ],
    )?;
    let daemon = Daemon::start(bench, load.pid(), &[])?;
    let pid = daemon.process.0.id();
    // names of the program itself, and of its libraries
    thread::sleep(SETTLED);
    let resident = resident_bytes(pid)?;
    let mut phase = |what: Option<&str>| -> Result<(f64, f64, f64)> {
        let (before, cpu_ns, began) = (
            total(stats, pid)?,
            daemon.process.cpu_ns(),
            std::time::Instant::now(),
        );
        if let Some(what) = what {
            load.tell(what)?;
            load.answer()?;
        }
        thread::sleep(SETTLED);
        let seconds = began.elapsed().as_secs_f64();
        let kernel = total(stats, pid)? as f64 - before as f64;
        Ok((kernel, daemon.process.cpu_ns() - cpu_ns, seconds))
    };
    let (_, idle_ns, idle_seconds) = phase(None)?;
    let without_idle = |cpu_ns: f64, seconds: f64| cpu_ns - idle_ns / idle_seconds * seconds;
    let sites = SITES as f64;
    let (kernel, cpu, seconds) = phase(Some("keep"))?;
    costs.kernel_new_ns.push(kernel / sites);
    costs
        .user_new_us
        .push(without_idle(cpu, seconds) / sites / 1e3);
    costs
        .memory_mib
        .push((resident_bytes(pid)? - resident) / MIB);
    let (kernel, cpu, seconds) = phase(Some("again"))?;
    costs.kernel_known_ns.push(kernel / (sites * AGAIN));
    costs
        .user_known_us
        .push(without_idle(cpu, seconds) / (sites * AGAIN) / 1e3);
    Ok(())
}

/// Nanoseconds in all programs of a tracer.
fn total(stats: &Stats, pid: u32) -> Result<u64> {
    let all = stats.of(pid)?;
    Ok(all.values().map(|Runs { ns, .. }| ns).sum())
}

/// Writes the program with all its functions; what its command is to be given.
fn write(language: &Language, folder: &Path) -> Result<PathBuf> {
    let template = sh::root().join("tests/fixtures/sites").join(language.file);
    let template = fs::read_to_string(&template).with_context(|| template.display().to_string())?;
    let path = folder.join(language.file);
    fs::write(&path, repeated(&template))?;
    if language.command != "java" {
        return Ok(path);
    }
    let classes = folder.join("classes");
    sh::quiet(Command::new("javac").arg("-d").arg(&classes).arg(&path))?;
    fs::write(
        folder.join("sites.args"),
        format!("-cp {} Sites", classes.display()),
    )?;
    Ok(PathBuf::from(format!(
        "@{}",
        folder.join("sites.args").display()
    )))
}

/// A template with each run of lines that begin with `@` repeated for each function.
fn repeated(template: &str) -> String {
    let mut text = String::new();
    let lines: Vec<&str> = template.lines().collect();
    for block in lines.chunk_by(|a, b| a.starts_with('@') == b.starts_with('@')) {
        let each = block.iter().all(|line| line.starts_with('@'));
        let block: String = block
            .iter()
            .map(|line| format!("{}\n", line.strip_prefix('@').unwrap_or(line)))
            .collect();
        match each {
            true => (0..SITES).for_each(|i| text.push_str(&block.replace("{i}", &i.to_string()))),
            false => text.push_str(&block),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{SITES, repeated};

    #[test]
    fn blocks_are_repeated() {
        let text = repeated("head\n@a {i}\n@b\ntail {i}\n");
        assert_eq!(text.lines().count(), 2 + 2 * SITES);
        assert!(text.starts_with("head\na 0\nb\na 1\n"), "{text}");
        assert!(text.ends_with("b\ntail {i}\n"));
    }
}
