//! Each check firing and silent, the verdict rule, waivers, and what a weak instrument takes away.

use std::collections::BTreeMap;

use super::judge;
use crate::check::{CHECKS, CheckId, CheckSetting, Outcome};
use crate::evidence::{
    BrokenStatement, CompatEvidence, DoubleRunOutcome, Evidence, FaultEvidence, FaultOutcome, Interruption,
    InvariantBreak, InvariantEvidence, Limits, Refusal, SchemaState, WriteFate,
};
use crate::finding::Waiver;
use crate::lock::{Bounds, LockLeftover, LockMode};
use crate::phase::Phase;
use crate::sample::{self, TODAY};
use crate::traffic::{ErrorKind, TrafficEvidence};

use Outcome::{Fail, Inconclusive, Pass, Unmeasured, Waived};

type Change = fn(&mut Evidence);

/// Judges the safe sample after a change and looks at one check.
fn check(id: CheckId, change: Change, expected: Outcome) {
    let mut evidence = sample::safe();
    change(&mut evidence);
    let judgement = judge(&evidence, TODAY);
    let check = &judgement.checks[id as usize];
    assert_eq!(check.id, id);
    assert_eq!(check.outcome, expected, "{id}: {}", check.evidence);
    assert!(!check.evidence.is_empty(), "{id} says nothing");
    if expected == Fail {
        assert!(judgement.findings.iter().any(|finding| finding.check == id), "{id} fails without a finding");
    }
}

fn traffic(evidence: &mut Evidence) -> &mut TrafficEvidence {
    evidence.traffic.as_mut().unwrap()
}

fn preflight_finds(evidence: &mut Evidence, id: CheckId) {
    evidence.preflight.as_mut().unwrap().findings.push(sample::finding(id, "object"));
}

fn residue_left(evidence: &mut Evidence, id: CheckId) {
    let left = vec![sample::difference("probe", "object", None, Some("new"))];
    evidence.residue.as_mut().unwrap().left.insert(id, left);
}

fn refuse(evidence: &mut Evidence, check: CheckId) {
    let reason = "entry ../escape leaves the folder".into();
    evidence.package.as_mut().unwrap().refused = Some(Refusal { check, reason });
}

/// A change that makes the check fire, and the outcome that it then has.
fn firing(id: CheckId) -> (Change, Outcome) {
    match id {
        CheckId::PkgArchive => (|e| refuse(e, CheckId::PkgArchive), Fail),
        CheckId::PkgDigest => (|e| refuse(e, CheckId::PkgDigest), Fail),
        CheckId::PrePrivilege => (|e| preflight_finds(e, CheckId::PrePrivilege), Fail),
        CheckId::PreUnit => (|e| preflight_finds(e, CheckId::PreUnit), Fail),
        CheckId::PreConfigKey => (|e| preflight_finds(e, CheckId::PreConfigKey), Fail),
        CheckId::PrePath => (|e| preflight_finds(e, CheckId::PrePath), Fail),
        CheckId::PreSchedule => (|e| preflight_finds(e, CheckId::PreSchedule), Fail),
        CheckId::PreEndpoint => (|e| preflight_finds(e, CheckId::PreEndpoint), Fail),
        CheckId::PreCredential => (|e| preflight_finds(e, CheckId::PreCredential), Fail),
        CheckId::PreSql => (|e| preflight_finds(e, CheckId::PreSql), Fail),
        CheckId::LockHold | CheckId::LockWait => {
            (|e| e.locks.as_mut().unwrap().records.push(sample::long_lock()), Fail)
        }
        CheckId::LockMigration => {
            (|e| e.locks.as_mut().unwrap().sessions[0].migration_lock_held = false, Fail)
        }
        CheckId::LockTimeout => (|e| e.locks.as_mut().unwrap().records[0].lock_timeout_ms = Some(0), Fail),
        CheckId::LockDoubleRun => {
            (|e| e.double_run.as_mut().unwrap().outcome = DoubleRunOutcome::NotSerialised, Fail)
        }
        CheckId::LockDeadlock => (|e| cycle(e, true), Fail),
        CheckId::LockOrder => (|e| cycle(e, false), Fail),
        CheckId::LockResidue => (
            |e| {
                let left = LockLeftover {
                    phase: Phase::Upgrade,
                    kind: "invalid index".into(),
                    object: "public.orders_priority".into(),
                };
                e.locks.as_mut().unwrap().leftovers.push(left);
            },
            Fail,
        ),
        CheckId::DepOutage => {
            (|e| e.dependents.as_mut().unwrap().outages.push(sample::outage(31, 6_420_000)), Fail)
        }
        CheckId::SloLatency => (|e| traffic(e).phases[2].slow = 100, Fail),
        CheckId::SloErrors => (|e| _ = traffic(e).phases[3].errors.insert(ErrorKind::Timeout, 90), Fail),
        CheckId::SloBudget => (|e| _ = traffic(e).phases[2].errors.insert(ErrorKind::Reset, 1_400), Pass),
        _ => firing_after(id),
    }
}

