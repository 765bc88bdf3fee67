//! Names of code that a runtime compiled at run time, as it writes them to `/tmp/perf-PID.map`
//! (`tools/perf/Documentation/jit-interface.txt` in the kernel's source): one `START SIZE name`
//! per line, in hexadecimal. Pure.

use std::borrow::Cow;

use crate::symbols::symbolize::Named;

/// Entries kept of one map.
const ENTRIES_MAX: usize = 1 << 20;
/// Longest name that is shown.
const NAME_BYTES_MAX: usize = 4 << 10;
/// Entries before an address that are looked at for it: they may be made to overlap all.
const OVERLAPS_MAX: usize = 4 << 10;

/// A parsed perf map.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PerfMap {
    /// What was read; names are places in it.
    text: Vec<u8>,
    /// Sorted by start, later ones last.
    entries: Vec<Entry>,
    /// Length of the longest entry: how far back a search must look.
    longest: u64,
}

/// One range of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    start: u64,
    len: u64,
    /// Where its line is: a later one counts.
    at: u32,
    /// Bytes of the line before the name, and of the name.
    name: (u16, u16),
}

impl PerfMap {
    /// Reads a map. JDK 17 writes `0x` before its numbers, Node does not; lines that can't be
    /// understood are skipped, and so is what is beyond 4 GiB.
    #[must_use]
    pub fn parse(text: impl Into<Vec<u8>>) -> PerfMap {
        let text = text.into();
        let mut entries = Vec::new();
        let mut at = 0;
        for line in text.split(|b| *b == b'\n') {
            entries.extend(entry(line, at));
            at += line.len() + 1;
            if entries.len() == ENTRIES_MAX {
                break;
            }
        }
        entries.sort_unstable();
        let longest = entries.iter().map(|e| e.len).max().unwrap_or(0);
        PerfMap {
            text,
            entries,
            longest,
        }
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// The name at an address: of entries that overlap, because code was freed and its place
    /// reused, the one written last.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<Cow<'_, str>> {
        let end = self.entries.partition_point(|e| e.start <= address);
        let entry = self.entries[..end]
            .iter()
            .rev()
            .take(OVERLAPS_MAX)
            .take_while(|e| address - e.start < self.longest)
            .filter(|e| address - e.start < e.len)
            .max_by_key(|e| e.at)?;
        let from = entry.at as usize + usize::from(entry.name.0);
        let name = self.text.get(from..from + usize::from(entry.name.1))?;
        Some(String::from_utf8_lossy(name))
    }
}

fn entry(line: &[u8], at: usize) -> Option<Entry> {
    let mut fields = line.splitn(3, |b| *b == b' ');
    let mut number = || hex(str::from_utf8(fields.next()?).ok()?);
    let (start, len) = (number()?, number()?);
    let name = fields.next()?.trim_ascii_end();
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
    start
        .checked_add(len)
        .filter(|_| len > 0 && !name.is_empty())?;
    let before = line.len() - line.splitn(3, |b| *b == b' ').last()?.len();
    Some(Entry {
        start,
        len,
        at: u32::try_from(at).ok()?,
        name: (u16::try_from(before).ok()?, u16::try_from(name.len()).ok()?),
    })
}

fn hex(text: &str) -> Option<u64> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

/// What an entry's text says. V8 writes `JS:*name file:line:column` (older: `LazyCompile:*…`),
/// where the position is that of the function, not of the call; Java `type package.Class.method(types)`.
#[must_use]
pub fn describe(text: &str) -> Named {
    let plain = || Named {
        function: text.to_owned(),
        ..Named::default()
    };
    if let Some(method) = java_method(text) {
        return Named {
            function: method.to_owned(),
            ..Named::default()
        };
    }
    let Some((kind, rest)) = text.split_once(':') else {
        return plain();
    };
    if !matches!(kind, "JS" | "LazyCompile" | "Function" | "Script" | "Eval") {
        return plain();
    }
    // The mark is the tier: ~ interpreted, ^ baseline, + and * optimized.
    let rest = rest.trim_start_matches(['~', '^', '+', '*', '\'']);
    let Some((name, place)) = rest.rsplit_once(' ') else {
        return plain();
    };
    let mut parts = place.rsplitn(3, ':');
    let (column, line, file) = (parts.next(), parts.next(), parts.next());
    let (Some(_), Some(line), Some(file)) = (
        column.and_then(number),
        line.and_then(number),
        file.filter(|f| !f.is_empty()),
    ) else {
        return plain();
    };
    let function = if name.trim().is_empty() {
        "(anonymous)"
    } else {
        name.trim()
    };
    Named {
        function: function.to_owned(),
        file: Some(file.strip_prefix("file://").unwrap_or(file).to_owned()),
        line: Some(line),
        inlined: false,
        function_line: Some(line),
    }
}

