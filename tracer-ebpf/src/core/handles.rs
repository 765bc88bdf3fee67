//! Handles of libuv, and the objects of Node.js around them, which know each other: what does not
//! is taken for neither.

use super::{kernel::read_user, syscalls::socket};

// offsets in uv_handle_t and uv_stream_t (include/uv.h, include/uv/unix.h), the same in all of
// libuv's versions 1
const DATA: u64 = 0;
const KIND: u64 = 16;
const DESCRIPTOR: u64 = 184;
/// `UV_NAMED_PIPE`, `UV_TCP`.
const PIPE: u32 = 7;
const TCP: u32 = 12;

/// Words of an object among which its handle is looked for.
const WORDS_MAX: u64 = 24;

/// In `v8::FunctionCallbackInfo` (include/v8-function-callback.h), the arguments' address; the
/// receiver stands in front of them.
const ARGUMENTS: u64 = 8;
/// From a tagged object to its first word behind map, properties and elements, where what embeds V8
/// keeps its own.
const FIELDS: u64 = 23;
/// Words from there among which the object in C++ is looked for.
const FIELDS_MAX: u64 = 6;
/// In `node::BaseObject` (src/base_object.h), behind the table of its functions: the handle of its
/// object of the language.
const PERSISTENT: u64 = 8;

/// The `struct sock *` of a handle; 0 where it has none.
#[inline(always)]
pub fn socket_of(handle: u64) -> u64 {
    let kind: u32 = read_user(handle.wrapping_add(KIND));
    if kind != PIPE && kind != TCP {
        return 0;
    }
    socket(read_user(handle.wrapping_add(DESCRIPTOR)))
}

/// The handle that an object of Node.js wraps; 0 where it wraps none. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn handle_in(wrap: u64) -> u64 {
    let mut word = 1;
    while word < WORDS_MAX {
        let handle: u64 = read_user(wrap.wrapping_add(word * 8));
        if handle != 0 && read_user::<u64>(handle.wrapping_add(DATA)) == wrap {
            return handle;
        }
        word += 1;
    }
    0
}

/// The object of Node.js whose method is called with this `FunctionCallbackInfo`; 0 where it is
/// none. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn receiver(info: u64) -> u64 {
    let arguments: u64 = read_user(info.wrapping_add(ARGUMENTS));
    let object: u64 = read_user(arguments.wrapping_sub(8));
    let mut word = 0;
    while word < FIELDS_MAX {
        let wrap: u64 = read_user(object.wrapping_add(FIELDS + word * 8));
        let persistent: u64 = read_user(wrap.wrapping_add(PERSISTENT));
        if object != 0 && wrap != 0 && read_user::<u64>(persistent) == object {
            return wrap;
        }
        word += 1;
    }
    0
}
