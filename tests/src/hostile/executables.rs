//! Executables and debug information of which not much is true.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{
    Entry, Shows,
    elf::{Elf, SYMTAB, Section, symbols},
    file, noise,
};

/// `SHF_COMPRESSED`
const COMPRESSED: u64 = 0x800;
/// `SHF_ALLOC`
const ALLOC: u64 = 2;
const NOTE: u32 = 4;
const LOAD: u32 = 1;
const EH_FRAME: u32 = 0x6474_e550;

const fn refused(what: &'static str, reason: &'static str) -> Shows {
    Shows::Refused(what, reason)
}

/// All of this file.
pub const ALL: &[Entry] = &[
    file(
        "debug information of 2^62 bytes",
        &[1],
        refused("debug_information", "compression"),
        |d| {
            one(
                d,
                "size.so",
                &Elf::of(vec![compressed(".debug_info", 1, 1 << 62, 64)]),
            )
        },
    ),
    file(
        "a compression that does not exist",
        &[1],
        refused("debug_information", "compression"),
        |d| {
            one(
                d,
                "kind.so",
                &Elf::of(vec![compressed(".debug_line", 77, 64, 64)]),
            )
        },
    ),
    file(
        "an older compression without its head",
        &[1],
        refused("debug_information", "compression"),
        |d| {
            one(
                d,
                "older.so",
                &Elf::of(vec![Section::new(".zdebug_info", noise(1, 400))]),
            )
        },
    ),
    file(
        "three sections of 128 MiB",
        &[1, 2],
        refused("debug_information", "too_large"),
        |d| {
            let names = [".debug_info", ".debug_str", ".debug_line"];
            let large = names.map(|name| compressed(name, 1, 128 << 20, 160 << 10));
            one(d, "three.so", &Elf::of(large.to_vec()))
        },
    ),
    file("compressed noise", &[1, 2], Shows::Nothing, |d| {
        let names = [".debug_info", ".debug_abbrev", ".debug_line"];
        let noisy = names.map(|name| compressed(name, 1, 60 << 10, 4 << 10));
        one(d, "noisy.so", &Elf::of(noisy.to_vec()))
    }),
    file(
        "debug information that is noise",
        &[2],
        Shows::Nothing,
        |d| {
            let names = [
                ".debug_info",
                ".debug_abbrev",
                ".debug_line",
                ".debug_str",
                ".debug_ranges",
            ];
            let noisy = names.map(|name| Section::new(name, noise(2, 1 << 20)));
            one(d, "dwarf.so", &Elf::of(noisy.to_vec()))
        },
    ),
    file(
        "units that share very many abbreviations",
        &[2],
        Shows::Nothing,
        abbreviations,
    ),
    file(
        "a unit that is its own origin",
        &[2],
        Shows::Nothing,
        its_own_origin,
    ),
    file(
        "a line table with counts without end",
        &[2],
        Shows::Nothing,
        line_counts,
    ),
    file(
        "60,000 segments",
        &[2],
        refused("executable", "too_many_segments"),
        |d| {
            let count = 60_000u16.to_le_bytes();
            one(
                d,
                "segments.so",
                &Elf::default().sparse(8 << 30).header(0x38, &count),
            )
        },
    ),
    file("500 segments over a hole", &[2], Shows::Nothing, |d| {
        let many = (0..500).fold(Elf::default(), |elf, _| elf.segment(LOAD, 6, 0, 8 << 30));
        one(d, "holes.so", &many.sparse(8 << 30))
    }),
    file(
        "segments beyond the end",
        &[2],
        refused("executable", "cut_off"),
        |d| {
            one(
                d,
                "cut.so",
                &Elf::default().header(0x20, &(1u64 << 40).to_le_bytes()),
            )
        },
    ),
    file(
        "a file larger than programs are",
        &[2],
        refused("executable", "too_large"),
        |d| one(d, "large.so", &Elf::default().sparse(9 << 30)),
    ),
    file(
        "65,000 sections",
        &[2],
        refused("sections", "too_many"),
        |d| {
            let count = 65_000u16.to_le_bytes();
            one(
                d,
                "sections.so",
                &nothing().sparse(1 << 30).header(0x3c, &count),
            )
        },
    ),
    file(
        "sections that are counted elsewhere",
        &[2],
        refused("sections", "too_many"),
        |d| one(d, "counted.so", &nothing().header(0x3c, &[0, 0])),
    ),
    file(
        "sections beyond the end",
        &[2],
        refused("sections", "cut_off"),
        |d| {
            one(
                d,
                "behind.so",
                &nothing().header(0x28, &(1u64 << 50).to_le_bytes()),
            )
        },
    ),
    file(
        "sections with long names",
        &[2],
        refused("sections", "names_too_long"),
        |d| {
            let long = "n".repeat(2 << 10);
            let many = (0..400).map(|_| Section::new(&long, vec![0; 16]));
            one(d, "name.so", &Elf::of(many.collect()))
        },
    ),
    file(
        "names of sections that are 2 MiB",
        &[2],
        refused("sections", "names_too_long"),
        |d| {
            let long = "n".repeat(2 << 20);
            one(
                d,
                "names.so",
                &Elf::of(vec![Section::new(&long, vec![0; 16])]),
            )
        },
    ),
    file(
        "a build id of 4 GiB",
        &[2],
        refused("build_id", "too_long"),
        |d| {
            let note = [
                &4u32.to_le_bytes()[..],
                &0xfff0_0000u32.to_le_bytes(),
                &[3, 0, 0, 0],
                b"GNU\0",
            ];
            let notes = Elf::of(vec![Section::new(".note", note.concat())]);
            let at = notes.places()[0];
            one(
                d,
                "build-id.so",
                &notes.segment(NOTE, 4, at, 4 << 30).sparse(5 << 30),
            )
        },
    ),
    file(
        "symbols of 4 GiB",
        &[2],
        refused("symbols", "too_large"),
        |d| {
            let [table, names] = symbols(SYMTAB, &[("SSL_read", 4_096, 8)]);
            let large = Elf::of(vec![table.claims(4 << 30), names]);
            one(d, "libpython-large.so", &large.sparse(5 << 30))
        },
    ),
    file(
        "symbols whose names take long to compare",
        &[2],
        refused("symbols", "too_slow"),
        slow_symbols,
    ),
    file(
        "frames of 4 GiB",
        &[2],
        refused("frame_table", "no_room"),
        |d| {
            let frames = Section::new(".eh_frame", frame(0))
                .flags(ALLOC)
                .claims(4 << 30);
            one(d, "frames.so", &Elf::of(vec![frames]).sparse(5 << 30))
        },
    ),
    file(
        "frames that take all the room",
        &[2, 7],
        refused("frame_table", "no_room"),
        |d| {
            let frames = |number| {
                let section = Section::new(".eh_frame", frame(0))
                    .flags(ALLOC)
                    .claims(60 << 20);
                let elf = Elf::of(vec![section]).sparse(64 << 20);
                elf.write(&d.join(format!("room{number}.so")))
            };
            (0..4).map(frames).collect()
        },
    ),
    file(
        "frames that refer to themselves",
        &[2],
        Shows::Nothing,
        |d| {
            // each entry names itself, or the one behind it, as its common part
            let entries: Vec<u8> = (0..4_000u32).flat_map(|n| frame(n % 64)).collect();
            let frames = Elf::of(vec![Section::new(".eh_frame", entries).flags(ALLOC)]);
            one(d, "cycles.so", &frames)
        },
    ),
    file("a search table that lies", &[2], Shows::Nothing, |d| {
        let mut table = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f];
        table.extend(noise(3, 64 << 10));
        let elf = Elf::of(vec![Section::new(".eh_frame_hdr", table).flags(ALLOC)]);
        let at = elf.places()[0];
        one(d, "search.so", &elf.segment(EH_FRAME, 4, at, 1 << 30))
    }),
    file("very long names of functions", &[2], Shows::Nothing, |d| {
        let long = "_ZN".to_owned() + &"1a".repeat(4 << 20) + "E";
        let control = "\u{1b}[31m\u{202e}evil\u{7f}";
        let table = symbols(SYMTAB, &[(&long, 4_096, 8), (control, 4_096, 16)]);
        one(d, "functions.so", &Elf::of(table.to_vec()))
    }),
    file(
        "a debug link that leads to a pipe",
        &[2],
        Shows::Nothing,
        |d| {
            nix::unistd::mkfifo(&d.join("pipe.debug"), nix::sys::stat::Mode::S_IRWXU)?;
            let mut link = b"pipe.debug\0\0".to_vec();
            link.extend([1, 2, 3, 4]);
            let mut other = b"pipe.debug\0".to_vec();
            other.extend(noise(5, 20));
            let links = [(".gnu_debuglink", link), (".gnu_debugaltlink", other)];
            let sections = links.map(|(name, bytes)| Section::new(name, bytes));
            one(d, "link.so", &Elf::of(sections.to_vec()))
        },
    ),
    file("executables of other machines", &[2], Shows::Nothing, |d| {
        let narrow = one(d, "narrow.so", &nothing().header(4, &[1]))?;
        let big = one(d, "big-endian.so", &nothing().header(5, &[2]))?;
        Ok([narrow, big].concat())
    }),
    file("headers that are noise", &[2], Shows::Nothing, |d| {
        one(d, "noise.so", &nothing().header(16, &noise(7, 48)))
    }),
    file(
        "names with signs that turn and colour text",
        &[13],
        Shows::Nothing,
        |d| one(d, "\u{202e}gpj.\u{1b}[2J\u{9b}31m\u{7f}lib.so", &nothing()),
    ),
];

