//! The memory map of a process as `/proc/PID/maps` prints it (`Documentation/filesystems/proc.rst`,
//! section 1.1). Pure: bytes in, values out.

use std::ops::Range;

/// One line: a range of addresses backed by one part of one file, or by nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses.
    pub range: Range<u64>,
    /// May be executed.
    pub executable: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Device of the file: major, minor.
    pub device: (u32, u32),
    /// Inode of the file; 0 when there is none.
    pub inode: u64,
    /// Path as the process sees it, `[vdso]` and the like, or empty; without the kernel's
    /// ` (deleted)`.
    pub path: String,
    /// The file has no name any more.
    pub deleted: bool,
}

impl Mapping {
    /// Whether it is memory in no file, though shared: the kernel names it after the device whose
    /// pages it could be (`shmem_zero_setup`). Compilers of PHP's and others' put their code there.
    #[must_use]
    pub fn is_shared_memory(&self) -> bool {
        self.deleted && self.path == "/dev/zero"
    }
}

/// The lines that can be understood, in the order given (by address).
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let mut next = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = next()?.split_once('-')?;
    let range = hex(start)?..hex(end)?;
    let executable = next()?.as_bytes().get(2) == Some(&b'x');
    let offset = hex(next()?)?;
    let (major, minor) = next()?.split_once(':')?;
    let device = (hex(major)?.try_into().ok()?, hex(minor)?.try_into().ok()?);
    let inode = next()?.parse().ok()?;
    let path = unescape(fields.next().unwrap_or_default().trim_ascii_start());
    if range.is_empty() {
        return None;
    }
    let (path, deleted) = match path.strip_suffix(" (deleted)") {
        Some(name) => (name.to_owned(), true),
        None => (path, false),
    };
    Some(Mapping {
        range,
        executable,
        offset,
        device,
        inode,
        path,
        deleted,
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel escapes newlines in paths as `\012` (`seq_path`).
fn unescape(path: &[u8]) -> String {
    String::from_utf8_lossy(path).replace("\\012", "\n")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::parse;

    #[test]
    fn a_library_line_is_read_whole() {
        let maps = parse(
            b"7f0a1c000000-7f0a1c155000 r-xp 00026000 fe:01 1835013                    /usr/lib/x86_64-linux-gnu/libc.so.6\n",
        );
        let m = maps.first().unwrap();
        assert_eq!(m.range, 0x7f0a_1c00_0000..0x7f0a_1c15_5000);
        assert!(m.executable && !m.deleted);
        assert_eq!(
            (m.offset, m.device, m.inode),
            (0x26000, (0xfe, 1), 1_835_013)
        );
        assert_eq!(m.path, "/usr/lib/x86_64-linux-gnu/libc.so.6");
    }

    #[test]
    fn deleted_files_spaces_and_newlines_in_names_survive() {
        let maps = parse(b"1000-2000 rw-p 0 00:01 7  /memfd:a b\\012c (deleted)\n2000-3000 r-xp 00000000 00:00 0 \n3000-4000 r-xp 00000000 00:00 0                  [vdso]");
        assert_eq!(maps.len(), 3);
        assert_eq!(
            (maps[0].path.as_str(), maps[0].deleted),
            ("/memfd:a b\nc", true)
        );
        assert_eq!((maps[1].path.as_str(), maps[1].executable), ("", true));
        assert_eq!(maps[2].path, "[vdso]");
        assert!(!maps[0].is_shared_memory());
        let shared = parse(b"1000-2000 rwxs 0 00:01 9  /dev/zero (deleted)\n");
        assert!(shared[0].is_shared_memory());
    }

    #[test]
    fn our_own_map_holds_our_own_code() {
        let here = our_own_map_holds_our_own_code as fn() as usize as u64;
        let maps = parse(&std::fs::read("/proc/self/maps").unwrap());
        assert!(
            maps.iter()
                .any(|m| m.executable && m.range.contains(&here) && m.inode != 0)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }

        #[test]
        fn lines_with_any_fields_are_survived(text in "([0-9a-f]{0,20}-[0-9a-f]{0,20} [rwxp-]{0,5} [0-9a-f]{0,20} [0-9a-f:]{0,9} [0-9]{0,25} .{0,30}\n){0,4}") {
            for m in parse(text.as_bytes()) {
                assert!(m.range.start < m.range.end);
            }
        }
    }
}
