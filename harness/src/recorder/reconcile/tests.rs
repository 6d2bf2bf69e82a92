//! Synthetic material: cases that a real server shows only by luck of timing.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::{LockMode, LockOutcome, OrderSide, OrderedLock};
use fulldress_reports::phase::{Phase, PhaseSpan};

use super::{Material, Reconciled, SourceState, reconcile};
use crate::recorder::clock::{ClockMeasurement, ServerClock};
use crate::recorder::log::{DeadlockWait, LogEvent, LogKind};
use crate::recorder::observation::{LockTarget, MigrationLock, PackageIdentity, SessionId};
use crate::recorder::sampler::{SampleLog, SessionSighting, Sighting};
use crate::recorder::triggers::{NoteEvent, NotedLock, TriggerNote};

/// Milliseconds as microseconds of the server's clock.
const fn ms(milliseconds: i64) -> i64 {
    1_000_000_000 + milliseconds * 1_000
}

const fn session(pid: u32) -> SessionId {
    SessionId { start_s: 999, pid }
}

fn line(pid: u32, line: u64, at_ms: i64, vxid: Option<&str>, what: LogKind) -> LogEvent {
    LogEvent {
        at_us: ms(at_ms),
        session: session(pid),
        line,
        role: Some(if pid < 100 { "pkg" } else { "app" }.into()),
        application: None,
        host: None,
        client: true,
        vxid: vxid.map(str::to_owned),
        statement: Some("SELECT 1".into()),
        context: None,
        what,
    }
}

fn statement(pid: u32, number: u64, at_ms: i64, vxid: &str, text: &str) -> LogEvent {
    line(pid, number, at_ms, Some(vxid), LogKind::Statement { text: text.into() })
}

fn duration(pid: u32, number: u64, at_ms: i64, vxid: Option<&str>) -> LogEvent {
    line(pid, number, at_ms, vxid, LogKind::Duration { duration_us: 1, preparation: false, text: None })
}

/// A wait that ended with the lock.
fn waited(pid: u32, from_ms: i64, to_ms: i64, target: LockTarget, holders: Vec<u32>) -> [LogEvent; 2] {
    let mode = Some(LockMode::AccessShareLock);
    let waiting = LogKind::Waiting { mode, target: target.clone(), after_us: 20_000, holders };
    let acquired = LogKind::Acquired { mode, target, after_us: (to_ms - from_ms) * 1_000 };
    [line(pid, 1, from_ms + 20, Some("9/1"), waiting), line(pid, 2, to_ms, Some("9/1"), acquired)]
}

fn held(oid: u32, mode: LockMode, from_ms: i64, to_ms: i64) -> Sighting {
    Sighting {
        session: session(1),
        role: "pkg".into(),
        application: String::new(),
        package: true,
        client: true,
        vxid: "3/1".into(),
        target: LockTarget::Relation(oid),
        mode: Some(mode),
        granted: true,
        wait_since_us: None,
        not_before_us: Some(ms(from_ms - 20)),
        first_us: ms(from_ms),
        last_us: ms(to_ms),
        gone_us: Some(ms(to_ms + 20)),
        gone_within_transaction: false,
        blockers: BTreeSet::new(),
        query: String::new(),
        query_start_us: None,
    }
}

fn joined(events: &[LogEvent], sightings: Vec<Sighting>) -> Reconciled {
    looked(events, sightings, Vec::new())
}

