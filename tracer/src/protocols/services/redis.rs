//! Redis and its like: commands as arrays of texts, or as lines ("Redis serialization protocol
//! specification").

use super::{
    Message,
    bytes::{begins, line},
};

const PORT: u16 = 6379;
/// Texts of one array that are looked at.
const TEXTS_MAX: usize = 64;
/// Commands as lines, which are for people: the first that they send.
const LINES: &[&str] = &["AUTH", "HELLO", "INFO", "PING", "SELECT"];

/// One or several commands.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    if !message.sent {
        return None;
    }
    let mut rest = message.bytes;
    if rest.first() != Some(&b'*') {
        return by_line(message);
    }
    let mut database = None;
    let mut any = false;
    while let Some((texts, after)) = array(rest) {
        let command = *texts.first()?;
        if !command.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        any = true;
        if command.eq_ignore_ascii_case(b"SELECT") {
            database = texts.get(1).and_then(|text| number(text));
        }
        rest = after;
    }
    // what is cut off has begun like one at least
    (any || begins_array(message.bytes)).then_some(database)
}

fn number(text: &[u8]) -> Option<String> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| String::from_utf8_lossy(text).into_owned())
}

/// `*2\r\n$6\r\n`: the beginning of an array, and of its first text.
fn begins_array(bytes: &[u8]) -> bool {
    let second = counted(bytes, b'*').and_then(|(_, rest)| counted(rest, b'$'));
    second.is_some_and(|(len, rest)| {
        let word = &rest[..rest.len().min(len)];
        len > 0 && !word.is_empty() && word.iter().all(u8::is_ascii_graphic)
    })
}

/// A number of one line behind a sign, and what follows.
fn counted(bytes: &[u8], sign: u8) -> Option<(usize, &[u8])> {
    let rest = bytes.strip_prefix(&[sign])?;
    let end = rest.iter().take(8).position(|&byte| byte == b'\r')?;
    let count = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((count, rest[end..].strip_prefix(b"\r\n")?))
}

type Array<'a> = (Vec<&'a [u8]>, &'a [u8]);

/// The texts of an array that is there whole, and what follows.
fn array(bytes: &[u8]) -> Option<Array<'_>> {
    let (count, mut rest) = counted(bytes, b'*')?;
    if !(1..=TEXTS_MAX).contains(&count) {
        return None;
    }
    let mut texts = Vec::new();
    for _ in 0..count {
        let (len, text) = counted(rest, b'$')?;
        texts.push(text.get(..len)?);
        rest = text.get(len..)?.strip_prefix(b"\r\n")?;
    }
    Some((texts, rest))
}

fn by_line(message: &Message<'_>) -> Option<Option<String>> {
    if message.port != PORT {
        return None;
    }
    let line = line(message.bytes)?;
    let mut words = line.split(' ');
    let command = words.next()?;
    LINES
        .iter()
        .any(|known| command.len() == known.len() && begins(command.as_bytes(), known))
        .then(|| match command.eq_ignore_ascii_case("SELECT") {
            true => words.next().and_then(|text| number(text.as_bytes())),
            false => None,
        })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    fn database(bytes: &[u8]) -> Option<(&'static str, Option<String>)> {
        heard(&sent(bytes, 6400))
    }

    #[test]
    fn a_database_is_selected() {
        let select = b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
        let expected = Some(("redis", Some("3".to_owned())));
        assert_eq!(database(select), expected);
        let several = [&b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"[..], select].concat();
        assert_eq!(database(&several), expected);
        assert_eq!(database(b"*1\r\n$4\r\nPING\r\n"), Some(("redis", None)));
        assert_eq!(heard(&received(select, 6379)), None);
    }

    #[test]
    fn a_command_may_be_cut_or_a_line() {
        let cut = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500\r\n{}", "x".repeat(500));
        assert_eq!(database(cut.as_bytes()), Some(("redis", None)));
        assert_eq!(database(b"SELECT 1\r\n"), None);
        let expected = Some(("redis", Some("1".to_owned())));
        assert_eq!(heard(&sent(b"SELECT 1\r\n", 6379)), expected);
        assert_eq!(database(b"*5 stars\r\n"), None);
        assert_eq!(database(b"*1\r\n$3\r\n\x01\x02\x03\r\n"), None);
    }
}
