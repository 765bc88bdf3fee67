//! Sound files, damaged ones, and files made to cost us memory or time.
#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::{any, proptest};

use super::{DebugInfo, ElfError, Image, ImageKey, Loaded};

fn own_bytes(len: usize) -> Vec<u8> {
    let file = File::open("/proc/self/exe").unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A header without anything behind it: (offset, count) of program headers, then of sections.
fn header(segments: (u64, u16), sections: (u64, u16), names: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 0x20, &segments.0.to_le_bytes());
    put(&mut bytes, 0x28, &sections.0.to_le_bytes());
    put(&mut bytes, 0x36, &56u16.to_le_bytes());
    put(&mut bytes, 0x38, &segments.1.to_le_bytes());
    put(&mut bytes, 0x3a, &64u16.to_le_bytes());
    put(&mut bytes, 0x3c, &sections.1.to_le_bytes());
    put(&mut bytes, 0x3e, &names.to_le_bytes());
    bytes
}

fn section(name: u32, kind: u32, flags: u64, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, &name.to_le_bytes());
    put(&mut bytes, 4, &kind.to_le_bytes());
    put(&mut bytes, 8, &flags.to_le_bytes());
    put(&mut bytes, 0x18, &offset.to_le_bytes());
    put(&mut bytes, 0x20, &size.to_le_bytes());
    bytes
}

fn in_memory(bytes: Vec<u8>) -> Result<Image, ElfError> {
    Image::from_memory(ImageKey::for_memory(1, 0), bytes)
}

#[test]
fn the_test_binary_is_understood() {
    let file = File::open("/proc/self/exe").unwrap();
    let key = ImageKey::of(&file).unwrap();
    let image = Image::open(file).unwrap();
    assert!(image.section(".text").is_some());
    assert!(image.eh_frame_hdr().is_some());
    assert!(image.build_id().is_some_and(|id| id.len() >= 8));
    assert_eq!(image.key(), key);
    assert_ne!(image.debug_info(), DebugInfo::None);
    let frames = image.section(".eh_frame").unwrap().clone();
    assert_eq!(image.held(&frames).unwrap().len() as u64, frames.len());
    assert_eq!(image.held(&frames).unwrap(), image.bytes(&frames).unwrap());
    let loaded = Loaded::new(Arc::new(image));
    assert!(!loaded.relocations().is_empty());
    assert!(loaded.slice(loaded.entry(), 16).is_some());
}

#[test]
fn what_is_no_elf_file_is_refused() {
    let maps = File::open("/proc/self/maps").unwrap();
    assert!(matches!(Image::open(maps), Err(ElfError::NotElf)));
    assert!(matches!(in_memory(vec![1, 2, 3]), Err(ElfError::NotElf)));
    let mut other = header((0, 0), (0, 0), 0);
    other[4] = 1;
    assert!(matches!(in_memory(other), Err(ElfError::Width)));
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("library");
    std::fs::copy("/proc/self/exe", &path).unwrap();
    let image = Image::open(File::open(&path).unwrap()).unwrap();
    let frames = image.section(".eh_frame").unwrap().clone();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert_eq!(image.held(&frames), None);
    assert_eq!(image.symbols(&["main"]), [None]);
    let _ = image.slice(image.entry(), 64);
    let _ = (image.debug_info(), Loaded::new(Arc::new(image)));
}

#[test]
fn too_many_segments_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let mut file = File::create(&path).unwrap();
    file.write_all(&header((64, u16::MAX), (0, 0), 0)).unwrap();
    file.set_len(8 << 30).unwrap();
    let refused = Image::open(File::open(&path).unwrap())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("segments are 65535"), "{refused}");
}

