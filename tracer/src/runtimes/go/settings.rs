//! The live settings of an `http.Transport`.

use std::time::Duration;

use super::offsets::Members;
use crate::memory::Memory;

/// Larger limits are taken for something else.
const LIMIT_MAX: u64 = 100_000_000;
/// So are longer timeouts: a year.
const TIMEOUT_MAX_NS: u64 = 366 * 24 * 3600 * 1_000_000_000;

/// What a transport is set to; zero means "no limit", as in `net/http`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportSettings {
    /// `DisableKeepAlives`.
    pub disable_keep_alives: bool,
    /// `MaxIdleConns`.
    pub max_idle_conns: u64,
    /// `MaxIdleConnsPerHost`; 0 stands for `net/http.DefaultMaxIdleConnsPerHost`, which is 2.
    pub max_idle_conns_per_host: u64,
    /// `MaxConnsPerHost`.
    pub max_conns_per_host: u64,
    /// `IdleConnTimeout`.
    pub idle_conn_timeout: Duration,
}

/// Reads the settings of the transport at an address; `None` when it is not readable or does not
/// look like one.
#[must_use]
pub fn read(memory: &dyn Memory, members: &Members, transport: u64) -> Option<TransportSettings> {
    let mut bytes = [0u8; 40];
    if transport == 0
        || !memory.read(
            transport.checked_add(members.transport_keep_alives)?,
            &mut bytes,
        )
    {
        return None;
    }
    parse(&bytes)
}

/// `DisableKeepAlives`, `DisableCompression` (one byte each), then four words.
fn parse(bytes: &[u8; 40]) -> Option<TransportSettings> {
    let word = |i: usize| -> Option<u64> {
        Some(u64::from_le_bytes(
            bytes.get(i * 8..i * 8 + 8)?.try_into().ok()?,
        ))
    };
    let limit = |i: usize| word(i).filter(|&n| n <= LIMIT_MAX);
    if bytes[0] > 1 || bytes[1] > 1 {
        return None;
    }
    Some(TransportSettings {
        disable_keep_alives: bytes[0] == 1,
        max_idle_conns: limit(1)?,
        max_idle_conns_per_host: limit(2)?,
        max_conns_per_host: limit(3)?,
        idle_conn_timeout: Duration::from_nanos(word(4).filter(|&ns| ns <= TIMEOUT_MAX_NS)?),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    fn bytes(words: [u64; 5]) -> [u8; 40] {
        let mut bytes = [0; 40];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn settings_are_read_in_their_order() {
        let settings = parse(&bytes([1, 100, 7, 500, 90_000_000_000]));
        assert!(settings.is_some_and(|s| s.disable_keep_alives
            && s.max_idle_conns == 100
            && s.max_idle_conns_per_host == 7
            && s.max_conns_per_host == 500
            && s.idle_conn_timeout == Duration::from_secs(90)));
    }

    #[test]
    fn something_else_is_not_taken_for_settings() {
        assert_eq!(parse(&bytes([2, 0, 0, 0, 0])), None);
        assert_eq!(parse(&bytes([0, 0xc000_1234_5678, 0, 0, 0])), None);
        assert_eq!(parse(&bytes([0, 0, 0, 0, u64::MAX])), None);
    }
}