fn looked(events: &[LogEvent], sightings: Vec<Sighting>, looks: Vec<(i64, i64)>) -> Reconciled {
    let names = BTreeMap::from([(20_001, "public.a".to_owned()), (20_002, "public.b".to_owned())]);
    let seen = SessionSighting { session: session(1), role: "pkg".into(), first_us: ms(0), last_us: ms(900) };
    let samples =
        SampleLog { sightings, sessions: vec![seen], names: names.clone(), looks, ..SampleLog::default() };
    reconcile(&Material {
        events,
        samples: &samples,
        index_tables: &BTreeMap::new(),
        clock: &ServerClock::new(vec![ClockMeasurement { server_us: ms(0), offset_us: ms(0), error_us: 10 }]),
        identity: &PackageIdentity { roles: vec!["pkg".into()], ..Default::default() },
        migration_lock: &MigrationLock::default(),
        phases: &[PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }],
        steps: &[],
        files: &BTreeMap::new(),
        preexisting: &names.into_values().collect(),
        leftovers: &[],
        leftovers_unread: &[],
        end_us: ms(1_000),
        sources: &SourceState { log_read: true, ..SourceState::default() },
    })
}

/// BEGIN, two strong locks taken one after the other, COMMIT at 500 ms.
fn two_locks() -> (Vec<LogEvent>, Vec<Sighting>) {
    let events = vec![
        statement(1, 1, 90, "3/1", "BEGIN"),
        duration(1, 2, 91, Some("3/1")),
        statement(1, 3, 95, "3/1", "LOCK TABLE a"),
        duration(1, 4, 110, Some("3/1")),
        statement(1, 5, 300, "3/1", "LOCK TABLE b"),
        duration(1, 6, 310, Some("3/1")),
        statement(1, 7, 500, "3/1", "COMMIT"),
        duration(1, 8, 501, None),
    ];
    let mode = LockMode::AccessExclusiveLock;
    (events, vec![held(20_001, mode, 105, 495), held(20_002, mode, 305, 495)])
}

#[test]
fn a_hold_lies_between_the_statement_and_the_commit() {
    let (events, sightings) = two_locks();
    let found = joined(&events, sightings).evidence;
    assert_eq!(found.records.len(), 2);
    let record = &found.records[0];
    assert_eq!((record.relation.as_str(), record.statement.as_str()), ("public.a", "LOCK TABLE a"));
    // Granted in [95, 105], released in [500, 501.999].
    assert_eq!((record.hold.low_us, record.hold.high_us), (395_000, 406_999));
    assert_eq!(found.records[1].hold.low_us, 195_000);
}

#[test]
fn a_session_is_idle_between_the_end_of_a_statement_and_the_next_one() {
    let (events, sightings) = two_locks();
    let found = joined(&events, sightings).evidence;
    let idle = |relation: &str| {
        let record = found.records.iter().find(|record| record.relation == relation).unwrap();
        record.idle.map(|idle| (idle.low_us, idle.high_us))
    };
    // From [110, 110.999] to [300, 300.999], and from [310, 310.999] to [500, 500.999].
    assert_eq!(idle("public.a"), Some((378_002, 381_998)));
    // The lock on b came after the first of them.
    assert_eq!(idle("public.b"), Some((189_001, 190_999)));
}

#[test]
fn a_session_that_has_committed_is_not_idle_in_its_transaction() {
    let events = [
        statement(1, 1, 95, "3/1", "LOCK TABLE a"),
        duration(1, 2, 110, None),
        statement(1, 3, 900, "3/2", "SELECT 1"),
        duration(1, 4, 901, None),
    ];
    let found = joined(&events, vec![held(20_001, LockMode::AccessExclusiveLock, 105, 106)]).evidence;
    let [record] = &found.records[..] else { panic!("{found:#?}") };
    assert_eq!(record.idle.map(|idle| (idle.low_us, idle.high_us)), Some((0, 0)));
}

/// A statement that ends with an error, its transaction with it.
fn refused(pid: u32, number: u64, at_ms: i64, text: &str, sqlstate: &str) -> [LogEvent; 2] {
    let what = LogKind::Failed { sqlstate: sqlstate.into(), message: String::new(), deadlock: Vec::new() };
    let mut failed = line(pid, number + 1, at_ms + 10, Some("3/1"), what);
    failed.statement = Some(text.into());
    [statement(pid, number, at_ms, "3/1", text), failed]
}

