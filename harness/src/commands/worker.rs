//! `fulldress worker`: drives virtual users for a rehearsal that started it.

use super::{CommandResult, Failure, runtime};

/// Speaks the harness's pipe until it is told to stop.
///
/// # Errors
/// When it was not started by a harness, or the users cannot be driven.
pub fn run() -> CommandResult {
    runtime()?.block_on(fulldress_workloads::worker::worker_process()).map_err(Failure::machine)?;
    Ok(0)
}
