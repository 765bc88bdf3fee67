//! What is said between the reader and who asks it: one message each way, in one packet.

use serde::{Deserialize, Serialize};

use crate::model::Named;

/// Longest message. Below what a socket sends in one packet by default
/// (`net.core.wmem_default`).
pub const MESSAGE_MAX: usize = 128 << 10;
/// Names in one answer; deeper nests of inlined functions are cut at the innermost.
pub const NAMES_MAX: usize = 64;
/// Longest name or path in an answer, in bytes.
pub const TEXT_MAX: usize = 4 << 10;

/// A question about one address of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Number of the file. When the reader does not have it yet, its descriptor comes along, and
    /// after it the one of its split debug information, if there is any.
    pub file: u64,
    /// The address as linked.
    pub address: u64,
    /// Only the symbol table may be read.
    pub symbols_only: bool,
}

/// The functions at the address, innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the file that was asked about.
    pub file: u64,
    /// The address that was asked about.
    pub address: u64,
    /// The names; empty when there are none.
    pub names: Vec<Named>,
}

/// Bytes of a question.
#[must_use]
pub fn question(question: Question) -> Vec<u8> {
    serde_json::to_vec(&question).unwrap_or_default()
}

/// A question from its bytes; `None` when it is none.
#[must_use]
pub fn parse_question(bytes: &[u8]) -> Option<Question> {
    serde_json::from_slice(bytes).ok()
}

/// Bytes of an answer, cut to the bounds.
#[must_use]
pub fn answer(mut answer: Answer) -> Vec<u8> {
    answer.names.truncate(NAMES_MAX);
    for named in &mut answer.names {
        cut(&mut named.function);
        named.file.as_mut().into_iter().for_each(cut);
    }
    loop {
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        if bytes.len() <= MESSAGE_MAX || answer.names.is_empty() {
            return bytes;
        }
        // The outermost is the function itself.
        let half = answer.names.len().div_ceil(2);
        answer.names.drain(..half);
    }
}

/// An answer from its bytes; `None` where it is none, is not to `asked`, or is beyond the bounds.
#[must_use]
pub fn parse_answer(bytes: &[u8], asked: Question) -> Option<Vec<Named>> {
    if bytes.len() > MESSAGE_MAX {
        return None;
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let fits = |named: &Named| {
        named.function.len() <= TEXT_MAX && named.file.as_ref().is_none_or(|f| f.len() <= TEXT_MAX)
    };
    let right = answer.file == asked.file
        && answer.address == asked.address
        && answer.names.len() <= NAMES_MAX
        && answer.names.iter().all(fits);
    right.then_some(answer.names)
}

fn cut(text: &mut String) {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
    }
}

/// Bytes that a hostile reader or asker may send; for the fuzzer.
#[cfg(any(test, fuzzing))]
pub fn parse_hostile(data: &[u8]) {
    let asked = parse_question(data).unwrap_or(Question {
        file: 1,
        address: 2,
        symbols_only: false,
    });
    let names = parse_answer(data, asked).unwrap_or_default();
    let bytes = answer(Answer {
        file: asked.file,
        address: asked.address,
        names,
    });
    assert!(bytes.len() <= MESSAGE_MAX);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const ASKED: Question = Question {
        file: 3,
        address: 0x1234,
        symbols_only: false,
    };

    fn named(function: &str) -> Named {
        Named {
            function: function.to_owned(),
            file: Some("/src/a.c".to_owned()),
            line: Some(7),
            inlined: true,
            function_line: Some(5),
        }
    }

    fn with(names: Vec<Named>) -> Vec<u8> {
        answer(Answer {
            file: ASKED.file,
            address: ASKED.address,
            names,
        })
    }

    #[test]
    fn questions_and_answers_arrive_as_they_were_sent() {
        assert_eq!(parse_question(&question(ASKED)), Some(ASKED));
        let names = vec![named("inner"), named("outer")];
        assert_eq!(parse_answer(&with(names.clone()), ASKED), Some(names));
        let other = Question {
            address: 1,
            ..ASKED
        };
        assert_eq!(parse_answer(&with(vec![named("f")]), other), None);
    }

    #[test]
    fn what_is_too_long_keeps_the_function_itself() {
        let long = "\u{1}é".repeat(TEXT_MAX);
        let mut names = vec![named(&long); 4 * NAMES_MAX];
        names[NAMES_MAX - 1] = named("outermost that is kept");
        let bytes = with(names);
        assert!(bytes.len() <= MESSAGE_MAX);
        let kept = parse_answer(&bytes, ASKED).unwrap();
        assert_eq!(kept.last().unwrap().function, "outermost that is kept");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>()) {
            parse_hostile(&bytes);
        }
    }
}
