//! `kubectl tracer`: the same commands under the name by which kubectl finds its plugins (Kubernetes'
//! documentation, "Extend kubectl with plugins"). They ask a cluster, and of it the namespace that kubectl
//! would: `-n`, else that of the context; `-A` all.

use std::{env, ffi::OsString, path::Path};

use clap::{CommandFactory as _, FromArgMatches as _};

use super::{AskArgs, Cli, Command};
use crate::cli::Failure;

/// Name of the executable as kubectl looks for it.
const NAME: &str = "kubectl-tracer";

/// Whether kubectl started this, or who has the same in mind.
#[must_use]
pub fn is_plugin() -> bool {
    let started = env::args_os().next();
    let name = started.as_deref().map(Path::new).and_then(Path::file_stem);
    name.is_some_and(|name| name == NAME)
}

impl Cli {
    /// The command line of this process, of which the name is kubectl's; ends it where there is nothing
    /// to run, as `parse` does.
    #[must_use]
    pub fn as_plugin() -> Cli {
        // what needs a cluster is told so by its name
        let words = env::args_os().skip(1);
        let words = std::iter::once(NAME.into()).chain(words);
        let command = Cli::command().bin_name("kubectl tracer");
        let known = Cli::from_arg_matches(&command.get_matches_from(with_kube(words.collect())));
        let mut cli = known.unwrap_or_else(|error| error.exit());
        cli.plugin = true;
        cli
    }

    /// Chooses the namespace that kubectl would, where kubectl runs this.
    ///
    /// # Errors
    /// [`Failure`] when the kubeconfig can't be used.
    pub fn prepare(&mut self) -> Result<(), Failure> {
        if !self.plugin {
            return Ok(());
        }
        let (ask, namespace, all) = match &mut self.command {
            Command::Top(top) => {
                let chosen = &mut top.namespaces;
                (
                    &top.endpoints.ask,
                    &mut chosen.namespace,
                    chosen.all_namespaces,
                )
            }
            Command::Connections(args) => (
                &args.endpoints.ask,
                &mut args.namespace,
                args.all_namespaces,
            ),
            _ => return Ok(()),
        };
        if namespace.is_none() && !all {
            *namespace = Some(context_namespace(ask)?);
        }
        Ok(())
    }
}

fn context_namespace(ask: &AskArgs) -> Result<String, Failure> {
    ask.cluster()?.context_namespace()
}

/// Adds `--kube` to what asks daemons, not to what asks a recording.
fn with_kube(mut words: Vec<OsString>) -> Vec<OsString> {
    const ASKING: [&str; 5] = ["top", "describe", "connections", "profile", "doctor"];
    let asks = |word: &OsString| ASKING.iter().any(|one| word == one);
    let recording = |word: &OsString| word.as_encoded_bytes().starts_with(b"--from");
    if words.get(1).is_some_and(asks) && !words.iter().any(recording) {
        words.insert(2, "--kube".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_daemons_asks_those_of_the_cluster() {
        let with = |words: &[&str]| {
            let words = words.iter().map(Into::into).collect();
            with_kube(words)
        };
        assert_eq!(
            with(&[NAME, "top", "-A"]),
            [NAME, "top", "--kube", "-A"].map(OsString::from)
        );
        assert_eq!(with(&[NAME, "explain", "top"]).len(), 3);
        assert_eq!(with(&[NAME, "profile", "--from=a.rec"]).len(), 3);
        assert_eq!(with(&[NAME]).len(), 1);
    }
}