/// `package.Class.method` of `type package.Class.method(types)`.
fn java_method(text: &str) -> Option<&str> {
    let (head, _) = text.strip_suffix(')')?.split_once('(')?;
    let (result, name) = head.split_once(' ')?;
    let dotted = name.contains('.') && !name.contains([' ', ':']);
    (dotted && !result.contains(':')).then_some(name)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{PerfMap, describe};

    #[test]
    fn both_spellings_of_numbers_are_read() {
        let map = PerfMap::parse(b"7f10 20 JS:*go /a.js:3:5\n0x8000 0x10 java.net.Socket::connect\nrubbish\n9000 0 empty\n");
        assert_eq!(map.name(0x7f2f).as_deref(), Some("JS:*go /a.js:3:5"));
        assert_eq!(map.name(0x7f30), None);
        assert_eq!(
            map.name(0x8000).as_deref(),
            Some("java.net.Socket::connect")
        );
        assert_eq!(map.name(0x9000), None);
    }

    #[test]
    fn where_code_was_replaced_the_newer_name_counts() {
        let map = PerfMap::parse(b"1000 100 old\n1040 20 new\n1000 8 newest\n");
        assert_eq!(map.name(0x1050).as_deref(), Some("new"));
        assert_eq!(map.name(0x1004).as_deref(), Some("newest"));
        assert_eq!(map.name(0x1080).as_deref(), Some("old"));
    }

    #[test]
    fn v8_names_have_file_and_line() {
        let f = describe("LazyCompile:*fetch /app/my client.js:12:7");
        assert_eq!(f.function, "fetch /app/my");
        let f = describe("JS:^fetch file:///app/client.mjs:12:7");
        assert_eq!(
            (f.function.as_str(), f.file.as_deref(), f.line),
            ("fetch", Some("/app/client.mjs"), Some(12))
        );
        assert_eq!(describe("JS:~ node:net:1:2").function, "(anonymous)");
        assert_eq!(describe("void a.b.C.run(int, a.D)").function, "a.b.C.run");
        assert_eq!(describe("StubRoutines (1)").function, "StubRoutines (1)");
        assert_eq!(describe("Builtin:ArrayMap").function, "Builtin:ArrayMap");
        assert_eq!(
            describe("com.example.Main::run").function,
            "com.example.Main::run"
        );
    }

    #[test]
    fn one_name_and_one_search_have_a_bound() {
        let text = format!("1000 10 {}\n", "n".repeat(1 << 20));
        let map = PerfMap::parse(text);
        assert_eq!(map.name(0x1000).map(|name| name.len()), Some(4 << 10));
        let all: String = (0..100_000)
            .map(|n| format!("{n:x} ffffffff f{n}\n"))
            .collect();
        let map = PerfMap::parse(all);
        assert_eq!(map.name(0xffff_0000).as_deref(), Some("f99999"));
        assert_eq!(map.name(7).as_deref(), Some("f7"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>(), address in any::<u64>()) {
            let _ = PerfMap::parse(bytes).name(address);
        }

        #[test]
        fn any_lines_are_survived(text in "(0?x?[0-9a-f]{0,17} [0-9a-f]{0,17} .{0,20}\n){0,9}", address in any::<u64>()) {
            let map = PerfMap::parse(text.as_bytes());
            if let Some(name) = map.name(address) { let _ = describe(&name); }
        }

        #[test]
        fn any_name_is_survived(name in "(JS|LazyCompile|Function)?:?.{0,40}") {
            assert!(!describe(&name).function.is_empty() || name.is_empty());
        }
    }
}
