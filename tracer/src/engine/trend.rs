//! Trends in short, noisy series: robust slope, steadiness, sawtooth, bursts.

use super::settings::Shape;

/// One value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since any fixed moment.
    pub at: f64,
    /// Value.
    pub value: f64,
}

/// What a series does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// When it begins: the last moment before the first value above zero.
    pub from: f64,
    /// Seconds covered.
    pub seconds: f64,
    /// Theil–Sen slope (the median of all pairwise slopes), per minute.
    pub per_minute: f64,
    /// Half of all pairwise slopes lie between these, per minute.
    pub between: (f64, f64),
    /// (rising pairs − falling pairs) / all pairs, from −1 to 1.
    pub concordance: f64,
    /// Last value minus first.
    pub net: f64,
    /// The last third still rises about as the first two did, and nothing fell away at the end.
    pub rising_to_the_end: bool,
}

/// The trend of a series ordered by time; `None` when there is too little of it.
#[must_use]
pub fn trend(series: &[Sample], shape: &Shape) -> Option<Trend> {
    let series = trimmed(series);
    let (first, last) = (series.first()?, series.last()?);
    if series.len() < shape.min_samples {
        return None;
    }
    let mut slopes = Vec::with_capacity(series.len() * (series.len() - 1) / 2);
    let mut balance = 0i64;
    for (i, a) in series.iter().enumerate() {
        for b in &series[i + 1..] {
            if b.at > a.at {
                slopes.push((b.value - a.value) / (b.at - a.at));
                balance += i64::from(b.value > a.value) - i64::from(b.value < a.value);
            }
        }
    }
    if slopes.is_empty() {
        return None;
    }
    let concordance = balance as f64 / slopes.len() as f64;
    let per_minute = median(&mut slopes) * 60.0;
    // the slopes are sorted now
    let quarter = slopes.len() / 4;
    let between = (
        slopes[quarter] * 60.0,
        slopes[slopes.len() - 1 - quarter] * 60.0,
    );
    Some(Trend {
        from: first.at,
        seconds: last.at - first.at,
        per_minute,
        between,
        concordance,
        net: last.value - first.value,
        rising_to_the_end: rising_to_the_end(series, shape),
    })
}

/// Without leading zeros, except the last of them.
fn trimmed(series: &[Sample]) -> &[Sample] {
    match series.iter().position(|s| s.value > 0.0) {
        Some(first) => &series[first.saturating_sub(1)..],
        None => &[],
    }
}

fn rising_to_the_end(series: &[Sample], shape: &Shape) -> bool {
    let (Some(first), Some(last)) = (series.first(), series.last()) else {
        return false;
    };
    let third = (last.at - first.at) / 3.0;
    let mean = |from: f64, to: f64| {
        let (mut sum, mut n) = (0.0, 0u32);
        for s in series.iter().filter(|s| s.at >= from && s.at <= to) {
            sum += s.value;
            n += 1;
        }
        if n == 0 {
            None
        } else {
            Some(sum / f64::from(n))
        }
    };
    let means = (
        mean(first.at, first.at + third),
        mean(first.at + third, last.at - third),
        mean(last.at - third, last.at),
    );
    match means {
        (Some(a), Some(b), Some(c)) => {
            let (early, late) = (b - a, c - b);
            let peak = series.iter().map(|s| s.value).fold(0.0, f64::max);
            late > 0.0
                && late >= shape.late_share * early
                && c - a >= shape.least_rise
                && last.value >= shape.end_of_peak * peak
        }
        _ => false,
    }
}

/// A series that climbs steadily and falls suddenly, more than once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sawtooth {
    /// Climbs seen.
    pub teeth: u32,
    /// Median slope of the climbs, per minute.
    pub per_minute: f64,
    /// Seconds covered.
    pub seconds: f64,
}

/// Reads a sawtooth from a series; `None` when it is none.
#[must_use]
pub fn sawtooth(series: &[Sample], shape: &Shape) -> Option<Sawtooth> {
    let series = trimmed(series);
    let (first, last) = (series.first()?, series.last()?);
    let mut slopes = Vec::new();
    let mut covered = 0.0;
    let mut start = 0;
    for i in 1..=series.len() {
        let falls = i < series.len() && {
            let drop = series[i - 1].value - series[i].value;
            drop >= shape
                .tooth_least
                .max(shape.tooth_share * series[i - 1].value)
        };
        if falls || i == series.len() {
            let climb = &series[start..i];
            if let Some(t) = trend(climb, shape)
                && t.concordance >= shape.tooth_concordance
                && t.net >= shape.tooth_least
            {
                slopes.push(t.per_minute);
                covered += t.seconds;
            }
            start = i;
        }
    }
    let seconds = last.at - first.at;
    if slopes.len() < 2 || covered < shape.tooth_cover * seconds {
        return None;
    }
    Some(Sawtooth {
        teeth: slopes.len() as u32,
        per_minute: median(&mut slopes),
        seconds,
    })
}

