//! Whatever names the target (pids, a cgroup of either version, a container, namespaces), the same leak
//! is found, and the neighbour's is not.

use std::{
    fs,
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    program::Program,
    runner::{NotApplicable, Skip},
    tests,
    tracer::{self, Report},
    wait,
};

use crate::scenes::{self, Scene};

tests![
    children_are_watched_too,
    several_pids,
    cgroup_v2,
    cgroup_v1,
    a_group_that_is_empty_for_a_while,
    container_by_its_id,
    pod_by_its_cgroup,
    pid_namespace,
    network_namespace,
    whole_host,
    ignored_findings_are_counted,
];

/// Checks a target given by `options`.
fn check(options: &[&str]) -> Result<Report> {
    host::require_root()?;
    let time = format!("{}s", seconds(12).as_secs());
    let arguments = [&["check", "-d", &time, "-o", "json"], options].concat();
    let ended = tracer::run(&arguments, seconds(60))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    Report::parse(&ended.stdout)
}

/// A leaky client like all the others here.
fn leaky(mode: &str) -> Result<Scene> {
    scenes::client("client", mode, 8, 800, "leak")
}

/// The only finding is `fetch_price` in this process.
fn found(report: &Report, pid: u32) -> Result<()> {
    report.expect_verdict("leak")?;
    let finding = report.only()?;
    ensure!(
        finding["call_site"]["function"] == "fetch_price",
        "call site: {report}"
    );
    ensure!(
        finding["process"]["pid"] == pid,
        "pid is not {pid}: {report}"
    );
    Ok(())
}

/// A control group that is removed in the end.
pub struct Group(pub PathBuf);

impl Group {
    /// Makes a group below the mount point of a hierarchy: `cgroup2`, or `cgroup` with a controller.
    pub fn make(kind: &str, controller: &str, name: &str) -> Result<Group> {
        host::require_root()?;
        let mounts = fs::read_to_string("/proc/mounts")?;
        let point = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let fits = fields.get(2) == Some(&kind)
                && (controller.is_empty() || fields.get(3)?.split(',').any(|o| o == controller));
            fits.then(|| Path::new(fields[1]).join(name))
        });
        let Some(path) = point else {
            bail!(Skip(format!("no {kind} hierarchy {controller} is mounted")));
        };
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Group(path))
    }

    /// Moves a process into it.
    pub fn take(&self, pid: u32) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }

    /// Lets a command start in it.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let processes = File::options()
            .write(true)
            .open(self.0.join("cgroup.procs"))?;
        // 0 is whoever writes it
        let enter = move || (&processes).write_all(b"0");
        // SAFETY: the closure makes a system call only and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once the last process in it has been waited for.
        let _ = wait::until("an empty group", seconds(2), || {
            Ok(fs::remove_dir(&self.0).is_ok())
        });
        let ours = |path: &&Path| path.to_string_lossy().contains("tracer-test-");
        for parent in self.0.ancestors().skip(1).take_while(ours) {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn children_are_watched_too() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    // A shell gives its background jobs an input that ends at once; this one gets the shell's.
    let script = "exec 3<&0; \"$0\" fetch \"$1\" 8 800 leak <&3 & echo CHILD $!; wait";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .arg(fixtures::path("client")?)
        .arg(address);
    let mut shell = Program::start(&mut shell)?;
    let child = shell.line("CHILD", seconds(20))?;
    found(
        &check(&["--pid", &shell.pid().to_string()])?,
        child.parse()?,
    )
}

fn several_pids() -> Result<()> {
    let (one, two, other) = (leaky("fetch")?, leaky("idle")?, leaky("unread")?);
    let (a, b) = (one.pid().to_string(), two.pid().to_string());
    let report = check(&["--pid", &a, "--pid", &b])?;
    ensure!(
        report.at("fetch_price")?["process"]["pid"] == one.pid(),
        "{report}"
    );
    ensure!(
        report.at("open_session")?["process"]["pid"] == two.pid(),
        "{report}"
    );
    ensure!(
        report.findings().len() == 2,
        "process {} was not to be watched: {report}",
        other.pid()
    );
    Ok(())
}

/// A client in the group, another beside it.
fn in_group(group: &Group, option: &str, value: &str) -> Result<()> {
    let (inside, _outside) = (leaky("fetch")?, leaky("idle")?);
    group.take(inside.pid())?;
    found(&check(&[option, value])?, inside.pid())
}

