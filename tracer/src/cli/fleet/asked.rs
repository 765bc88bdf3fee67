//! What came of asking many, in words.

use hyper::StatusCode;

use super::Who;
use crate::{
    cli::{Failure, client::AskError, output, units},
    report::{Coverage, Node},
};

/// Names in a line about those who gave no answer.
const NAMES: usize = 20;

/// What came of asking.
#[derive(Debug, Default)]
pub struct Asked {
    /// How many were asked.
    pub daemons: usize,
    /// Those who gave no answer, in the order of the endpoints, and why.
    pub silent: Vec<(Who, AskError)>,
}

impl Asked {
    /// Whether there was more than one to ask.
    #[must_use]
    pub fn several(&self) -> bool {
        self.daemons > 1
    }

    /// Counts those as having answered who refused with this status, and says who they are.
    pub fn pardon(&mut self, known: StatusCode) -> Vec<Who> {
        let refused =
            |error: &AskError| matches!(error, AskError::Refused(status, _) if *status == known);
        let pardoned = self.silent.extract_if(.., |(_, error)| refused(error));
        pardoned.map(|(who, _)| who).collect()
    }

    /// Fails when nobody answered; names on stderr those who did not, when others did.
    ///
    /// # Errors
    /// [`Failure`] (status 1) naming each endpoint and its reason.
    pub fn need_one(&self) -> Result<(), Failure> {
        let lines = self.trouble();
        if self.silent.len() < self.daemons {
            lines.iter().for_each(|line| output::note(line));
            return Ok(());
        }
        match lines.is_empty() {
            true => Err(Failure::failed("nobody to ask")),
            false => Err(Failure::failed(lines.join("\ntracer: "))),
        }
    }

    /// A line for each reason why there is no answer, with those whose it is.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for (who, error) in &self.silent {
            let reason = error.to_string();
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(&who.name),
                None => reasons.push((reason, vec![&who.name])),
            }
        }
        let line = |(reason, names): &(String, Vec<&str>)| format!("{}: {reason}", some(names));
        reasons.iter().map(line).collect()
    }

    /// How many of how many answered; nothing to say of one.
    #[must_use]
    pub fn share(&self) -> Option<String> {
        let answered = self.daemons - self.silent.len();
        self.several().then(|| share(answered, self.daemons))
    }

    /// Those who did not answer, as a program reads it, with their places.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, Node)> {
        self.silent.iter().map(|(who, error)| {
            let node = Node {
                endpoint: who.name.clone(),
                coverage: None,
                error: Some(error.to_string()),
            };
            (who.place, node)
        })
    }
}

/// Names, the first ones.
#[must_use]
pub fn some(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn share(answered: usize, daemons: usize) -> String {
    format!("{answered} of {daemons} daemons answered")
}

/// How many of how many answered, in a line.
#[must_use]
pub fn answered(nodes: &[Node]) -> String {
    let answered = nodes.iter().filter(|node| node.error.is_none());
    share(answered.count(), nodes.len())
}

/// What all of them together could see, in a line.
#[must_use]
pub fn coverage(nodes: &[Node]) -> String {
    let seen = || nodes.iter().filter_map(|node| node.coverage.as_ref());
    let sum = |of: fn(&Coverage) -> u64| seen().map(of).sum::<u64>();
    let count = |of: fn(&Coverage) -> bool| seen().filter(|seen| of(seen)).count();
    let mut line = format!(
        "{}; {} seen, {} tracked",
        answered(nodes),
        units::count(sum(|seen| seen.sockets_seen), "socket"),
        sum(|seen| seen.sockets_tracked),
    );
    line += &match sum(|seen| seen.lost_events) {
        0 => "; nothing lost".to_owned(),
        lost => format!(
            "; {} lost on {}",
            units::count(lost, "event"),
            count(|seen| seen.lost_events > 0)
        ),
    };
    if let less @ 1.. = count(|seen| !seen.degraded.is_empty()) {
        line += &format!("; not everything is seen on {less} (tracer doctor says what)");
    }
    line
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::samples;

    fn who(place: usize, name: &str) -> Who {
        Who {
            place,
            name: name.to_owned(),
            alone: false,
        }
    }

    #[test]
    fn those_with_one_reason_share_a_line() {
        let mut silent: Vec<_> = (0..25)
            .map(|place| (who(place, &format!("n{place}")), AskError::NoSocket))
            .collect();
        silent.push((
            who(25, "n25"),
            AskError::Refused(StatusCode::NOT_FOUND, "unknown".to_owned()),
        ));
        let mut asked = Asked {
            daemons: 30,
            silent,
        };
        let lines = asked.trouble();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("n19 and 5 more: no daemon"), "{lines:?}");
        assert_eq!(lines[1], "n25: unknown");
        assert_eq!(asked.pardon(StatusCode::NOT_FOUND), [who(25, "n25")]);
        assert_eq!(asked.share().unwrap(), "5 of 30 daemons answered");
        asked.need_one().unwrap();
    }

    #[test]
    fn coverage_of_all_is_one_line() {
        let node = |name: &str, coverage| Node {
            endpoint: name.to_owned(),
            error: Option::is_none(&coverage).then(|| "gone".to_owned()),
            coverage,
        };
        let mut lossy = samples::report().coverage.unwrap();
        lossy.lost_events = 2;
        lossy.degraded.clear();
        assert_eq!(
            coverage(&[
                node("a", samples::report().coverage),
                node("b", None),
                node("c", Some(lossy))
            ]),
            "2 of 3 daemons answered; 1824 sockets seen, 1664 tracked; 2 events lost on 1; not \
             everything is seen on 1 (tracer doctor says what)"
        );
    }
}