/// The same for rollback and the instrument.
fn firing_after(id: CheckId) -> (Change, Outcome) {
    match id {
        CheckId::UpgStep => (
            |e| {
                e.steps.iter_mut().find(|s| s.phase == Phase::Upgrade).unwrap().error =
                    Some("exit code 3".into())
            },
            Fail,
        ),
        CheckId::RollStuck => {
            (|e| e.rollback.as_mut().unwrap().stuck.push("090-restore did not end.".into()), Fail)
        }
        CheckId::RollSchema => (
            |e| {
                let drift = sample::difference("index", "public.i", Some("btree (a)"), None);
                e.schema.as_mut().unwrap().drift.push(drift);
            },
            Fail,
        ),
        CheckId::RollData => (
            |e| {
                let gone = sample::difference("table", "public.customers", Some("10 rows"), Some("9 rows"));
                e.data.as_mut().unwrap().differences.push(gone);
            },
            Fail,
        ),
        CheckId::RollLedger => {
            (|e| _ = e.ledger.as_mut().unwrap().phases[2].fates.insert(WriteFate::Lost, 7), Fail)
        }
        CheckId::RollFlag => (|e| residue_left(e, CheckId::RollFlag), Fail),
        CheckId::RollWebhook => (|e| residue_left(e, CheckId::RollWebhook), Fail),
        CheckId::RollSchedule => (|e| residue_left(e, CheckId::RollSchedule), Fail),
        CheckId::RollUnit => (|e| residue_left(e, CheckId::RollUnit), Fail),
        CheckId::RollFile => (|e| residue_left(e, CheckId::RollFile), Fail),
        CheckId::RollReapply => {
            (|e| e.reapply.as_mut().unwrap().failed.push("020-migrate failed again.".into()), Fail)
        }
        CheckId::RollFault => (
            |e| {
                let cell = &mut e.faults.as_mut().unwrap().cells[0];
                cell.outcome = FaultOutcome::Stuck;
                cell.why = vec!["step 020-migrate: exit code 3".into()];
            },
            Fail,
        ),
        CheckId::RollCompat => (
            |e| {
                let broken = BrokenStatement {
                    sql: "SELECT note FROM orders WHERE id = $1".into(),
                    state: SchemaState::Upgraded,
                    sqlstate: "42703".into(),
                    message: "column \"note\" does not exist".into(),
                };
                e.compat.as_mut().unwrap().broken.push(broken);
            },
            Fail,
        ),
        CheckId::RollInvariant => (|e| break_invariant(e, Phase::Soak, Some(Phase::Soak)), Fail),
        CheckId::EvidDriver => (|e| traffic(e).driver.dropped = 1, Unmeasured),
        CheckId::EvidRecorder => {
            (|e| e.locks.as_mut().unwrap().trust.gaps[1].time_us = 4_100_000, Unmeasured)
        }
        CheckId::EvidCoverage => (
            |e| {
                traffic(e).routes.retain(|route| route.route == "GET /products" || route.phase != Phase::Soak)
            },
            Inconclusive,
        ),
        CheckId::EvidScale => (|e| e.reach.as_mut().unwrap().relations[0].rows = 100, Inconclusive),
        _ => unreachable!("{id} belongs to the first half"),
    }
}

#[test]
fn a_locked_table_that_no_client_touched_is_named() {
    check(
        CheckId::EvidCoverage,
        |e| e.reach.as_mut().unwrap().traffic_relations = vec!["public.products".into()],
        Inconclusive,
    );
}

#[test]
fn every_check_fires_and_is_silent() {
    for record in CHECKS {
        let (change, expected) = firing(record.id);
        if record.id == CheckId::SloBudget {
            continue;
        }
        check(record.id, change, expected);
        check(record.id, |_| {}, Pass);
    }
}

