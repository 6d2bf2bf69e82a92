//! `fulldress migrations` on small histories, with real PostgreSQL: a rehearsal of nothing but a folder.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[expect(dead_code, reason = "the storefront is not played here")]
#[path = "support/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fulldress_reports::check::{CheckId, Outcome};
use program::{Ended, fulldress, report};

const HISTORY: [(&str, &str); 5] = [
    (
        "0001_shop.up",
        "CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE);
         CREATE TABLE orders (id bigserial PRIMARY KEY, reference text NOT NULL UNIQUE, state text NOT NULL CHECK (state IN ('new', 'paid')),
             customer_id bigint NOT NULL REFERENCES customers, total numeric(10, 2) NOT NULL CHECK (total >= 0));
         CREATE INDEX orders_customer ON orders (customer_id);",
    ),
    ("0001_shop.down", "DROP TABLE orders; DROP TABLE customers;"),
    ("0002_note.up", "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN note text;"),
    ("0002_note.down", "SET lock_timeout = '500ms'; ALTER TABLE orders DROP COLUMN note;"),
    // What the old version reads goes, and the way back brings another value.
    ("0003_state.up", "ALTER TABLE orders DROP COLUMN state;"),
];

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let state = folder.path().join("s");
        for path in [folder.path(), &state] {
            std::fs::create_dir_all(path).unwrap();
            // PostgreSQL's user must pass.
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let history = folder.path().join("migrations");
        std::fs::create_dir(&history).unwrap();
        for (name, sql) in HISTORY {
            std::fs::write(history.join(format!("{name}.sql")), sql).unwrap();
        }
        let down = "ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'paid'));";
        std::fs::write(history.join("0003_state.down.sql"), down).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = fulldress();
        command.env("FULLDRESS_STATE", self.path().join("s")).current_dir(self.path());
        Ended::from(command.args(arguments).output().unwrap())
    }
}

fn outcomes(bundle: &Path, ids: &[CheckId]) -> Vec<(CheckId, Outcome)> {
    let report = report(bundle);
    let of = |id: &CheckId| report.checks.iter().find(|check| check.id == *id).unwrap().outcome;
    ids.iter().map(|id| (*id, of(id))).collect()
}

#[test]
fn a_folder_alone_gets_a_verdict() {
    let stage = Stage::new();
    let bundle = stage.path().join("well");
    let out = bundle.display().to_string();
    let ended = stage.run(&[
        "migrations",
        "migrations",
        "--from",
        "2",
        "--to",
        "2",
        "--rows",
        "2000",
        "--rate",
        "150",
        "--out",
        &out,
    ]);
    ended.expect_said("layout golang-migrate").expect_said("the migrations touch public.orders");
    let report = report(&bundle);
    // How slow a loaded machine is decides the rest of the verdict.
    let wanted = [
        CheckId::UpgStep,
        CheckId::LockHold,
        CheckId::RollStuck,
        CheckId::RollSchema,
        CheckId::RollData,
        CheckId::RollLedger,
        CheckId::RollReapply,
        CheckId::RollCompat,
        CheckId::EvidCoverage,
    ];
    let found = outcomes(&bundle, &wanted);
    assert_eq!(found, wanted.map(|id| (id, Outcome::Pass)), "{:?}", report.verdict.sentence);
    let routes: BTreeSet<&str> =
        report.evidence.traffic.as_ref().unwrap().routes.iter().map(|route| route.route.as_str()).collect();
    for route in ["public.orders: insert", "public.orders: insert and delete", "public.customers: read by id"]
    {
        assert!(routes.contains(route), "{route}: {routes:?}");
    }
    assert!(!routes.contains("public.customers: insert"), "what nobody touches is only read");
    let reach = report.evidence.reach.as_ref().unwrap();
    assert!(reach.not_rehearsed.iter().any(|what| what.contains("derived from the catalog")), "{reach:?}");
    assert!(
        bundle.join("derived/workload.toml").is_file()
            && bundle.join("derived/package/manifest.toml").is_file()
    );
}

#[test]
fn a_statement_that_a_migration_breaks_is_found() {
    let stage = Stage::new();
    let bundle = stage.path().join("ill");
    let out = bundle.display().to_string();
    stage
        .run(&["migrations", "migrations", "--rows", "1000", "--rate", "100", "--out", &out, "--quiet"])
        .expect_code(1);
    let found = outcomes(
        &bundle,
        &[CheckId::RollCompat, CheckId::RollLedger, CheckId::SloErrors, CheckId::RollSchema],
    );
    assert!(found.iter().take(3).all(|(_, outcome)| *outcome == Outcome::Fail), "{found:?}");
    let report = report(&bundle);
    let compat: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.check == CheckId::RollCompat)
        .map(|finding| finding.what.as_str())
        .collect();
    assert!(
        compat.iter().any(|what| what.contains("42703 on the upgraded schema: column \"state\"")),
        "{compat:?}"
    );
}

#[test]
fn what_was_derived_can_be_written_and_edited() {
    let stage = Stage::new();
    stage
        .run(&["migrations", "migrations", "--from", "2", "--rows", "50", "--eject", "ejected"])
        .expect_code(0);
    let ejected = stage.path().join("ejected");
    let workload = std::fs::read_to_string(ejected.join("workload.toml")).unwrap();
    assert!(workload.contains("UPDATE public.orders SET"), "{workload}");
    let sql = std::fs::read_to_string(ejected.join("package/sql/001-0002-note.up.sql")).unwrap();
    assert!(sql.starts_with("BEGIN;\nSET lock_timeout") && sql.ends_with("COMMIT;\n"), "{sql}");
    stage.run(&["run", "ejected/rehearsal.toml", "--dry-run"]).expect_code(0);
    // It is not written over.
    stage.run(&["migrations", "migrations", "--eject", "ejected"]).expect_code(2).expect_said("is not empty");
}

#[test]
fn what_cannot_be_derived_is_said_in_one_sentence() {
    let stage = Stage::new();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["migrations", "nowhere"], 2, "nowhere"),
        (&["migrations", "migrations", "--from", "9"], 2, "no migration is named so"),
        (
            &["migrations", "migrations", "--from", "1", "--to", "1"],
            2,
            "there is no table that traffic could read",
        ),
        (&["migrations", "migrations", "--rows", "0"], 2, "must be above 0"),
        (&["migrations", "migrations", "--postgres", "9.1"], 5, "PostgreSQL 9.1 was not found"),
    ];
    for (arguments, code, said) in cases {
        stage.run(arguments).expect_code(code).expect_said(said);
    }
}
