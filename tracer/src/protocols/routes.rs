//! Routes, learned from the requests of a population: whatever varies between its members is `{}`.
//!
//! What one target looks like says little: `/covers/spring.webp` may be a page or one of thousands. So
//! targets are kept as they are, as long as there is room, and what varies is worked out from all of
//! them: where many segments stand in one place, each of them in few requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use super::{segment::Segment, url::template};

/// Segments that may stand in one place, each in few requests, and still be names of their own.
const ALIKE_MAX: usize = 3;
/// The same where what follows them differs, too.
const UNLIKE_MAX: usize = 7;
/// Segments in one place of which so many are about equally frequent are no names that somebody wrote
/// into a program.
const NAMES_MAX: usize = 15;
/// Requests that are few.
const FEW: u64 = 3;
/// Targets kept as they are; beyond that the most similar become one.
const SEEN_MAX: usize = 192;
/// Routes told of.
const ROUTES_MAX: usize = 64;
/// Segments told apart.
const SEGMENTS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    segments: Vec<Segment>,
    /// Keys of its query, as redaction leaves them.
    query: Option<Box<str>>,
    count: u64,
    /// Several targets became this one: it stands for all that it takes.
    joined: bool,
}

impl Route {
    fn of(target: &str, count: u64) -> Route {
        let target = template(target);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (target.as_str(), None),
        };
        let segments = path
            .split('/')
            .take(SEGMENTS_MAX)
            .map(|segment| match segment {
                "{}" => Segment::Variable,
                text => Segment::Constant(text.into()),
            })
            .collect();
        Route {
            segments,
            query,
            count,
            joined: false,
        }
    }

    fn takes(&self, other: &Route) -> bool {
        self.segments.len() == other.segments.len()
            && (self.segments.iter().zip(&other.segments)).all(|(a, b)| a.takes(b))
    }

    fn variables(&self) -> usize {
        let variable = |segment: &&Segment| **segment == Segment::Variable;
        self.segments.iter().filter(variable).count()
    }

    fn add(&mut self, other: &Route) {
        self.count += other.count;
        if self.query != other.query {
            self.query = None;
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (i, segment) in self.segments.iter().enumerate() {
            if i > 0 {
                out.push('/');
            }
            out.push_str(match segment {
                Segment::Constant(text) => text,
                Segment::Variable => "{}",
            });
        }
        if let Some(query) = &self.query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

/// The routes of one population, learned from redacted targets; bounded.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    seen: Vec<Route>,
    /// What was learned from those seen.
    learned: OnceLock<Vec<Route>>,
}

impl Routes {
    /// Adds a redacted target that was seen `count` times.
    pub fn add(&mut self, target: &str, count: u64) {
        let new = Route::of(target, count);
        self.learned.take();
        let same = |route: &Route| route.segments == new.segments;
        let at = (self.seen.iter().position(same))
            .or_else(|| self.seen.iter().position(|r| r.joined && r.takes(&new)));
        match at {
            Some(at) => self.seen[at].add(&new),
            None => self.seen.push(new),
        }
        if self.seen.len() > SEEN_MAX {
            self.seen = learned(std::mem::take(&mut self.seen), SEEN_MAX / 2);
        }
    }

    fn learned(&self) -> &[Route] {
        self.learned
            .get_or_init(|| learned(self.seen.clone(), ROUTES_MAX))
    }

    /// The route that a redacted target is of: the one with the fewest variable segments.
    fn route_of(&self, target: &str) -> Option<&Route> {
        let new = Route::of(target, 0);
        let all = self.learned().iter().filter(|route| route.takes(&new));
        all.min_by_key(|route| route.variables())
    }

    /// All routes with their counts, the most frequent first.
    #[must_use]
    pub fn all(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> =
            self.learned().iter().map(|r| (r.text(), r.count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }

    /// Whether a redacted target is of one of the routes.
    #[must_use]
    pub fn knows(&self, target: &str) -> bool {
        self.route_of(target).is_some()
    }

    /// The path of the route that a redacted target is of, without a query, and with the number of
    /// its variable segments.
    #[must_use]
    pub fn path_of(&self, target: &str) -> Option<(String, usize)> {
        let known = self.route_of(target)?;
        let path = Route {
            query: None,
            ..known.clone()
        };
        Some((path.text(), known.variables()))
    }

    /// The most frequent route.
    #[must_use]
    pub fn main(&self) -> Option<String> {
        self.all().into_iter().next().map(|(text, _)| text)
    }
}

/// At most `room` routes for these: the more have to become one, the more requests are few.
fn learned(mut routes: Vec<Route>, room: usize) -> Vec<Route> {
    let total: u64 = routes.iter().map(|route| route.count).sum();
    let mut few = FEW;
    loop {
        let longer = Longer::than(&routes);
        let mut by_length: BTreeMap<usize, Vec<Route>> = BTreeMap::new();
        for route in routes {
            by_length
                .entry(route.segments.len())
                .or_default()
                .push(route);
        }
        routes = by_length
            .into_values()
            .flat_map(|alike| joined(alike, 0, few, &longer))
            .collect();
        if routes.len() <= room || few > total {
            break;
        }
        few *= 2;
    }
    if routes.len() > room {
        // of different lengths: the least frequent say least
        routes.sort_by_key(|route| std::cmp::Reverse(route.count));
        routes.truncate(room);
    }
    routes
}

/// Those of some routes, which are of one length and the same before `at`, with what varies from there
/// on as variable.
fn joined(mut routes: Vec<Route>, at: usize, few: u64, longer: &Longer) -> Vec<Route> {
    if routes.len() < 2 || routes[0].segments.len() == at {
        let mut routes = routes.into_iter();
        let Some(mut first) = routes.next() else {
            return Vec::new();
        };
        for route in routes {
            first.add(&route);
            first.joined = true;
        }
        return vec![first];
    }
    for segment in varying(&routes, at, few, longer) {
        for route in routes.iter_mut().filter(|r| r.segments[at] == segment) {
            route.segments[at] = Segment::Variable;
            route.joined = true;
        }
    }
    let mut by_segment: BTreeMap<Segment, Vec<Route>> = BTreeMap::new();
    for route in routes {
        by_segment
            .entry(route.segments[at].clone())
            .or_default()
            .push(route);
    }
    by_segment
        .into_values()
        .flat_map(|alike| joined(alike, at + 1, few, longer))
        .collect()
}

/// Beginnings of routes after which others go on: what ends so is the name of something.
struct Longer(BTreeSet<Vec<Segment>>);

impl Longer {
    fn than(routes: &[Route]) -> Longer {
        let beginnings = routes.iter().flat_map(|route| {
            let segments = &route.segments;
            (1..segments.len()).map(|end| segments[..end].to_vec())
        });
        Longer(beginnings.collect())
    }
}

/// Which segments in one place of these routes are values rather than names.
fn varying(routes: &[Route], at: usize, few: u64, longer: &Longer) -> Vec<Segment> {
    let mut counts: BTreeMap<&Segment, u64> = BTreeMap::new();
    let mut after: BTreeMap<&Segment, Vec<&[Segment]>> = BTreeMap::new();
    for route in routes {
        let segment = &route.segments[at];
        if *segment != Segment::Variable {
            *counts.entry(segment).or_default() += route.count;
            after
                .entry(segment)
                .or_default()
                .push(&route.segments[at + 1..]);
        }
    }
    let mut varying: Vec<Segment> = Vec::new();
    for looks in [Segment::is_language, Segment::is_release] {
        let such: Vec<&Segment> = counts.keys().copied().filter(|s| looks(s)).collect();
        if such.len() > ALIKE_MAX {
            varying.extend(such.into_iter().cloned());
        }
    }
    let mut numbered: BTreeMap<String, Vec<Segment>> = BTreeMap::new();
    for &segment in counts.keys() {
        if let Some(name) = segment.unnumbered() {
            numbered.entry(name).or_default().push(segment.clone());
        }
    }
    let many = numbered.into_values().filter(|of| of.len() > ALIKE_MAX);
    varying.extend(many.flatten());
    counts.retain(|segment, _| !varying.contains(segment));
    // the last segments, but the only ones: however often each is asked for, nobody can tell words of
    // programs from words of people
    if at > 1 && routes[0].segments.len() == at + 1 {
        let is_name = |route: &&Route| longer.0.contains(&route.segments);
        let last = routes.iter().filter(|route| !is_name(route));
        let last: BTreeSet<&Segment> = last.map(|route| &route.segments[at]).collect();
        let last = last.into_iter().filter(|s| counts.contains_key(*s));
        let last: Vec<Segment> = last.cloned().collect();
        if last.len() > ALIKE_MAX {
            counts.retain(|segment, _| !last.contains(segment));
            varying.extend(last);
        }
    }
    let rare: Vec<&Segment> = counts
        .iter()
        .filter(|(_, count)| **count <= few)
        .map(|(segment, _)| *segment)
        .collect();
    // one tail that many have in common; that values follow says nothing: of what, the names before tell
    let mut tails: BTreeMap<&[Segment], usize> = BTreeMap::new();
    for segment in &rare {
        let tails_of = after.get(*segment).into_iter().flatten();
        let says = |tail: &&&[Segment]| {
            tail.is_empty() || tail.iter().any(|next| *next != Segment::Variable)
        };
        for tail in tails_of.filter(says) {
            *tails.entry(tail).or_default() += 1;
        }
    }
    let alike = tails.values().copied().max().unwrap_or_default();
    if alike > ALIKE_MAX || rare.len() > UNLIKE_MAX {
        varying.extend(rare.into_iter().cloned());
    }
    if counts.len() > NAMES_MAX {
        let mut sorted: Vec<u64> = counts.values().copied().collect();
        sorted.sort_unstable();
        let usual = sorted[sorted.len() / 2] * 4;
        let even = counts.iter().filter(|(_, count)| **count <= usual);
        let even: Vec<Segment> = even.map(|(segment, _)| (*segment).clone()).collect();
        if even.len() > NAMES_MAX {
            varying.extend(even);
        }
    }
    varying
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ROUTES_MAX, Routes};

    fn learned(targets: &[&str]) -> Vec<(String, u64)> {
        let mut routes = Routes::default();
        for target in targets {
            routes.add(target, 1);
        }
        routes.all()
    }

    #[test]
    fn what_varies_between_members_is_variable() {
        let all = learned(&[
            "/covers/spring.webp",
            "/covers/autumn.webp",
            "/covers/winter.webp",
            "/covers/summer.webp",
            "/health",
        ]);
        assert_eq!(
            all,
            [("/covers/{}".to_owned(), 4), ("/health".to_owned(), 1)]
        );
    }

    #[test]
    fn a_target_is_of_the_route_that_takes_it() {
        let mut routes = Routes::default();
        for target in [
            "/c/spring",
            "/c/autumn",
            "/c/winter",
            "/c/summer",
            "/health",
        ] {
            routes.add(target, 1);
        }
        let path = |target| routes.path_of(target);
        assert_eq!(path("/c/dawn?size=…"), Some(("/c/{}".to_owned(), 1)));
        assert_eq!(path("/health"), Some(("/health".to_owned(), 0)));
        assert_eq!(path("/other"), None);
    }

    #[test]
    fn few_routes_stay_as_they_are() {
        let all = learned(&["/a/x", "/a/y", "/a/x", "/b?q=…", "/b?q=…"]);
        let texts: Vec<&str> = all.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["/a/x", "/b?q=…", "/a/y"]);
    }

    #[test]
    fn what_is_numbered_is_variable_and_versions_of_an_api_are_not() {
        let mut routes = Routes::default();
        for number in 0..100 {
            routes.add(&format!("/v2/team/app{}/tags/list", number % 7), 1);
            routes.add(&format!("/v{}/health", number % 5), 1);
            routes.add(&format!("/shard-{}/stats", number % 3), 1);
        }
        let all = routes.all();
        assert_eq!(all[0], ("/v2/team/{}/tags/list".to_owned(), 100), "{all:?}");
        assert_eq!(all.len(), 1 + 5 + 3, "{all:?}");
    }

    #[test]
    fn names_are_told_from_values_by_how_often_each_is_asked_for() {
        let mut routes = Routes::default();
        for number in 0..40 {
            for name in ["/health", "/login", "/logout", "/metrics"] {
                routes.add(name, 1);
            }
            for name in ["users", "orders", "carts", "items"] {
                routes.add(&format!("/api/{name}"), 1);
                routes.add(&format!("/api/{name}/{number}"), 1);
            }
        }
        let all = routes.all();
        assert_eq!(all.len(), 12, "{all:?}");
        assert!(all.contains(&("/api/carts/{}".to_owned(), 40)), "{all:?}");
    }

    #[test]
    fn words_in_the_last_place_vary_however_often_each_is_asked_for() {
        let mut routes = Routes::default();
        for word in ["lemon", "tulip", "amber", "cedar"] {
            routes.add(&format!("/covers/{word}"), 100);
        }
        assert_eq!(routes.all(), [("/covers/{}".to_owned(), 400)]);
    }

    #[test]
    fn languages_and_releases_vary() {
        let mut routes = Routes::default();
        for language in ["en", "de-DE", "fr", "pt-BR"] {
            for release in ["1.0", "v1.2", "2.0.1", "2.1"] {
                routes.add(&format!("/{language}/docs/{release}/index.html"), 50);
            }
        }
        assert_eq!(routes.main().as_deref(), Some("/{}/docs/{}/index.html"));
    }

    #[test]
    fn numbers_vary_at_once() {
        assert_eq!(
            learned(&["/orders/17/items"]),
            [("/orders/{}/items".to_owned(), 1)]
        );
    }

    #[test]
    fn two_variable_segments_are_learned() {
        let mut routes = Routes::default();
        for a in 'a'..='t' {
            for b in ["k", "l", "m", "n", "o", "p"] {
                routes.add(&format!("/of/shop-{a}/{b}"), 1);
            }
        }
        assert_eq!(routes.main().as_deref(), Some("/of/{}/{}"));
    }

    proptest! {
        #[test]
        fn any_targets_stay_bounded_and_none_is_lost(
            targets in proptest::collection::vec("(/[a-z]{0,3}){0,5}(\\?[a-z]=…)?", 0..200)
        ) {
            let mut routes = Routes::default();
            for target in &targets {
                routes.add(target, 1);
            }
            let all = routes.all();
            prop_assert!(all.len() <= ROUTES_MAX);
            let sum: u64 = all.iter().map(|(_, n)| n).sum();
            prop_assert!(sum <= targets.len() as u64);
        }
    }
}
