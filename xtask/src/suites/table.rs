//! The table at the end of a test run.

use std::process::ExitCode;

use super::Outcome;

/// The result of one test program, or of one guest.
#[derive(Debug)]
pub struct Suite {
    /// What was tested.
    pub name: String,
    /// What came out.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

/// Prints a line per suite, every failure and skip by name, and the closing line; a run in which
/// something failed, or nothing ran, is a failure.
pub fn report(suites: &[Suite]) -> ExitCode {
    print!("{}", render(suites));
    let total = total(suites);
    if total.failed() > 0 || total.passed() == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn total(suites: &[Suite]) -> Outcome {
    let mut total = Outcome::default();
    for suite in suites {
        total.add(&suite.outcome);
    }
    total
}

fn render(suites: &[Suite]) -> String {
    let width = suites
        .iter()
        .map(|suite| suite.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut text = format!(
        "\n{:width$}  {:>6}  {:>6}  {:>7}  {:>4}  {:>7}\n",
        "suite", "passed", "failed", "skipped", "n/a", "seconds"
    );
    for Suite {
        name,
        outcome,
        seconds,
    } in suites
    {
        text += &format!(
            "{name:width$}  {:>6}  {:>6}  {:>7}  {:>4}  {seconds:>7.1}\n",
            outcome.passed(),
            outcome.failed(),
            outcome.skipped(),
            outcome.not_applicable()
        );
    }
    for suite in suites {
        for remark in &suite.outcome.remarks {
            text += &format!("{}: {remark}\n", suite.name);
        }
    }
    let total = total(suites);
    if total.not_applicable() > 0 {
        text += &format!(
            "\n{} not applicable: this kernel has no such thing, or it is tested in a guest\n",
            total.not_applicable()
        );
    }
    text += &format!(
        "\n{} passed, {} failed, {} skipped\n",
        total.passed(),
        total.failed(),
        total.skipped()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Suite, render};

    #[test]
    fn the_last_line_adds_everything_up() {
        let suite = |name: &str, summary: &str| {
            let mut outcome = Outcome::default();
            outcome.read(summary);
            Suite {
                name: name.to_owned(),
                outcome,
                seconds: 1.0,
            }
        };
        let text = render(&[
            suite("a", "test result: ok. 3 passed; 0 failed; 1 ignored"),
            suite(
                "longer name",
                "test result: FAILED. 2 passed; 4 failed; 0 ignored",
            ),
        ]);
        assert!(
            text.ends_with("\n5 passed, 4 failed, 1 skipped\n"),
            "{text}"
        );
        assert!(
            text.contains("longer name       2       4        0     0      1.0\n"),
            "{text}"
        );
    }
}
