//! Header blocks of HTTP/2 that clients send, on their way to user space: each whole, also where it lies
//! in several pieces of what one call sends.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{
        bpf_probe_read_kernel as raw_probe_read_kernel, bpf_probe_read_user as raw_probe_read_user,
    },
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tracer_ebpf::{BLOCK_BYTES_MAX, Block, Counter, Http2};

use super::{
    http2::HTTP2,
    maps::{bounded, count},
};

/// Header blocks on their way to user space.
#[map]
static BLOCKS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// `BPF_RB_NO_WAKEUP`: user space looks when it sweeps.
const NO_WAKEUP: u64 = 1;
/// Flag of a frame of headers (RFC 9113 section 6.2).
const END_HEADERS: u8 = 4;

/// A block with its bytes, as it lies in the ring.
#[repr(C)]
struct Record<const BYTES: usize> {
    head: Block,
    bytes: [u8; BYTES],
}

/// Takes in a piece of the header block of the current frame, which lies at `address`: once it is whole,
/// it is handed to user space. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_block(sk: u64, address: u64, bytes: u32) -> u32 {
    let Some(connection) = HTTP2.get_ptr(&sk) else {
        return 0;
    };
    // SAFETY: as in `connection`.
    let connection = unsafe { &*connection };
    let flow = &connection.flows[1];
    let whole = bytes == flow.left;
    if whole && flow.fresh != 0 {
        let block = block(sk, connection, bytes, flow.flags & END_HEADERS == 0);
        return hand_over::<true>(block, address as *const c_void);
    }
    if gather(sk, address, bytes, u32::from(flow.fresh)) == 0 {
        cut_block(sk)
    } else if whole {
        hand_over_gathered(sk, u32::from(flow.flags & END_HEADERS == 0))
    } else {
        1
    }
}

/// The header block that is gathered from the pieces of a call.
#[repr(C)]
struct Gathered {
    /// The connection's; 0: none is.
    sk: u64,
    /// Bytes so far.
    have: u32,
    pad: u32,
    bytes: [u8; 2 * BLOCK_BYTES_MAX],
}

#[map]
static GATHERED: PerCpuArray<Gathered> = PerCpuArray::with_max_entries(1, 0);

/// Adds a piece to the block that is gathered, or begins one; 0 where not all of it is there. A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather(sk: u64, address: u64, bytes: u32, begins: u32) -> u32 {
    const ROOM: u32 = BLOCK_BYTES_MAX as u32 - 1;
    let Some(gathered) = GATHERED.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's room, which says whose it is.
    let gathered = unsafe { &mut *gathered };
    if begins != 0 {
        gathered.sk = sk;
        gathered.have = 0;
    }
    if gathered.sk != sk {
        return 0;
    }
    let have = gathered.have & ROOM;
    let left = ROOM - have;
    let take = if bytes < left { bytes } else { left };
    // SAFETY: below twice the room; the helper checks the source.
    let failed = unsafe {
        raw_probe_read_user(
            gathered
                .bytes
                .as_mut_ptr()
                .add(have as usize)
                .cast::<c_void>(),
            bounded::<ROOM>(take),
            address as *const c_void,
        )
    };
    gathered.have = have + take;
    u32::from(failed == 0 && take == bytes)
}

/// Hands over what was gathered of the connection's block, which goes on elsewhere. A global function,
/// so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cut_block(sk: u64) -> u32 {
    hand_over_gathered(sk, 1)
}

#[inline(always)]
fn hand_over_gathered(sk: u64, cut: u32) -> u32 {
    let (Some(connection), Some(gathered)) = (HTTP2.get_ptr(&sk), GATHERED.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: as in `connection` and in `gather`.
    let (connection, gathered) = unsafe { (&*connection, &mut *gathered) };
    if gathered.sk != sk {
        return 0;
    }
    gathered.sk = 0;
    let block = block(sk, connection, gathered.have, cut != 0);
    hand_over::<false>(block, gathered.bytes.as_ptr().cast::<c_void>())
}

/// What stands before the bytes of the current frame's block.
#[inline(always)]
fn block(sk: u64, connection: &Http2, len: u32, cut: bool) -> Block {
    let flow = &connection.flows[1];
    Block {
        sk,
        opened_ns: connection.opened_ns,
        stream: flow.stream,
        number: connection.blocks,
        len,
        flags: flow.flags,
        cut: u8::from(cut),
        pad: 0,
    }
}

/// Puts a block, whose bytes are the program's (`USER`) or our own, into the ring.
#[inline(always)]
fn hand_over<const USER: bool>(block: Block, from: *const c_void) -> u32 {
    if block.len < 128 {
        submit::<128, USER>(block, from)
    } else if block.len < 512 {
        submit::<512, USER>(block, from)
    } else {
        submit::<BLOCK_BYTES_MAX, USER>(block, from)
    }
}

#[inline(always)]
fn submit<const BYTES: usize, const USER: bool>(mut block: Block, from: *const c_void) -> u32 {
    let Some(mut entry) = BLOCKS.reserve::<Record<BYTES>>(0) else {
        count(Counter::BlockRingFull);
        return 0;
    };
    if block.len >= BYTES as u32 {
        block.len = BYTES as u32 - 1;
        block.cut = 1;
    }
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved entry is ours until submitted, and what user space reads of it (the head
    // and `len` bytes) is written here; the length is below the room by the comparison and the mask.
    unsafe {
        (*record).head = block;
        let into = (&raw mut (*record).bytes).cast::<c_void>();
        let len = masked::<BYTES>(block.len);
        let failed = match USER {
            true => raw_probe_read_user(into, len, from),
            false => raw_probe_read_kernel(into, len, from),
        };
        if failed != 0 {
            (*record).head.len = 0;
            (*record).head.cut = 1;
        }
    }
    entry.submit(NO_WAKEUP);
    1
}

/// [`bounded`] by a room that is a power of two.
#[inline(always)]
fn masked<const BYTES: usize>(len: u32) -> u32 {
    match BYTES {
        128 => bounded::<0x7f>(len),
        512 => bounded::<0x1ff>(len),
        _ => bounded::<{ BLOCK_BYTES_MAX as u32 - 1 }>(len),
    }
}
