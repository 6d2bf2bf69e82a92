//! The inventory: what production is known to have, as far as preflight and the mirror need it.
//!
//! Written by people or taken from production; read by preflight (what may a script name?) and by the mirror
//! (which files and hosts must stand in?).

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::document::{Document, DocumentError};
pub use crate::package::manifest::ConfigKey;

/// Format of the inventory.
pub const SCHEMA: &str = "fulldress/inventory/1";
/// An inventory is written by people; beyond this it is another file by mistake.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What production is known to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The inventory's file; sources are relative to its folder.
    pub path: PathBuf,
    /// Name of the product.
    pub product: String,
    /// Version that runs.
    pub installed: String,
    /// Known direct upgrades, from and to.
    pub paths: Vec<[String; 2]>,
    /// systemd units.
    pub units: Vec<Unit>,
    /// Hosts that scripts may call.
    pub hosts: Vec<Host>,
    /// Files that scripts see.
    pub files: Vec<HostFile>,
    /// Files among them that configure the product.
    pub config_files: Vec<ConfigFile>,
    /// Configuration keys with an end.
    pub config_keys: Vec<ConfigKey>,
    /// Scheduled tasks that exist.
    pub schedules: Vec<Schedule>,
    /// Users of the host.
    pub users: Vec<User>,
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Full name with its suffix.
    pub name: String,
    /// The mirror's service behind it.
    pub service: Option<String>,
    /// Whether it starts with the host.
    #[serde(default)]
    pub enabled: bool,
}

/// A host that scripts may call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name as scripts write it.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// The mirror's service that stands in.
    pub service: Option<String>,
}

/// A file of the host tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// Absolute path on the host.
    pub path: String,
    /// Where its content is, relative to the inventory.
    pub source: String,
}

/// A file that configures the product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Absolute path on the host; one of the files.
    pub path: String,
}

/// A scheduled task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Owner of the crontab.
    pub user: String,
    /// The line of crontab(5).
    pub line: String,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
}

