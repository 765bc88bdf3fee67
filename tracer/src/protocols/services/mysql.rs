//! MySQL and MariaDB: the server greets, the client answers ("Connection Phase" in MySQL's internals
//! manual).

use super::{
    Message,
    bytes::{le24, le32, text, zero_ended},
};

const HEADER: usize = 4;
const GREETING_VERSION: u8 = 10;
const PORT: u16 = 3306;
// capabilities of the client
const WITH_DATABASE: usize = 1 << 3;
const PROTOCOL_41: usize = 1 << 9;
const TLS: usize = 1 << 11;
const SECURE_CONNECTION: usize = 1 << 15;
const LENGTH_ENCODED: usize = 1 << 21;
/// Header, capabilities, largest packet, character set, and what is reserved.
const BEFORE_USER: usize = HEADER + 4 + 4 + 1 + 23;
const USE_DATABASE: u8 = 2;

/// The server's greeting, the client's answer, or a command.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    let len = le24(bytes, 0)?;
    if len == 0 || len + HEADER != message.len {
        return None;
    }
    let number = *bytes.get(3)?;
    if !message.sent {
        return (number == 0 && is_greeting(bytes)).then_some(None);
    }
    match number {
        1 | 2 => answer(bytes, message),
        // commands: of a connection that began earlier the port has to agree
        0 if message.port == PORT && (1..=0x1f).contains(bytes.get(HEADER)?) => {
            let used = bytes[HEADER] == USE_DATABASE;
            let name = used.then(|| text(bytes, HEADER + 1, len - 1)).flatten();
            Some(name.map(str::to_owned))
        }
        _ => None,
    }
}

/// Version 10, and the server's version as a text.
fn is_greeting(bytes: &[u8]) -> bool {
    let version = zero_ended(bytes, HEADER + 1);
    bytes.get(HEADER) == Some(&GREETING_VERSION)
        && version.is_some_and(|(text, _)| {
            text.contains('.')
                && text.starts_with(|c: char| c.is_ascii_digit())
                && text.bytes().all(|b| b.is_ascii_graphic())
        })
}

/// The client's answer to the greeting, or its wish for TLS.
fn answer(bytes: &[u8], message: &Message<'_>) -> Option<Option<String>> {
    let wants = le32(bytes, HEADER)?;
    let reserved = bytes.get(HEADER + 9..HEADER + 9 + 19)?;
    if wants & PROTOCOL_41 == 0 || reserved.iter().any(|&byte| byte != 0) {
        return None;
    }
    if message.len == BEFORE_USER {
        return (wants & TLS != 0).then_some(None);
    }
    Some(database(bytes, wants).map(str::to_owned))
}

fn database(bytes: &[u8], wants: usize) -> Option<&str> {
    if wants & WITH_DATABASE == 0 {
        return None;
    }
    let (_, secret) = zero_ended(bytes, BEFORE_USER)?;
    let at = if wants & (LENGTH_ENCODED | SECURE_CONNECTION) != 0 {
        // longer ones have another form of length
        let len = *bytes.get(secret)?;
        (len < 251).then(|| secret + 1 + usize::from(len))?
    } else {
        zero_ended(bytes, secret)?.1
    };
    zero_ended(bytes, at).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};
    use super::*;

    fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(number);
        bytes.extend(payload);
        bytes
    }

    fn login(wants: usize) -> Vec<u8> {
        let mut payload = (wants as u32).to_le_bytes().to_vec();
        payload.extend([0, 0, 0, 1, 45]);
        payload.extend([0; 23]);
        payload.extend(b"app\0");
        payload.push(20);
        payload.extend([7; 20]);
        payload.extend(b"orders\0mysql_native_password\0");
        packet(1, &payload)
    }

    #[test]
    fn the_database_is_in_the_answer_to_the_greeting() {
        let greeting = packet(0, b"\x0a5.5.5-10.11.6-MariaDB\0\x05\0\0\0abcdefgh\0");
        assert_eq!(heard(&received(&greeting, 4000)), Some(("mysql", None)));
        assert_eq!(heard(&sent(&greeting, 4000)), None);
        let wants = WITH_DATABASE | PROTOCOL_41 | SECURE_CONNECTION;
        let expected = Some(("mysql", Some("orders".to_owned())));
        assert_eq!(heard(&sent(&login(wants), 4000)), expected);
        let none = login(PROTOCOL_41 | SECURE_CONNECTION);
        assert_eq!(heard(&sent(&none, 4000)), Some(("mysql", None)));
    }

    #[test]
    fn a_database_is_changed_to() {
        let change = packet(0, b"\x02orders");
        let expected = Some(("mysql", Some("orders".to_owned())));
        assert_eq!(heard(&sent(&change, PORT)), expected);
        assert_eq!(heard(&sent(&change, 4000)), None);
        let query = packet(0, b"\x03select 'secret'");
        assert_eq!(heard(&sent(&query, PORT)), Some(("mysql", None)));
    }
}
