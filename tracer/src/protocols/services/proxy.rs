//! The PROXY protocol, versions 1 and 2: what a proxy says before it passes on what a client sends.

use super::{
    Message,
    bytes::{be16, begins, line},
};

const LINE_BYTES_MAX: usize = 107;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The message without a header of this protocol at its beginning; `None` where there is none.
pub(super) fn behind<'a>(message: &Message<'a>) -> Option<Message<'a>> {
    let header = if begins(message.bytes, "PROXY ") {
        let line = line(message.bytes).filter(|line| line.len() < LINE_BYTES_MAX)?;
        let family = line.split(' ').nth(1)?;
        matches!(family, "TCP4" | "TCP6" | "UNKNOWN").then_some(line.len() + 2)?
    } else if message.bytes.starts_with(SIGNATURE) {
        16 + be16(message.bytes, 14)?
    } else {
        return None;
    };
    Some(Message {
        bytes: message.bytes.get(header..)?,
        len: message.len.checked_sub(header)?,
        ..*message
    })
}

#[cfg(test)]
mod tests {
    use super::super::{
        passed_on,
        tests::{heard, sent},
    };

    #[test]
    fn what_follows_the_header_is_what_is_spoken() {
        let first = b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 5432\r\n";
        let ask = [0, 0, 0, 8, 4, 210, 22, 47];
        let both = [&first[..], &ask].concat();
        assert_eq!(heard(&sent(&both, 5432)), Some(("postgres", None)));
        assert_eq!(heard(&sent(first, 5432)), None);
        let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x9c\x40\x15\x38";
        let both = [&second[..], &ask].concat();
        assert_eq!(heard(&sent(&both, 5432)), Some(("postgres", None)));
    }

    #[test]
    fn a_request_behind_the_header_is_a_request() {
        let whole =
            b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 80\r\nGET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n";
        let head = passed_on(&sent(whole, 80));
        let said = head.map(|head| (head.method, head.target, head.host));
        let expected = ("GET".to_owned(), "/a?b=…".to_owned(), Some("h".to_owned()));
        assert_eq!(said, Some(expected));
        assert_eq!(passed_on(&sent(b"GET /a HTTP/1.1\r\n\r\n", 80)), None);
        assert_eq!(passed_on(&sent(&whole[..39], 80)), None);
    }
}
