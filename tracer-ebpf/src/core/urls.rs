//! Who asked for a URL: a library parses it in the call that asks, and may send the request from an
//! event loop later, when the function that asked is gone from the stack.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use tracer_ebpf::{STACK_NONE, STACK_TICKET, URL_BYTES, URL_HASH, UrlAsked, UrlKey, url_hash_with};

use super::{maps::bounded, task::current_tgid};

/// Who asked for URLs, by their hash.
#[map]
static URLS_ASKED: LruHashMap<UrlKey, UrlAsked> = LruHashMap::with_max_entries(4_096, 0);
/// A URL that is being looked at.
#[map]
static URL_READ: PerCpuArray<[u8; URL_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// The last byte's index.
const LAST: u32 = URL_BYTES as u32 - 1;
/// Shortest beginning that is looked at: `https://`.
const SCHEME_MAX: u32 = 8;

/// The hash of a URL's host, port and path; 0 where it is none of HTTP's, or too long. A global
/// function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_of_url(at: u64, len: u32) -> u64 {
    if len <= SCHEME_MAX || len as usize >= URL_BYTES {
        return 0;
    }
    let Some(url) = URL_READ.get_ptr_mut(0) else {
        return 0;
    };
    let bytes = bounded::<LAST>(len);
    // SAFETY: the buffer has room for that; the helper checks the source.
    unsafe { bpf_probe_read_user(url.cast(), bytes, at as *const c_void) };
    // SAFETY: a live map value of this CPU's.
    let url = unsafe { &*url };
    let mut at = match (url[0], url[3], url[4], url[5]) {
        (b'h', b'p', b':', _) => 7,
        (b'h', b'p', b's', b':') => 8,
        _ => return 0,
    };
    let mut hash = URL_HASH;
    let mut slashes = 0u64;
    while at < URL_BYTES as u32 {
        // masked, or old verifiers lose the bounds of a counter that the compiler has changed
        let byte = url[bounded::<LAST>(at) as usize];
        if at >= len || byte == b'?' || byte == b'#' {
            break;
        }
        hash = url_hash_with(hash, byte);
        slashes |= u64::from(byte == b'/');
        at += 1;
    }
    if slashes == 0 {
        hash = url_hash_with(hash, b'/');
    }
    hash
}

/// Whoever has this stack asked for the URL with this hash.
#[inline(always)]
pub fn asked_for_url(hash: u64, stack: u32) {
    if stack == STACK_NONE || stack & STACK_TICKET != 0 {
        return;
    }
    let key = UrlKey {
        hash,
        tgid: current_tgid(),
        pad: 0,
    };
    // SAFETY: a map lookup; the value is copied at once.
    let known = unsafe { URLS_ASKED.get(&key) }.copied();
    let [a, b, c, d] = known.map_or([STACK_NONE; 4], |known| known.stacks);
    if a == stack {
        return;
    }
    // the one that was there already moves to the front
    let stacks = if b == stack {
        [stack, a, c, d]
    } else if c == stack {
        [stack, a, b, d]
    } else {
        [stack, a, b, c]
    };
    let _ = URLS_ASKED.insert(&key, &UrlAsked { stacks }, 0);
}
