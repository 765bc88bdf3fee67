//! Which frame of a stack is to blame: the innermost one that is the application's own.
//!
//! Whose a frame is, tables say: `blame.toml` beside this file, one more in the folder of each
//! runtime, and before them the user's own. Pure.

use std::fmt;

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::model::{Frame, Owner};

/// Whose code a frame is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// C library, language runtime, standard library.
    System,
    /// A well-known client library.
    Client,
    /// Code of others that the application was built with.
    Dependency,
    /// The application's own.
    Own,
}

/// What else a rule says of the frames that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A function by which applications enter a client library. What runs inside of it, until the
    /// library is left for the network, is the library's plumbing, whoever wrote it: middleware,
    /// retries, authentication, tracing. Its caller asked.
    Entry,
    /// A function that runs an event loop. What the loop calls was asked for by others than its
    /// caller, who only runs it.
    Loop,
    /// The first function of a thread or goroutine: a stack that reaches it is whole.
    First,
}

/// One rule: fits a frame when every list that is not empty has a pattern that fits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whose the frames are that it fits.
    pub is: Origin,
    /// What else they are. Looked for in all rules, not only the first that fits.
    #[serde(default)]
    pub marks: Option<Mark>,
    /// Patterns for the module's file name, without directories.
    #[serde(default)]
    pub module: Vec<String>,
    /// Patterns for the demangled function name.
    #[serde(default)]
    pub function: Vec<String>,
    /// Patterns for the source file as the build recorded it.
    #[serde(default)]
    pub file: Vec<String>,
}

/// A table of rules that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct BadRules {
    /// Line, from 1.
    pub line: usize,
    /// The key, or the line's text where there is none.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.key, self.reason)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    rule: Vec<Spanned<Rule>>,
}

impl Rule {
    /// What is wrong with a rule without patterns.
    pub const EMPTY: &str =
        "has none of `module`, `function` and `file`, so it would fit every frame";

    /// Whether it has no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.module.is_empty() && self.function.is_empty() && self.file.is_empty()
    }

    /// Reads `[[rule]]` tables.
    ///
    /// # Errors
    /// [`BadRules`] names the first line and key that can't be understood; so does a rule without
    /// any pattern, which would fit everything.
    pub fn parse(text: &str) -> Result<Vec<Rule>, BadRules> {
        let bad = |at: usize, reason: &str| {
            // Not every offset is a character boundary of a damaged text.
            let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
            let line = before.iter().filter(|b| **b == b'\n').count();
            BadRules {
                line: line + 1,
                key: key_of(text.lines().nth(line).unwrap_or_default()),
                reason: reason.to_owned(),
            }
        };
        let table: Table = toml::from_str(text)
            .map_err(|error| bad(error.span().map_or(0, |span| span.start), error.message()))?;
        if let Some(empty) = table.rule.iter().find(|rule| rule.get_ref().is_empty()) {
            return Err(bad(empty.span().start, Rule::EMPTY));
        }
        Ok(table.rule.into_iter().map(Spanned::into_inner).collect())
    }

    fn fits(&self, frame: &Frame) -> bool {
        let any = |patterns: &[String], text: Option<&str>| {
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| glob(p, text)))
        };
        let module = frame
            .module
            .as_deref()
            .map(|m| m.rsplit('/').next().unwrap_or(m));
        any(&self.module, module)
            && any(&self.function, Some(&frame.function))
            && any(&self.file, frame.file.as_deref())
    }
}

fn key_of(line: &str) -> String {
    let line = line.trim().trim_matches(['[', ']']);
    line.split_once('=')
        .map_or(line, |(key, _)| key.trim_end())
        .to_owned()
}

/// The rules for C, C++, Rust and what has no folder of its own.
pub const COMMON: &str = include_str!("blame.toml");

/// What is known of the process beside its frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Program<'a> {
    /// Path of its executable.
    pub executable: Option<&'a str>,
}

/// Rules in their order, to say whose frames are and which of them is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blame {
    user: Vec<Rule>,
    built_in: Vec<Rule>,
}