#[test]
fn a_budget_is_spent_by_bad_requests_at_production_rate() {
    // 1,400 errors in 25 s at 100/s offered are 0.54 % of the 259,200 that 99.9 % allows at 100/s.
    check(CheckId::SloBudget, firing(CheckId::SloBudget).0, Pass);
    check(
        CheckId::SloBudget,
        |e| {
            _ = traffic(e).phases[2].errors.insert(ErrorKind::Reset, 1_400);
            e.rehearsal.limits.checks.insert(CheckId::SloBudget, sample::setting(0.5));
        },
        Fail,
    );
    let mut evidence = sample::safe();
    traffic(&mut evidence).phases[2].errors.insert(ErrorKind::Reset, 1_400);
    let budget = judge(&evidence, TODAY).checks[CheckId::SloBudget as usize].clone();
    assert!((budget.observed.unwrap() - 0.5401).abs() < 0.001, "{budget:?}");
    // The offered rate cancels out: half the rate with half the bad requests spends the same.
    for index in [2, 4] {
        let phase = &mut traffic(&mut evidence).phases[index];
        phase.planned /= 2;
        phase.errors.values_mut().for_each(|number| *number /= 2);
    }
    let halved = judge(&evidence, TODAY).checks[CheckId::SloBudget as usize].clone();
    assert!((halved.observed.unwrap() - budget.observed.unwrap()).abs() < 0.001, "{halved:?}");
}

#[test]
fn without_evidence_no_check_passes() {
    let judgement = judge(&Evidence::default(), TODAY);
    for check in &judgement.checks {
        assert_eq!(check.outcome, Inconclusive, "{}: {}", check.id, check.evidence);
        assert_eq!(check.observed, None);
    }
    assert_eq!(judgement.verdict.exit_code, 3);
}

#[test]
fn a_rehearsal_that_ended_in_the_middle_proves_nothing_about_the_rest() {
    for id in [
        CheckId::LockHold,
        CheckId::LockWait,
        CheckId::LockMigration,
        CheckId::LockTimeout,
        CheckId::LockDeadlock,
        CheckId::LockOrder,
        CheckId::LockResidue,
        CheckId::DepOutage,
        CheckId::SloLatency,
        CheckId::SloErrors,
        CheckId::SloBudget,
        CheckId::EvidDriver,
        CheckId::EvidRecorder,
        CheckId::EvidCoverage,
    ] {
        check(id, |e| e.phases.truncate(4), Inconclusive);
    }
}

#[test]
fn evidence_with_holes_is_inconclusive() {
    let cases: &[(CheckId, Change)] = &[
        (CheckId::PkgDigest, |e| e.package.as_mut().unwrap().entries = 0),
        (CheckId::PkgDigest, |e| refuse(e, CheckId::PkgArchive)),
        (CheckId::PreUnit, |e| {
            _ = e.preflight.as_mut().unwrap().missing.insert(CheckId::PreUnit, "no inventory".into());
        }),
        (CheckId::LockHold, |e| {
            e.locks.as_mut().unwrap().records[0].hold = Bounds { low_us: 10, high_us: 2_000_000 };
        }),
        (CheckId::LockTimeout, |e| e.locks.as_mut().unwrap().records[0].lock_timeout_ms = None),
        (CheckId::LockMigration, |e| e.locks.as_mut().unwrap().sessions.clear()),
        (CheckId::LockDoubleRun, |e| e.double_run.as_mut().unwrap().overlapped = false),
        (CheckId::LockResidue, |e| e.locks.as_mut().unwrap().leftovers_unread.push(Phase::Rollback)),
        (CheckId::LockDeadlock, |e| e.locks.as_mut().unwrap().order = None),
        (CheckId::LockDeadlock, |e| e.locks.as_mut().unwrap().trust.server_log = false),
        (CheckId::LockOrder, |e| order(e).client_transactions = 0),
        (CheckId::DepOutage, |e| e.dependents.as_mut().unwrap().probes = 0),
        (CheckId::SloLatency, |e| traffic(e).phases[1].sent = 99),
        (CheckId::RollData, |e| e.data.as_mut().unwrap().tables.clear()),
        (CheckId::RollLedger, |e| {
            _ = e.ledger.as_mut().unwrap().phases[1].fates.insert(WriteFate::Unread, 1);
        }),
        (CheckId::RollLedger, |e| e.ledger.as_mut().unwrap().phases.truncate(1)),
        (CheckId::RollFlag, |e| {
            let residue = e.residue.as_mut().unwrap();
            residue.probed.retain(|id| *id != CheckId::RollFlag);
            residue.unreachable.insert(CheckId::RollFlag, "connection refused".into());
        }),
        (CheckId::EvidScale, |e| e.rehearsal.limits.production_rows.clear()),
    ];
    for (id, change) in cases {
        check(*id, *change, Inconclusive);
    }
}

