//! Looks in the orders in which two connections bring them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Look, State};
use crate::recorder::observation::PackageIdentity;
use crate::recorder::sampler::{SLOW_US, Sighting};

const PACKAGE: u32 = 1;
const CLIENT: u32 = 2;

/// A lock on relation 20001 as a glance tells of it.
fn held(pid: u32, mode: &str) -> Value {
    json!({
        "pid": pid, "locktype": "relation", "relation": 20_001, "vxid": format!("{pid}/1"), "mode": mode, "granted": true
    })
}

/// The same as a full look tells of it.
fn told(pid: u32, mode: &str) -> Value {
    let mut row = held(pid, mode);
    let who = json!({
        "start_s": 9, "role": if pid == PACKAGE { "pkg" } else { "app" }, "application": "", "package": pid == PACKAGE,
        "client": true, "query": "LOCK TABLE a", "query_start_us": 7
    });
    row.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
    row
}

fn look(low_us: i64, high_us: i64, rows: &[Value]) -> Look {
    let rows = rows.iter().map(|row| serde_json::from_value(row.clone()).unwrap()).collect();
    Look { low_us, high_us, rows }
}

/// A sampler's memory at its fast pace that knows of the client alone.
fn acquainted() -> State {
    let mut state = State::new(BTreeMap::new(), 0);
    state.watching(true, 0);
    state.want_full();
    state.asked(0);
    assert!(!state.may_glance());
    assert!(state.full(look(0, 100, &[]), vec![CLIENT.cast_signed()]).is_empty());
    assert!(state.may_glance() && !state.wants_full(1_000));
    state
}

fn glance(state: &mut State, low_us: i64, high_us: i64, rows: &[Value]) {
    let identity = PackageIdentity { roles: vec!["pkg".into()], ..PackageIdentity::default() };
    state.glanced(look(low_us, high_us, rows), &identity, high_us.unsigned_abs());
}

fn times(sighting: &Sighting) -> (i64, i64, Option<i64>) {
    (sighting.first_us, sighting.last_us, sighting.gone_us)
}

#[test]
fn glances_of_a_stranger_wait_for_the_full_look_and_are_taken_in_by_their_own_times() {
    let mut state = acquainted();
    let mode = "AccessExclusiveLock";
    glance(&mut state, 2_500, 2_600, &[held(PACKAGE, mode)]);
    assert!(state.wants_full(2_600) && state.log.sightings.is_empty());
    state.asked(2_600);
    // The full look is read for so long that the next glance comes before its answer, and must wait behind the first.
    glance(&mut state, 5_000, 5_100, &[held(PACKAGE, mode)]);
    let unnamed = state.full(look(2_700, 6_000, &[told(PACKAGE, mode)]), vec![CLIENT.cast_signed()]);
    assert_eq!(unnamed.into_iter().collect::<Vec<_>>(), [20_001]);
    let [sighting] = &state.log.sightings[..] else { panic!("{:#?}", state.log) };
    assert_eq!(times(sighting), (2_600, 5_000, None));
    assert_eq!((sighting.query.as_str(), sighting.query_start_us), ("LOCK TABLE a", Some(7)));
    assert_eq!(state.log.looks, [(0, 100), (2_500, 2_600), (5_000, 5_100)]);
    // What the long look does not show has not ended with it.
    glance(&mut state, 7_500, 7_600, &[held(PACKAGE, mode)]);
    state.full(look(7_550, 7_700, &[]), vec![CLIENT.cast_signed()]);
    assert_eq!(times(&state.log.sightings[0]), (2_600, 7_500, None));
    glance(&mut state, 10_000, 10_100, &[]);
    assert_eq!(times(&state.log.sightings[0]), (2_600, 7_500, Some(10_100)));
    state.watching(false, 12_000);
    assert_eq!((state.log.taken, state.log.gaps.longest_us), (5, 2_600));
}

