//! Interpreters of Ruby and PHP: those of the machine, and those of other releases of Debian that
//! `cargo xtask setup --tests` unpacks, each with the libraries of its release.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{host, runner::Skip};

/// An interpreter and how it is started.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// Language, version and what it compiles with.
    pub name: String,
    /// Whether it is Ruby; else PHP.
    pub is_ruby: bool,
    /// The command line before the script.
    pub command: Vec<String>,
}

/// Versions that are unpacked: folder, program, and whether tracer understands them.
const UNPACKED: [(&str, &str, bool); 4] = [
    ("ruby3.3", "usr/bin/ruby3.3", true),
    ("php8.4", "usr/bin/php8.4", true),
    ("ruby2.7", "usr/bin/ruby2.7", false),
    ("php7.4", "usr/bin/php7.4", false),
];
/// What makes PHP compile.
const OPCACHE: [&str; 3] = [
    "-dopcache.enable_cli=1",
    "-dopcache.jit=1255",
    "-dopcache.jit_buffer_size=16M",
];

impl Interpreter {
    fn new(is_ruby: bool, command: Vec<String>) -> Result<Interpreter> {
        let language = if is_ruby { "Ruby" } else { "PHP" };
        let mut made = Interpreter {
            name: language.to_owned(),
            is_ruby,
            command,
        };
        let version = made.says(if is_ruby {
            "print RUBY_VERSION"
        } else {
            "echo PHP_VERSION;"
        });
        made.name = format!("{language} {}", version.context(made.name)?);
        Ok(made)
    }

    /// A command that runs a script.
    ///
    /// # Errors
    /// When there is no command line.
    pub fn runs(&self, script: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = self.start()?;
        command.arg(script).args(arguments);
        Ok(command)
    }

    /// The same with a text instead of a script.
    ///
    /// # Errors
    /// As [`Interpreter::runs`].
    pub fn evaluates(&self, text: &str) -> Result<Command> {
        let mut command = self.start()?;
        command.args([if self.is_ruby { "-e" } else { "-r" }, text]);
        Ok(command)
    }

    fn start(&self) -> Result<Command> {
        let (program, arguments) = self.command.split_first().context("a command line")?;
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }

    /// What it prints when it runs a text.
    fn says(&self, text: &str) -> Option<String> {
        let mut command = self.evaluates(text).ok()?;
        let output = command.stdin(Stdio::null()).output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        (output.status.success() && !said.is_empty()).then_some(said)
    }

    /// Whether an extension of PHP's is there.
    #[must_use]
    pub fn has_extension(&self, name: &str) -> bool {
        !self.is_ruby && {
            let asked = format!("echo extension_loaded('{name}') ? 'yes' : 'no';");
            self.says(&asked).is_some_and(|said| said == "yes")
        }
    }

    /// The same interpreter, which compiles the script; `None` where it can't.
    #[must_use]
    pub fn compiled(&self) -> Option<Interpreter> {
        let mut compiled = self.clone();
        let test = if self.is_ruby {
            compiled.command.push("--yjit".to_owned());
            compiled.name += " --yjit";
            "print RubyVM::YJIT.enabled? ? 'yes' : 'no'"
        } else {
            compiled.command.extend(OPCACHE.map(str::to_owned));
            compiled.name += " with opcache's JIT";
            "echo opcache_get_status()['jit']['on'] ?? false ? 'yes' : 'no';"
        };
        (compiled.says(test)? == "yes").then_some(compiled)
    }
}

/// Those that are installed here.
///
/// # Errors
/// [`Skip`] when there are none.
pub fn installed() -> Result<Vec<Interpreter>> {
    let mut all = Vec::new();
    for (program, is_ruby) in [("ruby", true), ("php", false)] {
        if let Ok(path) = host::tool(program) {
            let command = vec![path.to_string_lossy().into_owned()];
            all.push(Interpreter::new(is_ruby, command)?);
        }
    }
    if all.is_empty() {
        bail!(Skip("neither ruby nor php is installed".to_owned()));
    }
    Ok(all)
}

/// Those that were unpacked, which tracer understands or does not. Those that were not are named on
/// standard output.
///
/// # Errors
/// When one was unpacked, but does not run.
pub fn unpacked(understood: bool) -> Result<Vec<Interpreter>> {
    let mut all = Vec::new();
    for (folder, program, is_understood) in UNPACKED {
        if is_understood != understood {
            continue;
        }
        let root = host::cache()?.join("packages").join(folder);
        if !root.join(program).exists() {
            println!("{folder:34} skipped: it was not unpacked here");
            continue;
        }
        let is_ruby = folder.starts_with("ruby");
        let command = by_loader(&root, program, is_ruby)?;
        all.push(Interpreter::new(is_ruby, command)?);
    }
    Ok(all)
}

/// The command line that runs a program below `root` with the libraries there.
fn by_loader(root: &Path, program: &str, is_ruby: bool) -> Result<Vec<String>> {
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let libraries: Vec<PathBuf> = libraries.iter().map(|folder| root.join(folder)).collect();
    let mut loaders = libraries
        .iter()
        .map(|folder| folder.join("ld-linux-x86-64.so.2"));
    let loader = loaders
        .find(|loader| loader.exists())
        .context("no loader")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let path = |folders: &[PathBuf]| {
        let folders: Vec<String> = folders.iter().map(|folder| text(folder)).collect();
        folders.join(":")
    };
    let mut command = vec!["/usr/bin/env".to_owned()];
    let version = program.trim_start_matches(|c: char| !c.is_ascii_digit());
    if is_ruby {
        let own = ["usr/lib/ruby", "usr/lib/x86_64-linux-gnu/ruby"];
        let own = own.map(|folder| root.join(folder).join(format!("{version}.0")));
        command.push(format!("RUBYLIB={}", path(&own)));
    }
    command.extend([text(&loader), "--library-path".to_owned(), path(&libraries)]);
    command.push(text(&root.join(program)));
    if is_ruby {
        command.push("--disable=gems".to_owned());
        return Ok(command);
    }
    // No configuration of the machine's, and the extensions that are there.
    command.push("-n".to_owned());
    let extensions = std::fs::read_dir(root.join("usr/lib/php"))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|folder| folder.join("opcache.so").exists());
    if let Some(folder) = extensions {
        command.push(format!("-dextension_dir={}", text(&folder)));
        command.push("-dzend_extension=opcache".to_owned());
        let extensions = ["curl", "pdo", "pdo_pgsql"];
        let there = extensions
            .iter()
            .filter(|name| folder.join(format!("{name}.so")).exists());
        command.extend(there.map(|name| format!("-dextension={name}")));
    }
    Ok(command)
}
