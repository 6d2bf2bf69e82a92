//! Rehearsals without any service: a dump, a package of SQL, and an application that is nothing but statements.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[expect(dead_code, reason = "the storefront is not played here")]
#[path = "support/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fulldress_reports::check::{CheckId, Outcome};
use fulldress_reports::report::Report;
use program::{Ended, fulldress, report};

const PLAN: &str = r#"
schema = "fulldress/plan/1"
name = "orders by sql"
package = "package"
inventory = "inventory.toml"

[mirror]
kind = "local"

[mirror.database]
name = "app"
owner = "app_owner"
roles = { app = "it's not a secret" }

[mirror.dataset]
dump = "dump.sql"

[traffic]
workload = "workload.toml"
database = { app = "app" }

[migration_lock]
advisory_key = 42

[phases]
warmup_s = 1
baseline_s = 3
upgrade_min_s = 3
soak_s = 2
rollback_min_s = 2
recovery_s = 2
rehearsal_max_s = 120

[objectives]
production_rows = { "public.orders" = 5000 }

[checks]
# There is neither a service nor a third party.
DEP-OUTAGE = { required = false }
ROLL-FLAG = { required = false }
ROLL-WEBHOOK = { required = false }
"#;

const INVENTORY: &str = r#"
schema = "fulldress/inventory/1"
product = "app"
installed = "1.0"
paths = [["1.0", "1.1"]]
"#;

const DUMP: &str = r"
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int NOT NULL, total int NOT NULL);
INSERT INTO orders SELECT g, g % 100, g FROM generate_series(1, 5000) AS g;
CREATE TABLE payments (key uuid PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, amount numeric(10, 2) NOT NULL);
ALTER TABLE orders OWNER TO app_owner;
ALTER TABLE payments OWNER TO app_owner;
GRANT SELECT, INSERT, UPDATE ON orders, payments TO app;
ALTER SCHEMA public OWNER TO app_owner;
";

const WORKLOAD: &str = r#"
schema = "fulldress/workload/1"
name = "orders by sql"

[[feeder]]
name = "orders"
database = "app"
query = "SELECT id FROM orders ORDER BY id LIMIT 1000"
popularity = 1.0

[[scenario]]
name = "reads"
model = "arrivals"
rate_per_s = 60
schedule = "poisson"
database = "app"
connections_max = 8
[[scenario.step]]
route = "orders by key"
statement = "SELECT id, customer_id, total FROM orders WHERE id = $1"
parameters = ["{{ feed.orders.id }}"]
expect = { rows = 1 }

[[scenario]]
name = "writes"
model = "arrivals"
rate_per_s = 20
database = "app"
connections_max = 4
[[scenario.step]]
route = "pay"
transaction = [
    { statement = "SELECT total FROM orders WHERE id = $1 FOR UPDATE", parameters = ["{{ feed.orders.id }}"], expect = { rows = 1 } },
    { statement = "INSERT INTO payments VALUES ($1, $2, $3) RETURNING amount", parameters = ["{{ uuid }}", "{{ feed.orders.id }}", "12.50"] },
]
acknowledged = { key = "{{ uuid }}", value = ["amount"], read_back = "SELECT amount FROM payments WHERE key = $1" }
"#;

const MANIFEST: &str = r#"
schema = "fulldress/package/1"
name = "app"
from = "1.0"
to = "1.1"

[[step]]
id = "010-note"
kind = "sql"
file = "sql/up.sql"
timeout_s = 60
retries = 200
rollback = { file = "sql/down.sql", retries = 200 }
"#;

const MIGRATION_LOCK: &str = "DO $$ BEGIN
    IF NOT pg_try_advisory_lock(42) THEN
        RAISE EXCEPTION 'another session migrates' USING ERRCODE = '55P03';
    END IF;
END $$;
";

