//! An executable as its process sees it: bytes by virtual address, with load-time relocations
//! applied to pointers.

use std::sync::Arc;

use bytes::Bytes;
use object::{
    LittleEndian,
    elf::{R_AARCH64_RELATIVE, R_X86_64_RELATIVE, Rela64, SHF_ALLOC, SHT_RELA},
};

use super::{Image, Segment, image::array};
use crate::refused::Refusal;

/// Relative relocations that are read of one file; the largest position-independent Go programs
/// have a third of it.
const RELOCATIONS_MAX: usize = 2 << 20;
/// Bytes read at a time.
const BLOCK: u64 = 1 << 20;

/// A file and its relative relocations.
#[derive(Debug, Clone)]
pub struct Loaded {
    image: Arc<Image>,
    /// (address, value), sorted by address.
    relocations: Vec<(u64, u64)>,
}

impl Loaded {
    /// Reads the relocations of a file. Of too many, none: pointers are then what they are in the
    /// file.
    #[must_use]
    pub fn new(image: Arc<Image>) -> Loaded {
        let mut relocations = read(&image).unwrap_or_default();
        relocations.sort_unstable();
        Loaded { image, relocations }
    }

    /// The file.
    #[must_use]
    pub const fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// `true` for a position-independent executable: addresses are relative to where it is loaded.
    #[must_use]
    pub fn position_independent(&self) -> bool {
        self.image.position_independent()
    }

    /// Address of the first instruction of the process.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.image.entry()
    }

    /// The loadable segments, in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.image.segments()
    }

    /// Address of a section.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<u64> {
        self.image.section(name).map(|part| part.address)
    }

    /// (address, value) of every relative relocation, sorted by address.
    #[must_use]
    pub fn relocations(&self) -> &[(u64, u64)] {
        &self.relocations
    }

    /// Forgets relocations outside of `keep`, which are many in large programs.
    pub(crate) fn retain_relocations(&mut self, keep: impl Fn(u64) -> bool) {
        self.relocations.retain(|r| keep(r.0));
        self.relocations.shrink_to_fit();
    }

    /// File offset of a virtual address.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.image.file_offset(address)
    }

    /// `len` bytes at `address`.
    #[must_use]
    pub fn slice(&self, address: u64, len: usize) -> Option<Bytes> {
        self.image.slice(address, len)
    }

    /// Up to `most` bytes from `address`, fewer where its segment ends.
    #[must_use]
    pub fn up_to(&self, address: u64, most: usize) -> Option<Bytes> {
        self.image.up_to(address, most)
    }

    /// A 32-bit number, as it is in the file.
    #[must_use]
    pub fn u32(&self, address: u64) -> Option<u32> {
        let bytes = self.slice(address, 4)?;
        Some(u32::from_le_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// A pointer or 64-bit number, after relocation.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        if let Ok(i) = self.relocations.binary_search_by_key(&address, |r| r.0) {
            return self.relocations.get(i).map(|r| r.1);
        }
        let bytes = self.slice(address, 8)?;
        Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// The bytes of a segment in blocks that begin at multiples of 64 KiB from its start, each with
    /// its address; at most `most` bytes of it.
    pub(crate) fn blocks(
        &self,
        segment: &Segment,
        most: u64,
    ) -> impl Iterator<Item = (u64, Bytes)> {
        const STEP: usize = 64 << 10;
        let (start, end) = (segment.address, segment.file_size.min(most));
        (0..end).step_by(STEP).map_while(move |at| {
            let address = start.checked_add(at)?;
            Some((address, self.up_to(address, STEP)?))
        })
    }
}

fn read(image: &Image) -> Option<Vec<(u64, u64)>> {
    let mut relocations = Vec::new();
    let tables = image
        .sections()
        .iter()
        .filter(|s| s.kind == SHT_RELA.0 && s.flags & SHF_ALLOC.0 != 0);
    let mut before = 0u64;
    for table in tables {
        // All tables together: those that overlap would be read again and again.
        let entry = size_of::<Rela64<LittleEndian>>() as u64;
        before = before.checked_add(table.part.len())?;
        if before > RELOCATIONS_MAX as u64 * entry {
            Refusal::Relocations.count();
            return None;
        }
        let step = BLOCK - BLOCK % entry;
        for at in (table.part.bytes.clone()).step_by(usize::try_from(step).ok()?) {
            let len = step.min(table.part.bytes.end - at);
            let bytes = image.contents().read(at, usize::try_from(len).ok()?)?;
            for entry in array::<Rela64<LittleEndian>>(&bytes) {
                let kind = entry.r_type(LittleEndian, false);
                if kind == R_X86_64_RELATIVE || kind == R_AARCH64_RELATIVE {
                    if relocations.len() >= RELOCATIONS_MAX {
                        Refusal::Relocations.count();
                        return None;
                    }
                    let value = entry.r_addend.get(LittleEndian) as u64;
                    relocations.push((entry.r_offset.get(LittleEndian), value));
                }
            }
        }
    }
    Some(relocations)
}
