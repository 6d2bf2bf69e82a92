//! Two rehearsals for tests: one where everything went well, one where everything went wrong.

use std::collections::BTreeMap;

use crate::check::{CheckId, CheckSetting};
use crate::evidence::{
    BrokenWrite, CompatEvidence, DataEvidence, DependentEvidence, Difference, DoubleRunEvidence,
    DoubleRunOutcome, Evidence, FaultCell, FaultEvidence, FaultKind, FaultOutcome, FaultWay,
    InvariantEvidence, InvariantPhase, LedgerEvidence, LedgerPhase, Limits, OtherWay, Outage, PackageFacts,
    PreflightEvidence, Reach, ReapplyEvidence, RehearsalFacts, RelationSize, ResidueEvidence,
    RollbackEvidence, SchemaEvidence, SchemaState, StepKind, StepRun, WriteFate,
};
use crate::finding::{Finding, Place};
use crate::lock::{
    Bounds, GapTime, LockCycle, LockEvidence, LockMode, LockOrder, LockOutcome, LockRecord, LockSource,
    OrderSide, OrderedLock, PackageSession, RecorderTrust, StatementRef, StatementRetries, Victim,
};
use crate::phase::{Phase, PhaseSpan};
use crate::traffic::{
    DriverTrust, ErrorKind, Model, Quantiles, RouteSummary, SeriesPoint, TrafficEvidence, WriteAnswer,
};

/// The day on which the samples are judged.
pub(crate) const TODAY: &str = "2026-11-23";
/// Begin and end of the phases, seconds.
const SPANS: [(Phase, u64, u64); 6] = [
    (Phase::Warmup, 0, 5),
    (Phase::Baseline, 5, 25),
    (Phase::Upgrade, 25, 40),
    (Phase::Soak, 40, 60),
    (Phase::Rollback, 60, 70),
    (Phase::Recovery, 70, 85),
];
const PROBES: [CheckId; 5] =
    [CheckId::RollFlag, CheckId::RollWebhook, CheckId::RollSchedule, CheckId::RollUnit, CheckId::RollFile];
/// Checks of preflight.
const PREFLIGHT: [CheckId; 8] = [
    CheckId::PrePrivilege,
    CheckId::PreUnit,
    CheckId::PreConfigKey,
    CheckId::PrePath,
    CheckId::PreSchedule,
    CheckId::PreEndpoint,
    CheckId::PreCredential,
    CheckId::PreSql,
];

/// A rehearsal in which every check passes.
pub(crate) fn safe() -> Evidence {
    Evidence {
        rehearsal: RehearsalFacts {
            id: "20261123-0214-7f3a".into(),
            name: "storefront 2.4".into(),
            started_utc: "2026-11-23T02:14:00Z".into(),
            profile: "quick".into(),
            mirror: "local".into(),
            seed: 42,
            fulldress: "0.1.0".into(),
            limits: Limits {
                production_rows: BTreeMap::from([("public.orders".into(), 2_000_000)]),
                ..Limits::default()
            },
        },
        length_us: 92_000_000,
        package: Some(PackageFacts {
            name: "storefront".into(),
            from: "2.3".into(),
            to: "2.4".into(),
            via: vec!["2.3.5".into()],
            sha256: "9b1c5a7e".repeat(8),
            entries: 14,
            refused: None,
            signature_note: "signature not verified".into(),
        }),
        preflight: Some(PreflightEvidence { ran: PREFLIGHT.to_vec(), ..PreflightEvidence::default() }),
        phases: spans(),
        steps: steps(),
        traffic: Some(traffic(false)),
        locks: Some(locks()),
        dependents: Some(DependentEvidence {
            watched: vec!["fulfilment".into()],
            probes: 420,
            outages: vec![outage(31, 180_000)],
        }),
        ledger: Some(ledger(&[])),
        schema: Some(SchemaEvidence {
            before: "aa".into(),
            upgraded: "bb".into(),
            rolled_back: "aa".into(),
            upgrade: vec![difference("column", "public.orders.priority", None, Some("integer"))],
            drift: Vec::new(),
            order_only: vec!["public.products".into()],
        }),
        data: Some(DataEvidence { tables: vec!["public.customers".into()], differences: Vec::new() }),
        residue: Some(ResidueEvidence { probed: PROBES.to_vec(), ..ResidueEvidence::default() }),
        rollback: Some(RollbackEvidence { method: "down".into(), ..RollbackEvidence::default() }),
        reapply: Some(ReapplyEvidence::default()),
        faults: Some(FaultEvidence {
            cells: vec![FaultCell {
                step: "020-migrate".into(),
                place: "before statement 2 of 3, line 9".into(),
                file: "sql/020-migrate.up.sql".into(),
                line: Some(9),
                fault: FaultKind::MigratorKilled,
                way: FaultWay::Rollback,
                outcome: FaultOutcome::Reached,
                why: Vec::new(),
                length_us: 900_000,
            }],
            possible: 36,
            not_tried: vec!["35 of 36 faults: a sample by the seed 7 was tried".into()],
        }),
        compat: Some(CompatEvidence {
            statements: 14,
            tried: vec![SchemaState::Upgraded, SchemaState::RolledBack],
            ..CompatEvidence::default()
        }),
        invariants: vec![invariant()],
        other_way: None,
        double_run: Some(DoubleRunEvidence {
            outcome: DoubleRunOutcome::Serialised,
            overlapped: true,
            waited_on_migration_lock: true,
            ..DoubleRunEvidence::default()
        }),
        reach: Some(Reach {
            relations: vec![size("public.orders", 400_000), size("public.products", 20_000)],
            settings: BTreeMap::from([("max_connections".into(), "100".into())]),
            traffic_relations: vec!["public.orders".into(), "public.products".into()],
            actors: vec!["autovacuum".into()],
            denied: Vec::new(),
            not_rehearsed: vec!["replicas".into(), "poolers".into(), "third parties (stubbed)".into()],
        }),
        notices: Vec::new(),
        interrupted: None,
    }
}

