//! Executables of which as much is true as a test wants.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Result;

/// `SHT_SYMTAB`
pub const SYMTAB: u32 = 2;
/// Where the code is: it calls the function in its first argument.
pub const CODE: u64 = 4_096;
/// Where the first section begins.
const FIRST: u64 = 8_192;
/// Bytes that may be executed; programs map no more.
const MAPPED: u64 = 2 << 20;

/// `push rbp; mov rbp, rsp; call rdi; pop rbp; ret`, or the same for AArch64.
const fn code() -> &'static [u8] {
    if cfg!(target_arch = "x86_64") {
        &[0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3]
    } else {
        &[
            0xfd, 0x7b, 0xbf, 0xa9, 0xfd, 0x03, 0x00, 0x91, 0x00, 0x00, 0x3f, 0xd6, 0xfd, 0x7b,
            0xc1, 0xa8, 0xc0, 0x03, 0x5f, 0xd6,
        ]
    }
}

/// A section as its header says it is.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// `SHT_…`
    pub kind: u32,
    /// `SHF_…`
    pub flags: u64,
    /// `sh_link`
    pub link: u32,
    /// What is there.
    pub bytes: Vec<u8>,
    /// Bytes that it says it has, where that is a lie.
    pub claims: Option<u64>,
}

impl Section {
    /// `SHT_PROGBITS` of these bytes.
    #[must_use]
    pub fn new(name: &str, bytes: Vec<u8>) -> Section {
        Section {
            name: name.to_owned(),
            kind: 1,
            flags: 0,
            link: 0,
            bytes,
            claims: None,
        }
    }

    /// The same with these flags.
    #[must_use]
    pub fn flags(mut self, flags: u64) -> Section {
        self.flags = flags;
        self
    }

    /// The same with a kind, and a link to another section.
    #[must_use]
    pub fn kind(mut self, kind: u32, link: u32) -> Section {
        (self.kind, self.link) = (kind, link);
        self
    }

    /// The same, which says that it has so many bytes.
    #[must_use]
    pub fn claims(mut self, bytes: u64) -> Section {
        self.claims = Some(bytes);
        self
    }
}

/// A file in the making.
#[derive(Debug, Clone, Default)]
pub struct Elf {
    /// Segments besides the code's: type, flags, offset, size.
    pub segments: Vec<(u32, u32, u64, u64)>,
    /// Its sections, from number 1 on; the last is the table of their names.
    pub sections: Vec<Section>,
    /// The size of the file, where most of it is a hole.
    pub size: u64,
    /// Its header may be changed before it is written.
    pub header: Vec<(usize, Vec<u8>)>,
}

impl Elf {
    /// A file with these sections.
    #[must_use]
    pub fn of(sections: Vec<Section>) -> Elf {
        Elf {
            sections,
            ..Elf::default()
        }
    }

    /// The same, as long as this.
    #[must_use]
    pub fn sparse(mut self, size: u64) -> Elf {
        self.size = size;
        self
    }

    /// The same with other bytes in its header.
    #[must_use]
    pub fn header(mut self, at: usize, bytes: &[u8]) -> Elf {
        self.header.push((at, bytes.to_vec()));
        self
    }

    /// The same with a segment.
    #[must_use]
    pub fn segment(mut self, kind: u32, flags: u32, offset: u64, size: u64) -> Elf {
        self.segments.push((kind, flags, offset, size));
        self
    }

    /// Where the bytes of each section will be.
    #[must_use]
    pub fn places(&self) -> Vec<u64> {
        let mut at = FIRST;
        let places = self.sections.iter().map(|section| {
            let here = at;
            at = (at + section.bytes.len() as u64).next_multiple_of(16);
            here
        });
        places.collect()
    }

    /// Its bytes up to where the hole begins.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIRST as usize];
        put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
        let machine: u8 = if cfg!(target_arch = "x86_64") {
            62
        } else {
            183
        };
        put(&mut bytes, 16, &[3, 0, machine, 0, 1]);
        put(&mut bytes, CODE as usize, code());
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let places = self.places();
        for (section, &place) in self.sections.iter().zip(&places) {
            let name = names.len() as u32;
            names.extend(section.name.as_bytes());
            names.push(0);
            bytes.resize(place as usize, 0);
            bytes.extend(&section.bytes);
            let size = section.claims.unwrap_or(section.bytes.len() as u64);
            headers.extend(header_of(name, section, place, size));
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let own = Section::new("", Vec::new()).kind(3, 0);
        headers.extend(header_of(0, &own, bytes.len() as u64, names.len() as u64));
        bytes.extend(names);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        if !self.sections.is_empty() {
            let at = bytes.len() as u64;
            put(&mut bytes, 0x28, &at.to_le_bytes());
            put(&mut bytes, 0x3a, &64u16.to_le_bytes());
            let count = self.sections.len() as u16 + 2;
            put(&mut bytes, 0x3c, &count.to_le_bytes());
            put(&mut bytes, 0x3e, &(count - 1).to_le_bytes());
            bytes.extend(headers);
        }
        let own = (1, 5, 0, MAPPED);
        let segments: Vec<u8> = [own]
            .iter()
            .chain(&self.segments)
            .flat_map(segment)
            .collect();
        put(&mut bytes, 0x34, &64u16.to_le_bytes());
        put(&mut bytes, 0x36, &56u16.to_le_bytes());
        let count = self.segments.len() as u16 + 1;
        put(&mut bytes, 0x38, &count.to_le_bytes());
        let at = match segments.len() <= CODE as usize - 64 {
            true => 64,
            false => bytes.len(),
        };
        put(&mut bytes, 0x20, &(at as u64).to_le_bytes());
        put(&mut bytes, at, &segments);
        for (at, changed) in &self.header {
            put(&mut bytes, *at, changed);
        }
        bytes
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        let bytes = self.bytes();
        let size = self.size.max(bytes.len() as u64).max(2 * FIRST);
        fs::write(path, bytes)?;
        File::options().write(true).open(path)?.set_len(size)?;
        Ok(path.to_owned())
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, value: &[u8]) {
    if bytes.len() < at + value.len() {
        bytes.resize(at + value.len(), 0);
    }
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn header_of(name: u32, section: &Section, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(name.to_le_bytes());
    bytes.extend(section.kind.to_le_bytes());
    for word in [section.flags, offset, offset, size] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(section.link.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(8u64.to_le_bytes());
    bytes.extend(24u64.to_le_bytes());
    bytes
}

fn segment(&(kind, flags, offset, size): &(u32, u32, u64, u64)) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    for word in [offset, offset, offset, size, size, 4_096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// A symbol table and its names, as sections 1 and 2: each at this address with this size. The address
/// of a section's first byte is where [`Elf::places`] says that it is.
#[must_use]
pub fn symbols(kind: u32, all: &[(&str, u64, u64)]) -> [Section; 2] {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (name, address, size) in all {
        table.extend((names.len() as u32).to_le_bytes());
        // a global function in section 1
        table.extend([0x12, 0, 1, 0]);
        table.extend(address.to_le_bytes());
        table.extend(size.to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    [
        Section::new(".symtab", table).kind(kind, 2),
        Section::new(".strtab", names).kind(3, 0),
    ]
}
