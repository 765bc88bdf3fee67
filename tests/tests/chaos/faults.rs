//! What happens.

use std::{
    fs, io::Write as _, os::unix::net::UnixStream, path::Path, process::Command, thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use tracer_tests::{
    fixtures,
    host::{self, seconds},
    program::Program,
};

use super::world::{ROOM, World};
use crate::{hostile, scenes};

/// Something that happens.
pub struct Fault {
    /// A clause.
    pub name: &'static str,
    /// It is about the whole machine, so it happens in guests only.
    pub of_machine: bool,
    /// Lets it happen; it is over when this returns.
    pub happens: fn(&mut World) -> Result<()>,
}

const fn fault(name: &'static str, happens: fn(&mut World) -> Result<()>) -> Fault {
    Fault {
        name,
        of_machine: false,
        happens,
    }
}

const fn of_machine(name: &'static str, happens: fn(&mut World) -> Result<()>) -> Fault {
    Fault {
        name,
        of_machine: true,
        happens,
    }
}

/// All that happens.
pub const FAULTS: &[Fault] = &[
    fault("readers are killed", readers_are_killed),
    fault("the daemon is killed", |world| world.restart(libc::SIGKILL)),
    fault("the daemon is replaced", |world| {
        world.restart(libc::SIGTERM)
    }),
    fault("the daemon is stopped", the_daemon_is_stopped),
    fault("the daemon has no descriptors", no_descriptors),
    fault("maps are full", maps_are_full),
    fault("connections in numbers", |world| world.churn("tcp")),
    fault("UNIX sockets in numbers", |world| world.churn("pair")),
    fault("stacks in numbers", stacks_in_numbers),
    fault("a fork storm", a_fork_storm),
    fault("processes that leave at once", processes_that_leave),
    fault("hostile files", hostile_files),
    fault("clients that never finish", clients_that_never_finish),
    fault("the programs are frozen", the_programs_are_frozen),
    of_machine("the clock jumps", the_clock_jumps),
    of_machine("a processor leaves", a_processor_leaves),
];

/// A program whose files nobody has read yet makes the daemon start a reader.
fn readers_are_killed(world: &mut World) -> Result<()> {
    let path = world.directory.path().join("newcomer");
    host::copy_program(fixtures::path("client")?, &path)?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let (newcomer, _) = Program::ready(&path, &["unread", &address, "8", "100", "leak"])?;
    world.group.take(newcomer.pid())?;
    for _ in 0..120 {
        hostile::kill_children(world.daemon()?.program.pid())?;
        thread::sleep(Duration::from_millis(25));
    }
    drop(newcomer);
    Ok(fs::remove_file(path)?)
}

fn the_daemon_is_stopped(world: &mut World) -> Result<()> {
    let daemon = world.daemon()?;
    daemon.program.signal(libc::SIGSTOP)?;
    thread::sleep(Duration::from_secs(3));
    daemon.program.signal(libc::SIGCONT)
}

fn no_descriptors(world: &mut World) -> Result<()> {
    let pid = world.daemon()?.program.pid();
    let before = hostile::limit_descriptors(pid, None)?;
    let few = libc::rlimit {
        rlim_cur: 3,
        ..before
    };
    hostile::limit_descriptors(pid, Some(few))?;
    thread::sleep(Duration::from_secs(2));
    hostile::limit_descriptors(pid, Some(before)).map(drop)
}

fn maps_are_full(world: &mut World) -> Result<()> {
    let more = (ROOM + 500).to_string();
    let mut load = world.program("load", &["fill", "tcp", &more])?;
    load.write("\n")?;
    load.line("DONE", seconds(120))?;
    thread::sleep(Duration::from_secs(2));
    load.write("\n")?;
    load.line("LEFT", seconds(60)).map(drop)
}

/// More call paths at once than there is room for copies of.
fn stacks_in_numbers(world: &mut World) -> Result<()> {
    let (_server, address) = scenes::server("keep", "127.0.0.1:0")?;
    let mut load = world.program("load", &["deep", "400", &address])?;
    world.daemon()?.program.signal(libc::SIGSTOP)?;
    load.write("\n")?;
    let done = load.line("DONE", seconds(60));
    world.daemon()?.program.signal(libc::SIGCONT)?;
    done.map(drop)
}

fn a_fork_storm(world: &mut World) -> Result<()> {
    let script = "echo READY; read line; i=0; \
                  while [ $i -lt 400 ]; do (:) & (exec true) & i=$((i+1)); done; \
                  wait; echo DONE; read line";
    let mut shell = Program::start(Command::new(host::tool("sh")?).args(["-c", script]))?;
    shell.line("READY", seconds(20))?;
    world.group.take(shell.pid())?;
    shell.write("\n")?;
    shell.line("DONE", seconds(60)).map(drop)
}

fn processes_that_leave(world: &mut World) -> Result<()> {
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut parent = world.program("leave", &[&address, "50", "100"])?;
    thread::sleep(Duration::from_secs(3));
    ensure!(parent.runs()?, "it ended: {}", parent.stderr());
    Ok(())
}

/// A program that maps executables of which nothing is true.
fn hostile_files(world: &mut World) -> Result<()> {
    if host::tool("python3").is_err() {
        println!("chaos: no Python here, so no program maps hostile files");
        return Ok(());
    }
    let scene = hostile::start("", "pass", hostile::forged)?;
    world.group.take(scene.program.pid())?;
    thread::sleep(Duration::from_secs(4));
    Ok(())
}

/// Half a request each, garbage, and nothing at all.
fn clients_that_never_finish(world: &mut World) -> Result<()> {
    let socket = world.daemon()?.socket();
    let mut clients = Vec::new();
    for number in 0..48 {
        let mut client = UnixStream::connect(socket)?;
        let said: &[u8] = match number % 3 {
            0 => b"GET /api/v1/findings HTTP/1.1\r\nHost: tra",
            1 => b"\x16\x03\x01\xff\xff\0\0\0GET \0\0\r\r\r\r",
            _ => b"",
        };
        // who says nonsense may be hung up on before it has ended
        let _ = client.write_all(said);
        clients.push(client);
    }
    thread::sleep(Duration::from_secs(2));
    Ok(())
}

fn the_programs_are_frozen(world: &mut World) -> Result<()> {
    let freeze = world.group.0.join("cgroup.freeze");
    if !freeze.exists() {
        println!("chaos: this kernel freezes no groups of the second version");
        return Ok(());
    }
    fs::write(&freeze, "1")?;
    thread::sleep(Duration::from_secs(3));
    Ok(fs::write(&freeze, "0")?)
}

/// An hour forward, and back.
fn the_clock_jumps(_: &mut World) -> Result<()> {
    ensure!(host::is_guest(), "the clock is the host's");
    for hours in [1, -1] {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: both calls get a structure of ours that outlives them.
        let done = unsafe {
            libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
            now.tv_sec += hours * 3_600;
            libc::clock_settime(libc::CLOCK_REALTIME, &raw const now)
        };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
        thread::sleep(Duration::from_secs(3));
    }
    Ok(())
}

/// And comes back.
fn a_processor_leaves(_: &mut World) -> Result<()> {
    ensure!(host::is_guest(), "the processors are the host's");
    let online = Path::new("/sys/devices/system/cpu/cpu1/online");
    if !online.exists() {
        println!("chaos: no processor of this machine can leave");
        return Ok(());
    }
    fs::write(online, "0")?;
    thread::sleep(Duration::from_secs(3));
    Ok(fs::write(online, "1")?)
}