/// One that held whenever it was read.
fn invariant() -> InvariantEvidence {
    let reading = |(phase, ..): (Phase, u64, u64)| InvariantPhase { phase, held: 3, broken: 0, missed: 0 };
    InvariantEvidence {
        name: "lines make the total".into(),
        phases: SPANS.into_iter().map(reading).collect(),
        held_after: Some(true),
        ..InvariantEvidence::default()
    }
}

/// The story: long ACCESS EXCLUSIVE, outage, lost orders, residue.
pub(crate) fn hazardous() -> Evidence {
    let mut evidence = safe();
    evidence.preflight =
        Some(PreflightEvidence { findings: preflight_findings(), ..evidence.preflight.unwrap_or_default() });
    evidence.traffic = Some(traffic(true));
    let mut locks = locks();
    locks.records.insert(0, long_lock());
    locks.sessions = vec![unguarded_session()];
    locks.retries = vec![retried()];
    evidence.locks = Some(locks);
    evidence.dependents = Some(DependentEvidence {
        outages: vec![outage(31, 6_420_000), outage(61, 2_100_000)],
        ..evidence.dependents.unwrap_or_default()
    });
    evidence.ledger = Some(ledger(&[(Phase::Upgrade, 161), (Phase::Soak, 712)]));
    evidence.rollback = Some(RollbackEvidence {
        method: "restore".into(),
        snapshot_bytes: Some(48_000_000),
        restore_us: Some(5_100_000),
        took_us: Some(6_300_000),
        unavailable_us: Some(5_600_000),
        ..RollbackEvidence::default()
    });
    evidence.other_way = Some(other_way());
    evidence.double_run = Some(DoubleRunEvidence { overlapped: true, ..DoubleRunEvidence::default() });
    evidence.residue = Some(ResidueEvidence {
        probed: PROBES.to_vec(),
        unreachable: BTreeMap::new(),
        left: BTreeMap::from([
            (CheckId::RollFlag, vec![difference("flag", "express_checkout", Some("off"), Some("on"))]),
            (
                CheckId::RollWebhook,
                vec![difference("webhook", "carrier", None, Some("https://carrier.invalid/hook"))],
            ),
        ]),
    });
    evidence.notices = vec!["the sampler fell back to 50 ms for 2 s".into()];
    evidence
}

/// The package's own down steps keep every write, and leave an index behind.
fn other_way() -> OtherWay {
    OtherWay {
        rollback: RollbackEvidence {
            method: "down".into(),
            took_us: Some(1_800_000),
            unavailable_us: Some(640_000),
            ..RollbackEvidence::default()
        },
        schema: SchemaEvidence {
            drift: vec![difference("index", "public.orders_channel", None, Some("btree (channel)"))],
            ..SchemaEvidence::default()
        },
        ledger: ledger(&[]),
        ..OtherWay::default()
    }
}

