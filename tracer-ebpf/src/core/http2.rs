//! HTTP/2 in the clear: the headers of frames (RFC 9113 section 4.1) in what a client sends and
//! receives, so that each stream is known from the request that opens it to the frame that ends it.
//!
//! Of the payload only header blocks are looked at, in user space. What does not fit, or was not
//! seen, is not guessed: then nothing is said of the streams that were open at that time.

use aya_ebpf::{macros::map, maps::HashMap};
use tracer_ebpf::{
    Counter, FRAME_HEADER_BYTES, FRAME_ROOM, Flow, Http2, SOCK_PREEXISTING, STACK_GO, STACK_NONE,
    STACK_TICKET, STREAM_ANSWERED, STREAM_REQUESTED, Stream, StreamKey, WHEN_REQUEST,
};

use super::{
    blocks::{copy_block, cut_block},
    capture::capture_stack,
    heads::PREFACE,
    helpers::now_ns,
    kernel::read_user,
    maps::{LANE_SENT, SCRATCH, count},
    notes::note,
    packed::unpack,
    sockets::entry,
    submitted::who_submitted,
    user_buffer::{Pieces, UserBuffer},
};

/// Connections whose frames are followed, by `struct sock *`.
#[map]
pub static HTTP2: HashMap<u64, Http2> = HashMap::with_max_entries(2_048, 0);
/// Streams that clients opened and that have not ended.
#[map]
pub static STREAMS: HashMap<StreamKey, Stream> = HashMap::with_max_entries(8_192, 0);
/// Frames and pieces of a buffer that are looked at in one round.
const STEPS: u32 = 96;
/// Rounds for what is transferred in one call: a stream that is opened ends one.
pub const ROUNDS: u32 = 32;
/// Bytes of the connection preface.
const PREFACE_BYTES: u32 = 24;
/// Most bytes of a frame that neither end asked to be larger (RFC 9113 section 4.2).
const LEN_USUAL: u32 = 1 << 14;
/// Pieces of one call that all fit: what has that many is no chance.
const STEPS_SURE: u32 = 16;
const HEADER: u32 = FRAME_HEADER_BYTES as u32;
// types of frames, RFC 9113 section 6
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// The last of the types that IANA lists: `PRIORITY_UPDATE` (RFC 9218).
const LAST_TYPE: u8 = 16;

const END_STREAM: u8 = 1;
/// The flags that each of these types may have.
const DATA_FLAGS: u8 = 0x09;
const HEADERS_FLAGS: u8 = 0x2d;

/// Whether a frame that a client sends begins here with a request. Of a connection that is older
/// than the watch that is how its protocol is known.
#[inline(always)]
pub fn begins_request(buffer: UserBuffer) -> bool {
    let header: [u8; FRAME_HEADER_BYTES] = read_user(buffer.at);
    let frame = Frame::read(&header);
    buffer.len as usize > FRAME_HEADER_BYTES
        && frame.kind == HEADERS
        && frame.is_plausible()
        && frame.len > 0
        && frame.stream & 1 == 1
}

/// A frame's header.
struct Frame {
    len: u32,
    stream: u32,
    kind: u8,
    flags: u8,
}

impl Frame {
    #[inline(always)]
    fn read(header: &[u8; FRAME_HEADER_BYTES]) -> Frame {
        let [a, b, c, kind, flags, stream @ ..] = *header;
        Frame {
            len: u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c),
            stream: u32::from_be_bytes(stream),
            kind,
            flags,
        }
    }

    /// Whether it can be one, by what is fixed for its type.
    #[inline(always)]
    fn is_plausible(&self) -> bool {
        let of_stream = self.stream != 0;
        let fits = match self.kind {
            DATA => of_stream && self.flags & !DATA_FLAGS == 0,
            HEADERS => of_stream && self.flags & !HEADERS_FLAGS == 0 && self.len <= LEN_USUAL,
            PRIORITY => of_stream && self.len == 5,
            RST_STREAM => of_stream && self.len == 4,
            SETTINGS => !of_stream && self.len <= LEN_USUAL,
            PUSH_PROMISE | CONTINUATION => of_stream && self.len <= LEN_USUAL,
            PING => !of_stream && self.len == 8,
            GOAWAY => !of_stream && self.len >= 8,
            WINDOW_UPDATE => self.len == 4,
            kind => kind <= LAST_TYPE && self.len <= LEN_USUAL,
        };
        fits && self.stream >> 31 == 0
    }
}

