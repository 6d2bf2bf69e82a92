//! The command `fulldress`: a table of commands; under other names the shims of a sandbox.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use fulldress::cli::{Cli, Command};
use fulldress::commands;
use fulldress::upgrade::{relay, shim};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    // The sandbox's own side comes first: it is not a command that a person types.
    if let Some(name) = shim::name_of(&argv0) {
        return shim::shim_main(name, &args);
    }
    if let Some((command, rest)) = args.split_first()
        && command == "sandbox-init"
    {
        return relay::sandbox_init(rest);
    }
    let result = match Cli::parse().command {
        Command::Init(args) => commands::init::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Migrations(args) => commands::migrations::run(&args),
        Command::Load(args) => commands::load::run(&args),
        Command::Preflight(args) => commands::preflight::run(&args),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Roundtrip(args) => commands::roundtrip::run(&args),
        Command::Package(args) => commands::package::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Checks(args) => commands::checks::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Worker => commands::worker::run(),
        Command::Gateway => commands::gateway::run(),
    };
    commands::finish(result)
}
