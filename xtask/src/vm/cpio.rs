//! Writes the archive that a kernel unpacks as its first file system: cpio, "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources).
//!
//! Not by the `cpio` crate: what the kernel reads is one line of numbers before each entry, and a
//! guest's archive needs device nodes beside files and links.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written; everything in it belongs to root.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a directory; its parents must be there already.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file with these permission bits.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | mode, (0, 0), bytes)
    }

    /// Adds a symbolic link to `target`.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER | 0o600, (major, minor), &[])
    }

    /// Writes the end mark and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let name = name.trim_start_matches('/');
        let size = u32::try_from(bytes.len())
            .map_err(|_| io::Error::other(format!("{name} is too big for a cpio archive")))?;
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // "+ 1" is the name's closing zero byte
        let name_size = u32::try_from(name.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        // the header has 110 bytes; name and data are padded to multiples of 4
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/bin").unwrap();
        archive.file("/bin/a", 0o755, b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[110..116], b"bin\0\0\0");
        let second = 116;
        // mode and size
        assert_eq!(&bytes[second + 14..second + 22], b"000081ED");
        assert_eq!(&bytes[second + 54..second + 62], b"00000005");
        // padded to 4 from the start of the archive, which entries are aligned to
        assert_eq!(&bytes[second + 110..second + 116], b"bin/a\0");
        assert_eq!(&bytes[second + 116..second + 124], b"12345\0\0\0");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