/// The frame to blame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blamed {
    /// Its index; `None` where nothing but runtime and C library is on the stack.
    pub index: Option<usize>,
    /// It is a library's, because none is known to be the application's.
    pub library: bool,
    /// Frames that are as much the application's own as that one, innermost first; without it
    /// empty. Not those inside of a client library, nor those that only run an event loop; of
    /// those that entered a client library only the innermost, because such a library opens
    /// connections as it likes.
    pub own: Vec<usize>,
}

/// How much a frame may have to do with what happened: own code of the program, own code of
/// another library, else how far it is from that.
const OWN: u8 = 7;
const OWN_ELSEWHERE: u8 = 6;
const RUNS_LOOP: u8 = 5;
const LIBRARY: std::ops::RangeInclusive<u8> = 3..=4;

impl Blame {
    /// Rules of the user, and tables that come after them. A table that can't be read is left
    /// out; tests see that those of this crate can.
    #[must_use]
    pub fn new(user: Vec<Rule>, tables: &[&str]) -> Blame {
        let rules = tables.iter().flat_map(|table| Rule::parse(table));
        Blame {
            user,
            built_in: rules.flatten().collect(),
        }
    }

    /// Whose a frame is: what the user says, else `known` (from the build), else the tables. A build
    /// does not tell which of the dependencies are well-known clients.
    #[must_use]
    pub fn origin(&self, frame: &Frame, known: Option<Origin>) -> Origin {
        let first = |rules: &[Rule]| rules.iter().find(|rule| rule.fits(frame)).map(|r| r.is);
        let table = || first(&self.built_in);
        let by_build = || match known {
            Some(Origin::Dependency) => table().filter(|is| *is == Origin::Client).or(known),
            known => known.or_else(table),
        };
        first(&self.user).or_else(by_build).unwrap_or(Origin::Own)
    }

    /// Whether a rule marks the frame so.
    #[must_use]
    pub fn is_marked(&self, frame: &Frame, mark: Mark) -> bool {
        let rules = self.user.iter().chain(&self.built_in);
        let mut marking = rules.filter(|rule| rule.marks == Some(mark));
        marking.any(|rule| rule.fits(frame))
    }

