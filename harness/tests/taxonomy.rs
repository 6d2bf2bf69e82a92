//! The taxonomy of what makes a rollback unsafe: for each class a small package that fails for exactly that reason, found by the
//! code that a rehearsal uses and named by check and object, and a safe twin in which everything passes.
//!
//! What SQL can show stands in `fixtures/taxonomy/*.sql`: a line `-- expect: CHECK object` for each finding, and sections `setup`, `up`,
//! `down`, `write` and `read` (a write of the new version with the key k1, and how it is read back), `old` (statements of the old
//! version). A section `safe …` takes the place of its namesake in the twin. What lies outside of the database is in [`outside`].
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "taxonomy/outside.rs"]
mod outside;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress::fingerprint::SchemaFingerprint;
use fulldress::fingerprint::data::{Columns, DataDigest};
use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::RunFolder;
use fulldress::proofs::compat::Statements;
use fulldress::proofs::data::sequences_behind;
use fulldress::proofs::ledger::{Asked, read_back};
use fulldress_reports::check::{CheckId, Outcome};
use fulldress_reports::evidence::{
    DataEvidence, Evidence, LedgerEvidence, ReapplyEvidence, RollbackEvidence, SchemaEvidence, SchemaState,
    StepKind, StepRun,
};
use fulldress_reports::judge::judge;
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_reports::sql::split;
use fulldress_reports::traffic::{LedgerEntry, WriteAnswer};
use fulldress_workloads::sql::KeyedQuery;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

const CLASSES: u32 = 25;
/// Classes that need more than a server and a host, and whose packages have tests of their own: what a second application and a
/// second runner do (`tests/runners.rs`), and what becomes of faults in the middle (`tests/faults.rs`).
const ELSEWHERE: [(u32, &str); 3] =
    [(14, "runners/no-lock-half-applied"), (15, "faults/half-applied"), (16, "runners/no-lock")];
/// The application's role and its password.
const ROLE: &str = "app";
/// Idempotency key of the write.
const KEY: &str = "k1";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").canonicalize().unwrap()
}

/// One class that SQL can show.
struct Row {
    class: u32,
    name: String,
    /// Check and object of every finding.
    expected: BTreeSet<String>,
    /// Tables that the workload writes to.
    written: BTreeSet<String>,
    sections: BTreeMap<String, String>,
}

impl Row {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut parts = text.split("\n-- == ");
        let head = parts.next().unwrap();
        let named = |label: &str| -> BTreeSet<String> {
            head.lines().filter_map(|line| line.strip_prefix(label)).map(str::to_owned).collect()
        };
        let section = |part: &str| {
            let (title, sql) = part.split_once('\n').unwrap();
            (title.to_owned(), sql.trim().to_owned())
        };
        Self {
            class: name.split('-').next().unwrap().parse().unwrap(),
            expected: named("-- expect: "),
            written: named("-- written: "),
            sections: parts.map(section).collect(),
            name,
        }
    }

    fn all() -> Vec<Self> {
        let folder = fixtures().join("taxonomy");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|extension| extension == "sql")).collect();
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// A section of the package, or of its safe twin.
    fn section(&self, name: &str, safe: bool) -> Option<&str> {
        let twin = safe.then(|| self.sections.get(&format!("safe {name}"))).flatten();
        twin.or_else(|| self.sections.get(name)).map(String::as_str)
    }
}

/// A database in which a package goes up, down and up again.
struct Stage<'row> {
    row: &'row Row,
    safe: bool,
    options: PgConnectOptions,
    connection: PgConnection,
}

impl<'row> Stage<'row> {
    async fn set(cluster: &Cluster, admin: &mut PgConnection, row: &'row Row, safe: bool) -> Self {
        let name = format!("class_{}_{}", row.class, if safe { "safe" } else { "unsafe" });
        run(admin, &format!("ALTER ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")).await.unwrap();
        run(admin, &format!("CREATE DATABASE {name}")).await.unwrap();
        let options = cluster.options(&name);
        let mut connection = options.connect().await.unwrap();
        run(&mut connection, row.section("setup", safe).unwrap()).await.unwrap();
        Self { row, safe, options, connection }
    }

