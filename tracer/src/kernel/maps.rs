//! Maps by file descriptor, as bytes: batch reads, which aya does not have, and plain access to
//! values of the shared record types.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use bytemuck::{AnyBitPattern, NoUninit};

// commands of bpf(2), include/uapi/linux/bpf.h
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const PROG_TEST_RUN: i32 = 10;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_LOOKUP_AND_DELETE_BATCH: i32 = 25;

/// Entries asked for at a time.
const BATCH: u32 = 4096;
/// Bytes of the kernel's opaque position in a hash map (a bucket number).
const POSITION_BYTES: usize = 64;

/// `union bpf_attr` for single elements.
#[repr(C)]
#[derive(Default)]
struct Element {
    fd: u32,
    pad: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

/// `union bpf_attr` for batches.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: u32,
    element_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for running a program.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    fd: u32,
    result: u32,
    data_sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_bytes: u32,
    context_bytes_out: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a raw tracepoint's program once, here and now, with one argument.
///
/// # Errors
/// The kernel's; before 5.10 there is no such command for these programs.
pub(super) fn run_program(program: BorrowedFd<'_>, argument: u64) -> io::Result<()> {
    let mut attributes = TestRun {
        fd: program.as_raw_fd().cast_unsigned(),
        context: (&raw const argument) as u64,
        context_bytes: size_of::<u64>() as u32,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attributes)?;
    Ok(())
}

/// A map whose keys are `K` and values `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

/// One call of bpf(2); returns what the kernel returns, a descriptor for some commands.
pub(super) fn bpf<A>(command: i32, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: `attributes` is a valid bpf_attr for the command, of the size given, and every
    // pointer in it was made from a live buffer of the right length by the callers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(result).unwrap_or(0))
    }
}

impl<K: NoUninit + AnyBitPattern, V: NoUninit + AnyBitPattern> Table<K, V> {
    /// Wraps a map's descriptor. The caller sees to it that the kernel's key and value sizes are
    /// those of `K` and `V`.
    ///
    /// # Errors
    /// When the descriptor can't be duplicated.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        Ok(Table {
            fd: fd.as_fd().try_clone_to_owned()?,
            types: PhantomData,
        })
    }

    fn element(&self, key: &K, value: u64, flags: u64) -> Element {
        Element {
            fd: self.fd.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: std::ptr::from_ref(key) as u64,
            value_or_next: value,
            flags,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The kernel's, except for a key that is not there.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        let mut attributes = self.element(key, std::ptr::from_mut(&mut value) as u64, 0);
        match bpf(MAP_LOOKUP_ELEM, &mut attributes) {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// The kernel's; `E2BIG` when the map is full.
    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attributes = self.element(key, std::ptr::from_ref(value) as u64, 0);
        bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }

    /// Removes a key; `false` when it was not there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        let mut attributes = self.element(key, 0, 0);
        match bpf(MAP_DELETE_ELEM, &mut attributes) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The key after `key`, or the first.
    fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::zeroed();
        let mut attributes = Element {
            fd: self.fd.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: key.map_or(0, |key| std::ptr::from_ref(key) as u64),
            value_or_next: std::ptr::from_mut(&mut next) as u64,
            flags: 0,
        };
        match bpf(MAP_GET_NEXT_KEY, &mut attributes) {
            Ok(_) => Ok(Some(next)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Hands every entry to `visit`; returns how many there were. Entries inserted or removed
    /// meanwhile may or may not be seen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each(&self, visit: impl FnMut(&K, &V)) -> io::Result<usize> {
        self.batch(MAP_LOOKUP_BATCH, visit)
    }

    /// As [`Table::for_each`], and removes each entry.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drain(&self, visit: impl FnMut(&K, &V)) -> io::Result<usize> {
        self.batch(MAP_LOOKUP_AND_DELETE_BATCH, visit)
    }

    fn batch(&self, command: i32, mut visit: impl FnMut(&K, &V)) -> io::Result<usize> {
        let mut size = BATCH as usize;
        let (mut here, mut next) = ([0u8; POSITION_BYTES], [0u8; POSITION_BYTES]);
        // not cleared: what is used of them, the kernel fills
        let mut keys: Vec<K> = Vec::with_capacity(size);
        let mut values: Vec<V> = Vec::with_capacity(size);
        let mut first = true;
        let mut total = 0;
        loop {
            let mut attributes = Batch {
                in_batch: if first { 0 } else { here.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(size).unwrap_or(BATCH),
                fd: self.fd.as_raw_fd().cast_unsigned(),
                ..Batch::default()
            };
            let result = bpf(command, &mut attributes);
            let last = match &result {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                    // one bucket holds more than the batch
                    size *= 2;
                    keys = Vec::with_capacity(size);
                    values = Vec::with_capacity(size);
                    continue;
                }
                Err(_) => return result.map(|_| total),
            };
            let count = (attributes.count as usize).min(size);
            // SAFETY: both have room for `size`, of which the kernel filled the first `count`, and
            // every bit pattern is a valid key and value.
            unsafe {
                keys.set_len(count);
                values.set_len(count);
            }
            for (key, value) in keys.iter().zip(&values) {
                visit(key, value);
            }
            total += count;
            if last {
                return Ok(total);
            }
            first = false;
            std::mem::swap(&mut here, &mut next);
        }
    }

    /// Every key, for maps too small to need batches.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        while let Some(key) = self.next_key(keys.last())? {
            keys.push(key);
        }
        Ok(keys)
    }
}

/// A per-CPU array of 64-bit counters.
#[derive(Debug)]
pub struct Counters {
    fd: OwnedFd,
    cpus: usize,
}

impl Counters {
    /// Wraps the map's descriptor.
    ///
    /// # Errors
    /// When the descriptor can't be duplicated or the number of CPUs can't be read.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Counters {
            fd: fd.as_fd().try_clone_to_owned()?,
            cpus,
        })
    }

    /// The sum over all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sum(&self, index: u32) -> io::Result<u64> {
        let mut values = vec![0u64; self.cpus];
        let mut attributes = Element {
            fd: self.fd.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: std::ptr::from_ref(&index) as u64,
            value_or_next: values.as_mut_ptr() as u64,
            flags: 0,
        };
        bpf(MAP_LOOKUP_ELEM, &mut attributes)?;
        Ok(values.iter().sum())
    }
}
