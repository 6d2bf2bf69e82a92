//! Who in the mirror called outside, and where: the answers of the gateway's resolver, and a witness beside every container.
//!
//! The mirror starts it; script hosts and services tell it of containers that came and went; the conductor gets
//! [`crate::mirror::Outbound`]. All of these calls were denied: here they are only written down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress_workloads::clock::Clock;
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;

use super::compose::{GATEWAY_PROGRAM, gateway_program};
use super::engine::{ContainerFacts, ContainerSpec, Engine};
use super::gateway::{Attempt, GatewayConfig};
use super::host::labels;
use super::project::Project;
use crate::mirror::{Called, Caller, MirrorError, Outbound, OutboundCall};
use crate::process::RunFolder;

/// How long a witness may take until it sees, and the pause between two looks whether it does.
const WITNESS_LIMIT: Duration = Duration::from_secs(30);
const WITNESS_PAUSE: Duration = Duration::from_millis(25);

/// The ledger of calls to the outside of one mirror.
pub(super) struct OutboundLedger {
    engine: Engine,
    project: Arc<Project>,
    run: Arc<RunFolder>,
    /// Our own program, which is the witness, and the image that it runs in.
    program: PathBuf,
    image: String,
    /// The container whose program answers for names.
    gateway: String,
    state: Mutex<State>,
    changed: Notify,
    task: std::sync::Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct State {
    /// By the container that is watched.
    watched: BTreeMap<String, Watched>,
    /// Calls of containers that are gone.
    calls: Vec<OutboundCall>,
    /// Who had an address, and since when.
    askers: Vec<Asker>,
    /// Whose calls cannot be told, and why.
    unseen: BTreeSet<String>,
}

struct Watched {
    caller: Caller,
    /// When its first process started, in the engine's words: a container that started again has another network.
    started: String,
    witness: String,
}

struct Asker {
    address: IpAddr,
    caller: Caller,
    since_unix_us: u64,
}

impl OutboundLedger {
    /// A ledger of a project whose gateway runs.
    pub(super) fn new(
        project: &Arc<Project>,
        run: &Arc<RunFolder>,
        program: PathBuf,
        image: String,
        gateway: String,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine: project.engine().clone(),
            project: Arc::clone(project),
            run: Arc::clone(run),
            program,
            image,
            gateway,
            state: Mutex::default(),
            changed: Notify::new(),
            task: std::sync::Mutex::default(),
        })
    }

    /// Watches the services' containers from now on, those too that come later: see [`Self::look_again`].
    pub(super) fn watch_services(self: &Arc<Self>) {
        let ledger = Arc::clone(self);
        self.changed.notify_one();
        let task = tokio::spawn(async move {
            loop {
                ledger.changed.notified().await;
                ledger.look().await;
            }
        });
        let before = self.task.lock().ok().and_then(|mut held| held.replace(task.abort_handle()));
        if let Some(before) = before {
            before.abort();
        }
    }

    /// Says that containers of services may have come or gone. Nobody waits for the look.
    pub(super) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Watches a container that runs scripts; it must not run any before this ends.
    ///
    /// # Errors
    /// When the witness does not see.
    pub(super) async fn watch_scripts(&self, container: &str) -> Result<(), MirrorError> {
        let facts = self.engine.inspect(container).await?;
        self.watch(Caller::Script, &facts, &mut *self.state.lock().await).await
    }

    /// Takes down what a container called, whose end is near.
    pub(super) async fn end(&self, container: &str) {
        let mut state = self.state.lock().await;
        self.forget(container, &mut state).await;
    }

    /// Everything that was called until now, as far as it is known: an engine that does not answer takes away what it has,
    /// and nothing that was taken down before.
    pub(super) async fn so_far(&self) -> Outbound {
        let state = self.state.lock().await;
        let mut calls = state.calls.clone();
        // Only of this look: the next one may find all of it.
        let mut unseen = state.unseen.clone();
        for Watched { caller, witness, .. } in state.watched.values() {
            match self.seen_by(caller, witness).await {
                Ok(seen) => calls.extend(seen),
                Err(why) => drop(unseen.insert(format!("{caller} ({why})"))),
            }
        }
        match self.engine.logs(&self.gateway, None).await {
            Ok(said) => {
                let asked = attempts(&said).filter(|attempt| attempt.attempt == "name");
                calls.extend(asked.map(|attempt| OutboundCall {
                    caller: asker(&state.askers, &attempt),
                    called: Called::Name(attempt.name.clone()),
                    first_unix_us: attempt.at_unix_us,
                }));
            }
            Err(why) => drop(unseen.insert(format!("whoever asked for a name ({why})"))),
        }
        calls.sort_by_key(|call| call.first_unix_us);
        Outbound { calls, unseen: unseen.into_iter().collect() }
    }

    /// Ends the watch and removes the witnesses: [`Self::so_far`] has read what they saw.
    pub(super) async fn stop(&self) {
        if let Some(task) = self.task.lock().ok().and_then(|mut held| held.take()) {
            task.abort();
        }
        let watched = std::mem::take(&mut self.state.lock().await.watched);
        let removals = watched.values().map(|watched| self.engine.remove(&watched.witness, true));
        // What stays is swept with the run.
        let _swept_later = futures_util::future::join_all(removals).await;
    }

    /// Holds the services' containers against those that are watched.
    async fn look(&self) {
        // An engine that does not answer ends the rehearsal elsewhere.
        let Ok(containers) = self.project.containers().await else { return };
        let mut state = self.state.lock().await;
        let mut running = BTreeMap::new();
        for (service, found) in containers {
            if found.state == "running"
                && let Ok(facts) = self.engine.inspect(&found.id).await
                && facts.running
            {
                running.insert(facts.id.clone(), (service, facts));
            }
        }
        let is_gone = |id: &String, watched: &Watched| {
            watched.caller != Caller::Script
                && running.get(id).is_none_or(|(_, facts)| facts.started != watched.started)
        };
        let gone: Vec<String> = state
            .watched
            .iter()
            .filter(|(id, watched)| is_gone(id, watched))
            .map(|(id, _)| id.clone())
            .collect();
        for container in gone {
            self.forget(&container, &mut state).await;
        }
        for (service, facts) in running.into_values() {
            // One without a network of its own calls nobody.
            if state.watched.contains_key(&facts.id) || facts.addresses.is_empty() {
                continue;
            }
            if let Err(error) = self.watch(Caller::Service(service.clone()), &facts, &mut state).await {
                // It ended meanwhile, or its replacement is a reason to look again.
                let still = self.engine.inspect(&facts.id).await;
                if still.is_ok_and(|still| still.running && still.started == facts.started) {
                    state.unseen.insert(format!("{} ({error})", Caller::Service(service)));
                }
            }
        }
    }

    async fn watch(
        &self,
        caller: Caller,
        facts: &ContainerFacts,
        state: &mut State,
    ) -> Result<(), MirrorError> {
        let since_unix_us = Clock::start().epoch_unix_us();
        state.askers.extend(facts.addresses.values().map(|address| Asker {
            address: *address,
            caller: caller.clone(),
            since_unix_us,
        }));
        let witness = self.start_witness(facts).await?;
        let started = facts.started.clone();
        state.watched.insert(facts.id.clone(), Watched { caller, started, witness });
        Ok(())
    }

    async fn forget(&self, container: &str, state: &mut State) {
        let Some(watched) = state.watched.remove(container) else { return };
        match self.seen_by(&watched.caller, &watched.witness).await {
            Ok(seen) => state.calls.extend(seen),
            Err(why) => drop(state.unseen.insert(format!("{} ({why})", watched.caller))),
        }
        // What stays is swept with the run.
        let _swept_later = self.engine.remove(&watched.witness, true).await;
    }

    /// What a witness saw; a reason where it did not look until now.
    async fn seen_by(&self, caller: &Caller, witness: &str) -> Result<Vec<OutboundCall>, String> {
        let said = self.engine.logs(witness, None).await.map_err(|error| error.to_string())?;
        let facts = self.engine.inspect(witness).await.map_err(|error| error.to_string())?;
        if !facts.running {
            return Err(format!("its witness ended: {}", said.lines().last().unwrap_or_default()));
        }
        let call = |attempt: Attempt| {
            let called = match &*attempt.attempt {
                "address" => Called::Address(attempt.name),
                "early" => Called::Unknown(attempt.name.parse().unwrap_or(1)),
                _ => return None,
            };
            Some(OutboundCall { caller: caller.clone(), called, first_unix_us: attempt.at_unix_us })
        };
        Ok(attempts(&said).filter_map(call).collect())
    }

    /// Starts the container beside another that refuses and writes down its calls to bare addresses outside.
    async fn start_witness(&self, beside: &ContainerFacts) -> Result<String, MirrorError> {
        let config = GatewayConfig { witness: true, ..GatewayConfig::default() };
        // In the main table, where the networks of the mirror have longer prefixes and go first; in the table of local
        // addresses, which is asked before it, everything would be local. IPv6 may be switched off.
        let script = format!(
            "ip route replace local default dev lo table main && \
             {{ ip -6 route replace local default dev lo table main 2>/dev/null || :; }} && \
             exec {GATEWAY_PROGRAM} gateway"
        );
        let spec = ContainerSpec {
            name: format!("{}-witness", beside.name),
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".into(), "-c".into(), script]),
            network: Some(format!("container:{}", beside.id)),
            labels: labels(&self.run, self.project.name()),
            cap_add: vec!["NET_ADMIN".into(), "NET_RAW".into()],
            ..gateway_program(&self.program, &config)?
        };
        let id = self.engine.create(&spec).await?;
        let seeing = self.await_seeing(&id).await;
        if seeing.is_err() {
            // The first failure is the one to tell.
            let _ = self.engine.remove(&id, true).await;
        }
        seeing.map(|()| id)
    }

    async fn await_seeing(&self, witness: &str) -> Result<(), MirrorError> {
        let clock = Clock::start();
        loop {
            let said = self.engine.logs(witness, None).await?;
            if attempts(&said).any(|attempt| attempt.attempt == "ready") {
                return Ok(());
            }
            let ended = !self.engine.inspect(witness).await?.running;
            if ended || Duration::from_micros(clock.now_us()) > WITNESS_LIMIT {
                let what = format!("calls to the outside cannot be seen: {}", said.trim());
                return Err(MirrorError::new(what, "the runner image needs sh and ip (package iproute2)"));
            }
            tokio::time::sleep(WITNESS_PAUSE).await;
        }
    }
}

