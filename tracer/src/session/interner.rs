//! Values by number: what sockets have in common is kept once.

use std::{collections::HashMap, hash::Hash};

use crate::{
    protocols::{Request, VARIABLE, template},
    refused::Refusal,
};

/// Most values kept as they are.
const INTERNED_MAX: usize = 65_536;
/// Most values kept in all: beyond `INTERNED_MAX` only what many share.
const INTERNED_WITH_SHARED_MAX: usize = 2 * INTERNED_MAX;

/// Values by number and numbers by value.
#[derive(Debug)]
pub struct Interner<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
    refused: u64,
    /// Of requests, their routes only.
    pub routes_only: bool,
    /// Values with lower numbers are an earlier interner's.
    restored: u32,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner {
            numbers: HashMap::new(),
            values: Vec::new(),
            refused: 0,
            routes_only: false,
            restored: 0,
        }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// The number of a value; `None` when it is new and there is no room.
    pub fn number(&mut self, value: &T) -> Option<u32> {
        self.number_within(value, INTERNED_MAX)
    }

    fn number_within(&mut self, value: &T, room: usize) -> Option<u32> {
        if let Some(&number) = self.numbers.get(value) {
            return Some(number);
        }
        if self.values.len() >= room {
            return None;
        }
        let number = u32::try_from(self.values.len()).ok()?;
        self.numbers.insert(value.clone(), number);
        self.values.push(value.clone());
        Some(number)
    }

    /// The value of a number.
    pub fn value(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)
    }

    /// All values, by number.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Values that had these numbers in an earlier interner.
    pub fn restore(&mut self, values: Vec<T>) {
        self.numbers = (values.iter().cloned()).zip(0..).collect();
        self.restored = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.values = values;
    }

    /// Values that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Interner<Request> {
    /// Whether a request may be one that was made; of those of an earlier session only routes are
    /// known.
    pub fn is_exact(&self, request: &Request) -> bool {
        let earlier = |&number: &u32| number < self.restored;
        let route =
            request.target.contains(VARIABLE) && self.numbers.get(request).is_some_and(earlier);
        !self.routes_only && !route
    }

    /// The number of a request. When there are too many different ones, those to come are known by
    /// their URL template, which is all that findings are told apart by.
    pub fn number_of(&mut self, request: &Request) -> Option<u32> {
        let number = match self.routes_only {
            true => None,
            false => self.number(request),
        };
        let number = number.or_else(|| {
            let shared = Request {
                target: template(&request.target),
                ..request.clone()
            };
            self.number_within(&shared, INTERNED_WITH_SHARED_MAX)
        });
        if number.is_none() {
            self.refused += 1;
            Refusal::RequestRoom.count();
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::Interner;
    use crate::protocols::{Request, Scheme};

    #[test]
    fn interning_gives_the_same_number() {
        let mut interner = Interner::default();
        assert_eq!(interner.number(&"a"), Some(0));
        assert_eq!(interner.number(&"b"), Some(1));
        assert_eq!(interner.number(&"a"), Some(0));
        assert_eq!(interner.value(1), Some(&"b"));
    }

    #[test]
    fn a_flood_of_ids_ends_in_their_template() {
        let mut interner = Interner::default();
        let request = |id: usize| Request {
            method: "GET".to_owned(),
            target: format!("/v1/prices/{id}"),
            host: None,
            scheme: Scheme::Http,
        };
        for id in 0..super::INTERNED_MAX {
            assert!(interner.number_of(&request(id)).is_some());
        }
        let one = interner.number_of(&request(super::INTERNED_MAX + 1));
        assert!(one.is_some());
        assert_eq!(one, interner.number_of(&request(super::INTERNED_MAX + 2)));
        assert_eq!(interner.refused(), 0);
    }

    #[test]
    fn the_routes_of_an_earlier_session_are_no_requests() {
        let mut interner = Interner::default();
        let request = |target: &str| Request {
            method: "GET".to_owned(),
            target: target.to_owned(),
            host: None,
            scheme: Scheme::Http,
        };
        interner.restore(vec![request("/prices/{}"), request("/health")]);
        assert!(!interner.is_exact(&request("/prices/{}")));
        assert!(interner.is_exact(&request("/health")));
        assert!(interner.is_exact(&request("/prices/17")));
        interner.routes_only = true;
        assert!(!interner.is_exact(&request("/prices/17")));
    }

    #[test]
    fn where_asked_only_routes_are_kept() {
        let mut interner = Interner {
            routes_only: true,
            ..Interner::default()
        };
        let request = Request {
            method: "GET".to_owned(),
            target: "/v1/prices/4711?page=…".to_owned(),
            host: None,
            scheme: Scheme::Http,
        };
        assert_eq!(interner.number_of(&request), Some(0));
        assert_eq!(interner.values()[0].target, "/v1/prices/{}?page=…");
    }
}
