//! The host that a mirror's scripts live on: units and schedules from the inventory, services of the mirror.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::control::{HostSnapshot, HostState, ServiceActions, Unit};
use super::script_host::script_user;
use crate::inventory::Inventory;
use crate::mirror::Services;
use crate::proofs::residue::State;

/// The mirror's services as `systemctl` acts on them.
#[derive(Clone)]
pub struct MirrorServices(pub Arc<dyn Services>);

impl ServiceActions for MirrorServices {
    async fn start(&self, service: &str) -> Result<(), String> {
        self.0.start(service).await.map_err(|error| error.to_string())
    }

    async fn stop(&self, service: &str) -> Result<(), String> {
        self.0.stop(service).await.map_err(|error| error.to_string())
    }

    async fn restart(&self, service: &str) -> Result<(), String> {
        self.stop(service).await?;
        self.start(service).await
    }

    async fn is_active(&self, service: &str) -> bool {
        self.0.state(service).await.is_ok_and(|state| state.active)
    }
}

/// The host as the inventory declares it.
#[must_use]
pub fn declared(inventory: &Inventory) -> HostState {
    let mut crontabs: BTreeMap<String, String> = BTreeMap::new();
    for schedule in &inventory.schedules {
        let crontab = crontabs.entry(schedule.user.clone()).or_default();
        crontab.push_str(&schedule.line);
        crontab.push('\n');
    }
    HostState {
        units: inventory
            .units
            .iter()
            .map(|unit| {
                let state = Unit {
                    service: unit.service.clone(),
                    enabled: unit.enabled,
                    active: unit.enabled,
                    ..Unit::default()
                };
                (unit.name.clone(), state)
            })
            .collect(),
        crontabs,
        users: inventory.users.iter().map(|user| user.name.clone()).collect(),
        script_user: script_user(inventory).to_owned(),
        ..HostState::default()
    }
}

/// Units as a residue probe names them.
#[must_use]
pub fn units(snapshot: &HostSnapshot) -> State {
    let word = |truth: bool, yes: &'static str, no: &'static str| if truth { yes } else { no };
    snapshot
        .units
        .iter()
        .map(|(name, unit)| {
            let masked = word(unit.masked, ", masked", "");
            let enabled = word(unit.enabled, "enabled", "disabled");
            (name.clone(), format!("{enabled}, {}{masked}", word(unit.active, "active", "inactive")))
        })
        .collect()
}

/// Scheduled tasks as a residue probe names them: one entry a line of a crontab, one a job.
#[must_use]
pub fn scheduled_tasks(snapshot: &HostSnapshot) -> State {
    let lines = snapshot.crontabs.iter().flat_map(|(user, crontab)| {
        crontab
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(move |line| (format!("crontab of {user}: {line}"), "scheduled".to_owned()))
    });
    let jobs = snapshot.at_jobs.values().map(|job| {
        (format!("at job of {} {}: {}", job.user, job.when, job.commands.trim()), "scheduled".to_owned())
    });
    lines.chain(jobs).collect()
}
