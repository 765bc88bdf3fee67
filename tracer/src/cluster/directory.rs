//! Pods by uid, those that ended among them for as long as somebody asks for them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::model::Workload;

/// Pods remembered, those that ended among them; a node has some hundred.
const REMEMBERED: usize = 4_096;
/// An ended pod that nobody asked for in this time is forgotten. Every report asks for the pods of all
/// that is found.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Below this many nobody is forgotten.
const FEW: usize = 512;

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What it was made for.
    pub workload: Option<Workload>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// It is annotated to be left alone.
    pub ignored: bool,
}

#[derive(Debug)]
struct Entry {
    known: Arc<Known>,
    ended: bool,
    /// When somebody last asked for it, or it came.
    asked: Instant,
}

/// Pods by uid.
#[derive(Debug, Default)]
pub struct Directory {
    pods: HashMap<String, Entry>,
    /// Pods there was no room for.
    refused: u64,
    /// Why the API server does not tell anything; at first it was not asked yet.
    trouble: Option<String>,
}

impl Directory {
    /// The pod with this uid.
    pub fn pod(&mut self, uid: &str, now: Instant) -> Option<Arc<Known>> {
        let entry = self.pods.get_mut(uid)?;
        entry.asked = now;
        Some(Arc::clone(&entry.known))
    }

    /// A pod is there, or has changed.
    pub fn put(&mut self, uid: String, known: Known, now: Instant) {
        let before = self.pods.get(&uid).map(|entry| entry.asked);
        if before.is_none() && !self.has_room(now) {
            self.refused += 1;
            return;
        }
        let asked = before.unwrap_or(now);
        let entry = Entry {
            known: Arc::new(known),
            ended: false,
            asked,
        };
        self.pods.insert(uid, entry);
    }

    /// A pod is gone.
    pub fn end(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.ended = true;
        }
    }

    /// All pods that there are now were told of: others are gone.
    pub fn only(&mut self, there: &HashSet<String>) {
        for (uid, entry) in &mut self.pods {
            entry.ended |= !there.contains(uid);
        }
    }

    /// Notes why nothing is told any more, or that it is.
    pub fn set_trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
    }

    /// Why nothing is told any more.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What is not known, and why.
    pub fn degraded(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(format!(
                "Pods that are new have no workload, labels or annotations, and their names by folders \
                 only: {trouble}"
            ));
        }
        (self.refused > 0).then(|| {
            format!(
                "{} pods have no workload, labels or annotations: {REMEMBERED} are remembered at most.",
                self.refused
            )
        })
    }

    /// Makes room for one.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.pods.len() < FEW {
            return true;
        }
        let unasked = |entry: &Entry| now.duration_since(entry.asked) >= FORGOTTEN_AFTER;
        self.pods.retain(|_, entry| !entry.ended || !unasked(entry));
        if self.pods.len() < REMEMBERED {
            return true;
        }
        let ended = self.pods.iter().filter(|(_, entry)| entry.ended);
        let longest = ended.min_by_key(|(_, entry)| entry.asked);
        let Some(uid) = longest.map(|(uid, _)| uid.clone()) else {
            return false;
        };
        self.pods.remove(&uid);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Known {
        Known {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            workload: None,
            labels: BTreeMap::new(),
            ignored: false,
        }
    }

    fn name(directory: &mut Directory, uid: &str, now: Instant) -> Option<String> {
        Some(directory.pod(uid, now)?.name.clone())
    }

    #[test]
    fn a_pod_that_ended_keeps_its_name() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        directory.put("1".to_owned(), pod("a"), now);
        directory.put("2".to_owned(), pod("b"), now);
        directory.end("1");
        directory.only(&HashSet::new());
        assert_eq!(name(&mut directory, "1", now).as_deref(), Some("a"));
        assert_eq!(name(&mut directory, "2", now).as_deref(), Some("b"));
        directory.put("2".to_owned(), pod("c"), now);
        assert_eq!(name(&mut directory, "2", now).as_deref(), Some("c"));
        assert_eq!(name(&mut directory, "3", now), None);
    }

    #[test]
    fn short_pods_are_forgotten_unless_asked_for() {
        let (mut directory, start) = (Directory::default(), Instant::now());
        directory.put("leaky".to_owned(), pod("leaky"), start);
        directory.end("leaky");
        for second in 0..20_000_u64 {
            let now = start + Duration::from_secs(second);
            let uid = second.to_string();
            directory.put(uid.clone(), pod(&uid), now);
            directory.end(&uid);
            assert!(directory.pod("leaky", now).is_some(), "{second}");
        }
        assert!(directory.pods.len() <= 700, "{}", directory.pods.len());
        assert_eq!(directory.degraded(), None);
    }

    #[test]
    fn there_is_room_for_so_many_and_what_ended_goes_first() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        for n in 0..REMEMBERED {
            directory.put(n.to_string(), pod("a"), now);
        }
        directory.put("new".to_owned(), pod("a"), now);
        assert!(directory.pod("new", now).is_none());
        assert!(
            directory
                .degraded()
                .is_some_and(|said| said.starts_with("1 pods"))
        );
        directory.end("7");
        directory.put("new".to_owned(), pod("a"), now);
        assert!(directory.pod("new", now).is_some() && directory.pod("7", now).is_none());
        assert_eq!(directory.pods.len(), REMEMBERED);
    }

    #[test]
    fn trouble_is_told_until_it_is_over() {
        let mut directory = Directory::default();
        directory.set_trouble(Some("the API server is gone".to_owned()));
        assert!(
            directory
                .degraded()
                .is_some_and(|said| said.contains("is gone"))
        );
        directory.set_trouble(None);
        assert_eq!(directory.degraded(), None);
    }
}
