//! The command line as a person types it; no meaning yet, and no access to the system.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use fulldress_workloads::schedule::Part;

use crate::history::Layout;
use crate::plan::{MirrorKind, Profile};

/// Rehearses an upgrade before production sees it.
#[derive(Debug, Parser)]
#[command(
    name = "fulldress",
    version,
    about = "Rehearses an upgrade on a mirror of production, under traffic, and proves that rollback works",
    after_help = EXIT_CODES,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 pass · 1 fail · 2 usage error or invalid plan · 3 inconclusive · \
4 unmeasured (the instrument failed) · 5 the mirror or the machine failed · 6 package refused\n\n\
Start with `fulldress init`, then `fulldress run rehearsal.toml`.";

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented plan to start from
    Init(Init),
    /// Play the dress rehearsal: mirror, traffic, upgrade, rollback, proofs, verdict
    Run(Run),
    /// Rehearse a folder of SQL migrations with no plan file: schema, data and traffic are derived
    #[command(after_long_help = MIGRATIONS_HELP)]
    Migrations(Migrations),
    /// Play a workload's traffic alone against a system that runs on this machine
    Load(Load),
    /// Say everything about a package that can be said without starting anything
    Preflight(Preflight),
    /// Print the exact locks of SQL scripts, statement by statement
    #[command(after_long_help = TRACE_HELP)]
    Trace(Trace),
    /// Run every migration of a folder up, down and up again, and say what does not come back
    #[command(after_long_help = ROUNDTRIP_HELP)]
    Roundtrip(Roundtrip),
    /// Build and inspect packages
    #[command(subcommand)]
    Package(Package),
    /// Render a bundle again from its report.json
    Report(Report),
    /// Put bundles side by side: gates and quantiles, with no claim of significance
    Compare(Compare),
    /// List every check with its meaning, limit and remedy
    Checks(Checks),
    /// Say what this machine has and lacks
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Drive virtual users; started by `run`
    #[command(hide = true)]
    Worker,
    /// Lead into a mirror's internal network; started in a container
    #[command(hide = true)]
    Gateway,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person
    #[default]
    Text,
    /// For a program
    Json,
}

/// `fulldress init`
#[derive(Debug, Args)]
pub struct Init {
    /// Where to write it; an existing file is never overwritten
    #[arg(default_value = "rehearsal.toml")]
    pub file: PathBuf,
}

