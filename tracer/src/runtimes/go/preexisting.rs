//! Connections that were there before the probes: found by reading goroutines from the memory of
//! the process.
//!
//! Every HTTP/1 client connection has a goroutine in `persistConn.readLoop`, blocked either in the
//! socket (idle, or waiting for an answer) or on its response's body. Its stack holds the
//! connection and the request. What is found is checked as everything read from a program is; what
//! moves while it is read is left out.

use std::collections::BTreeSet;

use tracer_ebpf::{
    GO_CLIENT, GO_IDLE, GO_IN_FLIGHT, GO_METHOD_BYTES, GO_RESPONSE, GO_TLS, GO_WRAPPED, GoConn,
};

use super::{GoBinary, offsets, offsets::Members, pclntab::Function};
use crate::memory::Memory;

/// Goroutines looked at.
const GOROUTINES_MAX: u64 = 100_000;
/// Bytes of a goroutine's stack looked at, from its innermost frame.
const STACK_MAX: u64 = 32 << 10;
/// `runtime._Gwaiting`, and the bit that a scan by the garbage collector adds.
const G_WAITING: u32 = 4;
const G_SCAN: u32 = 0x1000;
/// `runtime.waitReasonIOWait`
const WAIT_IO: u8 = 2;
/// Offsets in `runtime.g` that never changed: the stack's end, and the saved stack pointer.
const G_STACK_END: u64 = 8;
const G_SAVED_SP: u64 = 56;
/// Offset of `elemsize` in `runtime.hchan`, and its value for `net/http.responseAndError`.
const CHANNEL_ELEMENT_SIZE: u64 = 24;
const RESPONSE_AND_ERROR_BYTES: u32 = 24;
/// Most layers between a connection and its socket.
const LAYERS: usize = 4;

/// One connection found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Address of the `persistConn`.
    pub object: u64,
    /// Its entry for the kernel side, without socket.
    pub conn: GoConn,
}

/// What a scan needs to know of a program.
struct Scan<'a> {
    memory: &'a dyn Memory,
    members: &'a Members,
    bias: u64,
    tcp_close: u64,
    unix_close: u64,
    tls_close: u64,
}

/// Finds the client connections of a running program. `now_ns` is what their states are dated
/// with: how long they have been so cannot be known.
#[must_use]
pub fn connections(
    binary: &GoBinary,
    members: &Members,
    memory: &dyn Memory,
    bias: u64,
    now_ns: u64,
) -> Vec<Found> {
    let found = binary.functions_named(&[
        "runtime.allgadd",
        "net/http.(*persistConn).readLoop",
        "net.(*TCPConn).Close",
        "net.(*UnixConn).Close",
        "crypto/tls.(*Conn).Close",
    ]);
    let [Some(add), Some(read_loop), tcp, unix, tls] = found[..] else {
        return Vec::new();
    };
    let entry = |f: Option<Function>| f.map_or(0, |f| f.entry.wrapping_add(bias));
    let scan = Scan {
        memory,
        members,
        bias,
        tcp_close: entry(tcp),
        unix_close: entry(unix),
        tls_close: entry(tls),
    };
    let Some((goroutines, count)) = binary
        .code(add)
        .and_then(|code| scan.all_goroutines(&code, add.entry))
    else {
        return Vec::new();
    };
    let reading = read_loop.entry.wrapping_add(bias)..read_loop.end.wrapping_add(bias);
    let mut connections: Vec<Found> = (0..count.min(GOROUTINES_MAX))
        .filter_map(|i| {
            let g = memory.word(goroutines.checked_add(i * 8)?)?;
            scan.goroutine(g, &reading, now_ns)
        })
        .collect();
    connections.sort_unstable_by_key(|c| c.object);
    connections.dedup_by_key(|c| c.object);
    connections
}

/// Addresses that instructions refer to relative to themselves: `mov`, `lea` and `cmp` of 64 bits.
fn referred(code: &[u8], address: u64) -> BTreeSet<u64> {
    let mut targets = BTreeSet::new();
    for (at, window) in code.windows(7).enumerate() {
        let &[rex, opcode, operand, a, b, c, d] = window else {
            continue;
        };
        // The second operand is relative to the next instruction: mod 00, rm 101.
        if matches!(rex, 0x48 | 0x4c)
            && matches!(opcode, 0x8b | 0x8d | 0x89 | 0x39 | 0x3b)
            && operand & 0xc7 == 0x05
        {
            let offset = i64::from(i32::from_le_bytes([a, b, c, d]));
            targets.insert(
                address
                    .wrapping_add(at as u64 + 7)
                    .wrapping_add_signed(offset),
            );
        }
    }
    targets
}

