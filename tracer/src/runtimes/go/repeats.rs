//! Who asked again in place of an answer, and left that open.
//!
//! `http.Client` sends through whatever `RoundTripper`s the program gave it, and what these do lies
//! within one call of the client: its caller gets one answer. One that asks again, because it had to
//! sign in or to wait, must close the answer that it does not hand on. Whether it did is told by what
//! one goroutine asked last: a request whose answer is still open, and soon after it another of which
//! the answer is finished, from another line of the same function within the same call, and for which
//! a connection had to be opened: had the first answer been finished, its connection would have been
//! used again. One that only passes requests on asks once, however many of its callers' answers stay
//! open.
//!
//! Pure.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::state::{GoConnection, GoKind};
use crate::{
    model::{Again, Frame, OwnFrame, Owner, PoolState, Site},
    symbols::blame::{Blame, Mark},
};

/// Time between a request and the one in its place.
const WITHIN_NS: u64 = 300_000_000;
/// Times that it has to be seen.
const TIMES: u32 = 2;
/// Stacks, and pairs of stacks, that are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// The latest request on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    tgid: u32,
    goid: u64,
    at_ns: u64,
    stack: u32,
    /// Hash of what it asks for.
    what: u64,
    state: PoolState,
    /// It is the first one on its connection.
    new: bool,
}

impl Asked {
    /// Its answer is open, and nobody reads it; the next one came soon.
    fn may_lead_to(&self, next: &Asked) -> bool {
        (self.tgid, self.goid) == (next.tgid, next.goid)
            && self.stack != next.stack
            && next.at_ns.saturating_sub(self.at_ns) <= WITHIN_NS
            && self.state == PoolState::Response
    }
}

/// What a stack's function did after it.
#[derive(Debug)]
struct Repeat {
    tgid: u32,
    /// The stack that asked in its place.
    next: u32,
    site: Arc<Site>,
    /// It was a request of the function's own, which need not be for the same.
    of_its_own: bool,
    times: u32,
    last_ns: u64,
}

/// The stacks of requests whose answers were left for others.
#[derive(Debug, Default)]
pub struct Repeats {
    blame: Arc<Blame>,
    asked: Vec<Asked>,
    known: HashMap<u32, Repeat>,
    /// Pairs of stacks that are none of one function's.
    apart: HashSet<(u32, u32)>,
}

impl Repeats {
    /// None yet. `blame`: whose frames are.
    pub fn new(blame: Arc<Blame>) -> Repeats {
        Repeats {
            blame,
            ..Repeats::default()
        }
    }

    /// A connection as the present sweep finds it.
    pub fn add(&mut self, connection: &GoConnection) {
        let (GoKind::Client, Some(stack), Some(at_ns), Some(request)) = (
            connection.kind,
            connection.stack,
            connection.request_ns,
            &connection.request,
        ) else {
            return;
        };
        if connection.goid == 0 {
            return;
        }
        let mut what = DefaultHasher::new();
        (&request.method, &request.host, &request.target).hash(&mut what);
        self.asked.push(Asked {
            tgid: connection.tgid,
            goid: connection.goid,
            at_ns,
            stack,
            what: what.finish(),
            state: connection.state,
            new: connection.requests == 1,
        });
    }

    /// Compares what was added since the last time. `site`: a stack with its names.
    pub fn settle(&mut self, mut site: impl FnMut(u32) -> Option<Arc<Site>>) {
        let mut asked = std::mem::take(&mut self.asked);
        asked.sort_unstable_by_key(|asked| (asked.tgid, asked.goid, asked.at_ns));
        for pair in asked.windows(2) {
            let [first, next] = pair else { continue };
            // the one in its place may have been left open, too
            let done = next.state == PoolState::Idle || self.site(next.stack).is_some();
            if done && first.may_lead_to(next) {
                self.compare(first, next, &mut site);
            }
        }
        asked.clear();
        self.asked = asked;
    }

