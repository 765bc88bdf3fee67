//! From judgements about cohorts to the findings users read: identity, merging of instances,

mod assemble;
mod hints;
mod identity;
mod join;
mod resources;

pub use assemble::{Inputs, Suspect, assemble, verdict};
pub use identity::{id, program};
pub use join::join_siteless;
pub use resources::{PortUse, ProcessUse, errno_name, resources};