#[test]
fn a_statement_is_tried_again_where_it_follows_a_failure_in_any_session_of_the_package() {
    let (again, once, other) = ("ALTER TABLE a ADD x int", "DROP TABLE a", "ALTER TABLE b ADD x int");
    let mut events = Vec::new();
    events.extend(refused(1, 1, 100, again, "55P03"));
    events.extend(refused(1, 3, 120, again, "40P01"));
    // What no lock ended, and what is not sent again.
    events.extend(refused(1, 5, 140, other, "42701"));
    events.extend(refused(1, 7, 150, once, "55P03"));
    events.extend([statement(1, 9, 170, "3/2", other), duration(1, 10, 171, None)]);
    // Another session, once more than it failed.
    for (number, at_ms) in [(1, 200), (3, 220)] {
        events.extend([
            statement(2, number, at_ms, "4/1", &format!("{again};\n")),
            duration(2, number + 1, at_ms + 5, None),
        ]);
    }
    let retries = joined(&events, Vec::new()).evidence.retries;
    let [told] = &retries[..] else { panic!("{retries:#?}") };
    assert_eq!(told.statement, again);
    assert_eq!((told.timed_out, told.deadlocked, told.cancelled, told.retries), (1, 1, 0, 2));
    assert_eq!(told.succeeded, Some(true));
}

/// A wait of the package that samples saw, and that ended while its transaction went on.
fn in_vain(target: LockTarget, from_ms: i64, to_ms: i64) -> Sighting {
    let mut wait = held(20_001, LockMode::AccessExclusiveLock, from_ms + 2, to_ms - 2);
    wait.target = target;
    wait.granted = false;
    wait.wait_since_us = Some(ms(from_ms));
    wait.gone_us = Some(ms(to_ms));
    wait.gone_within_transaction = true;
    wait
}

#[test]
fn waits_of_one_statement_for_the_same_lock_were_caught_where_it_did_not_have_the_lock_in_between() {
    let block = "DO $$ BEGIN PERFORM again(); END $$";
    let events = [statement(1, 1, 90, "3/1", block), duration(1, 2, 900, None)];
    let (a, b) = (LockTarget::Relation(20_001), LockTarget::Relation(20_002));
    let caught = |sightings: Vec<Sighting>| {
        let found = joined(&events, sightings).evidence;
        found.retries.first().map_or(0, |told| {
            assert_eq!((told.statement.as_str(), told.retries), (block, told.caught));
            told.caught
        })
    };
    let wait = |from_ms: i64| in_vain(a.clone(), from_ms, from_ms + 60);
    assert_eq!(caught(vec![wait(100), wait(200), wait(300)]), 2);
    assert_eq!(caught(vec![wait(100), in_vain(b, 200, 260)]), 0);
    // Its procedure commits in between.
    let mut next = wait(200);
    next.vxid = "3/2".into();
    assert_eq!(caught(vec![wait(100), next]), 0);
    // It had the lock, and lost it with something else that it caught.
    let had = held(20_001, LockMode::AccessExclusiveLock, 165, 170);
    assert_eq!(caught(vec![wait(100), had, wait(200)]), 0);
    // For a row it waits in the row's queue first, then for who has it.
    let row = |from_ms: i64| {
        [
            in_vain(LockTarget::Tuple(20_001), from_ms, from_ms + 20),
            in_vain(LockTarget::Transaction(7), from_ms + 20, from_ms + 60),
        ]
    };
    assert_eq!(caught([row(100), row(200)].concat()), 1);
}

