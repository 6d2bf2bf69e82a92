//! The services of a mirror in containers, reached through the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fulldress_workloads::clock::Clock;
use tokio::sync::Mutex;

use super::engine::{Found, Health};
use super::model::image_of_version;
use super::outbound::OutboundLedger;
use super::project::Project;
use crate::http;
use crate::mirror::MirrorError;
use crate::mirror::services::{ServiceState, Services, find};
use crate::plan::Service;

/// Pause between two looks at a starting service.
const HEALTH_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two looks at a container's own health check, which answers in seconds.
const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// Compose's own default for a service that says nothing of its grace.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The plan's services.
pub struct ContainerServices {
    project: Arc<Project>,
    specs: Vec<Service>,
    /// Ports on 127.0.0.1, by service: the gateway's, which stay when a container is replaced.
    ports: BTreeMap<String, u16>,
    /// Told of every container that comes or goes.
    outbound: Arc<OutboundLedger>,
    start_limit: Duration,
    versions: Mutex<BTreeMap<String, String>>,
}

impl ContainerServices {
    /// The services of a project whose gateway runs; `ports` are the gateway's on 127.0.0.1.
    #[must_use]
    pub(super) fn new(
        project: Arc<Project>,
        specs: Vec<Service>,
        ports: BTreeMap<String, u16>,
        outbound: Arc<OutboundLedger>,
        start_limit: Duration,
    ) -> Self {
        let versions = specs.iter().map(|spec| (spec.name.clone(), spec.version.clone())).collect();
        Self { project, specs, ports, outbound, start_limit, versions: Mutex::new(versions) }
    }

    /// Puts a container into every network that a service of the project stands in.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn join_networks(&self, container: &str) -> Result<(), MirrorError> {
        let engine = self.project.engine();
        let joined = engine.inspect(container).await?.addresses;
        let wanted: Vec<String> = {
            let model = self.project.model().await;
            let services: Vec<String> = self.specs.iter().map(|spec| spec.name.clone()).collect();
            let networks = services.iter().flat_map(|service| model.networks(service));
            networks.filter_map(|network| model.network_name(&network).map(str::to_owned)).collect()
        };
        for network in std::collections::BTreeSet::from_iter(wanted) {
            if !joined.contains_key(&network) {
                engine.connect_network(&network, container, &[]).await?;
            }
        }
        Ok(())
    }

    /// Waits until a service's health endpoint answers 200 through the gateway.
    async fn await_health(&self, name: &str) -> Result<(), MirrorError> {
        let url = (self as &dyn Services).health_url(name)?;
        let clock = Clock::start();
        let limit_us = u64::try_from(self.start_limit.as_micros()).unwrap_or(u64::MAX);
        loop {
            let fault = match http::get(&url, Duration::from_secs(1)).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("its health endpoint answered with status {}", answer.status),
                Err(error) => error.to_string(),
            };
            let container = self.project.container(name).await?;
            let ended = matches!(container.state.as_str(), "exited" | "dead");
            if ended || clock.now_us() > limit_us {
                let log = self.project.last_lines(&container.id).await;
                let what = if ended {
                    format!("service {name} ended while it started: {log}")
                } else {
                    let seconds = self.start_limit.as_secs();
                    format!("service {name} was not healthy within {seconds} s ({fault}): {log}")
                };
                return Err(MirrorError::new(what, ""));
            }
            tokio::time::sleep(HEALTH_PAUSE).await;
        }
    }

    /// Puts the present model's container in place of the running one: started, awaited until its own health check is
    /// well, then the old one drained. Without a health check nobody could say when: then the old one goes first.
    async fn roll_over(&self, name: &str) -> Result<(), MirrorError> {
        let engine = self.project.engine();
        let old = self.project.replicas(name).await?;
        let checked = match old.first() {
            Some(first) => engine.inspect(&first.id).await?.health != Health::None,
            None => false,
        };
        if !checked || old.iter().all(|container| container.state != "running") {
            return self.project.replace(name).await;
        }
        self.project.start_beside(name, old.len() + 1).await?;
        let known = |container: &Found| old.iter().any(|known| known.id == container.id);
        let all = self.project.replicas(name).await?;
        let Some(new) = all.iter().find(|container| !known(container)) else {
            return Err(MirrorError::new(format!("Compose did not start service {name} a second time"), ""));
        };
        if let Err(error) = self.await_check(name, &new.id).await {
            // The first failure is the one to tell.
            let _ = engine.remove(&new.id, true).await;
            return Err(error);
        }
        for container in &old {
            engine.stop(&container.id, STOP_GRACE).await?;
            engine.remove(&container.id, true).await?;
        }
        Ok(())
    }

    /// Waits until a container's own health check is well.
    async fn await_check(&self, name: &str, id: &str) -> Result<(), MirrorError> {
        let clock = Clock::start();
        let limit_us = u64::try_from(self.start_limit.as_micros()).unwrap_or(u64::MAX);
        loop {
            let facts = self.project.engine().inspect(id).await?;
            let fault = match facts.health {
                Health::Healthy => return Ok(()),
                _ if !facts.running => "ended while it started".to_owned(),
                Health::Unhealthy => "is not healthy by its own health check".to_owned(),
                _ if clock.now_us() > limit_us => {
                    format!("was not healthy within {} s", self.start_limit.as_secs())
                }
                _ => {
                    tokio::time::sleep(CHECK_PAUSE).await;
                    continue;
                }
            };
            let log = self.project.last_lines(id).await;
            return Err(MirrorError::new(format!("service {name} {fault}: {log}"), ""));
        }
    }

    /// Stops every running service that depends on the database by the compose file, or is the plan's and no stub; names
    /// them in the order to start them again.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn stop_users_of(&self, database: &str) -> Result<Vec<String>, MirrorError> {
        let mut users = self.project.model().await.dependants(database);
        let ours = self.specs.iter().filter(|spec| spec.role != crate::plan::ServiceRole::Stub);
        users.extend(ours.map(|spec| spec.name.clone()));
        let running = self.project.containers().await?;
        let mut stopped = Vec::new();
        for (service, container) in running {
            if users.contains(&service) && container.state == "running" {
                self.project.engine().stop(&container.id, STOP_GRACE).await?;
                stopped.push(service);
            }
        }
        // The plan's order first: what the others need stands at its head.
        stopped
            .sort_by_key(|name| self.specs.iter().position(|spec| spec.name == *name).unwrap_or(usize::MAX));
        Ok(stopped)
    }
}

