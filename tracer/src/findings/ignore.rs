//! What the user does not want to hear of.

use serde::Deserialize;

use crate::report::Finding;

/// The configuration's `ignore` list. A finding is hidden when any entry matches it; `*` in a call
/// site or remote stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ignore {
    /// Finding ids.
    pub ids: Vec<String>,
    /// Functions of call sites, or `file:line`.
    pub call_sites: Vec<String>,
    /// Addresses, hosts, UNIX paths or URL templates.
    pub remotes: Vec<String>,
}

impl Ignore {
    /// Whether `finding` is to be hidden.
    #[must_use]
    pub fn hides(&self, finding: &Finding) -> bool {
        if self.ids.contains(&finding.id) {
            return true;
        }
        let site = finding.call_site.as_ref().is_some_and(|site| {
            let at = match (&site.file, site.line) {
                (Some(file), Some(line)) => Some(format!("{file}:{line}")),
                (Some(file), None) => Some(file.clone()),
                _ => None,
            };
            self.call_sites.iter().any(|p| {
                matches(p, &site.function) || at.as_deref().is_some_and(|at| matches(p, at))
            })
        });
        let remote = &finding.remote;
        let names = [
            Some(remote.address.as_str()),
            remote.host.as_deref(),
            remote.path.as_deref(),
            remote.url.as_deref(),
            finding.local.as_deref(),
        ];
        site || self
            .remotes
            .iter()
            .any(|p| names.iter().flatten().any(|name| matches(p, name)))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("main.fetch", "main.fetch", true),
            ("main.fetch", "main.fetcher", false),
            ("main.*", "main.fetch", true),
            ("*:443", "10.0.0.1:443", true),
            ("*:443", "10.0.0.1:4430", false),
            ("http://*/v2/*", "http://a/v2/x", true),
            ("http://*/v2/*", "http://a/v1/x", false),
            ("a*b*b", "ab", false),
            ("*", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
