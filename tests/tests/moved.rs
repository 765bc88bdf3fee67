//! Programs whose files are not what their names say: the right call site or none, and never
//! another program's. One `tracer check` watches all of them.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    fixtures::{self, line_of},
    host,
    program::Program,
    tests,
    tracer::{self, Report},
};

use crate::scenes;

tests![executables_that_moved_and_processes_that_left];

const CLIENT: &str = include_str!("../fixtures/c/client.c");
const LEAVE: &str = include_str!("../fixtures/c/leave.c");
/// Seconds that the check watches.
const WATCH: u64 = 15;
const PACE: [&str; 2] = ["8", "800"];

fn executables_that_moved_and_processes_that_left() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let arguments = ["fetch", &address, PACE[0], PACE[1], "leak"];
    let client = fixtures::path("client-o2")?;
    // Another program, with other functions at the same addresses.
    let decoy = fixtures::path("scenarios")?;
    let at = |name: &str| directory.path().join(name);

    host::copy_program(&client, at("deleted"))?;
    let (deleted, _) = Program::ready(at("deleted"), &arguments)?;
    fs::remove_file(at("deleted"))?;

    fs::copy(&client, at("replaced"))?;
    let (replaced, _) = Program::ready(at("replaced"), &arguments)?;
    fs::copy(&decoy, at("new"))?;
    fs::rename(at("new"), at("replaced"))?;

    let contained = contained(&client, &decoy, &at("rootfs"), &arguments)?;

    let (left, _) = Program::ready(fixtures::path("leave")?, &[&*address, PACE[0], PACE[1]])?;

    let programs = [
        (
            "deleted",
            &deleted,
            "fetch_price",
            line_of(CLIENT, "fetch_price")?,
        ),
        (
            "replaced",
            &replaced,
            "fetch_price",
            line_of(CLIENT, "fetch_price")?,
        ),
        (
            "contained",
            &contained,
            "fetch_price",
            line_of(CLIENT, "fetch_price")?,
        ),
        (
            "left",
            &left,
            "open_and_leave",
            line_of(LEAVE, "open_and_leave")?,
        ),
    ];
    let duration = format!("{}s", host::seconds(WATCH).as_secs());
    let mut command = vec!["check", "-o", "json", "--duration", &duration];
    let pids = programs.map(|(_, program, ..)| program.pid().to_string());
    command.extend(pids.iter().flat_map(|pid| ["--pid", pid]));
    let ended = tracer::run(&command, host::seconds(WATCH + 60))?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    for (name, program, function, line) in programs {
        let finding = report
            .findings()
            .iter()
            .find(|finding| {
                let instances = finding["instances"].as_array();
                instances.is_some_and(|all| all.iter().any(|i| i["pid"] == program.pid()))
            })
            .with_context(|| format!("{name}: no finding: {report}"))?;
        let site = &finding["call_site"];
        ensure!(
            site["function"] == function && site["line"] == line,
            "{name}: the call site is not {function}, line {line}: {finding:#}"
        );
        for frame in finding["stack"].as_array().into_iter().flatten() {
            let source = frame["file"].as_str().unwrap_or_default();
            ensure!(
                !source.ends_with("scenarios.c"),
                "{name}: a frame of another program: {finding:#}"
            );
        }
    }
    Ok(())
}

/// The client in a mount namespace and below a root of its own, where its path is that of another
/// program outside.
fn contained(client: &Path, decoy: &Path, root: &Path, arguments: &[&str]) -> Result<Program> {
    fs::create_dir_all(root.join("app"))?;
    let script = r#"
set -e
root=$1 client=$2; shift 2
mount --make-rprivate /
mount -t tmpfs none "$root"
for dir in usr lib lib64 proc; do
    if [ -e /$dir ]; then mkdir -p "$root/$dir"; mount --rbind /$dir "$root/$dir"; fi
done
mkdir "$root/app"
cp "$client" "$root/app/client"
exec chroot "$root" /app/client "$@"
"#;
    // What is at that path below the directory's own root, outside of the namespace.
    fs::copy(decoy, root.join("app/client"))?;
    let mut program = Program::start(
        Command::new(host::tool("unshare")?)
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(root)
            .arg(client)
            .args(arguments),
    )?;
    program.line("READY", host::seconds(20))?;
    Ok(program)
}
