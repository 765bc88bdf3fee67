//! Durations and counts as people write and read them.

use std::time::Duration;

use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};
use thiserror::Error;

/// Longest duration accepted; a watch of more than a year is a typing error.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// Why a text is no duration that is accepted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DurationError {
    /// Not one at all.
    #[error("`{0}` is no duration; write 60, 60s, 5m, 1h or 1h30m")]
    NoDuration(String),
    /// Too short or too long.
    #[error("`{0}` is out of range: 1ms to 366d")]
    OutOfRange(String),
}

/// Parses `60`, `60s`, `500ms`, `5m`, `1h`, `2d` and sums such as `1h30m`; a number alone is
/// seconds.
///
/// # Errors
/// [`DurationError`].
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError::NoDuration(text.to_owned());
    let number = text.trim();
    let seconds = if let Ok(seconds) = number.parse::<f64>() {
        seconds
    } else {
        let span = SpanParser::new().parse_span(number).map_err(|_| wrong())?;
        // of the units beyond, months and years have no length of their own
        let length = span.to_duration(SpanRelativeTo::days_are_24_hours());
        length.map_err(|_| wrong())?.as_secs_f64()
    };
    if seconds.is_nan() {
        return Err(wrong());
    }
    if !(0.001..=LONGEST_SECONDS).contains(&seconds) {
        return Err(DurationError::OutOfRange(text.to_owned()));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A duration in at most two units (jiff's printer has no such limit, and changes unit at 60 s,
/// where a watch of 75 s is still one): `850ms`, `4.2s`, `75s`, `12m 30s`, `3h 5m`, `2d 4h`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 1.0 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        let text = format!("{seconds:.1}");
        return format!("{}s", text.strip_suffix(".0").unwrap_or(&text));
    }
    let pair = |big: f64, unit: &str, small: f64, rest: &str| {
        let whole = (seconds / big).floor();
        let part = ((seconds - whole * big) / small).floor();
        if part == 0.0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit} {part}{rest}")
        }
    };
    match seconds {
        s if s < 119.5 => format!("{s:.0}s"),
        s if s < 3600.0 => pair(60.0, "m", 1.0, "s"),
        s if s < 86_400.0 => pair(3600.0, "h", 60.0, "m"),
        _ => pair(86_400.0, "d", 3600.0, "h"),
    }
}

/// A number with as many decimals as matter: `0.91`, `16.4`, `820`.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "?".to_owned()
    } else if size >= 100.0 || value == value.trunc() {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A count with its noun: `1 socket`, `2 sockets`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    let ending = match noun {
        _ if number == 1 => "",
        noun if noun.ends_with("ss") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_parsed() {
        for (text, seconds) in [
            ("60", 60.0),
            ("60s", 60.0),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("1h30m", 5400.0),
            ("0.5", 0.5),
            ("500ms", 0.5),
            ("2d", 172_800.0),
            ("5 minutes", 300.0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for text in [
            "", "0", "-1", "m", "1x", "1.2.3", "1e9", "9999d", "NaN", "5m3", "∞", "1mo", "-5m",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written() {
        for (seconds, text) in [
            (0.85, "850ms"),
            (4.2, "4.2s"),
            (4.0, "4s"),
            (75.0, "75s"),
            (750.0, "12m 30s"),
            (3600.0, "1h"),
            (11_130.0, "3h 5m"),
            (187_200.0, "2d 4h"),
            (-1.0, "?"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn numbers_have_the_decimals_that_matter() {
        assert_eq!(number(0.912), "0.91");
        assert_eq!(number(16.43), "16.4");
        assert_eq!(number(16.0), "16");
        assert_eq!(number(820.2), "820");
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(3, "process"), "3 processes");
        assert_eq!(count(0, "socket"), "0 sockets");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*|[0-9smhd.]{0,20}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_seconds_survive(seconds in 1u64..31_000_000) {
            prop_assert_eq!(parse_duration(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
        }
    }
}