#[test]
fn what_does_not_count_stays_silent() {
    let cases: &[(CheckId, Change)] = &[
        (CheckId::LockHold, |e| {
            e.locks
                .as_mut()
                .unwrap()
                .records
                .push(crate::lock::LockRecord { preexisting: false, ..sample::long_lock() });
        }),
        (CheckId::LockHold, |e| {
            e.locks.as_mut().unwrap().records.push(crate::lock::LockRecord {
                mode: LockMode::ShareUpdateExclusiveLock,
                ..sample::long_lock()
            });
        }),
        (CheckId::LockDoubleRun, |e| e.double_run.as_mut().unwrap().outcome = DoubleRunOutcome::Refused),
        (CheckId::SloLatency, |e| traffic(e).phases[0].slow = 400),
        (CheckId::EvidCoverage, |e| {
            // Not known is not the same as untouched.
            e.reach.as_mut().unwrap().traffic_relations.clear();
        }),
        (CheckId::EvidCoverage, |e| {
            traffic(e).routes.push(sample::summary(Phase::Baseline, "GET /rare", 3));
        }),
    ];
    for (id, change) in cases {
        check(*id, *change, Pass);
    }
}

#[test]
fn a_single_route_can_break_an_objective_that_the_total_keeps() {
    check(
        CheckId::SloLatency,
        |e| {
            let routes = &mut traffic(e).routes;
            let orders = routes.iter_mut().find(|r| r.route == "POST /orders" && r.phase == Phase::Upgrade);
            orders.unwrap().slow = 12;
        },
        Fail,
    );
}

#[test]
fn a_broken_baseline_is_named() {
    let mut evidence = sample::safe();
    traffic(&mut evidence).phases[1].slow = 400;
    let latency = judge(&evidence, TODAY).checks[CheckId::SloLatency as usize].clone();
    assert_eq!(latency.outcome, Fail);
    assert!(
        latency.evidence.starts_with("The baseline itself breaks this objective"),
        "{}",
        latency.evidence
    );
}

#[test]
fn a_saturated_driver_takes_client_timing_and_nothing_else() {
    let mut evidence = sample::hazardous();
    traffic(&mut evidence).driver.send_lag.p99_us = Some(26_000);
    let judgement = judge(&evidence, TODAY);
    let outcome = |id: CheckId| judgement.checks[id as usize].outcome;
    for id in [CheckId::EvidDriver, CheckId::SloLatency, CheckId::SloErrors, CheckId::SloBudget] {
        assert_eq!(outcome(id), Unmeasured, "{id}");
    }
    for id in [CheckId::LockHold, CheckId::LockWait, CheckId::DepOutage, CheckId::RollLedger] {
        assert_eq!(outcome(id), Fail, "{id}");
    }
    assert_eq!((judgement.verdict.outcome, judgement.verdict.exit_code), (Fail, 1));
    let mut evidence = sample::safe();
    traffic(&mut evidence).driver.sent = 8_490;
    let verdict = judge(&evidence, TODAY).verdict;
    assert_eq!((verdict.outcome, verdict.exit_code), (Unmeasured, 4));
}

fn order(evidence: &mut Evidence) -> &mut crate::lock::LockOrder {
    evidence.locks.as_mut().unwrap().order.as_mut().unwrap()
}

fn cycle(evidence: &mut Evidence, fired: bool) {
    order(evidence).cycles.push(sample::cycle(fired));
}