    async fn run(&mut self, section: &str) -> Result<(), String> {
        let sql = self.row.section(section, self.safe).unwrap();
        run(&mut self.connection, sql).await
    }

    async fn schema(&mut self) -> SchemaFingerprint {
        SchemaFingerprint::read(&mut self.connection).await.unwrap()
    }

    /// The old version's statements, as they can be prepared now.
    async fn statements(&self) -> Option<Statements> {
        let old = self.row.section("old", self.safe)?;
        let statements = split(old).into_iter().map(str::trim).filter(|one| !one.is_empty());
        let seen = BTreeMap::from([(ROLE.to_owned(), statements.map(str::to_owned).collect())]);
        let roles = BTreeMap::from([(ROLE.to_owned(), ROLE.to_owned())]);
        Some(Statements::keep(seen, &self.options, &roles).await.unwrap())
    }

    /// The new version writes, and is told that it was done.
    async fn write(&mut self) -> Option<LedgerEntry> {
        let read = self.row.section("read", self.safe)?;
        self.run("write").await.unwrap();
        let query = KeyedQuery::prepare(&mut self.connection, read).await.unwrap();
        let rows = query.rows(&mut self.connection, KEY).await.unwrap();
        assert_eq!(rows.len(), 1, "{}", self.row.name);
        Some(LedgerEntry {
            key: KEY.to_owned(),
            route: "write".to_owned(),
            phase: Phase::Soak,
            answered_us: 0,
            answer: WriteAnswer::Acknowledged,
            value: rows.into_iter().next().unwrap().into(),
            read_back: read.to_owned(),
            database: Some(ROLE.to_owned()),
        })
    }

    async fn read_back(&self, entry: LedgerEntry) -> LedgerEvidence {
        let application = self.options.clone().username(ROLE).password(ROLE);
        let databases = BTreeMap::from([(ROLE.to_owned(), application)]);
        read_back(vec![entry], Asked { base_url: None, databases: &databases }, None).await.unwrap().0
    }

    /// Everything that a rehearsal proves of a database, in its order.
    async fn evidence(mut self) -> Evidence {
        let before = self.schema().await;
        let mut columns = Columns::read(&mut self.connection).await.unwrap();
        columns.retain(|table| !self.row.written.contains(table));
        let data = DataDigest::read(&mut self.connection, &columns).await.unwrap();
        let mut statements = self.statements().await;
        self.run("up").await.unwrap();
        let upgraded = self.schema().await;
        let mut compat = None;
        if let Some(statements) = &mut statements {
            compat = Some(statements.try_on(SchemaState::Upgraded).await.unwrap());
        }
        let written = self.write().await;
        let down = self.run("down").await;
        let ledger = match written {
            Some(entry) => Some(self.read_back(entry).await),
            None => None,
        };
        let rolled_back = self.schema().await;
        if let Some(statements) = &mut statements {
            compat = Some(statements.try_on(SchemaState::RolledBack).await.unwrap());
        }
        let after = DataDigest::read(&mut self.connection, &columns).await.unwrap();
        let mut differences = data.differences(&after);
        differences.extend(sequences_behind(&mut self.connection).await.unwrap());
        let again = self.run("up").await;
        let reapply = ReapplyEvidence {
            failed: again.err().into_iter().collect(),
            differences: upgraded.differences(&self.schema().await),
        };
        self.connection.close().await.unwrap();
        Evidence {
            phases: played(),
            steps: vec![step("up", Phase::Upgrade, None), step("down", Phase::Rollback, down.clone().err())],
            rollback: Some(RollbackEvidence {
                method: "down".to_owned(),
                stuck: down
                    .err()
                    .map(|error| format!("rollback of step down failed: {error}"))
                    .into_iter()
                    .collect(),
                ..RollbackEvidence::default()
            }),
            schema: Some(SchemaEvidence {
                before: before.digest(),
                upgraded: upgraded.digest(),
                rolled_back: rolled_back.digest(),
                upgrade: before.differences(&upgraded),
                drift: before.differences(&rolled_back),
                order_only: before.order_only(&rolled_back),
            }),
            data: Some(DataEvidence { tables: columns.tables().map(str::to_owned).collect(), differences }),
            ledger,
            compat,
            reapply: Some(reapply),
            ..Evidence::default()
        }
    }
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    for statement in split(sql).into_iter().map(str::trim).filter(|one| !one.is_empty()) {
        let ran = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *connection).await;
        ran.map_err(|error| format!("{statement}: {error}"))?;
    }
    Ok(())
}

