//! The stacks of a connection, its opener's and its latest request's: which of them says whose it is.

use crate::model::{Frame, Site};

/// The opener's stack where it says whose a connection is that was used once or again (`reused`):
/// with the function to blame that has done both, open it and send; or as it is, where what sends
/// stands within it. `opens`: as in `common_owner`.
#[must_use]
pub fn owner(opener: &Site, request: &Site, opens: bool, reused: bool) -> Option<Site> {
    let within = || opens && !reused && sent_from_within(opener, request);
    common_owner(opener, request, opens).or_else(|| within().then(|| opener.clone()))
}

/// The opener's stack, with the function to blame that has both opened the connection and sent a
/// request on it by helpers of its own. `opens`: what it sends says nothing of its place (no line
/// of HTTP), so where it has the connection opened is the place also where it sends itself.
fn common_owner(opener: &Site, request: &Site, opens: bool) -> Option<Site> {
    // With the first line of its function, which tells functions without a name apart.
    let own = |site: &Site| -> Option<Vec<(Frame, Option<u32>)>> {
        let frames = site.own_frames.iter().map(|own| {
            let frame = site.frames.get(own.index)?;
            let first_line = frame.line.zip(own.line_in_function);
            let first_line = first_line.and_then(|(line, within)| line.checked_sub(within));
            // Where calls were inlined all have the address of the innermost.
            let address = frame.address.filter(|_| frame.line.is_none());
            let frame = Frame {
                address,
                module: None,
                inlined: false,
                ..frame.clone()
            };
            Some((frame, first_line))
        });
        frames.collect()
    };
    let function = |frame: &Frame| (frame.function.clone(), frame.file.clone());
    let same = |(a, first): &(Frame, Option<u32>), (b, other): &(Frame, Option<u32>)| {
        let at_one_line = first
            .zip(*other)
            .is_none_or(|(first, other)| first == other);
        function(a) == function(b) && at_one_line
    };
    let is_main = |(frame, _): &(Frame, Option<u32>)| {
        let name = frame.function.rsplit([':', '.']).next().unwrap_or_default();
        matches!(name, "main" | "Main" | "<module>")
    };
    let (opener_frames, request_frames) = (own(opener)?, own(request)?);
    if opener_frames == request_frames {
        // one call of a library does both: what it opens says more of it than what it sends
        let library = |site: &Site| {
            site.call_site
                .and_then(|at| site.frames.get(at))
                .map(function)
        };
        let alike = opens && library(opener).is_some() && library(opener) == library(request);
        return alike.then(|| opener.clone());
    }
    let (at, sends) = in_common(&opener_frames, &request_frames, same, is_main)?;
    (opens || sends > 0).then(|| opener.blaming(at)).flatten()
}

/// Whether the opener's stack has a frame to change where that of the latest request has none, or
/// one of the application's own where that has only a library's.
#[must_use]
pub fn opener_says_more(request: Option<&Site>, opener: Option<&Site>) -> bool {
    let rank = |site: Option<&Site>| match site {
        Some(site) if site.own => 2,
        Some(site) => u8::from(site.call_site.is_some()),
        None => 0,
    };
    rank(opener) > rank(request)
}

/// Whether what was sent was sent by a function that stands within the one that opened the
/// connection: a callback or closure of its own, as for when it is connected.
fn sent_from_within(opener: &Site, request: &Site) -> bool {
    let innermost = |site: &Site| site.frames.get(site.own_frames.first()?.index).cloned();
    let (Some(opens), Some(sends)) = (innermost(opener), innermost(request)) else {
        return false;
    };
    opens.file.is_some() && opens.file == sends.file && is_within(&sends.function, &opens.function)
}

/// Whether a function is named as one within another: `join.<anonymous>`, `main.join.func1`,
/// `join.<locals>.greet`, `net::join::{{closure}}`, `Links.lambda$join$0`, `block in join`.
fn is_within(inner: &str, outer: &str) -> bool {
    const MARKS: [&str; 5] = [
        ".<anonymous>",
        ".func",
        ".<locals>.",
        "::{{closure",
        "::{closure",
    ];
    let after = |rest: &str| MARKS.iter().any(|mark| rest.starts_with(mark));
    let method = outer.rsplit(['.', '#']).next().unwrap_or(outer);
    let class = outer.strip_suffix(method).unwrap_or_default();
    let lambda = format!("{class}lambda${method}$");
    let block = inner.starts_with("block ") && inner.ends_with(&format!(" in {outer}"));
    inner.strip_prefix(outer).is_some_and(after) || inner.starts_with(&lambda) || block
}

/// What runs the jobs of an executor, by language: `concurrent.futures.thread`.
const JOBS: [&str; 1] = ["_WorkItem.run"];

/// Whether a job of an executor runs on a stack.
#[must_use]
pub fn runs_job(site: &Site) -> bool {
    let runs = |frame: &Frame| JOBS.contains(&frame.function.as_str());
    site.frames.iter().any(runs)
}

/// Whether who asked is not on the stack of a request and yet may be seen elsewhere: without a stack,
/// or where a job runs only libraries' code.
#[must_use]
pub fn asks_unseen(site: Option<&Site>) -> bool {
    site.is_none_or(|site| !site.own && runs_job(site))
}

/// Whether one that [`asks_unseen`] is charged to where all others of its kind were asked for, `sole`:
/// a job only to who was seen to wait for a job, not to who asks for the same by himself.
#[must_use]
pub fn asks_alike(site: Option<&Site>, sole: &Site) -> bool {
    site.is_none() || (sole.own && runs_job(sole))
}

