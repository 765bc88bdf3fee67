//! The process that reads debug information in our place: what it may, what it answers, and what
//! its end costs.
#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    fs,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Once},
};

use tracer::testing::{Image, Named, Names, reader};

fn use_readers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| reader::start_from(PathBuf::from(env!("CARGO_BIN_EXE_tracer"))));
}

/// A shared library with debug information, compressed.
fn library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("berth.c"), dir.join("libberth.so"));
    fs::write(&source, "int berth(int x)\n{\n\treturn x * 3;\n}\n").unwrap();
    let status = Command::new("cc")
        .args(["-g", "-gz=zlib", "-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(status.success());
    library
}

fn open(path: &Path) -> (Arc<Image>, u64) {
    let image = Image::open(File::open(path).unwrap()).unwrap();
    let address = image.symbols(&["berth"])[0].unwrap().0;
    (Arc::new(image), address)
}

fn at(names: &mut Names, image: &Arc<Image>, address: u64) -> Arc<[Named]> {
    names.at(0, image, address).unwrap()
}

#[test]
fn a_reader_names_lines_and_has_nothing_to_lose() {
    use_readers();
    let dir = tempfile::tempdir().unwrap();
    let (image, address) = open(&library(dir.path()));
    let mut names = Names::default();
    let found = at(&mut names, &image, address);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].function, "berth");
    assert!(found[0].file.as_ref().unwrap().ends_with("berth.c"));
    assert_eq!(found[0].line, Some(3));
    assert_eq!(names.refused(&image), None);

    let reader = names.reader().unwrap();
    let status = fs::read_to_string(format!("/proc/{reader}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    if rustix_is_root() {
        assert_eq!(field("Uid:"), "65534");
        assert_eq!(u64::from_str_radix(&field("CapBnd:"), 16), Ok(0));
    }
    let limits = fs::read_to_string(format!("/proc/{reader}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        line[name.len()..]
            .split_ascii_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max cpu time"), "60");
    assert_ne!(limit("Max data size"), "unlimited");
    assert_ne!(limit("Max address space"), "unlimited");
    drop(names);
    assert!(!Path::new(&format!("/proc/{reader}")).exists());
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

#[test]
fn a_file_that_only_its_owner_may_read_is_named() {
    use_readers();
    let dir = tempfile::tempdir().unwrap();
    let path = library(dir.path());
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (image, address) = open(&path);
    assert_eq!(at(&mut Names::default(), &image, address)[0].line, Some(3));
}

#[test]
fn a_reader_that_was_killed_is_replaced_and_costs_one_file_its_lines_at_most() {
    use_readers();
    let dir = tempfile::tempdir().unwrap();
    let path = library(dir.path());
    let (image, address) = open(&path);
    let mut names = Names::default();
    at(&mut names, &image, address);
    let reader = names.reader().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &reader])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(at(&mut names, &image, address + 1)[0].function, "berth");
    assert_eq!(names.failures(), 1);
    let other = dir.path().join("other.so");
    fs::copy(&path, &other).unwrap();
    let (other, address) = open(&other);
    assert_eq!(at(&mut names, &other, address)[0].line, Some(3));
    assert_ne!(names.reader().unwrap().to_string(), reader);
}

#[test]
fn a_forged_size_costs_lines_and_not_names() {
    use_readers();
    let dir = tempfile::tempdir().unwrap();
    let path = library(dir.path());
    let (image, address) = open(&path);
    let section = image.sections().iter().find(|s| s.name == ".debug_info");
    let header = section.unwrap().part.bytes.start;
    let file = File::options().write(true).open(&path).unwrap();
    for claimed in [1u64 << 62, 400 << 20, u64::MAX] {
        file.write_all_at(&claimed.to_le_bytes(), header + 8)
            .unwrap();
        let (image, _) = open(&path);
        let mut names = Names::default();
        assert_eq!(
            at(&mut names, &image, address)[0].function,
            "berth",
            "{claimed}"
        );
        assert!(names.refused(&image).is_some());
    }
}

#[test]
fn a_library_that_is_cut_short_while_it_is_read_ends_the_reader_only() {
    use_readers();
    let dir = tempfile::tempdir().unwrap();
    let path = library(dir.path());
    let (image, address) = open(&path);
    let mut names = Names::default();
    // The file is mapped by the reader by now.
    assert_eq!(at(&mut names, &image, address)[0].line, Some(3));
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    for step in 1..4 {
        let _ = at(&mut names, &image, address + step);
    }
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    let (image, address) = open(&library(&again));
    assert_eq!(at(&mut names, &image, address)[0].line, Some(3));
}
