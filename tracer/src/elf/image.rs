//! One executable file, pinned: its descriptor stays open, so that what happens to the name
//! (replaced, deleted, another mount namespace) does not matter any more.

use std::{
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use object::{
    LittleEndian, U32,
    elf::{
        ELFCLASS64, ELFDATA2LSB, ELFMAG, ET_DYN, FileHeader64, NT_GNU_BUILD_ID, PF_W, PF_X,
        PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, ProgramHeader64, SHT_NOBITS, SectionHeader64,
    },
    pod,
};

use super::{Contents, ElfError, frame_index::FrameIndex};
use crate::refused::Refusal;

/// Program headers of the largest programs are some dozens.
const SEGMENTS_MAX: u64 = 512;
/// Sections of a linked program; object files may have more and are never mapped as code.
const SECTIONS_MAX: u64 = 4_096;
/// Longest name of a section.
const SECTION_NAME_MAX: usize = 256;
/// Largest table of section names.
const NAMES_MAX: u64 = 1 << 20;
/// Longest build id; linkers write 8 to 32 bytes.
const BUILD_ID_MAX: usize = 64;
/// Bytes of one note segment that are looked at for the build id.
const NOTES_MAX: u64 = 64 << 10;
/// Frame descriptions held of all files together.
const HELD_MAX: usize = 96 << 20;
/// Parts of one file that are held: search table, frames, and frames for debuggers.
const HELD_PARTS: usize = 3;

static HELD: AtomicUsize = AtomicUsize::new(0);
static HELD_REFUSED: AtomicU64 = AtomicU64::new(0);

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
        Ok(ImageKey::of_metadata(&file.metadata()?))
    }

    /// The same, from what `fstat` said.
    #[must_use]
    pub fn of_metadata(meta: &std::fs::Metadata) -> ImageKey {
        ImageKey {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
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
pub struct Segment {
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// First virtual address, as linked.
    pub address: u64,
    /// Bytes in the file (memory beyond them is zero).
    pub file_size: u64,
    /// May be executed.
    pub executable: bool,
    /// May be written.
    pub writable: bool,
}

/// A section's or segment's place: address as linked, and bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Virtual address as linked.
    pub address: u64,
    /// Offsets in the file.
    pub bytes: Range<u64>,
}

impl Part {
    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// It has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.end == self.bytes.start
    }
}

/// A section that has bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name; empty where the table of names does not hold it.
    pub name: String,
    /// `SHT_…`
    pub kind: u32,
    /// `SHF_…`
    pub flags: u64,
    /// `sh_link`: for symbols, the number of their table of names.
    pub link: u32,
    /// Its number in the section table.
    pub number: u32,
    /// Where it is.
    pub part: Part,
}

/// Names of symbols, and where they are.
pub(super) type LookedFor = (Box<[Box<str>]>, Vec<Option<(u64, u64)>>);

/// A pinned ELF file (64-bit, little-endian).
pub struct Image {
    key: ImageKey,
    serial: u64,
    contents: Contents,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    eh_frame_hdr: Option<Part>,
    build_id: Option<Vec<u8>>,
    entry: u64,
    position_independent: bool,
    held: [OnceLock<Held>; HELD_PARTS],
    /// Symbols that were looked for, by their names.
    pub(super) looked_for: Mutex<Vec<LookedFor>>,
    /// Frame descriptions sorted by address, built when the file has no such table itself.
    pub(crate) index: OnceLock<FrameIndex>,
}

/// Bytes of a part; `None` where they can't be read or there is no room for them.
#[derive(Debug)]
struct Held {
    part: Range<u64>,
    bytes: Option<Bytes>,
}

