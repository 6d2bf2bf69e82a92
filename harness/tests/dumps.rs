//! A dump of every format that `pg_dump` writes fills a database again.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[expect(dead_code, reason = "only any program is needed here")]
#[path = "support/program.rs"]
mod program;
#[expect(dead_code, reason = "no recorder is needed here")]
#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use fulldress::mirror::cluster::Programs;
use fulldress::mirror::dataset::brings_roles;
use program::{Ended, program};
use server::{Server, execute};
use sqlx::ConnectOptions as _;

#[tokio::test]
async fn a_dump_of_each_format_fills_a_database() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let folder = tempfile::tempdir().unwrap();
    let url = server.cluster.admin_url("postgres");
    let limit = Duration::from_secs(60);
    for format in ["plain", "custom", "directory"] {
        let dump = folder.path().join(format);
        let mut command = program(server.cluster.programs().join("pg_dump"));
        command.args(["--format", format, "--table", "orders", "--file"]).arg(&dump).arg(&url);
        Ended::from(command.output().unwrap()).expect_code(0);
        let name = format!("from_{format}");
        execute(&mut server.admin().await, &format!("CREATE DATABASE {name}")).await;
        let log = folder.path().join(format!("{format}.log"));
        server.cluster.load_dump(&name, &dump, limit, &log).await.unwrap();
        let mut connection = server.cluster.options(&name).connect().await.unwrap();
        let rows: i64 =
            sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&mut connection).await.unwrap();
        assert_eq!(rows, 1000, "{format}");
        // A second time it is refused, and the log says why.
        let error = server.cluster.load_dump(&name, &dump, limit, &log).await.unwrap_err().to_string();
        assert!(error.contains("could not be loaded") && error.contains("already exists"), "{error}");
    }
}

#[test]
fn a_dump_with_roles_is_known_by_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    for (text, brings) in [
        ("CREATE TABLE t ();\n-- create role\n", false),
        ("SET x = 1;\nCREATE ROLE app;\n", true),
        ("create user app;", true),
    ] {
        let dump = folder.path().join("dump.sql");
        std::fs::write(&dump, text).unwrap();
        assert_eq!(brings_roles(&dump), brings, "{text}");
    }
}