#[test]
fn a_stranger_who_has_gone_before_the_full_look_does_not_keep_others_waiting() {
    let mut state = acquainted();
    glance(&mut state, 2_500, 2_600, &[held(PACKAGE, "ShareLock")]);
    state.full(look(2_700, 2_900, &[]), vec![CLIENT.cast_signed()]);
    assert!(state.log.sightings.is_empty() && state.waiting.is_empty());
    assert_eq!(state.log.looks, [(0, 100), (2_500, 2_600), (2_700, 2_900)]);
}

#[test]
fn a_full_look_from_before_the_stranger_does_not_answer_for_it() {
    let mut state = acquainted();
    state.asked(2_400);
    glance(&mut state, 2_500, 2_600, &[held(PACKAGE, "ShareLock")]);
    state.full(look(2_400, 2_550, &[]), vec![CLIENT.cast_signed()]);
    assert!(state.log.sightings.is_empty() && state.wants_full(2_700));
    state.full(look(2_800, 2_900, &[told(PACKAGE, "ShareLock")]), vec![CLIENT.cast_signed()]);
    assert_eq!(times(&state.log.sightings[0]), (2_600, 2_800, None));
}

#[test]
fn what_clients_hold_begins_and_ends_with_full_looks() {
    let mut state = acquainted();
    let (mode, others) = ("RowExclusiveLock", vec![CLIENT.cast_signed()]);
    glance(&mut state, 2_500, 2_600, &[]);
    // Read beside a glance.
    state.full(look(2_550, 2_700, &[told(CLIENT, mode)]), others.clone());
    glance(&mut state, 5_000, 5_100, &[]);
    assert_eq!(times(&state.log.sightings[0]), (2_700, 2_550, None));
    assert_eq!(state.log.sightings[0].not_before_us, Some(0));
    state.full(look(5_050, 5_200, &[]), others);
    assert_eq!(times(&state.log.sightings[0]), (2_700, 2_550, Some(5_200)));
}

#[test]
fn a_loss_asks_for_a_full_look_and_its_glances_are_not_taken() {
    let mut state = acquainted();
    glance(&mut state, 2_500, 2_600, &[held(PACKAGE, "ShareLock")]);
    state.lose(3_000, Some("cut".to_owned()));
    state.lose(3_100, None);
    assert!(!state.may_glance() && state.waiting.is_empty());
    assert_eq!((state.log.taken, state.log.losses.len()), (1, 1));
    assert!(state.wants_full(SLOW_US));
}

#[test]
fn a_wait_that_begins_anew_between_two_looks_is_another_one() {
    let mut state = acquainted();
    let waiting = |since_us: i64| {
        let mut row = told(PACKAGE, "AccessExclusiveLock");
        let wait = json!({ "granted": false, "wait_since_us": since_us });
        row.as_object_mut().unwrap().extend(wait.as_object().unwrap().clone());
        row
    };
    let others = vec![CLIENT.cast_signed()];
    state.full(look(2_500, 2_600, &[waiting(2_400)]), others.clone());
    state.asked(2_600);
    glance(&mut state, 5_000, 5_100, &[waiting(2_400)]);
    assert_eq!((state.log.sightings.len(), state.wants_full(5_100)), (1, false));
    glance(&mut state, 7_500, 7_600, &[waiting(7_000)]);
    let [first, second] = &state.log.sightings[..] else { panic!("{:#?}", state.log) };
    assert_eq!((times(first), first.gone_within_transaction), ((2_600, 5_000, Some(7_000)), true));
    assert_eq!((times(second), second.wait_since_us), ((7_600, 7_500, None), Some(7_000)));
    // What a look from before tells changes nothing.
    state.full(look(5_050, 7_650, &[waiting(2_400)]), others);
    assert_eq!(state.log.sightings.len(), 2);
    assert_eq!(state.log.sightings[1].wait_since_us, Some(7_000));
}