pub(crate) fn setting(limit: f64) -> CheckSetting {
    CheckSetting { limit: Some(limit), required: None }
}

pub(crate) fn difference(kind: &str, object: &str, before: Option<&str>, after: Option<&str>) -> Difference {
    Difference {
        kind: kind.into(),
        object: object.into(),
        before: before.map(Into::into),
        after: after.map(Into::into),
    }
}

pub(crate) fn size(relation: &str, rows: u64) -> RelationSize {
    RelationSize { relation: relation.into(), rows, bytes: rows * 120 }
}

pub(crate) fn outage(start_s: u64, length_us: u64) -> Outage {
    Outage {
        service: "fulfilment".into(),
        phase: phase_at(start_s * 1_000_000),
        start_us: start_s * 1_000_000,
        end_us: start_s * 1_000_000 + length_us,
        reason: "503 database: statement timeout".into(),
    }
}

pub(crate) fn finding(check: CheckId, object: &str) -> Finding {
    Finding {
        check,
        object: object.into(),
        place: Some(place("scripts/010-stop.sh", 7)),
        what: format!("line 7 names {object}."),
        remedy: check.record().remedy.into(),
        magnitude: None,
    }
}

fn place(file: &str, line: u32) -> Place {
    Place { file: file.into(), line: Some(line) }
}

fn preflight_findings() -> Vec<Finding> {
    vec![
        finding(CheckId::PrePrivilege, "sudo"),
        finding(CheckId::PreUnit, "storefront-web.service"),
        finding(CheckId::PreConfigKey, "cache.ttl"),
        finding(CheckId::PreCredential, "scripts/030-notify.sh"),
    ]
}

fn spans() -> Vec<PhaseSpan> {
    let span = |(phase, start_s, end_s)| PhaseSpan {
        phase,
        start_us: start_s * 1_000_000,
        end_us: Some(end_s * 1_000_000),
    };
    SPANS.into_iter().map(span).collect()
}

fn phase_at(at_us: u64) -> Phase {
    let inside =
        |(_, start_s, end_s): &(Phase, u64, u64)| (start_s * 1_000_000..end_s * 1_000_000).contains(&at_us);
    SPANS.iter().find(|span| inside(span)).map_or(Phase::Recovery, |span| span.0)
}

fn steps() -> Vec<StepRun> {
    let step = |id: &str, kind, phase, start_s: u64, end_s: u64| StepRun {
        id: id.into(),
        kind,
        phase,
        start_us: start_s * 1_000_000,
        end_us: end_s * 1_000_000,
        attempts: 1,
        error: None,
        log: Some(format!("logs/{id}.log")),
    };
    vec![
        step("010-stop", StepKind::Script, Phase::Upgrade, 26, 28),
        step("020-migrate", StepKind::Script, Phase::Upgrade, 28, 37),
        step("030-service", StepKind::Service, Phase::Upgrade, 37, 39),
        step("090-restore", StepKind::Restore, Phase::Rollback, 61, 67),
        step("091-service", StepKind::Service, Phase::Rollback, 67, 69),
    ]
}

fn ledger(lost: &[(Phase, u64)]) -> LedgerEvidence {
    let phases: Vec<_> =
        [(Phase::Baseline, 800), (Phase::Upgrade, 600), (Phase::Soak, 800), (Phase::Rollback, 350)]
            .into_iter()
            .map(|(phase, total)| {
                let gone = lost.iter().find(|(of, _)| *of == phase).map_or(0, |(_, number)| *number);
                LedgerPhase {
                    phase,
                    fates: BTreeMap::from([
                        (WriteFate::Kept, total - gone),
                        (WriteFate::Lost, gone),
                        (WriteFate::Indeterminate, 2),
                    ]),
                }
            })
            .collect();
    let broken = (0..lost.iter().map(|(_, number)| number).sum::<u64>().min(5))
        .map(|index| BrokenWrite {
            key: format!("order-{index:04}"),
            phase: Phase::Soak,
            fate: WriteFate::Lost,
            answer: WriteAnswer::Acknowledged,
            seen: "404".into(),
        })
        .collect();
    LedgerEvidence { entries: 2_558, phases, broken, witness_disagreements: 0 }
}

