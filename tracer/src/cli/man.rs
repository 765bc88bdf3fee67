//! `tracer man`: the manual, from the definition of the command line.

use std::{fs, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{
    Failure,
    args::{Cli, Manual},
    output,
};

/// Prints the page that was asked for, or writes them all.
///
/// # Errors
/// [`Failure`] when there is no such command, or the pages can't be written.
pub fn run(args: &Manual) -> Result<(), Failure> {
    let mut cli = Cli::command();
    cli.build();
    if let Some(folder) = &args.dir {
        return write(cli, folder);
    }
    let page = match &args.command {
        None => whole(&cli),
        Some(name) => {
            let known = cli.get_subcommands().find(|c| c.get_name() == name);
            let known = known.filter(|command| !command.is_hide_set());
            let command =
                known.ok_or_else(|| Failure::usage(format!("tracer has no command {name}")))?;
            page(command)
        }
    };
    let page = page.map_err(anyhow::Error::from)?;
    output::print(&String::from_utf8_lossy(&page))
}

/// One file for the command and one for each of its subcommands: `tracer.1`, `tracer-check.1`, …
fn write(cli: clap::Command, folder: &Path) -> Result<(), Failure> {
    let cannot = || format!("cannot write the manual to {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    clap_mangen::generate_to(cli, folder).with_context(cannot)?;
    Ok(())
}

fn page(command: &clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// One page for the command and all its subcommands, so that `tracer man | man -l -` shows it.
fn whole(cli: &clap::Command) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let page = &mut out;
    let man = clap_mangen::Man::new(cli.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_subcommands_section(page)?;
    let shown = |command: &&clap::Command| command.get_name() != "help" && !command.is_hide_set();
    for command in cli.get_subcommands().filter(shown) {
        page.extend_from_slice(
            format!(".SH TRACER {}\n", command.get_name().to_uppercase()).as_bytes(),
        );
        let man = clap_mangen::Man::new(command.clone());
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
        if let Some(text) = command.get_after_help() {
            page.extend_from_slice(format!(".PP\n.nf\n{text}\n.fi\n").as_bytes());
        }
    }
    man.render_extra_section(page)?;
    man.render_version_section(page)?;
    Ok(out)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    fn cli() -> clap::Command {
        let mut cli = Cli::command();
        cli.build();
        cli
    }

    #[test]
    fn the_manual_has_every_command_and_option() {
        let page = String::from_utf8(whole(&cli()).unwrap()).unwrap();
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let name = command.get_name().to_uppercase();
            assert!(page.contains(&format!(".SH TRACER {name}")), "{name}");
        }
        assert!(page.contains("\\-\\-baseline"), "{page}");
        assert!(page.contains("Exit status"), "{page}");
    }

    #[test]
    fn every_command_has_a_page_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        write(cli(), folder.path()).unwrap();
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let name = format!("tracer-{}", command.get_name());
            let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".TH") && page.contains("SYNOPSIS"), "{name}");
        }
        assert!(folder.path().join("tracer.1").exists());
    }
}
