//! The book in `docs`: its links lead somewhere, and every page is in its summary. mdBook, which
//! is built where it is not installed, builds it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::Verdict;
use crate::sh;

/// Looks at the links of all pages, and has the book built.
pub fn check() -> Result<Verdict> {
    let docs = sh::root().join("docs");
    let mut pages = Vec::new();
    collect(&docs, &mut pages)?;
    let mut wrong = Vec::new();
    let mut in_summary = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let folder = page.parent().unwrap_or(&docs);
        for link in links(&text) {
            let target = folder.join(link);
            match target.canonicalize() {
                Ok(target) if page.ends_with("SUMMARY.md") => in_summary.push(target),
                Ok(_) => {}
                Err(_) => wrong.push(format!("{} links to {link}", page.display())),
            }
        }
    }
    for page in pages.iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        if !in_summary.contains(&page.canonicalize()?) {
            wrong.push(format!("{} is not in docs/SUMMARY.md", page.display()));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    let mdbook = match mdbook() {
        Ok(mdbook) => mdbook,
        Err(error) => return Ok(Verdict::Note(format!("links only, no mdBook: {error:#}"))),
    };
    sh::quiet(sh::command(mdbook).arg("build").arg(&docs))?;
    Ok(Verdict::Fine)
}

/// mdBook: the one that is installed, else one that is built once and kept between runs.
fn mdbook() -> Result<PathBuf> {
    if sh::has_program("mdbook") {
        return Ok("mdbook".into());
    }
    let kept = sh::cache_dir().join("mdbook");
    let program = kept.join("bin/mdbook");
    if !program.exists() {
        sh::step(
            "building mdbook with cargo install (1 to 2 minutes)",
            || {
                // no search, no server
                let options = ["install", "mdbook", "--locked", "--no-default-features"];
                sh::quiet(sh::cargo().args(options).arg("--root").arg(&kept))
            },
        )?;
    }
    Ok(program)
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// What a page links to in the checkout, without the place in it; code is left out.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                found.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::links;

    #[test]
    fn links_to_files_are_found() {
        let text =
            "[a](b.md#c) ![d](e.png) [f](https://g) [h](#i)\n```\n[no](no.md)\n```\n[j](k.md)";
        assert_eq!(links(text), ["b.md", "e.png", "k.md"]);
    }
}
