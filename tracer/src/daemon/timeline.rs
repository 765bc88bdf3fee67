//! How the counts of each finding went over time, kept small: when the samples of one finding
//! become too many, every second one is dropped, so that the whole past stays visible.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::report::{FindingTimeline, Report, TimelinePoint};

/// Most samples kept for one finding.
const POINTS_MAX: usize = 120;
/// Most samples of one finding where many are shown.
const SKETCH_POINTS: usize = 30;
/// Most findings of which that is shown.
const SKETCHES_MAX: usize = 50;
/// Most findings with a timeline.
const FINDINGS_MAX: usize = 1000;

/// The timelines of all findings.
#[derive(Debug, Default)]
pub struct Timelines {
    by_id: HashMap<String, Line>,
}

#[derive(Debug)]
struct Line {
    points: Vec<TimelinePoint>,
    /// Seconds between two samples; doubles whenever the samples are thinned.
    step_seconds: f64,
}

impl Timelines {
    /// Takes the counts of a report made at `now`.
    pub fn add(&mut self, report: &Report, now: Timestamp) {
        let present: HashSet<&str> = report.findings.iter().map(|f| f.id.as_str()).collect();
        if self.by_id.len() > FINDINGS_MAX {
            self.by_id.retain(|id, _| present.contains(id.as_str()));
        }
        for finding in &report.findings {
            let line = self
                .by_id
                .entry(finding.id.clone())
                .or_insert_with(|| Line {
                    points: Vec::new(),
                    step_seconds: 1.0,
                });
            line.add(TimelinePoint {
                at: now,
                open: finding.connections.open,
                outlived: finding.connections.outlived,
            });
        }
    }

    /// How the findings of a report went, the first of them and each in few samples.
    #[must_use]
    pub fn sketch(&self, report: &Report) -> Vec<FindingTimeline> {
        let sketched = report.findings.iter().take(SKETCHES_MAX);
        sketched
            .map(|finding| FindingTimeline {
                id: finding.id.clone(),
                points: thinned(self.of(&finding.id)),
            })
            .collect()
    }

    /// The samples of one finding, oldest first.
    #[must_use]
    pub fn of(&self, id: &str) -> Vec<TimelinePoint> {
        self.by_id
            .get(id)
            .map(|line| line.points.clone())
            .unwrap_or_default()
    }
}

/// Every n-th sample, so that few are left; the last is one of them.
fn thinned(points: Vec<TimelinePoint>) -> Vec<TimelinePoint> {
    let step = points.len().div_ceil(SKETCH_POINTS).max(1);
    let last = points.len().saturating_sub(1) % step;
    points.into_iter().skip(last).step_by(step).collect()
}

impl Line {
    fn add(&mut self, point: TimelinePoint) {
        if let Some(last) = self.points.last()
            && point.at.duration_since(last.at).as_secs_f64() < self.step_seconds
        {
            return;
        }
        if self.points.len() == POINTS_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.step_seconds *= 2.0;
        }
        self.points.push(point);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::samples;

    #[test]
    fn the_whole_past_stays_visible_in_few_points() {
        let mut timelines = Timelines::default();
        let mut report = samples::report();
        for second in 0..10_000 {
            report.findings[0].connections.open = second;
            let at = samples::start() + SignedDuration::from_secs(second.try_into().unwrap());
            timelines.add(&report, at);
        }
        let points = timelines.of(&report.findings[0].id);
        assert!(points.len() <= POINTS_MAX && points.len() >= POINTS_MAX / 2);
        assert_eq!(points[0].open, 0);
        assert!(points.last().unwrap().open > 9_800, "{:?}", points.last());
        assert!(points.is_sorted_by_key(|point| point.open));
        assert_eq!(timelines.of("other"), []);
        let sketch = timelines.sketch(&report);
        assert_eq!(sketch[0].id, report.findings[0].id);
        assert!(sketch[0].points.len() <= SKETCH_POINTS && sketch[0].points.len() > 20);
        assert_eq!(sketch[0].points.last(), points.last());
    }
}
