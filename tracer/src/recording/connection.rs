//! One connection as bytes: what changed since it was written last.

use super::{
    Fault,
    wire::{self, Take},
};
use crate::model::{
    CohortId, Connection, Framing, Holder, PoolState, Protocol, ResponseState, Role,
};

/// A connection with where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its leaf.
    pub leaf: CohortId,
    /// Client or server.
    pub role: Role,
    /// What was seen of it; its `sk` is the slot.
    pub connection: Connection,
}

/// The parts that are written where they changed; the order of their bits is that of the bytes.
mod part {
    pub(super) const LEAF: u64 = 1 << 0;
    pub(super) const FLAGS: u64 = 1 << 1;
    pub(super) const OPENED: u64 = 1 << 2;
    pub(super) const SENT: u64 = 1 << 3;
    pub(super) const RECEIVED: u64 = 1 << 4;
    pub(super) const TURN: u64 = 1 << 5;
    pub(super) const PEER_CLOSED: u64 = 1 << 6;
    pub(super) const TURNS: u64 = 1 << 7;
    pub(super) const UNREAD: u64 = 1 << 8;
    pub(super) const FD: u64 = 1 << 9;
    pub(super) const HOLDER: u64 = 1 << 10;
    pub(super) const ERROR: u64 = 1 << 11;
    pub(super) const RESPONSE: u64 = 1 << 12;
    pub(super) const AWAITED: u64 = 1 << 13;
    pub(super) const ALL: u64 = (1 << 14) - 1;
}

/// A connection before anything is known of it.
pub fn unknown(slot: u32) -> Member {
    Member {
        leaf: CohortId(0),
        role: Role::Client,
        connection: Connection {
            sk: u64::from(slot),
            holder: Holder::Opener,
            ..Connection::default()
        },
    }
}

/// Appends what of `new` differs from `old`, which is of the same slot.
pub fn put(out: &mut Vec<u8>, now_ns: u64, old: &Member, new: &Member) {
    let (a, b) = (&old.connection, &new.connection);
    let mut parts = 0;
    for (part, differs) in [
        (part::LEAF, old.leaf != new.leaf),
        (part::FLAGS, flags(old) != flags(new)),
        (part::OPENED, a.opened_ns != b.opened_ns),
        (part::SENT, a.sent_ns != b.sent_ns),
        (part::RECEIVED, a.received_ns != b.received_ns),
        (part::TURN, a.turn_ns != b.turn_ns),
        (part::PEER_CLOSED, a.peer_closed_ns != b.peer_closed_ns),
        (part::TURNS, a.turns != b.turns),
        (part::UNREAD, a.unread != b.unread),
        (part::FD, a.fd != b.fd),
        (part::HOLDER, a.holder != b.holder),
        (part::ERROR, a.error != b.error),
        (part::RESPONSE, a.response != b.response),
        (part::AWAITED, a.awaited != b.awaited),
    ] {
        if differs {
            parts |= part;
        }
    }
    wire::put(out, parts);
    let has = |part| parts & part != 0;
    if has(part::LEAF) {
        wire::put(out, u64::from(new.leaf.0));
    }
    if has(part::FLAGS) {
        wire::put(out, flags(new));
    }
    if has(part::OPENED) {
        wire::put_signed(out, now_ns.wrapping_sub(b.opened_ns) as i64);
    }
    if has(part::SENT) {
        wire::put_time(out, now_ns, b.sent_ns);
    }
    let base_ns = b.sent_ns.unwrap_or(now_ns);
    for (part, time_ns) in [(part::RECEIVED, b.received_ns), (part::TURN, b.turn_ns)] {
        if has(part) {
            wire::put_time(out, base_ns, time_ns);
        }
    }
    if has(part::PEER_CLOSED) {
        wire::put_time(out, now_ns, b.peer_closed_ns);
    }
    for (part, number) in [(part::TURNS, b.turns), (part::UNREAD, b.unread)] {
        if has(part) {
            wire::put(out, u64::from(number));
        }
    }
    if has(part::FD) {
        wire::put_signed(out, b.fd.map_or(-1, i64::from));
    }
    if has(part::HOLDER) {
        wire::put(
            out,
            match b.holder {
                Holder::Opener => 0,
                Holder::Nobody => 1,
                Holder::Unknown => 2,
                Holder::Other(pid) => u64::from(pid) + 3,
            },
        );
    }
    if has(part::ERROR) {
        wire::put(out, u64::from(b.error));
    }
    if has(part::RESPONSE) {
        put_response(out, b.response);
    }
    if has(part::AWAITED) {
        wire::put(out, b.awaited.map_or(2, u64::from));
    }
}

