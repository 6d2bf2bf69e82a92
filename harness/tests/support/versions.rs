//! Which PostgreSQL there is on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders of PostgreSQL's programs by major version: the distribution's, and those that `.ci/prerequisites` fetched.
pub(crate) fn versions() -> BTreeMap<u32, PathBuf> {
    let mut folders = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for base in [Path::new("/usr/lib/postgresql"), &root.join("target/postgresql")] {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(version) = version.filter(|_| entry.path().join("bin/initdb").is_file()) {
                if !others_may_enter(&entry.path().join("bin")) {
                    println!("skipped: the server's user may not enter {}", entry.path().display());
                    continue;
                }
                folders.entry(version).or_insert_with(|| entry.path().join("bin"));
            }
        }
    }
    for wanted in [15, 16, 18] {
        if !folders.contains_key(&wanted) {
            println!("skipped: PostgreSQL {wanted} is not on this machine");
        }
    }
    assert!(!folders.is_empty(), "no PostgreSQL at all");
    folders
}

/// Whether every folder on the way lets any user pass: the server does not run as root.
fn others_may_enter(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder.canonicalize().unwrap();
    folder.ancestors().all(|path| path.metadata().unwrap().permissions().mode() & 0o001 != 0)
}
