//! Connections that belong to a finding although their own call site is not known.
//!
//! What was open before the watch has no stack, and a stack may be taken at a moment that shows
//! nothing of the application, or another line of the same function. A client may open more than one
//! connection when it is told to, some of them by threads of its own (a driver that watches its
//! server). Such connections are more of what leaks beside them, not a leak of their own.

use std::collections::BTreeMap;

use super::{Suspect, Watched, library::Groups};
use crate::{
    engine::Level,
    model::{Confidence, Frame, Role},
    report::Finding,
};

/// How much faster than the finding beside it a client's own connections may grow: of one that is told
/// to connect, perhaps three do.
const FASTER_MAX: f64 = 3.0;

/// Moves what only stands there, or what a client opens by itself, to the finding that grows, or is sure, at the same
/// remote.
pub fn joined(mut groups: Groups<'_>) -> Groups<'_> {
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    for (id, group) in &groups {
        let found = (groups.iter())
            .filter(|(other, known)| *other != id && belongs(group, known))
            .max_by_key(|(_, known)| outlived(known));
        if let Some((home, _)) = found {
            homes.insert(id.clone(), home.clone());
        }
    }
    // a home that has to move itself is none
    let moving: Vec<String> = homes.keys().cloned().collect();
    homes.retain(|_, home| !moving.contains(home));
    for (id, home) in homes {
        let group = groups.remove(&id).unwrap_or_default();
        groups.entry(home).or_default().extend(group);
    }
    groups
}

/// How many of the connections of a finding have another call site than it, or none, as sentences.
pub fn sentences(group: &[&Suspect], worst: &Suspect) -> Vec<String> {
    let Some(place) = place(worst) else {
        return Vec::new();
    };
    let elsewhere = (group.iter())
        .filter_map(|suspect| self::place(suspect))
        .find(|other| same_function(place, other) && other.line != place.line);
    let without = group.iter().copied().filter(|s| self::place(s).is_none());
    let (librarys, unknown): (Vec<&Suspect>, Vec<&Suspect>) = without.partition(|s| is_librarys(s));
    let (librarys, unknown) = (outlived(&librarys), outlived(&unknown));
    let mut said = Vec::new();
    if librarys > 0 {
        said.push(format!(
            "{librarys} more to the same remote are opened by the client's own threads or callbacks, \
             which show nobody who asked."
        ));
    }
    if unknown > 0 {
        let have = if unknown == 1 { "has" } else { "have" };
        said.push(format!(
            "{unknown} more to the same remote {have} no call site of their own (opened before the \
             watch, or their stacks could not be taken or named)."
        ));
    }
    if let (true, Some(line)) = (said.is_empty(), elsewhere.and_then(|other| other.line)) {
        said.push(format!(
            "Others of them were last seen at line {line} of the same function."
        ));
    }
    said
}

/// Takes out of what is no leak what may be more of one: connections without a call site, none of
/// which was used again or closed, beside those that leak to the same remote. The finding says so.
pub fn doubted(watched: Vec<Watched>, findings: &mut [Finding]) -> Vec<Watched> {
    let may_be_of = |watched: &Watched, finding: &Finding| {
        let Watched { watched, cohort } = watched;
        let site = cohort.site.as_deref().filter(|site| site.own);
        site.is_none()
            && (watched.reused, watched.counts.closed) == (0, 0)
            && (cohort.role, finding.role) == (Role::Client, Role::Client)
            && cohort.process.pid == finding.process.pid
            && cohort.remote.address == finding.remote.address
            && finding.call_site.is_some()
            && finding.confidence > Confidence::Low
    };
    let mut rest = Vec::new();
    for population in watched {
        match findings.iter_mut().find(|f| may_be_of(&population, f)) {
            Some(finding) => {
                let open = population.watched.counts.open;
                let have = if open == 1 {
                    "connection to the same remote has"
                } else {
                    "connections to the same remote have"
                };
                finding.evidence.push(format!(
                    "{open} more {have} no call site: they may be of this leak, and are not counted."
                ));
            }
            None => rest.push(population),
        }
    }
    rest
}

/// Whether all of `group` may belong to what is known of `known`.
fn belongs(group: &[&Suspect], known: &[&Suspect]) -> bool {
    let by_itself = |suspect: &&Suspect| known.iter().any(|other| grows_with(suspect, other));
    group
        .iter()
        .all(|suspect| stands(suspect) && known.iter().any(|other| beside(suspect, other)))
        && outlived(group) <= outlived(known)
        || group.iter().all(by_itself)
}

/// A library's stack shows nothing of the application.
fn is_librarys(suspect: &Suspect) -> bool {
    let site = suspect.cohort.site.as_deref();
    site.is_some_and(|site| !site.own && !site.frames.is_empty())
}

/// It grows with what the application has opened at the same remote, by a library's own doing.
fn grows_with(suspect: &Suspect, other: &Suspect) -> bool {
    let (a, b) = (&suspect.judgement, &other.judgement);
    is_librarys(suspect)
        && place(other).is_some()
        && suspect.cohort.process.pid == other.cohort.process.pid
        && (suspect.cohort.role, other.cohort.role) == (Role::Client, Role::Client)
        && suspect.cohort.remote.address == other.cohort.remote.address
        && b.confidence > Confidence::Low
        && b.growth_per_minute > 0.0
        && a.growth_per_minute <= b.growth_per_minute * FASTER_MAX
}

/// It is not seen to grow.
fn stands(suspect: &Suspect) -> bool {
    let judgement = &suspect.judgement;
    judgement.growth_per_minute <= 0.0
        && !matches!(judgement.level, Level::Process | Level::Site)
        && suspect.cohort.role == Role::Client
}

fn beside(suspect: &Suspect, other: &Suspect) -> bool {
    let (a, b) = (&suspect.judgement, &other.judgement);
    let Some(known) = place(other) else {
        return false;
    };
    suspect.cohort.process.pid == other.cohort.process.pid
        && other.cohort.role == Role::Client
        && suspect.cohort.remote.address == other.cohort.remote.address
        && (a.kind == b.kind || b.also.contains(&a.kind))
        && a.confidence <= b.confidence
        && b.growth_per_minute > 0.0
        && place(suspect).is_none_or(|place| same_function(place, known))
}

/// The frame to change, if it is the application's own.
fn place(suspect: &Suspect) -> Option<&Frame> {
    let site = suspect.cohort.site.as_deref().filter(|site| site.own)?;
    site.blamed()
}

fn same_function(a: &Frame, b: &Frame) -> bool {
    (&a.function, &a.file) == (&b.function, &b.file)
}

fn outlived(group: &[&Suspect]) -> u64 {
    group.iter().map(|s| s.judgement.connections.outlived).sum()
}
