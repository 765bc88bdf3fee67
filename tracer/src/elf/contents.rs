//! The bytes of a file in pieces, read when they are asked for.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::FileExt as _,
    },
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

/// Files are read in pieces of this size, at multiples of it.
const PIECE: u64 = 64 << 10;
/// Pieces kept of one file.
const PIECES_MAX: usize = 128;
/// Bytes of pieces kept of all files together; beyond that each is read again.
const KEPT_MAX: usize = 32 << 20;
/// Longest range that is read at once.
pub(super) const RANGE_MAX: usize = 64 << 20;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Bytes by offset, of an open file or of memory. A file that has become shorter has no bytes
/// where its end was; what was read before stays as it was.
#[derive(Debug)]
pub struct Contents {
    source: Source,
    len: u64,
}

#[derive(Debug)]
enum Source {
    File(File, Mutex<Pieces>),
    Memory(Bytes),
}

#[derive(Debug, Default)]
struct Pieces(HashMap<u64, Bytes>);

impl Pieces {
    fn clear(&mut self) {
        let freed: usize = self.0.drain().map(|(_, piece)| piece.len()).sum();
        KEPT.fetch_sub(freed, Ordering::Relaxed);
    }

    fn keep(&mut self, number: u64, piece: &Bytes) {
        if self.0.len() >= PIECES_MAX {
            self.clear();
        }
        if KEPT.load(Ordering::Relaxed) + piece.len() > KEPT_MAX {
            self.clear();
        }
        if KEPT.load(Ordering::Relaxed) + piece.len() <= KEPT_MAX
            && self.0.insert(number, piece.clone()).is_none()
        {
            KEPT.fetch_add(piece.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Contents {
    /// The contents of an open file.
    ///
    /// # Errors
    /// Whatever `fstat` says.
    pub fn of(file: File) -> io::Result<Contents> {
        Ok(Contents {
            len: file.metadata()?.len(),
            source: Source::File(file, Mutex::default()),
        })
    }

    /// Bytes that are in memory already.
    #[must_use]
    pub fn of_memory(bytes: Bytes) -> Contents {
        Contents {
            len: bytes.len() as u64,
            source: Source::Memory(bytes),
        }
    }

    /// Bytes in all, as of when it was opened.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Nothing to read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The open file; `None` for memory.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::File(file, _) => Some(file.as_fd()),
            Source::Memory(_) => None,
        }
    }

    /// `len` bytes from `offset`; `None` where some of them are beyond the end, or are more than
    /// are read at once.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Option<Bytes> {
        let end = offset.checked_add(len as u64)?;
        if end > self.len || len > RANGE_MAX {
            return None;
        }
        match &self.source {
            Source::Memory(bytes) => {
                Some(bytes.slice(usize::try_from(offset).ok()?..usize::try_from(end).ok()?))
            }
            Source::File(..) if len == 0 => Some(Bytes::new()),
            Source::File(file, pieces) => {
                let number = offset / PIECE;
                let within = (offset % PIECE) as usize;
                if within + len <= PIECE as usize {
                    let piece = piece(file, pieces, number)?;
                    return (within + len <= piece.len())
                        .then(|| piece.slice(within..within + len));
                }
                let mut bytes = BytesMut::zeroed(len);
                file.read_exact_at(&mut bytes, offset).ok()?;
                Some(bytes.freeze())
            }
        }
    }
}

/// One piece, shorter at the end of the file.
fn piece(file: &File, pieces: &Mutex<Pieces>, number: u64) -> Option<Bytes> {
    let mut pieces = pieces.lock().ok()?;
    if let Some(piece) = pieces.0.get(&number) {
        return Some(piece.clone());
    }
    let mut bytes = BytesMut::zeroed(PIECE as usize);
    let mut filled = 0;
    while filled < bytes.len() {
        let at = number.checked_mul(PIECE)?.checked_add(filled as u64)?;
        match file.read_at(bytes.get_mut(filled..)?, at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    let piece = bytes.freeze();
    pieces.keep(number, &piece);
    Some(piece)
}
