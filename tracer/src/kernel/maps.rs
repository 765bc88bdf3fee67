//! Maps by file descriptor, as bytes: batch reads, which aya does not have, and plain access to
//! values of the shared record types.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya_obj::generated::{
    bpf_attr, bpf_attr__bindgen_ty_2, bpf_attr__bindgen_ty_2__bindgen_ty_1, bpf_attr__bindgen_ty_3,
    bpf_cmd,
};
use bytemuck::{AnyBitPattern, NoUninit};

use super::bpf::{attributes, bpf};

/// Entries asked for at a time.
const BATCH: u32 = 4096;
/// Bytes of the kernel's opaque position in a hash map (a bucket number).
const POSITION_BYTES: usize = 64;

/// A map whose keys are `K` and values `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    /// How often all of it was read.
    passes: AtomicU64,
    types: PhantomData<(K, V)>,
}

/// Attributes for one element: `value` is an address, as is the key after it.
fn element<K>(fd: &OwnedFd, key: Option<&K>, value: u64) -> bpf_attr {
    let mut attributes = attributes();
    attributes.__bindgen_anon_2 = bpf_attr__bindgen_ty_2 {
        map_fd: fd.as_raw_fd().cast_unsigned(),
        key: key.map_or(0, |key| std::ptr::from_ref(key) as u64),
        __bindgen_anon_1: bpf_attr__bindgen_ty_2__bindgen_ty_1 { value },
        flags: 0,
    };
    attributes
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
            passes: AtomicU64::new(0),
            types: PhantomData,
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The kernel's, except for a key that is not there.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        let mut attributes = element(&self.fd, Some(key), std::ptr::from_mut(&mut value) as u64);
        match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) {
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
        let mut attributes = element(&self.fd, Some(key), std::ptr::from_ref(value) as u64);
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }

    /// Removes a key; `false` when it was not there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        let mut attributes = element(&self.fd, Some(key), 0);
        match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The key after `key`, or the first.
    fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::zeroed();
        let mut attributes = element(&self.fd, key, std::ptr::from_mut(&mut next) as u64);
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) {
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
        self.batch(bpf_cmd::BPF_MAP_LOOKUP_BATCH, visit)
    }

    /// How often all entries were read, since the start.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// As [`Table::for_each`], and removes each entry.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drain(&self, visit: impl FnMut(&K, &V)) -> io::Result<usize> {
        self.batch(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH, visit)
    }

    fn batch(&self, command: bpf_cmd, mut visit: impl FnMut(&K, &V)) -> io::Result<usize> {
        self.passes.fetch_add(1, Ordering::Relaxed);
        let mut size = BATCH as usize;
        let (mut here, mut next) = ([0u8; POSITION_BYTES], [0u8; POSITION_BYTES]);
        // not cleared: what is used of them, the kernel fills
        let mut keys: Vec<K> = Vec::with_capacity(size);
        let mut values: Vec<V> = Vec::with_capacity(size);
        let mut first = true;
        let mut total = 0;
        loop {
            let mut attributes = attributes();
            attributes.batch = bpf_attr__bindgen_ty_3 {
                in_batch: if first { 0 } else { here.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(size).unwrap_or(BATCH),
                map_fd: self.fd.as_raw_fd().cast_unsigned(),
                elem_flags: 0,
                flags: 0,
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
            // SAFETY: the member that was set, of plain integers.
            let count = (unsafe { attributes.batch.count } as usize).min(size);
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

    /// The sum over all CPUs; the most there is where others have written into the map.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sum(&self, index: u32) -> io::Result<u64> {
        let mut values = vec![0u64; self.cpus];
        let mut attributes = element(&self.fd, Some(&index), values.as_mut_ptr() as u64);
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes)?;
        Ok(values.into_iter().fold(0, u64::saturating_add))
    }

    /// Adds one to a counter that no program of the kernel changes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_one(&self, index: u32) -> io::Result<()> {
        let mut values = vec![0u64; self.cpus];
        values[0] = self.sum(index)?.saturating_add(1);
        let mut attributes = element(&self.fd, Some(&index), values.as_mut_ptr() as u64);
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }
}