#[test]
fn a_deadlock_decides_and_a_possible_one_only_advises() {
    let mut evidence = sample::safe();
    cycle(&mut evidence, false);
    let judgement = judge(&evidence, TODAY);
    assert_eq!(judgement.verdict.outcome, Pass, "{:?}", judgement.verdict);
    let [finding] = &judgement.findings[..] else { panic!("{:#?}", judgement.findings) };
    assert_eq!(finding.check, CheckId::LockOrder);
    assert_eq!(
        finding.what,
        "3 client transactions took the opposite order to the package, and did not meet it: storefront_upgrade had ACCESS \
         EXCLUSIVE on public.orders (`ALTER TABLE orders ADD COLUMN priority integer`) and asked for ACCESS EXCLUSIVE on \
         public.customers (`ALTER TABLE customers ADD COLUMN level integer`); storefront had ROW EXCLUSIVE on \
         public.customers (`UPDATE customers SET seen = ? WHERE id = ?`) and asked for ROW EXCLUSIVE on public.orders \
         (`INSERT INTO orders VALUES (?)`)."
    );
    check(CheckId::LockOrder, |e| cycle(e, true), Pass);
    check(CheckId::LockDeadlock, |e| cycle(e, false), Pass);
    cycle(&mut evidence, true);
    assert_eq!(judge(&evidence, TODAY).verdict.outcome, Fail);
}

#[test]
fn short_gaps_are_shown_and_no_fault_and_a_report_without_gaps_is_judged_by_its_samples() {
    check(
        CheckId::EvidRecorder,
        |e| {
            let trust = &mut e.locks.as_mut().unwrap().trust;
            trust.samples_taken = 2_000;
            trust.gaps[0].time_us = 30_000_000;
        },
        Pass,
    );
    let old: Change = |e| {
        let trust = &mut e.locks.as_mut().unwrap().trust;
        trust.gaps.clear();
        trust.samples_taken = 3_500;
    };
    check(CheckId::EvidRecorder, old, Unmeasured);
}

#[test]
fn a_weak_recorder_proves_no_absence() {
    for weaken in [
        (|e: &mut Evidence| e.locks.as_mut().unwrap().trust.triggers = false) as Change,
        |e| e.locks.as_mut().unwrap().trust.ddl_seen_twice = 5,
        |e| e.locks.as_mut().unwrap().trust.sample_gap_max_us = 600_000,
        |e| e.locks.as_mut().unwrap().trust.disagreements.push("ALTER TABLE: 3 ms or 9 ms".into()),
    ] {
        for id in [CheckId::LockHold, CheckId::LockWait, CheckId::LockMigration, CheckId::LockTimeout] {
            check(id, weaken, Inconclusive);
        }
        check(CheckId::RollLedger, weaken, Pass);
    }
}

#[test]
fn a_small_dataset_proves_no_short_duration() {
    let small: Change = |e| e.reach.as_mut().unwrap().relations[0].rows = 100;
    for id in [CheckId::LockHold, CheckId::LockWait, CheckId::SloLatency, CheckId::SloBudget] {
        check(id, small, Inconclusive);
    }
    check(CheckId::SloErrors, small, Pass);
}

/// Judges the sample with a long lock and one waiver for it.
fn waived(waiver: Waiver) -> (Outcome, String, usize) {
    let mut evidence = sample::safe();
    let lock = crate::lock::LockRecord { victims: Vec::new(), victims_total: 0, ..sample::long_lock() };
    evidence
        .locks
        .as_mut()
        .unwrap()
        .records
        .push(crate::lock::LockRecord { lock_timeout_ms: Some(500), ..lock });
    evidence.rehearsal.limits.waivers.push(waiver);
    let judgement = judge(&evidence, TODAY);
    let hold = &judgement.checks[CheckId::LockHold as usize];
    let expected = if hold.outcome == Waived { 0 } else { 1 };
    assert_eq!(judgement.verdict.exit_code, expected, "{}", judgement.verdict.sentence);
    (hold.outcome, hold.evidence.clone(), judgement.waived.len())
}

fn waiver() -> Waiver {
    Waiver {
        check: CheckId::LockHold,
        object: "public.orders".into(),
        bound: Some(7_000.0),
        reason: "announced maintenance window".into(),
        owner: "ada".into(),
        expires: TODAY.into(),
    }
}

#[test]
fn waivers_accept_until_they_expire_or_are_exceeded() {
    let (outcome, _, accepted) = waived(waiver());
    assert_eq!((outcome, accepted), (Waived, 1));
    let cases = [
        (Waiver { expires: "2026-11-22".into(), ..waiver() }, "expired on 2026-11-22"),
        (Waiver { bound: Some(6_000.0), ..waiver() }, "accepts 6.0 s at most, and 6.5 s was seen"),
        (Waiver { expires: "soon".into(), ..waiver() }, "is no day"),
        (Waiver { object: "public.other".into(), ..waiver() }, ""),
        (Waiver { check: CheckId::LockWait, ..waiver() }, ""),
    ];
    for (waiver, sentence) in cases {
        let (outcome, evidence, accepted) = waived(waiver);
        assert_eq!((outcome, accepted), (Fail, 0));
        assert!(evidence.contains(sentence), "{evidence}");
    }
}