/// Thousands of sections that share a name, and one that is a file's length: neither memory nor
/// time follows what the headers claim.
#[test]
fn what_headers_claim_is_not_paid_for() {
    let began = Instant::now();
    let mut bytes = header((0, 0), (64, 4_000), 1);
    for number in 0..4_000u64 {
        bytes.extend(match number {
            1 => section(0, 3, 0, 1 << 20, 1 << 20),
            // relocations, all the same 4 GiB
            _ => section(1, 4, 2, 0, 4 << 30),
        });
    }
    bytes.resize(1 << 20, 0);
    bytes.resize(2 << 20, b'n');
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    std::fs::write(&path, &bytes).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4 << 30)
        .unwrap();
    let image = Image::open(File::open(&path).unwrap()).unwrap();
    assert_eq!(image.sections().len(), 4_000 - 1 + 1);
    assert!(image.sections().iter().all(|s| s.name.len() <= 256));
    let huge = image.sections()[0].part.clone();
    assert_eq!(image.bytes(&huge), None);
    assert_eq!(image.held(&huge), None);
    let loaded = Loaded::new(Arc::new(image));
    assert!(loaded.relocations().is_empty());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_build_id_as_large_as_the_file_is_none() {
    let mut bytes = header((64, 1), (0, 0), 0);
    let mut note = vec![0; 56];
    put(&mut note, 0, &4u32.to_le_bytes());
    put(&mut note, 8, &120u64.to_le_bytes());
    put(&mut note, 32, &(4u64 << 30).to_le_bytes());
    bytes.extend(note);
    for word in [4u32, 0xffff_fff0, 3] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"GNU\0");
    bytes.resize(1 << 20, 7);
    assert_eq!(in_memory(bytes.clone()).unwrap().build_id(), None);
    put(&mut bytes, 124, &65u32.to_le_bytes());
    assert_eq!(in_memory(bytes.clone()).unwrap().build_id(), None);
    put(&mut bytes, 124, &20u32.to_le_bytes());
    assert_eq!(in_memory(bytes).unwrap().build_id(), Some(&[7; 20][..]));
}

#[test]
fn a_forged_compression_header_is_seen_before_anybody_unpacks() {
    let mut bytes = header((0, 0), (64, 2), 1);
    bytes.extend(section(1, 1, 0x800, 400, 48));
    bytes.extend(section(0, 3, 0, 300, 20));
    bytes.resize(1024, 0);
    put(&mut bytes, 300, b"\0.debug_info\0");
    put(&mut bytes, 400, &1u32.to_le_bytes());
    put(&mut bytes, 408, &(1u64 << 62).to_le_bytes());
    let refused = in_memory(bytes.clone()).unwrap().debug_info();
    assert!(
        matches!(&refused, DebugInfo::Refused(_, why) if why.contains(".debug_info")),
        "{refused:?}"
    );
    put(&mut bytes, 408, &4096u64.to_le_bytes());
    assert_eq!(
        in_memory(bytes.clone()).unwrap().debug_info(),
        DebugInfo::Sound
    );
    put(&mut bytes, 400, &9u32.to_le_bytes());
    assert!(matches!(
        in_memory(bytes).unwrap().debug_info(),
        DebugInfo::Refused(..)
    ));
}

proptest! {
    #[test]
    fn a_damaged_file_is_survived(cuts in proptest::collection::vec((0usize..4096, any::<u8>()), 0..64), keep in 0usize..20_000) {
        let mut bytes = own_bytes(keep);
        for (at, value) in cuts {
            if let Some(b) = bytes.get_mut(at) { *b = value; }
        }
        if let Ok(image) = in_memory(bytes) {
            let _ = (image.bias(0x1000, 0x1000), image.eh_frame_hdr().map(|p| image.bytes(p)), image.code_before(0x2000, 8));
            let _ = (image.symbols(&["main"]), image.debug_info());
            let _ = Loaded::new(Arc::new(image)).word(0x1000);
        }
    }

    #[test]
    fn any_section_table_is_survived(fields in proptest::collection::vec((any::<u32>(), 0u32..20, any::<u64>(), any::<u64>(), 0u64..5000), 0..24), names in any::<u16>()) {
        let mut bytes = header((0, 0), (64, fields.len() as u16), names % 32);
        for (name, kind, flags, offset, size) in fields {
            bytes.extend(section(name % 100, kind, flags, offset % 4096, size));
        }
        bytes.resize(4096, 1);
        if let Ok(image) = in_memory(bytes) {
            let _ = (image.symbols(&["main"]), image.debug_info());
            let _ = Loaded::new(Arc::new(image)).word(0x1000);
        }
    }
}