fn locks() -> LockEvidence {
    LockEvidence {
        records: vec![short_lock()],
        sessions: vec![PackageSession {
            pid: 4_711,
            role: "storefront_upgrade".into(),
            phase: Phase::Upgrade,
            step: Some("020-migrate".into()),
            schema_changes: 1,
            migration_lock_held: true,
            without_lock_timeout: Vec::new(),
            first_unlocked: None,
        }],
        leftovers: Vec::new(),
        leftovers_unread: Vec::new(),
        other_waits: 3,
        retries: Vec::new(),
        excess: Vec::new(),
        order: Some(LockOrder { package_pairs: 1, client_transactions: 37, cycles: Vec::new() }),
        trust: RecorderTrust {
            triggers: true,
            server_log: true,
            ddl_statements: 6,
            ddl_seen_twice: 6,
            disagreements: Vec::new(),
            samples_planned: 4_000,
            samples_taken: 3_998,
            sample_gap_max_us: 22_000,
            clock_error_us: 90,
            detection_floor_us: 5_000,
            sampled_us: 40_000_000,
            gaps: vec![
                GapTime { above_us: 5_000, gaps: 12, time_us: 110_000 },
                GapTime { above_us: 100_000, gaps: 0, time_us: 0 },
            ],
        },
    }
}

/// The package takes orders and then customers, a client the other way round.
pub(crate) fn cycle(fired: bool) -> LockCycle {
    let lock = |relation: &str, mode, statement: &str| OrderedLock {
        relation: relation.into(),
        mode: Some(mode),
        statement: Some(statement.into()),
    };
    LockCycle {
        phase: Phase::Upgrade,
        fired,
        package: OrderSide {
            role: "storefront_upgrade".into(),
            first: lock(
                "public.orders",
                LockMode::AccessExclusiveLock,
                "ALTER TABLE orders ADD COLUMN priority integer",
            ),
            second: lock(
                "public.customers",
                LockMode::AccessExclusiveLock,
                "ALTER TABLE customers ADD COLUMN level integer",
            ),
            place: Some(Place { file: "scripts/020-migrate.sh".into(), line: Some(16) }),
        },
        other: OrderSide {
            role: "storefront".into(),
            first: lock(
                "public.customers",
                LockMode::RowExclusiveLock,
                "UPDATE customers SET seen = ? WHERE id = ?",
            ),
            second: lock("public.orders", LockMode::RowExclusiveLock, "INSERT INTO orders VALUES (?)"),
            place: None,
        },
        transactions: 3,
    }
}

pub(crate) fn short_lock() -> LockRecord {
    LockRecord {
        phase: Phase::Upgrade,
        step: Some("020-migrate".into()),
        statement: "ALTER TABLE orders ADD COLUMN priority integer".into(),
        place: Some(place("migrations/020-priority.sql", 4)),
        relation: "public.orders".into(),
        preexisting: true,
        mode: LockMode::AccessExclusiveLock,
        pid: 4_711,
        requested_us: 28_200_000,
        released_us: 28_242_000,
        wait_us: 12_000,
        hold: Bounds { low_us: 28_000, high_us: 30_000 },
        idle: Some(Bounds { low_us: 0, high_us: 1_998 }),
        outcome: LockOutcome::Granted,
        rewritten: false,
        lock_timeout_ms: Some(500),
        sources: vec![LockSource::EventTrigger, LockSource::StatementLog],
        victims: vec![victim(28_000)],
        victims_total: 4,
        queue_depth_max: 3,
        queue: Vec::new(),
        routes: Vec::new(),
        drain_us: None,
        queue_area_us: 70_000,
    }
}

pub(crate) fn long_lock() -> LockRecord {
    LockRecord {
        statement: "UPDATE orders SET priority = ? WHERE priority IS NULL".into(),
        place: Some(place("scripts/020-migrate.sh", 14)),
        requested_us: 29_000_000,
        released_us: 35_600_000,
        wait_us: 90_000,
        hold: Bounds { low_us: 6_480_000, high_us: 6_510_000 },
        idle: Some(Bounds { low_us: 5_210_000, high_us: 5_214_000 }),
        lock_timeout_ms: Some(0),
        rewritten: true,
        victims: vec![victim(6_100_000), victim(5_900_000)],
        victims_total: 412,
        queue_depth_max: 61,
        queue: Vec::new(),
        routes: Vec::new(),
        drain_us: None,
        queue_area_us: 1_240_000_000,
        ..short_lock()
    }
}

