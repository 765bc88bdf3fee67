//! One executable file, pinned: its descriptor stays open and its contents mapped, so that what
//! happens to the name (replaced, deleted, another mount namespace) does not matter any more.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use memmap2::Mmap;
use object::{
    LittleEndian,
    elf::{FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB},
    read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym},
};

use crate::unwind::cfi::FrameIndex;

/// What identifies the contents of a file: another file, or the same one written again, has
/// another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl ImageKey {
    /// The key of an open file.
    ///
    /// # Errors
    /// Whatever `fstat` says.
    pub fn of(file: &File) -> io::Result<ImageKey> {
        let meta = file.metadata()?;
        Ok(ImageKey {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        })
    }

    /// A key for bytes that are in no file, such as the vdso's; `number` tells them apart.
    #[must_use]
    pub const fn for_memory(number: u64, size: u64) -> ImageKey {
        ImageKey {
            device: u64::MAX,
            inode: number,
            size,
            modified_ns: 0,
        }
    }
}

/// A loadable segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    executable: bool,
}

/// A section's or segment's place: address as linked, and bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Virtual address as linked.
    pub address: u64,
    /// Bytes in the file.
    pub bytes: Range<usize>,
}

enum Contents {
    File(File, Mmap),
    Memory(Vec<u8>),
}

/// A pinned ELF file (x86-64).
pub struct Image {
    key: ImageKey,
    serial: u64,
    contents: Contents,
    segments: Vec<Segment>,
    sections: Vec<(String, Part)>,
    eh_frame_hdr: Option<Part>,
    build_id: Option<Vec<u8>>,
    /// Frame descriptions sorted by address, built when the file has no such table itself.
    pub(crate) index: OnceLock<FrameIndex>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Maps an open file and finds its parts; `None` when it is no 64-bit little-endian ELF file.
    #[must_use]
    pub fn open(file: File) -> Option<Image> {
        let key = ImageKey::of(&file).ok()?;
        // SAFETY: the mapping is private and only read. The file may be changed by others while
        // it is mapped; every read goes through bounds-checked parsers that accept any bytes, and
        // no reference to parsed values outlives the call that made it.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        Image::parse(key, Contents::File(file, map))
    }

    /// The same for bytes copied from memory.
    #[must_use]
    pub fn from_memory(key: ImageKey, bytes: Vec<u8>) -> Option<Image> {
        Image::parse(key, Contents::Memory(bytes))
    }