/// Helper functions between the one that opened a connection, or sent a request, and the one that
/// has it done, at most.
const HELPERS_MAX: usize = 2;

/// The own frame in which opening a connection and sending a request on it come together, where
/// both are done by helper functions (`dial`, `send_line`) or by itself: indices into the own frames
/// of the opener and of the request. `None` where the two have little in common, as with a pool that
/// others filled. `same`: two frames of one function; `is_all`: a function in which all that a
/// program does comes together.
fn in_common<T: PartialEq>(
    opener: &[T],
    request: &[T],
    same: impl Fn(&T, &T) -> bool,
    is_all: impl Fn(&T) -> bool,
) -> Option<(usize, usize)> {
    let outwards = opener.iter().rev().zip(request.iter().rev());
    let shared = outwards.take_while(|(a, b)| a == b).count();
    let at = (
        opener.len().checked_sub(shared + 1)?,
        request.len().checked_sub(shared + 1)?,
    );
    let common = opener.get(at.0)?;
    if !same(common, request.get(at.1)?) || (is_all(common) && at != (0, 0)) {
        return None;
    }
    let helpers_max = if shared == 0 { 1 } else { HELPERS_MAX };
    (at.0.max(at.1) <= helpers_max).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::{asks_alike, asks_unseen, in_common, is_within};
    use crate::model::{Frame, Site, StackQuality};

    #[test]
    fn a_job_is_charged_to_who_waits_for_its_like_only() {
        let site = |functions: &[&str], own: bool| Site {
            frames: (functions.iter())
                .map(|function| Frame {
                    function: (*function).to_owned(),
                    file: None,
                    line: None,
                    module: None,
                    inlined: false,
                    address: None,
                })
                .collect(),
            owners: Vec::new(),
            call_site: None,
            own,
            library: !own,
            own_frames: Vec::new(),
            runs_loop: None,
            quality: StackQuality::Complete,
            line_in_function: None,
            again: None,
        };
        let job = site(&["urlopen", "_WorkItem.run"], false);
        let waited_for = site(&["urlopen", "fetch", "_WorkItem.run"], true);
        let by_himself = site(&["urlopen", "careful"], true);
        assert!(asks_unseen(None) && asks_unseen(Some(&job)));
        assert!(!asks_unseen(Some(&waited_for)) && !asks_unseen(Some(&by_himself)));
        assert!(asks_alike(Some(&job), &waited_for));
        assert!(!asks_alike(Some(&job), &by_himself));
        assert!(asks_alike(None, &by_himself));
    }

    #[test]
    fn closures_are_named_after_what_they_stand_in() {
        for (inner, outer) in [
            ("join.<anonymous>", "join"),
            ("Room.join.<anonymous>", "Room.join"),
            ("main.(*Room).join.func1", "main.(*Room).join"),
            ("Room.join.<locals>.greet", "Room.join"),
            ("rooms::join::{{closure}}", "rooms::join"),
            ("Rooms.lambda$join$0", "Rooms.join"),
            ("block (2 levels) in join", "join"),
        ] {
            assert!(is_within(inner, outer), "{inner}");
            assert!(!is_within(outer, inner), "{inner}");
        }
        assert!(!is_within("join", "join"));
        assert!(!is_within("joined.<anonymous>", "join"));
        assert!(!is_within("main.join.other", "main.join"));
    }

    #[test]
    fn helpers_give_way_to_who_has_both_done() {
        let common = |opener: &[(char, u32)], request: &[(char, u32)]| {
            in_common(opener, request, |a, b| a.0 == b.0, |a| a.0 == 'm')
        };
        // session calls dial on line 2 and send on line 4, main calls session
        let main = ('m', 9);
        assert_eq!(
            common(&[('d', 1), ('s', 2), main], &[('w', 3), ('s', 4), main]),
            Some((1, 1))
        );
        // session connects itself and has a helper send
        assert_eq!(
            common(&[('s', 2), main], &[('w', 3), ('s', 4), main]),
            Some((0, 1))
        );
        // it sends itself, with or without a helper that dials
        assert_eq!(
            common(&[('d', 1), ('s', 2), main], &[('s', 4), main]),
            Some((1, 0))
        );
        assert_eq!(common(&[('s', 2), main], &[('s', 4), main]), Some((0, 0)));
        assert_eq!(common(&[('m', 2)], &[('m', 4)]), Some((0, 0)));
        assert_eq!(common(&[('d', 1), ('m', 2)], &[('m', 4)]), None);
        // both in one call of a library
        assert_eq!(common(&[('s', 2), main], &[('s', 2), main]), None);
        // main fills a pool, and serves later
        assert_eq!(
            common(
                &[('d', 1), ('p', 2), ('m', 3)],
                &[('w', 3), ('s', 4), ('m', 5)]
            ),
            None
        );
        // two helpers of main itself, and of a thread's function
        assert_eq!(common(&[('d', 1), ('m', 3)], &[('w', 3), ('m', 5)]), None);
        assert_eq!(
            common(&[('d', 1), ('t', 3)], &[('w', 3), ('t', 5)]),
            Some((1, 1))
        );
        // another thread opened it
        assert_eq!(
            common(&[('d', 1), ('p', 2)], &[('w', 3), ('s', 4), main]),
            None
        );
        assert_eq!(common(&[], &[main]), None);
    }
}
