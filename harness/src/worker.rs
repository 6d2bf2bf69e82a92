//! The child that drives virtual users: this very program once more, with its pipes in our hands.
//!
//! The conductor and `commands::load` start it where a workload has users; what it says is for the traffic alone.

use std::path::{Path, PathBuf};

use fulldress_workloads::traffic::{UsersReader, UsersWriter};

use crate::mirror::MirrorError;
use crate::process::{Child, Input, Launch, RunFolder, Sink};

/// Starts the worker; its errors go to `log`. Dropping its pipes ends it.
///
/// # Errors
/// When the machine starts no process.
pub async fn start(
    program: &Path,
    run: &RunFolder,
    log: PathBuf,
) -> Result<(Child, (UsersReader, UsersWriter)), MirrorError> {
    let mut launch = Launch::new(program).args(["worker"]).recorded_in(run);
    launch.stdin = Input::Piped;
    launch.stdout = Sink::Piped;
    launch.stderr = Sink::File(log);
    let mut child = launch.start().await?;
    let pipes = child.stdout.take().zip(child.stdin.take());
    let (reader, writer) = pipes.ok_or_else(|| MirrorError::new("the worker has no pipes", ""))?;
    Ok((child, (Box::new(reader), Box::new(writer))))
}
