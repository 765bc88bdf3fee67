//! The Go probes against real Go programs on the running kernel.

#[path = "../common/mod.rs"]
mod common;
mod load;
mod states;
mod symbols;

use std::{io, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use tracer::testing::{GoConnection, GoTracer, Probes};
use tracer_ebpf::Config;
use tracer_tests::{
    go::{self, Variant},
    program::Program,
    runner, wait,
};

fn main() -> ExitCode {
    runner::main(&[states::TESTS, symbols::TESTS, load::TESTS])
}

/// The probes, loaded once for many scenes.
struct Kernel {
    probes: Probes,
    go: GoTracer,
}

impl Kernel {
    fn load() -> Result<Kernel> {
        let mut probes = common::load(Config {
            own_tgid: std::process::id(),
            ..Config::default()
        })?;
        let go = GoTracer::new(
            &mut probes,
            std::sync::Arc::new(tracer::testing::blame(Vec::new())),
        )?;
        Ok(Kernel { probes, go })
    }

    fn watch(&mut self, scene: &Scene) -> Result<()> {
        self.watch_pid(scene.client.pid())
    }

    fn watch_pid(&mut self, pid: u32) -> Result<()> {
        self.probes.targets.set(&pid, &1)?;
        // Probes that the executable had before go first.
        wait::until("probes", Duration::from_secs(60), || {
            match self.go.consider(&mut self.probes, pid) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Ok(false) => bail!("not taken for a Go program"),
                considered => Ok(considered?),
            }
        })?;
        if let Some(program) = self.go.program_of(pid)
            && let Some(reason) = &program.kernel_only
        {
            bail!("not probed: {reason}");
        }
        Ok(())
    }

    /// What the client's pools say.
    fn of(&mut self, scene: &Scene) -> Result<Vec<GoConnection>> {
        let pid = scene.client.pid();
        let mut found = self.go.sweep()?;
        found.retain(|c| c.tgid == pid);
        Ok(found)
    }
}

/// A client of a fixture server, waiting to be let go.
struct Scene {
    client: Program,
    server: Program,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn start(version: &str, variant: Variant, scenario: &str, n: u32) -> Result<Scene> {
        let program = go::build(version, variant)?;
        let directory = tempfile::tempdir()?;
        let (server, addresses) = Program::ready(
            &program,
            &["serve", "-dir", &directory.path().to_string_lossy()],
        )?;
        let repetitions = n.to_string();
        let (client, _) = Program::ready(
            &program,
            &[
                scenario,
                "-load",
                "16",
                "-wait",
                "-n",
                &repetitions,
                "-every",
                "20ms",
                "-servers",
                &addresses,
            ],
        )?;
        Ok(Scene {
            client,
            server,
            _directory: directory,
        })
    }

    fn run(&mut self) -> Result<()> {
        self.client.write("go\n")?;
        self.client.line("DONE", Duration::from_secs(60))?;
        Ok(())
    }
}

fn versions() -> Vec<&'static str> {
    if full() {
        go::ALL_VERSIONS.to_vec()
    } else {
        go::DEFAULT_VERSIONS.to_vec()
    }
}

fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}
