//! A tiny Go program made by hand, in each layout of the function table, and damaged copies.
#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

use bytes::Bytes;
use proptest::prelude::*;

use super::{GoBinary, GoError, pclntab::Layout};
use crate::{model::StackQuality, symbols::blame::Rule};

const LAYOUTS: [Layout; 3] = [Layout::Go116, Layout::Go118, Layout::Go120];
const TEXT: u64 = 0x40_1000;
const TABLE: u64 = 0x50_0000;
const DATA: u64 = 0x60_0000;
/// Where the inline tree is, within the read-only segment.
const GOFUNC: u64 = 0x800;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

/// Read-only segment: two functions; `main.outer` has `main.inner` inlined at 0x10..0x20.
///
/// ```text
/// main.outer  0x00..0x40  lines 10 (0x00), 21 (0x10, inlined), 12 (0x20)   starts on 9
/// main.last   0x40..0x50  line 30                                         starts on 29
/// ```
fn table(layout: Layout) -> Vec<u8> {
    let mut t = vec![0u8; 0x1000];
    let (magic, offsets) = match layout {
        Layout::Go116 => (0xffff_fffa, 24),
        Layout::Go118 => (0xffff_fff0, 32),
        Layout::Go120 => (0xffff_fff1, 32),
    };
    put32(&mut t, 0, magic);
    t[6] = 1;
    t[7] = 8;
    put64(&mut t, 8, 2);
    put64(&mut t, 16, 1);
    let (names, units, files, values, functions) = (0x100, 0x180, 0x190, 0x200, 0x300);
    for (i, offset) in [names, units, files, values, functions].iter().enumerate() {
        put64(&mut t, offsets + i * 8, *offset as u64);
    }
    put(&mut t, names, b"\0main.outer\0main.inner\0main.last\0");
    put32(&mut t, units, 0);
    put(&mut t, files, b"/src/main.go\0");
    // Values are -1 plus zigzag changes, each valid for a number of bytes.
    put(&mut t, values + 1, &[2, 0x40, 0]); // file 0
    put(&mut t, values + 8, &[22, 0x10, 22, 0x10, 17, 0x20, 0]); // lines 10, 21, 12
    put(&mut t, values + 16, &[0, 0x10, 2, 0x10, 1, 0x20, 0]); // inline index -1, 0, -1
    put(&mut t, values + 24, &[62, 0x10, 0]); // line 30
    put(&mut t, values + 32, &[2, 0x10, 0]); // file 0
    let (first, second) = (0x80usize, 0x100usize);
    let entries = [(0u64, first), (0x40, second), (0x50, 0)];
    for (i, (entry, record)) in entries.iter().enumerate() {
        if layout == Layout::Go116 {
            put64(&mut t, functions + i * 16, TEXT + entry);
            put64(&mut t, functions + i * 16 + 8, *record as u64);
        } else {
            put32(&mut t, functions + i * 8, *entry as u32);
            put32(&mut t, functions + i * 8 + 4, *record as u32);
        }
    }
    let shift = if layout == Layout::Go116 { 4 } else { 0 };
    for (record, name, file, line, start, inlines) in
        [(first, 1, 1, 8, 9, true), (second, 23, 32, 24, 29, false)]
    {
        let at = functions + record;
        put32(&mut t, at + shift + 4, name);
        put32(&mut t, at + shift + 20, file);
        put32(&mut t, at + shift + 24, line);
        put32(&mut t, at + shift + 28, 3);
        if layout == Layout::Go120 {
            put32(&mut t, at + 36, start);
        }
        let pcdata = at + if layout == Layout::Go118 { 40 } else { 44 };
        if inlines {
            t[pcdata - 1] = 4;
            put32(&mut t, pcdata + 8, 16);
            let funcdata = pcdata + 12;
            if layout == Layout::Go116 {
                let aligned = funcdata + (funcdata & 4);
                put64(&mut t, aligned + 24, TABLE + GOFUNC);
            } else {
                put32(&mut t, funcdata + 12, 0);
            }
        }
    }
    let (name_at, parent_at) = if layout == Layout::Go120 {
        (4, 8)
    } else {
        (12, 16)
    };
    put32(&mut t, GOFUNC as usize + name_at, 12);
    put32(&mut t, GOFUNC as usize + parent_at, 0x0f);
    if layout == Layout::Go120 {
        put32(&mut t, GOFUNC as usize + 12, 20);
    }
    t
}

