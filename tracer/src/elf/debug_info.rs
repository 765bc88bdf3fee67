//! Whether debug information is what it says it is, before anybody unpacks it.

use object::{
    LittleEndian,
    elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, SHF_COMPRESSED},
    pod,
};

use super::Image;
use crate::refused::Refusal;

/// Bytes that all compressed sections of a file may have when they are unpacked.
const UNPACKED_MAX: u64 = 256 << 20;
/// Bytes that one compressed byte can stand for: DEFLATE (RFC 1951) has 258 bytes in two bits at
/// best.
const RATIO_MAX: u64 = 1_032;

/// What the headers of a file's debug sections say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugInfo {
    /// There is none.
    None,
    /// It may be read.
    Sound,
    /// It must not be unpacked, because of this.
    Refused(Refusal, String),
}

impl Image {
    /// Looks at the headers of compressed debug sections; nothing is unpacked.
    #[must_use]
    pub fn debug_info(&self) -> DebugInfo {
        let named = |name: &str| name.starts_with(".debug_") || name.starts_with(".zdebug_");
        let mut all = 0u64;
        let mut seen = DebugInfo::None;
        for section in self.sections().iter().filter(|s| named(&s.name)) {
            seen = DebugInfo::Sound;
            let unpacked = if section.name.starts_with(".zdebug_") {
                // The older way (binutils, "compressed debug sections"): "ZLIB" and the size.
                let head = self.contents().read(section.part.bytes.start, 12);
                head.and_then(|head| {
                    let size = head.strip_prefix(b"ZLIB")?;
                    Some(u64::from_be_bytes(size.try_into().ok()?))
                })
            } else if section.flags & SHF_COMPRESSED.0 != 0 {
                type Chdr = CompressionHeader64<LittleEndian>;
                let head = self
                    .contents()
                    .read(section.part.bytes.start, size_of::<Chdr>());
                head.and_then(|head| {
                    let (header, _) = pod::from_bytes::<Chdr>(&head).ok()?;
                    let kind = header.ch_type.get(LittleEndian);
                    let known = kind == ELFCOMPRESS_ZLIB || kind == ELFCOMPRESS_ZSTD;
                    known.then(|| header.ch_size.get(LittleEndian))
                })
            } else {
                continue;
            };
            let Some(unpacked) = unpacked else {
                let why = format!(
                    "{} has no header of a compression that is known",
                    section.name
                );
                return DebugInfo::Refused(Refusal::Compression, why);
            };
            if unpacked > section.part.len().saturating_mul(RATIO_MAX) {
                let why = format!(
                    "{} of {} bytes says that it unpacks to {unpacked}",
                    section.name,
                    section.part.len()
                );
                return DebugInfo::Refused(Refusal::Compression, why);
            }
            all = all.saturating_add(unpacked);
        }
        if all > UNPACKED_MAX {
            let why = format!(
                "its debug information unpacks to {} MiB, more than {}",
                all >> 20,
                UNPACKED_MAX >> 20
            );
            return DebugInfo::Refused(Refusal::DebugInfoSize, why);
        }
        seen
    }
}
