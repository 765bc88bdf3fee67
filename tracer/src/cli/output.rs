//! Where output goes and how it looks: stdout, files, colour, and text from watched programs.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use rustix::termios::tcgetwinsize;
use textwrap::{WordSplitter, WrapAlgorithm};
use tracing_subscriber::EnvFilter;

use super::Failure;

/// Takes the cursor to the upper left corner.
const HOME: &str = "\x1b[H";
/// Empties the screen, and the same.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Rows where there is no terminal to ask.
const ROWS_DEFAULT: usize = 24;
/// Width where there is no terminal to ask.
const WIDTH_DEFAULT: usize = 100;
/// Lines longer than this are hard to read.
pub const WIDTH_MAX: usize = 120;

/// Writes to stdout. A reader that went away is no error.
///
/// # Errors
/// [`Failure`] when stdout can't be written to, such as on a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("cannot write to stdout")?),
    }
}

/// Shows lines in place of those before, every now and then, until the reader has gone; `lines` is
/// told how many the terminal has room for.
///
/// # Errors
/// [`Failure`] when there are none, or stdout can't be written to.
pub fn again_and_again(
    every: Duration,
    mut lines: impl FnMut(usize) -> Result<Vec<String>, Failure>,
) -> Result<u8, Failure> {
    let mut text = String::from(CLEAR);
    loop {
        let rows = tcgetwinsize(io::stdout()).map_or(ROWS_DEFAULT, |size| usize::from(size.ws_row));
        for line in lines(rows)?.iter().take(rows) {
            if !text.ends_with(HOME) {
                text.push_str("\r\n");
            }
            // what stood there before is longer, perhaps
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return match e.kind() {
                io::ErrorKind::BrokenPipe => Ok(0),
                _ => Err(anyhow::Error::from(e)
                    .context("cannot write to stdout")
                    .into()),
            };
        }
        drop(out);
        thread::sleep(every);
        text = HOME.to_owned();
    }
}

/// Writes a message to stderr, where nothing can be done about an error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "tracer: {text}");
}

/// Writes an answer to stderr, for when stdout belongs to a command.
pub fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Sends the daemon's log to stderr: `level` and above, or what `TRACER_LOG` says.
pub fn log_to_stderr(level: &str) {
    let filter = EnvFilter::try_from_env("TRACER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // It can only fail when there is a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(Paint::on(&io::stderr()) != Paint::OFF)
        .with_target(false)
        .try_init();
}

/// Decides about colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colour.
    pub const OFF: Paint = Paint { on: false };

    /// Colour, whatever the stream.
    #[cfg(test)]
    pub const ON: Paint = Paint { on: true };

    /// Colour when `stream` is a terminal that has any, and `NO_COLOR` (no-color.org) and its kin
    /// don't refuse it.
    pub fn on(stream: &impl RawStream) -> Paint {
        Paint {
            on: AutoStream::choice(stream) != ColorChoice::Never,
        }
    }

    fn wrap(self, style: Style, text: &str) -> String {
        if self.on {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// For what the eye should find first.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.wrap(Style::new().bold(), text)
    }

    /// For what can be skipped.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.wrap(Style::new().dimmed(), text)
    }

    /// Bad news.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap(bright(AnsiColor::Red), text)
    }

    /// Doubtful news.
    #[must_use]
    pub fn doubtful(self, text: &str) -> String {
        self.wrap(bright(AnsiColor::Yellow), text)
    }

    /// Good news.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap(bright(AnsiColor::Green), text)
    }
}

fn bright(color: AnsiColor) -> Style {
    color.on_default().bold()
}

/// Columns for sentences, which nobody reads well in longer lines: those of the terminal, at most 120.
#[must_use]
pub fn width() -> usize {
    columns().min(WIDTH_MAX)
}

/// Columns of the terminal behind stdout or stderr, else 100.
#[must_use]
pub fn columns() -> usize {
    let columns = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stderr())]
        .into_iter()
        .flatten()
        .map(|size| usize::from(size.ws_col))
        .find(|&columns| columns > 0);
    columns.unwrap_or(WIDTH_DEFAULT)
}