/// A file of this kind in a folder.
pub fn one(directory: &Path, name: &str, elf: &Elf) -> Result<Vec<PathBuf>> {
    Ok(vec![elf.write(&directory.join(name))?])
}

/// A file that has a section, which is empty.
pub fn nothing() -> Elf {
    Elf::of(vec![Section::new(".comment", vec![0; 16])])
}

/// A section that says how it is compressed and how large it is; what follows is noise.
fn compressed(name: &str, kind: u32, size: u64, bytes: usize) -> Section {
    let mut head = Vec::new();
    head.extend(kind.to_le_bytes());
    head.extend([0; 4]);
    head.extend(size.to_le_bytes());
    head.extend(1u64.to_le_bytes());
    head.extend(noise(9, bytes));
    Section::new(name, head).flags(COMPRESSED)
}

/// An entry of frame descriptions (LSB, "Exception Frames"): its length, and how far back its common
/// part is; itself where that is 4.
fn frame(back: u32) -> Vec<u8> {
    let mut bytes = 60u32.to_le_bytes().to_vec();
    bytes.extend(back.to_le_bytes());
    bytes.extend(b"\x01zPLR\0\x01\x78\x10");
    bytes.resize(64, 0xff);
    bytes
}

/// A header of a unit (DWARF 4, section 7.5.1.1) and its first entry.
fn unit(abbreviations: u32, entries: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32 + 7).to_le_bytes().to_vec();
    bytes.extend(4u16.to_le_bytes());
    bytes.extend(abbreviations.to_le_bytes());
    bytes.push(8);
    bytes.extend(entries);
    bytes
}

