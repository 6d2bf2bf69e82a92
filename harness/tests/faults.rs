//! Packages that are struck in the middle on a real PostgreSQL, by the code that a rehearsal uses: from where the rollback or the
//! upgrade does not go on.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fulldress::conductor::faults::{Ground, try_faults};
use fulldress::inventory::Inventory;
use fulldress::mirror::Mirror;
use fulldress::mirror::local::LocalMirror;
use fulldress::package::{self, Limits, RollbackMethod};
use fulldress::plan::Plan;
use fulldress::process::RunFolder;
use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::FaultKind::{
    BackendTerminated, ConnectionCut, DatabaseRestarted, Fails, LockTimeout, MigratorKilled,
};
use fulldress_reports::evidence::FaultOutcome::{Differs, Reached, Stuck};
use fulldress_reports::evidence::FaultWay::{Resume, Rollback};
use fulldress_reports::evidence::{Evidence, FaultCell, FaultEvidence};
use fulldress_reports::judge::judge;
use fulldress_workloads::clock::Clock;

/// The mirror that every package of `fixtures/faults` starts from.
struct Stage {
    state: tempfile::TempDir,
    plan: Plan,
    run: Arc<RunFolder>,
    mirror: Arc<dyn Mirror>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/faults").canonicalize().unwrap()
}

impl Stage {
    async fn make() -> Self {
        // Short, since a socket's path has little room.
        let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let mut plan = Plan::read(&folder().join("rehearsal.toml")).unwrap();
        // A plan needs one for its traffic; here there is none.
        plan.mirror.services.clear();
        let logs = state.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
        let shared = Arc::new(plan.clone());
        let mirror = LocalMirror::start(program, shared, Arc::clone(&run), "ground", &logs, |_| ());
        let mirror = Arc::new(mirror.await.unwrap());
        Self { state, plan, run, mirror }
    }

    async fn strike(&self, name: &str, rollback: RollbackMethod, cells_max: usize) -> FaultEvidence {
        let mut plan = self.plan.clone();
        plan.faults.cells_max = cells_max;
        let package = package::open_folder(&folder().join(name), &Limits::default()).unwrap();
        let ground = Ground {
            name: format!("{}{}", &name[..1], if rollback == RollbackMethod::Down { "d" } else { "r" }),
            inventory: Arc::new(Inventory::load(&plan.inventory).unwrap()),
            plan: Arc::new(plan),
            package: Arc::new(package),
            rollback,
            mirror: Arc::clone(&self.mirror),
            run: Arc::clone(&self.run),
            bundle: self.state.path().join(name),
            clock: Clock::start(),
        };
        let mut told = 0;
        let evidence = try_faults(&ground, |so_far| {
            assert_eq!(so_far.cells.len(), told + 1, "each cell is told once");
            told += 1;
        });
        let evidence = evidence.await.unwrap();
        assert_eq!(told, evidence.cells.len());
        evidence
    }
}

fn show(cell: &FaultCell) -> String {
    format!("{} {} {:?} {:?}: {:?} {:?}", cell.step, cell.place, cell.fault, cell.way, cell.outcome, cell.why)
}

fn is_at(cell: &FaultCell, statement: usize) -> bool {
    cell.place.starts_with(&format!("before statement {statement} "))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_struck_and_what_it_leaves_is_told() {
    let stage = Stage::make().await;

    // Four statements, six faults, two ways: a third of them.
    let good = stage.strike("one-transaction", RollbackMethod::Down, 16).await;
    assert_eq!((good.possible, good.cells.len()), (48, 16), "{:?}", good.not_tried);
    assert_eq!(good.not_tried, ["32 of 48 faults: a sample by the seed 20240101 was tried"]);
    for cell in &good.cells {
        assert_eq!(cell.outcome, Reached, "{}", show(cell));
    }

    // Before the second statement the first one stays: neither way can go on from there. Before the first one nothing was done, and
    // only the way back fails on what is not there.
    let ill = stage.strike("half-applied", RollbackMethod::Down, 100).await;
    assert_eq!((ill.possible, ill.cells.len()), (24, 24), "{:?}", ill.not_tried);
    let kinds: BTreeSet<_> = ill.cells.iter().map(|cell| cell.fault).collect();
    let all = [Fails, MigratorKilled, BackendTerminated, LockTimeout, DatabaseRestarted, ConnectionCut];
    assert_eq!(kinds, all.into());
    for cell in &ill.cells {
        let expected = if cell.way == Resume && is_at(cell, 1) { Reached } else { Stuck };
        assert_eq!(cell.outcome, expected, "{}", show(cell));
        let reason = match (cell.way, cell.outcome) {
            (Rollback, _) => "column \"channel\" of relation \"orders\" does not exist",
            (Resume, Stuck) => "relation \"channels\" already exists",
            (Resume, _) => continue,
        };
        assert!(cell.why[0].contains(reason), "{}", show(cell));
    }

    // Each place and way is found by name.
    let judged = judge(&Evidence { faults: Some(ill.clone()), ..Evidence::default() }, "2026-01-01");
    for way in ["(rollback)", "(resume)"] {
        let names =
            |object: &str| object.starts_with("010-channel before statement 2 ") && object.ends_with(way);
        let mut found = judged.findings.iter().filter(|finding| finding.check == CheckId::RollFault);
        assert!(found.any(|finding| names(&finding.object)), "{way}: {:?}", judged.findings);
    }

    // The snapshot brings everything back, whatever the down script is worth.
    let restored = stage.strike("half-applied", RollbackMethod::Restore, 6).await;
    let back: Vec<_> = restored.cells.iter().filter(|cell| cell.way == Rollback).collect();
    assert!(!back.is_empty());
    for cell in back {
        assert_eq!(cell.outcome, Reached, "{}", show(cell));
    }

    // What the host keeps counts too: the new file is there from the second command on, until it is moved.
    let script = stage.strike("script", RollbackMethod::Down, 100).await;
    assert_eq!(script.possible as usize, script.cells.len(), "{:?}", script.not_tried);
    let left: Vec<_> = script.cells.iter().filter(|cell| cell.outcome == Differs).collect();
    assert!(!left.is_empty() && left.len() < script.cells.len());
    for cell in &script.cells {
        let leaves = cell.way == Rollback
            && !cell.place.starts_with("before command 1 ")
            && !cell.place.starts_with("before command 2 ");
        assert_eq!(cell.outcome, if leaves { Differs } else { Reached }, "{}", show(cell));
    }
    for cell in left {
        assert_eq!(cell.why, ["file /var/lib/shop-upgrade.new is there and was not"], "{}", show(cell));
    }

    stage.mirror.stop().await;
    let clones = std::fs::read_dir(stage.run.path()).unwrap();
    let names: Vec<_> = clones.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.ends_with("-cluster")), "clones are left: {names:?}");
}