    fn parse(key: ImageKey, contents: Contents) -> Option<Image> {
        let data: &[u8] = match &contents {
            Contents::File(_, map) => map,
            Contents::Memory(bytes) => bytes,
        };
        let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let mut segments = Vec::new();
        let mut eh_frame_hdr = None;
        for p in header.program_headers(endian, data).ok()? {
            let (offset, file_size) = p.file_range(endian);
            let address = p.p_vaddr(endian);
            match p.p_type(endian) {
                PT_LOAD => segments.push(Segment {
                    offset,
                    address,
                    file_size,
                    executable: p.p_flags(endian).0 & PF_X.0 != 0,
                }),
                PT_GNU_EH_FRAME => eh_frame_hdr = part(data, address, offset, file_size),
                _ => {}
            }
        }
        let mut sections = Vec::new();
        if let Ok(table) = header.sections(endian, data) {
            for s in table.iter() {
                let name = table.section_name(endian, s).unwrap_or_default();
                if let Some((offset, size)) = s.file_range(endian)
                    && let Some(part) = part(data, s.sh_addr(endian), offset, size)
                {
                    sections.push((String::from_utf8_lossy(name).into_owned(), part));
                }
            }
        }
        let build_id = header
            .program_headers(endian, data)
            .ok()?
            .iter()
            .filter_map(|p| p.notes(endian, data).ok().flatten())
            .find_map(|mut notes| {
                while let Ok(Some(note)) = notes.next() {
                    if note.n_type(endian) == object::elf::NT_GNU_BUILD_ID
                        && note.name() == object::elf::ELF_NOTE_GNU
                    {
                        return Some(note.desc());
                    }
                }
                None
            });
        let build_id = build_id.map(<[u8]>::to_vec);
        // Only has to be unique; nothing is ordered by it.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Some(Image {
            key,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            segments,
            sections,
            eh_frame_hdr,
            build_id,
            index: OnceLock::new(),
            contents,
        })
    }

    /// What identifies the contents.
    #[must_use]
    pub const fn key(&self) -> ImageKey {
        self.key
    }

    /// A number no other image of this process has: a shorter key for caches.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The descriptor that pins it; `None` for bytes copied from memory.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        match &self.contents {
            Contents::File(file, _) => Some(file.as_raw_fd()),
            Contents::Memory(_) => None,
        }
    }

    /// The GNU build id.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// A section by name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Part> {
        self.sections
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, part)| part)
    }

    /// The search table over the frame descriptions.
    #[must_use]
    pub fn eh_frame_hdr(&self) -> Option<&Part> {
        self.eh_frame_hdr
            .as_ref()
            .or_else(|| self.section(".eh_frame_hdr"))
    }

    /// Address (as linked) and size of symbols by name, from the dynamic symbol table, else the
    /// full one.
    #[must_use]
    pub fn symbols(&self, names: &[&str]) -> Vec<Option<(u64, u64)>> {
        let mut found = vec![None; names.len()];
        let Ok(header) = FileHeader64::<LittleEndian>::parse(&**self) else {
            return found;
        };
        let Ok(sections) = header.sections(LittleEndian, &**self) else {
            return found;
        };
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let Ok(table) = sections.symbols(LittleEndian, &**self, kind) else {
                continue;
            };
            for symbol in table.iter() {
                let Ok(name) = symbol.name(LittleEndian, table.strings()) else {
                    continue;
                };
                if let Some(at) = names.iter().position(|n| n.as_bytes() == name)
                    && found[at].is_none()
                    && symbol.st_value(LittleEndian) != 0
                {
                    found[at] = Some((symbol.st_value(LittleEndian), symbol.st_size(LittleEndian)));
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }

    /// Bytes of a part.
    #[must_use]
    pub fn bytes(&self, part: &Part) -> &[u8] {
        self.get(part.bytes.clone()).unwrap_or_default()
    }

    /// What to subtract from an address in a mapping that starts at `start` and shows the file
    /// from `offset`, to get the address as linked: known from the segment that holds `offset`,
    /// the executable one if several do.
    #[must_use]
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let holds = |s: &&Segment| {
            offset >= (s.offset & !0xfff) && offset < s.offset.saturating_add(s.file_size)
        };
        let s = self
            .segments
            .iter()
            .filter(|s| s.executable)
            .find(holds)
            .or_else(|| self.segments.iter().find(holds))?;
        Some(start.wrapping_sub(offset.wrapping_sub(s.offset).wrapping_add(s.address)))
    }

    /// `len` bytes of the file that end where `address` (as linked) begins.
    #[must_use]
    pub fn code_before(&self, address: u64, len: usize) -> Option<&[u8]> {
        let s = self
            .segments
            .iter()
            .find(|s| address >= s.address && address - s.address <= s.file_size)?;
        let end = usize::try_from(s.offset.checked_add(address - s.address)?).ok()?;
        self.get(end.checked_sub(len)?..end)
    }

    /// The part that begins at `address` (as linked) and reaches to the end of its segment: how a
    /// section is found in a file whose section table was stripped.
    #[must_use]
    pub fn part_at(&self, address: u64) -> Option<Part> {
        let s = self
            .segments
            .iter()
            .find(|s| address >= s.address && address - s.address < s.file_size)?;
        let skip = address - s.address;
        part(
            self,
            address,
            s.offset.checked_add(skip)?,
            s.file_size - skip,
        )
    }
}

/// The whole file.
impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.contents {
            Contents::File(_, map) => map,
            Contents::Memory(bytes) => bytes,
        }
    }
}

fn part(data: &[u8], address: u64, offset: u64, size: u64) -> Option<Part> {
    let start = usize::try_from(offset).ok()?;
    let end = start
        .checked_add(usize::try_from(size).ok()?)?
        .min(data.len());
    (start < end).then_some(Part {
        address,
        bytes: start..end,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::fs::File;

    use proptest::prelude::{any, proptest};

    use super::{Image, ImageKey};

    #[test]
    fn the_test_binary_is_understood() {
        let image = Image::open(File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(image.section(".text").is_some());
        assert!(image.eh_frame_hdr().is_some());
        assert!(image.build_id().is_some_and(|id| id.len() >= 8));
        assert_eq!(
            image.key(),
            ImageKey::of(&File::open("/proc/self/exe").unwrap()).unwrap()
        );
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(Image::open(File::open("/proc/self/maps").unwrap()).is_none());
        assert!(Image::from_memory(ImageKey::for_memory(0, 3), vec![1, 2, 3]).is_none());
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_survived(cuts in proptest::collection::vec((0usize..4096, any::<u8>()), 0..64), keep in 0usize..20_000) {
            let mut bytes = std::fs::read("/proc/self/exe").unwrap();
            bytes.truncate(keep);
            for (at, value) in cuts {
                if let Some(b) = bytes.get_mut(at) { *b = value; }
            }
            if let Some(image) = Image::from_memory(ImageKey::for_memory(1, 0), bytes) {
                let _ = (image.bias(0x1000, 0x1000), image.eh_frame_hdr().map(|p| image.bytes(p).len()), image.code_before(0x2000, 8));
            }
        }
    }
}
