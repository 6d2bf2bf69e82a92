//! `fulldress trace` whose server dies, whose connection is cut, whose script or setup is wrong: one sentence, the right
//! exit code, what was seen until then, and nothing left.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::RunFolder;
use serde_json::Value;
use tempfile::TempDir;

const FIRST: &str = "CREATE TABLE kept (id int);\n";

struct Ended {
    code: Option<i32>,
    trace: Option<Value>,
    stderr: String,
}

/// Traces [`FIRST`] and then a script, as a superuser.
fn trace(setup: Option<&str>, script: &str) -> Ended {
    let folder: TempDir = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    // The server's user has to pass through to its data.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let state = folder.path().join("s");
    #[expect(clippy::disallowed_methods, reason = "the test starts the program as a person does")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fulldress"));
    command.args(["trace", "--superuser", "--format", "json"]).env("FULLDRESS_STATE", &state);
    if let Some(setup) = setup {
        command.arg("--setup").arg(file("setup.sql", setup));
    }
    let output = command.args([file("first.sql", FIRST), file("second.sql", script)]).output().unwrap();
    let left = std::fs::read_dir(&state).into_iter().flatten().map(|entry| entry.unwrap().path());
    let left: Vec<_> = left.filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    let marker = format!("FULLDRESS_RUN={}/", state.display());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let runs = String::from_utf8_lossy(&environment).contains(&marker);
        assert!(!runs, "{} still runs", entry.path().display());
    }
    Ended {
        code: output.status.code(),
        trace: serde_json::from_slice(&output.stdout).ok(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What is said of each statement of the second script: its error's SQLSTATE, or why it was not observed.
#[track_caller]
fn second(ended: &Ended) -> Vec<String> {
    let scripts = &ended.trace.as_ref().expect(&ended.stderr)["scripts"];
    let first = &scripts[0]["statements"][0];
    assert_eq!(first["sql"], "CREATE TABLE kept (id int)", "{scripts}");
    assert!(first["unobserved"].is_null(), "{scripts}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let say = |one: &Value| text(&one["error"]["sqlstate"]).or_else(|| text(&one["unobserved"]));
    let statements = scripts[1]["statements"].as_array().unwrap().iter();
    statements.map(|one| say(one).unwrap_or_else(|| "seen".to_owned())).collect()
}

#[tokio::test]
async fn a_port_that_somebody_takes_before_the_server_starts_is_changed_once_only() {
    let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
    let programs = Programs::find(None).unwrap();
    let limit = Duration::from_secs(60);
    let mut cluster = Cluster::create(programs, &run, "server", BTreeMap::new(), limit).await.unwrap();
    let taken = TcpListener::bind(("127.0.0.1", cluster.port())).unwrap();
    cluster.start().await.unwrap();
    let known = cluster.port();
    assert_ne!(known, taken.local_addr().unwrap().port());

    // Services know the port by now, so it stays, and that it is taken is said.
    cluster.stop().await;
    let taken = TcpListener::bind(("127.0.0.1", known)).unwrap();
    let error = cluster.start().await.unwrap_err();
    assert!(error.what.contains("could not create any TCP/IP sockets"), "{}", error.what);
    drop(taken);
    cluster.start().await.unwrap();
    assert_eq!(cluster.port(), known);
    cluster.stop().await;
}

#[test]
fn a_server_that_dies_is_exit_code_5_with_what_was_seen() {
    let script = "SELECT 1;\nCOPY (SELECT 1) TO PROGRAM 'kill -QUIT $(head -1 postmaster.pid)';\n\
                  SELECT pg_sleep(60);\nSELECT 2;\n";
    let ended = trace(None, script);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("PostgreSQL died while the scripts ran: "), "{}", ended.stderr);
    let second = second(&ended);
    assert_eq!(second.len(), 4);
    assert_eq!(second[0], "seen");
    assert!(second[3].starts_with("not run: "), "{second:?}");
}

#[test]
fn an_observer_that_is_cut_off_is_exit_code_5_with_what_was_seen() {
    let script = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();\n";
    let ended = trace(None, script);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("the database could not be observed: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("the trace ends there"), "{}", ended.stderr);
    assert_eq!(second(&ended), ["the database was lost while it ran"]);
}

#[test]
fn a_migrator_that_is_cut_off_and_a_syntax_error_are_errors_of_their_statements() {
    let ended = trace(None, "SELECT 1;\nSELECT pg_terminate_backend(pg_backend_pid());\nSELECT 2;\n");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(second(&ended), ["seen", "57P01", "not run: an earlier statement failed"]);

    let ended = trace(None, "SELECT 1;\nALTER TABEL kept ADD x int;\nSELECT 2;\n");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(second(&ended), ["seen", "42601", "not run: an earlier statement failed"]);
}

#[test]
fn a_missing_object_of_the_setup_is_exit_code_2() {
    let ended = trace(Some("SELECT 1;\nALTER TABLE nothing ADD COLUMN x int;\n"), "SELECT 1;\n");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let sentence = "setup.sql failed: line 2: ERROR:  relation \"nothing\" does not exist";
    let said = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(&sentence.replace("  ", " ")), "{said}");
    assert!(ended.trace.is_none());
}