#[test]
fn faults_that_were_not_tried_are_no_pass() {
    let cases: [(Change, &str); 3] = [
        (|e| e.faults = None, "no fault was tried inside the upgrade"),
        (|e| faults(e).cells.clear(), "no fault was tried: 35 of 36 faults"),
        (|e| *faults(e) = FaultEvidence::default(), "the package has no step that a fault could strike"),
    ];
    for (change, missing) in cases {
        let mut evidence = sample::safe();
        change(&mut evidence);
        let judgement = judge(&evidence, TODAY);
        let check = &judgement.checks[CheckId::RollFault as usize];
        assert_eq!(check.outcome, Inconclusive);
        assert!(check.evidence.starts_with(missing), "{}", check.evidence);
    }
}

fn faults(evidence: &mut Evidence) -> &mut FaultEvidence {
    evidence.faults.as_mut().unwrap()
}

#[test]
fn statements_that_were_not_tried_are_no_pass() {
    let cases: [(Change, &str); 4] = [
        (|e| e.compat = None, "no statement of the clients was tried on the upgraded schema"),
        (|e| compat(e).statements = 0, "no statement of the clients was seen before the upgrade"),
        (
            |e| compat(e).tried = vec![SchemaState::Upgraded],
            "the statements were not tried after the rollback",
        ),
        (|e| compat(e).tried.clear(), "the statements were not tried on the upgraded schema"),
    ];
    for (change, missing) in cases {
        let mut evidence = sample::safe();
        change(&mut evidence);
        let judgement = judge(&evidence, TODAY);
        let check = &judgement.checks[CheckId::RollCompat as usize];
        assert_eq!(check.outcome, Inconclusive);
        assert!(check.evidence.starts_with(missing), "{}", check.evidence);
    }
}

fn invariant(evidence: &mut Evidence) -> &mut InvariantEvidence {
    &mut evidence.invariants[0]
}

/// Lets the invariant break in a phase, and for the first time since the upgrade in another.
fn break_invariant(evidence: &mut Evidence, first: Phase, since: Option<Phase>) {
    let broken =
        |phase| InvariantBreak { phase: Some(phase), at_us: 41_000_000, seen: "3 offending rows".into() };
    invariant(evidence).broken = Some(broken(first));
    invariant(evidence).broken_since = since.map(broken);
}

#[test]
fn an_invariant_that_proves_nothing_is_no_pass_and_one_that_breaks_names_when() {
    let said = |change: Change| {
        let mut evidence = sample::safe();
        change(&mut evidence);
        let check = judge(&evidence, TODAY).checks[CheckId::RollInvariant as usize].clone();
        (check.outcome, check.evidence)
    };
    let cases: [(Change, &str); 7] = [
        (|e| e.invariants.clear(), "no invariant was read"),
        (
            |e| break_invariant(e, Phase::Baseline, None),
            "invariant lines make the total did not hold before the upgrade (in baseline, 41.0 s after the start: 3 \
             offending rows)",
        ),
        // Broken before, it accuses nobody of having broken it later.
        (
            |e| break_invariant(e, Phase::Warmup, Some(Phase::Soak)),
            "invariant lines make the total did not hold before the upgrade",
        ),
        (
            |e| invariant(e).error = Some((Phase::Soak, "column \"total\" does not exist (42703)".into())),
            "invariant lines make the total could not be read in soak: column",
        ),
        (
            |e| invariant(e).phases.retain(|one| one.phase < Phase::Upgrade),
            "invariant lines make the total was never read in upgrade, soak or rollback",
        ),
        (
            |e| invariant(e).phases.retain(|one| one.phase > Phase::Baseline),
            "invariant lines make the total was never read before the upgrade",
        ),
        (
            |e| invariant(e).held_after = None,
            "invariant lines make the total was not read after the rollback",
        ),
    ];
    for (change, missing) in cases {
        let (outcome, evidence) = said(change);
        assert_eq!(outcome, Inconclusive, "{evidence}");
        assert!(evidence.starts_with(missing), "{evidence}");
    }
    let (outcome, evidence) = said(|e| break_invariant(e, Phase::Upgrade, Some(Phase::Upgrade)));
    assert_eq!(outcome, Fail);
    assert_eq!(
        evidence,
        "Invariant lines make the total does not hold in upgrade, 41.0 s after the start: 3 offending rows; after the \
         rollback it holds again."
    );
}

