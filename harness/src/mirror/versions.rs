//! The PostgreSQL installations of this machine, and the one that a person means by a version or a folder.
//!
//! Called by the commands that take `--postgres`, and by `doctor`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MirrorError;
use super::cluster::Programs;
use crate::process::Launch;

/// Further folders of programs, separated as in `PATH`.
pub const FOLDERS: &str = "FULLDRESS_POSTGRES";
/// Longest that a server may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// An installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The server's own word, such as `15.14`.
    pub version: String,
    /// Folder of its programs.
    pub folder: PathBuf,
}

/// Every installation: those of `FULLDRESS_POSTGRES`, of `PATH` and of the distribution, newest last of each.
pub async fn installed() -> Vec<Installed> {
    let mut all: Vec<Installed> = Vec::new();
    let named = std::env::var_os(FOLDERS).unwrap_or_default();
    let folders = std::env::split_paths(&named).filter(|folder| !folder.as_os_str().is_empty());
    for folder in folders.chain(Programs::folders()) {
        let same = |known: &Installed| same_folder(&known.folder, &folder);
        if Programs::find(Some(&folder)).is_err() || all.iter().any(same) {
            continue;
        }
        if let Some(version) = version(&folder).await {
            all.push(Installed { version, folder });
        }
    }
    all
}

fn same_folder(left: &Path, right: &Path) -> bool {
    left == right
        || left.canonicalize().ok().zip(right.canonicalize().ok()).is_some_and(|(left, right)| left == right)
}

/// `15.14` of `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
async fn version(folder: &Path) -> Option<String> {
    let output = Launch::new(folder.join("postgres")).args(["--version"]).output(VERSION_LIMIT).await.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

/// The programs that a person means: a folder, or a version such as `16` or `16.4`.
///
/// # Errors
/// When there are none; the sentence says which there are.
pub async fn choose(typed: &str) -> Result<PathBuf, MirrorError> {
    let is_version = typed.starts_with(|first: char| first.is_ascii_digit())
        && typed.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.');
    if !is_version {
        return Programs::find(Some(Path::new(typed))).map(|programs| programs.folder);
    }
    let all = installed().await;
    let means = |one: &&Installed| one.version == typed || one.version.starts_with(&format!("{typed}."));
    // A version that is being made has no point yet: 19devel.
    let becomes = |one: &&Installed| {
        one.version
            .strip_prefix(typed)
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_alphabetic()))
    };
    if let Some(found) = all.iter().find(means).or_else(|| all.iter().find(becomes)) {
        return Ok(found.folder.clone());
    }
    let known: Vec<String> =
        all.iter().map(|one| format!("{} in {}", one.version, one.folder.display())).collect();
    let known = if known.is_empty() { "none at all".to_owned() } else { known.join(", ") };
    Err(MirrorError::new(
        format!("PostgreSQL {typed} was not found on this machine; found: {known}"),
        "install it, name its bin folder instead, or add that to FULLDRESS_POSTGRES",
    ))
}