/// Whether both progress and answers can be shown to a person.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Makes text from a watched program safe for a terminal: control characters, which could move
/// the cursor or change its title, and invisible direction marks become escapes.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(unsafe_char) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if unsafe_char(c) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Breaks text between words so that no line is wider than `width` columns, unless a single word
/// is: names and addresses are never broken.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let options = textwrap::Options::new(width)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let lines = textwrap::wrap(&text, options);
    lines
        .into_iter()
        .map(Cow::into_owned)
        .filter(|line| !line.is_empty())
        .collect()
}

/// A file that is known to be writable before the work begins, and keeps its content until the
/// work is done.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: File,
    /// We created it, and nothing was written yet.
    empty: bool,
}

impl OutputFile {
    /// Opens `path` for writing without changing it; creates it where it is missing.
    ///
    /// # Errors
    /// [`Failure`] (status 2) when it can't be written.
    pub fn open(path: &Path, purpose: &str) -> Result<OutputFile, Failure> {
        let open = |create| OpenOptions::new().write(true).create_new(create).open(path);
        let (file, empty) = match open(true) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (open(false), false),
            result => (result, true),
        };
        let file = file.map_err(|e| {
            Failure::usage(format!(
                "cannot write {purpose} to {}: {e}; nothing was watched",
                path.display()
            ))
        })?;
        Ok(OutputFile {
            path: path.to_owned(),
            file,
            empty,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file without its content, to be written bit by bit.
    ///
    /// # Errors
    /// [`Failure`] (status 1).
    pub fn emptied(mut self) -> Result<File, Failure> {
        let cannot = || format!("cannot write {}", self.path.display());
        if self.file.metadata().is_ok_and(|meta| meta.is_file()) {
            self.file.set_len(0).with_context(cannot)?;
        }
        let file = self.file.try_clone().with_context(cannot)?;
        self.empty = false;
        Ok(file)
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// [`Failure`] (status 1), such as on a full disk.
    pub fn write(mut self, text: &str) -> Result<(), Failure> {
        self.empty = false;
        let regular = self.file.metadata().is_ok_and(|meta| meta.is_file());
        let result = if regular {
            self.file.set_len(0)
        } else {
            Ok(())
        }
        .and_then(|()| self.file.write_all(text.as_bytes()));
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result.with_context(|| format!("cannot write {}", self.path.display()))?),
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.empty {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_of_watched_programs_do_not_reach_the_terminal() {
        assert_eq!(clean("main.fetch"), "main.fetch");
        assert_eq!(clean("a\x1b]0;title\x07b"), "a\\u{1b}]0;title\\u{7}b");
        assert_eq!(clean("x\u{202e}y"), "x\\u{202e}y");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("averylongword b", 4), ["averylongword", "b"]);
        assert_eq!(wrap("  ", 4), [] as [&str; 0]);
    }

    #[test]
    fn an_unused_file_leaves_no_trace_and_an_old_one_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("new");
        drop(OutputFile::open(&new, "the report").unwrap());
        assert!(!new.exists());

        let old = directory.path().join("old");
        std::fs::write(&old, "a longer text than the next").unwrap();
        drop(OutputFile::open(&old, "the report").unwrap());
        assert!(old.exists());
        OutputFile::open(&old, "the report")
            .unwrap()
            .write("short")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "short");
    }

    #[test]
    fn an_unwritable_path_is_named() {
        let failure =
            OutputFile::open(Path::new("/no/such/folder/report"), "the report").unwrap_err();
        assert_eq!(failure.status, 2);
        let text = failure.to_string();
        assert!(text.contains("/no/such/folder/report"), "{text}");
        assert!(text.contains("the report"), "{text}");
    }

    proptest! {
        #[test]
        fn cleaned_text_has_no_control_characters(text in "\\PC*|[\\x00-\\x20a-z]{0,40}") {
            prop_assert!(!clean(&text).chars().any(char::is_control));
        }
    }
}
