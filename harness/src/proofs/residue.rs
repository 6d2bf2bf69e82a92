//! Residue: effects of the upgrade that are still there after rollback.
//!
//! A [`Probe`] takes the state of one kind of thing as named values; the same probe before the upgrade and
//! after the rollback gives what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::{Difference, ResidueEvidence};
use sha2::{Digest, Sha256};

use crate::fingerprint::hex;
use crate::http;

/// State of one kind of thing: value by name.
pub type State = BTreeMap<String, String>;

/// Takes the state of one kind of thing.
pub trait Probe: Send + Sync {
    /// The check that its differences belong to.
    fn check(&self) -> CheckId;
    /// What it looks at, one word.
    fn name(&self) -> &'static str;
    /// The state now, or why it cannot be had.
    fn snapshot(&self) -> impl Future<Output = Result<State, String>> + Send;
}

/// States by probe; what could not be had is an error.
#[derive(Debug, Default)]
pub struct Snapshot(BTreeMap<CheckId, (&'static str, Result<State, String>)>);

impl Snapshot {
    /// Takes a probe's state in.
    pub async fn take(&mut self, probe: &impl Probe) {
        self.0.insert(probe.check(), (probe.name(), probe.snapshot().await));
    }

    /// What differs afterwards.
    #[must_use]
    pub fn compare(&self, after: &Self) -> ResidueEvidence {
        let mut evidence = ResidueEvidence::default();
        for (check, (name, before)) in &self.0 {
            let states = before.as_ref().map_err(Clone::clone).and_then(|before| {
                let (_, after) = after.0.get(check).ok_or("was not probed after rollback")?;
                Ok((before, after.as_ref().map_err(Clone::clone)?))
            });
            match states {
                Err(reason) => {
                    evidence.unreachable.insert(*check, reason);
                }
                Ok((before, after)) => {
                    evidence.probed.push(*check);
                    let left = differences(name, before, after);
                    if !left.is_empty() {
                        evidence.left.insert(*check, left);
                    }
                }
            }
        }
        evidence
    }
}

/// Differences between two states of one kind of thing.
pub(crate) fn differences(kind: &str, before: &State, after: &State) -> Vec<Difference> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| Difference {
            kind: kind.to_owned(),
            object: name.clone(),
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        })
        .collect()
}

/// Feature flags of a store that answers in flagd's JSON form.
pub struct FlagProbe {
    /// URL of the list.
    pub url: String,
}

impl Probe for FlagProbe {
    fn check(&self) -> CheckId {
        CheckId::RollFlag
    }

    fn name(&self) -> &'static str {
        "flag"
    }

    async fn snapshot(&self) -> Result<State, String> {
        let document = fetch(&self.url).await?;
        let flags = document
            .get("flags")
            .and_then(serde_json::Value::as_object)
            .ok_or_else(|| format!("{} does not answer with an object `flags`", self.url))?;
        Ok(flags.iter().map(|(key, flag)| (key.clone(), flag.to_string())).collect())
    }
}

/// Registrations with a third party.
pub struct WebhookProbe {
    /// URL of the list.
    pub url: String,
}

impl Probe for WebhookProbe {
    fn check(&self) -> CheckId {
        CheckId::RollWebhook
    }

    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn snapshot(&self) -> Result<State, String> {
        let document = fetch(&self.url).await?;
        let list = document
            .as_array()
            .or_else(|| document.as_object()?.values().find_map(serde_json::Value::as_array))
            .ok_or_else(|| format!("{} does not answer with a list", self.url))?;
        let mut state = State::new();
        for hook in list {
            // Ids change when the same hook is registered again; what it does is what must come back.
            let mut described = hook.clone();
            if let Some(object) = described.as_object_mut() {
                object.retain(|key, _| {
                    !matches!(key.as_str(), "id" | "created_at" | "created_at_ms" | "updated_at")
                });
            }
            let name = hook.get("url").and_then(serde_json::Value::as_str).unwrap_or("(no url)").to_owned();
            let value = state.entry(name).or_default();
            if !value.is_empty() {
                value.push('\n');
            }
            value.push_str(&described.to_string());
        }
        Ok(state)
    }
}

async fn fetch(url: &str) -> Result<serde_json::Value, String> {
    let answer = http::get(url, Duration::from_secs(5)).await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{url} answered with status {}", answer.status));
    }
    answer.json().ok_or_else(|| format!("{url} did not answer with JSON"))
}

/// A state that the mirror's host tells: units, scheduled tasks, files.
pub struct HostProbe {
    /// The check.
    pub check: CheckId,
    /// One word.
    pub name: &'static str,
    /// The state now, or why it cannot be had.
    pub state: Result<State, String>,
}

impl Probe for HostProbe {
    fn check(&self) -> CheckId {
        self.check
    }

    fn name(&self) -> &'static str {
        self.name
    }

    async fn snapshot(&self) -> Result<State, String> {
        self.state.clone()
    }
}

/// Files below a root as a probe names them: content and mode, by path from the root.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn file_states(root: &Path) -> std::io::Result<State> {
    let mut state = State::new();
    walk(root, root, &mut state)?;
    Ok(state)
}

/// A file as a probe names it; `mode` has the permission bits.
#[must_use]
pub fn file_state(mode: u32, digest: &[u8]) -> String {
    format!("file mode {mode:o} sha256 {}", &hex(digest)[..16])
}

/// Whether hosts empty a folder by themselves, so that what is in it is no residue.
#[must_use]
pub fn is_unwatched(path: &str) -> bool {
    UNWATCHED
        .iter()
        .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Folders that hosts empty by themselves.
const UNWATCHED: [&str; 2] = ["/tmp", "/var/tmp"];

fn walk(root: &Path, folder: &Path, state: &mut State) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let data = std::fs::symlink_metadata(&path)?;
        let name = format!("/{}", path.strip_prefix(root).unwrap_or(&path).display());
        if is_unwatched(&name) {
            continue;
        }
        let mode = data.permissions().mode() & 0o7777;
        if data.is_dir() {
            state.insert(name, format!("folder mode {mode:o}"));
            walk(root, &path, state)?;
        } else if data.is_symlink() {
            state.insert(name, format!("link to {}", std::fs::read_link(&path)?.display()));
        } else if data.is_file() {
            state.insert(name, file_state(mode, &Sha256::digest(std::fs::read(&path)?)));
        } else {
            state.insert(name, format!("special file mode {mode:o}"));
        }
    }
    Ok(())
}