/// `fulldress run`
#[derive(Debug, Args)]
pub struct Run {
    /// The plan
    #[arg(default_value = "rehearsal.toml")]
    pub plan: PathBuf,
    /// Another package than the plan's: a zip or a source folder
    #[arg(long, value_name = "PATH")]
    pub package: Option<PathBuf>,
    /// Where the bundle goes [default: rehearsals/<utc>-<name>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Another seed than the plan's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Another profile than the plan's
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<Profile>,
    /// Another kind of mirror than the plan's
    #[arg(long, value_enum, value_name = "KIND")]
    pub mirror: Option<MirrorKind>,
    /// Print what would happen, and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Shown under `fulldress migrations --help`.
const MIGRATIONS_HELP: &str = "\
Examples:
  fulldress migrations db/migrations
  fulldress migrations db/migrations --from 0042 --rows 200000 --rate 500
  fulldress migrations db/migrations --eject rehearsal && fulldress run rehearsal/rehearsal.toml

Everything before --from is applied to a private PostgreSQL, its tables are filled with rows that keep every rule of the \
catalog, and statements are derived that an application of this schema would send. Then --from to --to are rehearsed under that \
traffic, up and back again, as `fulldress run` does it. What was decided on the way is printed; --eject writes it as files to edit.";

/// `fulldress migrations`
#[derive(Debug, Args)]
pub struct Migrations {
    /// Folder of migrations
    pub dir: PathBuf,
    /// How the files are named and run [default: what they speak for]
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// First migration that is rehearsed: its id, or the number that it begins with [default: the last of the folder]
    #[arg(long, value_name = "ID")]
    pub from: Option<String>,
    /// Last migration that is rehearsed [default: the last of the folder]
    #[arg(long, value_name = "ID")]
    pub to: Option<String>,
    /// Rows of each table that the migrations touch; the others get a tenth
    #[arg(long, default_value_t = 20_000)]
    pub rows: u64,
    /// Statements and transactions a second
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// What production has before the first migration: a file for psql; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub setup: Vec<PathBuf>,
    /// Version of PostgreSQL, or folder of its programs [default: PATH, else the distribution's newest]
    #[arg(long, value_name = "VERSION")]
    pub postgres: Option<String>,
    /// Seed of every random choice
    #[arg(long, default_value_t = 20_240_101)]
    pub seed: u64,
    /// Write the derived plan, workload, dataset and package to this new folder, and rehearse nothing
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub eject: Option<PathBuf>,
    /// Where the bundle goes [default: rehearsals/<utc>-<name>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress load`
#[derive(Debug, Args)]
pub struct Load {
    /// The workload
    pub workload: PathBuf,
    /// Where requests over HTTP go: http://127.0.0.1:PORT
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// A database that the workload names, as NAME=postgres://ROLE@127.0.0.1/DATABASE; may be given more than once. A
    /// password is better kept in PGPASSWORD or the password file
    #[arg(long, value_name = "NAME=URL")]
    pub database: Vec<String>,
    /// Play only this scenario; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// Send every step once, print how each went, and exit with code 1 when one fails
    #[arg(long)]
    pub check: bool,
    /// Play only one of several equal parts, as 2/3: parts with one seed share nothing and are together the whole
    #[arg(long, value_name = "I/N", conflicts_with = "check")]
    pub part: Option<Part>,
    /// Seconds of traffic
    #[arg(long, value_name = "S", default_value_t = 30, conflicts_with = "check")]
    pub duration: u64,
    /// Every random choice comes from it
    #[arg(long, default_value_t = 20_240_101)]
    pub seed: u64,
    /// Write latency.hlog and traffic.json into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    pub out: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress preflight`
#[derive(Debug, Args)]
pub struct Preflight {
    /// The package: a zip or a source folder
    pub package: PathBuf,
    /// What production is known to have
    #[arg(long, value_name = "FILE", default_value = "inventory.toml")]
    pub inventory: PathBuf,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Ids of hazards, and all of them.
fn hazard_id() -> clap::builder::PossibleValuesParser {
    let ids = fulldress_reports::hazard::all().map(|hazard| hazard.id);
    clap::builder::PossibleValuesParser::new(ids.chain(["all"]))
}

/// Shown under `fulldress trace --help`.
const TRACE_HELP: &str = "\
Examples:
  pg_dump --schema-only --no-owner shop > schema.sql
  fulldress trace --setup schema.sql migrations/0042_channel.sql
  fulldress trace --setup schema.sql --setup rows.sql --format json up.sql down.sql
  fulldress trace --setup schema.sql --deny rewrite --deny no-lock-timeout --sarif locks.sarif migrations/*.sql

The locks are read from the server's own lock table while each statement's transaction is open. Exit code 0: every \
statement ran. 1: the server refused one, or one shows a hazard that --deny names. 2: a script or the setup cannot be run. 5: no PostgreSQL, or it failed.";

/// `fulldress trace`
#[derive(Debug, Args)]
pub struct Trace {
    /// Scripts, run in this order on one database
    #[arg(required = true, value_name = "SCRIPT.sql")]
    pub scripts: Vec<PathBuf>,
    /// What production has before: a file for psql, such as a dump; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub setup: Vec<PathBuf>,
    /// Run each statement in a transaction of its own, as tools without a transaction per file do
    #[arg(long)]
    pub autocommit: bool,
    /// Run each script on what the setup left, and not on what the scripts before it left
    #[arg(long, conflicts_with = "database")]
    pub independent: bool,
    /// Run the scripts as a superuser, for those that need it; they can then run programs as the server's user
    #[arg(long, conflicts_with = "database")]
    pub superuser: bool,
    /// Work on this disposable database instead of a private one; the scripts change it
    #[arg(long, value_name = "URL", env = "FULLDRESS_TRACE_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Version of PostgreSQL, or folder of its programs [default: PATH, else the distribution's newest]
    #[arg(long, value_name = "VERSION", conflicts_with = "database")]
    pub postgres: Option<String>,
    /// Exit with code 1 when a statement shows this hazard of docs/hazards.md, or any with `all`; may be given more than once
    #[arg(long, value_name = "HAZARD", value_parser = hazard_id())]
    pub deny: Vec<String>,
    /// Write the hazards as code annotations, SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
    /// How the locks are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What a round trip can require.
fn requirement() -> clap::builder::PossibleValuesParser {
    let names = fulldress_reports::roundtrip::REQUIREMENTS.iter().map(|record| record.name);
    clap::builder::PossibleValuesParser::new(names)
}

/// Shown under `fulldress roundtrip --help`.
const ROUNDTRIP_HELP: &str = "\
Examples:
  fulldress roundtrip migrations
  fulldress roundtrip migrations --from 0042 --no-data
  fulldress roundtrip migrations --postgres 16
  fulldress roundtrip db/migrate --layout goose --setup roles.sql --rows 100
  fulldress roundtrip migrations --fail-on drift,down-failed,data-lost,no-down --junit roundtrip.xml --sarif roundtrip.sarif

A private PostgreSQL is made and removed; each migration runs as its own tool would run it. Exit code 0: nothing that \
--fail-on names happened. 1: something did. 2: the folder or a setup cannot be used. 5: no PostgreSQL, or it failed.";

/// `fulldress roundtrip`
#[derive(Debug, Args)]
pub struct Roundtrip {
    /// Folder of the migrations
    pub dir: PathBuf,
    /// Whose history it is [default: what its files speak for, which is printed]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub layout: Option<Layout>,
    /// Exit with code 1 when one of these happens [default: up-failed,down-failed,drift,data-lost,reapply-failed]
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = requirement())]
    pub fail_on: Vec<String>,
    /// Compare schemas only: make no rows
    #[arg(long)]
    pub no_data: bool,
    /// Rows for each table that has none
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rows: u64,
    /// What the rows are made from: equal seeds give equal rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The first migration that is walked, by its name or number; those before it are only applied
    #[arg(long, value_name = "ID")]
    pub from: Option<String>,
    /// The last one; those behind it are left out
    #[arg(long, value_name = "ID")]
    pub to: Option<String>,
    /// What production has before the first migration: a file for psql; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub setup: Vec<PathBuf>,
    /// Run the migrations as a superuser, for those that need one; they can then run programs as the server's user
    #[arg(long)]
    pub superuser: bool,
    /// Version of PostgreSQL, or folder of its programs [default: PATH, else the distribution's newest]
    #[arg(long, value_name = "VERSION")]
    pub postgres: Option<String>,
    /// Write a test case a migration, JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write what failed as code annotations, SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
    /// Print nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress package`
#[derive(Debug, Subcommand)]
pub enum Package {
    /// Make the zip from a source folder, with a SHA-256 for every entry
    Build {
        /// Folder with manifest.toml
        folder: PathBuf,
        /// Where to write it [default: <folder's name>.zip]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Open a package safely and list what it would do
    Inspect {
        /// The zip or a source folder
        package: PathBuf,
        /// How it is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// `fulldress report`
#[derive(Debug, Args)]
pub struct Report {
    /// The bundle
    pub bundle: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress compare`
#[derive(Debug, Args)]
pub struct Compare {
    /// Bundles, or their report.json files
    #[arg(required = true, num_args = 2..)]
    pub bundles: Vec<PathBuf>,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress checks`
#[derive(Debug, Args)]
pub struct Checks {
    /// How they are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Stop and delete what killed rehearsals left on this machine
    #[arg(long)]
    pub clean: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `fulldress completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
