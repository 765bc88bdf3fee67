//! `tracer completions`: clap's script for a shell, and in it what only a running system knows: ids of
//! findings and processes. The script asks `tracer complete` for them.

use std::{fmt::Write as _, fs};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{
    Failure,
    args::{Cli, Complete, EndpointArgs},
    merge, output,
    output::clean,
};
use crate::procs;

/// Prints the script.
///
/// # Errors
/// [`Failure`] when stdout can't be written to.
pub fn run(shell: Shell) -> Result<(), Failure> {
    output::print(&script(shell))
}

/// Prints candidates, each with a tab and what it is; nothing where they can't be had, because a shell
/// has no place for errors.
///
/// # Errors
/// [`Failure`] when stdout can't be written to.
pub fn candidates(what: Complete, endpoints: &EndpointArgs) -> Result<(), Failure> {
    let text = match what {
        Complete::Ids => ids(endpoints).unwrap_or_default(),
        Complete::Pids => pids(),
    };
    output::print(&text)
}

fn ids(endpoints: &EndpointArgs) -> Option<String> {
    let report = merge::ask(&endpoints.fleet().ok()?).ok()?.0?;
    let mut text = String::new();
    for finding in report.findings.iter().chain(&report.resolved) {
        let site = finding.call_site.as_ref();
        let site = site.map_or("unknown", |site| &site.function);
        let (id, kind) = (clean(&finding.id), finding.kind.name());
        let _ = writeln!(text, "{id}\t{kind} at {}", clean(site));
    }
    Some(text)
}

/// Programs that run; kernel threads have no command line.
fn pids() -> String {
    let named = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (!line.is_empty()).then(|| (pid, clean(name.trim_end()).into_owned()))
    };
    let mut all: Vec<_> = (procs::all().unwrap_or_default().into_iter())
        .filter_map(named)
        .collect();
    all.sort_unstable();
    let mut text = String::new();
    for (pid, name) in all {
        let _ = writeln!(text, "{pid}\t{name}");
    }
    text
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tracer", &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => format!("{script}\n{BASH}"),
        // clap writes the value's name, then what completes it
        Shell::Zsh => {
            let script = script.replace(":PID:_default", ":PID:_tracer_pids");
            let script = script.replace("first digits:_default", "first digits:_tracer_ids");
            match script.split_once('\n') {
                // the line for compinit stays the first
                Some((first, rest)) => format!("{first}\n\n{ZSH}{rest}"),
                None => script,
            }
        }
        Shell::Fish => format!("{script}\n{FISH}"),
        _ => script.into_owned(),
    }
}

const BASH: &str = r#"_tracer_with_values() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"
    case "$prev" in
        --pid)
            COMPREPLY=($(compgen -W "$("$1" complete pids 2>/dev/null | cut -f1)" -- "$cur")) ;;
        describe)
            COMPREPLY=($(compgen -W "$("$1" complete ids 2>/dev/null | cut -f1)" -- "$cur"))
            case "$cur" in -*) _tracer "$@" ;; esac ;;
        *)
            _tracer "$@" ;;
    esac
}
complete -F _tracer_with_values -o bashdefault -o default tracer
"#;

const ZSH: &str = r#"_tracer_values() {
    local -a values
    values=(${(f)"$(tracer complete $1 2>/dev/null | tr '\t' ':')"})
    _describe "$1" values
}
_tracer_pids() { _tracer_values pids }
_tracer_ids() { _tracer_values ids }
"#;

const FISH: &str = r#"complete -c tracer -n "__fish_seen_subcommand_from check record daemon top connections" -l pid -x -a "(tracer complete pids)"
complete -c tracer -n "__fish_seen_subcommand_from describe" -f -a "(tracer complete ids)"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_completions_that_ask_for_ids_and_pids() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["describe", "baseline", "complete"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        let zsh = script(Shell::Zsh);
        assert!(zsh.starts_with("#compdef tracer"), "{zsh}");
        for value in [":PID:_tracer_pids", ":_tracer_ids"] {
            assert!(zsh.contains(value), "{value}");
        }
    }

    #[test]
    fn this_process_is_a_candidate() {
        let own = format!("{}\t", std::process::id());
        assert!(pids().lines().any(|line| line.starts_with(&own)));
    }
}
