//! Packages of other releases of Debian, from the mirror that is configured already.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::sh::{self, step};

/// Package lists older than this are asked for again.
const FRESH: Duration = Duration::from_secs(3 * 24 * 3600);

/// A release of Debian with a version of Python, and the packages that make it run by itself.
const PYTHONS: &[(&str, &str, &[&str])] = &[
    (
        "sid",
        "python3.14",
        &[
            "libc6",
            "libexpat1",
            "libffi8",
            "libssl3t64",
            "libzstd1",
            "zlib1g",
        ],
    ),
    (
        "trixie",
        "python3.13",
        &["libc6", "libexpat1", "libffi8", "libssl3t64", "zlib1g"],
    ),
    (
        "bullseye",
        "python3.9",
        &["libc6", "libexpat1", "libffi7", "libssl1.1", "zlib1g"],
    ),
];

/// Interpreters of other languages, by release, each with the packages that have it: what those
/// depend on is unpacked, too. The last two are too old to be understood, which is to be said.
const INTERPRETERS: &[(&str, &str, &[&str])] = &[
    ("trixie", "ruby3.3", &["ruby3.3"]),
    (
        "trixie",
        "php8.4",
        &[
            "php8.4-cli",
            "php8.4-curl",
            "php8.4-opcache",
            "php8.4-pgsql",
        ],
    ),
    ("bullseye", "ruby2.7", &["ruby2.7"]),
    ("bullseye", "php7.4", &["php7.4-cli"]),
];

/// Unpacks interpreters of Ruby and PHP that this release does not have, below the cache. One that
/// can't be had is named.
pub fn interpreters() -> Result<()> {
    for (suite, program, names) in INTERPRETERS {
        let folder = sh::cache_dir().join("packages").join(program);
        if folder.join("usr/bin").join(program).exists() {
            continue;
        }
        if let Err(error) = unpack_interpreter(suite, program, names, &folder) {
            eprintln!("xtask: {program} is not tested: {error:#}");
        }
    }
    Ok(())
}

fn unpack_interpreter(suite: &str, program: &str, names: &[&str], folder: &Path) -> Result<()> {
    let mut apt = apt_options(&format!("apt-{suite}"), &[suite], &[])?;
    // as on a machine on which nothing is installed
    apt.extend(["-o", "Dir::State::status=/dev/null"].map(str::to_owned));
    step(
        &format!("unpacking {program} of Debian {suite} and what it needs (up to a minute)"),
        || {
            let needed = packages::needed(names, &apt)?;
            let needed: Vec<&str> = needed.iter().map(String::as_str).collect();
            let download = folder.with_extension("download");
            packages::fetch_several(&needed, &download, &apt)?;
            packages::extract(&download, folder)
        },
    )
}

/// Unpacks Pythons that this release does not have, each with its C library, below the cache. One
/// that can't be had is named.
pub fn pythons() -> Result<()> {
    for (suite, python, libraries) in PYTHONS {
        let folder = sh::cache_dir().join("packages").join(python);
        if folder.join("usr/bin").join(python).exists() {
            continue;
        }
        if let Err(error) = unpack_python(suite, python, libraries, &folder) {
            eprintln!("xtask: {python} is not tested: {error:#}");
        }
    }
    Ok(())
}

fn unpack_python(suite: &str, python: &str, libraries: &[&str], folder: &Path) -> Result<()> {
    let apt = apt_options(&format!("apt-{suite}"), &[suite], &[])?;
    step(
        &format!("unpacking {python} of Debian {suite} (a few seconds)"),
        || {
            let own = [
                format!("{python}-minimal"),
                format!("lib{python}-minimal"),
                format!("lib{python}-stdlib"),
            ];
            // of that release, though newer ones may be installed here
            let names: Vec<String> = own
                .iter()
                .map(String::as_str)
                .chain(libraries.iter().copied())
                .map(|name| format!("{name}/{suite}"))
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let download = folder.with_extension("download");
            packages::fetch_several(&names, &download, &apt)?;
            packages::extract(&download, folder)
        },
    )
}

/// Options that show apt these suites, and these of the security archive, instead of the configured
/// ones, with lists of their own below `name` in the cache.
pub fn apt_options(name: &str, suites: &[&str], security: &[&str]) -> Result<Vec<String>> {
    let state = sh::cache_dir().join(name);
    let lists = state.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let sources = state.join("sources.list");
    let options: Vec<String> = [
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Check-Valid-Until=false".to_owned(),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_owned(), option])
    .collect();
    let fresh = fs::metadata(&sources)
        .and_then(|meta| meta.modified())
        .is_ok_and(|then| {
            SystemTime::now()
                .duration_since(then)
                .is_ok_and(|age| age < FRESH)
        });
    if !fresh {
        let configured =
            sh::capture(sh::command("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))
                .context("they come from Debian's archive, through apt")?;
        fs::write(&sources, source_list(&configured, suites, security)?)?;
        let list = suites.join(", ");
        step(&format!("listing Debian's {list} (about 10 s)"), || {
            let update = sh::quiet(sh::command("apt-get").args(&options).arg("update"));
            if update.is_err() {
                // a suite may be gone while the others are there; asked again next time
                fs::File::options()
                    .write(true)
                    .open(&sources)?
                    .set_modified(SystemTime::UNIX_EPOCH)?;
            }
            Ok(())
        })?;
    }
    Ok(options)
}

/// A source list with our suites at the mirror that is configured already.
fn source_list(configured: &str, suites: &[&str], security: &[&str]) -> Result<String> {
    let ending = |end: &str| {
        configured
            .lines()
            .map(|uri| uri.trim_end_matches('/'))
            .find(|uri| uri.ends_with(end))
            .map(str::to_owned)
    };
    let Some(archive) = ending("/debian") else {
        bail!("no mirror of Debian is configured here");
    };
    let updates = ending("/debian-security").unwrap_or_else(|| format!("{archive}-security"));
    let key = "[arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let line = |uri: &str, suite: &&str| format!("deb {key} {uri} {suite} main\n");
    Ok(suites
        .iter()
        .map(|suite| line(&archive, suite))
        .chain(security.iter().map(|suite| line(&updates, suite)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::source_list;

    #[test]
    fn our_suites_are_asked_from_the_configured_mirror() {
        let list = source_list(
            "http://mirror.test/debian/\nhttp://mirror.test/other\n",
            &["bullseye"],
            &["bookworm-security"],
        )
        .unwrap_or_default();
        assert!(
            list.contains(" http://mirror.test/debian bullseye main\n"),
            "{list}"
        );
        assert!(
            list.contains(" http://mirror.test/debian-security bookworm-security main\n"),
            "{list}"
        );
        assert!(source_list("http://mirror.test/ubuntu\n", &[], &[]).is_err());
    }
}
