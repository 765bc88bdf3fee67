//! Command-line arguments, taken one by one; whatever is left over at the end is a usage error.

use std::{env, fmt};

use anyhow::Result;

/// The command line makes no sense; shown with the help, exit status 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Arguments not consumed yet.
#[derive(Debug, Clone)]
pub struct Args {
    words: Vec<String>,
    /// What follows `--`, untouched.
    rest: Option<Vec<String>>,
}

impl Args {
    /// The arguments of this process, without its name.
    pub fn from_env() -> Self {
        Self::new(env::args().skip(1))
    }

    /// Splits `words` at the first `--`.
    pub fn new(words: impl IntoIterator<Item = String>) -> Self {
        let mut words: Vec<String> = words.into_iter().collect();
        let rest = words.iter().position(|word| word == "--").map(|at| {
            let rest = words.split_off(at + 1);
            words.pop();
            rest
        });
        Self { words, rest }
    }

    /// Takes the first word: the command.
    pub fn command(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// Takes `name` if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.words.iter().position(|word| word == name);
        if let Some(at) = found {
            self.words.remove(at);
        }
        found.is_some()
    }

    /// Takes `name VALUE` or `name=VALUE` if it is there; a missing value is a usage error.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        let joined = format!("{name}=");
        let Some(at) = self
            .words
            .iter()
            .position(|word| word == name || word.starts_with(&joined))
        else {
            return Ok(None);
        };
        let word = self.words.remove(at);
        if let Some(value) = word.strip_prefix(&joined) {
            return Ok(Some(value.to_owned()));
        }
        if at >= self.words.len() {
            return Err(UsageError(format!("`{name}` needs a value")).into());
        }
        Ok(Some(self.words.remove(at)))
    }

    /// Takes all words that are not options.
    pub fn positional(&mut self) -> Vec<String> {
        let (options, words) = std::mem::take(&mut self.words)
            .into_iter()
            .partition(|word| word.starts_with('-'));
        self.words = options;
        words
    }

    /// Takes what follows `--`.
    pub fn rest(&mut self) -> Vec<String> {
        self.rest.take().unwrap_or_default()
    }

    /// Checks that nothing is left over.
    pub fn finish(mut self) -> Result<()> {
        if let Some(word) = self.command() {
            return Err(UsageError(format!("`{word}` is not understood here")).into());
        }
        if self.rest.is_some() {
            return Err(UsageError("nothing can follow `--` here".to_owned()).into());
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::{Args, UsageError};

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_are_taken_in_any_order_and_the_rest_is_left_alone() {
        let mut args = args("vm 6.12 --run id --report 5.10 -- --run x");
        assert_eq!(args.command().as_deref(), Some("vm"));
        assert_eq!(args.value("--run").unwrap().as_deref(), Some("id"));
        assert!(args.flag("--report"));
        assert!(!args.flag("--report"));
        assert_eq!(args.positional(), ["6.12", "5.10"]);
        assert_eq!(args.rest(), ["--run", "x"]);
        args.finish().unwrap();
    }

    #[test]
    fn a_value_may_be_joined_and_must_not_be_missing() {
        assert_eq!(
            args("--a=1=2").value("--a").unwrap().as_deref(),
            Some("1=2")
        );
        assert!(args("--a").value("--a").unwrap_err().is::<UsageError>());
    }

    #[test]
    fn leftovers_are_refused() {
        assert!(args("--typo").finish().is_err());
        assert!(args("-- x").finish().is_err());
        args("").finish().unwrap();
    }
}
