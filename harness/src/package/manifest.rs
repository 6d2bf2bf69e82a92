//! The package's manifest, `manifest.toml`: parsed into what it means, every unknown key refused.
//!
//! Two steps: the raw document (only what was written, with its spans), then the typed steps. Preflight and the
//! upgrade runner see only the typed ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use fulldress_reports::evidence::StepKind;
use serde::Deserialize;
use toml::Spanned;

use crate::document::{Document, DocumentError};

/// Format of the manifest.
pub const SCHEMA: &str = "fulldress/package/1";
const TIMEOUT_DEFAULT_S: i64 = 300;
const RETRY_PAUSE_DEFAULT_MS: i64 = 200;
/// A day: a step that needs longer is not an upgrade that waits for its steps.
const TIMEOUT_MAX_S: i64 = 86_400;
const RETRIES_MAX: i64 = 1_000;
const STEPS_MAX: usize = 1_000;

/// What a package says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name of the package.
    pub name: String,
    /// Version that it upgrades from.
    pub from: String,
    /// Version that it upgrades to.
    pub to: String,
    /// Stops on the way that the package contains, in order.
    pub via: Vec<String>,
    /// How the package goes back.
    pub rollback: RollbackMethod,
    /// Configuration keys that this version deprecates or removes.
    pub config_keys: Vec<ConfigKey>,
    /// Steps in the order in which they run.
    pub steps: Vec<Step>,
    /// SHA-256 of every file but the manifest, lower-case hexadecimal, by name; empty in a source folder.
    pub entries: BTreeMap<String, String>,
}

/// A configuration key with an end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigKey {
    /// Dotted key.
    pub key: String,
    /// First version that warns about it.
    pub deprecated_in: Option<String>,
    /// First version that no longer knows it.
    pub removed_in: Option<String>,
    /// Key that takes its place.
    pub replacement: Option<String>,
}

/// How a package goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackMethod {
    /// The steps' rollbacks, last step first.
    #[default]
    Down,
    /// The database snapshot from before is restored.
    Restore,
}

/// One step of the upgrade.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Unique in the package: lower-case letters, digits, dots and hyphens.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// How long it may take, all tries together.
    pub timeout: Duration,
    /// What follows when it fails.
    pub on_failure: OnFailure,
    /// Its way back; absent when it declares none.
    pub rollback: Option<Rollback>,
    /// Line in the manifest.
    pub line: u32,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Runs a file of SQL.
    Sql {
        /// File in the package.
        file: String,
        /// Further tries after a failure.
        retries: u32,
        /// Pause before each further try.
        retry_pause: Duration,
    },
    /// Runs a script on the host.
    Script {
        /// File in the package.
        file: String,
        /// Further tries after a failure.
        retries: u32,
        /// Pause before each further try.
        retry_pause: Duration,
    },
    /// Brings a service to a version.
    Service {
        /// Service of the mirror.
        service: String,
        /// Version that runs afterwards.
        version: String,
    },
    /// Changes keys of a configuration file.
    Config {
        /// Absolute path on the host.
        file: String,
        /// Values by dotted key; tables of the manifest are flattened.
        set: BTreeMap<String, toml::Value>,
        /// Dotted keys that are removed.
        unset: Vec<String>,
    },
}

/// A step's way back.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollback {
    /// What it does.
    pub action: RollbackAction,
    /// How long it may take, all tries together.
    pub timeout: Duration,
}

/// What a rollback does.
#[derive(Debug, Clone, PartialEq)]
pub enum RollbackAction {
    /// An action of the step's own kind.
    Run(Action),
    /// The configuration file comes back as it was before the step.
    RestoreConfig {
        /// Absolute path on the host.
        file: String,
    },
}

/// What follows a failed step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The next step runs.
    Continue,
    /// The upgrade ends and the rollback begins.
    #[default]
    Rollback,
}

impl Action {
    /// Kind of the step, as the bundle names it.
    #[must_use]
    pub const fn kind(&self) -> StepKind {
        match self {
            Self::Sql { .. } => StepKind::Sql,
            Self::Script { .. } => StepKind::Script,
            Self::Service { .. } => StepKind::Service,
            Self::Config { .. } => StepKind::Config,
        }
    }

    /// The file of the package that it runs.
    #[must_use]
    pub fn package_file(&self) -> Option<&str> {
        match self {
            Self::Sql { file, .. } | Self::Script { file, .. } => Some(file),
            Self::Service { .. } | Self::Config { .. } => None,
        }
    }
}

impl Step {
    /// The file of the package that its rollback runs.
    #[must_use]
    pub fn rollback_file(&self) -> Option<&str> {
        match &self.rollback.as_ref()?.action {
            RollbackAction::Run(action) => action.package_file(),
            RollbackAction::RestoreConfig { .. } => None,
        }
    }
}