impl Scan<'_> {
    /// Address and length of `runtime.allgs`, which `runtime.allgadd` appends to.
    fn all_goroutines(&self, code: &[u8], address: u64) -> Option<(u64, u64)> {
        referred(code, address).into_iter().find_map(|variable| {
            let variable = variable.wrapping_add(self.bias);
            let start = self.memory.word(variable)?;
            let len = self.memory.word(variable.checked_add(8)?)?;
            let capacity = self.memory.word(variable.checked_add(16)?)?;
            let fits = start != 0
                && start.is_multiple_of(8)
                && len > 0
                && len <= capacity
                && capacity <= 100 * GOROUTINES_MAX;
            let looks_right = |i: u64| {
                self.memory
                    .word(start.wrapping_add(i * 8))
                    .is_some_and(|g| self.is_goroutine(g))
            };
            (fits && (0..len.min(3)).all(looks_right)).then_some((start, len))
        })
    }

    fn is_goroutine(&self, g: u64) -> bool {
        let id = self.memory.word(g.wrapping_add(self.members.g_goid));
        let low = self.memory.word(g);
        let high = self.memory.word(g.wrapping_add(G_STACK_END));
        match (id, low, high) {
            // A dead goroutine may have given its stack back.
            (Some(id), Some(low), Some(high)) => {
                id < 1 << 40 && low <= high && high - low <= 1 << 30
            }
            _ => false,
        }
    }

    /// The connection that a goroutine reads from, if it is in `readLoop`.
    fn goroutine(&self, g: u64, reading: &std::ops::Range<u64>, now_ns: u64) -> Option<Found> {
        let status = self.memory.half(g.checked_add(self.members.g_status)?)?;
        if status & !G_SCAN != G_WAITING {
            return None;
        }
        let sp = self.memory.word(g.checked_add(G_SAVED_SP)?)?;
        let high = self.memory.word(g.checked_add(G_STACK_END)?)?;
        let len = high.checked_sub(sp)?.min(STACK_MAX);
        let stack = self.memory.bytes(sp, usize::try_from(len).ok()?);
        let words: Vec<u64> = stack
            .chunks_exact(8)
            .filter_map(|w| w.try_into().ok().map(u64::from_le_bytes))
            .collect();
        // Its own frame lies above the return address of what it called; below it are leftovers.
        let called = words.iter().rposition(|w| reading.contains(w))?;
        let pointers: BTreeSet<u64> = words
            .iter()
            .skip(called + 1)
            .copied()
            .filter(|w| *w > 4096 && w.is_multiple_of(8) && *w < 1 << 47)
            .collect();
        let (object, mut conn) = pointers
            .iter()
            .find_map(|&p| Some((p, self.connection(p)?)))?;
        let mut reason = [0u8];
        if !self
            .memory
            .read(g.checked_add(self.members.g_wait_reason)?, &mut reason)
        {
            return None;
        }
        let expected = self
            .memory
            .word(object.checked_add(self.members.conn_expected)?)?;
        conn.state = match (reason[0] == WAIT_IO, expected) {
            (true, 0) => GO_IDLE,
            (true, _) => GO_IN_FLIGHT,
            (false, _) => GO_RESPONSE,
        };
        conn.state_ns = now_ns;
        conn.request_ns = now_ns;
        // What an idle connection last carried is of no interest, and may be stale.
        if conn.state != GO_IDLE {
            conn.requests = u32::from(
                self.find_request(words.get(called + 1..)?, &mut conn)
                    .is_some(),
            );
        }
        Some(Found { object, conn })
    }

    /// A `persistConn`, if its connection leads to a descriptor.
    fn connection(&self, object: u64) -> Option<GoConn> {
        let at = object.checked_add(u64::from(offsets::CONN_CONN))?;
        let mut table = self.memory.word(at)?;
        let mut data = self.memory.word(at.checked_add(8)?)?;
        let mut conn: GoConn = bytemuck::Zeroable::zeroed();
        conn.kind = GO_CLIENT;
        for _ in 0..LAYERS {
            let close = self
                .memory
                .word(table.checked_add(u64::from(offsets::ITAB_FUN))?)?;
            if close == 0 {
                return None;
            }
            if close == self.tcp_close || close == self.unix_close {
                let net_fd = self.memory.word(data)?;
                let fd = self
                    .memory
                    .half(net_fd.checked_add(u64::from(offsets::FD_SYSFD))?)?
                    .cast_signed();
                conn.fd = fd;
                conn.net_fd = net_fd;
                conn.transport = self
                    .memory
                    .word(object.checked_add(u64::from(offsets::CONN_TRANSPORT))?)?;
                return (fd >= 0).then_some(conn);
            }
            conn.flags |= if close == self.tls_close {
                GO_TLS
            } else {
                GO_WRAPPED
            };
            (table, data) = (
                self.memory.word(data)?,
                self.memory.word(data.checked_add(8)?)?,
            );
        }
        None
    }

    /// The request that the goroutine works on: the frame has it in a `requestAndChan`, beside the
    /// channel that its response goes to. Slots that are not in use any more lead to other
    /// requests, so nothing else is believed, and nothing when there are two.
    fn find_request(&self, frame: &[u64], conn: &mut GoConn) -> Option<()> {
        let mut requests = BTreeSet::new();
        for window in frame.windows(3) {
            let &[first, second, third] = window else {
                continue;
            };
            // Since Go 1.23 `*transportRequest` and the channel; before, `*Request` twice.
            if self.is_response_channel(second) {
                requests.extend(self.memory.word(first).and_then(|r| self.request(r)));
            }
            if first == second && self.is_response_channel(third) {
                requests.extend(self.request(first));
            }
        }
        let mut requests = requests.into_iter();
        let (Some([method, scheme, host, path, query]), None) = (requests.next(), requests.next())
        else {
            return None;
        };
        conn.method_len = put(&mut conn.method, &method) as u8;
        conn.scheme_len = put(&mut conn.scheme, &scheme);
        conn.host_len = put(&mut conn.host, &host);
        conn.path_len = put(&mut conn.path, &path);
        conn.query_len = put(&mut conn.query, &query);
        Some(())
    }

    /// Whether an address is that of a `chan responseAndError`, going by the size of its elements.
    fn is_response_channel(&self, address: u64) -> bool {
        address > 4096
            && address.is_multiple_of(8)
            && address
                .checked_add(CHANNEL_ELEMENT_SIZE)
                .and_then(|at| self.memory.half(at))
                .is_some_and(|size| size & 0xffff == RESPONSE_AND_ERROR_BYTES)
    }

    /// Method, scheme, host, path and query of a `Request`, if it looks like one.
    fn request(&self, address: u64) -> Option<[Vec<u8>; 5]> {
        let layout = offsets::layout(Some(offsets::NEWEST));
        let method = string(self.memory, address, GO_METHOD_BYTES)?;
        let url = self
            .memory
            .word(address.checked_add(u64::from(layout.request_url))?)?;
        let text =
            |offset: u64| string(self.memory, url.wrapping_add(offset), 0xffff).unwrap_or_default();
        let scheme = text(0);
        let fits =
            method.iter().all(u8::is_ascii_uppercase) && matches!(&scheme[..], b"http" | b"https");
        fits.then(|| {
            [
                method,
                scheme,
                text(u64::from(offsets::URL_HOST)),
                text(u64::from(offsets::URL_PATH)),
                text(self.members.url_query),
            ]
        })
    }
}

