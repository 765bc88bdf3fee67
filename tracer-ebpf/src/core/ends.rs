//! The end of a socket: what it had in common with others is added to theirs.

use tracer_ebpf::{
    AggKey, AggValue, Counter, HEADS_FIRST, HEADS_HTTP2, HEADS_LATEST, HeadKey, ROLE_SERVER,
    STACK_NONE, STACK_TICKET, Sock,
};

use super::{
    helpers::now_ns,
    http2::HTTP2,
    kernel::Address,
    maps::{AGG, EMPTY_AGG, HEADS, SOCKS, atomic_add, bounded, count},
    sockets::{IF_NEW, entry},
    task::active,
};

/// The kernel frees a TCP socket.
#[inline(always)]
pub fn destroyed(sk: Address) {
    if active() {
        fold_socket(sk);
    }
}

/// Adds a socket that ended to its aggregate and drops it with its request heads. A global
/// function, see [`super::capture::find_stack`]; the result only exists because such functions return one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fold_socket(sk: u64) -> u32 {
    let Some(sock) = entry(sk) else { return 0 };
    let lifetime = match sock.at_ns(sock.closed_ticks()) {
        Some(closed_ns) => closed_ns - sock.opened_ns,
        None => now_ns().wrapping_sub(sock.opened_ns),
    };
    let (key, turns, heads) = (aggregate_key(sock), sock.turns, sock.heads);
    // Of several that fold it at the same time one removes it, and only that one counts it. The
    // entry's memory may be another socket's from here on.
    if SOCKS.remove(&sk).is_err() {
        return 0;
    }
    count(Counter::Folded);
    if heads & (HEADS_FIRST | HEADS_LATEST | HEADS_HTTP2) != 0 {
        forget_requests(sk, u32::from(heads));
    }
    add(key, lifetime, turns);
    1
}

/// Drops what was kept of a socket's requests. A global function, so that [`fold_socket`] needs less of
/// the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget_requests(sk: u64, heads: u32) -> u32 {
    let heads = heads as u8;
    let mut head = HeadKey { sk, latest: 0 };
    if heads & HEADS_FIRST != 0 {
        let _ = HEADS.remove(&head);
    }
    if heads & HEADS_LATEST != 0 {
        head.latest = 1;
        let _ = HEADS.remove(&head);
    }
    if heads & HEADS_HTTP2 != 0 {
        let _ = HTTP2.remove(&sk);
    }
    0
}

#[inline(always)]
fn aggregate_key(sock: &Sock) -> AggKey {
    let mut key = AggKey::default();
    if sock.role == ROLE_SERVER {
        key.port = sock.local_port;
    } else {
        key.addr = sock.remote_addr;
        key.port = sock.remote_port;
    }
    key.tgid = sock.tgid;
    key.open_stack = settled(sock.open_stack);
    key.request_stack = settled(sock.request_stack);
    key.family = sock.family;
    key.role = sock.role;
    key
}

#[inline(always)]
fn add(mut key: AggKey, lifetime: u64, turns: u32) {
    let value = match aggregate(&key) {
        Some(value) => value,
        None => {
            count(Counter::AggregateMapFull);
            key = AggKey::default();
            let Some(value) = aggregate(&key) else {
                return;
            };
            value
        }
    };
    let bucket = bounded::<31>(log2(lifetime >> 10)) as usize;
    // SAFETY: a live map value; its counters are naturally aligned and only added to.
    unsafe {
        atomic_add(&raw mut (*value).closed, 1);
        atomic_add(&raw mut (*value).lifetime_ns, lifetime);
        atomic_add(&raw mut (*value).turns, u64::from(turns));
        atomic_add((&raw mut (*value).lifetimes).cast::<u32>().add(bucket), 1);
    }
}

#[inline(always)]
fn aggregate(key: &AggKey) -> Option<*mut AggValue> {
    if let Some(value) = AGG.get_ptr_mut(key) {
        return Some(value);
    }
    let empty = EMPTY_AGG.get_ptr(0)?;
    // SAFETY: this CPU's slot, never written.
    let _ = AGG.insert(key, unsafe { &*empty }, IF_NEW);
    AGG.get_ptr_mut(key)
}

/// A stack id, or none for a ticket, whose id only user space knows.
#[inline(always)]
fn settled(stack: u32) -> u32 {
    if stack & STACK_TICKET != 0 {
        STACK_NONE
    } else {
        stack
    }
}

/// Floor of the binary logarithm, at most 31; 0 for 0. Without branches, each of which would double
/// the paths that the verifier has to follow: fill with ones from the top bit down, count them.
#[inline(always)]
fn log2(value: u64) -> u32 {
    let mut v = value >> 1;
    v |= v >> 1;
    v |= v >> 2;
    v |= v >> 4;
    v |= v >> 8;
    v |= v >> 16;
    v |= v >> 32;
    let log = v.count_ones();
    if log > 31 { 31 } else { log }
}
