//! Requests of HTTP/2, by the header blocks that a client sends.

use super::{
    Scheme,
    hpack::{Fields, Table, Value},
    request::Request,
};

// flags of a HEADERS frame, RFC 9113 section 6.2
const PADDED: u8 = 0x08;
const WITH_PRIORITY: u8 = 0x20;
/// Bytes of a priority.
const PRIORITY_BYTES: usize = 5;
/// Longest method that is believed.
const METHOD_BYTES_MAX: usize = 20;
/// Stands for a target of which nothing is known.
const ANY: &str = "*";

/// The payload of a HEADERS frame, or its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Number among the blocks of its connection.
    pub number: u32,
    /// The frame's flags.
    pub flags: u8,
    /// The block goes on behind these bytes.
    pub cut: bool,
    /// The bytes.
    pub payload: &'a [u8],
}

/// What is known of the requests of one connection.
#[derive(Debug, Default)]
pub struct Requests {
    table: Table,
    /// Number of the latest block.
    latest: u32,
}

impl Requests {
    /// Reads the next block: the request that it is, with a target of `*` where its path stands in a
    /// part of the table that was not seen. `None` for trailers, and for what is no request.
    pub fn read(&mut self, block: &Block<'_>, scheme: Scheme) -> Option<Request> {
        if block.number != self.latest.wrapping_add(1) {
            self.table.forget();
        }
        self.latest = block.number;
        let Some(fragment) = fragment(block) else {
            self.table.forget();
            return None;
        };
        request(self.table.read(fragment, block.cut)?, scheme)
    }
}

/// The fragment of a header block between what may stand around it.
fn fragment<'a>(block: &Block<'a>) -> Option<&'a [u8]> {
    let mut bytes = block.payload;
    if block.flags & PADDED != 0 {
        let (&padding, rest) = bytes.split_first()?;
        // of a frame that is cut, the padding may be what is missing
        bytes = match rest.len().checked_sub(usize::from(padding)) {
            Some(len) if !block.cut => &rest[..len],
            _ if block.cut => rest,
            _ => return None,
        };
    }
    match block.flags & WITH_PRIORITY != 0 {
        true => bytes.get(PRIORITY_BYTES..),
        false => Some(bytes),
    }
}

fn request(fields: Fields, scheme: Scheme) -> Option<Request> {
    let Some(Value::Known(method)) = fields.method else {
        return None;
    };
    let method = String::from_utf8(method).ok()?;
    let plausible = !method.is_empty()
        && method.len() <= METHOD_BYTES_MAX
        && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if !plausible {
        return None;
    }
    let target = match fields.path {
        Some(Value::Target(target)) => target?,
        None if method == "CONNECT" => String::new(),
        Some(Value::Known(_) | Value::Unknown) | None => ANY.to_owned(),
    };
    let host = match fields.authority {
        Some(Value::Known(host)) => String::from_utf8(host).ok().filter(|host| !host.is_empty()),
        _ => None,
    };
    Some(Request {
        method,
        target,
        host,
        scheme,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(requests: &mut Requests, number: u32, payload: &[u8]) -> Option<Request> {
        let block = Block {
            number,
            flags: 4,
            cut: false,
            payload,
        };
        requests.read(&block, Scheme::Http)
    }

    fn literal(index: u8, value: &str) -> Vec<u8> {
        let mut bytes = vec![0x40 | index, value.len() as u8];
        bytes.extend(value.as_bytes());
        bytes
    }

    #[test]
    fn requests_are_named_and_redacted() {
        let mut requests = Requests::default();
        let first = [
            &[0x82][..],
            &literal(4, "/a?token=s3cret"),
            &literal(1, "Shop.test:81"),
        ];
        let said = read(&mut requests, 1, &first.concat());
        let request = |target: &str, host: Option<&str>| {
            Some(Request {
                method: "GET".to_owned(),
                target: target.to_owned(),
                host: host.map(str::to_owned),
                scheme: Scheme::Http,
            })
        };
        assert_eq!(said, request("/a?token=…", Some("shop.test:81")));
        // the same again, by the table
        let again = [0x82, 0xbf, 0xbe];
        assert_eq!(read(&mut requests, 2, &again), said);
        // one was missed
        assert_eq!(read(&mut requests, 4, &again), request("*", None));
        // trailers, an answer, no path
        assert_eq!(read(&mut requests, 5, &[0xbe]), None);
        assert_eq!(read(&mut requests, 6, &[0x88]), None);
        let odd = [&[0x82][..], &literal(4, "no path")].concat();
        assert_eq!(read(&mut requests, 7, &odd), None);
    }

    #[test]
    fn padding_and_priority_are_passed_over() {
        let payload = [2, 0, 0, 0, 0, 9, 0x82, 0x84, 7, 7];
        let mut block = Block {
            number: 1,
            flags: PADDED | WITH_PRIORITY,
            cut: false,
            payload: &payload,
        };
        let said = Requests::default().read(&block, Scheme::Http);
        assert_eq!(said.map(|said| said.target).as_deref(), Some("/"));
        block.payload = &payload[..2];
        assert_eq!(Requests::default().read(&block, Scheme::Http), None);
    }

    proptest! {
        #[test]
        fn secrets_stay_behind(
            value in "SECRET[a-z0-9]{4,12}",
            cut in any::<bool>(),
            keep in 0usize..120,
        ) {
            let mut payload = vec![0x82];
            payload.extend(literal(4, &format!("/a?key={value}")));
            payload.extend(literal(1, &format!("{value}:{value}@host")));
            // authorization, cookie, a name of its own
            payload.extend(literal(23, &value));
            payload.extend(literal(32, &value));
            payload.extend([0x10, value.len() as u8]);
            payload.extend(value.bytes());
            payload.extend([value.len() as u8]);
            payload.extend(value.bytes());
            let keep = if cut { keep.min(payload.len()) } else { payload.len() };
            let mut requests = Requests::default();
            let block = Block { number: 1, flags: 4, cut, payload: &payload[..keep] };
            let said = format!("{:?}", requests.read(&block, Scheme::Https));
            prop_assert!(!said.to_uppercase().contains("SECRET"), "{said}");
        }
    }
}
