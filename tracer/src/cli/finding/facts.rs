//! What is known of a finding, a function for each line of it.

use std::fmt::Write as _;

use jiff::Timestamp;
use textwrap::core::display_width;

use super::{Detail, INDENT, Style};
use crate::{
    cli::{
        output::clean,
        stack, units,
        words::{call_site, place, seconds},
    },
    model::{StackOf, StackQuality},
    report::{Finding, LibrarySite, NamedBy, Resources},
};

/// Requests shown as examples.
const EXAMPLES_SHORT: usize = 1;

/// When something runs out at the present growth: descriptors, or ports towards the remote.
#[must_use]
pub fn time_to_limit(finding: &Finding, limits: &[Resources]) -> Option<String> {
    let descriptors = |one: &Resources| {
        let left = one.exhausted_in_seconds?;
        let what = format!("descriptors ({} of {} used)", one.fds_open, one.fds_limit);
        Some((left, what))
    };
    let ports = |one: &Resources| {
        let all = one.ephemeral_ports.iter();
        all.filter(|ports| ports.destination == finding.remote.address)
            .filter_map(|ports| {
                let what = format!("local ports ({} of {} used)", ports.used, ports.available);
                Some((ports.exhausted_in_seconds?, what))
            })
            .min()
    };
    let (left, what) = limits
        .iter()
        .filter(|limits| limits.concern(finding))
        .flat_map(|one| [descriptors(one), ports(one)])
        .flatten()
        .min()?;
    #[expect(clippy::cast_precision_loss, reason = "shown in two units at most")]
    Some(match left {
        0 => format!("now: no {what} left"),
        left => format!(
            "{what} run out in {} at this growth",
            units::duration(left as f64)
        ),
    })
}

pub(super) fn site_line(finding: &Finding, style: Style) -> String {
    match &finding.call_site {
        Some(site) => {
            let mut site = site.clone();
            if !style.frames.full_paths {
                site.file = site.file.map(|file| stack::short_path(&file).to_owned());
            }
            style.paint.bold(&call_site(Some(&site)))
        }
        None if finding.stack_quality == StackQuality::None => {
            "unknown: no stack could be taken".to_owned()
        }
        None => "unknown: no frame of the stack belongs to the application".to_owned(),
    }
}

/// What the process talks to, in one line: the URL where it is known.
#[must_use]
pub fn remote(finding: &Finding) -> String {
    let remote = &finding.remote;
    let address = remote.path.as_deref().unwrap_or(&remote.address);
    match (&remote.url, &finding.local) {
        (Some(url), _) => clean(url).into_owned(),
        (None, Some(local)) => format!("accepted on {}", clean(local)),
        (None, None) => match &remote.peer {
            Some(peer) => format!(
                "unix:{} ({}, pid {})",
                clean(address),
                clean(&peer.comm),
                peer.pid
            ),
            None => match (&remote.host, remote.named_by) {
                (Some(name), NamedBy::Dns | NamedBy::Cluster) => {
                    format!("{} ({})", clean(name), clean(address))
                }
                _ => clean(address).into_owned(),
            },
        },
    }
}

pub(super) fn remote_lines(finding: &Finding, style: Style) -> Vec<String> {
    let detail = style.detail;
    let mut lines = vec![remote(finding)];
    let known = &finding.remote;
    let address = known.path.as_deref().unwrap_or(&known.address);
    let url = known.url.as_deref().unwrap_or_default();
    if !url.is_empty() && !url.contains(address) {
        let at = format!("at {}", clean(address));
        let room = style.width.saturating_sub(INDENT);
        match display_width(&lines[0]) + 1 + display_width(&at) <= room {
            true => lines[0] = format!("{} {at}", lines[0]),
            false => lines.push(at),
        }
    }
    let most = match detail {
        Detail::Short => EXAMPLES_SHORT,
        Detail::Full => usize::MAX,
    };
    let examples = known.examples.iter().filter(|example| *example != url);
    lines.extend(
        examples
            .take(most)
            .map(|example| clean(example).into_owned()),
    );
    if let (Detail::Full, Some(because)) = (detail, &known.not_higher_because) {
        lines.push(format!(
            "(by {}: {})",
            known.named_by.name(),
            clean(because)
        ));
    }
    lines
}