impl Drop for Image {
    fn drop(&mut self) {
        let bytes = self.held.iter().filter_map(OnceLock::get);
        let freed: usize = bytes.filter_map(|h| h.bytes.as_ref()).map(Bytes::len).sum();
        HELD.fetch_sub(freed, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

impl Image {
    /// Reads the headers of an open file.
    ///
    /// # Errors
    /// [`ElfError`]: what it is not, or has too much of.
    pub fn open(file: File) -> Result<Image, ElfError> {
        let key = ImageKey::of(&file)?;
        Image::read(key, Contents::of(file)?)
    }

    /// The same for bytes copied from memory.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_memory(key: ImageKey, bytes: impl Into<Bytes>) -> Result<Image, ElfError> {
        Image::read(key, Contents::of_memory(bytes.into()))
    }

    fn read(key: ImageKey, contents: Contents) -> Result<Image, ElfError> {
        let bytes = contents
            .read(0, size_of::<Header>())
            .ok_or(ElfError::NotElf)?;
        let header: &Header = pod::from_bytes(&bytes).map_err(|()| ElfError::NotElf)?.0;
        if header.e_ident.magic != ELFMAG {
            return Err(ElfError::NotElf);
        }
        if header.e_ident.class != ELFCLASS64 || header.e_ident.data != ELFDATA2LSB {
            return Err(ElfError::Width);
        }
        let table = Table {
            what: "segments",
            at: header.e_phoff.get(LE),
            entry: u64::from(header.e_phentsize.get(LE)),
            count: u64::from(header.e_phnum.get(LE)),
            most: SEGMENTS_MAX,
        };
        let mut segments = Vec::new();
        let mut eh_frame_hdr = None;
        let mut build_id = None;
        let headers = table.read(&contents, size_of::<ProgramHeader64<LittleEndian>>())?;
        for p in array::<ProgramHeader64<LittleEndian>>(&headers) {
            let (offset, file_size) = (p.p_offset.get(LE), p.p_filesz.get(LE));
            let address = p.p_vaddr.get(LE);
            let flags = p.p_flags.get(LE);
            match p.p_type.get(LE) {
                PT_LOAD => segments.push(Segment {
                    offset,
                    address,
                    file_size,
                    executable: flags.contains(PF_X),
                    writable: flags.contains(PF_W),
                }),
                PT_GNU_EH_FRAME => {
                    eh_frame_hdr = part(contents.len(), address, offset, file_size);
                }
                PT_NOTE if build_id.is_none() => {
                    build_id = part(contents.len(), address, offset, file_size)
                        .and_then(|notes| build_id_in(&contents, &notes));
                }
                _ => {}
            }
        }
        // A section table is for debuggers: a program runs without, and is read without.
        let sections = sections(&contents, header).unwrap_or_else(|error| {
            match error {
                ElfError::TooMuch { .. } => Refusal::Sections.count(),
                _ => Refusal::SectionsCutOff.count(),
            }
            Vec::new()
        });
        // Only has to be unique; nothing is ordered by it.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Ok(Image {
            key,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            segments,
            sections,
            eh_frame_hdr,
            build_id,
            entry: header.e_entry.get(LE),
            position_independent: header.e_type.get(LE) == ET_DYN,
            held: Default::default(),
            looked_for: Mutex::default(),
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

    /// Its bytes.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The file that is pinned; `None` for bytes copied from memory.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.contents.file()
    }

    /// The descriptor that pins it; `None` for bytes copied from memory.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        self.file().map(|file| file.as_raw_fd())
    }

    /// The GNU build id, at most 64 bytes.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// `true` for a position-independent file: addresses are relative to where it is loaded.
    #[must_use]
    pub const fn position_independent(&self) -> bool {
        self.position_independent
    }

    /// Address of the first instruction of the process, as linked.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The loadable segments, in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The sections that have bytes in the file, in the table's order.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where the section of this name is.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Part> {
        self.sections
            .iter()
            .find(|section| section.name == name)
            .map(|section| &section.part)
    }

    /// The search table over the frame descriptions.
    #[must_use]
    pub fn eh_frame_hdr(&self) -> Option<&Part> {
        self.eh_frame_hdr
            .as_ref()
            .or_else(|| self.section(".eh_frame_hdr"))
    }

