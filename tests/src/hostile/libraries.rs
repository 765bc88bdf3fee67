//! Files that look like those of runtimes and libraries that the daemon knows, with nonsense where
//! their tables should be.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{
    Entry, Shows,
    elf::{Elf, SYMTAB, Section, symbols},
    executables::one,
    file, noise,
};

/// Addresses at which there is noise in every one of these files.
const NOISE: u64 = 1 << 20;

const INTERPRETER: Shows = Shows::Refused("interpreter", "not_understood");

/// All of this file.
pub const ALL: &[Entry] = &[
    file(
        "a Python whose runtime is noise",
        &[2, 4],
        Shows::Nothing,
        |d| {
            let names = [
                "_PyRuntime",
                "PyCode_Type",
                "_PyEval_EvalFrameDefault",
                "Py_Version",
            ];
            library(d, "libpython3.13.so.1.0", &names)
        },
    ),
    file(
        "an older Python whose runtime is noise",
        &[2, 4],
        Shows::Nothing,
        |d| {
            let names = ["_PyRuntime", "PyCode_Type", "_PyEval_EvalFrameDefault"];
            library(d, "libpython3.11.so.1.0", &names)
        },
    ),
    file("a Ruby whose version is noise", &[2, 4], INTERPRETER, |d| {
        library(d, "libruby.so.3.3", &["rb_thread_current", "ruby_version"])
    }),
    file("a PHP whose globals are noise", &[2, 4], INTERPRETER, |d| {
        let names = [
            "execute_ex",
            "executor_globals",
            "php_version",
            "zend_version",
        ];
        library(d, "libphp8.4.so", &names)
    }),
    file("a Node.js without constants", &[2, 4], INTERPRETER, |d| {
        library(
            d,
            "libnode.so.115",
            &[
                "v8dbg_off_fp_function",
                "v8dbg_SmiTag",
                "v8dbg_HeapObjectTag",
            ],
        )
    }),
    file(
        "a HotSpot whose tables are noise",
        &[2, 4],
        INTERPRETER,
        |d| {
            let names = [
                "gHotSpotVMStructs",
                "gHotSpotVMTypes",
                "gHotSpotVMIntConstants",
                "gHotSpotVMLongConstants",
                "gHotSpotVMStructEntryTypeNameOffset",
                "gHotSpotVMStructEntryArrayStride",
            ];
            library(d, "libjvm.so", &names)
        },
    ),
    file(
        "a Go program with counts without end",
        &[2, 4, 11],
        Shows::Refused("go_program", "tables"),
        |d| {
            one(
                d,
                "quay",
                &go(&[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8], 1 << 62),
            )
        },
    ),
    file(
        "a Go program whose table is noise",
        &[2, 4],
        Shows::Refused("go_program", "tables"),
        |d| one(d, "crane", &go(&noise(11, 64), 3_000_000)),
    ),
    file(
        "a Go program with relocations that overlap",
        &[2],
        Shows::Nothing,
        |d| {
            let mut program = go(&[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8], 40);
            for _ in 0..2_000 {
                program.sections.push(
                    Section::new(".rela", vec![0; 24])
                        .kind(4, 0)
                        .flags(2)
                        .claims(1 << 30),
                );
            }
            one(d, "barge", &program.sparse(2 << 30))
        },
    ),
    file(
        "a TLS library whose functions are nowhere",
        &[2, 12],
        Shows::Nothing,
        |d| {
            let table = symbols(
                SYMTAB,
                &[("SSL_write", 1 << 60, 8), ("SSL_read", u64::MAX, u64::MAX)],
            );
            one(d, "libssl.so.3", &Elf::of(table.to_vec()))
        },
    ),
    file(
        "more TLS libraries than there are",
        &[7, 12],
        Shows::Refused("library", "no_room"),
        |d| {
            let table = symbols(SYMTAB, &[("SSL_free", 4_096, 8)]);
            let elf = Elf::of(table.to_vec());
            let made = (0..90).map(|number| elf.write(&d.join(format!("libssl{number}.so"))));
            made.collect()
        },
    ),
];

/// A library with symbols of these names, each somewhere in noise.
fn library(directory: &Path, name: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let places = names.iter().zip(0..);
    let all: Vec<_> = places
        .map(|(name, number)| (*name, NOISE + number * 4_096, 4_096))
        .collect();
    let mut sections = symbols(SYMTAB, &all).to_vec();
    let before = Elf::of(sections.clone()).places();
    let begin = before.last().copied().unwrap_or_default() + sections[1].bytes.len() as u64;
    let room = NOISE.saturating_sub(begin) as usize;
    let filled = [vec![0; room], noise(13, 512 << 10)].concat();
    sections.push(Section::new(".data", filled).flags(2));
    one(directory, name, &Elf::of(sections))
}

/// A file with a table of functions as Go's linker writes it (`internal/abi`, pclntab): magic, size of
/// an instruction and of a pointer, then counts and offsets that are all this number.
fn go(head: &[u8], number: u64) -> Elf {
    let mut table = head.to_vec();
    for _ in 0..12 {
        table.extend(number.to_le_bytes());
    }
    table.extend(noise(17, 256 << 10));
    let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
    info.resize(32, 0);
    info.extend(b"\x08go1.27.3\xff\xff\xff\xff\x7f");
    info.extend(noise(19, 4_096));
    Elf::of(vec![
        Section::new(".gopclntab", table).flags(2),
        Section::new(".go.buildinfo", info).flags(2),
    ])
}
