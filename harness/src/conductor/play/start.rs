//! How a play begins: mirror, step runner, services, recorder, traffic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::Reach;
use fulldress_reports::phase::Phase;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::{Traffic, TrafficPlan, UsersReader, UsersWriter};
use sqlx::postgres::PgConnectOptions;

use super::{NOT_REHEARSED, Play, RUNNER, unread};
use crate::actors::Actors;
use crate::conductor::choice::{Ground, choose};
use crate::mirror::containers::compose::ComposeMirror;
use crate::mirror::local::LocalMirror;
use crate::mirror::{Mirror, MirrorError, PACKAGE_ROLE, SUPERUSER};
use crate::plan::ServiceRole;
use crate::proofs::data;
use crate::proofs::dependents::Watch;
use crate::recorder::{Recorder, RecorderConfig};
use crate::upgrade::steps::{RunnerParts, StepRunner};
use crate::worker;

/// Longest wait for the sessions that filled feeders to end, microseconds.
const SESSION_END_US: u64 = 1_000_000;

impl Play {
    pub(super) async fn start_mirror(&mut self) -> Result<Arc<dyn Mirror>, MirrorError> {
        let ground = choose(&self.plan, &self.package, &self.events).await?;
        self.ground = Some(ground.clone());
        let events = self.events.clone();
        let logs = self.bundle.join("logs");
        let tell = move |text| events.stage(text);
        let (plan, run) = (Arc::clone(&self.plan), Arc::clone(&self.run));
        let mirror: Arc<dyn Mirror> = match ground {
            Ground::Local => {
                Arc::new(LocalMirror::start(our_program()?, plan, run, RUNNER, &logs, tell).await?)
            }
            Ground::Containers(engine) => {
                let inventory = Arc::clone(&self.inventory);
                let program = our_program()?;
                Arc::new(ComposeMirror::start(engine, program, plan, inventory, run, &logs, tell).await?)
            }
        };
        // The cell is filled here only, once.
        let _ = self.mirror.set(Arc::clone(&mirror));
        Ok(mirror)
    }

    pub(super) async fn start_runner(
        &mut self,
        mirror: &Arc<dyn Mirror>,
    ) -> Result<Arc<StepRunner>, MirrorError> {
        let logs = self.bundle.join("logs").join("steps");
        let parts = RunnerParts {
            plan: &self.plan,
            inventory: &self.inventory,
            package: &self.package,
            mirror,
            run: &self.run,
            logs: &logs,
            clock: self.events.clock(),
        };
        let runner = Arc::new(StepRunner::start(parts, RUNNER).await?);
        if let Some(notice) = runner.notice() {
            self.events.notice(notice);
        }
        self.runner = Some(Arc::clone(&runner));
        Ok(runner)
    }

    /// Starts services and background actors, and tells how far the evidence will reach.
    pub(super) async fn start_services(&mut self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        let relations = data::sizes(&mut mirror.connect().await?).await.map_err(unread)?;
        self.events.stage("starting services");
        mirror.services().start_all().await?;
        data::reset_statistics(&mut mirror.connect().await?).await.map_err(unread)?;
        let settings = settings(mirror).await?;
        let tables: Vec<String> = relations.iter().map(|size| size.relation.clone()).collect();
        let running = Actors::start(&mirror.server(), &self.plan.actors, &tables);
        let actors = running.told().to_vec();
        self.actors = Some(running);
        let mut not_rehearsed: Vec<String> = NOT_REHEARSED.iter().map(|text| (*text).to_owned()).collect();
        not_rehearsed.extend(self.plan.not_rehearsed.iter().cloned());
        not_rehearsed.extend(self.way_left_out());
        if !mirror.sees_outbound() {
            not_rehearsed.push("scripts' and services' calls to the outside while they run".to_owned());
        }
        self.reach = Reach { relations, settings, actors, not_rehearsed, ..Default::default() };
        self.events.tell(Happening::Reach(self.reach.clone()));
        Ok(())
    }

    pub(super) async fn start_recorder(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &StepRunner,
    ) -> Result<(), MirrorError> {
        let config =
            RecorderConfig::new(mirror.server(), mirror.log_place(), PACKAGE_ROLE, self.events.clock())
                .with_address(runner.address())
                .with_own_role(SUPERUSER)
                .with_migration_lock(&self.plan.migration_lock);
        let recorder = Recorder::start(config).await;
        self.recorder =
            Some(recorder.map_err(|error| MirrorError::new(format!("the recorder: {error}"), ""))?);
        Ok(())
    }

