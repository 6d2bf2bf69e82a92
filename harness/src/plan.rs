//! The plan: `rehearsal.toml`, parsed and validated before anything starts.
//!
//! Raw types only say what a person typed; [`Plan::read`] resolves paths against the plan's folder and checks
//! what single keys cannot show. `fulldress init` writes [`TEMPLATE`].

mod actors;
mod mirror;
mod rollback;
mod traffic;
mod trials;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fulldress_reports::check::{CheckId, CheckSetting};
use fulldress_reports::evidence::Limits;
use fulldress_reports::finding::Waiver;
use serde::Deserialize;

pub use self::actors::{Actors, Analyze, IdleTransaction, LongReader};
pub use self::mirror::{Database, Dataset, Mirror, MirrorKind, Service, ServiceRole};
pub use self::rollback::{Data, Holds, Invariant, Ledger, Residue, Rollback, RollbackMethod};
pub use self::traffic::{Objectives, Phases, Traffic};
pub use self::trials::{DoubleRun, Faults, MigrationLock};
use crate::document::{Document, DocumentError};

/// Schema that this version reads.
pub const SCHEMA: &str = "fulldress/plan/1";

/// The commented plan that `fulldress init` writes.
pub const TEMPLATE: &str = include_str!("plan_template.toml");

/// A rehearsal's plan; paths are absolute after [`Plan::read`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `fulldress/plan/1`.
    pub schema: String,
    /// Name of the rehearsal; part of the bundle's folder name.
    pub name: String,
    /// How much is proven.
    #[serde(default)]
    pub profile: Profile,
    /// Seed of every random choice.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The package: a zip, or a source folder.
    pub package: PathBuf,
    /// What production is known to have.
    pub inventory: PathBuf,
    /// The environment under test.
    pub mirror: Mirror,
    /// Traffic.
    pub traffic: Traffic,
    /// Lengths of the phases.
    #[serde(default)]
    pub phases: Phases,
    /// The way back.
    #[serde(default)]
    pub rollback: Rollback,
    /// The lock that migrating sessions must hold.
    #[serde(default)]
    pub migration_lock: MigrationLock,
    /// The trial of two runners.
    #[serde(default)]
    pub double_run: DoubleRun,
    /// Faults inside the upgrade, on clones.
    #[serde(default)]
    pub faults: Faults,
    /// What else lives in production's database.
    #[serde(default)]
    pub actors: Actors,
    /// Where effects of the upgrade could be left.
    #[serde(default)]
    pub residue: Residue,
    /// Second witness of acknowledged writes.
    #[serde(default)]
    pub ledger: Ledger,
    /// What must hold in the data, whatever the package does.
    #[serde(default, rename = "invariant")]
    pub invariants: Vec<Invariant>,
    /// Data that must come back.
    #[serde(default)]
    pub data: Data,
    /// Environment of the package's scripts, beside the database's address.
    #[serde(default)]
    pub script_environment: BTreeMap<String, String>,
    /// Objectives of the service.
    #[serde(default)]
    pub objectives: Objectives,
    /// Limits of checks, by id.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckSetting>,
    /// What this rehearsal leaves out beside what none covers, one phrase each; stands in the report.
    #[serde(default)]
    pub not_rehearsed: Vec<String>,
    /// Accepted findings.
    #[serde(default, rename = "waiver")]
    pub waivers: Vec<Waiver>,
    /// The plan's own file; filled in by [`Plan::read`].
    #[serde(skip)]
    pub file: PathBuf,
}

const fn default_seed() -> u64 {
    20_240_101
}

/// How much is proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The phases and the quick proofs.
    #[default]
    Quick,
    /// Every proof, as a night allows it.
    Nightly,
}

impl Profile {
    /// The word of files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Nightly => "nightly",
        }
    }
}

/// Why a plan cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", file.display())]
    #[diagnostic(help("`fulldress init` writes a plan to start from"))]
    Unreadable {
        /// The plan.
        file: PathBuf,
        /// The kernel's word.
        error: std::io::Error,
    },
    /// It does not say what it must.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Document(#[from] Box<DocumentError>),
}

impl Plan {
    /// Reads and validates a plan.
    ///
    /// # Errors
    /// With file, line and a hint.
    pub fn read(file: &Path) -> Result<Self, PlanError> {
        let unreadable = |error| PlanError::Unreadable { file: file.to_owned(), error };
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        let name = file.display().to_string();
        let document = Document { file: &name, text: &text };
        let mut plan: Self = document.parse(SCHEMA).map_err(Box::new)?;
        plan.file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = plan.folder();
        for path in [&mut plan.package, &mut plan.inventory, &mut plan.traffic.workload] {
            *path = folder.join(&*path);
        }
        let mirror = &mut plan.mirror;
        let optional = [
            &mut mirror.postgres,
            &mut mirror.compose,
            &mut mirror.dataset.dump,
            &mut mirror.dataset.data_folder,
        ];
        for path in optional.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        plan.validate(document).map_err(Box::new)?;
        Ok(plan)
    }

