//! Running other programs: errors that name the command, steps that say how long they took.
//!
//! Not by `xshell`: most of what is run here is ended after a time, replaces this process, goes
//! through sudo or is read line by line, and all of that takes a `std::process::Command`.

use std::{
    env,
    ffi::OsStr,
    io::IsTerminal as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The workspace's top folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// A command started in the workspace's top folder, without the variables that `cargo run` set
/// for us: they would make build scripts run again.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// The cargo that runs us, with the installed cargo programs (bpf-linker) on its path.
pub fn cargo() -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.env("PATH", path_with(&[cargo_bin()]));
    cargo
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> PathBuf {
    env::var_os("CARGO_INSTALL_ROOT")
        .map_or_else(cargo_home, PathBuf::from)
        .join("bin")
}

/// Where cargo keeps what it downloads.
pub fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

/// `PATH` with `first` searched before all else.
pub fn path_with(first: &[PathBuf]) -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = first.iter().cloned().chain(env::split_paths(&path));
    env::join_paths(all).unwrap_or(path)
}

/// Where downloads are kept between runs, outside the work tree.
pub fn cache_dir() -> PathBuf {
    env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home().join(".cache"), PathBuf::from)
        .join("tracer")
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from)
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    // /proc/self belongs to the effective user
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// `program`, through sudo where this process isn't root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        command(program)
    } else {
        let mut sudo = command("sudo");
        sudo.arg("--").arg(program);
        sudo
    }
}

/// Whether somebody can answer a question.
pub fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Runs `command` with its output shown; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", line_of(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line_of(command));
    }
    Ok(())
}

/// Runs `command` without a word; its output is in the error if it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    let output = output_of(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}{}",
            line_of(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// What `command` prints on stdout; an exit status other than 0 is an error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output_of(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            line_of(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output_of(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", line_of(command)))
}

/// Whether `command` succeeds within `limit`; it is ended when it does not.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    let started = Instant::now();
    let Ok(mut child) = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
    else {
        return false;
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if started.elapsed() < limit => thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                // it may have ended by itself in between, which is fine too
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// Whether a program of this name is on the path.
pub fn has_program(name: &str) -> bool {
    find_program(name).is_some()
}

/// The program of this name that comes first on the path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = path_with(&[cargo_bin()]);
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Says what is being done, does it, and says how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {what} …");
    let started = Instant::now();
    let done = work()?;
    eprintln!("xtask: … done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(done)
}

fn line_of(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    #[test]
    fn a_failed_command_is_named_with_its_output() {
        let error = super::quiet(Command::new("sh").args(["-c", "echo reason; exit 3"]))
            .map_or_else(|error| error.to_string(), |()| String::new());
        assert!(error.contains("sh -c echo reason; exit 3"), "{error}");
        assert!(error.contains("reason\n"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let started = Instant::now();
        assert!(!super::succeeds_within(
            Command::new("sleep").arg("600"),
            Duration::from_millis(20)
        ));
        assert!(started.elapsed() < Duration::from_secs(300));
        assert!(super::succeeds_within(
            &mut Command::new("true"),
            Duration::from_secs(300)
        ));
    }
}
