//! How connections of HTTP/1 are doing, read from the memory of the process that has them.
//!
//! `net/http` keeps what there is to know where it can be read at any time, so no probe has to follow
//! each request through its states (Go 1.21 to 1.27):
//! - `persistConn.numExpectedResponses` counts requests whose response's head has not come, and
//!   `readLimit` is what may be read of the next head, or practically endless while the body of a
//!   response is not finished (`persistConn.readLoop` in `transport.go`);
//! - `conn.curState` of a server is its `ConnState` below the time of its last change
//!   (`conn.setState` in `server.go`);
//! - `internal/poll.fdMutex.state` has a bit that is set while somebody reads from the descriptor,
//!   or waits to (`fd_mutex.go`), and the descriptor is -1 once it was closed (`fd_unix.go`).

use super::{
    offsets::Members,
    state::{GoConnection, GoKind, Implausible},
};
use crate::memory::Memory;
use crate::model::PoolState;

/// A limit above this is that of bodies, whatever was read so far: it begins as the largest
/// number that is.
const ENDLESS: u64 = 1 << 62;
/// Requests that a connection can be busy with: `net/http` does not pipeline.
const EXPECTED_MAX: u64 = 1_000;
/// `internal/poll.mutexRLock`
const READ_LOCKED: u64 = 1 << 1;
/// Bytes from the start of a `net.netFD` that are of interest.
const FD_BYTES: usize = 64;

/// What the memory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// It is in this state; `fresh`: a server connection without a request so far.
    State {
        /// The state.
        state: PoolState,
        /// No request so far.
        fresh: bool,
    },
    /// It was closed.
    Closed,
    /// It could not be read.
    Unreadable,
}

/// Looks at a client or server connection.
///
/// # Errors
/// [`Implausible`] when what is there can be no such connection.
pub fn look(
    memory: &dyn Memory,
    members: &Members,
    connection: &GoConnection,
) -> Result<Now, Implausible> {
    let mut descriptor = [0; FD_BYTES];
    if connection.net_fd != 0 && !memory.read(connection.net_fd, &mut descriptor) {
        return Ok(Now::Unreadable);
    }
    let word = |offset: u64| {
        usize::try_from(offset)
            .ok()
            .and_then(|o| word(&descriptor, o))
    };
    let (lock, number) = (word(members.fd_mutex), word(members.fd_sysfd));
    let known = connection.net_fd != 0;
    if known && number.map(|n| n as u32 as i32) != connection.fd {
        return Ok(Now::Closed);
    }
    let reading = known && lock.is_some_and(|lock| lock & READ_LOCKED != 0);
    let at = |base: u64, offset: u64| memory.word(base.wrapping_add(offset));
    let object = connection.object;
    if connection.kind == GoKind::Server {
        return match at(object, members.server_state) {
            None => Ok(Now::Unreadable),
            Some(packed) => server(packed),
        };
    }
    let (Some(limit), Some(expected), Some(closed)) = (
        at(object, members.conn_read_limit),
        at(object, members.conn_expected),
        at(object, members.conn_closed),
    ) else {
        return Ok(Now::Unreadable);
    };
    if closed != 0 {
        return Ok(Now::Closed);
    }
    let state = client(expected, limit, reading)?;
    // Whoever sets no bound to heads makes them look like bodies.
    let told_apart = matches!(state, PoolState::InFlight | PoolState::Idle)
        || at(connection.transport, members.transport_header_bytes)
            .is_some_and(|most| most < ENDLESS);
    Ok(Now::State {
        state: if told_apart {
            state
        } else {
            PoolState::Unknown
        },
        fresh: false,
    })
}

fn client(expected: u64, limit: u64, reading: bool) -> Result<PoolState, Implausible> {
    if expected > EXPECTED_MAX {
        return Err(Implausible("number of expected responses"));
    }
    if i64::try_from(limit).is_err() {
        return Err(Implausible("limit of reading"));
    }
    Ok(match (expected, limit > ENDLESS, reading) {
        (1.., _, _) => PoolState::InFlight,
        (0, false, _) => PoolState::Idle,
        (0, true, true) => PoolState::Reading,
        (0, true, false) => PoolState::Response,
    })
}

/// `ConnState` is in the lowest byte.
fn server(packed: u64) -> Result<Now, Implausible> {
    let (state, fresh) = match packed & 0xff {
        0 => (PoolState::Unknown, true),
        1 => (PoolState::InFlight, false),
        2 => (PoolState::Idle, false),
        3 => (PoolState::Released, false),
        4 => return Ok(Now::Closed),
        _ => return Err(Implausible("state of a server's connection")),
    };
    Ok(Now::State { state, fresh })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    word.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{ENDLESS, Now, client, server};
    use crate::model::PoolState;

    const HEAD: u64 = 10 << 20;
    const BODY: u64 = i64::MAX as u64 - 4_096;

    #[test]
    fn clients_are_told_by_what_they_expect_and_may_read() {
        for (expected, limit, reading, state) in [
            (1, HEAD, true, PoolState::InFlight),
            (1, BODY, false, PoolState::InFlight),
            (0, HEAD, true, PoolState::Idle),
            (0, BODY, false, PoolState::Response),
            (0, BODY, true, PoolState::Reading),
        ] {
            assert_eq!(client(expected, limit, reading), Ok(state));
        }
        assert!(client(0xc000_1234, HEAD, false).is_err());
        assert!(client(0, u64::MAX, false).is_err());
        const { assert!(BODY > ENDLESS) };
    }

    #[test]
    fn servers_say_it_themselves() {
        let state = |packed| server(packed);
        let at = |state, fresh| Ok(Now::State { state, fresh });
        let time = 1_700_000_000 << 8;
        assert_eq!(state(time), at(PoolState::Unknown, true));
        assert_eq!(state(time | 1), at(PoolState::InFlight, false));
        assert_eq!(state(time | 2), at(PoolState::Idle, false));
        assert_eq!(state(time | 3), at(PoolState::Released, false));
        assert_eq!(state(time | 4), Ok(Now::Closed));
        assert!(state(0xff).is_err());
    }
}
