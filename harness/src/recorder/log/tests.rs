//! The lines below were captured from PostgreSQL 15.18.

use fulldress_reports::lock::LockMode;

use super::reader::FileState;
use super::waits::parse_deadlock;
use super::{LogEvent, LogEvents, LogKind, LogPlace, LogReader};
use crate::recorder::observation::{AdvisoryKey, LockTarget};

const STATEMENT: &str = r#"{"timestamp":"2026-11-23 03:49:25.770 UTC","user":"pkg","dbname":"postgres","pid":17100,"remote_host":"127.0.0.1","remote_port":35994,"session_id":"6b03b7c5.42cc","line_num":7,"ps":"idle in transaction","session_start":"2026-11-23 03:49:25 UTC","vxid":"4/3","txid":0,"error_severity":"LOG","message":"statement: alter table orders add column\n   x int;","application_name":"step1","backend_type":"client backend","query_id":0}"#;
const WAITING: &str = r#"{"timestamp":"2026-11-23 03:49:26.236 UTC","user":"app","dbname":"postgres","pid":17108,"remote_host":"127.0.0.1","remote_port":36008,"session_id":"6b03b7c6.42d4","line_num":3,"ps":"SELECT waiting","session_start":"2026-11-23 03:49:26 UTC","vxid":"7/3","txid":0,"error_severity":"LOG","message":"process 17108 still waiting for AccessShareLock on relation 16387 of database 5 after 20.085 ms","detail":"Process holding the lock: 17099. Wait queue: 17100, 17107, 17106, 17108.","statement":"select 5 from orders","cursor_position":15,"application_name":"psql","backend_type":"client backend","query_id":0}"#;
const CANCELLED: &str = r#"{"timestamp":"2026-11-23 03:49:26.316 UTC","user":"app","dbname":"postgres","pid":17108,"remote_host":"127.0.0.1","remote_port":36008,"session_id":"6b03b7c6.42d4","line_num":4,"ps":"SELECT","session_start":"2026-11-23 03:49:26 UTC","vxid":"7/3","txid":0,"error_severity":"ERROR","state_code":"57014","message":"canceling statement due to statement timeout","statement":"select 5 from orders","application_name":"psql","backend_type":"client backend","query_id":0}"#;
const DURATION: &str = r#"{"timestamp":"2026-11-23 03:49:26.761 UTC","user":"pkg","dbname":"postgres","pid":17100,"remote_host":"127.0.0.1","remote_port":35994,"session_id":"6b03b7c5.42cc","line_num":14,"ps":"COMMIT","session_start":"2026-11-23 03:49:25 UTC","vxid":"4/0","txid":0,"error_severity":"LOG","message":"duration: 0.164 ms","application_name":"step1","backend_type":"client backend","query_id":0}"#;
const NOTE: &str = r#"{"timestamp":"2026-11-23 03:57:49.205 UTC","user":"app","dbname":"postgres","pid":19232,"remote_host":"127.0.0.1","remote_port":56700,"session_id":"6b03b9bd.4b20","line_num":5,"ps":"ALTER TABLE","session_start":"2026-11-23 03:57:49 UTC","vxid":"3/4","txid":736,"error_severity":"LOG","message":"fulldress:{\"pid\": 19232, \"tag\": \"ALTER TABLE\", \"role\": \"app\", \"txid\": \"736\", \"at_us\": 1795406269205229, \"event\": \"table_rewrite\", \"locks\": [[16387, \"public.orders\", \"table\", \"ShareLock\", true], [16387, \"public.orders\", \"table\", \"AccessExclusiveLock\", true]], \"dropped\": [], \"advisory\": [[0, 77, 1]], \"began_us\": 1795406269205023, \"rewritten\": [16387, \"public.orders\"], \"application\": \"psql\", \"lock_timeout\": \"0\", \"statement_us\": 1795406269200715, \"statement_timeout\": \"0\"}","context":"PL/pgSQL function fulldress.note() line 31 at RAISE","statement":"alter table orders alter column n type bigint","application_name":"psql","backend_type":"client backend","query_id":0}"#;

fn read(lines: &[&str]) -> LogEvents {
    let mut events = LogEvents::default();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    FileState::default().feed(text.as_bytes(), ("postgres", 0), &mut events);
    events
}

fn one(line: &str) -> LogEvent {
    let events = read(&[line]);
    assert_eq!((events.events.len(), events.malformed), (1, 0), "{events:?}");
    events.events[0].clone()
}

/// The same wait with another message.
fn wait(message: &str) -> LogKind {
    one(&WAITING.replace(
        "process 17108 still waiting for AccessShareLock on relation 16387 of database 5 after 20.085 ms",
        message,
    ))
    .what
}

#[test]
fn statements_and_their_ends_are_read() {
    let statement = one(STATEMENT);
    assert_eq!(
        statement.what,
        LogKind::Statement { text: "alter table orders add column\n   x int;".into() }
    );
    assert_eq!((statement.at_us, statement.session.pid), (1_795_405_765_770_000, 17100));
    assert_eq!((statement.vxid.as_deref(), statement.role.as_deref()), (Some("4/3"), Some("pkg")));
    let duration = one(DURATION);
    assert_eq!(duration.what, LogKind::Duration { duration_us: 164, preparation: false, text: None });
    assert_eq!(duration.vxid, None, "the transaction is over");
    for (message, expected) in [
        ("execute <unnamed>: SELECT 1", LogKind::Statement { text: "SELECT 1".into() }),
        (
            "duration: 12.003 ms  statement: SELECT 1",
            LogKind::Duration { duration_us: 12_003, preparation: false, text: Some("SELECT 1".into()) },
        ),
        (
            "duration: 0.100 ms  execute s1: SELECT 2",
            LogKind::Duration { duration_us: 100, preparation: false, text: Some("SELECT 2".into()) },
        ),
        (
            "duration: 0.100 ms  parse <unnamed>: SELECT 2",
            LogKind::Duration { duration_us: 100, preparation: true, text: None },
        ),
    ] {
        assert_eq!(one(&DURATION.replace("duration: 0.164 ms", message)).what, expected, "{message}");
    }
}

