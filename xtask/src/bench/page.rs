//! The page of results: sections measured now replace those measured before.

use std::{fmt::Write as _, fs, io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{Row, Section};
use crate::sh;

const HEAD: &str = "\
# What tracing costs

Written by `cargo xtask bench`; `cargo xtask bench SECTION…` measures these anew and keeps the rest. Each variant is
measured in rounds that alternate with the same load untraced, so a ratio compares the same minutes. Minimum, median and
maximum are over the rounds; the median is held against the bar.
";

/// Headings and texts of the sections.
#[derive(Debug, Default, PartialEq)]
pub struct Page(Vec<(String, String)>);

impl Page {
    /// Reads the page; an empty one where there is none yet.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    fn parse(text: &str) -> Self {
        let parts = text.split("\n## ").skip(1);
        Self(
            parts
                .map(|part| {
                    let title = part.lines().next().unwrap_or_default().trim();
                    (title.to_owned(), format!("## {}\n", part.trim_end()))
                })
                .collect(),
        )
    }

    /// Puts a section in its place.
    pub fn set(&mut self, title: &str, text: String) {
        match self.0.iter_mut().find(|(known, _)| known == title) {
            Some((_, old)) => *old = text,
            None => self.0.push((title.to_owned(), text)),
        }
    }

    /// Writes those sections that there still are, in this order.
    pub fn write(&self, path: &Path, order: &[&str]) -> Result<()> {
        fs::write(path, self.text(order)).with_context(|| path.display().to_string())
    }

    fn text(&self, order: &[&str]) -> String {
        let mut text = HEAD.to_owned();
        for title in order {
            if let Some((_, section)) = self.0.iter().find(|(known, _)| known == title) {
                text.push('\n');
                text.push_str(section);
            }
        }
        text
    }
}

/// A section as Markdown.
pub fn section(section: &Section, rows: &[Row], took: Duration, quick: bool) -> Result<String> {
    let mut text = format!(
        "## {}\n\n{}\n\n{}\n",
        section.title,
        section.about,
        Row::HEADER
    );
    for row in rows {
        writeln!(text, "{}", row.line())?;
    }
    let date = sh::capture(sh::command("date").args(["-u", "+%F"]))?;
    let few = if quick {
        ", fewer rounds than usual"
    } else {
        ""
    };
    writeln!(
        text,
        "\n{}, {}; measured in {:.0} s{few}.",
        date.trim(),
        machine(),
        took.as_secs_f64()
    )?;
    Ok(text)
}

/// What the numbers depend on.
fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown model", |(_, model)| model.trim());
    let count = cpus.lines().filter(|l| l.starts_with("processor")).count();
    let kind = if cpus.contains(" hypervisor") {
        "virtual machine, "
    } else {
        ""
    };
    format!("Linux {}, {kind}{count} CPUs ({model})", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn sections_that_were_not_measured_stay() {
        let mut page = Page::parse("# Top\n\ntext\n\n## A\n\none\n\n## Gone\n\nx\n\n## B\n\ntwo\n");
        page.set("B", "## B\n\nnew\n".to_owned());
        page.set("C", "## C\n\nthree\n".to_owned());
        let text = page.text(&["C", "A", "B"]);
        assert!(
            text.ends_with("\n## C\n\nthree\n\n## A\n\none\n\n## B\n\nnew\n"),
            "{text}"
        );
        assert_eq!(Page::parse(&text).text(&["C", "A", "B"]), text);
    }
}
