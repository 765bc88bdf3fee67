//! Who is left alone: pods in namespaces that opted out, and those that are annotated so.

use crate::model::Pod;

/// Of whom nothing is to be judged.
#[derive(Debug, Clone, Default)]
pub struct OptedOut {
    namespaces: Vec<String>,
    /// Annotations are known at all.
    annotated: bool,
}

impl OptedOut {
    /// Pods of these namespaces, and where the API server is asked those annotated.
    pub fn of(namespaces: Vec<String>, annotated: bool) -> OptedOut {
        OptedOut {
            namespaces,
            annotated,
        }
    }

    /// Whether nobody can have.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && !self.annotated
    }

    /// Whether a process in this pod is left alone. Where no pod is known, it is not.
    pub fn has(&self, pod: Option<&Pod>) -> bool {
        pod.is_some_and(|pod| pod.ignored || self.names(&pod.namespace))
    }

    /// Why it is, as a sentence.
    pub fn because(&self, pod: Option<&Pod>) -> Option<&'static str> {
        let pod = pod?;
        if self.names(&pod.namespace) {
            Some("Its namespace is left alone by the configuration.")
        } else {
            pod.ignored
                .then_some("Its pod is annotated to be left alone.")
        }
    }

    fn names(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|name| name == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, ignored: bool) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            ignored,
            ..Pod::default()
        }
    }

    #[test]
    fn only_whole_names_and_annotated_pods_opt_out() {
        let out = OptedOut::of(vec!["shop".to_owned()], false);
        assert!(out.has(Some(&pod("shop", false))) && !out.is_empty());
        for other in ["", "shop-2", "Shop"] {
            assert!(!out.has(Some(&pod(other, false))), "{other:?}");
            assert!(out.has(Some(&pod(other, true))), "{other:?}");
        }
        assert!(!out.has(None) && !OptedOut::default().has(None));
        assert!(OptedOut::default().is_empty() && !OptedOut::of(Vec::new(), true).is_empty());
    }

    #[test]
    fn the_reason_is_told() {
        let out = OptedOut::of(vec!["shop".to_owned()], true);
        let because = |pod: Option<&Pod>| out.because(pod).unwrap_or("none");
        assert!(because(Some(&pod("shop", true))).contains("namespace"));
        assert!(because(Some(&pod("other", true))).contains("annotated"));
        assert_eq!(because(Some(&pod("other", false))), "none");
        assert_eq!(because(None), "none");
    }
}