/// What the gateway's program told.
fn attempts(said: &str) -> impl Iterator<Item = Attempt> {
    said.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Who had the address when it asked. A service may ask before anybody looked at its container; then whoever had the
/// address first.
fn asker(askers: &[Asker], attempt: &Attempt) -> Caller {
    let had = askers.iter().filter(|asker| asker.address == attempt.from);
    let then = had.clone().filter(|asker| asker.since_unix_us <= attempt.at_unix_us);
    let found =
        then.max_by_key(|asker| asker.since_unix_us).or_else(|| had.min_by_key(|asker| asker.since_unix_us));
    found.map_or_else(|| Caller::Service(attempt.from.to_string()), |asker| asker.caller.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Asker, Attempt, Called, Caller, Engine, OutboundCall, OutboundLedger, Project, asker};
    use crate::mirror::containers::model::Model;
    use crate::process::RunFolder;

    /// What was taken down of a container that is gone is no less true because the engine went too.
    #[tokio::test]
    async fn an_engine_that_is_gone_takes_no_call_away_that_is_known() {
        let state = tempfile::tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let engine = Engine::gone(&state.path().join("engine.sock"));
        let model = Model::parse(r#"{"services":{"shop":{}}}"#).unwrap();
        let project = Arc::new(Project::new(engine, "fulldress-test".to_owned(), &run, model).unwrap());
        let ledger =
            OutboundLedger::new(&project, &run, "/fulldress".into(), "image".into(), "gateway".into());
        let known = OutboundCall {
            caller: Caller::Script,
            called: Called::Address("tcp 192.0.2.1:443".to_owned()),
            first_unix_us: 7,
        };
        ledger.state.lock().await.calls.push(known.clone());
        let outbound = ledger.so_far().await;
        assert_eq!(outbound.calls, [known]);
        let [unseen] = outbound.unseen.as_slice() else { panic!("{outbound:?}") };
        assert!(unseen.starts_with("whoever asked for a name (failed to read the log"), "{unseen}");
    }

    #[test]
    fn an_address_belongs_to_whoever_had_it_then() {
        let service = |name: &str| Caller::Service(name.to_owned());
        let had = |address: &str, caller: Caller, since_unix_us| Asker {
            address: address.parse().unwrap(),
            caller,
            since_unix_us,
        };
        let askers = [
            had("172.20.0.5", service("shop"), 100),
            had("172.20.0.6", Caller::Script, 50),
            had("172.20.0.5", service("stub"), 200),
        ];
        let asked = |from: &str, at_unix_us| {
            let from = from.parse().unwrap();
            asker(&askers, &Attempt { attempt: "name".into(), name: "a.example".into(), from, at_unix_us })
        };
        assert_eq!(asked("172.20.0.5", 150), service("shop"));
        assert_eq!(asked("172.20.0.5", 250), service("stub"));
        assert_eq!(asked("172.20.0.5", 90), service("shop"), "before anybody had looked");
        assert_eq!(asked("172.20.0.6", 300), Caller::Script);
        assert_eq!(asked("172.20.0.9", 300), service("172.20.0.9"), "nobody's");
    }
}
