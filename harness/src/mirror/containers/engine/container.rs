//! Containers: made, looked at, ended.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HealthStatusEnum, HostConfig,
    Mount as ApiMount, MountPoint, MountType, MountVolumeOptions, NetworkingConfig, PortBinding, PortMap,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::TryStreamExt as _;

use super::super::super::MirrorError;
use super::exec::Collected;
use super::{
    CALL_LIMIT, ContainerFacts, ContainerSpec, Engine, Found, Health, Mount, MountFacts, MountSource, Ran,
    label_filter, status,
};

impl Engine {
    /// Makes a container and starts it; its id. Nothing is left behind when it cannot be started.
    ///
    /// # Errors
    /// When the image is not here, the name is taken, a mount's source is missing, or the program cannot be started.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, MirrorError> {
        let id = self.make(spec).await?;
        if let Err(error) = self.start(&id).await {
            // The first failure is the one to tell.
            let _ = self.remove(&id, true).await;
            return Err(MirrorError { what: error.what.replace(&id, label_of(spec)), ..error });
        }
        Ok(id)
    }

    async fn make(&self, spec: &ContainerSpec) -> Result<String, MirrorError> {
        let mut options = CreateContainerOptionsBuilder::new();
        if !spec.name.is_empty() {
            options = options.name(&spec.name);
        }
        let what = format!("make the container {} from the image {}", label_of(spec), spec.image);
        Ok(self.call(&what, self.docker.create_container(Some(options.build()), body(spec))).await?.id)
    }

    /// Runs a container to its end and removes it, also when it is killed at the limit and when this future is dropped.
    ///
    /// # Errors
    /// As [`Engine::create`], and when the engine does not answer.
    pub async fn run_once(&self, spec: &ContainerSpec, limit: Duration) -> Result<Ran, MirrorError> {
        let id = self.make(spec).await?;
        let removal = Removal { engine: self.clone(), id: Some(id.clone()) };
        let ran = self.run_to_end(&id, limit).await;
        let removed = removal.now().await;
        let ran =
            ran.map_err(|error| MirrorError { what: error.what.replace(&id, label_of(spec)), ..error })?;
        removed.map(|()| ran)
    }

    async fn run_to_end(&self, id: &str, limit: Duration) -> Result<Ran, MirrorError> {
        self.start(id).await?;
        let waiting = async {
            match self.docker.wait_container(id, None::<WaitContainerOptions>).try_next().await {
                Ok(ended) => Ok(ended.map(|ended| ended.status_code)),
                // This client's word for any exit code but zero.
                Err(Error::DockerContainerWaitError { code, .. }) => Ok(Some(code)),
                Err(error) => Err(error),
            }
        };
        let waited = self.attended(tokio::time::timeout(limit, waiting)).await?;
        let timed_out = waited.is_err();
        if timed_out {
            self.kill(id).await?;
        }
        let code = match waited {
            Ok(code) => {
                code.map_err(|error| super::failed(&format!("wait for the container {id}"), &error))?
            }
            Err(_) => None,
        };
        let code = match code {
            Some(code) => code,
            None => self.inspect(id).await?.exit_code.unwrap_or(137),
        };
        let said = self.said(id, None).await?;
        Ok(Ran { code, stdout: said.stdout, stderr: said.stderr, timed_out })
    }

    /// Starts a container; nothing happens when it runs.
    ///
    /// # Errors
    /// When its program or a mount cannot be started, or a port is taken.
    pub async fn start(&self, id: &str) -> Result<(), MirrorError> {
        self.call(&format!("start the container {id}"), self.docker.start_container(id, None)).await
    }

    /// Asks a container to stop, and kills it after the grace, which counts in whole seconds.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), MirrorError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let limit = grace + CALL_LIMIT;
        // The client has a time limit of its own, which must not end before the grace.
        let docker = self.docker.clone().with_timeout(limit);
        self.within(limit, &format!("stop the container {id}"), docker.stop_container(id, Some(options)))
            .await
    }

    /// Kills a container at once; nothing happens when it does not run.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn kill(&self, id: &str) -> Result<(), MirrorError> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let killing = async {
            match self.docker.kill_container(id, Some(options)).await {
                // It does not run: it ended by itself.
                Err(error) if status(&error) == Some(409) => Ok(()),
                result => result,
            }
        };
        self.call(&format!("kill the container {id}"), killing).await
    }

    /// Removes a container with its unnamed volumes; with force also a running one. One that is gone is removed.
    ///
    /// # Errors
    /// When it runs and force was not asked for.
    pub async fn remove(&self, id: &str, force: bool) -> Result<(), MirrorError> {
        self.call(&format!("remove the container {id}"), self.try_remove(id, force)).await
    }

    pub(super) async fn try_remove(&self, id: &str, force: bool) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(force).v(true).build();
        match self.docker.remove_container(id, Some(options)).await {
            Err(error) if status(&error) == Some(404) => Ok(()),
            result => result,
        }
    }

    /// What the engine knows about a container.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerFacts, MirrorError> {
        let what = format!("look at the container {id}");
        Ok(facts(self.call(&what, self.docker.inspect_container(id, None)).await?))
    }

    /// What a container wrote to both of its streams, in the order of writing; at most 16 MiB of each.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn logs(&self, id: &str, tail: Option<u32>) -> Result<String, MirrorError> {
        let said = self.said(id, tail).await?;
        Ok(String::from_utf8_lossy(&said.both).into_owned())
    }

    async fn said(&self, id: &str, tail: Option<u32>) -> Result<Collected, MirrorError> {
        let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&tail).build();
        let mut said = Collected::default();
        let mut lines = self.docker.logs(id, Some(options));
        let reading = async {
            while let Some(line) = lines.try_next().await? {
                said.take(line);
            }
            Ok(())
        };
        self.call(&format!("read the log of the container {id}"), reading).await?;
        Ok(said)
    }

    /// Containers that carry all of these labels, stopped ones included; an empty value stands for any.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn find(&self, labels: &[(&str, &str)]) -> Result<Vec<Found>, MirrorError> {
        let filters = label_filter(labels.iter().copied());
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.call("list the containers", self.docker.list_containers(Some(options))).await?;
        let found = found.into_iter().map(|container| Found {
            id: container.id.unwrap_or_default(),
            name: plain_name(container.names.unwrap_or_default().first().map_or("", String::as_str)),
            labels: container.labels.unwrap_or_default().into_iter().collect(),
            state: container.state.map(|state| state.to_string()).unwrap_or_default(),
        });
        Ok(found.collect())
    }
}

