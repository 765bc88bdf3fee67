#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use super::*;

const S: u64 = 1_000_000_000;
const AT: &str = "10.0.0.7:8080";

fn claim(at: &str, service: &str, pod: &str) -> Claim {
    let name = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    Claim {
        at: at.parse().unwrap(),
        service: name(service),
        pod: name(pod),
    }
}

/// Of slices, after a first list of these objects at second 100.
fn listed(objects: &[(&str, Claim)]) -> Names {
    let mut names = Names::default();
    names.begin(Source::Slices);
    for (id, claim) in objects {
        put(&mut names, id, claim.clone(), 100);
    }
    names.only(Source::Slices, 100 * S);
    names
}

fn put(names: &mut Names, id: &str, claim: Claim, at: u64) {
    names.put(Source::Slices, id.to_owned(), vec![claim], at * S);
}

fn gone(names: &mut Names, id: &str, at: u64) {
    names.gone(Source::Slices, id.to_owned(), at * S);
}

fn name(names: &Names, at: &str, opened: u64) -> Option<String> {
    names
        .name(at.parse().unwrap(), opened * S)
        .map(str::to_owned)
}

#[test]
fn what_was_there_at_first_was_so_from_the_beginning() {
    let names = listed(&[("a", claim(AT, "web", "web-0"))]);
    assert_eq!(name(&names, AT, 1).as_deref(), Some("web"));
    assert_eq!(name(&names, AT, 150).as_deref(), Some("web"));
    assert_eq!(name(&names, "10.0.0.7:8081", 150), None, "another port");
    assert_eq!(name(&names, "10.0.0.8:8080", 150), None, "another address");
    let mapped = "[::ffff:10.0.0.7]:8080";
    assert_eq!(name(&names, mapped, 150).as_deref(), Some("web"));
    assert_eq!(
        name(&names, AT, 701),
        None,
        "the server was not heard of for long"
    );
}

#[test]
fn an_address_that_is_used_again_has_each_name_in_its_time() {
    let mut names = listed(&[("a", claim(AT, "web", "web-0"))]);
    gone(&mut names, "a", 200);
    put(&mut names, "b", claim(AT, "shop", "shop-0"), 220);
    let at = |opened| name(&names, AT, opened);
    assert_eq!(at(199).as_deref(), Some("web"));
    assert_eq!(at(201).as_deref(), Some("shop"), "told a little later");
    assert_eq!(at(221).as_deref(), Some("shop"));
    put(&mut names, "c", claim("10.0.0.9:1", "late", ""), 300);
    let late = |opened| name(&names, "10.0.0.9:1", opened);
    assert_eq!(late(271).as_deref(), Some("late"));
    assert_eq!(late(269), None);
}

#[test]
fn an_object_that_says_something_else_ends_what_it_said() {
    let mut names = listed(&[("a", claim(AT, "web", "web-0"))]);
    put(&mut names, "a", claim("10.0.0.8:8080", "web", "web-1"), 200);
    assert_eq!(name(&names, AT, 199).as_deref(), Some("web"));
    assert_eq!(name(&names, AT, 200), None);
    assert_eq!(name(&names, "10.0.0.8:8080", 200).as_deref(), Some("web"));
    // as it was, with nobody in between: it goes on
    put(&mut names, "a", claim(AT, "web", "web-0"), 210);
    assert_eq!(name(&names, AT, 205).as_deref(), Some("web"));
    assert_eq!(names.places.get(&AT.parse().unwrap()).unwrap().len(), 1);
}

#[test]
fn of_several_services_none_is_named_but_their_pod() {
    let mut names = listed(&[
        ("a", claim(AT, "web", "web-0")),
        ("again", claim(AT, "web", "web-0")),
        ("b", claim(AT, "shop", "web-0")),
    ]);
    assert_eq!(name(&names, AT, 150).as_deref(), Some("web-0"));
    put(&mut names, "c", claim(AT, "host", "other-0"), 200);
    assert_eq!(name(&names, AT, 250), None, "pods of the host's network");
    for id in ["b", "c", "again"] {
        gone(&mut names, id, 300);
    }
    assert_eq!(name(&names, AT, 350).as_deref(), Some("web"));
    assert_eq!(name(&names, AT, 150).as_deref(), Some("web-0"));
    let nameless = listed(&[("a", claim(AT, "", "web-0"))]);
    assert_eq!(name(&nameless, AT, 150).as_deref(), Some("web-0"));
}

