//! The kinds of leak: one file each, and one list.
//!
//! To add a kind: a variant of [`Kind`], a file here, and an entry in [`ALL`]. The command line
//! (`tracer explain`), the schema and `docs/leak-kinds.md` take what they say from this list.

mod accepted_never_closed;
mod client_per_request;
mod close_wait;
#[cfg(test)]
mod fixture;
mod inherited_fd;
mod never_closed;
mod pool_unbounded;
mod response_body_not_closed;
mod response_not_read;
pub mod snippets;
mod stream_never_cancelled;

// what each kind's file is written with
use super::{
    classify::Class,
    evidence::Case,
    growth::{Fit, Ground, Rules},
    history::{Mask, Tally},
};
use crate::model::{Confidence, Kind, Role};

/// One kind of leak.
pub struct Spec {
    /// Its variant; its place in [`ALL`] is that of the variant.
    pub kind: Kind,
    /// What it is, in one line.
    pub summary: &'static str,
    /// Definition, healthy look-alikes, what each confidence needs, what to change: Markdown,
    /// without a heading.
    pub documentation: &'static str,
    /// Whether it fits a population of clients, given the kinds before it that fit.
    pub(super) client: fn(&Rules<'_>, &[Fit]) -> Option<Fit>,
    /// The same for servers.
    pub(super) server: fn(&Rules<'_>, &[Fit]) -> Option<Fit>,
    /// The sentence on the condition its connections are in.
    pub(super) condition: fn(&Case<'_>) -> String,
    /// What to change.
    pub(super) advice: fn(Ground) -> &'static str,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spec").field(&self.kind).finish()
    }
}

/// All kinds; the first that fits names a finding.
pub const ALL: &[&Spec] = &[
    &inherited_fd::SPEC,
    &response_body_not_closed::SPEC,
    &client_per_request::SPEC,
    &stream_never_cancelled::SPEC,
    #[cfg(test)]
    &fixture::SPEC,
    &response_not_read::SPEC,
    &close_wait::SPEC,
    &accepted_never_closed::SPEC,
    &pool_unbounded::SPEC,
    &never_closed::SPEC,
];

/// What is known of a kind.
///
/// # Panics
/// Never: every variant is in the list, in its place; a test holds it.
#[must_use]
pub fn of(kind: Kind) -> &'static Spec {
    ALL[kind as usize]
}

/// The kind of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Spec> {
    ALL.iter().copied().find(|spec| spec.kind.name() == name)
}

/// Kinds as one document, as `docs/leak-kinds.md` has it.
#[cfg(test)]
#[must_use]
pub fn document<'a>(kinds: impl Iterator<Item = &'a Spec>) -> String {
    let mut text = String::from(INTRODUCTION);
    for spec in kinds {
        text.push_str(&format!(
            "\n## `{}`\n\n{}\n\n{}\n",
            spec.kind.name(),
            spec.summary,
            spec.documentation.trim()
        ));
    }
    text
}

#[cfg(test)]
const INTRODUCTION: &str = "\
# Kinds of leak

The first kind in this order that fits names a finding; the others that fit are in `also`. An open
connection alone is never evidence: it takes either *growth* (at least five survivors, opened in at
least three separate seconds, whose number rises steadily to the end of the watch and whose births
no deaths explain) or *standing proof* (a condition that no healthy program leaves a connection in
for so long). `tracer explain KIND` prints one of these chapters.

Confidence is `low` while the watch is too short or the numbers are too small (then the report says
how much longer it would take), `medium` when the rule is met, and `high` after longer, steeper
growth or proof on ten connections and more. Without any stack it is `medium` at most.
";

#[cfg(test)]
pub(super) use self::fixture::BYTES as FIXTURE_BYTES;

/// A rule that never fits.
pub(super) const fn never(_: &Rules<'_>, _: &[Fit]) -> Option<Fit> {
    None
}

/// The kinds that fit, in their order.
pub(super) fn fits(rules: &Rules<'_>) -> Vec<Fit> {
    let mut fits: Vec<Fit> = Vec::new();
    for spec in ALL {
        let rule = match rules.state.role {
            Role::Client => spec.client,
            Role::Server => spec.server,
        };
        fits.extend(rule(rules, &fits));
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::{ALL, Spec, document, named, of};
    use crate::model::Kind;

    /// All but the one that only tests have.
    fn published() -> impl Iterator<Item = &'static Spec> {
        let all = ALL.iter().copied();
        all.filter(|spec| spec.kind != Kind::Fixture)
    }

    #[test]
    fn what_is_in_the_list_is_in_the_document() {
        let all = document(ALL.iter().copied());
        let chapter = format!("## `fixture`\n\n{}", of(Kind::Fixture).summary);
        assert!(all.contains(&chapter), "{all}");
        assert!(!document(published()).contains("fixture"));
    }

    #[test]
    fn every_kind_is_in_its_place() {
        for (place, spec) in ALL.iter().enumerate() {
            assert_eq!(spec.kind as usize, place, "{:?}", spec.kind);
            assert_eq!(of(spec.kind).kind, spec.kind);
            assert_eq!(named(spec.kind.name()).map(|s| s.kind), Some(spec.kind));
            let name = serde_json::to_value(spec.kind).unwrap_or_default();
            assert_eq!(name, spec.kind.name());
        }
        // the next variant would need an entry
        let unknown = serde_json::from_str::<Kind>("\"no_such_kind\"");
        let listed = unknown.err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(listed.matches('`').count() / 2, ALL.len() + 1, "{listed}");
    }

    /// With `UPDATE_DOCS=1` in the environment the file is written instead.
    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/leak-kinds.md");
        let document = document(published());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            assert!(std::fs::write(path, &document).is_ok());
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == document,
            "docs/leak-kinds.md is not what engine/kinds says; UPDATE_DOCS=1 cargo test writes it"
        );
    }
}
