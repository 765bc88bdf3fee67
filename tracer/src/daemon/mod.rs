//! The long-running collector: API, metrics, configuration.