pub(super) fn process_line(finding: &Finding, detail: Detail) -> String {
    let process = &finding.process;
    let mut line = format!("{}, pid {}", clean(&process.comm), process.pid);
    if let Some(inner) = process.ns_pid {
        let _ = write!(line, " ({inner} in its container)");
    }
    if let Some(runtime) = &process.runtime {
        let _ = write!(line, ", {}", clean(runtime));
    }
    if let Some(pod) = &process.pod {
        let namespace = process.namespace.as_deref().unwrap_or("?");
        let _ = write!(line, ", pod {}/{}", clean(namespace), clean(pod));
        if let Some(container) = &process.container {
            let _ = write!(line, " ({})", clean(container));
        }
        if let Some(of) = &process.workload {
            let _ = write!(line, " of {} {}", clean(&of.kind), clean(&of.name));
        }
    }
    if let Some(id) = &process.container_id {
        let short: String = match detail {
            Detail::Short => id.chars().take(12).collect(),
            Detail::Full => id.clone(),
        };
        let _ = write!(line, ", container {}", clean(&short));
    }
    if let (Detail::Full, Some(exe)) = (detail, &process.exe) {
        let _ = write!(line, ", {}", clean(exe));
    }
    let others = finding.instances.len().saturating_sub(1) as u64;
    if others > 0 {
        let _ = write!(line, " and {}", units::count(others, "more process"));
    }
    line
}

pub(super) fn counts(finding: &Finding, now: Timestamp) -> String {
    let counts = &finding.connections;
    let mut line = format!("{} outlived of {} open", counts.outlived, counts.open);
    if finding.growth_per_minute != 0.0 {
        let sign = if finding.growth_per_minute > 0.0 {
            "+"
        } else {
            ""
        };
        let _ = write!(
            line,
            ", {sign}{}/min",
            units::number(finding.growth_per_minute)
        );
    } else {
        line.push_str(", not growing");
    }
    // connections from before the watch carried requests that nobody counted
    if (1..=finding.requests).contains(&counts.outlived) {
        let each = units::number(finding.leaked_per_request);
        let _ = write!(line, ", {each} per request");
    }
    if let Some(period) = finding.burst_period_seconds {
        let _ = write!(line, ", in bursts every {}", units::duration(period));
    }
    if let Some(oldest) = finding.oldest_opened_at {
        let age = now.duration_since(oldest).as_secs_f64().max(0.0);
        let _ = write!(line, ", oldest {}", units::duration(age));
    }
    let _ = write!(line, "; {} opened, {} closed", counts.opened, counts.closed);
    line
}

/// How many requests were answered with errors and leaked, where any were.
pub(super) fn errors(finding: &Finding) -> Option<String> {
    let counts = &finding.responses;
    let errors: Vec<_> = counts.iter().filter(|count| count.status >= 400).collect();
    let leaked: u64 = counts.iter().map(|count| count.leaked).sum();
    let of = errors.first()?.of;
    let requests = format!("{leaked} of {}", units::count(of, "request"));
    Some(match counts.as_slice() {
        [only] => format!("{requests}, all {}", only.status),
        several => {
            let each = several.iter();
            let each: Vec<String> = each
                .map(|count| format!("{} with {}", count.leaked, count.status))
                .collect();
            format!("{requests}: {}", each.join(", "))
        }
    })
}

/// Who called the function of the call site, with the number of connections that each of them
/// leaked, where that is known.
pub(super) fn caller_lines(finding: &Finding, style: Style) -> Vec<String> {
    let shown = |function: &str, file: Option<&str>, line: Option<u32>| {
        let file = file.map(|file| match style.frames.full_paths {
            true => file,
            false => stack::short_path(file),
        });
        format!("{} {}", clean(function), place(file, line, None))
    };
    if !finding.called_by.is_empty() {
        let all = finding.called_by.iter();
        return all
            .map(|caller| {
                let place = shown(&caller.function, caller.file.as_deref(), caller.line);
                format!("{} by {place}", caller.count)
            })
            .collect();
    }
    let callers = finding.callers.iter();
    callers
        .map(|caller| shown(&caller.function, caller.file.as_deref(), caller.line))
        .collect()
}

/// The library's function that opened it.
pub(super) fn library_line(library: &LibrarySite, style: Style) -> String {
    let frame = &library.frame;
    let file = frame.file.as_deref();
    let file = file.map(|file| match style.frames.full_paths {
        true => file,
        false => stack::short_path(file),
    });
    let place = place(file, frame.line, frame.module.as_deref());
    format!(
        "{}: {} {place}",
        clean(&library.name),
        clean(&frame.function)
    )
}

pub(super) fn stack_label(finding: &Finding) -> &'static str {
    match finding.stack_of {
        Some(StackOf::Request) => "of the latest request:",
        Some(StackOf::Connect) => "of connect:",
        Some(StackOf::Accept) => "of accept:",
        Some(StackOf::FirstIo) => "of the first transfer:",
        None => "",
    }
}

pub(super) fn instance_lines(finding: &Finding) -> Vec<String> {
    let lines = finding.instances.iter().map(|instance| {
        format!(
            "{}pid {}: {}, first seen {}",
            instance
                .node
                .as_deref()
                .map_or(String::new(), |node| format!("{}, ", clean(node))),
            instance.pid,
            units::count(instance.connections, "connection"),
            seconds(instance.first_seen_at),
        )
    });
    lines.collect()
}