    /// Bytes of a part, read now; `None` where there are too many or the file has become shorter.
    #[must_use]
    pub fn bytes(&self, part: &Part) -> Option<Bytes> {
        self.contents
            .read(part.bytes.start, usize::try_from(part.len()).ok()?)
    }

    /// Bytes of one of the parts that tell how to unwind, read once and held as long as the file is
    /// pinned.
    pub(crate) fn held(&self, part: &Part) -> Option<&[u8]> {
        for place in &self.held {
            let held = place.get_or_init(|| Held {
                part: part.bytes.clone(),
                bytes: self.hold(part),
            });
            if held.part == part.bytes {
                return held.bytes.as_deref();
            }
        }
        None
    }

    fn hold(&self, part: &Part) -> Option<Bytes> {
        let len = usize::try_from(part.len()).ok()?;
        if HELD.fetch_add(len, Ordering::Relaxed) + len > HELD_MAX {
            HELD.fetch_sub(len, Ordering::Relaxed);
            HELD_REFUSED.fetch_add(1, Ordering::Relaxed);
            Refusal::FrameTableRoom.count();
            return None;
        }
        let bytes = self.bytes(part);
        if bytes.is_none() {
            HELD.fetch_sub(len, Ordering::Relaxed);
            Refusal::FrameTable.count();
        }
        bytes
    }

    /// How often frame descriptions were not read, because there are too many of all files
    /// together.
    #[must_use]
    pub fn frames_refused() -> u64 {
        HELD_REFUSED.load(Ordering::Relaxed)
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
    pub fn code_before(&self, address: u64, len: usize) -> Option<Bytes> {
        let s = self
            .segments
            .iter()
            .find(|s| address >= s.address && address - s.address <= s.file_size)?;
        let end = s.offset.checked_add(address - s.address)?;
        self.contents.read(end.checked_sub(len as u64)?, len)
    }

    /// The part that begins at `address` (as linked) and reaches to the end of its segment: how a
    /// section is found in a file whose section table was stripped.
    #[must_use]
    pub fn part_at(&self, address: u64) -> Option<Part> {
        let s = self.segment_at(address)?;
        let skip = address - s.address;
        let offset = s.offset.checked_add(skip)?;
        part(self.contents.len(), address, offset, s.file_size - skip)
    }

    /// File offset of an address as linked.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let s = self.segment_at(address)?;
        s.offset.checked_add(address - s.address)
    }

    /// `len` bytes at an address as linked, all in one segment.
    #[must_use]
    pub fn slice(&self, address: u64, len: usize) -> Option<Bytes> {
        let part = self.part_at(address)?;
        (len as u64 <= part.len()).then(|| self.contents.read(part.bytes.start, len))?
    }

    /// Up to `most` bytes from an address as linked, fewer where its segment ends.
    #[must_use]
    pub fn up_to(&self, address: u64, most: usize) -> Option<Bytes> {
        let part = self.part_at(address)?;
        let len = part.len().min(most as u64);
        self.contents
            .read(part.bytes.start, usize::try_from(len).ok()?)
    }

    fn segment_at(&self, address: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|s| address >= s.address && address - s.address < s.file_size)
    }
}

/// A table of the file's headers.
struct Table {
    what: &'static str,
    at: u64,
    /// Size of an entry as the file says.
    entry: u64,
    count: u64,
    most: u64,
}

impl Table {
    fn read(&self, contents: &Contents, entry: usize) -> Result<Bytes, ElfError> {
        if self.count > self.most {
            return Err(ElfError::TooMuch {
                what: self.what,
                found: self.count,
                most: self.most,
            });
        }
        if self.count == 0 {
            return Ok(Bytes::new());
        }
        // Entries of another size are of a format that does not exist.
        let fits = self.entry == entry as u64;
        let len = self.count as usize * entry;
        fits.then(|| contents.read(self.at, len))
            .flatten()
            .ok_or(ElfError::CutOff(self.what))
    }
}

/// The whole entries in `bytes`.
pub(super) fn array<T: pod::Pod>(bytes: &[u8]) -> &[T] {
    let count = bytes.len() / size_of::<T>().max(1);
    pod::slice_from_bytes(bytes, count).map_or(&[], |(entries, _)| entries)
}