/// The connection's entry, which is made where it is new.
#[inline(always)]
fn connection(sk: u64) -> Option<&'static mut Http2> {
    if make_connection(sk) == 0 {
        return None;
    }
    // SAFETY: map values stay valid while the program runs; the socket's lock serializes.
    HTTP2.get_ptr_mut(&sk).map(|known| unsafe { &mut *known })
}

/// Sees to it that the connection has an entry of its own; 0 where there is no room. A global function,
/// so that its record takes no room on the stack under what the caller calls then.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn make_connection(sk: u64) -> u32 {
    let Some(sock) = entry(sk) else { return 0 };
    // SAFETY: a map lookup; the value is not kept.
    let known = unsafe { HTTP2.get(&sk) };
    if known.is_some_and(|known| known.opened_ns == sock.opened_ns) {
        return 1;
    }
    let new = Http2 {
        opened_ns: sock.opened_ns,
        since_ns: now_ns(),
        // else it began with the preface
        sure: u32::from(sock.flags & SOCK_PREEXISTING == 0),
        ..Http2::default()
    };
    if HTTP2.insert(&sk, &new, 0).is_err() {
        count(Counter::StreamMapFull);
        return 0;
    }
    1
}

/// Something was not seen, or does not fit: what is known of its streams is of no use any more.
/// Nonzero where it does not speak HTTP/2 after all.
#[inline(always)]
fn lose(sk: u64, connection: &mut Http2) -> u32 {
    note!("frames of HTTP/2 do not fit, or were not seen");
    if connection.sure == 0 {
        let _ = HTTP2.remove(&sk);
        return 1;
    }
    connection.since_ns = now_ns();
    connection.flows = [Flow::default(); 2];
    0
}

/// The current call received something on this connection that can't be looked at. A global function,
/// see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn miss_frames(sk: u64) -> u32 {
    match connection(sk) {
        Some(connection) => lose(sk, connection),
        None => 1,
    }
}

/// Takes in the frames of what the current call transferred: `place` has the lane and the number of
/// bytes; `stack` is that of the request where it was taken already. What is done for each frame is
/// called from here, one after the other: the stack has no room for it on top of each other. Nonzero where the connection is
/// not to be followed any more. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_frames(sk: u64, place: u64, mut stack: u32) -> u32 {
    let (lane, bytes) = unpack(place);
    let (Some(connection), Some(scratch)) = (connection(sk), SCRATCH.get_ptr_mut(lane)) else {
        return 1;
    };
    let Some(pieces) = Pieces::current(bytes) else {
        return lose(sk, connection);
    };
    // SAFETY: this program's room on this CPU.
    unsafe { (*scratch).pieces = pieces };
    let mut answer = ON;
    let mut round = 0;
    while round < ROUNDS {
        answer = take_some(sk, lane);
        if answer == STREAM {
            if stack == STACK_NONE {
                stack = capture_stack(sk, connection.opened_ns, u32::from(WHEN_REQUEST), lane);
            }
            answer = open_stream(sk, stack);
        }
        if answer != ON {
            break;
        }
        round += 1;
    }
    if answer != DONE {
        return lose(sk, connection);
    }
    0
}

/// Takes in what fits into one round. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_some(sk: u64, lane: u32) -> u32 {
    let mut answer = ON;
    let mut step = 0;
    while step < STEPS {
        answer = take_piece(sk, lane);
        if answer == FRAME {
            answer = begin_frame(sk, lane);
        }
        if answer != ON {
            break;
        }
        step += 1;
    }
    if answer != ODD
        && step >= STEPS_SURE
        && let Some(connection) = HTTP2.get_ptr_mut(&sk)
    {
        // SAFETY: as in `connection`.
        unsafe { (*connection).sure = 1 };
    }
    answer
}

/// Answers of what takes in a piece: go on, all is taken in, it does not fit, a frame's header is whole,
/// and the frame opens a stream.
pub const ON: u32 = 0;
pub const DONE: u32 = 1;
const ODD: u32 = 2;
const FRAME: u32 = 3;
pub const STREAM: u32 = 4;