#[async_trait]
impl Services for ContainerServices {
    fn specs(&self) -> &[Service] {
        &self.specs
    }

    fn port(&self, name: &str) -> Result<u16, MirrorError> {
        find(&self.specs, name)?;
        self.ports
            .get(name)
            .copied()
            .ok_or_else(|| MirrorError::new(format!("service {name} has no port on this machine"), ""))
    }

    async fn start(&self, name: &str) -> Result<(), MirrorError> {
        let container = self.project.container(name).await?;
        if container.state == "running" {
            return Ok(());
        }
        self.project.engine().start(&container.id).await?;
        self.outbound.look_again();
        if self.ports.contains_key(name) {
            self.await_health(name).await?;
        }
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), MirrorError> {
        find(&self.specs, name)?;
        let container = self.project.container(name).await?;
        self.project.engine().stop(&container.id, STOP_GRACE).await
    }

    async fn deploy(&self, name: &str, version: &str) -> Result<(), MirrorError> {
        let spec = find(&self.specs, name)?;
        let before = {
            let mut model = self.project.model().await;
            let current = model.image(name).unwrap_or_default().to_owned();
            let image = image_of_version(spec.image.as_deref(), &current, version);
            if !self.project.engine().has_image(&image).await? {
                let what =
                    format!("image {image} of service {name} in version {version} is not on this machine");
                return Err(MirrorError::new(what, "build or pull it first"));
            }
            model.set_image(name, &image);
            current
        };
        let deployed = self.roll_over(name).await;
        self.outbound.look_again();
        if deployed.is_err() {
            // The old one goes on; what runs and what the model says must be the same.
            self.project.model().await.set_image(name, &before);
            return deployed;
        }
        self.versions.lock().await.insert(name.to_owned(), version.to_owned());
        self.await_health(name).await
    }

    async fn state(&self, name: &str) -> Result<ServiceState, MirrorError> {
        find(&self.specs, name)?;
        let version = self.versions.lock().await.get(name).cloned().unwrap_or_default();
        let active = self.project.container(name).await?.state == "running";
        Ok(ServiceState { version, active })
    }

    async fn start_all(&self) -> Result<(), MirrorError> {
        self.project.start_all().await?;
        self.outbound.watch_services();
        for spec in &self.specs {
            self.await_health(&spec.name).await?;
        }
        Ok(())
    }
}