#[test]
fn waits_are_read_whatever_they_wait_for() {
    let (after_us, holders) = (20_085, vec![17099]);
    let relation = LockTarget::Relation(16387);
    let mode = Some(LockMode::AccessShareLock);
    assert_eq!(one(WAITING).what, LogKind::Waiting { mode, target: relation, after_us, holders });
    assert_eq!(
        wait("process 9 acquired ShareLock on transaction 733 after 1000.250 ms"),
        LogKind::Acquired {
            mode: Some(LockMode::ShareLock),
            target: LockTarget::Transaction(733),
            after_us: 1_000_250
        }
    );
    for (text, expected) in [
        ("tuple (0,1) of relation 16390 of database 5", LockTarget::Tuple(16390)),
        ("virtual transaction 4/7", LockTarget::VirtualTransaction),
        (
            "extension of relation 5 of database 5",
            LockTarget::Other("extension of relation 5 of database 5".into()),
        ),
        (
            "advisory lock [5,0,77,1]",
            LockTarget::Advisory(AdvisoryKey { classid: 0, objid: 77, objsubid: 1 }),
        ),
    ] {
        let LogKind::Waiting { target, .. } =
            wait(&format!("process 9 still waiting for ExclusiveLock on {text} after 21.000 ms"))
        else {
            panic!("{text}")
        };
        assert_eq!(target, expected);
    }
}

#[test]
fn failures_and_notes_are_read() {
    let LogKind::Failed { sqlstate, .. } = one(CANCELLED).what else { panic!("a failure") };
    assert_eq!(sqlstate, "57014");
    let LogKind::Note(note) = one(NOTE).what else { panic!("a note") };
    assert_eq!((note.tag.as_str(), note.locks.len()), ("ALTER TABLE", 2));
    assert_eq!(note.rewritten, Some((16387, Some("public.orders".into()))));
    assert_eq!(note.advisory[0].key().bigint(), Some(77));
    let broken = one(&NOTE.replace(r#"\"tag\": "#, r#"\"tog\": "#));
    assert!(matches!(broken.what, LogKind::NoteLost(_)));
}

#[test]
fn what_does_not_concern_the_recorder_is_left_out_and_what_cannot_be_read_is_counted() {
    let elsewhere = WAITING.replace(r#""dbname":"postgres""#, r#""dbname":"other""#);
    let local_time = WAITING.replace(" UTC\",\"user", " CET\",\"user");
    let events = read(&[&elsewhere, "{not json", &local_time, STATEMENT]);
    assert_eq!((events.events.len(), events.malformed), (1, 2));
}

#[tokio::test]
async fn files_that_grow_and_rotate_are_read_once_and_torn_lines_when_they_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("a.json");
    let (head, tail) = STATEMENT.split_at(200);
    std::fs::write(&first, format!("{WAITING}\n{head}")).unwrap();
    std::fs::write(folder.path().join("a.log"), "no json").unwrap();
    let mut reader = LogReader::new(LogPlace::Folder(folder.path().to_owned()), "postgres".into(), 0);
    let mut events = LogEvents::default();
    reader.poll(None, &mut events).await.unwrap();
    assert_eq!(events.events.len(), 1);
    std::fs::write(&first, format!("{WAITING}\n{head}{tail}\n")).unwrap();
    std::fs::write(folder.path().join("b.json"), format!("{DURATION}\n")).unwrap();
    reader.poll(None, &mut events).await.unwrap();
    reader.poll(None, &mut events).await.unwrap();
    assert_eq!((events.events.len(), events.malformed), (3, 0));
    std::fs::write(&first, format!("{DURATION}\n")).unwrap();
    reader.poll(None, &mut events).await.unwrap();
    assert_eq!(events.events.len(), 4, "a file that is shorter now is another file");
    drop(folder);
    assert!(reader.poll(None, &mut events).await.is_err());
}

#[test]
fn a_deadlock_tells_who_waits_for_whom_and_with_which_statement() {
    let detail = "Process 12 waits for RowExclusiveLock on relation 16390 of database 5; blocked by process 13.\n\
        Process 13 waits for ShareLock on transaction 771; blocked by process 12.\n\
        Process 12: UPDATE a\n  SET x = 1\nProcess 13: LOCK TABLE b";
    let waits = parse_deadlock(detail);
    let [first, second] = &waits[..] else { panic!("{waits:#?}") };
    assert_eq!((first.pid, first.blocker, first.mode), (12, 13, LockMode::parse("RowExclusiveLock")));
    assert_eq!(first.target, LockTarget::Relation(16_390));
    assert_eq!(first.statement, "UPDATE a\n  SET x = 1");
    assert_eq!((second.pid, second.blocker, &second.target), (13, 12, &LockTarget::Transaction(771)));
    assert_eq!(second.statement, "LOCK TABLE b");
    assert_eq!(parse_deadlock("Key (id)=(1) already exists."), []);
}
