//! HPACK (RFC 7541): of header blocks, the three fields that name a request.
//!
//! Indices count from the newest entry, so a table that was joined late is right as far as it goes:
//! what was inserted before is not known, and said so. Of all other fields only the place that they
//! take in the table is kept, and of the three nothing that may be secret.

use std::collections::VecDeque;

use super::{http1::host, redact::redact_target};

/// Entries remembered; a table of the usual 4,096 bytes has at most 128.
const ENTRIES_MAX: usize = 256;
/// Bytes kept of one value.
const VALUE_BYTES_MAX: usize = 512;
/// Entries of the static table (appendix A).
const STATIC_ENTRIES: usize = 61;
/// Fields of one block that are looked at.
const FIELDS_MAX: usize = 256;

/// Which field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Method,
    Authority,
    Path,
    /// One that is of no interest, or not known.
    Other,
}

/// A value, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A method, or the host of an authority.
    Known(Vec<u8>),
    /// A path and query, redacted; `None`: it is no path.
    Target(Option<String>),
    /// It stands in a part of the table that was not seen, or is not kept.
    Unknown,
}

/// What a header block says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fields {
    /// `:method`
    pub method: Option<Value>,
    /// `:authority`, or `host`
    pub authority: Option<Value>,
    /// `:path`
    pub path: Option<Value>,
    /// A field is not known at all.
    pub unknown: bool,
}

/// The dynamic table of one direction, newest entry first.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<(Name, Value)>,
}

impl Table {
    /// A block was missed: which entry has which index is not known any more.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
    }

    /// Reads a block; `cut`: it goes on. `None` where it can be none, and nothing is known of the
    /// table then.
    pub(super) fn read(&mut self, block: &[u8], cut: bool) -> Option<Fields> {
        let mut fields = Fields::default();
        let mut bytes = Bytes(block);
        let whole = self.read_fields(&mut bytes, &mut fields);
        if whole.is_none() || cut {
            self.forget();
        }
        match whole {
            Some(()) => Some(fields),
            // what came before the end is right
            None if cut => Some(fields),
            None => None,
        }
    }

    fn read_fields(&mut self, bytes: &mut Bytes<'_>, fields: &mut Fields) -> Option<()> {
        for _ in 0..FIELDS_MAX {
            let Some(&first) = bytes.0.first() else {
                return Some(());
            };
            match first {
                0x80.. => {
                    let index = bytes.integer(7)?;
                    let (name, value) = self.entry(index)?;
                    fields.set(name, value, index);
                }
                0x40..=0x7f => {
                    let (name, value) = self.literal(bytes, 6)?;
                    self.entries.truncate(ENTRIES_MAX - 1);
                    self.entries.push_front((name, value.clone()));
                    fields.set(name, value, 1);
                }
                0x20..=0x3f => {
                    bytes.integer(5)?;
                }
                _ => {
                    let (name, value) = self.literal(bytes, 4)?;
                    fields.set(name, value, 1);
                }
            }
        }
        None
    }

    /// Section 6.2: name and value.
    fn literal(&self, bytes: &mut Bytes<'_>, prefix: u32) -> Option<(Name, Value)> {
        let name = match bytes.integer(prefix)? {
            0 => name(&bytes.string()?.decoded(16)?.0),
            index => self.entry(index)?.0,
        };
        let value = bytes.string()?;
        let value = match name {
            Name::Other => return Some((name, Value::Unknown)),
            _ => value.decoded(VALUE_BYTES_MAX)?,
        };
        let value = match (name, value) {
            (Name::Path, (path, whole)) => {
                Value::Target(path_of(&path).map(|path| redact_target(path, !whole)))
            }
            (Name::Method, (method, true)) => Value::Known(method),
            (Name::Authority, (authority, true)) => {
                host(&authority).map_or(Value::Unknown, |host| Value::Known(host.into()))
            }
            _ => Value::Unknown,
        };
        Some((name, value))
    }

    fn entry(&self, index: usize) -> Option<(Name, Value)> {
        let known = |name, value: &[u8]| Some((name, Value::Known(value.to_vec())));
        let path = |path: &str| Some((Name::Path, Value::Target(Some(path.to_owned()))));
        match index {
            0 => None,
            1 => known(Name::Authority, b""),
            2 => known(Name::Method, b"GET"),
            3 => known(Name::Method, b"POST"),
            4 => path("/"),
            5 => path("/index.html"),
            38 => known(Name::Authority, b""),
            6..=STATIC_ENTRIES => Some((Name::Other, Value::Unknown)),
            _ => match self.entries.get(index - STATIC_ENTRIES - 1) {
                Some(entry) => Some(entry.clone()),
                None => Some((Name::Other, Value::Unknown)),
            },
        }
    }
}

