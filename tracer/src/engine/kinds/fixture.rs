//! A kind that only tests have: it shows that a kind is a variant with its name, a file as this and
//! an entry in the list (`engine/corpus/added.rs` has its history).

use super::{Case, Class, Fit, Kind, Mask, Rules, Spec, never};

const MASK: Mask = Mask::of(&[Class::Unread]);
/// Unread bytes of each of its connections; those of other tests' histories have others.
pub const BYTES: u32 = 7_654_321;

/// So many unread bytes each.
pub const SPEC: Spec = Spec {
    kind: Kind::Fixture,
    summary: "Each connection holds exactly the unread bytes of the fixture.",
    documentation: "What only a test leaves unread.",
    client: |rules: &Rules<'_>, _: &[Fit]| {
        let unread = rules.state.tally.unread;
        let fits = unread > 0 && unread.is_multiple_of(u64::from(BYTES));
        fits.then(|| rules.proof(SPEC.kind, MASK)).flatten()
    },
    server: never,
    condition: |case: &Case<'_>| format!("{} hold {BYTES} unread bytes each.", case.of()),
    advice: |_| "Read what the fixture left.",
};