fn cgroup_v2() -> Result<()> {
    let group = Group::make("cgroup2", "", &format!("tracer-test-{}", process::id()))?;
    in_group(&group, "--cgroup", &group.0.to_string_lossy())
}

fn cgroup_v1() -> Result<()> {
    let group = Group::make(
        "cgroup",
        "freezer",
        &format!("tracer-test-{}", process::id()),
    )?;
    in_group(&group, "--cgroup", &group.0.to_string_lossy())
}

/// Before its first process, and between two.
fn a_group_that_is_empty_for_a_while() -> Result<()> {
    host::require_root()?;
    let group = Group::make("cgroup2", "", &format!("tracer-test-{}-e", process::id()))?;
    let daemon = Daemon::start(&[], &["--cgroup", &group.0.to_string_lossy()])?;
    for (mode, function) in [("fetch", "fetch_price"), ("idle", "open_session")] {
        let empty = fs::read_to_string(group.0.join("cgroup.procs"))?.is_empty();
        ensure!(empty, "somebody is in it");
        // longer than a sweep is apart from the next
        thread::sleep(seconds(3));
        let scene = leaky(mode)?;
        group.take(scene.pid())?;
        wait::until("the leak of who came", seconds(60), || {
            let report = daemon.report()?;
            let found = report.findings();
            let here = found.iter().find(|f| f["process"]["pid"] == scene.pid());
            Ok(here.is_some_and(|finding| finding["call_site"]["function"] == function))
        })?;
    }
    Ok(())
}

fn container_by_its_id() -> Result<()> {
    let id = format!("{:064x}", 0xace0_0000_u64 + u64::from(process::id()));
    // Ids of containers are random; these digits come first for none but ours.
    let id = format!("7e57{}", id.chars().rev().take(60).collect::<String>());
    let group = Group::make("cgroup2", "", &format!("tracer-test-docker/{id}"))?;
    let (inside, _outside) = (leaky("fetch")?, leaky("idle")?);
    group.take(inside.pid())?;
    let report = check(&["--container", &id[..16]])?;
    found(&report, inside.pid())?;
    ensure!(
        report.only()?["process"]["container_id"] == id,
        "container id: {report}"
    );
    Ok(())
}

fn pod_by_its_cgroup() -> Result<()> {
    let id = format!("{:064x}", 0xace0_0001_u64 + u64::from(process::id()));
    let uid = format!("8f2e1d0c-5b6a-4f7e-9d8c-{:012x}", process::id());
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let path = format!("tracer-test-kubepods.slice/{slice}/cri-containerd-{id}.scope");
    let group = Group::make("cgroup2", "", &path)?;
    let inside = leaky("fetch")?;
    group.take(inside.pid())?;
    let root = tempfile::tempdir()?;
    let logs = |folder: &str| root.path().join("var/log").join(folder);
    fs::create_dir_all(logs(&format!("pods/shop_web-7c9d-x2x_{uid}/app")))?;
    fs::create_dir_all(logs("containers"))?;
    let link = logs(&format!("containers/web-7c9d-x2x_shop_app-{id}.log"));
    std::os::unix::fs::symlink("app/0.log", link)?;
    let config = root.path().join("tracer.toml");
    fs::write(&config, format!("host_root = {:?}\n", root.path()))?;
    let apart = root.path().join("apart.toml");
    let namespaces = "[ignore]\nnamespaces = [\"kube-system\", \"shop\"]\n";
    let names = fs::read_to_string(&config)?;
    fs::write(&apart, names + namespaces)?;
    let pid = inside.pid().to_string();
    let check = |config: &Path| check(&["--pid", &pid, "--config", &config.to_string_lossy()]);
    let (report, left_alone) = thread::scope(|scope| {
        let left_alone = scope.spawn(|| check(&apart));
        (check(&config), left_alone.join())
    });
    let left_alone = left_alone.map_err(|_| anyhow::anyhow!("the other check panicked"))??;
    left_alone.expect_verdict("clean")?;
    for list in ["findings", "populations", "resources", "unsettled"] {
        let listed = left_alone.0[list].as_array().map_or(0, Vec::len);
        ensure!(listed == 0, "{list} of who is left alone: {left_alone}");
    }
    ensure!(left_alone.0["ignored"] == 1, "{left_alone}");
    let report = report?;
    let process = &report.only()?["process"];
    for (field, expected) in [
        ("namespace", "shop"),
        ("pod", "web-7c9d-x2x"),
        ("container", "app"),
    ] {
        ensure!(process[field] == expected, "{field}: {report}");
    }
    Ok(())
}