#[test]
fn what_went_unseen_was_there_for_as_long_as_all_was_known() {
    let mut names = listed(&[
        ("a", claim(AT, "web", "web-0")),
        ("b", claim("10.0.0.8:1", "b", "")),
        ("changes", claim("10.0.0.9:1", "d", "")),
    ]);
    names.heard(Source::Slices, 200 * S);
    names.begin(Source::Slices);
    put(&mut names, "b", claim("10.0.0.8:1", "b", ""), 400);
    put(&mut names, "c", claim(AT, "shop", ""), 400);
    put(&mut names, "changes", claim("10.0.0.10:1", "d", ""), 400);
    names.only(Source::Slices, 400 * S);
    assert_eq!(name(&names, AT, 199).as_deref(), Some("web"));
    assert_eq!(name(&names, AT, 300), None, "whose it was, nobody knows");
    assert_eq!(name(&names, AT, 380).as_deref(), Some("shop"));
    assert_eq!(name(&names, "10.0.0.8:1", 300).as_deref(), Some("b"));
    assert_eq!(name(&names, "10.0.0.9:1", 199).as_deref(), Some("d"));
    assert_eq!(name(&names, "10.0.0.9:1", 300), None);
    // a list of the other source changes nothing
    names.begin(Source::Services);
    names.only(Source::Services, 500 * S);
    assert_eq!(name(&names, AT, 400).as_deref(), Some("shop"));
}

#[test]
fn a_list_that_broke_off_leaves_nothing_that_is_not_there() {
    let mut names = Names::default();
    names.begin(Source::Slices);
    put(&mut names, "a", claim(AT, "web", ""), 100);
    names.begin(Source::Slices);
    put(&mut names, "b", claim("10.0.0.8:1", "b", ""), 200);
    names.only(Source::Slices, 200 * S);
    assert_eq!(name(&names, AT, 150), None);
    assert_eq!(name(&names, "10.0.0.8:1", 150).as_deref(), Some("b"));
    assert_eq!((names.claims, names.taken, names.places.len()), (1, 1, 1));
}

#[test]
fn there_is_room_for_so_many_and_who_has_gone_goes_first() {
    let place = |n: usize| {
        let [_, .., a, b, c] = n.to_be_bytes();
        SocketAddr::from(([10, a, b, c], 80))
    };
    let of = |n: usize| claim(&place(n).to_string(), "web", "");
    let mut names = listed(&[]);
    let all = (0..PLACES_MAX).map(of).collect();
    names.put(Source::Slices, "all".to_owned(), all, 100 * S);
    assert_eq!(names.degraded(), None);
    put(&mut names, "more", of(PLACES_MAX), 200);
    assert_eq!(name(&names, &place(PLACES_MAX).to_string(), 200), None);
    let told = names.degraded().unwrap();
    assert!(told.contains("no room 1 times"), "{told}");
    let most = (1..PLACES_MAX).map(of).collect();
    names.put(Source::Slices, "all".to_owned(), most, 300 * S);
    assert_eq!(
        name(&names, &place(0).to_string(), 200).as_deref(),
        Some("web")
    );
    put(&mut names, "more", of(PLACES_MAX), 400);
    assert_eq!(name(&names, &place(0).to_string(), 200), None);
    let at = place(PLACES_MAX).to_string();
    assert_eq!(name(&names, &at, 400).as_deref(), Some("web"));
    assert_eq!(names.places.len(), PLACES_MAX);
    assert_eq!((names.taken, names.claims), (PLACES_MAX, PLACES_MAX));
}

#[test]
fn of_one_address_the_latest_names_are_remembered() {
    let mut names = listed(&[]);
    for n in 0..10_u64 {
        let service = format!("s{n}");
        put(&mut names, "a", claim(AT, &service, ""), 200 + 100 * n);
    }
    assert_eq!(name(&names, AT, 1_050).as_deref(), Some("s8"));
    assert_eq!(name(&names, AT, 850).as_deref(), Some("s6"));
    assert_eq!(name(&names, AT, 750), None);
    assert_eq!(names.degraded(), None);
    gone(&mut names, "a", 2_000);
    assert_eq!((names.taken, names.claims, names.objects.len()), (0, 0, 0));
}

#[test]
fn trouble_is_told_once_until_it_is_over() {
    let mut names = Names::default();
    for source in [Source::Services, Source::Slices] {
        names.set_trouble(source, Some("it is gone".to_owned()));
    }
    let told = names.degraded().unwrap();
    assert_eq!(told.matches("it is gone").count(), 1, "{told}");
    names.set_trouble(Source::Services, None);
    assert!(names.degraded().is_some() && !names.is_troubled(Source::Services));
    names.set_trouble(Source::Slices, None);
    assert_eq!(names.degraded(), None);
}