impl Fields {
    fn set(&mut self, name: Name, value: Value, index: usize) {
        let field = match name {
            Name::Method => &mut self.method,
            Name::Authority => &mut self.authority,
            Name::Path => &mut self.path,
            Name::Other => {
                self.unknown |= index > STATIC_ENTRIES;
                return;
            }
        };
        field.get_or_insert(value);
    }
}

/// A path, which begins with a slash, or is `*` (RFC 9113 section 8.3.1).
fn path_of(path: &[u8]) -> Option<&[u8]> {
    (path.first() == Some(&b'/') || path == b"*").then_some(path)
}

fn name(bytes: &[u8]) -> Name {
    match bytes {
        b":method" => Name::Method,
        b":authority" | b"host" => Name::Authority,
        b":path" => Name::Path,
        _ => Name::Other,
    }
}

/// A string that may be coded (section 5.2).
struct Text<'a> {
    bytes: &'a [u8],
    coded: bool,
}

impl Text<'_> {
    /// Its bytes, at most this many, and whether that is all.
    fn decoded(&self, most: usize) -> Option<(Vec<u8>, bool)> {
        if self.coded {
            return decode(self.bytes, most);
        }
        let kept = self.bytes.get(..most).unwrap_or(self.bytes);
        Some((kept.to_vec(), kept.len() == self.bytes.len()))
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Section 5.1, with a prefix of this many bits.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Text<'a>> {
        let coded = self.0.first()? & 0x80 != 0;
        let len = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(Text { bytes, coded })
    }
}

/// Symbols of the code: all bytes, and the end of a string.
const SYMBOLS: usize = 257;
const END: u16 = 256;
/// Bits of the longest code.
const BITS_MAX: usize = 30;

/// Bits of each symbol's code (appendix B). Codes of one length follow the order of their symbols,
/// and longer ones follow shorter ones, so their lengths say all.
#[rustfmt::skip]
const BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The symbols in the order of their codes, and of each length how many there are.
struct Code {
    symbols: [u16; SYMBOLS],
    of_length: [u16; BITS_MAX + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        symbols: [0; SYMBOLS],
        of_length: [0; BITS_MAX + 1],
    };
    let mut placed = 0;
    let mut bits = 1;
    while bits <= BITS_MAX {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if BITS[symbol] as usize == bits {
                code.symbols[placed] = symbol as u16;
                code.of_length[bits] += 1;
                placed += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    code
}

/// Undoes the code; at most this many bytes, and whether that is all. `None` where it is wrong.
fn decode(coded: &[u8], most: usize) -> Option<(Vec<u8>, bool)> {
    let mut out = Vec::new();
    // the code so far, the first one of its length, and the place of that among the symbols
    let (mut value, mut first, mut place, mut bits) = (0_u32, 0_u32, 0_u32, 0_usize);
    let mut padding = true;
    for byte in coded {
        for shift in (0..8).rev() {
            let bit = u32::from(byte >> shift & 1);
            padding &= bit == 1;
            value = value << 1 | bit;
            first <<= 1;
            bits += 1;
            let of_length = u32::from(*CODE.of_length.get(bits)?);
            if value - first < of_length {
                let symbol = CODE.symbols.get((place + value - first) as usize);
                let symbol = *symbol.filter(|symbol| **symbol != END)?;
                if out.len() == most {
                    return Some((out, false));
                }
                out.push(symbol as u8);
                (value, first, place, bits, padding) = (0, 0, 0, 0, true);
            } else {
                first += of_length;
                place += of_length;
            }
        }
    }
    (bits < 8 && padding).then_some((out, true))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(text: &str) -> Option<Value> {
        Some(Value::Known(text.as_bytes().to_vec()))
    }

    fn target(text: &str) -> Option<Value> {
        Some(Value::Target(Some(text.to_owned())))
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
        let digit = |c: char| c.to_digit(16).unwrap_or_default() as u8;
        hex.chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    /// As encoders do it.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut first = 0_u64;
        let mut codes = vec![(0_u64, 0_usize); SYMBOLS];
        let mut place = 0;
        for bits in 1..=BITS_MAX {
            first <<= 1;
            for _ in 0..CODE.of_length[bits] {
                codes[usize::from(CODE.symbols[place])] = (first, bits);
                first += 1;
                place += 1;
            }
        }
        let mut out = Vec::new();
        let (mut held, mut count) = (0_u64, 0);
        for &byte in text {
            let (value, bits) = codes[usize::from(byte)];
            held = held << bits | value;
            count += bits;
            while count >= 8 {
                count -= 8;
                out.push((held >> count) as u8);
            }
            held &= (1 << count) - 1;
        }
        if count > 0 {
            out.push((held << (8 - count)) as u8 | (0xff >> count));
        }
        out
    }

    /// RFC 7541, appendices C.3 and C.4: three requests on one connection.
    #[test]
    fn requests_of_the_specification() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let mut table = Table::default();
            for (block, path) in blocks.iter().zip(["/", "/", "/index.html"]) {
                let fields = table.read(&bytes(block), false);
                let fields = fields.unwrap_or_default();
                assert_eq!(fields.method, known("GET"));
                assert_eq!(fields.authority, known("www.example.com"));
                assert_eq!(fields.path, target(path));
                assert!(!fields.unknown);
            }
        }
    }