/// The changed connection.
///
/// # Errors
/// [`Fault`] for bytes that [`put`] does not write.
pub fn take(from: &mut impl Take, now_ns: u64, old: &Member) -> Result<Member, Fault> {
    let mut new = *old;
    let parts = from.at_most(part::ALL, "a part of a connection that is not known")?;
    let has = |part| parts & part != 0;
    if has(part::LEAF) {
        new.leaf = CohortId(from.word("the number of a population")?);
    }
    if has(part::FLAGS) {
        set_flags(&mut new, from.number()?)?;
    }
    let c = &mut new.connection;
    if has(part::OPENED) {
        c.opened_ns = wire::sane(now_ns.wrapping_sub(from.signed()? as u64))?;
    }
    if has(part::SENT) {
        c.sent_ns = from.time(now_ns)?;
    }
    let base_ns = c.sent_ns.unwrap_or(now_ns);
    if has(part::RECEIVED) {
        c.received_ns = from.time(base_ns)?;
    }
    if has(part::TURN) {
        c.turn_ns = from.time(base_ns)?;
    }
    if has(part::PEER_CLOSED) {
        c.peer_closed_ns = from.time(now_ns)?;
    }
    if has(part::TURNS) {
        c.turns = from.word("a number of requests")?;
    }
    if has(part::UNREAD) {
        c.unread = from.word("a number of unread bytes")?;
    }
    if has(part::FD) {
        c.fd = i32::try_from(from.signed()?).ok().filter(|&fd| fd >= 0);
    }
    if has(part::HOLDER) {
        let most = u64::from(u32::MAX) + 3;
        c.holder = match from.at_most(most, "the number of a process")? {
            0 => Holder::Opener,
            1 => Holder::Nobody,
            2 => Holder::Unknown,
            pid => Holder::Other((pid - 3) as u32),
        };
    }
    if has(part::ERROR) {
        c.error = from.at_most(u64::from(u16::MAX), "an error number")? as u16;
    }
    if has(part::RESPONSE) {
        c.response = take_response(from)?;
    }
    if has(part::AWAITED) {
        c.awaited = match from.at_most(2, "who waits for a connection")? {
            2 => None,
            waits => Some(waits == 1),
        };
    }
    Ok(new)
}

fn flags(of: &Member) -> u64 {
    let c = &of.connection;
    let pool = match c.pool {
        PoolState::Unknown => 0,
        PoolState::InFlight => 1,
        PoolState::Response => 2,
        PoolState::Reading => 3,
        PoolState::Idle => 4,
        PoolState::Released => 5,
    };
    let protocol = match c.protocol {
        Protocol::Unknown => 0,
        Protocol::Http => 1,
        Protocol::Tls => 2,
        Protocol::Stream => 3,
    };
    let transaction = u64::from(c.in_transaction);
    [
        of.role == Role::Server,
        c.connected,
        c.reset,
        c.shutdown,
        c.preexisting,
        c.last_was_send,
        c.pair,
    ]
    .into_iter()
    .enumerate()
    .fold(
        pool << 7 | protocol << 10 | transaction << 12,
        |bits, (at, set)| bits | u64::from(set) << at,
    )
}

fn set_flags(of: &mut Member, bits: u64) -> Result<(), Fault> {
    let set = |at: u32| bits >> at & 1 == 1;
    of.role = match set(0) {
        true => Role::Server,
        false => Role::Client,
    };
    let c = &mut of.connection;
    c.connected = set(1);
    c.reset = set(2);
    c.shutdown = set(3);
    c.preexisting = set(4);
    c.last_was_send = set(5);
    c.pair = set(6);
    c.pool = match bits >> 7 & 7 {
        0 => PoolState::Unknown,
        1 => PoolState::InFlight,
        2 => PoolState::Response,
        3 => PoolState::Reading,
        4 => PoolState::Idle,
        5 => PoolState::Released,
        _ => return Err(Fault::Malformed("a state of a pool that is not known")),
    };
    c.in_transaction = set(12);
    c.protocol = match bits >> 10 & !4 {
        0 => Protocol::Unknown,
        1 => Protocol::Http,
        2 => Protocol::Tls,
        3 => Protocol::Stream,
        _ => return Err(Fault::Malformed("a protocol that is not known")),
    };
    Ok(())
}

