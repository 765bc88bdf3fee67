//! What the kernel side read of a connection's protocol and of the answer to its latest request.

use tracer_ebpf::{
    HEADS_HTTP, HEADS_TLS, LEFT_MANY, RESPONSE_AWAITED, RESPONSE_CHUNKED, RESPONSE_HEAD_READ,
    RESPONSE_LAST_CHUNK, RESPONSE_LENGTH, RESPONSE_TO_HEAD, RESPONSE_UPGRADED, STATUS_IN_FAILED,
    STATUS_IN_TRANSACTION, STATUS_TO_COME, Sock,
};

use crate::{
    model::{Framing, Protocol, ResponseState, Transaction},
    protocols::{Request, Scheme, Service},
};

/// What a connection speaks, by the first bytes of its turns.
pub fn protocol(sock: &Sock) -> Protocol {
    match sock.heads {
        heads if heads & HEADS_HTTP != 0 => Protocol::Http,
        heads if heads & HEADS_TLS != 0 => Protocol::Tls,
        _ => Protocol::Unknown,
    }
}

/// The open transaction of a connection whose latest request, or first message, was this.
pub fn transaction_of(sock: &Sock, request: Option<&Request>) -> Option<Transaction> {
    let scheme = request?.scheme;
    transaction(sock).filter(|_| scheme == Scheme::Of(Service::Postgres))
}

/// The same; of another protocol than PostgreSQL's it means nothing.
fn transaction(sock: &Sock) -> Option<Transaction> {
    match sock.response_status {
        STATUS_IN_TRANSACTION => Some(Transaction::Open),
        STATUS_IN_FAILED => Some(Transaction::Failed),
        _ => None,
    }
}

/// How its latest request was answered; an interim answer is none.
pub fn response(sock: &Sock) -> Option<ResponseState> {
    let has = |bit: u8| sock.response & bit != 0;
    if sock.response_status == 0 || has(RESPONSE_AWAITED) || transaction(sock).is_some() {
        return None;
    }
    let status = sock.response_status & !STATUS_TO_COME;
    let upgraded = has(RESPONSE_UPGRADED);
    let framing = if !has(RESPONSE_HEAD_READ) {
        Framing::Unknown
    } else if has(RESPONSE_TO_HEAD) || upgraded || matches!(status, 204 | 304) {
        Framing::None
    } else if has(RESPONSE_CHUNKED) {
        Framing::Chunked
    } else if has(RESPONSE_LENGTH) && sock.netns_or_left == LEFT_MANY {
        // too much to be counted
        Framing::Unknown
    } else if has(RESPONSE_LENGTH) {
        Framing::Length
    } else {
        Framing::UntilClose
    };
    let complete = match framing {
        Framing::None => true,
        Framing::Length => sock.netns_or_left == 0,
        Framing::Chunked => has(RESPONSE_LAST_CHUNK),
        Framing::UntilClose | Framing::Unknown => false,
    };
    Some(ResponseState {
        status,
        upgraded,
        framing,
        complete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, bits: u8) -> Sock {
        Sock {
            response_status: status,
            response: bits,
            ..Sock::default()
        }
    }

    fn framing(sock: &Sock) -> Option<(Framing, bool)> {
        response(sock).map(|answer| (answer.framing, answer.complete))
    }

    #[test]
    fn a_body_is_whole_when_as_many_bytes_came_as_were_announced() {
        let mut sock = answered(200, RESPONSE_HEAD_READ | RESPONSE_LENGTH);
        sock.netns_or_left = 1;
        assert_eq!(framing(&sock), Some((Framing::Length, false)));
        sock.netns_or_left = 0;
        assert_eq!(framing(&sock), Some((Framing::Length, true)));
        sock.netns_or_left = LEFT_MANY;
        assert_eq!(framing(&sock), Some((Framing::Unknown, false)));
    }

    #[test]
    fn what_has_no_body_is_whole_with_its_head() {
        let to_head = RESPONSE_HEAD_READ | RESPONSE_LENGTH | RESPONSE_TO_HEAD;
        for sock in [
            answered(200, to_head),
            answered(204, RESPONSE_HEAD_READ),
            answered(304, RESPONSE_HEAD_READ | RESPONSE_LENGTH),
            answered(101, RESPONSE_HEAD_READ | RESPONSE_UPGRADED),
        ] {
            assert_eq!(framing(&sock), Some((Framing::None, true)), "{sock:?}");
        }
    }

    #[test]
    fn chunks_come_before_a_length_and_end_with_the_last() {
        let bits = RESPONSE_HEAD_READ | RESPONSE_CHUNKED | RESPONSE_LENGTH;
        assert_eq!(
            framing(&answered(200, bits)),
            Some((Framing::Chunked, false))
        );
        let bits = bits | RESPONSE_LAST_CHUNK;
        assert_eq!(
            framing(&answered(200, bits)),
            Some((Framing::Chunked, true))
        );
    }

    #[test]
    fn a_transaction_is_no_answer() {
        let open = answered(STATUS_IN_TRANSACTION, 0);
        assert_eq!(
            (transaction(&open), framing(&open)),
            (Some(Transaction::Open), None)
        );
        assert_eq!(transaction(&answered(503, RESPONSE_HEAD_READ)), None);
    }

    #[test]
    fn what_was_not_read_is_not_guessed() {
        assert_eq!(framing(&answered(0, 0)), None);
        assert_eq!(framing(&answered(100, RESPONSE_AWAITED)), None);
        assert_eq!(framing(&answered(503, 0)), Some((Framing::Unknown, false)));
        assert_eq!(
            framing(&answered(200, RESPONSE_HEAD_READ)),
            Some((Framing::UntilClose, false))
        );
    }
}
