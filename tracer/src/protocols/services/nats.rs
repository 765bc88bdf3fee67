//! NATS: the server's `INFO`, or the client's `CONNECT`, each with a JSON object.

use super::{Message, bytes::begins};

/// What each end says first.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let first = if message.sent { "CONNECT {" } else { "INFO {" };
    begins(message.bytes, first).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    #[test]
    fn the_server_informs_and_the_client_connects() {
        let info = b"INFO {\"server_id\":\"N\"}\r\n";
        assert_eq!(heard(&received(info, 1)), Some(("nats", None)));
        assert_eq!(heard(&sent(info, 1)), None);
        let connect = b"CONNECT {\"verbose\":false}\r\nPING\r\n";
        assert_eq!(heard(&sent(connect, 1)), Some(("nats", None)));
    }
}
