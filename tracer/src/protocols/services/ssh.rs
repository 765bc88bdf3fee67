//! SSH: the line that both ends begin with (RFC 4253 section 4.2).

use super::{Message, bytes::begins};

/// The line of either end.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let version = begins(message.bytes, "SSH-2.0-") || begins(message.bytes, "SSH-1.99-");
    version.then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    #[test]
    fn both_ends_tell_their_version() {
        assert_eq!(
            heard(&sent(b"SSH-2.0-OpenSSH_9.2\r\n", 1)),
            Some(("ssh", None))
        );
        assert_eq!(
            heard(&received(b"SSH-2.0-dropbear\r\n", 1)),
            Some(("ssh", None))
        );
        assert_eq!(heard(&sent(b"SSH-like\r\n", 22)), None);
    }
}
