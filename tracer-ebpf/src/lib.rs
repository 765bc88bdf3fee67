//! The binary interface between tracer's eBPF programs and its user space.
//!
//! Everything that crosses the border is defined here, once: map names, map values, ring buffer
//! records, the read-only globals that user space fills in before loading, and the counters of
//! everything that was not recorded. All records are `#[repr(C)]`, carry explicit padding and are
//! checked at compile time for size and alignment. Integers are in host byte order unless the
//! field says otherwise.
//!
//! Times are `CLOCK_MONOTONIC` nanoseconds as `bpf_ktime_get_ns` gives them, or *ticks*: units of
//! 2^20 ns (about 1.05 ms) since the socket was opened, plus one, so that zero means "never".
#![no_std]

#[cfg(feature = "user")]
extern crate std;

mod abi;
pub mod hello;

pub use abi::answers::{ANSWER_BYTES, Answer};
pub use abi::config::{
    CallKey, CallValue, Config, FILTER_CGROUP, FILTER_HOST, FILTER_PROCESS, Offsets, SCAN_NUMBER,
    SCAN_UNSTORED,
};
pub use abi::counters::Counter;
pub use abi::frames::{
    AWAIT_HANDLER, AWAITS_MAX, Awaits, PHP_ADDRESS, PHP_OUTERMOST, RUNTIME_FRAMES_MAX,
    RUNTIME_LINKED, RUNTIME_NONE, RUNTIME_PHP, RUNTIME_RUBY, RUNTIME_V8, RUNTIME_WAY, RuntimeFrame,
    RuntimePlan, TRIE_RUNTIME,
};
pub use abi::go::{
    GO_CALL, GO_CLIENT, GO_CONFIRMED, GO_FRAMES, GO_HANDED_OVER, GO_HOST_BYTES, GO_IDLE,
    GO_IN_FLIGHT, GO_METHOD_BYTES, GO_NEW, GO_PATH_BYTES, GO_QUERY_BYTES, GO_READING, GO_RESPONSE,
    GO_SCHEME_BYTES, GO_SERVER, GO_STREAM, GO_TLS, GO_WRAPPED, GoConn, GoCreation, GoFinalizedKey,
    GoKey, GoLayout, GoProcess, GoRoutine, GoStack, STACK_GO, go_stack_hash,
};
pub use abi::greetings::{GREETING_BYTES, Greeting};
pub use abi::socket::{
    AWAITED, AWAITED_BY_NOBODY, AWAITED_UNKNOWN, AggKey, AggValue, DIRECTION_RECEIVED,
    DIRECTION_SENT, ErrorKey, HEAD_TLS, HEADS_ASKED, HEADS_FIRST, HEADS_HTTP, HEADS_HTTP2,
    HEADS_LATEST, HEADS_PLAINTEXT, HEADS_TLS, HOST_BYTES, Head, HeadKey, LEFT_MANY,
    LIFETIME_BUCKETS, LINE_BYTES, ListenKey, ListenValue, MASKED, PATH_BYTES, PathValue,
    RESPONSE_AWAITED, RESPONSE_CHUNKED, RESPONSE_HEAD_READ, RESPONSE_LAST_CHUNK, RESPONSE_LENGTH,
    RESPONSE_TO_CONNECT, RESPONSE_TO_HEAD, RESPONSE_UPGRADED, ROLE_CLIENT, ROLE_PAIR, ROLE_SERVER,
    ROLE_UNKNOWN, SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, SOCK_CONNECTED, SOCK_PEER_CLOSED,
    SOCK_PREEXISTING, SOCK_RESET, SOCK_SHUTDOWN, STATUS_IN_FAILED, STATUS_IN_TRANSACTION,
    STATUS_TO_COME, Sock, TICK_SHIFT, UnixPathKey,
};
pub use abi::stack::{
    Budget, COPY_BYTES_MAX, COPY_BYTES_MIDDLE, COPY_BYTES_MIN, CopySizeKey, FRAMES_MAX,
    SHAPE_FRAMES, SHAPE_WORDS, SHAPES_MAX, STACK_NONE, STACK_TICKET, Shape, StackCopy, TRIE_END,
    TRIE_FRAME, TRIE_FRAME_BIAS, TRIE_ROOT, TrieKey, TrieValue, WHEN_ACCEPT, WHEN_CONNECT,
    WHEN_EXEC, WHEN_FIRST_IO, WHEN_REQUEST,
};
pub use abi::streams::{
    BLOCK_BYTES_MAX, Block, FRAME_HEADER_BYTES, FRAME_ROOM, Flow, Http2, STREAM_ANSWERED,
    STREAM_REQUESTED, Stream, StreamKey,
};
pub use abi::tasks::{
    INSTANCES_BEFORE, INSTANCES_INLINE, INSTANCES_TAGGED, TASK_CALLBACK, TASK_END, TASK_FRAMES_MAX,
    TASK_INNER, TASK_OUTERMOST, Tasks,
};
pub use abi::tls::{MATCHES_SURE, TlsHttp2, TlsKey};
#[cfg(feature = "user")]
pub use abi::urls::url_hash;
pub use abi::urls::{URL_BYTES, URL_HASH, URL_STACKS, UrlAsked, UrlKey, url_hash_with};

/// Why a ring buffer or map record was refused.
#[cfg(feature = "user")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongLength {
    /// The record's type name.
    pub record: &'static str,
    /// Bytes expected.
    pub expected: usize,
    /// Bytes given.
    pub given: usize,
}

#[cfg(feature = "user")]
impl std::fmt::Display for WrongLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a {} record has {} bytes, {} were given",
            self.record, self.expected, self.given
        )
    }
}

#[cfg(feature = "user")]
impl std::error::Error for WrongLength {}

/// Decodes a record of exactly `T`'s size.
///
/// # Errors
/// [`WrongLength`] when `bytes` is shorter or longer than `T`: another layout wrote it.
#[cfg(feature = "user")]
pub fn decode<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Result<T, WrongLength> {
    bytemuck::try_pod_read_unaligned(bytes).map_err(|_| WrongLength {
        record: core::any::type_name::<T>(),
        expected: size_of::<T>(),
        given: bytes.len(),
    })
}