/// Units whose abbreviations are 400,000, each unit's at another place of the same table.
fn abbreviations(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut table = Vec::new();
    for number in 1u32..400_000 {
        let mut code = number;
        while code >= 0x80 {
            table.push(code as u8 | 0x80);
            code >>= 7;
        }
        table.push(code as u8);
        // DW_TAG_compile_unit without children or attributes
        table.extend([0x11, 0, 0, 0]);
    }
    table.push(0);
    let starts = (0..20_000u32).map(|number| unit(number % 64 * 5, &[1]));
    let units: Vec<u8> = starts.flatten().collect();
    let sections = vec![
        Section::new(".debug_info", units),
        Section::new(".debug_abbrev", table),
    ];
    one(directory, "abbreviations.so", &Elf::of(sections))
}

/// A function that is inlined into itself and whose origin it is.
fn its_own_origin(directory: &Path) -> Result<Vec<PathBuf>> {
    // a unit with children; a function at low_pc, high_pc with an origin; the same, inlined
    let abbreviations = [
        &[1u8, 0x11, 1, 0x11, 0x01, 0x12, 0x07, 0, 0][..],
        &[2, 0x2e, 1, 0x11, 0x01, 0x12, 0x07, 0x31, 0x13, 0, 0],
        &[3, 0x1d, 1, 0x11, 0x01, 0x12, 0x07, 0x31, 0x13, 0, 0],
        &[0],
    ]
    .concat();
    let mut entries = Vec::new();
    let entry = |code: u8, origin: Option<u32>| {
        let mut bytes = vec![code];
        bytes.extend(4_096u64.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(origin.into_iter().flat_map(u32::to_le_bytes));
        bytes
    };
    entries.extend(entry(1, None));
    let function = 11 + entries.len() as u32;
    entries.extend(entry(2, Some(function)));
    for _ in 0..20_000 {
        entries.extend(entry(3, Some(11 + entries.len() as u32)));
    }
    let sections = vec![
        Section::new(".debug_info", unit(0, &entries)),
        Section::new(".debug_abbrev", abbreviations),
    ];
    one(directory, "origin.so", &Elf::of(sections))
}

/// A line table (DWARF 5, section 6.2.4) with as many directories and files as a number can say.
fn line_counts(directory: &Path) -> Result<Vec<PathBuf>> {
    let abbreviations = [
        &[1u8, 0x11, 0, 0x10, 0x17, 0x11, 0x01, 0x12, 0x07, 0, 0][..],
        &[0],
    ]
    .concat();
    let mut entry = vec![1, 0, 0, 0, 0];
    entry.extend(4_096u64.to_le_bytes());
    entry.extend(64u64.to_le_bytes());
    let mut lines = 4_000u32.to_le_bytes().to_vec();
    lines.extend(5u16.to_le_bytes());
    lines.extend([8, 0]);
    lines.extend(3_900u32.to_le_bytes());
    lines.extend([1, 1, 1, 0xfb, 14, 13]);
    lines.extend([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    lines.extend([1, 1, 8]);
    lines.extend([0xff; 9]);
    lines.push(0x7f);
    lines.resize(4_004, b'a');
    let sections = vec![
        Section::new(".debug_info", unit(0, &entry)),
        Section::new(".debug_abbrev", abbreviations),
        Section::new(".debug_line", lines),
    ];
    one(directory, "lines.so", &Elf::of(sections))
}

/// Two million symbols of one name, which begins as every pattern does and ends as none.
fn slow_symbols(directory: &Path) -> Result<Vec<PathBuf>> {
    let name = "_RNvX".to_owned() + &"6rustls4con".repeat(45);
    let mut entry = 1u32.to_le_bytes().to_vec();
    entry.extend([0x12, 0, 1, 0]);
    entry.extend(4_096u64.to_le_bytes());
    entry.extend(8u64.to_le_bytes());
    let names = [b"\0", name.as_bytes(), b"\0"].concat();
    let sections = vec![
        Section::new(".symtab", entry.repeat(2_000_000)).kind(SYMTAB, 2),
        Section::new(".strtab", names).kind(3, 0),
    ];
    one(directory, "libssl-slow.so.3", &Elf::of(sections))
}
