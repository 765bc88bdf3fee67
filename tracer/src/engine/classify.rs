//! What one connection looks like at one sweep.

use super::Settings;
use crate::model::{Connection, Framing, Holder, PoolState, Protocol, Role};

/// The condition a live connection is in; exactly one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Class {
    /// Connecting, transferring, or only just idle.
    Active,
    /// A client's request has been waiting for its answer.
    Waiting,
    /// Idle, and another process than the opener holds the descriptor.
    Inherited,
    /// The runtime says: response begun, body neither finished nor closed, no progress.
    Body,
    /// A response that has been arriving for longer than an ordinary one.
    Stream,
    /// Unread bytes, and nobody has read for a while.
    Unread,
    /// The peer closed or reset it a while ago.
    PeerClosed,
    /// The process shut its sending side and keeps the descriptor.
    Shut,
    /// The connect failed and the descriptor is kept.
    Failed,
    /// Idle, never carried a request.
    Unused,
    /// Idle after carrying one request, right after it was opened.
    OneShot,
    /// Idle after its first exchange, and not to be used for requests: it speaks a protocol of its
    /// own, or was upgraded to one.
    Quiet,
    /// Idle between uses, no longer than before.
    Reused,
    /// The same, for long enough that a pool would rather have used it than opened another.
    Parked,
    /// Idle, older than the watch, its use unknown.
    Old,
}

impl Class {
    /// The least in the order of classes.
    pub const FIRST: Class = Class::Active;
    /// The greatest.
    pub const LAST: Class = Class::Old;
}

/// Number of classes.
pub const CLASSES: usize = 15;

/// All classes, in the order of their numbers.
pub const ALL: [Class; CLASSES] = [
    Class::Active,
    Class::Waiting,
    Class::Inherited,
    Class::Body,
    Class::Stream,
    Class::Unread,
    Class::PeerClosed,
    Class::Shut,
    Class::Failed,
    Class::Unused,
    Class::OneShot,
    Class::Quiet,
    Class::Reused,
    Class::Parked,
    Class::Old,
];

/// One connection, classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The class.
    pub class: Class,
    /// How long it has been in this condition, at least; nanoseconds.
    pub stuck_ns: u64,
    /// The peer is gone, whatever the class.
    pub peer_gone: bool,
    /// A server's that waits for no more: nobody listens to it, or its client was not answered.
    pub abandoned: bool,
    /// Looks like an entry of a client's pool: its last exchange was complete.
    pub pool_like: bool,
    /// Used again after its first moments.
    pub reused: bool,
    /// Was idle after one use when the peer closed it.
    pub idle_when_closed: bool,
}

/// A first exchange (handshakes included) is over within this long of the opening.
const FIRST_USE_NS: u64 = 1_500_000_000;
/// More turns than a handshake and one request have, however fast they came.
const FIRST_USE_TURNS: u32 = 8;
/// A closing alert (TLS `close_notify`, 24 to 31 bytes) that nobody reads is no unread response.
const ALERT_BYTES: u32 = 64;
/// What a server of TLS 1.3 sends unasked after the handshake (tickets of sessions, RFC 8446, 4.6.1:
/// OpenSSL two, of some 250 bytes each) is no response to anything.
const TICKETS_BYTES: u32 = 640;
/// A client's hello, and its end of the handshake.
const HANDSHAKE_TURNS: u32 = 2;
/// A peer that closed this long after the last transfer closed an idle connection.
const IDLE_CLOSE_NS: u64 = 1_000_000_000;

/// Classifies a connection at `now_ns`; `None` when it is not open any more.
pub fn classify(now_ns: u64, role: Role, c: &Connection, settings: &Settings) -> Option<Seen> {
    if c.closed_ns.is_some() {
        return None;
    }
    let last_ns = c
        .opened_ns
        .max(c.sent_ns.unwrap_or(0))
        .max(c.received_ns.unwrap_or(0));
    let idle_ns = now_ns.saturating_sub(last_ns);
    let gone = c.peer_closed_ns.is_some() || c.reset;
    let gone_ns = gone_for(now_ns, c, idle_ns);
    let reused = reused(c);
    let pool_like = role == Role::Client && c.turns > 0 && !c.last_was_send;

    let (class, stuck_ns) = if !c.connected && !gone {
        match c.error {
            0 => (Class::Active, 0),
            _ => (Class::Failed, idle_ns),
        }
    } else if matches!(c.holder, Holder::Other(_)) && idle_ns >= settings.close_wait_ns {
        (Class::Inherited, idle_ns)
    } else if c.pool == PoolState::Response && idle_ns >= settings.stuck_ns {
        (Class::Body, idle_ns)
    } else if role == Role::Client && unread(c, gone) && idle_ns >= settings.stuck_ns {
        (Class::Unread, idle_ns)
    } else if gone {
        if gone_ns >= settings.close_wait_ns && idle_ns >= settings.close_wait_ns {
            (Class::PeerClosed, gone_ns)
        } else {
            (Class::Active, 0)
        }
    } else if c.shutdown && idle_ns >= settings.stuck_ns {
        (Class::Shut, idle_ns)
    } else if role == Role::Client {
        client(now_ns, c, idle_ns, reused, settings)
    } else {
        server(c, idle_ns, reused, settings)
    };
    Some(Seen {
        class,
        stuck_ns,
        peer_gone: gone,
        abandoned: role == Role::Server && (c.awaited == Some(false) || !c.last_was_send),
        pool_like,
        reused,
        idle_when_closed: pool_like
            && !reused
            && c.peer_closed_ns
                .is_some_and(|closed| closed.saturating_sub(last_ns) >= IDLE_CLOSE_NS),
    })
}