impl Manifest {
    /// Parses a manifest; `file` names it in errors.
    ///
    /// # Errors
    /// Returns the first place that is not TOML, has an unknown key, a wrong type or a value without meaning.
    pub fn parse(text: &str, file: &str) -> Result<Self, DocumentError> {
        let document = Document { file, text };
        let raw: RawManifest = document.parse(SCHEMA)?;
        for (what, written) in [("name", &raw.name), ("from", &raw.from), ("to", &raw.to)] {
            if !is_plain(written.get_ref()) {
                let message = format!("`{what}` must be letters, digits and `.`, `-`, `_` or `+`");
                return Err(document.error(written.span(), message, None));
            }
        }
        if raw.step.len() > STEPS_MAX {
            return Err(document.error(0..0, format!("more than {STEPS_MAX} steps"), None));
        }
        let mut ids = BTreeSet::new();
        let mut steps = Vec::with_capacity(raw.step.len());
        for step in raw.step {
            let span = step.id.span();
            let step = Reading { document, id: step.id.get_ref().clone() }.step(step)?;
            if !ids.insert(step.id.clone()) {
                let message = format!("step id \"{}\" is used twice", step.id);
                return Err(document.error(span, message, Some("give every step an id of its own")));
            }
            steps.push(step);
        }
        Ok(Self {
            name: raw.name.into_inner(),
            from: raw.from.into_inner(),
            to: raw.to.into_inner(),
            via: raw.via,
            rollback: raw.rollback.map(|rollback| rollback.method).unwrap_or_default(),
            config_keys: raw.config_key,
            steps,
            entries: entries(document, raw.entries)?,
        })
    }

