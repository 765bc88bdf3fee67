//! Debian's kernels for cloud machines: which there are, and keeping the newest of each line.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{archive, packages},
    sh::{self, step},
};

/// A line of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The name that users give: the first numbers of the version.
    pub name: &'static str,
    /// Where it begins, the names of packages that hold a kernel of this line.
    packages: &'static [&'static str],
}

/// The lines that are tested, oldest first.
const LINES: &[Line] = &[
    Line {
        name: "5.10",
        packages: &["linux-image-5.10."],
    },
    Line {
        name: "6.1",
        packages: &["linux-image-6.1."],
    },
    Line {
        name: "6.12",
        packages: &["linux-image-6.12."],
    },
    // from 7 on, `linux-image-` only depends on the package with the kernel
    Line {
        name: "7",
        packages: &["linux-binary-7.", "linux-binary-unsigned-7."],
    },
];

/// The suites of Debian's archive that hold them, and of its security archive.
const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie-backports",
];
const SECURITY: &[&str] = &["bullseye-security", "bookworm-security"];

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As in `uname -r`.
    pub version: String,
    /// The compressed kernel.
    pub path: PathBuf,
}

/// All lines that are tested.
pub fn all() -> Vec<Line> {
    LINES.to_vec()
}

/// The line of this name; `7.2` means the newest kernel of line 7.
pub fn line(name: &str) -> Result<Line> {
    let fits = |line: &&Line| name == line.name || (line.name == "7" && name.starts_with("7."));
    LINES.iter().find(fits).copied().with_context(|| {
        let known: Vec<_> = LINES.iter().map(|line| line.name).collect();
        format!("known: {}", known.join(", "))
    })
}

impl Line {
    /// The newest kernel of this line: downloaded where that can be done, else the newest that was
    /// downloaded before.
    pub fn fetch(self) -> Result<Kernel> {
        let folder = sh::cache_dir().join("kernels").join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        match self.download(&folder) {
            Ok(kernel) => Ok(kernel),
            Err(error) => match newest_kept(&folder)? {
                Some(kernel) => {
                    eprintln!("xtask: using {} from before: {error:#}", kernel.version);
                    Ok(kernel)
                }
                None => Err(error.context(format!("no kernel {} can be had", self.name))),
            },
        }
    }

    fn download(self, folder: &Path) -> Result<Kernel> {
        let apt = archive::apt_options("apt", SUITES, SECURITY)?;
        let names = sh::capture(
            sh::command("apt-cache")
                .args(&apt)
                .args(["pkgnames", "linux-"]),
        )?;
        let package = newest(names.lines().filter(|name| self.has(name)))
            .with_context(|| format!("the mirror lists no package for {}", self.name))?;
        let place = folder.join(package);
        if !place.is_dir() {
            step(&format!("downloading {package} (30 to 100 MB)"), || {
                let download = place.with_extension("download");
                packages::fetch(package, &download, &apt)?;
                packages::extract(&download, &place)?;
                keep_kernel_only(&place)
            })?;
        }
        kernel_in(&place)?.with_context(|| format!("{package} holds no kernel"))
    }

    fn has(self, package: &str) -> bool {
        package.ends_with("-cloud-amd64")
            && self
                .packages
                .iter()
                .any(|prefix| package.starts_with(prefix))
    }
}

/// The one with the highest version.
fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // the numbers decide, not the words around them
    names.max_by(|a, b| numbers(a).cmp(&numbers(b)).then_with(|| shorter(a, b)))
}

/// Of two packages with the same kernel, the shorter name is the signed one.
fn shorter(a: &str, b: &str) -> Ordering {
    b.len().cmp(&a.len())
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn newest_kept(folder: &Path) -> Result<Option<Kernel>> {
    let names: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with("-cloud-amd64"))
        .collect();
    match newest(names.iter().map(String::as_str)) {
        Some(name) => kernel_in(&folder.join(name)),
        None => Ok(None),
    }
}

/// Removes the modules and everything else that is never booted.
fn keep_kernel_only(place: &Path) -> Result<()> {
    let Some(kernel) = find_kernel(place)? else {
        bail!("{} holds no kernel", place.display());
    };
    let kept = place.with_extension("kept");
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(&kept)?;
    fs::rename(
        &kernel.path,
        kept.join(format!("vmlinuz-{}", kernel.version)),
    )?;
    fs::remove_dir_all(place)?;
    fs::rename(&kept, place)?;
    Ok(())
}

fn kernel_in(place: &Path) -> Result<Option<Kernel>> {
    find_kernel(place)
}

/// Looks for `boot/vmlinuz-VERSION` and `usr/lib/modules/VERSION/vmlinuz*`.
fn find_kernel(place: &Path) -> Result<Option<Kernel>> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(kernel) = find_kernel(&path)? {
                return Ok(Some(kernel));
            }
            continue;
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(rest) = name.strip_prefix("vmlinuz") {
            let version = rest.strip_prefix('-').map_or_else(
                || path.parent()?.file_name()?.to_str().map(str::to_owned),
                |version| Some(version.to_owned()),
            );
            return Ok(version.map(|version| Kernel {
                version,
                path: path.clone(),
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{LINES, newest};

    fn line(name: &str) -> super::Line {
        super::line(name).unwrap_or(LINES[0])
    }

    #[test]
    fn the_newest_package_of_a_line_is_chosen_by_number() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12-cloud-amd64-dbg",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        let line = line("6.12");
        assert_eq!(
            newest(names.into_iter().filter(|name| line.has(name))),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
    }

    #[test]
    fn a_signed_kernel_is_preferred_to_the_same_unsigned_one() {
        let names = [
            "linux-binary-unsigned-7.2.12+deb13-cloud-amd64",
            "linux-binary-7.2.12+deb13-cloud-amd64",
            "linux-binary-7.2.9+deb13-cloud-amd64",
        ];
        let line = line("7.2");
        assert_eq!(
            newest(names.into_iter().filter(|name| line.has(name))),
            Some(names[1])
        );
    }

    #[test]
    fn unknown_kernels_are_refused() {
        assert!(super::line("4.19").is_err());
    }
}