/// Writable segment: build information, then module data.
fn data(layout: Layout) -> Vec<u8> {
    let mut d = vec![0u8; 0x800];
    put(&mut d, 0, b"\xff Go buildinf:\x08\x02");
    d[32] = 8;
    put(&mut d, 33, b"go1.27.3");
    let list = b"path\tshop\nmod\tshop\t(devel)\n";
    d[41] = 32 + list.len() as u8;
    put(&mut d, 42 + 16, list);
    let at = 0x100;
    put64(&mut d, at, TABLE);
    put64(&mut d, at + 8, TABLE + 0x100);
    put64(&mut d, at + 104, TABLE + 0x300);
    put64(&mut d, at + 176, TEXT);
    put64(&mut d, at + 184, TEXT + 0x50);
    let gofunc = match layout {
        Layout::Go116 => 0,
        Layout::Go118 => 304,
        Layout::Go120 => 344,
    };
    if gofunc != 0 {
        // The offsets of other versions hold something else.
        put64(&mut d, at + 320, TABLE + 0x10);
        put64(&mut d, at + gofunc, TABLE + GOFUNC);
    }
    d
}

fn program(layout: Layout) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64 + 3 * 56, 0);
    put(&mut elf, 16, &[2, 0, 62, 0, 1]); // executable, x86-64
    put64(&mut elf, 32, 64);
    put(&mut elf, 52, &[64, 0, 56, 0, 3, 0, 64, 0]);
    for (i, (address, flags, bytes)) in [
        (TEXT, 5u32, vec![0x90; 0x50]),
        (TABLE, 4, table(layout)),
        (DATA, 6, data(layout)),
    ]
    .into_iter()
    .enumerate()
    {
        let header = 64 + i * 56;
        elf.resize(elf.len().next_multiple_of(0x1000), 0);
        let offset = elf.len() as u64;
        put32(&mut elf, header, 1);
        put32(&mut elf, header + 4, flags);
        put64(&mut elf, header + 8, offset);
        put64(&mut elf, header + 16, address);
        put64(&mut elf, header + 32, bytes.len() as u64);
        put64(&mut elf, header + 40, bytes.len() as u64);
        elf.extend(bytes);
    }
    elf
}

fn parsed(layout: Layout) -> GoBinary {
    GoBinary::parse(Bytes::from(program(layout))).unwrap()
}

#[test]
fn every_layout_gives_function_file_line_and_inlined_calls() {
    for layout in LAYOUTS {
        let go = parsed(layout);
        assert_eq!(go.table().layout, layout);
        assert_eq!(go.info.minor(), Some(27));
        assert_eq!(go.info.main_module, "shop");
        let shown = |address: u64| -> Vec<(String, u32, bool)> {
            go.positions(TEXT + address)
                .into_iter()
                .map(|p| {
                    assert_eq!(p.file.as_deref(), Some("/src/main.go"));
                    (p.function, p.line.unwrap(), p.inlined)
                })
                .collect()
        };
        let outer = "main.outer".to_owned();
        assert_eq!(shown(0x05), [(outer.clone(), 10, false)], "{layout:?}");
        assert_eq!(
            shown(0x18),
            [
                ("main.inner".to_owned(), 21, true),
                (outer.clone(), 10, false)
            ],
            "{layout:?}"
        );
        assert_eq!(shown(0x3f), [(outer, 12, false)]);
        assert_eq!(shown(0x40), [("main.last".to_owned(), 30, false)]);
        assert!(go.positions(TEXT + 0x50).is_empty());
        assert!(go.positions(TEXT - 1).is_empty());
    }
}