    /// The frame to blame: the innermost own one of the executable, or of a program it interprets,
    /// or (where nothing is interpreted: else it extends the interpreter) of a library beside it,
    /// outside of the outermost entry into a client library; else the
    /// innermost own one of any library, or inside of the entry; else whatever is least remote
    /// from the application: who runs the event loop, a dependency, a client library. None where
    /// there is nothing but runtime and C library: an interpreter's own function did not ask.
    ///
    /// `known` says whose frames are where the build tells, by index.
    #[must_use]
    pub fn call_site(
        &self,
        frames: &[Frame],
        known: &[Option<Origin>],
        program: Program<'_>,
    ) -> Blamed {
        let marked = |mark| move |frame: &Frame| self.is_marked(frame, mark);
        let runs_loop = frames.iter().position(marked(Mark::Loop));
        let within = frames.get(..runs_loop.unwrap_or(frames.len()));
        let entry = within.and_then(|within| within.iter().rposition(marked(Mark::Entry)));
        let is_interpreted = |frame: &Frame| frame.module.is_none() && frame.file.is_some();
        let interpreted = frames.iter().any(is_interpreted);
        let rank = |(index, frame): (usize, &Frame)| {
            let known = known.get(index).copied().flatten();
            let rank = match self.origin(frame, known) {
                // it asks for nothing itself
                Origin::Client | Origin::Dependency if marked(Mark::Loop)(frame) => 0,
                Origin::Own if runs_loop.is_some_and(|at| index > at) => RUNS_LOOP,
                Origin::Own if near(frame, program, interpreted) => OWN,
                Origin::Own if named(frame) && (!interpreted || is_interpreted(frame)) => {
                    OWN_ELSEWHERE
                }
                Origin::Dependency => 4,
                Origin::Client => 3,
                Origin::Own => 2,
                Origin::System => 0,
            };
            (rank, index)
        };
        let ranks: Vec<(u8, usize)> = frames.iter().enumerate().map(rank).collect();
        let best = |ranks: &[(u8, usize)]| {
            let innermost = |&(rank, index): &(u8, usize)| (rank, std::cmp::Reverse(index));
            ranks.iter().copied().max_by_key(innermost)
        };
        let outside = entry.and_then(|at| ranks.get(at + 1..));
        let outside = outside.filter(|r| best(r).is_some_and(|(rank, _)| rank >= OWN_ELSEWHERE));
        let most = if outside.is_some() { 1 } else { usize::MAX };
        let ranks = outside.unwrap_or(&ranks);
        let Some((rank, index)) = best(ranks).filter(|(rank, _)| *rank > 0) else {
            return Blamed::default();
        };
        let as_much = ranks.iter().filter(|(of, _)| *of == rank);
        Blamed {
            index: Some(index),
            library: LIBRARY.contains(&rank),
            own: match rank {
                OWN_ELSEWHERE.. => as_much.map(|(_, index)| *index).take(most).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// Whose each frame is, as readers of a report tell it: an own frame that is far from the
    /// program is somebody else's.
    #[must_use]
    pub fn owners(
        &self,
        frames: &[Frame],
        known: &[Option<Origin>],
        program: Program<'_>,
    ) -> Vec<Owner> {
        let is_interpreted = |frame: &Frame| frame.module.is_none() && frame.file.is_some();
        let interpreted = frames.iter().any(is_interpreted);
        let owner = |(index, frame): (usize, &Frame)| {
            let known = known.get(index).copied().flatten();
            match self.origin(frame, known) {
                Origin::Own if near(frame, program, interpreted) => Owner::Own,
                Origin::Own | Origin::Dependency => Owner::Dependency,
                Origin::Client => Owner::Client,
                Origin::System => Owner::Runtime,
            }
        };
        frames.iter().enumerate().map(owner).collect()
    }
}

/// In the executable, in interpreted code, or, where there is none, in a library that does not come
/// with the system.
fn near(frame: &Frame, program: Program<'_>, interpreted: bool) -> bool {
    let Some(module) = frame.module.as_deref() else {
        return frame.file.is_some();
    };
    let system = [
        "/usr/lib",
        "/lib",
        "/usr/local/lib",
        "/nix/store/",
        "/snap/",
    ];
    let beside = !interpreted && !system.iter().any(|d| module.starts_with(d));
    Some(module) == program.executable || beside
}

/// Has a name, rather than a place.
fn named(frame: &Frame) -> bool {
    !frame.function.contains("+0x")
}

/// `pattern` fits the whole of `text`; `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Blame, Mark, Origin, Program, Rule, glob};
    use crate::model::Frame;

    fn frame(function: &str, file: Option<&str>, module: Option<&str>) -> Frame {
        Frame {
            function: function.to_owned(),
            file: file.map(str::to_owned),
            line: file.map(|_| 1),
            module: module.map(str::to_owned),
            inlined: false,
            address: None,
        }
    }

    #[test]
    fn rules_of_the_user_come_first() {
        let user = Rule::parse("[[rule]]\nis = \"dependency\"\nfunction = [\"acme_http_*\"]\n[[rule]]\nis = \"own\"\nmodule = [\"libcurl*\"]\n").unwrap();
        let frames = [
            frame("acme_http_get", Some("h.c"), Some("/app/app")),
            frame("main", Some("m.c"), Some("/app/app")),
        ];
        let program = Program {
            executable: Some("/app/app"),
        };
        let blame = Blame::new(user, &[super::COMMON]);
        let blamed = blame.call_site(&frames, &[], program);
        assert_eq!((blamed.index, &blamed.own[..]), (Some(1), &[1][..]));
        // and before what a build says
        let build = [Some(Origin::Own), Some(Origin::Own)];
        assert_eq!(blame.call_site(&frames, &build, program).index, Some(1));
        let curl = frame("x", None, Some("/usr/lib/libcurl.so.4"));
        assert_eq!(blame.origin(&curl, None), Origin::Own);
    }

    #[test]
    fn a_dependency_of_the_build_may_be_a_well_known_client() {
        let table = "[[rule]]\nis = \"client\"\nfunction = [\"grpc.*\"]\n[[rule]]\nis = \"system\"\nfunction = [\"net.*\"]\n";
        let blame = Blame::new(Vec::new(), &[table]);
        let is = |function: &str, known| blame.origin(&frame(function, None, None), Some(known));
        assert_eq!(is("grpc.Invoke", Origin::Dependency), Origin::Client);
        assert_eq!(is("grpc.Invoke", Origin::Own), Origin::Own);
        assert_eq!(is("net.dial", Origin::Dependency), Origin::Dependency);
    }

    #[test]
    fn errors_name_line_and_key() {
        let error = Rule::parse("[[rule]]\nis = \"own\"\nmodul = [\"x\"]\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (3, "modul"));
        let error = Rule::parse("[[rule]]\nis = \"mine\"\nmodule = [\"x\"]\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (2, "is"));
        let error = Rule::parse("\n[[rule]]\nis = \"own\"\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (2, "rule"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("libc.so*", "libc.so.6", true),
            ("libc.so*", "mylibc.so.6", false),
            ("*/a/*.py", "/x/a/b/c.py", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn who_enters_a_client_library_asked() {
        let table = "[[rule]]\nis = \"client\"\nmarks = \"entry\"\nfunction = [\"Client.do\"]\n";
        let blame = Blame::new(Vec::new(), &[table]);
        let at = |functions: &[&str]| {
            let frames: Vec<_> = functions
                .iter()
                .map(|f| frame(f, Some("a.x"), None))
                .collect();
            blame.call_site(&frames, &[], Program::default())
        };
        let wrapped = at(&[
            "dial",
            "Retry.trip",
            "Client.do",
            "Auth.trip",
            "Client.do",
            "fetch",
            "main",
        ]);
        assert_eq!((wrapped.index, wrapped.own), (Some(5), vec![5]));
        let alone = at(&["dial", "Retry.trip", "Client.do"]);
        assert_eq!(
            (alone.index, alone.library),
            (Some(0), false),
            "better than nothing"
        );
    }

    #[test]
    fn who_runs_an_event_loop_did_not_ask_for_what_it_calls() {
        let table = "[[rule]]\nis = \"system\"\nmarks = \"loop\"\nfunction = [\"run_loop\"]\n[[rule]]\nis = \"client\"\nmarks = \"loop\"\nfunction = [\"lib.run_forever\"]\n[[rule]]\nis = \"client\"\nfunction = [\"lib.*\"]\n[[rule]]\nis = \"system\"\nfunction = [\"r.*\"]\n";
        let blame = Blame::new(Vec::new(), &[table]);
        let at = |functions: &[&str]| {
            let frames: Vec<_> = functions
                .iter()
                .map(|f| frame(f, Some("a.x"), None))
                .collect();
            blame.call_site(&frames, &[], Program::default())
        };
        let asked = at(&["lib.send", "handler", "run_loop", "main"]);
        assert_eq!((asked.index, asked.own), (Some(1), vec![1]));
        let unknown = at(&["lib.send", "run_loop", "main"]);
        assert_eq!((unknown.index, unknown.own), (Some(2), vec![]));
        let library = at(&["lib.send", "run_loop"]);
        assert_eq!((library.index, library.library), (Some(0), true));
        let alone = at(&["r.write", "lib.run_forever"]);
        assert_eq!(alone.index, None, "a loop asked for nothing");
    }

    #[test]
    fn marks_are_looked_for_beyond_the_first_rule_that_fits() {
        let table = "[[rule]]\nis = \"system\"\nfunction = [\"r.*\"]\n[[rule]]\nis = \"own\"\nmarks = \"first\"\nfunction = [\"r.main\"]\n";
        let blame = Blame::new(Vec::new(), &[table]);
        let main = frame("r.main", None, None);
        assert!(blame.is_marked(&main, Mark::First));
        assert_eq!(blame.origin(&main, None), Origin::System);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = Rule::parse(&text);
        }

        #[test]
        fn damaged_tables_are_survived(cut in 0usize..400, insert in ".{0,4}") {
            let mut text = "[[rule]]\nis = \"own\"\nmodule = [\"a\"]\n".repeat(3);
            let at = cut.min(text.len());
            text.insert_str(at, &insert);
            if let Err(error) = Rule::parse(&text) { assert!(error.line >= 1); }
        }

        #[test]
        fn a_text_fits_itself_and_its_beginning(text in "[^*]{0,12}", more in "[^*]{0,4}") {
            let joined = format!("{text}{more}");
            let prefix = format!("{text}*");
            assert!(glob(&text, &text) && glob(&prefix, &joined));
        }
    }
}
