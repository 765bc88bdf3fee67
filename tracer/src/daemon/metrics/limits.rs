//! How far programs are from their limits.

use std::collections::HashMap;

use prometheus::Result;

use super::{Labels, Page, capped, label};
use crate::report::Resources;

/// Programs, and destinations, that keep their own labels.
const LIMITS_MAX: usize = 50;

/// Used against limit.
#[derive(Debug, Default, Clone)]
struct Limit {
    used: f64,
    limit: f64,
}

impl Limit {
    fn add(&mut self, other: &Limit) {
        self.used += other.used;
        self.limit += other.limit;
    }

    /// The one that is nearer to its limit.
    fn or_fuller(&mut self, other: &Limit) {
        if self.limit == 0.0 || other.fill() > self.fill() {
            *self = other.clone();
        }
    }

    fn fill(&self) -> f64 {
        if self.limit > 0.0 {
            self.used / self.limit
        } else {
            0.0
        }
    }
}

/// Labels of a program; that of a process is empty, but for [`Labels::Former`].
const PROGRAM: [&str; 3] = ["program", "namespace", "pid"];

/// Descriptors by program, and ephemeral ports by destination.
pub fn limits(page: &Page, resources: &[Resources], labels: Labels) -> Result<()> {
    let texts: Vec<[String; 3]> = resources
        .iter()
        .map(|one| match labels {
            Labels::Former => [String::new(), String::new(), one.pid.to_string()],
            Labels::Present => {
                let namespace = one.namespace.as_deref().unwrap_or_default();
                [label(&one.comm), label(namespace), String::new()]
            }
        })
        .collect();
    let mut files: HashMap<[&str; 3], Limit> = HashMap::new();
    let mut ports: HashMap<[&str; 1], Limit> = HashMap::new();
    for (one, labels) in resources.iter().zip(&texts) {
        let now = Limit {
            used: one.fds_open as f64,
            limit: match one.fds_limit {
                u64::MAX => f64::INFINITY,
                limit => limit as f64,
            },
        };
        let entry = files.entry(labels.each_ref().map(String::as_str));
        entry.or_default().or_fuller(&now);
        for port in &one.ephemeral_ports {
            // Several processes may talk to one destination; the range of ports is the host's.
            let entry = ports.entry([&port.destination]).or_default();
            entry.used += port.used as f64;
            entry.limit = entry.limit.max(port.available as f64);
        }
    }
    let files = capped(files, LIMITS_MAX, Limit::fill, Limit::or_fuller);
    let ports = capped(ports, LIMITS_MAX, Limit::fill, Limit::add);
    let used = |limit: &Limit| limit.used;
    let limit = |limit: &Limit| limit.limit;
    page.gauge(
        "process_open_fds",
        "Open file descriptors, of a program's process that is nearest to its limit.",
        PROGRAM,
        files.iter().map(|(labels, of)| (*labels, used(of))),
    )?;
    page.gauge(
        "process_max_fds",
        "The soft limit of file descriptors of that process.",
        PROGRAM,
        files.iter().map(|(labels, of)| (*labels, limit(of))),
    )?;
    page.gauge(
        "ephemeral_ports_used",
        "Ephemeral ports in use towards a destination.",
        ["destination"],
        ports.iter().map(|(to, of)| (*to, used(of))),
    )?;
    page.gauge(
        "ephemeral_ports_available",
        "Size of the range of ephemeral ports.",
        ["destination"],
        ports.iter().map(|(to, of)| (*to, limit(of))),
    )
}
