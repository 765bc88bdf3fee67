//! Routes, learned from the requests of a population: whatever varies between its members is `{}`.
//!
//! What one target looks like says little: `/covers/spring.webp` may be a page or one of thousands.
//! A segment is held to vary where more than [`ALIKE_MAX`] targets differ in nothing else.

use super::url::template;

/// Targets that may differ in one segment and still be routes of their own.
const ALIKE_MAX: usize = 3;
/// Routes kept; beyond that the most similar become one.
const ROUTES_MAX: usize = 16;
/// Segments told apart.
const SEGMENTS_MAX: usize = 32;

/// One segment of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Constant(Box<str>),
    Variable,
}

impl Segment {
    fn takes(&self, other: &Segment) -> bool {
        *self == Segment::Variable || self == other
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    segments: Vec<Segment>,
    /// Keys of its query, as redaction leaves them.
    query: Option<Box<str>>,
    count: u64,
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
        }
    }

    fn takes(&self, other: &Route) -> bool {
        self.segments.len() == other.segments.len()
            && (self.segments.iter().zip(&other.segments)).all(|(a, b)| a.takes(b))
    }

    /// Positions in which two routes of the same length differ; `None` for different lengths.
    fn differences(&self, other: &Route) -> Option<Vec<usize>> {
        (self.segments.len() == other.segments.len()).then(|| {
            (self.segments.iter().zip(&other.segments))
                .enumerate()
                .filter(|(_, (a, b))| a != b)
                .map(|(at, _)| at)
                .collect()
        })
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
    routes: Vec<Route>,
}

impl Routes {
    /// Adds a redacted target that was seen `count` times.
    pub fn add(&mut self, target: &str, count: u64) {
        let new = Route::of(target, count);
        if let Some(known) = self.routes.iter_mut().find(|route| route.takes(&new)) {
            known.count += count;
            if known.query != new.query {
                known.query = None;
            }
            return;
        }
        let mut latest = new.clone();
        self.routes.push(new);
        // what becomes one route may be alike to others again
        while let Some(joined) =
            (0..latest.segments.len()).find_map(|at| self.generalize(&latest, at))
        {
            latest = joined;
        }
        while self.routes.len() > ROUTES_MAX {
            if !self.join_most_similar() {
                // all of different lengths: the least frequent says least
                let least = self.routes.iter().map(|r| r.count).min();
                let Some(i) = self.routes.iter().position(|r| Some(r.count) == least) else {
                    return;
                };
                self.routes.swap_remove(i);
            }
        }
    }

    /// Makes a segment variable where too many routes differ from `like` in it alone; the route
    /// that these became.
    fn generalize(&mut self, like: &Route, at: usize) -> Option<Route> {
        let alike = |route: &Route| {
            like.differences(route)
                .is_some_and(|d| d.iter().all(|&i| i == at))
        };
        let count = self.routes.iter().filter(|route| alike(route)).count();
        if count <= ALIKE_MAX {
            return None;
        }
        let (these, rest) = self.routes.drain(..).partition(alike);
        self.routes = rest;
        self.join(these, &[at]);
        self.routes.last().cloned()
    }

    /// Puts one route in the place of several.
    fn join(&mut self, these: Vec<Route>, vary: &[usize]) {
        let mut these = these.into_iter();
        let Some(mut joined) = these.next() else {
            return;
        };
        for &at in vary {
            if let Some(segment) = joined.segments.get_mut(at) {
                *segment = Segment::Variable;
            }
        }
        for route in these {
            joined.count += route.count;
            if joined.query != route.query {
                joined.query = None;
            }
        }
        let (taken, rest): (Vec<Route>, Vec<Route>) =
            self.routes.drain(..).partition(|route| joined.takes(route));
        self.routes = rest;
        joined.count += taken.iter().map(|route| route.count).sum::<u64>();
        self.routes.push(joined);
    }

    /// Joins the two routes of one length that differ least; `false` when there are none.
    fn join_most_similar(&mut self) -> bool {
        let mut best: Option<(usize, usize, Vec<usize>)> = None;
        for (i, a) in self.routes.iter().enumerate() {
            for (j, b) in self.routes.iter().enumerate().skip(i + 1) {
                if let Some(differences) = a.differences(b)
                    && best
                        .as_ref()
                        .is_none_or(|(_, _, d)| differences.len() < d.len())
                {
                    best = Some((i, j, differences));
                }
            }
        }
        let Some((i, j, differences)) = best else {
            return false;
        };
        let b = self.routes.swap_remove(j);
        let a = self.routes.swap_remove(i);
        self.join(vec![a, b], &differences);
        true
    }

    /// All routes with their counts, the most frequent first.
    #[must_use]
    pub fn all(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = self.routes.iter().map(|r| (r.text(), r.count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }

    /// Whether a redacted target is of one of the routes.
    #[must_use]
    pub fn knows(&self, target: &str) -> bool {
        let new = Route::of(target, 0);
        self.routes.iter().any(|route| route.takes(&new))
    }

    /// The path of the route that a redacted target is of, without a query, and with the number of
    /// its variable segments.
    #[must_use]
    pub fn path_of(&self, target: &str) -> Option<(String, usize)> {
        let new = Route::of(target, 0);
        let known = self.routes.iter().find(|route| route.takes(&new))?;
        let variable = |segment: &&Segment| **segment == Segment::Variable;
        let path = Route {
            query: None,
            ..known.clone()
        };
        Some((path.text(), known.segments.iter().filter(variable).count()))
    }

    /// The most frequent route.
    #[must_use]
    pub fn main(&self) -> Option<String> {
        self.all().into_iter().next().map(|(text, _)| text)
    }
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
    fn numbers_vary_at_once() {
        assert_eq!(
            learned(&["/orders/17/items"]),
            [("/orders/{}/items".to_owned(), 1)]
        );
    }

    #[test]
    fn two_variable_segments_are_learned() {
        let mut routes = Routes::default();
        for a in ["x", "y", "z", "u", "v", "w"] {
            for b in ["k", "l", "m", "n", "o", "p"] {
                routes.add(&format!("/of/{a}/{b}"), 1);
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