/// Removes a container when the future that owns it is dropped. Whatever that misses, such as the program's own end,
/// has the run's label and is swept.
struct Removal {
    engine: Engine,
    id: Option<String>,
}

impl Removal {
    async fn now(mut self) -> Result<(), MirrorError> {
        let Some(id) = self.id.clone() else { return Ok(()) };
        let removed = self.engine.remove(&id, true).await;
        self.id = None;
        removed
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let engine = self.engine.clone();
            runtime.spawn(async move { engine.remove(&id, true).await });
        }
    }
}

/// How people know it.
fn label_of(spec: &ContainerSpec) -> &str {
    if spec.name.is_empty() { "without a name" } else { &spec.name }
}

/// The engine puts a slash in front of names.
fn plain_name(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

fn pairs(variables: &[(String, String)]) -> Vec<String> {
    variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// A specification in the engine's form.
fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let endpoint = EndpointSettings {
        aliases: (!spec.aliases.is_empty()).then(|| spec.aliases.clone()),
        ..EndpointSettings::default()
    };
    let is_mode = |network: &str| matches!(network, "none" | "host") || network.starts_with("container:");
    let network = spec.network.clone().filter(|network| !is_mode(network));
    let network = network
        .map(|network| NetworkingConfig { endpoints_config: Some(HashMap::from([(network, endpoint)])) });
    let exposed = spec.publish.iter().map(|port| format!("{port}/tcp"));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        entrypoint: spec.entrypoint.clone(),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(pairs(&spec.environment)),
        exposed_ports: Some(exposed.collect()),
        labels: Some(spec.labels.iter().cloned().collect()),
        // These are modes and have no endpoint.
        networking_config: network,
        host_config: Some(HostConfig {
            network_mode: spec.network.clone(),
            mounts: Some(spec.mounts.iter().map(|mount| mount_body(mount, &spec.labels)).collect()),
            port_bindings: Some(bindings(&spec.publish)),
            cap_drop: spec.cap_drop_all.then(|| vec!["ALL".to_owned()]),
            cap_add: (!spec.cap_add.is_empty()).then(|| spec.cap_add.clone()),
            dns: (!spec.dns.is_empty()).then(|| spec.dns.iter().map(ToString::to_string).collect()),
            init: spec.init.then_some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn mount_body(mount: &Mount, labels: &[(String, String)]) -> ApiMount {
    let (typ, source) = match &mount.source {
        MountSource::Bind(path) => (MountType::BIND, Some(path.clone())),
        MountSource::Volume(name) => (MountType::VOLUME, Some(name.clone())),
        MountSource::Memory => (MountType::TMPFS, None),
    };
    // A volume that the engine makes on the way must be found by the sweep.
    let volume_options = matches!(mount.source, MountSource::Volume(_)).then(|| MountVolumeOptions {
        labels: Some(labels.iter().cloned().collect()),
        ..MountVolumeOptions::default()
    });
    ApiMount {
        target: Some(mount.target.clone()),
        source,
        typ: Some(typ),
        read_only: Some(mount.read_only),
        volume_options,
        ..ApiMount::default()
    }
}

/// Each port on 127.0.0.1, where the engine chooses a free one.
fn bindings(ports: &[u16]) -> PortMap {
    let binding = || PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    ports.iter().map(|port| (format!("{port}/tcp"), Some(vec![binding()]))).collect()
}

fn facts(inspected: ContainerInspectResponse) -> ContainerFacts {
    let state = inspected.state.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
    let network = inspected.network_settings.unwrap_or_default();
    let running = state.running.unwrap_or_default();
    let addresses = network.networks.unwrap_or_default().into_iter().filter_map(|(name, endpoint)| {
        // Empty while it does not run.
        Some((name, endpoint.ip_address?.parse().ok()?))
    });
    ContainerFacts {
        id: inspected.id.unwrap_or_default(),
        name: plain_name(inspected.name.as_deref().unwrap_or_default()),
        running,
        started: state.started_at.unwrap_or_default(),
        exit_code: state.exit_code.filter(|_| !running),
        out_of_memory: state.oom_killed.unwrap_or_default(),
        health: match state.health.and_then(|health| health.status) {
            Some(HealthStatusEnum::STARTING) => Health::Starting,
            Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
            _ => Health::None,
        },
        image: config.image.unwrap_or_default(),
        image_id: inspected.image.unwrap_or_default(),
        addresses: addresses.collect(),
        published: published(network.ports.unwrap_or_default()),
        mounts: inspected.mounts.into_iter().flatten().map(mount_facts).collect(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    }
}

fn mount_facts(mount: MountPoint) -> MountFacts {
    let named = mount.name.filter(|name| !name.is_empty());
    MountFacts {
        kind: mount.typ.map(|kind| kind.to_string()).unwrap_or_default(),
        source: named.or(mount.source).unwrap_or_default(),
        target: mount.destination.unwrap_or_default(),
        writable: mount.rw.unwrap_or_default(),
    }
}

fn published(ports: PortMap) -> std::collections::BTreeMap<u16, u16> {
    let ports = ports.into_iter().filter_map(|(inside, bindings)| {
        let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
        let outside = bindings?.into_iter().find_map(|binding| binding.host_port?.parse().ok())?;
        Some((inside, outside))
    });
    ports.collect()
}
