//! An executable as its process sees it: bytes by virtual address, with load-time relocations
//! applied to pointers.

use bytes::Bytes;
use object::{
    Endianness, Object as _, ObjectSection as _,
    elf::{
        PF_W, PF_X, PT_LOAD, R_AARCH64_RELATIVE, R_X86_64_RELATIVE, Rela64, SHF_ALLOC, SHT_RELA,
    },
    read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _},
};

use super::GoError;

/// A loadable segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First virtual address.
    pub address: u64,
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// Bytes in the file (memory beyond them is zero).
    pub file_size: u64,
    /// May be executed.
    pub executable: bool,
    /// May be written.
    pub writable: bool,
}

/// The parts of an ELF executable that Go's tables are read through.
#[derive(Debug, Clone)]
pub struct Image {
    data: Bytes,
    segments: Vec<Segment>,
    sections: Vec<(String, u64, u64)>,
    /// (address, value) of relative relocations, sorted by address.
    relocations: Vec<(u64, u64)>,
    position_independent: bool,
    entry: u64,
}

/// Sections that are looked for by name.
const NAMED: &[&str] = &[
    ".go.buildinfo",
    ".gopclntab",
    ".data.rel.ro.gopclntab",
    ".go.module",
    ".note.go.buildid",
];

impl Image {
    /// Reads the headers of an ELF file.
    ///
    /// # Errors
    /// [`GoError::Elf`] or [`GoError::Width`].
    pub fn parse(data: Bytes) -> Result<Image, GoError> {
        if data.get(..6) != Some(&b"\x7fELF\x02\x01"[..]) {
            return Err(if data.starts_with(b"\x7fELF") {
                GoError::Width
            } else {
                GoError::Elf("no ELF header".to_owned())
            });
        }
        let elf = ElfFile64::<Endianness>::parse(&data[..]).map_err(|e| fault(&e))?;
        let endian = elf.endian();
        let mut segments = Vec::new();
        for header in elf.elf_program_headers() {
            if header.p_type(endian) != PT_LOAD {
                continue;
            }
            let flags = header.p_flags(endian);
            segments.push(Segment {
                address: header.p_vaddr(endian),
                offset: header.p_offset(endian),
                file_size: header.p_filesz(endian),
                executable: flags.contains(PF_X),
                writable: flags.contains(PF_W),
            });
        }
        let sections = elf
            .sections()
            .filter_map(|section| {
                let name = section.name().ok()?;
                NAMED
                    .contains(&name)
                    .then(|| (name.to_owned(), section.address(), section.size()))
            })
            .collect();
        let mut relocations = Vec::new();
        for section in elf.elf_section_table().iter() {
            if section.sh_type(endian) != SHT_RELA || !section.sh_flags(endian).contains(SHF_ALLOC)
            {
                continue;
            }
            let Ok(entries) = section.data_as_array::<Rela64<Endianness>, _>(endian, &data[..])
            else {
                continue;
            };
            relocations.extend(entries.iter().filter_map(|entry| {
                let kind = entry.r_type(endian, false);
                (kind == R_X86_64_RELATIVE || kind == R_AARCH64_RELATIVE)
                    .then(|| (entry.r_offset(endian), entry.r_addend(endian) as u64))
            }));
        }
        relocations.sort_unstable();
        let position_independent = elf.elf_header().e_type(endian) == object::elf::ET_DYN;
        Ok(Image {
            segments,
            sections,
            relocations,
            position_independent,
            entry: elf.elf_header().e_entry(endian),
            data,
        })
    }

    /// The whole file.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.data
    }

    /// `true` for a position-independent executable: addresses are relative to where it is loaded.
    #[must_use]
    pub fn position_independent(&self) -> bool {
        self.position_independent
    }

    /// Address of the first instruction of the process.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The loadable segments, in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// (address, size) of one of Go's sections.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<(u64, u64)> {
        self.sections
            .iter()
            .find(|s| s.0 == name)
            .map(|s| (s.1, s.2))
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

    /// The bytes of a segment that are in the file.
    #[must_use]
    pub fn segment_bytes(&self, segment: &Segment) -> &[u8] {
        self.tail(segment.address).unwrap_or_default()
    }

    /// File offset of a virtual address.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segment_at(address)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// The bytes from `address` to the end of its segment.
    #[must_use]
    pub fn tail(&self, address: u64) -> Option<&[u8]> {
        let segment = self.segment_at(address)?;
        let start = usize::try_from(segment.offset.checked_add(address - segment.address)?).ok()?;
        let end = usize::try_from(segment.offset.checked_add(segment.file_size)?)
            .ok()?
            .min(self.data.len());
        self.data.get(start..end)
    }

    /// `len` bytes at `address`.
    #[must_use]
    pub fn slice(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.tail(address)?.get(..len)
    }

    /// A 32-bit number, as it is in the file.
    #[must_use]
    pub fn u32(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.slice(address, 4)?.try_into().ok()?))
    }

    /// A pointer or 64-bit number, after relocation.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        if let Ok(i) = self.relocations.binary_search_by_key(&address, |r| r.0) {
            return self.relocations.get(i).map(|r| r.1);
        }
        Some(u64::from_le_bytes(self.slice(address, 8)?.try_into().ok()?))
    }

    fn segment_at(&self, address: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|s| address >= s.address && address - s.address < s.file_size)
    }
}

fn fault(error: &object::Error) -> GoError {
    GoError::Elf(error.to_string())
}