fn compat(evidence: &mut Evidence) -> &mut CompatEvidence {
    evidence.compat.as_mut().unwrap()
}

#[test]
fn the_verdict_rule_and_its_exit_codes() {
    let cases: &[(Change, Outcome, u8)] = &[
        (|_| {}, Pass, 0),
        (|e| preflight_finds(e, CheckId::PreUnit), Fail, 1),
        (|e| e.reapply = None, Inconclusive, 3),
        (|e| traffic(e).driver.dropped = 5, Unmeasured, 4),
        // A workload that ran out of rows says nothing against the package.
        (ran_dry, Unmeasured, 4),
        (|e| interrupt(e, true), Inconclusive, 5),
        (|e| interrupt(e, false), Inconclusive, 3),
        (|e| refuse(e, CheckId::PkgDigest), Fail, 6),
        // An advisory check decides nothing, a required one does.
        (|e| e.rehearsal.limits.production_rows.clear(), Pass, 0),
        (|e| advisory(e, CheckId::PreUnit), Pass, 0),
    ];
    for (change, outcome, exit_code) in cases {
        let mut evidence = sample::safe();
        change(&mut evidence);
        let verdict = judge(&evidence, TODAY).verdict;
        assert_eq!((verdict.outcome, verdict.exit_code), (*outcome, *exit_code), "{}", verdict.sentence);
    }
}

fn ran_dry(evidence: &mut Evidence) {
    let traffic = traffic(evidence);
    traffic.driver.dry = 500;
    for summary in traffic.phases.iter_mut().chain(&mut traffic.routes) {
        summary.planned += 100;
        summary.errors.insert(ErrorKind::FeederDry, 100);
    }
}

fn interrupt(evidence: &mut Evidence, environment: bool) {
    evidence.interrupted = Some(Interruption { reason: "stopped by Ctrl-C".into(), environment });
}

fn advisory(evidence: &mut Evidence, id: CheckId) {
    preflight_finds(evidence, id);
    let setting = CheckSetting { limit: None, required: Some(false) };
    evidence.rehearsal.limits.checks.insert(id, setting);
}

#[test]
fn a_finding_names_the_routes_that_waited_and_how_many_are_known() {
    let waits = |route: Option<&str>, waits: u64| crate::lock::RouteWaits {
        route: route.map(str::to_owned),
        waits,
        longest_us: 1_000_000,
    };
    let said = |routes: Vec<crate::lock::RouteWaits>| {
        let mut evidence = sample::safe();
        let lock = crate::lock::LockRecord { routes, ..sample::long_lock() };
        evidence.locks.as_mut().unwrap().records.insert(0, lock);
        let findings = judge(&evidence, TODAY).findings;
        findings.into_iter().find(|finding| finding.check == CheckId::LockWait).unwrap().what
    };
    let all = said(vec![waits(Some("POST /orders"), 3), waits(Some("GET /orders"), 1)]);
    assert!(all.contains(" for POST /orders, GET /orders while "), "{all}");
    let some = said(vec![waits(None, 5), waits(Some("GET /orders"), 2)]);
    assert!(some.contains(", 2 of them surely for GET /orders while "), "{some}");
    let none = said(vec![waits(None, 5)]);
    assert!(!none.contains("surely"), "{none}");
}

#[test]
fn the_sentence_names_what_a_release_engineer_needs() {
    let sentence = |evidence: &Evidence| judge(evidence, TODAY).verdict.sentence;
    let mut only_wait = sample::safe();
    only_wait.locks.as_mut().unwrap().records.push(sample::long_lock());
    let mut small_unknown = sample::safe();
    small_unknown.rehearsal.limits = Limits::default();
    let mut thin = sample::safe();
    thin.reapply = None;
    let sentences = BTreeMap::from([
        ("1 hazardous", sentence(&sample::hazardous())),
        ("2 only a long lock", sentence(&only_wait)),
        ("3 safe", sentence(&sample::safe())),
        ("4 production unknown", sentence(&small_unknown)),
        ("5 inconclusive", sentence(&thin)),
        ("6 nothing", sentence(&Evidence::default())),
    ]);
    insta::assert_debug_snapshot!(sentences);
}