    fn compare(
        &mut self,
        first: &Asked,
        next: &Asked,
        mut site: impl FnMut(u32) -> Option<Arc<Site>>,
    ) {
        let pair = (first.stack, next.stack);
        if self.apart.contains(&pair) {
            return;
        }
        if !self.known.contains_key(&pair.0) {
            let (Some(stack), Some(after)) = (site(pair.0), site(pair.1)) else {
                return;
            };
            let enters = |frame: &Frame| self.blame.is_marked(frame, Mark::Entry);
            let found = asked_again(&stack, &after, enters);
            if self.known.len() + self.apart.len() >= REMEMBERED_MAX {
                self.apart.clear();
                self.known.clear();
            }
            let Some((site, of_its_own)) = found else {
                self.apart.insert(pair);
                return;
            };
            let repeat = Repeat {
                tgid: first.tgid,
                next: next.stack,
                site: Arc::new(site),
                of_its_own,
                times: 0,
                last_ns: 0,
            };
            self.known.insert(pair.0, repeat);
        }
        if let Some(known) = self.known.get_mut(&pair.0)
            && known.next == next.stack
            && next.at_ns > known.last_ns
            && (known.of_its_own || next.new && first.what == next.what)
        {
            known.last_ns = next.at_ns;
            known.times += 1;
        }
    }

    /// The stack of a request whose answer was left open for another one's, with who did so.
    pub fn site(&self, stack: u32) -> Option<Arc<Site>> {
        let known = self.known.get(&stack)?;
        (known.times >= TIMES).then(|| Arc::clone(&known.site))
    }

    /// The process has ended.
    pub fn forget(&mut self, tgid: u32) {
        self.known.retain(|_, known| known.tgid != tgid);
        self.apart.clear();
    }
}

