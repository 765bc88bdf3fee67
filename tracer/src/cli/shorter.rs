//! Call sites and URLs in fewer columns: what tells least goes first, so that what is left is still
//! a name. Only where even the last form is too wide is its middle elided.

use super::{stack::short_path, words};
use crate::report::CallSite;

/// A call site from its whole path to its bare function and file:
/// `leaky_shop::Discounts::lookup src/bin/leaky-shop.rs:48`, …, `lookup leaky-shop.rs:48`.
#[must_use]
pub fn sites(site: &CallSite) -> Vec<String> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let with = |function: &str, short: &dyn Fn(&str) -> String| {
        words::call_site(Some(&CallSite {
            function: function.to_owned(),
            file: site.file.as_deref().map(short),
            line: site.line,
            module: site.module.as_deref().map(short),
        }))
    };
    let in_folders = |path: &str| short_path(path).to_owned();
    let [outer, inner] = tails(&site.function);
    let mut forms = vec![with(&site.function, &in_folders)];
    for form in [
        with(&site.function, &base),
        with(outer, &base),
        with(inner, &base),
    ] {
        if forms.last() != Some(&form) {
            forms.push(form);
        }
    }
    forms
}

/// A URL, then without the names in its query, then without a scheme that says nothing.
#[must_use]
pub fn urls(url: &str) -> Vec<String> {
    let mut forms = vec![url.to_owned()];
    if let Some((before, query)) = url.split_once('?')
        && query != "…"
    {
        forms.push(format!("{before}?…"));
    }
    if let Some(bare) = forms.last().and_then(|last| last.strip_prefix("http://")) {
        forms.push(bare.to_owned());
    }
    forms
}

/// The last two parts of a function's name, and the last alone. What a compiler calls a nameless
/// function (`{closure#0}`, `<anonymous>`, `func1`) is no name: it stays with the part before it.
fn tails(function: &str) -> [&str; 2] {
    let starts = starts(function);
    let named = |&&at: &&usize| {
        let part = &function[at..];
        let nameless = part.strip_prefix("func").is_some_and(|number| {
            number.starts_with(|c: char| c.is_ascii_digit()) || number.is_empty()
        });
        part.starts_with(|c: char| c.is_alphabetic() || c == '_') && !nameless
    };
    let mut named = starts.iter().rev().filter(named);
    let inner = named.next().copied().unwrap_or(0);
    let before = starts.iter().rev().find(|&&at| at < inner);
    [
        &function[before.copied().unwrap_or(0)..],
        &function[inner..],
    ]
}

/// Where the parts of a function's name begin, outside of brackets: after `::`, `.`, `#`, `/` and `->`.
fn starts(function: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let mut depth = 0_u32;
    let mut before = ' ';
    for (at, c) in function.char_indices() {
        match c {
            '>' if before == '-' => starts.push(at + 1),
            '(' | '<' | '[' | '{' => depth += 1,
            ')' | '>' | ']' | '}' => depth = depth.saturating_sub(1),
            // of arguments behind the name
            ' ' if depth == 0 && before == ')' => break,
            ':' if before == ':' && depth == 0 => starts.push(at + 1),
            '.' | '#' | '/' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
        before = c;
    }
    starts.retain(|&at| at < function.len());
    starts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_end_with_what_people_call_them() {
        for (function, outer, inner) in [
            (
                "leaky_shop::Discounts::lookup",
                "Discounts::lookup",
                "lookup",
            ),
            (
                "github.com/acme/shop/client.(*Client).Fetch",
                "(*Client).Fetch",
                "Fetch",
            ),
            ("main.run.func1", "main.run.func1", "run.func1"),
            (
                "app::load::{closure#0}",
                "app::load::{closure#0}",
                "load::{closure#0}",
            ),
            ("Shop.Orders#list", "Orders#list", "list"),
            ("App\\Orders->load", "App\\Orders->load", "load"),
            (
                "pool<a::b>::take(int, a::c)",
                "pool<a::b>::take(int, a::c)",
                "take(int, a::c)",
            ),
            (
                "Object.<anonymous>",
                "Object.<anonymous>",
                "Object.<anonymous>",
            ),
            ("<module>", "<module>", "<module>"),
            ("fetch", "fetch", "fetch"),
            ("", "", ""),
        ] {
            assert_eq!(tails(function), [outer, inner], "{function}");
        }
    }

    #[test]
    fn a_site_loses_folders_before_its_name() {
        let site = CallSite {
            function: "leaky_shop::Discounts::lookup".to_owned(),
            file: Some("/home/me/shop/src/bin/leaky-shop.rs".to_owned()),
            line: Some(48),
            module: None,
        };
        assert_eq!(
            sites(&site),
            [
                "leaky_shop::Discounts::lookup src/bin/leaky-shop.rs:48",
                "leaky_shop::Discounts::lookup leaky-shop.rs:48",
                "Discounts::lookup leaky-shop.rs:48",
                "lookup leaky-shop.rs:48",
            ]
        );
    }

    #[test]
    fn a_url_loses_its_query_before_its_path() {
        assert_eq!(
            urls("http://shop.test/v1/items/{}?customer=…&token=…"),
            [
                "http://shop.test/v1/items/{}?customer=…&token=…",
                "http://shop.test/v1/items/{}?…",
                "shop.test/v1/items/{}?…",
            ]
        );
        assert_eq!(urls("https://shop.test/"), ["https://shop.test/"]);
        assert_eq!(urls("accepted on 0.0.0.0:80"), ["accepted on 0.0.0.0:80"]);
    }

    proptest! {
        #[test]
        fn any_name_has_its_tails(function in "\\PC{0,40}") {
            for tail in tails(&function) {
                prop_assert!(function.ends_with(tail));
            }
        }
    }
}