    #[test]
    fn what_was_inserted_before_is_not_known() {
        let mut table = Table::default();
        let fields = table.read(&bytes("8286 84be"), false).unwrap_or_default();
        assert_eq!((fields.authority, fields.unknown), (None, true));
        // a path that is inserted now has the first index, whatever was there before
        let fields = table.read(&bytes("8286 4402 2f61"), false);
        assert_eq!(fields.unwrap_or_default().path, target("/a"));
        let fields = table.read(&bytes("8286 be"), false).unwrap_or_default();
        assert_eq!((fields.path, fields.unknown), (target("/a"), false));
        table.forget();
        let fields = table.read(&bytes("8286 be"), false).unwrap_or_default();
        assert_eq!((fields.path, fields.unknown), (None, true));
    }

    #[test]
    fn wrong_blocks_are_none_and_cut_ones_say_what_came_before() {
        for block in ["80", "ffff ffff ffff", "0005 6162", "8284 ffff ffff ffff"] {
            assert_eq!(Table::default().read(&bytes(block), false), None, "{block}");
        }
        let fields = Table::default().read(&bytes("8286 4402"), true);
        assert_eq!(fields.and_then(|fields| fields.method), known("GET"));
    }

    #[test]
    fn the_table_has_no_secrets() {
        let mut table = Table::default();
        let mut block = vec![0x82];
        // path, authority, authorization
        for (index, value) in [
            (4, "/a?key=SECRET"),
            (1, "me:SECRET@shop.test"),
            (23, "SECRET"),
        ] {
            block.extend([0x40 | index, value.len() as u8]);
            block.extend(value.bytes());
        }
        let fields = table.read(&block, false).unwrap_or_default();
        assert_eq!(fields.path, target("/a?key=…"));
        let kept = format!("{table:?}{:?}", Value::Known(b"SECRET".to_vec()));
        assert_eq!(kept.matches("83, 69, 67, 82").count(), 1, "{kept}");
        assert!(!kept.contains("SECRET"), "{kept}");
    }

    proptest! {
        #[test]
        fn codes_are_undone(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&encode(&text), 200), Some((text, true)));
        }

        #[test]
        fn hostile_bytes_never_panic(
            blocks in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..6),
        ) {
            let mut table = Table::default();
            for (block, cut) in blocks {
                let _ = table.read(&block, cut);
            }
        }
    }
}