/// The first of two stacks, with the function to blame that asked by both within one call of a
/// client, where it is the application's own; else noted beside the call site. And whether the first
/// was a request of the function's own, such as for a token, which goes through a client again.
/// `enters`: whether a function is one by which a client is called.
fn asked_again(first: &Site, next: &Site, enters: impl Fn(&Frame) -> bool) -> Option<(Site, bool)> {
    let entry = first.frames.iter().rposition(&enters)?;
    let line = |frame: &Frame| (frame.function.clone(), frame.file.clone(), frame.line);
    let outwards = first.frames.iter().rev().zip(next.frames.iter().rev());
    let shared = outwards.take_while(|(a, b)| line(a) == line(b)).count();
    let frame = first.frames.len().checked_sub(shared + 1)?;
    let other = next.frames.len().checked_sub(shared + 1)?;
    let (asked, asked_next) = (first.frames.get(frame)?, next.frames.get(other)?);
    let owner = *first.owners.get(frame)?;
    let one_function = asked.function == asked_next.function && asked.file == asked_next.file;
    if frame >= entry || !one_function || !matches!(owner, Owner::Own | Owner::Dependency) {
        return None;
    }
    let inner = first.frames.get(..frame)?.iter().rposition(&enters);
    let mut site = first.clone();
    site.again = Some(Again {
        frame,
        line: asked_next.line,
    });
    if owner == Owner::Own {
        let is_own = |&index: &usize| first.owners.get(index) == Some(&Owner::Own);
        let index = match inner {
            Some(inner) => (inner + 1..=frame).find(is_own)?,
            None => frame,
        };
        site.call_site = Some(index);
        site.own = true;
        site.library = false;
        site.line_in_function = None;
        let own = OwnFrame {
            index,
            line_in_function: None,
        };
        site.own_frames.insert(0, own);
    }
    Some((site, inner.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StackQuality;

    const S: u64 = 1_000_000_000;

    fn frame(function: &str, line: u32) -> Frame {
        Frame {
            function: function.to_owned(),
            file: Some("a.go".to_owned()),
            line: Some(line),
            module: Some("/app".to_owned()),
            inlined: false,
            address: None,
        }
    }

    /// A stack, innermost first: what begins with `h.` is the library's, with `d.` a dependency's.
    fn site(frames: &[(&str, u32)]) -> Arc<Site> {
        let owners: Vec<Owner> = frames
            .iter()
            .map(|(name, _)| match name.get(..2) {
                Some("h.") => Owner::Runtime,
                Some("d.") => Owner::Dependency,
                _ => Owner::Own,
            })
            .collect();
        let outside = frames.iter().rposition(|(name, _)| *name == "h.Do");
        let call_site = outside.map(|at| at + 1);
        Arc::new(Site {
            frames: frames.iter().map(|(f, line)| frame(f, *line)).collect(),
            owners,
            call_site,
            own: true,
            quality: StackQuality::Complete,
            library: false,
            own_frames: Vec::new(),
            runs_loop: None,
            line_in_function: None,
            again: None,
        })
    }

    type Found = (Option<usize>, usize, Option<u32>, bool);

    /// The call site, the frame that asked again, from which line, and whether for itself.
    fn again(first: &[(&str, u32)], next: &[(&str, u32)]) -> Option<Found> {
        let enters = |frame: &Frame| frame.function == "h.Do";
        let (found, of_its_own) = asked_again(&site(first), &site(next), enters)?;
        let Again { frame, line } = found.again?;
        Some((found.call_site, frame, line, of_its_own))
    }

    const FIRST: [(&str, u32); 5] = [
        ("h.trip", 1),
        ("auth", 20),
        ("h.send", 2),
        ("h.Do", 3),
        ("fetch", 7),
    ];

    #[test]
    fn who_asks_twice_in_one_call_is_told_from_who_passes_on() {
        let mut next = FIRST;
        next[1].1 = 26;
        let found = again(&FIRST, &next);
        assert_eq!(found, Some((Some(1), 1, Some(26), false)));
        // the caller asked twice
        let mut calls = FIRST;
        calls[4].1 = 9;
        assert_eq!(again(&FIRST, &calls), None);
        // from one line in a loop: nothing tells who repeats it
        assert_eq!(again(&FIRST, &FIRST), None);
        // no part of a client's call
        assert_eq!(
            again(&[("a", 1), ("main", 2)], &[("a", 3), ("main", 2)]),
            None
        );
    }

    #[test]
    fn a_dependency_is_noted_beside_the_call_site() {
        let mut first = FIRST;
        first[1].0 = "d.auth";
        let mut next = first;
        next[1].1 = 26;
        let found = again(&first, &next);
        assert_eq!(found, Some((Some(4), 1, Some(26), false)));
    }

    #[test]
    fn a_request_for_a_token_is_made_by_who_makes_it() {
        let first = [
            ("h.trip", 1),
            ("h.Do", 3),
            ("token", 40),
            ("auth", 23),
            ("h.send", 2),
            ("h.Do", 3),
            ("fetch", 7),
        ];
        let mut next = FIRST;
        next[1].1 = 26;
        let found = again(&first, &next);
        assert_eq!(found, Some((Some(2), 3, Some(26), true)));
    }

    #[test]
    fn an_open_answer_before_a_finished_one_counts_once_each_time() {
        let table = "[[rule]]\nis = \"system\"\nmarks = \"entry\"\nfunction = [\"h.Do\"]\n";
        let mut repeats = Repeats::new(Arc::new(Blame::new(Vec::new(), &[table])));
        let sites = |id: u32| {
            let mut frames = FIRST;
            frames[1].1 = id;
            Some(site(&frames))
        };
        let asked = |at_ns: u64, stack: u32, state: PoolState| Asked {
            tgid: 7,
            goid: 5,
            at_ns,
            stack,
            what: 9,
            state,
            new: stack == 26,
        };
        let mut sweep = |asked: &[Asked]| {
            repeats.asked.extend_from_slice(asked);
            repeats.settle(sites);
            repeats.site(20).is_some()
        };
        let first = [
            asked(S, 20, PoolState::Response),
            asked(S + 9, 26, PoolState::Idle),
        ];
        assert!(!sweep(&first));
        assert!(!sweep(&first), "the same once more");
        let mut other = [
            asked(S, 20, PoolState::Response),
            asked(S + 10, 26, PoolState::Idle),
        ];
        other[1].what = 8;
        assert!(!sweep(&other), "for something else");
        (other[1].what, other[1].new) = (9, false);
        assert!(!sweep(&other), "the first one's connection was free again");
        // what is still on its way may have its answer closed afterwards
        let busy = [
            asked(2 * S, 20, PoolState::Response),
            asked(2 * S + 9, 26, PoolState::Reading),
        ];
        assert!(!sweep(&busy));
        // long after it is another call's
        let late = [
            asked(3 * S, 20, PoolState::Response),
            asked(9 * S, 26, PoolState::Idle),
        ];
        assert!(!sweep(&late));
        let second = [
            asked(10 * S, 20, PoolState::Response),
            asked(10 * S + 9, 26, PoolState::Idle),
        ];
        assert!(sweep(&second));
        repeats.forget(7);
        assert!(repeats.site(20).is_none());
    }
}