    /// The plan's folder: what relative paths in it start from.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.file.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// What the evidence is held against.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let named = self.checks.iter();
        let mut checks: BTreeMap<CheckId, CheckSetting> =
            named.filter_map(|(id, setting)| CheckId::parse(id).map(|id| (id, setting.clone()))).collect();
        if self.invariants.is_empty() {
            // There is nothing that could be read, and no plan must wait for it.
            checks.entry(CheckId::RollInvariant).or_default().required.get_or_insert(false);
        }
        Limits {
            checks,
            latency_ms: self.objectives.latency_ms,
            latency_changing_ms: self.objectives.latency_changing_ms,
            availability_percent: self.objectives.availability_percent,
            production_rate_per_s: self.objectives.production_rate_per_s,
            production_rows: self.objectives.production_rows.clone(),
            scale_percent: self.objectives.scale_percent,
            waivers: self.waivers.clone(),
        }
    }

    /// The service of a name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.mirror.services.iter().find(|service| service.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::{Actors, Plan, RollbackMethod};
    use fulldress_workloads::file::Workload;

    fn read(text: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rehearsal.toml");
        std::fs::write(&file, text).unwrap();
        Plan::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn the_template_is_a_valid_plan() {
        let plan = read(super::TEMPLATE).unwrap();
        assert!(plan.package.is_absolute());
        let Actors { long_reader, idle_transaction, analyze } = plan.actors;
        assert!(long_reader.enabled && idle_transaction.enabled && analyze.enabled, "production has them");
    }

    #[test]
    fn a_way_back_is_a_word_or_a_list() {
        let method = |line: &str| {
            let plan = super::TEMPLATE.replacen("[rollback]", &format!("[rollback]\n{line}"), 1);
            read(&plan).unwrap().rollback.method
        };
        assert_eq!(method(""), [RollbackMethod::Declared]);
        assert_eq!(method("method = \"restore\""), [RollbackMethod::Restore]);
        assert_eq!(
            method("method = [\"restore\", \"down\"]"),
            [RollbackMethod::Restore, RollbackMethod::Down]
        );
    }

    #[test]
    fn traffic_has_somewhere_to_go() {
        let workload = |step: &str| {
            let text = format!(
                "schema = \"fulldress/workload/1\"\nname = \"w\"\n[[scenario]]\nname = \"s\"\n\
                 model = \"arrivals\"\nrate_per_s = 1\n{step}"
            );
            Workload::parse("w.toml", &text).unwrap()
        };
        let http = workload("[[scenario.step]]\nroute = \"r\"\nmethod = \"GET\"\npath = \"/\"\n");
        let sql =
            workload("database = \"app\"\n[[scenario.step]]\nroute = \"r\"\nstatement = \"SELECT 1\"\n");
        let plan = |line: &str| read(&super::TEMPLATE.replacen("target = \"shop\"", line, 1)).unwrap();
        assert_eq!(plan("target = \"shop\"").check_workload(&http), Ok(()));
        assert!(plan("").check_workload(&http).unwrap_err().contains("traffic.target is not there"));
        assert_eq!(plan("database = { app = \"shop\" }").check_workload(&sql), Ok(()));
        assert!(plan("").check_workload(&sql).unwrap_err().contains("traffic.database.app is not there"));
    }

    #[test]
    fn faults_name_their_line() {
        let cases = [
            ("[phases]", "[phases]\nwarmup = 3", "unknown field `warmup`"),
            ("target = \"shop\"", "target = \"nobody\"", "names `nobody`, which is no service"),
            ("target = \"shop\"", "database = { app = \"nobody\" }", "names the role `nobody`"),
            ("[checks]", "[checks]\nLOCK-HOLT = { limit = 3 }", "`LOCK-HOLT`, which is no check"),
            ("{database_url:shop}", "{database_url:shp}", "`{database_url:shp}` is no placeholder"),
            ("[checks]", "[[invariant]]\nname = \"i\"\nsql = \" ; \"\n[checks]", "invariant `i` has no SQL"),
            (
                "[checks]",
                "[[invariant]]\nname = \"i\"\nsql = \"SELECT 1\"\nholds = \"always\"\n[checks]",
                "unknown variant `always`",
            ),
            (
                "[checks]",
                "[[invariant]]\nname = \"i\"\nsql = \"SELECT 1; DELETE FROM a\"\n[checks]",
                "invariant `i` has more than one statement",
            ),
            ("[rollback]", "[rollback]\nmethod = \"back\"", "unknown variant `back`"),
            ("[rollback]", "[rollback]\nmethod = 3", "a way back such as \"down\", or a list of them"),
            ("[rollback]", "[rollback]\nmethod = []", "rollback.method is an empty list"),
            ("[rollback]", "[rollback]\nmethod = [\"down\", \"down\"]", "names a way back twice"),
            ("role = \"application\"", "role = \"app\"", "unknown variant `app`"),
        ];
        for (from, to, expected) in cases {
            assert!(super::TEMPLATE.contains(from), "{from}");
            let message = read(&super::TEMPLATE.replacen(from, to, 1)).unwrap_err();
            assert!(message.contains(expected) && message.contains("rehearsal.toml:"), "{message}");
        }
    }
}
