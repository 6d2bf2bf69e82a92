//! The database of a mirror in containers, filled from what teams have: the compose file's own initialisation, a dump in
//! each format, a stopped server's data folder. Real containers throughout.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[path = "support/docker.rs"]
#[expect(dead_code, reason = "rehearsals ask more of it")]
mod docker;
#[path = "support/program.rs"]
#[expect(dead_code, reason = "rehearsals ask more of it")]
mod program;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress::inventory::Inventory;
use fulldress::mirror::containers::compose::ComposeMirror;
use fulldress::mirror::containers::engine::{Engine, run_label};
use fulldress::mirror::{DataCopy, Mirror as _};
use fulldress::plan::Plan;
use fulldress::process::RunFolder;
use program::program;
use sqlx::ConnectOptions as _;
use tempfile::TempDir;

/// Longest that a server may take until it is seen recovering.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows that every way of filling must bring.
const ROWS: i64 = 1000;

const COMPOSE: &str = r#"
services:
  store:
    image: ${POSTGRES_IMAGE:-postgres:15}
    environment: { POSTGRES_PASSWORD: "a$$b", POSTGRES_DB: postgres }
    volumes: ["./init:/docker-entrypoint-initdb.d:ro"]
  web:
    image: fulldress/runner:1
"#;

const PLAN: &str = r#"
schema = "fulldress/plan/1"
name = "seeds"
package = "package"
inventory = "inventory.toml"

[mirror]
kind = "compose"
compose = "compose.yaml"

[mirror.database]
service = "store"
name = "shop"
owner = "shop_owner"
roles = { shop = "mirror-only" }

[[mirror.service]]
name = "web"
role = "application"
container_port = 80
health = "/"

[traffic]
workload = "workload.toml"
target = "web"
"#;

const ROLES: &str = "CREATE ROLE shop_owner; CREATE ROLE shop LOGIN PASSWORD 'mirror-only';";

struct Stage {
    folder: TempDir,
    run: Arc<RunFolder>,
}

impl Stage {
    fn set() -> Self {
        let folder = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir_all(folder.path().join("init")).unwrap();
        std::fs::create_dir_all(folder.path().join("state")).unwrap();
        open(folder.path());
        write("compose.yaml", COMPOSE);
        write("init/1-roles.sql", ROLES);
        write(
            "inventory.toml",
            "schema = \"fulldress/inventory/1\"\nproduct = \"shop\"\ninstalled = \"1.0\"\n",
        );
        let (run, _) = RunFolder::create_in(&folder.path().join("state")).unwrap();
        Self { folder, run: Arc::new(run) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a mirror with a dataset section, and gives its database's container too.
    async fn mirror(&self, dataset: &str) -> (ComposeMirror, String) {
        let file = self.path("rehearsal.toml");
        std::fs::write(&file, format!("{PLAN}\n{dataset}")).unwrap();
        let plan = Arc::new(Plan::read(&file).unwrap());
        let inventory = Arc::new(Inventory::load(&plan.inventory).unwrap());
        let engine = Engine::connect().await.unwrap();
        let run = Arc::clone(&self.run);
        let ours = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
        let logs = self.path("logs");
        let started = ComposeMirror::start(engine, ours, plan, inventory, run, &logs, |_| {}).await;
        let mirror = started.unwrap();
        let label = format!("label=dev.fulldress.run={}", run_label(self.run.path()));
        let found = docker::lines(&["ps", "--filter", &label, "--format", "{{.Names}}"]);
        (mirror, found.into_iter().find(|name| name.contains("-store-")).unwrap())
    }

    /// What a mirror with a dataset section holds.
    async fn holds_the_rows(&self, dataset: &str) {
        let (mirror, _) = self.mirror(dataset).await;
        let mut connection = mirror.connect().await.unwrap();
        let query = "SELECT count(*), sum(id) FROM items";
        let (rows, sum): (i64, i64) = sqlx::query_as(query).fetch_one(&mut connection).await.unwrap();
        assert_eq!((rows, sum), (ROWS, ROWS * (ROWS + 1) / 2), "{dataset}");
        let owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'items'";
        let owner: String = sqlx::query_scalar(owner).fetch_one(&mut connection).await.unwrap();
        assert_eq!(owner, "shop_owner", "{dataset}");
        drop(connection);
        mirror.stop().await;
    }
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a command line to its end and keeps what it prints.
fn keep(arguments: &[&str], file: &Path) {
    let output = program("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(file, output.stdout).unwrap();
}

/// PostgreSQL starts again by itself when one of its sessions is killed, and lets nobody in until it has.
async fn is_reached_while_it_recovers(mirror: &ComposeMirror, container: &str) {
    let mut victim = mirror.connect().await.unwrap();
    // What was written since the last checkpoint is written again, which takes a while.
    let much = "CREATE TABLE much AS SELECT id, repeat('x', 200) FROM generate_series(1, 300000) AS id";
    sqlx::query(much).execute(&mut victim).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
    docker::lines(&["exec", "-u", "root", container, "kill", "-9", &pid.to_string()]);
    let refused = async {
        loop {
            match mirror.server().connect().await {
                Ok(early) => drop(early),
                Err(error)
                    if error
                        .as_database_error()
                        .is_some_and(|error| error.code().is_some_and(|code| code == "57P03")) =>
                {
                    return;
                }
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it recovered before anybody was refused");
    let mut connection = mirror.connect().await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM much").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_filled_by_its_own_scripts_by_dumps_and_from_a_data_folder() {
    if !docker::answer() {
        return;
    }
    let stage = Stage::set();
    let rows = format!(
        "CREATE DATABASE shop;\n\\connect shop\nCREATE TABLE items (id int PRIMARY KEY); ALTER TABLE items OWNER TO shop_owner; \
         INSERT INTO items SELECT generate_series(1, {ROWS});"
    );
    std::fs::write(stage.path("init/2-rows.sql"), rows).unwrap();
    let (mirror, container) = stage.mirror("").await;
    let dump = ["exec", "-u", "postgres", &container, "pg_dump", "--dbname=shop"];
    keep(&dump, &stage.path("plain.sql"));
    keep(&[&dump[..], &["--format=custom"]].concat(), &stage.path("custom.dump"));
    keep(&[&dump[..], &["--format=directory", "--file=/tmp/folder"]].concat(), &stage.path("said"));
    let copy = |from: &str, to: &str| {
        let from = format!("{container}:{from}");
        keep(&["cp", &from, &stage.path(to).display().to_string()], &stage.path("said"));
    };
    copy("/tmp/folder", "folder.dump");
    // A folder as a team has it: without the role that only a mirror has.
    let mut connection = mirror.connect().await.unwrap();
    sqlx::query("DROP ROLE fulldress_package").execute(&mut connection).await.unwrap();
    drop(connection);
    mirror.back_up(DataCopy::Before).await.unwrap();
    copy("/fulldress/backup", "data");
    is_reached_while_it_recovers(&mirror, &container).await;
    mirror.stop().await;

    stage.holds_the_rows("").await;
    stage.holds_the_rows("[mirror.dataset]\ndata_folder = \"data\"").await;
    std::fs::remove_file(stage.path("init/2-rows.sql")).unwrap();
    for dump in ["plain.sql", "custom.dump", "folder.dump"] {
        stage.holds_the_rows(&format!("[mirror.dataset]\ndump = \"{dump}\"")).await;
    }

    let engine = Engine::connect().await.unwrap();
    let label = run_label(stage.run.path());
    engine.sweep(|run| run == label).await.unwrap();
    assert_eq!(docker::labelled(&stage.path("state").canonicalize().unwrap()), Vec::<String>::new());
}