#[test]
fn the_waits_of_a_block_that_has_the_lock_at_last_are_added_up() {
    let events = [statement(1, 1, 90, "3/1", "DO $$ BEGIN END $$"), duration(1, 2, 500, None)];
    let wait = |from_ms: i64, to_ms: i64| in_vain(LockTarget::Relation(20_001), from_ms, to_ms);
    let had = held(20_001, LockMode::AccessExclusiveLock, 342, 480);
    let found = joined(&events, vec![wait(100, 160), wait(200, 260), wait(300, 340), had]).evidence;
    let [record] = &found.records[..] else { panic!("{found:#?}") };
    assert_eq!(record.outcome, LockOutcome::Granted);
    // Twice from its begin to between the last look at it and the first without it, and then until it had the lock.
    assert!((157_000..=160_000).contains(&record.wait_us), "{record:#?}");
    // Where it never has the lock, it holds nothing, though its statement succeeds.
    let found = joined(&events, vec![wait(100, 160), wait(200, 260)]).evidence;
    let [record] = &found.records[..] else { panic!("{found:#?}") };
    assert_eq!((record.outcome, record.hold.high_us), (LockOutcome::TimedOut, 0));
    assert!((116_000..=120_000).contains(&record.wait_us), "{record:#?}");
}

#[test]
fn each_wait_counts_once_and_rows_are_followed_to_the_package() {
    let (mut events, sightings) = two_locks();
    events.extend(waited(100, 200, 501, LockTarget::Relation(20_001), vec![1]));
    events.extend(waited(101, 400, 501, LockTarget::Relation(20_002), vec![77]));
    // Waits for a row of session 100, which itself stands behind the package.
    events.extend(waited(102, 300, 505, LockTarget::Transaction(5), vec![100]));
    // Waits for a row of a client that waits for nobody.
    events.extend(waited(103, 300, 400, LockTarget::Transaction(6), vec![104]));
    let found = joined(&events, sightings);
    let records = &found.evidence.records;
    assert_eq!(records.iter().map(|record| record.victims_total).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(records[0].queue_depth_max, 2);
    assert_eq!(records[1].victims[0].pid, 101);
    assert_eq!(records[0].victims[1].mode, None, "a row lock has no mode on the table");
    assert_eq!(found.evidence.other_waits, 1);
    assert_eq!(found.waits.iter().filter(|wait| wait.behind.is_some()).count(), 3);
}

/// A client's wait for a relation, as samples show it.
fn sampled_wait(pid: u32, since_us: i64, last_us: i64) -> Sighting {
    let mut wait = held(20_001, LockMode::AccessShareLock, 0, 0);
    (wait.session, wait.role, wait.package, wait.granted) = (session(pid), "app".into(), false, false);
    (wait.wait_since_us, wait.first_us, wait.last_us) = (Some(since_us), since_us + 500, last_us);
    wait.gone_us = Some(last_us + 2_500);
    wait
}

#[test]
fn two_waits_of_a_client_one_just_after_the_other_are_two_and_one_in_both_sources_is_one() {
    let (mut events, mut sightings) = two_locks();
    events.extend(waited(100, 200, 240, LockTarget::Relation(20_001), vec![1]));
    // The wait that the log has, two short ones right after it, and a longer one that a busy machine logged late.
    sightings.push(sampled_wait(100, ms(200), ms(238)));
    sightings.push(sampled_wait(100, ms(242), ms(246)));
    sightings.push(sampled_wait(100, ms(249), ms(255)));
    events.extend(waited(101, 308, 400, LockTarget::Relation(20_001), vec![1]));
    sightings.push(sampled_wait(101, ms(300), ms(399)));
    let found = joined(&events, sightings);
    let record = found.evidence.records.iter().find(|record| record.relation == "public.a").unwrap();
    let of = |pid: u32| record.victims.iter().filter(|victim| victim.pid == pid).count();
    assert_eq!((of(100), of(101)), (3, 1), "{:#?}", record.victims);
}

#[test]
fn a_weaker_lock_on_what_is_held_already_is_no_record_of_its_own() {
    let (events, mut sightings) = two_locks();
    sightings.push(held(20_001, LockMode::RowExclusiveLock, 320, 495));
    let found = joined(&events, sightings).evidence;
    assert!(found.records.iter().all(|record| record.mode == LockMode::AccessExclusiveLock), "{found:#?}");
}

#[test]
fn a_failure_too_fast_to_be_sampled_is_told_by_its_statement() {
    let text = "ALTER TABLE a ADD COLUMN x int";
    let mut failure = line(
        1,
        2,
        210,
        Some("3/1"),
        LogKind::Failed { sqlstate: "55P03".into(), message: String::new(), deadlock: Vec::new() },
    );
    failure.statement = Some(text.into());
    let found = joined(&[statement(1, 1, 200, "3/1", text), failure], Vec::new()).evidence;
    let [record] = &found.records[..] else { panic!("{found:#?}") };
    assert_eq!((record.outcome, record.wait_us, record.hold.high_us), (LockOutcome::TimedOut, 10_000, 0));
}

#[test]
fn sources_that_contradict_each_other_are_named() {
    let (events, mut sightings) = two_locks();
    sightings[1].first_us = ms(700);
    sightings[1].last_us = ms(800);
    sightings[1].not_before_us = Some(ms(690));
    let trust = joined(&events, sightings).evidence.trust;
    assert!(trust.disagreements.iter().any(|sentence| sentence.contains("public.b")), "{trust:#?}");
    assert!(trust.server_log && !trust.triggers);
}

/// A trigger's note in the session's transaction, with the locks that it lists.
fn note(number: u64, event: NoteEvent, at_us: i64, text: &str, locks: &[(u32, LockMode)]) -> LogEvent {
    let listed = locks.iter().map(|(oid, mode)| {
        NotedLock(*oid, Some("public.a".into()), Some("table".into()), mode.name().into(), true)
    });
    let note = TriggerNote {
        event,
        tag: "ALTER TABLE".into(),
        statement_us: at_us - 100,
        began_us: at_us - 50,
        at_us,
        lock_timeout: "0".into(),
        locks: listed.collect(),
        advisory: Vec::new(),
        rewritten: None,
        dropped: Vec::new(),
    };
    let mut line = line(1, number, 0, Some("3/1"), LogKind::Note(Box::new(note)));
    line.at_us = at_us - at_us.rem_euclid(1_000);
    line.statement = Some(text.into());
    line
}

#[test]
fn statements_of_one_millisecond_keep_the_order_of_the_log() {
    let alter = "ALTER TABLE a ALTER COLUMN b SET STATISTICS 9";
    let strong = [(20_001, LockMode::ShareUpdateExclusiveLock)];
    let events = [
        statement(1, 1, 90, "3/1", "BEGIN"),
        statement(1, 2, 100, "3/1", alter),
        // Known to the microsecond, and after the cut stamp of the next statement.
        note(3, NoteEvent::DdlCommandStart, ms(100) + 500, alter, &[]),
        note(4, NoteEvent::DdlCommandEnd, ms(100) + 700, alter, &strong),
        duration(1, 5, 100, Some("3/1")),
        // Takes the same mode, and does not get it anew.
        statement(1, 6, 100, "3/1", "ANALYZE a"),
        duration(1, 7, 101, Some("3/1")),
        statement(1, 8, 500, "3/1", "COMMIT"),
        duration(1, 9, 501, None),
    ];
    let sightings = vec![held(20_001, LockMode::ShareUpdateExclusiveLock, 105, 495)];
    let found = joined(&events, sightings).evidence;
    let [record] = &found.records[..] else { panic!("{found:#?}") };
    assert_eq!(record.statement, "ALTER TABLE a ALTER COLUMN b SET STATISTICS ?");
}

#[test]
fn a_rollback_to_a_savepoint_ends_a_hold_and_what_is_taken_again_is_another() {
    let mode = LockMode::AccessExclusiveLock;
    let events = [
        statement(1, 1, 90, "3/1", "BEGIN"),
        statement(1, 2, 95, "3/1", "SAVEPOINT before"),
        duration(1, 3, 96, Some("3/1")),
        statement(1, 4, 100, "3/1", "LOCK TABLE a"),
        duration(1, 5, 101, Some("3/1")),
        statement(1, 6, 200, "3/1", "ROLLBACK TO SAVEPOINT before"),
        duration(1, 7, 200, Some("3/1")),
        statement(1, 8, 202, "3/1", "LOCK TABLE ONLY a"),
        duration(1, 9, 203, Some("3/1")),
        statement(1, 10, 500, "3/1", "COMMIT"),
        duration(1, 11, 501, None),
    ];
    // The sampler looked before and after, and not between.
    let found = joined(&events, vec![held(20_001, mode, 105, 495)]).evidence;
    let mut holds: Vec<_> = found
        .records
        .iter()
        .map(|record| (record.statement.as_str(), record.requested_us / 1_000, record.released_us / 1_000))
        .collect();
    holds.sort_by_key(|hold| hold.1);
    assert_eq!(holds, [("LOCK TABLE a", 100, 200), ("LOCK TABLE ONLY a", 202, 501)]);
}

#[test]
fn a_lock_seen_while_its_transaction_ends_belongs_to_that_transaction() {
    let (mut events, mut sightings) = two_locks();
    events.extend([
        statement(1, 9, 502, "3/2", "BEGIN"),
        statement(1, 10, 503, "3/2", "LOCK TABLE a IN SHARE MODE"),
        duration(1, 11, 510, Some("3/2")),
        statement(1, 12, 600, "3/2", "COMMIT"),
        duration(1, 13, 601, None),
    ]);
    // First seen when the transaction's number was gone already: the server takes that away before the locks.
    sightings[1].vxid = "3/0".into();
    sightings[1].not_before_us = Some(ms(299));
    (sightings[1].first_us, sightings[1].last_us, sightings[1].gone_us) = (ms(501), ms(500), Some(ms(520)));
    let mut shared = held(20_001, LockMode::ShareLock, 515, 595);
    shared.vxid = "3/2".into();
    sightings.push(shared);
    let found = joined(&events, sightings).evidence;
    let of = |relation: &str, mode: LockMode| {
        found.records.iter().any(|record| record.relation == relation && record.mode == mode)
    };
    assert!(of("public.b", LockMode::AccessExclusiveLock), "{found:#?}");
    assert!(of("public.a", LockMode::ShareLock), "{found:#?}");
    let late = found.records.iter().find(|record| record.relation == "public.b").unwrap();
    assert_eq!(late.statement, "LOCK TABLE b");
}

#[test]
fn a_note_in_the_middle_of_a_look_says_nothing_about_what_that_look_saw() {
    let alter = "ALTER TABLE b ADD x int";
    let mut begun = note(9, NoteEvent::DdlCommandStart, ms(504), alter, &[]);
    begun.vxid = Some("3/2".into());
    let (mut events, mut sightings) = two_locks();
    events.extend([statement(1, 8, 502, "3/2", alter), begun]);
    events.remove(7);
    // The look saw the lock on b before COMMIT, and its answer came after the next transaction had begun.
    (sightings[1].first_us, sightings[1].last_us, sightings[1].gone_us) = (ms(508), ms(306), Some(ms(520)));
    sightings[1].not_before_us = Some(ms(299));
    let found = looked(&events, sightings, vec![(ms(298), ms(299)), (ms(306), ms(508))]).evidence;
    let record = found.records.iter().find(|record| record.relation == "public.b").unwrap();
    assert_eq!(record.statement, "LOCK TABLE b", "{found:#?}");
    assert!(record.requested_us <= record.released_us, "{record:#?}");
}

/// A lock that a client's transaction holds.
fn clients(oid: u32, mode: LockMode, from_ms: i64, to_ms: i64) -> Sighting {
    let own = held(oid, mode, from_ms, to_ms);
    Sighting {
        session: session(100),
        role: "app".into(),
        package: false,
        vxid: "9/1".into(),
        query: format!("UPDATE t{oid} SET x = 1"),
        ..own
    }
}

#[test]
fn an_order_against_the_packages_is_a_cycle_though_the_two_never_met() {
    let (events, mut sightings) = two_locks();
    let mode = LockMode::RowExclusiveLock;
    sightings.extend([clients(20_002, mode, 700, 795), clients(20_001, mode, 740, 795)]);
    let order = joined(&events, sightings.clone()).evidence.order.unwrap();
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(!cycle.fired);
    let told = |side: &OrderSide| {
        let one = |lock: &OrderedLock| format!("{} {}", lock.relation, lock.statement.clone().unwrap());
        [side.role.clone(), one(&side.first), one(&side.second)]
    };
    assert_eq!(told(&cycle.package), ["pkg", "public.a LOCK TABLE a", "public.b LOCK TABLE b"]);
    assert_eq!(
        told(&cycle.other),
        ["app", "public.b UPDATE t20002 SET x = ?", "public.a UPDATE t20001 SET x = ?"]
    );
    assert_eq!((order.package_pairs, order.client_transactions, cycle.transactions), (1, 1, 1));

    // The first look that shows the one shows the other too: their order is not known.
    sightings[3].first_us = sightings[2].first_us;
    let order = joined(&events, sightings.clone()).evidence.order.unwrap();
    assert_eq!((order.client_transactions, order.cycles.len()), (0, 0));

    // The same order as the package's.
    sightings[3].first_us = ms(660);
    let order = joined(&events, sightings).evidence.order.unwrap();
    assert_eq!((order.client_transactions, order.cycles.len()), (1, 0));
}

#[test]
fn modes_that_bear_each_other_make_no_cycle_and_a_wait_tells_an_order() {
    let (events, mut sightings) = two_locks();
    sightings.iter_mut().for_each(|sighting| sighting.mode = Some(LockMode::ShareLock));
    let mut waits = clients(20_001, LockMode::ExclusiveLock, 700, 720);
    waits.granted = false;
    sightings.extend([clients(20_002, LockMode::AccessShareLock, 701, 795), waits]);
    let order = joined(&events, sightings.clone()).evidence.order.unwrap();
    assert_eq!((order.client_transactions, order.cycles.len()), (1, 0), "{order:#?}");
    sightings[2].mode = Some(LockMode::RowExclusiveLock);
    assert_eq!(joined(&events, sightings).evidence.order.unwrap().cycles.len(), 1);
}

#[test]
fn a_deadlock_names_both_sides() {
    let (mut events, sightings) = two_locks();
    let wait = |pid, mode, oid, blocker, statement: &str| DeadlockWait {
        pid,
        mode: Some(mode),
        target: LockTarget::Relation(oid),
        blocker,
        statement: statement.into(),
    };
    let deadlock = vec![
        wait(100, LockMode::RowExclusiveLock, 20_001, 1, "UPDATE a SET x = 1"),
        wait(1, LockMode::AccessExclusiveLock, 20_002, 100, "LOCK TABLE b"),
    ];
    let failed = LogKind::Failed { sqlstate: "40P01".into(), message: String::new(), deadlock };
    events.push(line(100, 1, 320, Some("9/1"), failed));
    let order = joined(&events, sightings).evidence.order.unwrap();
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(cycle.fired);
    let (package, other) = (&cycle.package, &cycle.other);
    assert_eq!((package.role.as_str(), other.role.as_str()), ("pkg", "app"));
    assert_eq!(package.first.mode, Some(LockMode::AccessExclusiveLock));
    let relations =
        [&package.first, &package.second, &other.first, &other.second].map(|lock| lock.relation.as_str());
    assert_eq!(relations, ["public.a", "public.b", "public.b", "public.a"]);
    assert_eq!(package.first.statement.as_deref(), Some("LOCK TABLE a"));
    assert_eq!(other.second.statement.as_deref(), Some("UPDATE a SET x = ?"));
}