    /// Requires that every file that a step names is in the package.
    ///
    /// # Errors
    /// Returns the first file that is not, at its place in the manifest's text.
    pub fn require_files(
        &self,
        text: &str,
        file: &str,
        exists: impl Fn(&str) -> bool,
    ) -> Result<(), DocumentError> {
        let document = Document { file, text };
        let named = self.steps.iter().flat_map(|step| {
            [step.action.package_file(), step.rollback_file()]
                .into_iter()
                .flatten()
                .map(move |name| (step, name))
        });
        for (step, name) in named {
            if !exists(name) {
                let start = text.find(name).unwrap_or(0);
                let message =
                    format!("step \"{}\" names {name}, which the package does not contain", step.id);
                let hint = "add the file, or correct the path: it is relative to the manifest";
                return Err(document.error(start..start + name.len(), message, Some(hint)));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(rename = "schema")]
    _schema: String,
    name: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
    #[serde(default)]
    via: Vec<String>,
    rollback: Option<RawRollbackMethod>,
    #[serde(default)]
    config_key: Vec<ConfigKey>,
    #[serde(default)]
    step: Vec<RawStep>,
    #[serde(default)]
    entries: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRollbackMethod {
    method: RollbackMethod,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Sql,
    Script,
    Service,
    Config,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    id: Spanned<String>,
    kind: Kind,
    timeout_s: Option<Spanned<i64>>,
    #[serde(default)]
    on_failure: OnFailure,
    file: Option<Spanned<String>>,
    retries: Option<Spanned<i64>>,
    retry_pause_ms: Option<Spanned<i64>>,
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    set: Option<Spanned<toml::Table>>,
    unset: Option<Spanned<Vec<String>>>,
    rollback: Option<Spanned<RawRollback>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRollback {
    timeout_s: Option<Spanned<i64>>,
    file: Option<Spanned<String>>,
    retries: Option<Spanned<i64>>,
    retry_pause_ms: Option<Spanned<i64>>,
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    set: Option<Spanned<toml::Table>>,
    unset: Option<Spanned<Vec<String>>>,
    restore: Option<Spanned<bool>>,
}

/// The fields that say what an action does, of a step or of its rollback.
struct Fields {
    place: Range<usize>,
    file: Option<Spanned<String>>,
    retries: Option<Spanned<i64>>,
    retry_pause_ms: Option<Spanned<i64>>,
    service: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    set: Option<Spanned<toml::Table>>,
    unset: Option<Spanned<Vec<String>>>,
}

/// One step on its way from the document to its meaning.
struct Reading<'text> {
    document: Document<'text>,
    id: String,
}

impl Reading<'_> {
    fn error(&self, span: Range<usize>, message: &str, hint: Option<&str>) -> DocumentError {
        self.document.error(span, format!("step \"{}\": {message}", self.id.escape_debug()), hint)
    }

    fn step(&self, raw: RawStep) -> Result<Step, DocumentError> {
        let place = raw.id.span();
        let sane = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '.' | '-');
        if self.id.is_empty() || self.id.len() > 64 || !self.id.chars().all(sane) {
            let hint = "use 1 to 64 lower-case letters, digits, dots and hyphens";
            return Err(self.error(place, "the id cannot be used in file names and reports", Some(hint)));
        }
        let fields = Fields {
            place: place.clone(),
            file: raw.file,
            retries: raw.retries,
            retry_pause_ms: raw.retry_pause_ms,
            service: raw.service,
            version: raw.version,
            set: raw.set,
            unset: raw.unset,
        };
        let timeout = self.timeout(raw.timeout_s)?;
        let action = self.action(raw.kind, fields, None)?;
        let rollback = match raw.rollback {
            Some(rollback) => Some(self.rollback(raw.kind, rollback, &action, timeout)?),
            None => None,
        };
        let line = crate::document::line_of(self.document.text, place.start);
        Ok(Step { id: self.id.clone(), action, timeout, on_failure: raw.on_failure, rollback, line })
    }

    fn rollback(
        &self,
        kind: Kind,
        raw: Spanned<RawRollback>,
        step: &Action,
        timeout: Duration,
    ) -> Result<Rollback, DocumentError> {
        let place = raw.span();
        let raw = raw.into_inner();
        // A way back that declares no time of its own may take as long as the way there.
        let timeout = if raw.timeout_s.is_some() { self.timeout(raw.timeout_s)? } else { timeout };
        let fields = Fields {
            place,
            file: raw.file,
            retries: raw.retries,
            retry_pause_ms: raw.retry_pause_ms,
            service: raw.service,
            version: raw.version,
            set: raw.set,
            unset: raw.unset,
        };
        let Some(restore) = raw.restore else {
            return Ok(Rollback {
                action: RollbackAction::Run(self.action(kind, fields, Some(step))?),
                timeout,
            });
        };
        let Action::Config { file, .. } = step else {
            return Err(self.error(restore.span(), "`restore` is for steps of kind \"config\"", None));
        };
        if !restore.get_ref() || fields.file.is_some() || fields.set.is_some() || fields.unset.is_some() {
            let hint = "write `rollback = { restore = true }`, or `set` and `unset` without `restore`";
            return Err(self.error(restore.span(), "`restore` must be true and stand alone", Some(hint)));
        }
        self.refuse_others(kind, &fields)?;
        Ok(Rollback { action: RollbackAction::RestoreConfig { file: file.clone() }, timeout })
    }

    /// `step` is the action that a rollback undoes; the rollback takes service and file from it.
    fn action(&self, kind: Kind, fields: Fields, step: Option<&Action>) -> Result<Action, DocumentError> {
        self.refuse_others(kind, &fields)?;
        match kind {
            Kind::Sql | Kind::Script => {
                let file = self.package_path(fields.file, fields.place)?;
                let retries = self.whole(fields.retries, "retries", 0, 0..=RETRIES_MAX)?;
                let pause = fields.retry_pause_ms;
                let pause = self.whole(pause, "retry_pause_ms", RETRY_PAUSE_DEFAULT_MS, 0..=600_000)?;
                let retries = u32::try_from(retries).unwrap_or(u32::MAX);
                let retry_pause = Duration::from_millis(pause);
                Ok(match kind {
                    Kind::Sql => Action::Sql { file, retries, retry_pause },
                    _ => Action::Script { file, retries, retry_pause },
                })
            }
            Kind::Service => {
                let inherited = match step {
                    Some(Action::Service { service, .. }) => Some(service.clone()),
                    _ => None,
                };
                let service = match (fields.service, inherited) {
                    (Some(written), _) => self.plain(written, "service")?,
                    (None, Some(service)) => service,
                    (None, None) => return Err(self.missing("service", fields.place)),
                };
                let Some(version) = fields.version else {
                    return Err(self.missing("version", fields.place));
                };
                Ok(Action::Service { service, version: self.plain(version, "version")? })
            }
            Kind::Config => self.config(fields, step),
        }
    }

    fn config(&self, fields: Fields, step: Option<&Action>) -> Result<Action, DocumentError> {
        let inherited = match step {
            Some(Action::Config { file, .. }) => Some(file.clone()),
            _ => None,
        };
        let file = match (fields.file, inherited) {
            (Some(written), _) => self.host_path(written)?,
            (None, Some(file)) => file,
            (None, None) => return Err(self.missing("file", fields.place)),
        };
        let mut set = BTreeMap::new();
        if let Some(table) = fields.set {
            flatten("", table.into_inner(), &mut set);
        }
        let unset = fields.unset.map(Spanned::into_inner).unwrap_or_default();
        if set.is_empty() && unset.is_empty() {
            return Err(self.error(fields.place, "neither `set` nor `unset` names a key", None));
        }
        Ok(Action::Config { file, set, unset })
    }

    fn refuse_others(&self, kind: Kind, fields: &Fields) -> Result<(), DocumentError> {
        let runs = matches!(kind, Kind::Sql | Kind::Script);
        let written = [
            ("file", fields.file.as_ref().map(Spanned::span), runs || kind == Kind::Config),
            ("retries", fields.retries.as_ref().map(Spanned::span), runs),
            ("retry_pause_ms", fields.retry_pause_ms.as_ref().map(Spanned::span), runs),
            ("service", fields.service.as_ref().map(Spanned::span), kind == Kind::Service),
            ("version", fields.version.as_ref().map(Spanned::span), kind == Kind::Service),
            ("set", fields.set.as_ref().map(Spanned::span), kind == Kind::Config),
            ("unset", fields.unset.as_ref().map(Spanned::span), kind == Kind::Config),
        ];
        for (name, span, belongs) in written {
            if let (Some(span), false) = (span, belongs) {
                let message = format!("`{name}` has no meaning in a step of this kind");
                return Err(self.error(span, &message, Some("remove it, or correct `kind`")));
            }
        }
        Ok(())
    }

    fn missing(&self, field: &str, place: Range<usize>) -> DocumentError {
        self.error(place, &format!("`{field}` is missing"), Some("add it; it has no default"))
    }

    fn timeout(&self, written: Option<Spanned<i64>>) -> Result<Duration, DocumentError> {
        self.whole(written, "timeout_s", TIMEOUT_DEFAULT_S, 1..=TIMEOUT_MAX_S).map(Duration::from_secs)
    }

    fn whole(
        &self,
        written: Option<Spanned<i64>>,
        field: &str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<u64, DocumentError> {
        let value = written.as_ref().map_or(default, |value| *value.get_ref());
        // Every range starts at 0 or above, so a value inside it is never negative.
        if let (true, Ok(value)) = (range.contains(&value), u64::try_from(value)) {
            return Ok(value);
        }
        let message = format!("`{field}` must be between {} and {}", range.start(), range.end());
        Err(self.error(written.map_or(0..0, |value| value.span()), &message, None))
    }

    fn plain(&self, written: Spanned<String>, field: &str) -> Result<String, DocumentError> {
        if is_plain(written.get_ref()) {
            return Ok(written.into_inner());
        }
        let message = format!("`{field}` must be letters, digits and `.`, `-`, `_` or `+`");
        Err(self.error(written.span(), &message, None))
    }

    fn package_path(
        &self,
        written: Option<Spanned<String>>,
        place: Range<usize>,
    ) -> Result<String, DocumentError> {
        let written = written.ok_or_else(|| self.missing("file", place))?;
        let segments_sane = written.get_ref().split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if segments_sane && !written.get_ref().contains('\\') {
            return Ok(written.into_inner());
        }
        let hint = "write it relative to the manifest, as in \"scripts/restart.sh\"";
        Err(self.error(written.span(), "`file` must stay inside the package", Some(hint)))
    }

    fn host_path(&self, written: Spanned<String>) -> Result<String, DocumentError> {
        let rest = written.get_ref().strip_prefix('/');
        if rest.is_some_and(|rest| rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))) {
            return Ok(written.into_inner());
        }
        let hint = "write it as on the host, as in \"/etc/storefront/storefront.toml\"";
        Err(self.error(written.span(), "`file` must be an absolute path on the host", Some(hint)))
    }
}

/// Letters, digits and a few joints, as names and versions have them.
fn is_plain(text: &str) -> bool {
    let sane = |character: char| character.is_ascii_alphanumeric() || ".-_+".contains(character);
    !text.is_empty() && text.len() <= 100 && text.chars().all(sane)
}

/// `set = { a.b = 1 }` and `set = { "a.b" = 1 }` mean the same key.
fn flatten(prefix: &str, table: toml::Table, into: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, into),
            value => {
                into.insert(key, value);
            }
        }
    }
}

fn entries(
    document: Document<'_>,
    raw: BTreeMap<String, Spanned<String>>,
) -> Result<BTreeMap<String, String>, DocumentError> {
    let mut entries = BTreeMap::new();
    for (name, digest) in raw {
        let hex = digest.get_ref().strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let hint = "build the package with `fulldress package build`, which writes the digests";
            let message = format!("the digest of \"{}\" is not `sha256:` and 64 digits", name.escape_debug());
            return Err(document.error(digest.span(), message, Some(hint)));
        }
        entries.insert(name, hex.to_owned());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
