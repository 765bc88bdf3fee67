//! How events are observed, as the report says it.

use crate::{
    kernel::observed::{Observed, Refused},
    report::{EventStatus, Refusal},
};

impl From<&Observed> for EventStatus {
    fn from(observed: &Observed) -> Self {
        EventStatus {
            event: observed.event.to_owned(),
            backend: observed.backend.to_owned(),
            hooks: observed.hooks.iter().map(|&hook| hook.to_owned()).collect(),
            lost: observed.lost.clone(),
            refused: observed.refused.iter().map(Refusal::from).collect(),
        }
    }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        Refusal {
            backend: refused.backend.to_owned(),
            hook: refused.hook.to_owned(),
            error: refused.error.clone(),
            would_add: refused.would_add.clone(),
        }
    }
}