/// Upgrade and rollback, as far as the rules ask for them.
fn played() -> Vec<PhaseSpan> {
    let span = |phase, start_us, end_us| PhaseSpan { phase, start_us, end_us: Some(end_us) };
    vec![span(Phase::Upgrade, 0, 1), span(Phase::Soak, 1, 2), span(Phase::Rollback, 2, 3)]
}

fn step(id: &str, phase: Phase, error: Option<String>) -> StepRun {
    StepRun {
        id: id.to_owned(),
        kind: StepKind::Sql,
        phase,
        start_us: 0,
        end_us: 1,
        attempts: 1,
        error,
        log: None,
    }
}

/// Check and object of every finding.
fn found(evidence: &Evidence) -> BTreeSet<String> {
    let findings = judge(evidence, "2026-01-01").findings;
    findings.iter().map(|finding| format!("{} {}", finding.check, finding.object)).collect()
}

/// Checks of these that do not pass, with what they say.
fn not_passed(evidence: &Evidence, wanted: &[CheckId]) -> Vec<String> {
    let checks = judge(evidence, "2026-01-01").checks;
    let judged = checks.iter().filter(|check| wanted.contains(&check.id) && check.outcome != Outcome::Pass);
    judged.map(|check| format!("{} {}: {}", check.id, check.outcome, check.evidence)).collect()
}

/// What a twin must pass: all that its fixture gives evidence for.
fn must_pass(evidence: &Evidence) -> Vec<CheckId> {
    let mut checks = vec![CheckId::UpgStep, CheckId::RollStuck, CheckId::RollSchema, CheckId::RollReapply];
    if evidence.data.as_ref().is_some_and(|data| !data.tables.is_empty()) {
        checks.push(CheckId::RollData);
    }
    if evidence.ledger.is_some() {
        checks.push(CheckId::RollLedger);
    }
    if evidence.compat.is_some() {
        checks.push(CheckId::RollCompat);
    }
    checks
}

#[tokio::test]
async fn each_class_that_sql_can_show_is_found_by_name_and_its_safe_twin_passes() {
    let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let folder = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
    let settings = [("fsync", "off"), ("autovacuum", "off")];
    let settings = BTreeMap::from(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let limit = Duration::from_secs(60);
    let programs = Programs::find(None).unwrap();
    let mut cluster = Cluster::create(programs, &folder, "server", settings, limit).await.unwrap();
    cluster.start().await.unwrap();
    let mut admin = cluster.connect("postgres").await.unwrap();
    run(&mut admin, &format!("CREATE ROLE {ROLE}")).await.unwrap();
    let mut faults = Vec::new();
    for row in &Row::all() {
        let evidence = Stage::set(&cluster, &mut admin, row, false).await.evidence().await;
        let found = found(&evidence);
        if found != row.expected {
            faults.push(format!("{}: {found:?} and not {:?}", row.name, row.expected));
        }
        let evidence = Stage::set(&cluster, &mut admin, row, true).await.evidence().await;
        let not_passed = not_passed(&evidence, &must_pass(&evidence));
        if !not_passed.is_empty() {
            faults.push(format!("the safe twin of {}: {not_passed:?}", row.name));
        }
    }
    drop(admin);
    cluster.stop().await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_class_has_a_fixture() {
    for (class, fixture) in ELSEWHERE {
        assert!(fixtures().join(fixture).is_dir(), "class {class}: {fixture}");
    }
    let of_sql = Row::all().into_iter().map(|row| {
        assert!(!row.expected.is_empty(), "{} expects nothing", row.name);
        row.class
    });
    let outside = outside::CASES.iter().map(|case| case.class);
    let elsewhere = ELSEWHERE.iter().map(|(class, _)| *class);
    let classes: BTreeSet<u32> = of_sql.chain(outside).chain(elsewhere).collect();
    assert_eq!(classes, (1..=CLASSES).collect());
}