/// How long the peer has been gone. Nobody saw it go where the connection is older than the
/// watch or was reset: then nothing has been transferred since at least the last transfer.
fn gone_for(now_ns: u64, c: &Connection, idle_ns: u64) -> u64 {
    match c.peer_closed_ns {
        Some(closed) if !c.preexisting => now_ns.saturating_sub(closed),
        _ => idle_ns,
    }
}

fn unread(c: &Connection, gone: bool) -> bool {
    let alert = gone && !c.last_was_send && c.unread <= ALERT_BYTES;
    let tickets = c.protocol == Protocol::Tls
        && c.turns <= HANDSHAKE_TURNS
        && c.last_was_send
        && c.unread <= TICKETS_BYTES;
    c.unread > 0 && !alert && !tickets
}

fn reused(c: &Connection) -> bool {
    if c.preexisting {
        return c.turns > 0;
    }
    let late = c
        .turn_ns
        .is_some_and(|turn| turn.saturating_sub(c.opened_ns) > FIRST_USE_NS);
    c.turns > FIRST_USE_TURNS || (c.turns > 1 && late)
}

fn client(
    now_ns: u64,
    c: &Connection,
    idle_ns: u64,
    reused: bool,
    settings: &Settings,
) -> (Class, u64) {
    let in_flight = match c.pool {
        PoolState::InFlight => true,
        PoolState::Unknown => c.last_was_send && c.sent_ns.is_some(),
        _ => false,
    };
    if in_flight {
        return match idle_ns >= settings.stuck_ns {
            true => (Class::Waiting, idle_ns),
            false => (Class::Active, 0),
        };
    }
    let since_turn_ns = now_ns.saturating_sub(c.turn_ns.unwrap_or(c.opened_ns));
    if streaming(now_ns, c, idle_ns, since_turn_ns, settings) {
        // of what is upgraded every message may look like a request
        let since_opened_ns = now_ns.saturating_sub(c.opened_ns);
        let going_on_ns = if upgraded(c) {
            since_opened_ns
        } else {
            since_turn_ns
        };
        (Class::Stream, going_on_ns)
    } else if idle_ns < settings.idle_ns
        || matches!(c.pool, PoolState::Reading | PoolState::Response)
    {
        // a body that waits to be read is no idle connection, and not yet a leaked one
        (Class::Active, 0)
    } else if upgraded(c) {
        (Class::Quiet, idle_ns)
    } else if reused {
        match idle_ns >= settings.stuck_ns.max(rhythm_ns(c, settings)) {
            true => (Class::Parked, idle_ns),
            false => (Class::Reused, idle_ns),
        }
    } else if c.preexisting {
        (Class::Old, idle_ns)
    } else if c.turns == 0 {
        (Class::Unused, idle_ns)
    } else if carries_requests(c) {
        (Class::OneShot, idle_ns)
    } else {
        (Class::Quiet, idle_ns)
    }
}

/// How long it may be idle as it has been so far: a multiple of the mean time between its uses.
fn rhythm_ns(c: &Connection, settings: &Settings) -> u64 {
    let uses = u64::from(c.turns.saturating_sub(1)).max(1);
    let used_for_ns = c.turn_ns.map_or(0, |turn| turn.saturating_sub(c.opened_ns));
    settings.parked.gaps * (used_for_ns / uses)
}

/// Whether a response, or what an upgraded connection carries, has been arriving for longer than an
/// ordinary answer does.
fn streaming(
    now_ns: u64,
    c: &Connection,
    idle_ns: u64,
    since_turn_ns: u64,
    settings: &Settings,
) -> bool {
    let received_lately = c
        .received_ns
        .is_some_and(|r| now_ns.saturating_sub(r) < settings.stuck_ns);
    if upgraded(c) {
        // whoever speaks first on it, and however often
        return received_lately && now_ns.saturating_sub(c.opened_ns) >= settings.stuck_ns;
    }
    if since_turn_ns < settings.stuck_ns {
        return false;
    }
    let since_sent_ns = c.sent_ns.map_or(u64::MAX, |s| now_ns.saturating_sub(s));
    match c.pool {
        PoolState::Reading => true,
        PoolState::Response => idle_ns < settings.stuck_ns,
        PoolState::Unknown => {
            // the rest of a body that has not come yet, and nothing lies unread: it is waited for
            let unfinished = c.response.is_some_and(|r| {
                !r.complete && !matches!(r.framing, Framing::None | Framing::Unknown)
            });
            (unfinished && c.unread == 0)
                || (c.turns > 0
                    && since_sent_ns >= settings.stuck_ns
                    && received_lately
                    && c.received_ns.is_some_and(|r| {
                        r.saturating_sub(c.turn_ns.unwrap_or(c.opened_ns)) >= settings.idle_ns
                    }))
        }
        _ => false,
    }
}

fn upgraded(c: &Connection) -> bool {
    c.response.is_some_and(|r| r.upgraded)
}

/// Whether it carries requests, as far as one can see.
fn carries_requests(c: &Connection) -> bool {
    c.protocol != Protocol::Unknown || c.pool != PoolState::Unknown
}

fn server(c: &Connection, idle_ns: u64, reused: bool, settings: &Settings) -> (Class, u64) {
    if idle_ns < settings.close_wait_ns {
        (Class::Active, 0)
    } else if reused {
        (Class::Reused, idle_ns)
    } else if c.preexisting {
        (Class::Old, idle_ns)
    } else if c.sent_ns.is_none() && c.received_ns.is_none() {
        (Class::Unused, idle_ns)
    } else if carries_requests(c) {
        (Class::OneShot, idle_ns)
    } else {
        (Class::Quiet, idle_ns)
    }
}
