//! The one hook that the host's traffic passes whatever it is about: `sk_data_ready`, on which UNIX
//! connections are seen where functions can't be observed. Where much is received and the target
//! connects to no UNIX socket, it is taken off, and put back on when one comes into view.

use aya::programs::{Program, ProgramError, links::FdLink};

use super::{ProbeError, Probes, tables::Tables};
use crate::kernel::{maps::Counters, observed::Observed, plan::NONE};

/// The event that it shows.
const EVENT: &str = "unix_open";
/// The hook.
const HOOK: &str = "sk_data_ready";
/// More runs a second than these cost a two-hundredth of a CPU: each takes a tenth of a microsecond with
/// the kernel's way into it.
const OFTEN: f64 = 50_000.0;
/// Long enough for a rate, nanoseconds.
const WINDOW_NS: u64 = 250_000_000;
/// What is missed meanwhile.
const LOST: &str = "UNIX connections come into view at their first transfer or the next descriptor \
                    scan, because much is received on this host and none was seen yet";

/// The hook and what is known of it.
pub(super) struct Readable {
    program: &'static str,
    /// As in `Probes::attached`.
    name: String,
    /// While it is on.
    link: Option<FdLink>,
    /// How the event is observed with it.
    observed: Observed,
    runs: Counters,
    /// When the runs were counted last, monotonic nanoseconds, and how many there were.
    counted: Option<(u64, u64)>,
}

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Off,
    On,
    Leave,
}

/// By whether it is on, whether the target uses UNIX connections, and how often it is passed a second.
fn turn(on: bool, wanted: bool, rate: Option<f64>) -> Turn {
    match rate {
        Some(rate) if on && !wanted && rate > OFTEN => Turn::Off,
        _ if !on && wanted => Turn::On,
        _ => Turn::Leave,
    }
}

/// Runs a second between two counts, each with when it was taken (nanoseconds); `None` where that is too
/// short a time.
fn rate((then_ns, before): (u64, u64), (now_ns, runs): (u64, u64)) -> Option<f64> {
    let ns = now_ns.saturating_sub(then_ns);
    (ns >= WINDOW_NS).then(|| runs.saturating_sub(before) as f64 * 1e9 / ns as f64)
}

impl Readable {
    /// Runs a second since it was asked last; `None` where that can't be said yet.
    fn rate(&mut self, now_ns: u64) -> Option<f64> {
        let now = (now_ns, self.runs.sum(0).ok()?);
        let rate = self.counted.map_or(Some(0.0), |then| rate(then, now));
        if rate.is_some() {
            self.counted = Some(now);
        }
        rate
    }
}

impl Probes {
    /// Whether a link is kept so that it can be taken off: those that are pinned stay.
    pub(super) fn is_taken_off(&self, hook: &str) -> bool {
        hook == HOOK && self.pins.is_none()
    }

    /// Keeps the link of the hook, where there is one.
    pub(super) fn keep_readable(
        &mut self,
        kept: Option<(&'static str, String, FdLink)>,
    ) -> Result<(), ProbeError> {
        let observed = self.events.iter().find(|event| event.event == EVENT);
        let (Some((program, name, link)), Some(observed)) = (kept, observed.cloned()) else {
            return Ok(());
        };
        let tables = Tables {
            ebpf: &self.ebpf,
            capacities: &mut self.capacities,
        };
        let runs = Counters::new(tables.data("READABLE")?.fd())
            .map_err(|error| ProbeError::Load(error.to_string()))?;
        self.readable = Some(Readable {
            program,
            name,
            link: Some(link),
            observed,
            runs,
            counted: None,
        });
        Ok(())
    }

    /// Takes the hook off where it is passed often for nothing, and puts it back on once the target
    /// uses UNIX connections (`wanted`).
    pub fn weigh_readable(&mut self, now_ns: u64, wanted: bool) {
        let Some(mut readable) = self.readable.take() else {
            return;
        };
        let on = readable.link.is_some();
        let rate = if on { readable.rate(now_ns) } else { None };
        match turn(on, wanted, rate) {
            Turn::Off => {
                readable.link = None;
                self.show_readable(&readable);
                tracing::debug!(rate, "{HOOK} is taken off");
            }
            Turn::On => match self.attach_again(readable.program) {
                Ok(link) => {
                    readable.link = Some(link);
                    self.show_readable(&readable);
                    tracing::debug!("{HOOK} is put back on");
                }
                Err(error) => {
                    // it would fail again
                    tracing::warn!(%error, "{HOOK} could not be attached again");
                    return;
                }
            },
            Turn::Leave => {}
        }
        self.readable = Some(readable);
    }

    fn attach_again(&mut self, program: &str) -> Result<FdLink, ProgramError> {
        match self.ebpf.program_mut(program) {
            Some(Program::BtfTracePoint(p)) => {
                let id = p.attach()?;
                p.take_link(id).map(FdLink::from)
            }
            Some(Program::RawTracePoint(p)) => {
                let id = p.attach(HOOK)?;
                p.take_link(id).map(FdLink::from)
            }
            _ => Err(ProgramError::NotAttached),
        }
    }

    /// Says how its event is observed now.
    fn show_readable(&mut self, readable: &Readable) {
        let said = format!("{EVENT}: {LOST}");
        self.degraded.retain(|other| *other != said);
        self.attached.retain(|other| *other != readable.name);
        let mut observed = readable.observed.clone();
        if readable.link.is_some() {
            self.attached.push(readable.name.clone());
        } else {
            observed.backend = NONE;
            observed.hooks = Vec::new();
            observed.lost = Some(LOST.to_owned());
            self.degraded.push(said);
        }
        if let Some(event) = self.events.iter_mut().find(|event| event.event == EVENT) {
            *event = observed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Turn, rate, turn};

    #[test]
    fn it_is_off_only_while_it_is_passed_often_for_nothing() {
        assert_eq!(turn(true, false, Some(60_000.0)), Turn::Off);
        assert_eq!(turn(true, false, Some(40_000.0)), Turn::Leave);
        assert_eq!(turn(true, false, None), Turn::Leave);
        assert_eq!(turn(true, true, Some(60_000.0)), Turn::Leave, "it is used");
        assert_eq!(turn(false, false, None), Turn::Leave);
        assert_eq!(turn(false, true, None), Turn::On);
    }

    #[test]
    fn a_rate_takes_a_while() {
        let then = (1_000_000_000, 500);
        assert_eq!(rate(then, (1_500_000_000, 30_500)), Some(60_000.0));
        assert_eq!(rate(then, (1_100_000_000, 30_500)), None);
    }
}
