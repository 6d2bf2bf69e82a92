//! Networks and volumes, and the sweep of everything that a run of ours left at the engine.

use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
};
use fulldress_workloads::clock::Clock;

use super::super::super::MirrorError;
use super::{Engine, RUN_LABEL, failed, label_filter, status};
use crate::process::RunFolder;

/// How long something may stay in use after what used it is gone.
const IN_USE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two tries.
const IN_USE_PAUSE: Duration = Duration::from_millis(100);

/// Value of [`RUN_LABEL`] for the run of a working folder. The host's name is part of it: two containers may share an
/// engine, and the path of one means nothing in the other.
#[must_use]
pub fn run_label(folder: &std::path::Path) -> String {
    format!("{}:{}", host_name(), folder.display())
}

/// Whether the run of a label of this host has ended, so that what carries it is a stray.
#[must_use]
pub fn is_stray(label: &str) -> bool {
    label.split_once(':').is_some_and(|(host, folder)| {
        host == host_name() && RunFolder::is_abandoned(std::path::Path::new(folder))
    })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// One thing at the engine that carries a run's label.
#[derive(Debug)]
enum Labelled {
    Container { id: String, name: String },
    Network { id: String, name: String },
    Volume { name: String },
}

impl Labelled {
    fn describe(&self) -> String {
        match self {
            Self::Container { name, .. } => format!("the container {name}"),
            Self::Network { name, .. } => format!("the network {name}"),
            Self::Volume { name } => format!("the volume {name}"),
        }
    }
}

impl Engine {
    /// Makes a network; its id. An internal one has no way out of the machine.
    ///
    /// # Errors
    /// When the name is taken or the engine has no addresses left.
    pub async fn create_network(
        &self,
        name: &str,
        internal: bool,
        labels: &[(String, String)],
    ) -> Result<String, MirrorError> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            internal: Some(internal),
            labels: Some(labels.iter().cloned().collect()),
            ..NetworkCreateRequest::default()
        };
        let made =
            self.call(&format!("make the network {name}"), self.docker.create_network(request)).await?;
        Ok(made.id)
    }

    /// Puts a container into a network, where others find it by the aliases.
    ///
    /// # Errors
    /// When either is not there, or it stands in it already.
    pub async fn connect_network(
        &self,
        network: &str,
        id: &str,
        aliases: &[String],
    ) -> Result<(), MirrorError> {
        let request = NetworkConnectRequest {
            container: id.to_owned(),
            endpoint_config: Some(EndpointSettings {
                aliases: Some(aliases.to_vec()),
                ..EndpointSettings::default()
            }),
        };
        let what = format!("connect the container {id} to the network {network}");
        self.call(&what, self.docker.connect_network(network, request)).await
    }

    /// Removes a network; one that is gone is removed.
    ///
    /// # Errors
    /// When a container stands in it for longer than 10 s.
    pub async fn remove_network(&self, name: &str) -> Result<(), MirrorError> {
        self.remove_labelled(&Labelled::Network { id: name.to_owned(), name: name.to_owned() })
            .await
            .map(drop)
    }

    /// Makes a volume; nothing happens when it is there.
    ///
    /// # Errors
    /// When the engine cannot make it.
    pub async fn create_volume(&self, name: &str, labels: &[(String, String)]) -> Result<(), MirrorError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels.iter().cloned().collect()),
            ..VolumeCreateRequest::default()
        };
        self.call(&format!("make the volume {name}"), self.docker.create_volume(request)).await.map(drop)
    }

    /// Removes a volume; one that is gone is removed.
    ///
    /// # Errors
    /// When a container uses it for longer than 10 s.
    pub async fn remove_volume(&self, name: &str) -> Result<(), MirrorError> {
        self.remove_labelled(&Labelled::Volume { name: name.to_owned() }).await.map(drop)
    }

    /// Removes every container, network and volume whose label `stray` says yes to: see [`is_stray`], or compare with
    /// the own [`run_label`] at its end. Says what was removed, one sentence each.
    ///
    /// # Errors
    /// The first thing that could not be removed, after all others were.
    pub async fn sweep(&self, stray: impl Fn(&str) -> bool + Send) -> Result<Vec<String>, MirrorError> {
        let labelled = self.labelled().await?;
        let strays: Vec<Labelled> =
            labelled.into_iter().filter(|(run, _)| stray(run)).map(|(_, labelled)| labelled).collect();
        // Containers come first: they hold the networks and the volumes.
        let (mut swept, mut failure) = (Vec::new(), None);
        for labelled in strays {
            match self.remove_labelled(&labelled).await {
                Ok(true) => swept.push(format!("removed {}", labelled.describe())),
                Ok(false) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(swept), Err)
    }

    /// Everything that carries the label of any run, with its value; containers, then networks, then volumes.
    async fn labelled(&self) -> Result<Vec<(String, Labelled)>, MirrorError> {
        let filters = label_filter([(RUN_LABEL, "")]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.call("list the containers", self.docker.list_containers(Some(options))).await?;
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = self.call("list the networks", self.docker.list_networks(Some(options))).await?;
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let volumes = self.call("list the volumes", self.docker.list_volumes(Some(options))).await?;
        let containers = containers.into_iter().filter_map(|container| {
            let id = container.id?;
            let name =
                container.names.unwrap_or_default().pop().map(|name| name.trim_start_matches('/').to_owned());
            let name = name.unwrap_or_else(|| id.clone());
            Some((container.labels?.remove(RUN_LABEL)?, Labelled::Container { id, name }))
        });
        let networks = networks.into_iter().filter_map(|network| {
            let labelled = Labelled::Network { id: network.id?, name: network.name.unwrap_or_default() };
            Some((network.labels?.remove(RUN_LABEL)?, labelled))
        });
        let volumes = volumes.volumes.unwrap_or_default().into_iter().filter_map(|mut volume| {
            Some((volume.labels.remove(RUN_LABEL)?, Labelled::Volume { name: volume.name }))
        });
        Ok(containers.chain(networks).chain(volumes).collect())
    }

    /// Removes one thing, again and again while the engine says that it is in use; whether it was still there.
    async fn remove_labelled(&self, labelled: &Labelled) -> Result<bool, MirrorError> {
        let clock = Clock::start();
        let what = format!("remove {}", labelled.describe());
        loop {
            let removing = async {
                Ok(match labelled {
                    Labelled::Container { id, .. } => self.try_remove(id, true).await,
                    Labelled::Network { id, .. } => self.docker.remove_network(id).await,
                    Labelled::Volume { name } => {
                        self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await
                    }
                })
            };
            match self.call(&what, removing).await? {
                Ok(()) => return Ok(true),
                Err(error) if status(&error) == Some(404) => return Ok(false),
                Err(error) if is_in_use(&error) && clock.now_us() < limit_us() => {}
                Err(error) => return Err(failed(&what, &error)),
            }
            tokio::time::sleep(IN_USE_PAUSE).await;
        }
    }
}

fn limit_us() -> u64 {
    u64::try_from(IN_USE_LIMIT.as_micros()).unwrap_or(u64::MAX)
}

/// A conflict passes once whatever uses the thing, or removes it already, has ended.
fn is_in_use(error: &Error) -> bool {
    status(error) == Some(409) || super::words(error).contains("active endpoints")
}
