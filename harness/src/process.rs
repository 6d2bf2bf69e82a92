//! The only place that starts and stops anything: every child is started here, in a process group of its own,
//! and dies with us.
//!
//! Called by the mirror, the step runner and the proofs; tells nobody but its caller. [`RunFolder`] remembers
//! what runs, so that the next start can end what a SIGKILL of ours left behind.

mod launch;
mod run_folder;
mod user;

pub use launch::{Child, Input, Launch, Output, Sink, run_to_end};
pub use run_folder::{RunFolder, StateError};
pub use user::{User, unprivileged_user};

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why something could not be started or waited for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not on this machine.
    #[error("find the program `{program}`: {remedy}")]
    Missing {
        /// As it was asked for.
        program: String,
        /// What to install or to correct.
        remedy: String,
    },
    /// The kernel refused to start it.
    #[error("start `{program}`: {source}")]
    Start {
        /// As it was asked for.
        program: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A file or pipe for its input or output could not be made.
    #[error("connect {stream} of `{program}`: {source}; check that the folder exists and is writable")]
    Stream {
        /// As it was asked for.
        program: String,
        /// Which stream, and its file when it is one.
        stream: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The kernel refused to tell how it ended.
    #[error("wait for `{program}`: {source}")]
    Wait {
        /// As it was asked for.
        program: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Debian's package of each program that a rehearsal may call.
const PACKAGES: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("bwrap", "bubblewrap"),
    ("curl", "curl"),
    ("docker", "docker.io"),
    ("initdb", "postgresql"),
    ("mmdebstrap", "mmdebstrap"),
    ("openssl", "openssl"),
    ("pg_basebackup", "postgresql"),
    ("pg_ctl", "postgresql"),
    ("pg_dump", "postgresql-client"),
    ("pg_dumpall", "postgresql-client"),
    ("pg_restore", "postgresql-client"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("setpriv", "util-linux"),
];

/// Looks a program up in `PATH` and in the system folders that an ordinary user's `PATH` leaves out. A name with
/// a slash is a path.
///
/// # Errors
/// [`ProcessError::Missing`] names the Debian package to install.
pub fn find_program(program: &OsStr) -> Result<PathBuf, ProcessError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_program_in(program, &path)
}

fn find_program_in(program: &OsStr, path: &OsStr) -> Result<PathBuf, ProcessError> {
    if program.as_encoded_bytes().contains(&b'/') {
        let file = PathBuf::from(program);
        return if is_executable(&file) { Ok(file) } else { Err(missing(program)) };
    }
    std::env::split_paths(path)
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
        .ok_or_else(|| missing(program))
}

fn missing(program: &OsStr) -> ProcessError {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let remedy = match PACKAGES.iter().find(|(known, _)| *known == name) {
        Some((_, package)) => format!("install Debian's package `{package}` or put the program on PATH"),
        None => "there is no such executable file; check the name and PATH".to_owned(),
    };
    ProcessError::Missing { program: program.to_string_lossy().into_owned(), remedy }
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Replaces this process. For the shims, which are the sandbox's own side and hold nothing to clean up.
///
/// Returns only when the kernel refused.
#[must_use]
pub fn replace_with(program: &Path, args: &[OsString], env: &[(OsString, OsString)]) -> io::Error {
    #[expect(clippy::disallowed_methods, reason = "this module is the one that starts programs")]
    let mut command = std::process::Command::new(program);
    command.args(args).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.exec()
}

/// Runs a program in the foreground with our own streams and waits for it. For the sandbox's first process, whose
/// end ends everything in its process namespace.
///
/// # Errors
/// The kernel's word when the program cannot be started.
pub fn run_in_foreground(program: &OsStr, args: &[OsString]) -> io::Result<ExitStatus> {
    #[expect(clippy::disallowed_methods, reason = "this module is the one that starts programs")]
    let mut command = std::process::Command::new(program);
    command.args(args).status()
}

/// A shell's view of how a process ended: its exit code, or 128 plus the signal.
#[must_use]
pub fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{PACKAGES, find_program_in};

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        for (program, package) in PACKAGES {
            let Err(error) = find_program_in(OsStr::new(&format!("/nowhere/{program}")), OsStr::new(""))
            else {
                panic!("{program} was found in a folder that does not exist");
            };
            let text = error.to_string();
            assert!(text.contains(program) && text.contains(&format!("`{package}`")), "{text}");
        }
    }

    #[test]
    fn a_plain_file_is_no_program() {
        assert!(find_program_in(OsStr::new("/etc/passwd"), OsStr::new("")).is_err());
        assert!(find_program_in(OsStr::new("sh"), OsStr::new("")).is_ok());
    }
}
