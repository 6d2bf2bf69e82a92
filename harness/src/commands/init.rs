//! `fulldress init`: a commented plan to start from.

use std::io::Write;

use super::{CommandResult, Failure, print};
use crate::cli::Init;
use crate::plan::TEMPLATE;

/// Writes the plan; an existing file is never overwritten.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn run(args: &Init) -> CommandResult {
    let file = args.file.display();
    let mut target = std::fs::File::create_new(&args.file).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{file} exists already and was left as it is: name another file"))
        }
        _ => Failure::usage(format!("{file}: {error}")),
    })?;
    target.write_all(TEMPLATE.as_bytes()).map_err(|error| Failure::machine(format!("{file}: {error}")))?;
    print(&format!("wrote {file}: edit it, then `fulldress run {file} --dry-run`\n"));
    Ok(0)
}
