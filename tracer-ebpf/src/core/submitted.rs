//! Who asked for a stream of HTTP/2, where the request is written from an event loop: the library
//! numbers its streams in the order in which they were asked for.
//!
//! How many requests a session had before the first that was seen is not known, so the difference
//! between the order of those seen and the numbers of their streams is learned: where nothing waits
//! to be written, the stream that was opened last is the one that was asked for last.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tracer_ebpf::STACK_NONE;

use super::{helpers::current_thread, task::current_tgid};

/// A session of the library, by the address of its object.
#[repr(C)]
#[derive(Clone, Copy)]
struct SessionKey {
    object: u64,
    tgid: u32,
    /// Of a request: its place in the order, from 0. Of the session: [`SESSION`].
    index: u32,
}

const SESSION: u32 = u32::MAX;

/// What is known of a session.
#[repr(C)]
#[derive(Clone, Copy)]
struct Session {
    /// What its connection is known by in `HTTP2`; 0 while unknown.
    connection: u64,
    /// Requests that were seen.
    submitted: u32,
    /// Number of the stream of the first of them, as far as is known.
    first: u32,
    /// How often the latest stream was the latest request's by that.
    agreed: u32,
    pad: u32,
}

/// By session.
#[map]
static H2_SESSIONS: LruHashMap<SessionKey, Session> = LruHashMap::with_max_entries(1_024, 0);
/// Stacks of requests that were not written yet.
#[map]
static H2_SUBMITTED: LruHashMap<SessionKey, u32> = LruHashMap::with_max_entries(8_192, 0);
/// The session that a thread writes what is pending of.
#[map]
static H2_WRITING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1_024, 0);

/// Agreements after which it is believed.
const AGREED_SURE: u32 = 2;

/// Somebody with this stack asks for a stream of the session. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn submitted(object: u64, stack: u32) -> u32 {
    let mut key = SessionKey {
        object,
        tgid: current_tgid(),
        index: SESSION,
    };
    if H2_SESSIONS.get_ptr(&key).is_none() {
        let new = Session {
            connection: 0,
            submitted: 0,
            first: 0,
            agreed: 0,
            pad: 0,
        };
        let _ = H2_SESSIONS.insert(&key, &new, 0);
    }
    let Some(session) = H2_SESSIONS.get_ptr_mut(&key) else {
        return 0;
    };
    // SAFETY: a live map value; a session belongs to one thread.
    let session = unsafe { &mut *session };
    key.index = session.submitted;
    session.submitted += 1;
    if stack != STACK_NONE {
        let _ = H2_SUBMITTED.insert(&key, &stack, 0);
    }
    1
}

/// The current thread writes what is pending of the session.
#[inline(always)]
pub fn writes(object: u64) {
    let _ = H2_WRITING.insert(&current_thread(), &object, 0);
}

/// The stack of whoever asked for this stream, which the current thread opens on a connection, known
/// by what it is in `HTTP2`; [`STACK_NONE`] where that is not known. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn who_submitted(connection: u64, stream: u32) -> u32 {
    // SAFETY: a map lookup; the value is copied at once.
    let Some(object) = unsafe { H2_WRITING.get(&current_thread()) }.copied() else {
        return STACK_NONE;
    };
    let mut key = SessionKey {
        object,
        tgid: current_tgid(),
        index: SESSION,
    };
    let Some(session) = H2_SESSIONS.get_ptr_mut(&key) else {
        return STACK_NONE;
    };
    // SAFETY: as in `submitted`.
    let session = unsafe { &mut *session };
    if session.connection == 0 {
        session.connection = connection;
    }
    if session.connection != connection {
        // another connection's bytes, or a session at the address of one that is gone
        let _ = H2_SESSIONS.remove(&key);
        return STACK_NONE;
    }
    let span = (session.submitted - 1).wrapping_mul(2);
    if session.submitted == 0 || stream < span {
        return STACK_NONE;
    }
    let first = stream - span;
    if stream == 1 {
        session.first = 1;
        session.agreed = AGREED_SURE;
    } else if first > session.first {
        session.first = first;
        session.agreed = 1;
    } else if first == session.first {
        session.agreed += 1;
    }
    if session.agreed < AGREED_SURE || stream < session.first {
        return STACK_NONE;
    }
    key.index = (stream - session.first) >> 1;
    // SAFETY: a map lookup; the value is copied at once.
    let stack = unsafe { H2_SUBMITTED.get(&key) }.copied();
    let _ = H2_SUBMITTED.remove(&key);
    stack.unwrap_or(STACK_NONE)
}
