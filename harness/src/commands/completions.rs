//! `fulldress completions`: a completion script for a shell.

use clap::CommandFactory;

use super::{CommandResult, print};
use crate::cli::{Cli, Completions};

/// Prints the script.
///
/// # Errors
/// Never; the signature is that of every command.
pub fn run(args: &Completions) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fulldress", &mut script);
    print(&String::from_utf8_lossy(&script));
    Ok(0)
}
