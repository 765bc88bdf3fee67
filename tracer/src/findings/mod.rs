//! From judgements about populations to the findings users read: identity, merging of instances,
//! the verdict, and the limits of the watched processes.

mod assemble;
mod hints;
mod identity;
mod library;
mod lives;
pub mod naming;
pub mod profile;
mod resources;
mod stragglers;
#[cfg(test)]
mod tests;
mod verdict;

pub use assemble::{Inputs, Suspect, Watched, assemble, unexplained};
pub use identity::{Authority, Identity, Place, program};
pub use lives::Lives;
pub use resources::{PortUse, ProcessUse, resources};
pub use verdict::{settle, verdict};