/// Largest value minus smallest within `from..=to`; `None` when the series does not cover it.
#[must_use]
pub fn spread(series: &[Sample], from: f64, to: f64) -> Option<f64> {
    const SLACK_S: f64 = 1.5;
    let first = series.first()?.at;
    if first > from + SLACK_S {
        return None;
    }
    let within = || series.iter().filter(|s| s.at >= from && s.at <= to);
    let most = within().map(|s| s.value).max_by(f64::total_cmp)?;
    let least = within().map(|s| s.value).min_by(f64::total_cmp)?;
    Some(most - least)
}

/// The period, in buckets, of bursts in a histogram of births; `None` when births are spread out
/// or irregular.
#[must_use]
pub fn burst_period(births: &[u32]) -> Option<f64> {
    let mut starts = Vec::new();
    let mut filled = 0usize;
    let mut gap = usize::MAX;
    for (i, &n) in births.iter().enumerate() {
        if n > 0 {
            filled += 1;
            // Neighbouring buckets are one burst.
            if gap > 1 {
                starts.push(i as f64);
            }
            gap = 0;
        } else {
            gap = gap.saturating_add(1);
        }
    }
    if starts.len() < 3 {
        return None;
    }
    let span = starts[starts.len() - 1] - starts[0];
    if filled as f64 > 0.5 * span {
        return None;
    }
    let mut gaps: Vec<f64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    let typical = median(&mut gaps);
    let regular = gaps
        .iter()
        .all(|g| (g - typical).abs() <= (0.25 * typical).max(1.0));
    (regular && typical >= 3.0).then(|| span / (starts.len() - 1) as f64)
}

/// The median; sorts its argument. 0 for an empty slice.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(values: impl IntoIterator<Item = f64>) -> Vec<Sample> {
        let values = values.into_iter().enumerate();
        values
            .map(|(i, value)| Sample {
                at: i as f64,
                value,
            })
            .collect()
    }

    #[test]
    fn straight_line() {
        let t = trend(
            &series((0..20).map(|i| f64::from(i) * 2.0)),
            &Shape::default(),
        );
        let expected = Trend {
            from: 0.0,
            seconds: 19.0,
            per_minute: 120.0,
            between: (120.0, 120.0),
            concordance: 1.0,
            net: 38.0,
            rising_to_the_end: true,
        };
        assert_eq!(t, Some(expected));
    }

    #[test]
    fn one_wild_value_changes_little() {
        let mut line = series((0..20).map(f64::from));
        line[9].value = 1000.0;
        let t = trend(&line, &Shape::default()).map_or(0.0, |t| t.per_minute);
        assert!((t - 60.0).abs() < 6.0, "{t}");
    }

    #[test]
    fn plateau_and_fall_do_not_rise_to_the_end() {
        let plateau = series((0..30).map(|i| f64::from(i.min(10))));
        let fall = series((0..30).map(|i| if i < 28 { f64::from(i) } else { 2.0 }));
        let steps = series((0..40).map(|i| f64::from(i / 10 * 5)));
        let rises = |s: &[Sample]| trend(s, &Shape::default()).is_some_and(|t| t.rising_to_the_end);
        assert!(!rises(&plateau));
        assert!(!rises(&fall));
        assert!(rises(&steps));
    }

    #[test]
    fn teeth() {
        let saw = series((0..60).map(|i| f64::from(i % 20)));
        let found = sawtooth(&saw, &Shape::default()).map(|s| (s.teeth, s.per_minute.round()));
        assert_eq!(found, Some((3, 60.0)));
        let line = series((0..60).map(f64::from));
        assert_eq!(sawtooth(&line, &Shape::default()), None);
        let flat = series((0..60).map(|i| 10.0 + f64::from(i * 7 % 5)));
        assert_eq!(sawtooth(&flat, &Shape::default()), None);
    }

    #[test]
    fn bursts() {
        let mut births = [0; 64];
        for i in [1, 11, 12, 21, 31, 32, 41] {
            births[i] = 5;
        }
        assert_eq!(burst_period(&births), Some(10.0));
        assert_eq!(burst_period(&[3; 64]), None);
        births[45] = 1;
        assert_eq!(burst_period(&births), None);
    }

    proptest! {
        #[test]
        fn any_series_is_survived(values in proptest::collection::vec((0.0..1e6, 0.0..1e9), 0..80)) {
            let mut at = 0.0;
            let series: Vec<Sample> = values
                .into_iter()
                .map(|(step, value): (f64, f64)| {
                    at += step.floor();
                    Sample { at, value: value.floor() }
                })
                .collect();
            if let Some(t) = trend(&series, &Shape::default()) {
                prop_assert!(t.per_minute.is_finite() && t.concordance.abs() <= 1.0);
            }
            if let Some(s) = sawtooth(&series, &Shape::default()) {
                prop_assert!(s.per_minute.is_finite());
            }
        }
    }
}
