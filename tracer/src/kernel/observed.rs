//! How an event of a connection's life is observed on this kernel.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Name, as in [`super::plan::Event::name`].
    pub event: &'static str,
    /// Backend chosen, one of [`super::plan::BACKENDS`] or `none`.
    pub backend: &'static str,
    /// Kernel functions or tracepoints it sits on.
    pub hooks: Vec<&'static str>,
    /// What is lost with this choice against the best one.
    pub lost: Option<String>,
    /// Hooks that were tried or considered and refused.
    pub refused: Vec<Refused>,
}

/// A hook that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Backend.
    pub backend: &'static str,
    /// Function or tracepoint.
    pub hook: &'static str,
    /// The kernel's answer.
    pub error: String,
    /// What it would have added.
    pub would_add: String,
}