/// A Go string of at most `max` bytes, given the address of its header.
fn string(memory: &dyn Memory, header: u64, max: usize) -> Option<Vec<u8>> {
    let start = memory.word(header)?;
    let len = usize::try_from(memory.word(header.checked_add(8)?)?).ok()?;
    if start == 0 || len == 0 || len > max {
        return None;
    }
    let mut bytes = vec![0; len];
    memory.read(start, &mut bytes).then_some(bytes)
}

/// Copies what has room; returns the whole length.
fn put(into: &mut [u8], text: &[u8]) -> u16 {
    let kept = text.len().min(into.len());
    into[..kept].copy_from_slice(&text[..kept]);
    u16::try_from(text.len()).unwrap_or(u16::MAX)
}

/// Looks for goroutines, connections and settings in a memory of these bytes, of which the first
/// words say where functions are; for the fuzzer and property tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_hostile(data: &[u8]) {
    use crate::memory::Repeated;

    let memory = Repeated(data);
    let word = |i: u64| memory.word(i * 8).unwrap_or_default();
    let reading = word(0)..word(0).saturating_add(word(1));
    for minor in offsets::OLDEST..=offsets::NEWEST {
        let members = offsets::members(Some(minor));
        let scan = Scan {
            memory: &memory,
            members: &members,
            bias: word(2),
            tcp_close: word(3),
            unix_close: word(4),
            tls_close: word(5),
        };
        let _ = scan.all_goroutines(data.get(..512).unwrap_or(data), word(6));
        for at in 0..16 {
            let _ = super::settings::read(&memory, &members, word(at));
            if let Some(found) = scan.goroutine(word(at), &reading, 1) {
                let key = tracer_ebpf::GoKey {
                    object: found.object,
                    ..bytemuck::Zeroable::zeroed()
                };
                if let Ok(connection) = super::state::connection(&key, &found.conn) {
                    let _ = super::live::look(&memory, &members, &connection);
                }
            }
        }
    }
    let bytes = data.get(..size_of::<GoConn>()).unwrap_or_default();
    if let Ok(conn) = bytemuck::try_pod_read_unaligned::<GoConn>(bytes)
        && let Ok(connection) = super::state::connection(&bytemuck::Zeroable::zeroed(), &conn)
    {
        let members = offsets::members(None);
        let _ = super::live::look(&memory, &members, &connection);
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::GO_IN_FLIGHT;

    use super::{Scan, offsets, put, read_hostile, referred};
    use crate::memory::Repeated;

    /// A goroutine in `readLoop` that waits for the response to `GET http://h/p`.
    fn waiting() -> Vec<u8> {
        let at = |offset: u64| 0x1_0000 + offset;
        let members = offsets::members(Some(offsets::NEWEST));
        let mut bytes = vec![0; 4096];
        let mut put = |offset: u64, text: &[u8]| {
            let offset = offset as usize;
            bytes[offset..offset + text.len()].copy_from_slice(text);
        };
        // readLoop's place and length, no bias, the three `Close`, and the goroutine.
        for (offset, word) in [
            (0, 0x40_0000),
            (8, 0x100),
            (24, 0x41_0000),
            (32, 0x41_1000),
            (40, 0x41_2000),
            (64, at(0x200)),
        ] {
            put(offset, &u64::to_le_bytes(word));
        }
        for (offset, word) in [
            // the goroutine: its stack, its state, what it waits for
            (0x208, at(0x600)),
            (0x238, at(0x400)),
            (0x200 + members.g_status, 4),
            (0x200 + members.g_wait_reason, 2),
            // its stack: a return address, the connection, a `requestAndChan`
            (0x400, 0x40_0010),
            (0x408, at(0x800)),
            (0x410, at(0xb00)),
            (0x418, at(0xb80)),
            // the connection, its interface, its descriptor
            (0x800 + u64::from(offsets::CONN_CONN), at(0xa00)),
            (0x808 + u64::from(offsets::CONN_CONN), at(0xa80)),
            (0x800 + u64::from(offsets::CONN_TRANSPORT), at(0xf00)),
            (0x800 + members.conn_expected, 1),
            (0xa00 + u64::from(offsets::ITAB_FUN), 0x41_0000),
            (0xa80, at(0xac0)),
            (0xac0 + u64::from(offsets::FD_SYSFD), 7),
            // the request and its URL
            (0xb00, at(0xc00)),
            (0xb80 + super::CHANNEL_ELEMENT_SIZE, 24),
            (0xc00, at(0xe00)),
            (0xc08, 3),
            (0xc10, at(0xd00)),
            (0xd00, at(0xe08)),
            (0xd08, 4),
            (0xd00 + u64::from(offsets::URL_HOST), at(0xe10)),
            (0xd08 + u64::from(offsets::URL_HOST), 1),
            (0xd00 + u64::from(offsets::URL_PATH), at(0xe18)),
            (0xd08 + u64::from(offsets::URL_PATH), 2),
        ] {
            put(offset, &u64::to_le_bytes(word));
        }
        for (offset, text) in [(0xe00, "GET"), (0xe08, "http"), (0xe10, "h"), (0xe18, "/p")] {
            put(offset, text.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_goroutine_leads_to_its_connection_and_request() {
        let bytes = waiting();
        read_hostile(&bytes);
        let memory = Repeated(&bytes);
        let scan = Scan {
            memory: &memory,
            members: &offsets::members(Some(offsets::NEWEST)),
            bias: 0,
            tcp_close: 0x41_0000,
            unix_close: 0x41_1000,
            tls_close: 0x41_2000,
        };
        let found = scan.goroutine(0x1_0200, &(0x40_0000..0x40_0100), 5);
        let found = found.map(|found| (found.object, found.conn));
        assert!(found.is_some_and(|(object, conn)| object == 0x1_0800
            && conn.fd == 7
            && conn.state == GO_IN_FLIGHT
            && conn.requests == 1
            && conn.method.starts_with(b"GET")
            && conn.path.starts_with(b"/p")));
        let elsewhere = scan.goroutine(0x1_0200, &(0x50_0000..0x50_0100), 5);
        assert!(elsewhere.is_none(), "it is not in readLoop");
    }

    #[test]
    fn operands_relative_to_the_instruction_are_found() {
        // mov 0x10(%rip),%rcx at 0x1003; cmp %rax,-0x20(%rip) at 0x100a
        let code = [
            0x90, 0x90, 0x90, 0x48, 0x8b, 0x0d, 0x10, 0, 0, 0, 0x48, 0x39, 0x05, 0xe0, 0xff, 0xff,
            0xff,
        ];
        let found: Vec<u64> = referred(&code, 0x1000).into_iter().collect();
        assert_eq!(found, [0xff1, 0x101a]);
    }

    #[test]
    fn long_text_is_cut_and_its_length_kept() {
        let mut room = [0u8; 4];
        assert_eq!(put(&mut room, b"abcdef"), 6);
        assert_eq!(&room, b"abcd");
    }
}