/// Why an inventory could not be loaded.
#[derive(Debug, Error, Diagnostic)]
pub enum InventoryError {
    /// The file could not be read.
    #[error("{}: could not be read: {error}", path.display())]
    Read {
        /// The inventory or a file that it names.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The file is too large to be an inventory.
    #[error("{}: larger than {FILE_BYTES_MAX} bytes; name the inventory's TOML file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It does not say what it must.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Document(Box<DocumentError>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInventory {
    #[serde(rename = "schema")]
    _schema: String,
    product: String,
    installed: String,
    #[serde(default)]
    paths: Vec<[String; 2]>,
    #[serde(default)]
    unit: Vec<Spanned<Unit>>,
    #[serde(default)]
    host: Vec<Host>,
    #[serde(default)]
    file: Vec<Spanned<HostFile>>,
    #[serde(default)]
    config_file: Vec<Spanned<ConfigFile>>,
    #[serde(default)]
    config_key: Vec<ConfigKey>,
    #[serde(default)]
    schedule: Vec<Schedule>,
    #[serde(default)]
    user: Vec<User>,
}

impl Inventory {
    /// Loads an inventory.
    ///
    /// # Errors
    /// Returns why the file could not be read, or the first place in it that does not say what it must.
    pub fn load(path: &Path) -> Result<Self, InventoryError> {
        let unread = |error| InventoryError::Read { path: path.to_owned(), error };
        if fs::metadata(path).map_err(unread)?.len() > FILE_BYTES_MAX {
            return Err(InventoryError::TooLarge { path: path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(unread)?;
        Self::parse(&text, path).map_err(|error| InventoryError::Document(Box::new(error)))
    }

    /// Parses an inventory's text; `path` names it in errors and is where sources are looked up.
    ///
    /// # Errors
    /// Returns the first place that is not TOML, has an unknown key, a wrong type or a value without meaning.
    pub fn parse(text: &str, path: &Path) -> Result<Self, DocumentError> {
        let file = path.display().to_string();
        let document = Document { file: &file, text };
        let raw: RawInventory = document.parse(SCHEMA)?;
        for unit in &raw.unit {
            if unit_suffix(&unit.get_ref().name).is_none() {
                let message = format!("unit \"{}\" has no suffix", unit.get_ref().name.escape_debug());
                return Err(document.error(
                    unit.span(),
                    message,
                    Some("write the full name, as in \"web.service\""),
                ));
            }
        }
        for host_file in &raw.file {
            let HostFile { path, source } = host_file.get_ref();
            if !path.starts_with('/') || source.starts_with('/') {
                let hint = "`path` is absolute on the host; `source` is relative to the inventory";
                return Err(document.error(host_file.span(), "path and source are mixed up", Some(hint)));
            }
        }
        for config in &raw.config_file {
            if !raw.file.iter().any(|file| file.get_ref().path == config.get_ref().path) {
                let message = format!("config file {} is not among the files", config.get_ref().path);
                let hint = "add a [[file]] with the same path and its source";
                return Err(document.error(config.span(), message, Some(hint)));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            product: raw.product,
            installed: raw.installed,
            paths: raw.paths,
            units: raw.unit.into_iter().map(Spanned::into_inner).collect(),
            hosts: raw.host,
            files: raw.file.into_iter().map(Spanned::into_inner).collect(),
            config_files: raw.config_file.into_iter().map(Spanned::into_inner).collect(),
            config_keys: raw.config_key,
            schedules: raw.schedule,
            users: raw.user,
        })
    }

    /// Where the content of a file of the host tree is.
    #[must_use]
    pub fn source_path(&self, file: &HostFile) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(&file.source)
    }

    /// The file of the host tree with this absolute path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&HostFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// Suffixes that systemd knows; systemd.unit(5).
const UNIT_SUFFIXES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// The suffix of a unit's name; absent when systemd would append `.service`.
#[must_use]
pub fn unit_suffix(name: &str) -> Option<&str> {
    let (stem, suffix) = name.rsplit_once('.')?;
    (!stem.is_empty() && UNIT_SUFFIXES.contains(&suffix)).then_some(suffix)
}

/// Compares two versions: numbers by value, a missing part as 0, `-rc1` and the like before the plain version.
#[must_use]
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    let split = |version: &str| {
        let version = version.split('+').next().unwrap_or_default();
        let (release, pre) = version.split_once('-').map_or((version, None), |(a, b)| (a, Some(b)));
        (release.trim_start_matches('v').to_owned(), pre.map(str::to_owned))
    };
    let ((left, left_pre), (right, right_pre)) = (split(left), split(right));
    compare_parts(&left, &right).then_with(|| match (left_pre, right_pre) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => compare_parts(&left, &right),
    })
}

fn compare_parts(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        let (one, other) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (one, other) => (one.unwrap_or("0"), other.unwrap_or("0")),
        };
        let order = match (one.parse::<u64>(), other.parse::<u64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            // Numbers stand before words, as in semantic versions.
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => one.cmp(other),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::path::Path;

    use super::{Inventory, compare_versions};

    const GOOD: &str = r#"schema = "fulldress/inventory/1"
product = "storefront"
installed = "2.3"
paths = [["2.3", "2.3.5"], ["2.3.5", "2.4"]]
[[unit]]
name = "storefront-web.service"
service = "storefront"
enabled = true
[[host]]
name = "partner.example"
port = 8080
service = "partner"
[[file]]
path = "/etc/storefront/storefront.toml"
source = "host/etc/storefront/storefront.toml"
[[config_file]]
path = "/etc/storefront/storefront.toml"
[[config_key]]
key = "checkout.legacy_tax"
deprecated_in = "2.4"
removed_in = "2.5"
replacement = "checkout.tax_mode"
[[schedule]]
user = "storefront"
line = "*/15 * * * * /opt/storefront/bin/expire-carts"
[[user]]
name = "storefront"
"#;

    #[test]
    fn a_whole_inventory_is_read_and_sources_are_relative_to_it() {
        let inventory = Inventory::parse(GOOD, Path::new("plans/production.toml")).unwrap();
        assert_eq!(inventory.installed, "2.3");
        assert_eq!(inventory.units[0].service.as_deref(), Some("storefront"));
        let file = inventory.file("/etc/storefront/storefront.toml").unwrap();
        let source = inventory.source_path(file);
        assert_eq!(source, Path::new("plans/host/etc/storefront/storefront.toml"));
    }

    #[test]
    fn faults_name_file_line_and_a_way_out() {
        let cases = [
            (
                "product = \"storefront\"",
                "produkt = \"storefront\"",
                "production.toml:2: unknown field `produkt`",
            ),
            ("installed = \"2.3\"\n", "", "production.toml:1: missing field `installed`"),
            (
                "storefront-web.service",
                "storefront-web",
                "production.toml:5: unit \"storefront-web\" has no suffix",
            ),
            ("port = 8080", "port = 80800", "production.toml:11: "),
            (
                "inventory/1",
                "inventory/9",
                "production.toml:1: schema \"fulldress/inventory/9\" is not known here",
            ),
            (
                "[[file]]\npath = \"/etc/storefront/",
                "[[file]]\npath = \"/etc/shop/",
                "is not among the files",
            ),
        ];
        for (find, replace, expected) in cases {
            let text = GOOD.replacen(find, replace, 1);
            let error = Inventory::parse(&text, Path::new("production.toml")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint.is_some(), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Inventory::load(Path::new("/nonexistent/production.toml")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/production.toml: could not be read"), "{error}");
    }

    #[test]
    fn versions_compare_by_number() {
        let ascending = ["2.3-rc1", "2.3", "2.3.5", "2.4-alpha.2", "2.4-alpha.10", "2.4-beta", "2.4", "2.10"];
        for pair in ascending.windows(2) {
            assert_eq!(compare_versions(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare_versions("2.4", "v2.4.0+build7"), Ordering::Equal);
    }
}