fn sections(contents: &Contents, header: &Header) -> Result<Vec<Section>, ElfError> {
    type Entry = SectionHeader64<LittleEndian>;
    let mut table = Table {
        what: "sections",
        at: header.e_shoff.get(LE),
        entry: u64::from(header.e_shentsize.get(LE)),
        count: u64::from(header.e_shnum.get(LE)),
        most: SECTIONS_MAX,
    };
    if table.at == 0 {
        return Ok(Vec::new());
    }
    if table.count == 0 {
        // Too many for the header's 16 bits: the count is in the first entry (System V ABI, chapter
        // 4), which is more than is read.
        table.count = SECTIONS_MAX + 1;
    }
    let bytes = table.read(contents, size_of::<Entry>())?;
    let entries: &[Entry] = array(&bytes);
    let names = entries
        .get(usize::from(header.e_shstrndx.get(LE).0))
        .filter(|names| {
            let fits = names.sh_size.get(LE) <= NAMES_MAX;
            if !fits {
                Refusal::SectionNames.count();
            }
            fits
        })
        .and_then(|names| {
            let len = usize::try_from(names.sh_size.get(LE)).ok()?;
            contents.read(names.sh_offset.get(LE), len)
        })
        .unwrap_or_default();
    let mut too_long = false;
    let mut named = |entry: &Entry| -> Option<String> {
        let rest = names.get(usize::try_from(entry.sh_name.get(LE)).ok()?..)?;
        let most = rest.get(..SECTION_NAME_MAX).unwrap_or(rest);
        let Some(end) = most.iter().position(|b| *b == 0) else {
            too_long = true;
            return None;
        };
        Some(String::from_utf8_lossy(most.get(..end)?).into_owned())
    };
    let with_bytes = entries
        .iter()
        .zip(0..)
        .filter(|(entry, _)| entry.sh_type.get(LE) != SHT_NOBITS);
    let sections = with_bytes
        .filter_map(|(entry, number)| {
            let (offset, size) = (entry.sh_offset.get(LE), entry.sh_size.get(LE));
            Some(Section {
                part: part(contents.len(), entry.sh_addr.get(LE), offset, size)?,
                name: named(entry).unwrap_or_default(),
                kind: entry.sh_type.get(LE).0,
                flags: entry.sh_flags.get(LE).0,
                link: entry.sh_link.get(LE),
                number,
            })
        })
        .collect();
    if too_long {
        Refusal::SectionNames.count();
    }
    Ok(sections)
}

/// The GNU build id in a segment of notes (System V ABI, "Note Section").
fn build_id_in(contents: &Contents, notes: &Part) -> Option<Vec<u8>> {
    let len = usize::try_from(notes.len().min(NOTES_MAX)).ok()?;
    let bytes = contents.read(notes.bytes.start, len)?;
    let mut rest = &bytes[..];
    let aligned = |len: usize| len.checked_add(3).map(|len| len & !3);
    loop {
        let ([name_len, len, kind], after) =
            pod::from_bytes::<[U32<LittleEndian>; 3]>(rest).ok()?;
        let (name_len, len) = (name_len.get(LE) as usize, len.get(LE) as usize);
        let name = after.get(..name_len)?;
        let after = after.get(aligned(name_len)?..)?;
        let is_build_id = kind.get(LE) == NT_GNU_BUILD_ID.0 && name == b"GNU\0";
        if is_build_id && len > BUILD_ID_MAX {
            Refusal::BuildId.count();
            return None;
        }
        let description = after.get(..len)?;
        if is_build_id {
            return (!description.is_empty()).then(|| description.to_vec());
        }
        rest = after.get(aligned(len)?..)?;
    }
}

/// What of a part is inside of the file.
fn part(len: u64, address: u64, offset: u64, size: u64) -> Option<Part> {
    let end = offset.checked_add(size)?.min(len);
    (offset < end).then_some(Part {
        address,
        bytes: offset..end,
    })
}
