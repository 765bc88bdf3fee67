//! The manifests in `deploy/`, held against Kubernetes' published schemas, which the PyPI package
//! `kubernetes-validate` carries; and the capabilities that one of them lists, against a leak.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{Outcome, Suite};
use crate::{
    build::{self, Executable},
    demo,
    sh::{self, step},
};

const VERSION: &str = "1.37.0";
/// The oldest Kubernetes that knows every field we use, and the newest that the package knows.
const KUBERNETES: &[&str] = &["1.30", "1.37"];

/// The manifest that lists capabilities.
const CAPABILITIES: &str = "deploy/daemonset-capabilities.yaml";

/// Validates every manifest, and tries the listed capabilities with the demo's programs.
pub fn run(programs: &[Executable]) -> Result<Suite> {
    let started = Instant::now();
    eprintln!("xtask: deploy: manifests");
    let mut outcome = Outcome::default();
    match validator() {
        Err(error) => outcome.skip(format!("no manifest was validated: {error:#}")),
        Ok(validator) => {
            for manifest in manifests()? {
                for version in KUBERNETES {
                    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
                    outcome.count(
                        &format!("{name} (Kubernetes {version})"),
                        validate(&validator, version, &manifest),
                    );
                }
            }
            // the validator itself must be able to say no
            outcome.count("a misspelt field is refused", refuses(&validator));
        }
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

fn manifests() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(sh::root().join("deploy"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    found.sort();
    Ok(found)
}

fn validate(validator: &Path, version: &str, manifest: &Path) -> Result<()> {
    sh::quiet(
        sh::command(validator)
            .args(["--strict", "--quiet", "-k", version])
            .arg(manifest),
    )
}

fn refuses(validator: &Path) -> Result<()> {
    let manifest = manifests()?.pop().context("deploy/ has no manifest")?;
    let text = fs::read_to_string(&manifest)?;
    let misspelt = text.replace("hostPID:", "hostPids:");
    anyhow::ensure!(misspelt != text, "{} has no hostPID", manifest.display());
    let copy = std::env::temp_dir().join(format!("tracer-misspelt-{}.yaml", std::process::id()));
    fs::write(&copy, misspelt)?;
    let result = validate(validator, KUBERNETES[0], &copy);
    // only a leftover in the temporary folder if it fails
    let _ = fs::remove_file(&copy);
    match result {
        Ok(()) => anyhow::bail!("it was accepted"),
        Err(error) if error.to_string().contains("hostPids") => Ok(()),
        Err(error) => Err(error),
    }
}

fn with_listed_capabilities(programs: &[Executable]) -> Result<()> {
    let manifest = fs::read_to_string(sh::root().join(CAPABILITIES))?;
    let bounds = bounding_set(&manifest);
    let mut tracer = sh::command("setpriv");
    tracer
        .arg(format!("--bounding-set={bounds}"))
        .args(["--inh-caps=-all", "--no-new-privs", "--"])
        .arg(build::find(programs, "tracer")?);
    let found = demo::Scene::start(programs)?.catch(tracer, 15, sh::quiet)?;
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

/// Installs the validator once, in an environment of its own.
fn validator() -> Result<PathBuf> {
    let folder = sh::cache_dir().join(format!("kubernetes-validate-{VERSION}"));
    let program = folder.join("bin/kubernetes-validate");
    if program.is_file() {
        return Ok(program);
    }
    step(
        "installing kubernetes-validate from PyPI (about 10 s)",
        || {
            // left over from an attempt that was interrupted
            let _ = fs::remove_dir_all(&folder);
            sh::quiet(sh::command("python3").args(["-m", "venv"]).arg(&folder))?;
            sh::quiet(
                sh::command(folder.join("bin/pip"))
                    .args(["install", "--quiet", "--disable-pip-version-check"])
                    .arg(format!("kubernetes-validate=={VERSION}")),
            )
        },
    )?;
    Ok(program)
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