fn put_response(out: &mut Vec<u8>, response: Option<ResponseState>) {
    let Some(r) = response else {
        wire::put(out, 0);
        return;
    };
    let framing = match r.framing {
        Framing::None => 0,
        Framing::Length => 1,
        Framing::Chunked => 2,
        Framing::UntilClose => 3,
        Framing::Unknown => 4,
    };
    let bits = framing << 2 | u64::from(r.complete) << 1 | u64::from(r.upgraded);
    wire::put(out, bits + 1);
    wire::put(out, u64::from(r.status));
    // in this format there are numbers of bytes, received and announced, which nothing needs
    wire::put(out, 0);
    if framing == 1 {
        wire::put(out, 0);
    }
}

fn take_response(from: &mut impl Take) -> Result<Option<ResponseState>, Fault> {
    let bits = match from.number()? {
        0 => return Ok(None),
        bits => bits - 1,
    };
    let status = from.at_most(u64::from(u16::MAX), "a status code")? as u16;
    from.number()?;
    let framing = match bits >> 2 {
        0 => Framing::None,
        1 => {
            from.number()?;
            Framing::Length
        }
        2 => Framing::Chunked,
        3 => Framing::UntilClose,
        4 => Framing::Unknown,
        _ => return Err(Fault::Malformed("a framing that is not known")),
    };
    Ok(Some(ResponseState {
        status,
        upgraded: bits & 1 == 1,
        framing,
        complete: bits >> 1 & 1 == 1,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(0..1u64 << 60)
    }

    fn framing() -> impl Strategy<Value = Framing> {
        prop_oneof![
            Just(Framing::None),
            Just(Framing::Length),
            Just(Framing::Chunked),
            Just(Framing::UntilClose),
            Just(Framing::Unknown),
        ]
    }

    fn response() -> impl Strategy<Value = Option<ResponseState>> {
        let parts = (any::<(u16, bool, bool)>(), framing());
        proptest::option::of(parts.prop_map(|((status, upgraded, complete), framing)| {
            ResponseState {
                status,
                upgraded,
                framing,
                complete,
            }
        }))
    }

    /// Any connection in a slot.
    pub fn member(slot: u32) -> impl Strategy<Value = Member> {
        let times = (0..1u64 << 60, time(), time(), time(), time());
        let flags = any::<[bool; 10]>();
        let numbers = any::<(u32, u32, u16, u32)>();
        let holder = prop_oneof![
            Just(Holder::Opener),
            Just(Holder::Nobody),
            Just(Holder::Unknown),
            any::<u32>().prop_map(Holder::Other),
        ];
        let pool = prop_oneof![
            Just(PoolState::Unknown),
            Just(PoolState::Idle),
            Just(PoolState::Released)
        ];
        let protocol = prop_oneof![
            Just(Protocol::Unknown),
            Just(Protocol::Http),
            Just(Protocol::Tls),
            Just(Protocol::Stream)
        ];
        let fd = proptest::option::of(0..i32::MAX);
        (
            times,
            flags,
            numbers,
            holder,
            pool,
            protocol,
            fd,
            response(),
        )
            .prop_map(
                move |(times, flags, numbers, holder, pool, protocol, fd, response)| Member {
                    leaf: CohortId(numbers.3),
                    role: if flags[0] { Role::Server } else { Role::Client },
                    connection: Connection {
                        sk: u64::from(slot),
                        opened_ns: times.0,
                        sent_ns: times.1,
                        received_ns: times.2,
                        turn_ns: times.3,
                        peer_closed_ns: times.4,
                        closed_ns: None,
                        turns: numbers.0,
                        unread: numbers.1,
                        fd,
                        holder,
                        connected: flags[1],
                        reset: flags[2],
                        shutdown: flags[3],
                        preexisting: flags[4],
                        error: numbers.2,
                        last_was_send: flags[5],
                        awaited: flags[7].then_some(flags[8]),
                        pair: flags[6],
                        pool,
                        protocol,
                        response,
                        in_transaction: flags[9],
                    },
                },
            )
    }

    proptest! {
        #[test]
        fn any_connection_comes_back(old in member(3), new in member(3), now_ns in 0..1u64 << 60) {
            for (before, after) in [(&unknown(3), &old), (&old, &new), (&new, &new)] {
                let mut bytes = Vec::new();
                put(&mut bytes, now_ns, before, after);
                let mut rest = bytes.as_slice();
                let read = take(&mut rest, now_ns, before);
                prop_assert!(rest.is_empty());
                prop_assert_eq!(read.ok(), Some(*after));
            }
        }
    }
}
