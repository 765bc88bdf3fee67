//! The subjects and the truth about them.

use std::{fs, ops::RangeInclusive, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{go, host};

/// One program of the corpus.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subject {
    /// `LANGUAGE/PROGRAM`, with `/healthy` behind it where the leaking one has the same name.
    pub name: String,
    /// Kinds that name it fairly; none for a healthy program.
    pub kinds: Vec<String>,
    /// The function to change.
    pub function: Option<String>,
    /// No line of the source is marked.
    pub unmarked: bool,
    /// Another mark whose lines are as good.
    pub or: Option<String>,
    /// A part of the URL.
    pub remote: Option<String>,
    /// A word of the evidence.
    pub evidence: Option<String>,
    /// Name of the library that leaks.
    pub library: Option<String>,
    /// Stem of its source, where that is another than `leaks` or `healthy`.
    pub file: Option<String>,
    /// A healthy program of which `inconclusive` is as good an answer: from outside it can't be told
    /// from one that leaks before its connections have gone.
    pub undecided: bool,
    /// Its program calls a server of gRPC.
    pub grpc: bool,
    /// How `drive.py` behaves towards this server.
    pub drive: Option<String>,
}

#[derive(Deserialize)]
struct Subjects {
    subject: Vec<Subject>,
}

/// Lines of a file that are right as a call site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Base name of the file.
    pub file: String,
    /// The lines, from 1.
    pub lines: RangeInclusive<u64>,
}

/// All of them, in the order of the file.
///
/// # Errors
/// When the file can't be read or has an unknown field.
pub fn all() -> Result<Vec<Subject>> {
    let path = directory().join("subjects.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let subjects: Subjects = toml::from_str(&text).context("subjects.toml")?;
    Ok(subjects.subject)
}

/// Where the corpus is.
#[must_use]
pub fn directory() -> PathBuf {
    host::repository("tests/corpus")
}

impl Subject {
    /// Whether it leaks.
    #[must_use]
    pub fn leaks(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Its language: a folder of the corpus, or `go`.
    #[must_use]
    pub fn language(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Its name within its program.
    #[must_use]
    pub fn program(&self) -> &str {
        self.name.split('/').nth(1).unwrap_or_default()
    }

    /// The file of its program, without the ending.
    #[must_use]
    pub fn stem(&self) -> &str {
        match &self.file {
            Some(file) => file,
            None if self.leaks() => "leaks",
            None => "healthy",
        }
    }

    /// What it does: its name, without that of the protocol.
    #[must_use]
    pub fn mode(&self) -> &str {
        let name = self.program();
        name.strip_prefix("grpc-").unwrap_or(name)
    }

    /// The class of its program in Java.
    #[must_use]
    pub fn class(&self) -> String {
        let (first, rest) = self.stem().split_at(1);
        first.to_uppercase() + rest
    }

    /// The lines that a call site may name; none where nothing is marked.
    ///
    /// # Errors
    /// When the source can't be read or the mark is not in it.
    pub fn lines(&self) -> Result<Vec<Lines>> {
        if !self.leaks() || self.unmarked {
            return Ok(Vec::new());
        }
        if self.language() == "go" {
            let marked = go::marked(&format!("LEAK {}", self.program()))?;
            return Ok(marked
                .into_iter()
                .map(|(path, line)| Lines {
                    file: path
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into(),
                    lines: u64::from(line)..=u64::from(line),
                })
                .collect());
        }
        let marks = std::iter::once(self.program()).chain(self.or.as_deref());
        marks.map(|mark| self.between(mark)).collect()
    }

    fn between(&self, mark: &str) -> Result<Lines> {
        let path = self.source()?;
        let text = fs::read_to_string(&path)?;
        let line = |word: &str| {
            let comment = format!("{word} {mark}");
            (1u64..).zip(text.lines()).find_map(|(number, line)| {
                let (_, after) = line.split_once(&comment)?;
                after.trim_end_matches(" */").is_empty().then_some(number)
            })
        };
        let Some(first) = line("LEAK") else {
            bail!("{} has no comment LEAK {mark}", path.display())
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Lines {
            file: file.into(),
            lines: first..=line("END").unwrap_or(first),
        })
    }

    /// The source of a program that is not Go's.
    ///
    /// # Errors
    /// For a language without one.
    pub fn source(&self) -> Result<PathBuf> {
        let stem = self.stem();
        let name = match self.language() {
            "python" => format!("{stem}.py"),
            "node" => format!("{stem}.js"),
            "ruby" => format!("{stem}.rb"),
            "php" => format!("{stem}.php"),
            "c" => format!("{stem}.c"),
            "rust" => format!("{stem}.rs"),
            "shell" => format!("{stem}.sh"),
            "java" => format!("{}.java", self.class()),
            other => bail!("{}: no language {other}", self.name),
        };
        Ok(directory().join(self.language()).join(name))
    }
}