    /// The log tells each statement of the clients, so that one that waits later is known by its route.
    pub(super) async fn listen(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = recorder.listen().await {
            self.events.notice(format!("statements are not told apart by route: failed to {error}"));
        }
    }

    /// Before the baseline: what is measured does not pay for it.
    pub(super) async fn stop_listening(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = recorder.stop_listening().await {
            self.events.notice(format!("statements may not be told apart by route: failed to {error}"));
        }
    }

    pub(super) async fn start_traffic(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        workload: Workload,
    ) -> Result<(), MirrorError> {
        let failed = |error: &dyn std::fmt::Display| MirrorError::new(format!("the traffic: {error}"), "");
        let target = self.plan.traffic.target.as_deref();
        let base_url = target.map(|target| mirror.services().url(target)).transpose()?;
        let databases = self.databases(mirror);
        let users_stream = if workload.has_users() { Some(self.start_worker().await?) } else { None };
        let dependents = mirror.services().of_role(ServiceRole::Dependent);
        let watched = dependents
            .into_iter()
            .map(|name| Ok((name.clone(), mirror.services().health_url(&name)?)))
            .collect::<Result<Vec<_>, MirrorError>>()?;
        let clock = self.events.clock();
        self.watch = Some(Watch::start(watched, clock));
        let plan = TrafficPlan { workload, base_url, databases, clock, seed: self.plan.seed, users_stream };
        self.traffic = Some(Traffic::start(plan).await.map_err(|error| failed(&error))?);
        self.forget_feeders(mirror).await?;
        self.enter(Phase::Warmup).await;
        Ok(())
    }

    /// What filled the workload's feeders is no traffic: the statistics begin again once its sessions have written theirs.
    async fn forget_feeders(&self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        if self.plan.traffic.database.is_empty() {
            return Ok(());
        }
        let names: Vec<&String> = self.plan.traffic.database.keys().collect();
        let mut connection = mirror.connect().await?;
        let limit_us = self.events.clock().now_us() + SESSION_END_US;
        // A service may call itself the same and stay: what it has read so far is then all that is forgotten.
        while self.events.clock().now_us() < limit_us {
            let gone: bool = sqlx::query_scalar(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = ANY($1))",
            )
            .bind(&names)
            .fetch_one(&mut connection)
            .await
            .map_err(unread)?;
            if gone {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        data::reset_statistics(&mut connection).await.map_err(unread)
    }

    /// How the workload's SQL connects: as the application's roles, and by no other way than they.
    pub(super) fn databases(&self, mirror: &Arc<dyn Mirror>) -> BTreeMap<String, PgConnectOptions> {
        let roles = &self.plan.mirror.database.roles;
        let named = self.plan.traffic.database.iter().filter_map(|(name, role)| {
            // Reading the plan has checked the role.
            let password = roles.get(role)?;
            let options = mirror.server().username(role).password(password).application_name(name);
            Some((name.clone(), options))
        });
        named.collect()
    }

    /// Starts the child that drives virtual users; only its pipes are given on.
    async fn start_worker(&mut self) -> Result<(UsersReader, UsersWriter), MirrorError> {
        let log = self.bundle.join("logs").join("worker.log");
        let (child, pipes) = worker::start(&our_program()?, &self.run, log).await?;
        self.worker = Some(child);
        Ok(pipes)
    }
}

fn our_program() -> Result<PathBuf, MirrorError> {
    std::env::current_exe().map_err(|error| MirrorError::new(format!("our own program: {error}"), ""))
}

async fn settings(mirror: &Arc<dyn Mirror>) -> Result<BTreeMap<String, String>, MirrorError> {
    const NAMES: [&str; 8] = [
        "server_version",
        "shared_buffers",
        "max_connections",
        "lock_timeout",
        "statement_timeout",
        "deadlock_timeout",
        "synchronous_commit",
        "fsync",
    ];
    let names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)")
            .bind(&names)
            .fetch_all(&mut mirror.connect().await?)
            .await
            .map_err(unread)?;
    Ok(rows.into_iter().collect())
}
