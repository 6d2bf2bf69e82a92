//! `fulldress gateway`: the program of the container that stands in two networks.

use super::{CommandResult, Failure};
use crate::mirror::containers::gateway;

/// Serves until it is told to stop.
///
/// # Errors
/// When it was not started by a mirror, or a port cannot be listened on.
pub fn run() -> CommandResult {
    gateway::run().map_err(|error| Failure::machine(format!("failed to {error}")))?;
    Ok(0)
}
