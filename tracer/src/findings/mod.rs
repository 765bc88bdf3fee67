//! From judgements about cohorts to the findings users read: identity, merging of instances,

mod assemble;
mod go_notes;
mod identity;
mod join;
mod resources;
mod unnamed;

pub use assemble::{Inputs, Suspect, assemble, verdict};
pub use go_notes::go_notes;
pub use identity::{id, program};
pub use join::join_siteless;
pub use resources::{PortUse, ProcessUse, errno_name, resources};