fn retried() -> StatementRetries {
    StatementRetries {
        phase: Phase::Upgrade,
        step: Some("020-migrate".into()),
        statement: "ALTER TABLE orders ADD COLUMN priority integer".into(),
        place: Some(place("scripts/020-migrate.sh", 12)),
        timed_out: 3,
        caught: 0,
        deadlocked: 0,
        cancelled: 0,
        retries: 3,
        succeeded: Some(true),
    }
}

pub(crate) fn victim(blocked_us: u64) -> Victim {
    Victim {
        pid: 900,
        role: "storefront_app".into(),
        application: "web".into(),
        statement: "SELECT * FROM orders WHERE id = ?".into(),
        mode: Some(LockMode::AccessShareLock),
        since_us: 29_400_000,
        blocked_us,
        route: None,
    }
}

fn unguarded_session() -> PackageSession {
    let statement = StatementRef {
        statement: "ALTER TABLE orders ADD COLUMN priority integer".into(),
        place: Some(place("scripts/020-migrate.sh", 12)),
    };
    PackageSession {
        pid: 4_711,
        role: "storefront_app".into(),
        phase: Phase::Upgrade,
        step: Some("020-migrate".into()),
        schema_changes: 2,
        migration_lock_held: false,
        without_lock_timeout: vec![statement.clone()],
        first_unlocked: Some(statement),
    }
}

/// One route in one phase at 100 requests per second.
pub(crate) fn summary(phase: Phase, route: &str, planned: u64) -> RouteSummary {
    RouteSummary {
        phase,
        route: route.into(),
        model: Model::Arrivals,
        planned,
        sent: planned,
        errors: BTreeMap::new(),
        slow: 0,
        response: quantiles(planned),
        service: quantiles(planned),
    }
}

fn quantiles(count: u64) -> Quantiles {
    let carried = |needed: u64, us: u64| (count >= needed).then_some(us);
    Quantiles {
        count,
        p50_us: carried(20, 2_100),
        p90_us: carried(100, 6_400),
        p99_us: carried(1_000, 18_000),
        p999_us: carried(10_000, 60_000),
        max_us: 84_000,
    }
}

fn traffic(hazardous: bool) -> TrafficEvidence {
    let of = |phase: Phase, route: &str, rate: u64, bad: bool| {
        let length_s = SPANS.iter().find(|span| span.0 == phase).map_or(0, |span| span.2 - span.1);
        let mut summary = summary(phase, route, length_s * rate);
        if bad && phase == Phase::Upgrade {
            summary.slow = summary.sent / 4;
            summary.errors =
                BTreeMap::from([(ErrorKind::Timeout, summary.sent / 20), (ErrorKind::Status5xx, 3)]);
            summary.response.max_us = 6_420_000;
        }
        summary
    };
    let mut routes = Vec::new();
    let mut phases = Vec::new();
    for phase in Phase::UNDER_TRAFFIC {
        phases.push(of(phase, "all", 100, hazardous));
        routes.push(of(phase, "GET /products", 60, false));
        routes.push(of(phase, "POST /orders", 40, hazardous));
    }
    TrafficEvidence {
        routes,
        phases,
        series: series(hazardous),
        driver: DriverTrust {
            planned: 8_500,
            sent: 8_500,
            send_lag: Quantiles { count: 8_500, p99_us: Some(900), max_us: 4_000, ..Quantiles::default() },
            cpu_us: 9_000_000,
            wall_us: 85_000_000,
            ..DriverTrust::default()
        },
    }
}

/// A series that any machine computes alike: no randomness, a stall behind the lock and one in the restore.
fn series(hazardous: bool) -> Vec<SeriesPoint> {
    let mut points = Vec::new();
    let mut start_us = 0;
    while start_us < 85_000_000 {
        let phase = phase_at(start_us);
        let length_us = phase.interval_us();
        let wave = start_us / 100_000 * 7_919 % 61;
        let stalled = hazardous && (29_000_000..35_600_000).contains(&start_us);
        let restoring = hazardous && (61_000_000..66_000_000).contains(&start_us);
        let left_us = if stalled { 35_600_000 - start_us } else { 0 };
        let count = length_us / 10_000;
        points.push(SeriesPoint {
            start_us,
            length_us,
            count,
            errors: if restoring {
                count
            } else if stalled {
                wave % 3
            } else {
                0
            },
            p50_us: (!restoring).then_some(2_000 + wave * 10 + left_us / 2),
            p99_us: (!restoring).then_some(14_000 + wave * 300 + left_us),
            max_us: (!restoring).then_some(22_000 + wave * 900 + left_us),
        });
        start_us += length_us;
    }
    points
}
