//! Names of code that a runtime compiled at run time, as it writes them to `/tmp/perf-PID.map`
//! (`tools/perf/Documentation/jit-interface.txt` in the kernel's source): one `START SIZE name`
//! per line, in hexadecimal. Pure.

use crate::symbols::symbolize::Named;

/// Entries kept of one map.
const ENTRIES_MAX: usize = 1 << 20;

/// A parsed perf map.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PerfMap {
    /// (start, length, order of writing, name), sorted by start, later ones last.
    entries: Vec<(u64, u64, usize, String)>,
    /// Length of the longest entry: how far back a search must look.
    longest: u64,
}

impl PerfMap {
    /// Reads a map. JDK 17 writes `0x` before its numbers, Node does not; lines that can't be
    /// understood are skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> PerfMap {
        let mut entries = Vec::new();
        for line in text.split(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut fields = line.trim_end().splitn(3, ' ');
            let (Some(start), Some(size), Some(name)) = (
                fields.next().and_then(hex),
                fields.next().and_then(hex),
                fields.next(),
            ) else {
                continue;
            };
            if size > 0 && start.checked_add(size).is_some() && !name.is_empty() {
                entries.push((start, size, entries.len(), name.to_owned()));
            }
            if entries.len() == ENTRIES_MAX {
                break;
            }
        }
        entries.sort_unstable();
        let longest = entries.iter().map(|e| e.1).max().unwrap_or(0);
        PerfMap { entries, longest }
    }

    /// The name at an address: of entries that overlap, because code was freed and its place
    /// reused, the one written last.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        let end = self.entries.partition_point(|e| e.0 <= address);
        self.entries[..end]
            .iter()
            .rev()
            .take_while(|e| address - e.0 < self.longest)
            .filter(|e| address - e.0 < e.1)
            .max_by_key(|e| e.2)
            .map(|e| e.3.as_str())
    }
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
        assert_eq!(map.name(0x7f2f), Some("JS:*go /a.js:3:5"));
        assert_eq!(map.name(0x7f30), None);
        assert_eq!(map.name(0x8000), Some("java.net.Socket::connect"));
        assert_eq!(map.name(0x9000), None);
    }

    #[test]
    fn where_code_was_replaced_the_newer_name_counts() {
        let map = PerfMap::parse(b"1000 100 old\n1040 20 new\n1000 8 newest\n");
        assert_eq!(map.name(0x1050), Some("new"));
        assert_eq!(map.name(0x1004), Some("newest"));
        assert_eq!(map.name(0x1080), Some("old"));
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

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>(), address in any::<u64>()) {
            let _ = PerfMap::parse(&bytes).name(address);
        }

        #[test]
        fn any_lines_are_survived(text in "(0?x?[0-9a-f]{0,17} [0-9a-f]{0,17} .{0,20}\n){0,9}", address in any::<u64>()) {
            let map = PerfMap::parse(text.as_bytes());
            if let Some(name) = map.name(address) { let _ = describe(name); }
        }

        #[test]
        fn any_name_is_survived(name in "(JS|LazyCompile|Function)?:?.{0,40}") {
            assert!(!describe(&name).function.is_empty() || name.is_empty());
        }
    }
}