/// Takes in the next piece: the rest of a payload, or a header. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_piece(sk: u64, lane: u32) -> u32 {
    let (Some(connection), Some(scratch)) = (HTTP2.get_ptr_mut(&sk), SCRATCH.get_ptr_mut(lane))
    else {
        return ODD;
    };
    // SAFETY: as in `connection`, and this program's room on this CPU.
    let (connection, pieces) = unsafe { (&mut *connection, &mut (*scratch).pieces) };
    let sent = sent(lane);
    let flow = &mut connection.flows[sent as usize & 1];
    if pieces.left == 0 {
        if sent != 0 && flow.kind == HEADERS && flow.left > 0 {
            cut_block(sk);
        }
        return DONE;
    }
    if pieces.len == 0 {
        return if pieces.next() { ON } else { ODD };
    }
    if flow.left > 0 {
        let here = if flow.left < pieces.len {
            flow.left
        } else {
            pieces.len
        };
        if sent != 0 && flow.kind == HEADERS {
            copy_block(sk, pieces.at, here);
        }
        flow.fresh = 0;
        flow.left -= here;
        pieces.pass(here);
        return ON;
    }
    if flow.have == 0 && pieces.len >= HEADER {
        let found: [u8; FRAME_HEADER_BYTES] = read_user(pieces.at);
        let [a, b, c, d, ..] = found;
        if sent != 0 && u32::from_le_bytes([a, b, c, d]) == PREFACE {
            connection.sure = 1;
            flow.left = PREFACE_BYTES;
            return ON;
        }
        let mut i = 0;
        while i < FRAME_HEADER_BYTES {
            flow.header[i] = found[i];
            i += 1;
        }
        flow.have = HEADER;
        pieces.pass(HEADER);
    } else {
        let at = flow.have as usize & (FRAME_ROOM - 1);
        flow.header[at] = read_user(pieces.at);
        flow.have += 1;
        pieces.pass(1);
    }
    if flow.have < HEADER {
        return ON;
    }
    flow.have = 0;
    FRAME
}

/// Whether a lane is one of sends: 1, or 0.
#[inline(always)]
fn sent(lane: u32) -> u32 {
    1 - ((lane - LANE_SENT) & 1)
}

/// A frame begins, whose header the flow has: [`ON`], [`STREAM`], or [`ODD`] where it can be none. A global function, so
/// that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_frame(sk: u64, lane: u32) -> u32 {
    let Some(connection) = HTTP2.get_ptr_mut(&sk) else {
        return ODD;
    };
    // SAFETY: as in `connection`.
    let connection = unsafe { &mut *connection };
    let sent = sent(lane);
    let flow = &mut connection.flows[sent as usize & 1];
    let [a, b, c, kind, flags, d, e, f, g, ..] = flow.header;
    let frame = Frame::read(&[a, b, c, kind, flags, d, e, f, g]);
    if !frame.is_plausible() {
        return ODD;
    }
    flow.left = frame.len;
    flow.stream = frame.stream;
    flow.kind = frame.kind;
    flow.flags = frame.flags;
    flow.fresh = 1;
    let key = StreamKey {
        sk,
        stream: frame.stream,
        pad: 0,
    };
    match frame.kind {
        RST_STREAM => {
            let _ = STREAMS.remove(&key);
        }
        HEADERS if sent != 0 => {
            connection.blocks += 1;
            if frame.stream & 1 == 1 && frame.stream > connection.latest {
                connection.latest = frame.stream;
                return STREAM;
            }
        }
        HEADERS | DATA if sent == 0 => {
            if frame.flags & END_STREAM != 0 {
                let _ = STREAMS.remove(&key);
            } else if let Some(stream) = STREAMS.get_ptr_mut(&key) {
                // SAFETY: a live map value, which only this connection's calls change.
                unsafe {
                    (*stream).progress_ns = now_ns();
                    (*stream).state = STREAM_ANSWERED;
                }
            }
        }
        // a block goes on that can't be followed
        CONTINUATION if sent != 0 => connection.blocks += 1,
        _ => {}
    }
    ON
}

/// A request opens the connection's latest stream, with this stack. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn open_stream(sk: u64, stack: u32) -> u32 {
    let (Some(connection), Some(sock)) = (HTTP2.get_ptr(&sk), entry(sk)) else {
        return ODD;
    };
    // SAFETY: a live map value.
    let stream = unsafe { (*connection).latest };
    // who asked a Go program's transport is known, and who asked Node.js
    let told = sock.request_stack & (STACK_GO | STACK_TICKET) == STACK_GO;
    let asked = who_submitted(sk, stream);
    let value = Stream {
        opened_ns: sock.opened_ns,
        began_ns: now_ns(),
        progress_ns: 0,
        stack: if told {
            sock.request_stack
        } else if asked != STACK_NONE {
            asked
        } else {
            stack
        },
        tgid: sock.tgid,
        state: STREAM_REQUESTED,
        pad: 0,
    };
    let key = StreamKey { sk, stream, pad: 0 };
    if STREAMS.insert(&key, &value, 0).is_err() {
        count(Counter::StreamMapFull);
    }
    ON
}
