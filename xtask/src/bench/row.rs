//! One line of results.

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// This much or less.
    AtMost(f64),
    /// Not further from zero than this.
    Within(f64),
}

/// What was measured, over all rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of what.
    pub name: String,
    /// Unit; empty for ratios and counts.
    pub unit: &'static str,
    /// One value for each round.
    pub samples: Vec<f64>,
    /// The bar that the median is held against.
    pub bar: Option<Bar>,
    /// What else there is to say.
    pub note: String,
}

impl Row {
    /// A row without bar and note.
    pub fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            samples,
            bar: None,
            note: String::new(),
        }
    }

    /// Holds the median against a bar.
    pub fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    /// Says something about it.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the bar is met; `None` where there is no bar, or nothing was measured.
    pub fn met(&self) -> Option<bool> {
        let median = median(&self.samples)?;
        self.bar.map(|bar| match bar {
            Bar::AtMost(most) => median <= most,
            Bar::Within(most) => median.abs() <= most,
        })
    }

    /// As a line of a Markdown table with the columns of [`Row::HEADER`].
    pub fn line(&self) -> String {
        let of = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let least = self.samples.iter().copied().reduce(f64::min);
        let most = self.samples.iter().copied().reduce(f64::max);
        let bar = match self.bar {
            Some(Bar::AtMost(most)) => format!("≤ {}", number(most)),
            Some(Bar::Within(most)) => format!("± {}", number(most)),
            None => String::new(),
        };
        let met = match self.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        format!(
            "| {} | {} | {} | {} | {} | {bar} | {met} | {} |",
            self.name,
            self.unit,
            of(least),
            of(median(&self.samples)),
            of(most),
            self.note
        )
    }

    /// The head of the table.
    pub const HEADER: &str = "| | unit | min | median | max | bar | met | |\n\
                              | --- | --- | ---: | ---: | ---: | --- | --- | --- |";
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted.get(low)? + sorted.get(high)?) / 2.0)
}

/// With as many digits as say something.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == value.trunc() && size >= 10.0 || size >= 1000.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Row, median};

    #[test]
    fn the_median_is_held_against_the_bar() {
        let row = |samples: &[f64]| Row::new("a", "", samples.to_vec());
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(
            row(&[1.0, 9.0, 1.1]).bar(Bar::AtMost(1.1)).met(),
            Some(true)
        );
        assert_eq!(row(&[-4.0]).bar(Bar::Within(3.0)).met(), Some(false));
        assert_eq!(row(&[]).bar(Bar::AtMost(1.0)).met(), None);
        assert_eq!(
            row(&[1.0, 1.0625, 12.0])
                .bar(Bar::AtMost(1.05))
                .note("n")
                .line(),
            "| a |  | 1.000 | 1.062 | 12 | ≤ 1.050 | **no** | n |"
        );
    }
}
