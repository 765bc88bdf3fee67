//! JSON that can be shown on a terminal.

use std::fmt::Write as _;

/// JSON text in which the signs that JSON allows as they are, and that do things to terminals or turn
/// text around, are written as escapes (RFC 8259, section 7). It says the same: such signs can only be
/// in strings.
#[must_use]
pub fn harmless(json: String) -> String {
    let harmful = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if !json.contains(harmful) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match harmful(c) {
            true => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn escapes_say_the_same() {
        let name = "a\u{9b}31m\u{202e}gpj.exe\u{7f}\u{1b}é";
        let json = serde_json::to_string(name).unwrap_or_default();
        let shown = harmless(json.clone());
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'));
        assert_eq!(
            serde_json::from_str::<String>(&shown).ok(),
            Some(name.to_owned())
        );
        assert_eq!(harmless("{\"é\": 1}".to_owned()), "{\"é\": 1}");
        assert_ne!(json, shown);
    }
}
