//! Who is left alone: pods in namespaces that opted out.

use crate::model::Pod;

/// Namespaces of which nothing is to be judged.
#[derive(Debug, Default)]
pub struct OptedOut(Vec<String>);

impl OptedOut {
    /// Of these namespaces.
    pub fn of(namespaces: Vec<String>) -> OptedOut {
        OptedOut(namespaces)
    }

    /// Whether nobody has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a process in this pod is left alone. Where no pod is known, it is not.
    pub fn has(&self, pod: Option<&Pod>) -> bool {
        self.names(pod.map(|pod| pod.namespace.as_str()))
    }

    /// Whether a namespace is one of them.
    pub fn names(&self, namespace: Option<&str>) -> bool {
        namespace.is_some_and(|namespace| self.0.iter().any(|name| name == namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_opt_out() {
        let out = OptedOut::of(vec!["shop".to_owned()]);
        assert!(out.names(Some("shop")) && !out.is_empty());
        for other in [None, Some(""), Some("shop-2"), Some("Shop")] {
            assert!(!out.names(other), "{other:?}");
        }
        assert!(!OptedOut::default().has(None));
    }
}