fn pid_namespace() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut command = Command::new(host::tool("unshare")?);
    command.args(["-p", "-f"]).arg(fixtures::path("client")?);
    command.args(["fetch", &address, "8", "800", "leak"]);
    let mut program = Program::start(&mut command)?;
    program.line("READY", seconds(20))?;
    let pid = program.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let inner: u32 = children.trim().parse()?;
    let report = check(&["--pid", &inner.to_string()])?;
    found(&report, inner)?;
    ensure!(report.only()?["process"]["ns_pid"] == 1, "ns_pid: {report}");
    Ok(())
}

fn network_namespace() -> Result<()> {
    host::require_root()?;
    let (unshare, nsenter) = (host::tool("unshare")?, host::tool("nsenter")?);
    host::tool("ip")?;
    let script = "ip link set lo up && exec \"$0\" http 127.0.0.1:0";
    let mut server = Command::new(unshare);
    server
        .args(["-n", "sh", "-c", script])
        .arg(fixtures::path("fixture-server")?);
    let mut server = Program::start(&mut server)?;
    let address = server.line("READY", seconds(20))?;
    let mut client = Command::new(nsenter);
    client
        .args(["-t", &server.pid().to_string(), "-n"])
        .arg(fixtures::path("client")?);
    client.args(["fetch", &address, "8", "800", "leak"]);
    let mut client = Program::start(&mut client)?;
    client.line("READY", seconds(20))?;
    let report = check(&["--pid", &client.pid().to_string()])?;
    found(&report, client.pid())?;
    ensure!(
        report.only()?["remote"]["address"] == address,
        "address: {report}"
    );
    Ok(())
}

/// No target at all; on a machine that does other things, these would be in the report too.
fn whole_host() -> Result<()> {
    if !host::is_guest() {
        bail!(NotApplicable(
            "the whole host is watched in guests only".to_owned()
        ));
    }
    let twin = scenes::client("client", "pool", 8, 800, "close")?;
    let (mut fetch, mut idle) = (None, None);
    // Some of it may come from other tests: these two have to be there, the twin must not.
    let scenes = (leaky("fetch")?, leaky("idle")?);
    let report = check(&[])?;
    report.expect_verdict("leak")?;
    for finding in report.findings() {
        for instance in finding["instances"].as_array().into_iter().flatten() {
            let pid = &instance["pid"];
            let function = finding["call_site"]["function"].as_str();
            if *pid == scenes.0.pid() {
                fetch = function;
            }
            if *pid == scenes.1.pid() {
                idle = function;
            }
            ensure!(*pid != twin.pid(), "the healthy one: {report}");
        }
    }
    ensure!(fetch == Some("fetch_price"), "{fetch:?}: {report}");
    ensure!(idle == Some("open_session"), "{idle:?}: {report}");
    Ok(())
}

fn ignored_findings_are_counted() -> Result<()> {
    host::require_root()?;
    let scene = leaky("both")?;
    let directory = tempfile::tempdir()?;
    let socket = directory
        .path()
        .join("tracer.sock")
        .to_string_lossy()
        .into_owned();
    let file = directory.path().join("tracer.toml");
    fs::write(&file, "[ignore]\ncall_sites = [\"open_session\"]\n")?;
    let pid = scene.pid().to_string();
    let config = file.to_string_lossy();
    let arguments = [
        "daemon", "--pid", &pid, "--socket", &socket, "--config", &config,
    ];
    let mut daemon = tracer::start(&arguments)?;
    wait::until("the other finding alone", seconds(60), || {
        ensure!(daemon.runs()?, "the daemon ended: {}", daemon.stderr());
        let ended = tracer::run(&["top", "--endpoint", &socket, "-o", "json"], seconds(30))?;
        // The daemon may not answer yet.
        let Ok(report) = Report::parse(&ended.stdout) else {
            return Ok(false);
        };
        ensure!(
            report.at("open_session").is_err(),
            "it is not hidden: {report}"
        );
        Ok(report.at("fetch_price").is_ok() && report.0["ignored"] == 1)
    })
}