/// Plays the plan with a package of one step; gives the report and how the program ended.
fn rehearse(up: &str, down: &str) -> (Report, Ended) {
    let folder = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let root = folder.path();
    // PostgreSQL's user must pass, as it does through the temporary folder.
    std::fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    let write = |file: &str, text: &str| {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (file, text) in [
        ("rehearsal.toml", PLAN),
        ("inventory.toml", INVENTORY),
        ("dump.sql", DUMP),
        ("workload.toml", WORKLOAD),
        ("package/manifest.toml", MANIFEST),
        ("package/sql/up.sql", &format!("{MIGRATION_LOCK}{up}")),
        ("package/sql/down.sql", &format!("{MIGRATION_LOCK}{down}")),
    ] {
        write(file, text);
    }
    let bundle = root.join("bundle");
    let ended: Ended = run(root, &bundle);
    assert!(bundle.join("report.json").is_file(), "stdout:\n{}\nstderr:\n{}", ended.stdout, ended.stderr);
    (report(&bundle), ended)
}

fn run(root: &Path, bundle: &Path) -> Ended {
    let state = root.join("s");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, Permissions::from_mode(0o711)).unwrap();
    let mut command = fulldress();
    command.arg("run").arg(root.join("rehearsal.toml")).arg("--out").arg(bundle).arg("--quiet");
    command.env("FULLDRESS_STATE", &state).output().unwrap().into()
}

/// What a check's findings say.
fn told(report: &Report, check: CheckId) -> Vec<&str> {
    let findings = report.findings.iter().filter(|finding| finding.check == check);
    findings.map(|finding| finding.what.as_str()).collect()
}

#[test]
fn a_package_of_sql_is_rehearsed_under_statements_alone() {
    let (report, ended) = rehearse(
        "SET lock_timeout = '200ms';\nALTER TABLE orders ADD COLUMN IF NOT EXISTS note text;\n",
        "SET lock_timeout = '200ms';\nALTER TABLE orders DROP COLUMN IF EXISTS note;\n",
    );
    let ended = ended.expect_code(0);
    assert_eq!(report.verdict.outcome, Outcome::Pass, "{}", ended.stdout);
    let traffic = report.evidence.traffic.as_ref().unwrap();
    for route in ["orders by key", "pay"] {
        let rows: Vec<_> = traffic.routes.iter().filter(|row| row.route == route).collect();
        assert!(rows.len() >= 6, "a line for every phase: {rows:?}");
        assert!(rows.iter().all(|row| row.errors.is_empty()), "{rows:?}");
    }
    let ledger = report.evidence.ledger.as_ref().unwrap();
    assert!(ledger.entries > 200 && ledger.broken.is_empty(), "{ledger:?}");
}

#[test]
fn a_blocking_migration_fails_and_names_the_statements_route() {
    let (report, ended) = rehearse(
        "BEGIN;\nALTER TABLE orders ALTER COLUMN total TYPE bigint;\nSELECT pg_sleep(2.5);\nCOMMIT;\n",
        "ALTER TABLE orders ALTER COLUMN total TYPE int;\n",
    );
    let ended = ended.expect_code(1);
    assert_eq!(report.verdict.outcome, Outcome::Fail, "{}", ended.stdout);
    for check in [CheckId::LockWait, CheckId::LockHold] {
        let told = told(&report, check);
        let named = told.iter().any(|what| what.contains("orders by key") && what.contains("public.orders"));
        assert!(named, "{told:?}\n{}", ended.stdout);
    }
    let slow = told(&report, CheckId::SloLatency);
    assert!(slow.iter().any(|what| what.contains("in phase upgrade")), "{slow:?}\n{}", ended.stdout);
    // Statements that were prepared before a column changed its type: the application sees that, too.
    let traffic = report.evidence.traffic.as_ref().unwrap();
    let errors: BTreeSet<String> =
        traffic.routes.iter().flat_map(|row| row.errors.keys()).map(ToString::to_string).collect();
    assert_eq!(errors, BTreeSet::from(["sql-0A000".to_owned()]));
}
