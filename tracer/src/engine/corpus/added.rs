//! What adding a kind takes: `kinds/fixture.rs` is judged, named and explained like the others.

use super::{
    regular,
    sim::{Life, Watch, opened, play},
};
use crate::{
    engine::kinds::{self, FIXTURE_BYTES},
    model::{Confidence, Kind, Role},
};

#[test]
fn a_kind_that_is_in_the_list_names_what_it_fits() {
    let watch = Watch {
        seconds: 40.0,
        sweep: 1.0,
        reconcile: 1.0,
    };
    let judged = |bytes: u32| {
        let unread = |t: f64| Life {
            unread: Some((t + 0.06, bytes)),
            ..opened(t).request(t, 0.05)
        };
        let lives: Vec<Life> = regular(0.0, watch.seconds, 2.0)
            .into_iter()
            .map(unread)
            .collect();
        play(Role::Client, &lives, watch).0
    };
    let found = judged(FIXTURE_BYTES);
    assert_eq!(found.len(), 1, "{found:?}");
    let found = &found[0];
    assert_eq!(found.kind, Kind::Fixture);
    assert!(found.confidence >= Confidence::Medium, "{found:?}");
    // its place in the list is before that of the other kind that fits
    assert!(found.also.contains(&Kind::ResponseNotRead), "{found:?}");
    let said = found.evidence.join(" ");
    assert!(said.contains("hold 7654321 unread bytes each"), "{said}");
    assert_eq!(found.advice, "Read what the fixture left.");
    assert_eq!(kinds::named("fixture").map(|s| s.kind), Some(Kind::Fixture));

    let other = judged(FIXTURE_BYTES + 1);
    assert_eq!(other.first().map(|j| j.kind), Some(Kind::ResponseNotRead));
}
