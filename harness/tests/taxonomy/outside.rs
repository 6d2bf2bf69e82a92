//! Classes of what lies outside of the database: the host's files and scheduled tasks, feature flags, registrations with third
//! parties. The same probes as in a rehearsal look before the upgrade and after the way back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fulldress::inventory::Inventory;
use fulldress::mirror::Mirror;
use fulldress::mirror::local::LocalMirror;
use fulldress::package::{self, Limits};
use fulldress::plan::Plan;
use fulldress::process::RunFolder;
use fulldress::proofs::residue::{FlagProbe, HostProbe, Snapshot, WebhookProbe};
use fulldress::upgrade::steps::{RunnerParts, StepRunner};
use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::Evidence;
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{fixtures, found, not_passed};

/// A class and what is found of it.
pub(super) struct Case {
    pub(super) class: u32,
    check: CheckId,
    object: &'static str,
}

pub(super) const CASES: [Case; 4] = [
    Case { class: 17, check: CheckId::RollFile, object: "/var/lib/shop-schema" },
    Case { class: 18, check: CheckId::RollFlag, object: "express_checkout" },
    Case { class: 19, check: CheckId::RollWebhook, object: "https://carrier.invalid/hook" },
    Case {
        class: 21,
        check: CheckId::RollSchedule,
        object: "crontab of deploy: 15 3 * * * /opt/shop/expire-carts",
    },
];

/// What the flag store and the third party answer; a way up and a way back change it.
#[derive(Clone, Default)]
struct World(Arc<Mutex<(String, String)>>);

impl World {
    const FLAG_OFF: &str =
        r#"{"flags": {"express_checkout": {"state": "ENABLED", "defaultVariant": "off"}}}"#;
    const FLAG_ON: &str = r#"{"flags": {"express_checkout": {"state": "ENABLED", "defaultVariant": "on"}}}"#;
    const NO_HOOKS: &str = "[]";
    const HOOK: &str = r#"[{"id": 7, "url": "https://carrier.invalid/hook", "events": ["order.placed"]}]"#;

    fn is(&self, flags: &str, hooks: &str) {
        *self.0.lock().unwrap() = (flags.to_owned(), hooks.to_owned());
    }

    /// Serves both lists on a port of its own until the test ends; gives the address.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let world = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = Vec::new();
                while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0, "a request without an end");
                }
                let (flags, hooks) = world.0.lock().unwrap().clone();
                let body = if asked.starts_with(b"GET /flags") { flags } else { hooks };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }
}

/// The probes of a rehearsal.
async fn look(runner: &StepRunner, address: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.take(&FlagProbe { url: format!("{address}/flags") }).await;
    snapshot.take(&WebhookProbe { url: format!("{address}/hooks") }).await;
    let (_, tasks) = runner.host_state().await;
    snapshot
        .take(&HostProbe { check: CheckId::RollSchedule, name: "scheduled task", state: Ok(tasks) })
        .await;
    snapshot.take(&HostProbe { check: CheckId::RollFile, name: "file", state: runner.files().await }).await;
    snapshot
}

/// What is left after a package of `fixtures/taxonomy` went up and back on a host of its own.
async fn residue(parts: RunnerParts<'_>, name: &str) -> Evidence {
    let steps = &parts.package.manifest.steps;
    let runner = StepRunner::start(parts, name).await.unwrap();
    let world = World::default();
    let address = world.serve().await;
    world.is(World::FLAG_OFF, World::NO_HOOKS);
    let before = look(&runner, &address).await;
    for step in steps {
        let run = runner.up(step, Phase::Upgrade).await;
        assert_eq!(run.error, None, "{name}");
    }
    world.is(World::FLAG_ON, World::HOOK);
    let changed = before.compare(&look(&runner, &address).await);
    assert_eq!(changed.left.len(), CASES.len(), "the upgrade has every effect: {changed:?}");
    for step in steps {
        let run = runner.down(step, step.rollback.as_ref().unwrap(), Phase::Rollback).await;
        assert_eq!(run.error, None, "{name}");
    }
    if name == "safe" {
        world.is(World::FLAG_OFF, World::NO_HOOKS);
    }
    let residue = before.compare(&look(&runner, &address).await);
    runner.stop().await;
    Evidence { residue: Some(residue), ..Evidence::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_outside_of_the_database_is_found_by_name_and_the_safe_twin_leaves_nothing() {
    // Short, since a socket's path has little room.
    let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
    let mut plan = Plan::read(&fixtures().join("faults/rehearsal.toml")).unwrap();
    // A plan needs one for its traffic; here there is none.
    plan.mirror.services.clear();
    let inventory = Arc::new(Inventory::load(&plan.inventory).unwrap());
    let plan = Arc::new(plan);
    let logs = state.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
    let mirror =
        LocalMirror::start(program, Arc::clone(&plan), Arc::clone(&run), "left", &logs, |_| ()).await;
    let mirror: Arc<dyn Mirror> = Arc::new(mirror.unwrap());
    let mut found_in = Vec::new();
    for name in ["left", "safe"] {
        let package = package::open_folder(&fixtures().join("taxonomy").join(name), &Limits::default());
        let package = Arc::new(package.unwrap());
        let parts = RunnerParts {
            plan: &plan,
            inventory: &inventory,
            package: &package,
            mirror: &mirror,
            run: &run,
            logs: &logs,
            clock: Clock::start(),
        };
        found_in.push(residue(parts, name).await);
    }
    mirror.stop().await;
    let expected: BTreeSet<String> =
        CASES.iter().map(|case| format!("{} {}", case.check, case.object)).collect();
    assert_eq!(found(&found_in[0]), expected);
    assert_eq!(not_passed(&found_in[1], &CASES.map(|case| case.check)), Vec::<String>::new());
}
