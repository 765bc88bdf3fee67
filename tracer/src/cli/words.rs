//! Words that every screen has: places, call sites, dates, confidence.

use jiff::Timestamp;

use super::output::{Paint, clean};
use crate::{model::Confidence, report::CallSite};

/// How sure, in colour.
#[must_use]
pub fn confidence(level: Confidence, paint: Paint) -> String {
    match level {
        Confidence::High => paint.bad("high confidence"),
        Confidence::Medium => paint.doubtful("medium confidence"),
        Confidence::Low => paint.dim("low confidence"),
    }
}

/// `/src/main.go:24`, as far as it is known.
#[must_use]
pub fn place(file: Option<&str>, line: Option<u32>, module: Option<&str>) -> String {
    match (file, line, module) {
        (Some(file), Some(line), _) => format!("{}:{line}", clean(file)),
        (Some(file), None, _) => clean(file).into_owned(),
        (None, _, Some(module)) => format!("in {}", clean(module)),
        (None, _, None) => String::new(),
    }
}

/// `main.fetch /src/main.go:24`.
#[must_use]
pub fn call_site(site: Option<&CallSite>) -> String {
    match site {
        Some(site) => format!(
            "{} {}",
            clean(&site.function),
            place(site.file.as_deref(), site.line, site.module.as_deref())
        )
        .trim_end()
        .to_owned(),
        None => "unknown".to_owned(),
    }
}

/// A date without fractions of a second.
#[must_use]
pub fn seconds(date: Timestamp) -> String {
    format!("{date:.0}")
}
