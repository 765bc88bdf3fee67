//! Reads what a test program prints: Rust's own harness, or the behaviour tests' runner.

/// Counts of one or more test runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    passed: u64,
    failed: u64,
    skipped: u64,
    not_applicable: u64,
    summaries: u64,
    /// Lines that may still be added to the last remark, of what its test said of its failure.
    reason: usize,
    /// For each failure and each skipped test its name, and the reason where there is one.
    pub remarks: Vec<String>,
}

/// Lines of a failed test's reason that are repeated at the end.
const REASON_LINES: usize = 12;
/// Characters of each of these.
const REASON_WIDTH: usize = 400;

impl Outcome {
    /// Takes in one line of output: counts come from the closing line, names from those before it.
    pub fn read(&mut self, line: &str) {
        if let Some([passed, failed, skipped]) = closing_line(line) {
            self.summaries += 1;
            self.passed += passed;
            self.failed += failed;
            self.skipped += skipped;
        } else if let Some(number) = line.trim().strip_suffix(" not applicable") {
            self.not_applicable += number.parse::<u64>().unwrap_or(0);
        } else if let Some((name, result)) = result_line(line) {
            self.reason = 0;
            if result.starts_with("FAILED") {
                self.remarks.push(format!("failed: {name}"));
                self.reason = REASON_LINES;
            } else if result.starts_with("ignored") || result.starts_with("skipped") {
                self.remarks.push(format!("{result}: {name}"));
            }
        } else if self.reason > 0
            && line.starts_with("    ")
            && let Some(remark) = self.remarks.last_mut()
        {
            self.reason -= 1;
            remark.push('\n');
            remark.extend(line.chars().take(REASON_WIDTH));
        }
    }

    /// Adds a failure that the test program could not report itself.
    pub fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.remarks.push(format!("failed: {reason}"));
    }

    /// Adds the result of a test of our own.
    pub fn count(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(format!("{name}: {error:#}")),
        }
    }

    /// Adds something that could not be tested at all.
    pub fn skip(&mut self, reason: String) {
        self.skipped += 1;
        self.remarks.push(format!("skipped: {reason}"));
    }

    /// Judges the end of a test program, which succeeded or ended with what `status` says: one
    /// that broke off, or failed without naming a failure, is a failure itself.
    pub fn close(&mut self, succeeded: bool, status: impl std::fmt::Display) {
        if self.summaries == 0 {
            self.fail(format!("it ended without a result: {status}"));
        } else if !succeeded && self.failed == 0 {
            self.fail(format!("it reported no failure, but ended with {status}"));
        }
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_applicable += other.not_applicable;
        self.remarks.extend(other.remarks.iter().cloned());
    }

    /// Tests that passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Tests that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Tests of something that is not there, or is tested elsewhere.
    pub fn not_applicable(&self) -> u64 {
        self.not_applicable
    }

    /// Tests that did not run.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Passed, failed and skipped, if `line` is the last one of a test program.
pub fn closing_line(line: &str) -> Option<[u64; 3]> {
    // `N passed, N failed, N skipped`
    let own = [" passed", " failed", " skipped"];
    let parts: Vec<&str> = line.trim().split(", ").collect();
    if let [passed, failed, skipped] = parts[..] {
        let counts = [passed, failed, skipped]
            .iter()
            .zip(own)
            .map(|(part, label)| part.strip_suffix(label)?.parse().ok())
            .collect::<Option<Vec<u64>>>();
        if let Some(counts) = counts {
            return counts.try_into().ok();
        }
    }
    // `test result: ok. N passed; N failed; N ignored; …`
    let summary = line.strip_prefix("test result: ")?;
    let count = |label| {
        summary
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(label)?.trim().parse().ok())
    };
    Some([count("passed")?, count("failed")?, count("ignored")?])
}

/// Name and result in `test NAME ... RESULT`.
fn result_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    fn read(output: &str) -> Outcome {
        let mut outcome = Outcome::default();
        output.lines().for_each(|line| outcome.read(line));
        outcome
    }

    #[test]
    fn rusts_harness_is_understood() {
        let outcome = read(
            "\
running 3 tests
test a ... ok
test b ... FAILED
test c ... ignored, needs a second machine
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s
",
        );
        assert_eq!(
            (outcome.passed(), outcome.failed(), outcome.skipped()),
            (1, 1, 1)
        );
        assert_eq!(
            outcome.remarks,
            ["failed: b", "ignored, needs a second machine: c"]
        );
    }

    #[test]
    fn the_behaviour_tests_runner_is_understood() {
        let outcome = read(
            "\
running 3 tests
test check::a (0.1 s) ... ok
test check::b (0.2 s) ... FAILED
    3 passed, but 4 were expected
test check::c (0.0 s) ... skipped (not root)
test check::d@kprobe (0.0 s) ... not applicable (no kprobes)
test check::e@kprobe (0.0 s) ... not applicable (no kprobes)
2 not applicable
1 passed, 1 failed, 1 skipped
",
        );
        assert_eq!(outcome.not_applicable(), 2);
        assert_eq!(
            (outcome.passed(), outcome.failed(), outcome.skipped()),
            (1, 1, 1)
        );
        assert_eq!(
            outcome.remarks,
            [
                "failed: check::b (0.2 s)\n    3 passed, but 4 were expected",
                "skipped (not root): check::c (0.0 s)"
            ]
        );
    }

    #[test]
    fn output_without_a_closing_line_is_a_failure() {
        for output in [
            "test a ... ok\nthread panicked",
            "1 passed, 2 failed",
            "test result: killed",
        ] {
            let mut outcome = read(output);
            outcome.close(true, "0");
            assert_eq!(outcome.failed(), 1, "{output}");
        }
    }

    #[test]
    fn the_exit_status_counts_too() {
        let mut outcome = read("1 passed, 0 failed, 0 skipped");
        outcome.close(true, "0");
        assert_eq!(outcome.failed(), 0);
        outcome.close(false, "1");
        assert_eq!(outcome.failed(), 1);
    }
}
