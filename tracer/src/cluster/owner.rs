//! What a pod was made for, from what its own metadata says. The API server is not asked for the
//! owners of owners: a Deployment's and a `CronJob`'s names are in those of what they make.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::model::Workload;

/// Labels with the hash at the end of a `ReplicaSet`'s name, and what made it
/// (kubernetes/pkg/controller/deployment, argo-rollouts).
const HASHES: [(&str, &str); 2] = [
    ("pod-template-hash", "Deployment"),
    ("rollouts-pod-template-hash", "Rollout"),
];
/// A `CronJob`'s job is called after the minute that it was due (`getJobName`,
/// kubernetes/pkg/controller/cronjob): how long before its pod's creation that may be, in minutes.
const LATE_MAX: i64 = 7 * 24 * 60;
/// Clocks of control planes differ.
const EARLY_MAX: i64 = 5;

/// Whom a pod belongs to.
#[derive(Debug, Clone, Deserialize)]
pub struct Owner {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// It is the one that makes and ends the pod.
    pub controller: Option<bool>,
}

/// The workload of a pod, by its controller. `created`: when the pod was.
#[must_use]
pub fn workload(
    controller: &Owner,
    labels: &BTreeMap<String, String>,
    created: Option<Timestamp>,
) -> Option<Workload> {
    let (kind, name) = match controller.kind.as_str() {
        // a static pod's
        "Node" => return None,
        "ReplicaSet" => of_replica_set(&controller.name, labels),
        "Job" => of_job(&controller.name, created),
        _ => None,
    }
    .unwrap_or((&controller.kind, &controller.name));
    Some(Workload {
        kind: kind.to_owned(),
        name: name.to_owned(),
    })
}

fn of_replica_set<'a>(
    name: &'a str,
    labels: &BTreeMap<String, String>,
) -> Option<(&'static str, &'a str)> {
    HASHES.iter().find_map(|&(label, kind)| {
        let made = name.strip_suffix(labels.get(label)?.as_str())?;
        let made = made.strip_suffix('-').filter(|made| !made.is_empty())?;
        Some((kind, made))
    })
}

fn of_job(name: &str, created: Option<Timestamp>) -> Option<(&'static str, &str)> {
    let (made, minute) = name.rsplit_once('-')?;
    let due: i64 = minute.parse().ok()?;
    let late = created?.as_second() / 60 - due;
    let of_it = !made.is_empty() && (-EARLY_MAX..=LATE_MAX).contains(&late);
    of_it.then_some(("CronJob", made))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    fn of(kind: &str, name: &str, labels: &[(&str, &str)], created: &str) -> String {
        let controller = Owner {
            kind: kind.to_owned(),
            name: name.to_owned(),
            controller: Some(true),
        };
        let text = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let labels = labels.iter().map(text).collect();
        match workload(&controller, &labels, created.parse().ok()) {
            Some(workload) => format!("{} {}", workload.kind, workload.name),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn a_replica_set_is_its_deployment_s_where_it_has_the_hash_of_the_pod_s_template() {
        let hash = [("pod-template-hash", "7c9f8b5d4")];
        assert_eq!(
            of("ReplicaSet", "web-7c9f8b5d4", &hash, ""),
            "Deployment web"
        );
        assert_eq!(
            of("ReplicaSet", "a-b-7c9f8b5d4", &hash, ""),
            "Deployment a-b"
        );
        assert_eq!(
            of("ReplicaSet", "web-other", &hash, ""),
            "ReplicaSet web-other"
        );
        assert_eq!(
            of("ReplicaSet", "web7c9f8b5d4", &hash, ""),
            "ReplicaSet web7c9f8b5d4"
        );
        assert_eq!(
            of("ReplicaSet", "-7c9f8b5d4", &hash, ""),
            "ReplicaSet -7c9f8b5d4"
        );
        assert_eq!(
            of("ReplicaSet", "web-7c9f8b5d4", &[], ""),
            "ReplicaSet web-7c9f8b5d4"
        );
        let rollout = [("rollouts-pod-template-hash", "5d4")];
        assert_eq!(of("ReplicaSet", "web-5d4", &rollout, ""), "Rollout web");
    }

    #[test]
    fn a_job_is_a_cron_job_s_where_it_is_called_after_a_minute_before_its_pod() {
        let noon = "2026-11-30T12:00:00Z";
        let minute = noon.parse::<Timestamp>().unwrap().as_second() / 60;
        let job = |minutes: i64| of("Job", &format!("report-{}", minute + minutes), &[], noon);
        assert_eq!(job(0), "CronJob report");
        assert_eq!(job(-60), "CronJob report");
        assert!(job(-20 * 24 * 60).starts_with("Job report-"));
        assert!(job(600).starts_with("Job report-"));
        // a date is no minute
        assert_eq!(of("Job", "move-20261130", &[], noon), "Job move-20261130");
        assert_eq!(of("Job", "move", &[], noon), "Job move");
        assert_eq!(
            of("Job", &format!("a-{minute}"), &[], ""),
            format!("Job a-{minute}")
        );
    }

    #[test]
    fn others_are_what_they_are_and_a_static_pod_is_nobody_s() {
        assert_eq!(of("StatefulSet", "db", &[], ""), "StatefulSet db");
        assert_eq!(of("Node", "n1", &[], ""), "none");
    }
}
