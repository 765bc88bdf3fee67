//! UNIX stream sockets: which end this is, and the path that names the connection.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel as raw_probe_read_kernel;
use tracer_ebpf::{Counter, PATH_BYTES, ROLE_CLIENT, ROLE_PAIR, ROLE_SERVER, Sock};

use super::{
    ends::fold_socket,
    kernel::{Address, SOCK_STREAM, netns, read},
    maps::{LANE_OPEN, PATHS, SCRATCH, bounded, count},
    task::active,
};
use crate::offset;

/// Bytes of `sun_family` before the path in `struct sockaddr_un`.
const FAMILY_BYTES: u32 = 2;

/// Whether a UNIX socket is a stream (not datagram, not seqpacket).
#[inline(always)]
pub fn is_stream(sk: Address) -> bool {
    read::<u16>(sk, offset!(sk_type)) == SOCK_STREAM
}

/// Sets role and path, and a server's namespace. An accepted socket carries the listener's address itself; a connecting
/// one's peer carries it; a `socketpair` has none (net/unix/af_unix.c).
#[inline(always)]
pub fn identify(sock: &mut Sock, sk: Address) {
    let own: Address = read(sk, offset!(unix_addr));
    if own != 0 {
        sock.role = ROLE_SERVER;
        sock.netns_or_left = netns(sk);
        remember_path(sock, own);
        return;
    }
    let peer: Address = read(sk, offset!(unix_peer));
    let peers = if peer == 0 {
        0
    } else {
        read::<Address>(peer, offset!(unix_addr))
    };
    if peers != 0 {
        sock.role = ROLE_CLIENT;
        remember_path(sock, peers);
    } else {
        sock.role = ROLE_PAIR;
    }
}

/// The last descriptor of a UNIX socket was closed.
#[inline(always)]
pub fn closed(sk: Address) -> u32 {
    if active() {
        fold_socket(sk);
    }
    0
}

/// Stores the path once and its hash in the socket.
#[inline(always)]
fn remember_path(sock: &mut Sock, address: Address) {
    let Some(scratch) = SCRATCH.get_ptr_mut(LANE_OPEN) else {
        return;
    };
    // SAFETY: this CPU's slot.
    let path = unsafe { &mut (*scratch).path };
    path.bytes = [0; PATH_BYTES];
    let mut len = read::<u32>(address, offset!(unix_address_len)).wrapping_sub(FAMILY_BYTES);
    if len > PATH_BYTES as u32 {
        len = PATH_BYTES as u32;
    }
    let name = address + offset!(unix_address_name) as u64 + u64::from(FAMILY_BYTES);
    // SAFETY: `len` is at most the destination's size; the helper checks the source.
    unsafe {
        raw_probe_read_kernel(
            path.bytes.as_mut_ptr().cast::<c_void>(),
            bounded::<0x7f>(len),
            name as *const c_void,
        );
    }
    path.len = len;
    let hash = hash(&path.bytes);
    sock.remote_addr = [hash as u32, (hash >> 32) as u32, 0, 0];
    if PATHS.get_ptr(&hash).is_none() && PATHS.insert(&hash, path, 0).is_err() {
        count(Counter::PathMapFull);
    }
}

/// FNV-1a over 32-bit words.
#[inline(always)]
fn hash(bytes: &[u8; PATH_BYTES]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < PATH_BYTES {
        let word = u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        hash = (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
        i += 4;
    }
    hash
}