#[test]
fn functions_are_found_by_their_whole_name() {
    for layout in LAYOUTS {
        let go = parsed(layout);
        let found = go.functions_named(&["main.last", "main.las", "main.outer"]);
        assert_eq!(found[0].unwrap().entry, TEXT + 0x40);
        assert_eq!(found[1], None);
        assert_eq!(found[2].unwrap().end, TEXT + 0x40);
        assert_eq!(go.code(found[0].unwrap()).unwrap().len(), 0x10);
    }
}

#[test]
fn a_site_knows_its_line_within_the_function() {
    let go = parsed(Layout::Go120);
    let site = go.site(
        &[TEXT + 0x18],
        Some("/app"),
        StackQuality::Complete,
        &crate::runtimes::blame(Vec::new()),
    );
    assert_eq!(site.call_site, Some(0));
    assert_eq!(site.line_in_function, Some(1));
    assert_eq!(site.blamed().unwrap().module.as_deref(), Some("/app"));
}

#[test]
fn rules_of_the_user_reach_the_stacks_of_requests() {
    let go = parsed(Layout::Go120);
    let rule = "[[rule]]\nis = \"dependency\"\nfunction = [\"main.*\"]\n";
    let blame = |rules: &str| crate::runtimes::blame(Rule::parse(rules).unwrap());
    let site = |rules: &str| {
        let addresses = [TEXT + 0x18];
        go.site(&addresses, None, StackQuality::Complete, &blame(rules))
    };
    assert_eq!((site("").own, site("").library), (true, false));
    assert_eq!((site(rule).own, site(rule).library), (false, true));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let refused = |bytes: &[u8]| GoBinary::parse(Bytes::copy_from_slice(bytes)).unwrap_err();
    assert!(matches!(refused(b"#!/bin/sh\n"), GoError::Elf(_)));
    assert!(matches!(refused(b""), GoError::Elf(_)));
    let good = program(Layout::Go120);
    let mut other = good.clone();
    let magic = good
        .windows(10)
        .position(|w| w == b"\xff Go build")
        .unwrap();
    other[magic] = 0;
    assert!(matches!(refused(&other), GoError::NotGo));
    let mut other = good.clone();
    other[0x2000 + 6] = 3; // an impossible instruction size
    assert!(matches!(refused(&other), GoError::NoFunctionTable));
    let mut other = good;
    other[0x3000 + 0x100] ^= 1; // the module data points elsewhere
    assert!(matches!(refused(&other), GoError::NoModuleData));
}

/// The fuzzer begins with this file; TRACER_WRITE_SEEDS=1 writes it anew.
#[test]
fn the_fuzzers_seed_is_a_program() {
    let file = format!("{}/../fuzz/seeds/go/program", env!("CARGO_MANIFEST_DIR"));
    let bytes = program(LAYOUTS[2]);
    if std::env::var_os("TRACER_WRITE_SEEDS").is_some() {
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(
        std::fs::read(&file).unwrap() == bytes,
        "{file} is another program"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Damage gives an error or wrong names, never a panic or an endless loop.
    #[test]
    fn damaged_programs_never_panic(
        layout in 0usize..3,
        damage in proptest::collection::vec((0usize..0x3800, any::<u8>()), 1..40),
        cut in proptest::option::of(0usize..0x3800),
        addresses in proptest::collection::vec(any::<u64>(), 8),
    ) {
        let mut bytes = program(LAYOUTS[layout]);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        if let Ok(go) = GoBinary::parse(Bytes::from(bytes)) {
            for address in addresses.into_iter().chain(TEXT..TEXT + 0x60) {
                let _ = go.frames(address);
            }
            let _ = go.functions_named(&["main.outer"]);
        }
    }

    /// Any number in the table's own words.
    #[test]
    fn hostile_table_words_never_panic(
        layout in 0usize..3,
        words in proptest::collection::vec((0usize..0x400, any::<u32>()), 1..12),
    ) {
        let mut bytes = program(LAYOUTS[layout]);
        for (word, value) in words {
            put32(&mut bytes, 0x2000 + word * 4, value);
        }
        if let Ok(go) = GoBinary::parse(Bytes::from(bytes)) {
            for address in TEXT..TEXT + 0x60 {
                let _ = go.frames(address);
            }
        }
    }
}
