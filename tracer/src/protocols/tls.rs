//! The server name in a TLS ClientHello (RFC 8446 section 4.1.2), as far as the bytes reach.

/// What is kept of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientHello {
    /// Server name (RFC 6066 section 3).
    pub(super) sni: Option<String>,
}

const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// Reads a ClientHello; `None` when the bytes do not begin like one.
pub(super) fn client_hello(bytes: &[u8]) -> Option<ClientHello> {
    let mut record = Reader(bytes);
    let [kind, major, _minor, _, _, handshake] = *record.take(6)? else {
        return None;
    };
    if kind != RECORD_HANDSHAKE || major != 3 || handshake != HANDSHAKE_CLIENT_HELLO {
        return None;
    }
    Some(ClientHello {
        sni: server_name(record),
    })
}

/// Everything behind the handshake type byte.
fn server_name(mut r: Reader<'_>) -> Option<String> {
    r.take(3)?; // handshake length
    r.take(2 + 32)?; // legacy version, random
    let session = usize::from(r.u8()?);
    r.take(session)?;
    let suites = usize::from(r.u16()?);
    r.take(suites)?;
    let compression = usize::from(r.u8()?);
    r.take(compression)?;
    r.u16()?; // length of all extensions: the bytes may end before
    loop {
        let kind = r.u16()?;
        let length = usize::from(r.u16()?);
        let body = r.take(length)?;
        if kind == EXTENSION_SERVER_NAME {
            let mut list = Reader(body);
            list.u16()?;
            if list.u8()? != NAME_TYPE_HOST {
                return None;
            }
            let length = usize::from(list.u16()?);
            return plausible(list.take(length)?);
        }
    }
}

fn plausible(name: &[u8]) -> Option<String> {
    let fine = !name.is_empty()
        && name.len() <= 253
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    fine.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let b = self.take(2)?;
        Some(u16::from_be_bytes([b[0], b[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with the given session id length and server name.
    fn hello(session: u8, name: &[u8]) -> Vec<u8> {
        let mut b = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        b.extend([7; 32]);
        b.push(session);
        b.extend(vec![9; usize::from(session)]);
        b.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
        b.extend([0, 200]);
        b.extend([0, 0x17, 0, 0]); // extended_master_secret, empty
        let n = name.len() as u16;
        b.extend([0, 0]);
        b.extend((n + 5).to_be_bytes());
        b.extend((n + 3).to_be_bytes());
        b.push(0);
        b.extend(n.to_be_bytes());
        b.extend(name);
        b
    }

    #[test]
    fn name_is_found_and_cut_names_are_not() {
        for session in [0, 32] {
            let bytes = hello(session, b"Api.Example.com");
            let whole = client_hello(&bytes).and_then(|h| h.sni);
            assert_eq!(whole.as_deref(), Some("api.example.com"));
            for cut in 6..bytes.len() {
                assert_eq!(client_hello(&bytes[..cut]), Some(ClientHello { sni: None }));
            }
        }
        assert_eq!(
            client_hello(&hello(0, b"a\nb")),
            Some(ClientHello { sni: None })
        );
        assert_eq!(client_hello(b"\x17\x03\x03\x00\x10\x01"), None);
    }
}
