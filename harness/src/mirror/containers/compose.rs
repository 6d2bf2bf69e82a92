//! The mirror in containers: any compose file, closed towards outside, with one gateway and one runner of our own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgConnection};

use super::database::{Database, Place};
use super::engine::{ContainerSpec, Engine, ImageFacts, Mount, MountSource, run_label};
use super::gateway::{CONFIG_VARIABLE, Forward, GatewayConfig};
use super::host::{ContainerHost, labels};
use super::model::{Closing, Model, SeededVolume, image_of_version};
use super::outbound::OutboundLedger;
use super::project::{self, Project};
use super::services::ContainerServices;
use crate::inventory::Inventory;
use crate::mirror::cluster::uuid;
use crate::mirror::connection::database_error;
use crate::mirror::dataset;
use crate::mirror::{DataCopy, HostParts, Mirror, MirrorError, Outbound, Services};
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::recorder::log::LogPlace;
use crate::recorder::settings;
use crate::upgrade::script_host::ScriptHost;

/// Where our own program stands in its container.
pub(super) const GATEWAY_PROGRAM: &str = "/fulldress/fulldress";
/// First port that the gateway listens on; the database's.
const GATEWAY_PORT: u16 = 20_000;
/// Longest pull of one image.
const PULL_LIMIT: Duration = Duration::from_secs(600);
/// Where an image keeps the data when it does not say.
const DATA_FOLDER: &str = "/var/lib/postgresql/data";
/// Longest copy of a folder of this machine into a volume.
const SEED_LIMIT: Duration = Duration::from_secs(3600);

/// What both a mirror and its script hosts work with.
pub(super) struct Parts {
    /// Our own program, which is the gateway and the shims.
    pub(super) program: PathBuf,
    pub(super) plan: Arc<Plan>,
    pub(super) inventory: Arc<Inventory>,
    pub(super) run: Arc<RunFolder>,
    pub(super) project: Arc<Project>,
    pub(super) database: Database,
    pub(super) services: Arc<ContainerServices>,
    /// Address of the gateway in the database's network, where script hosts ask for names.
    pub(super) resolver: IpAddr,
    /// Who called outside.
    pub(super) outbound: Arc<OutboundLedger>,
}

/// A mirror in containers.
pub struct ComposeMirror {
    parts: Parts,
    /// The compose file as Compose reads it, of which each clone gets its own.
    resolved: Model,
    package_password: String,
    gateway: Gateway,
    data_folder: String,
    image: String,
    logs: PathBuf,
}

/// A project with its volumes, before anything else of it is made.
struct Stage {
    program: PathBuf,
    resolved: Model,
    project: Arc<Project>,
    seeds: Vec<SeededVolume>,
    image: String,
    data_folder: String,
}

/// What a mirror's roles of ours log in with.
struct Passwords {
    /// Our superuser; a new one when absent.
    own: Option<String>,
    /// The package's role.
    package: String,
}

/// The container that stands in two networks.
struct Gateway {
    container: String,
    /// The network that publishes its ports.
    edge: String,
    /// Its addresses by the project's networks.
    addresses: BTreeMap<String, IpAddr>,
}

/// Makes sure that every image is here that the mirror and the package's versions need; pulls what is missing.
///
/// `versions` are the services and versions that the package deploys.
///
/// # Errors
/// When Compose is missing, refuses the file, or an image cannot be had; `make images` builds those of the storefront.
pub async fn ensure_images(
    engine: &Engine,
    plan: &Plan,
    versions: &[(String, String)],
    tell: impl Fn(String),
) -> Result<(), MirrorError> {
    project::version(engine).await?;
    let file = plan.mirror.compose.as_deref().unwrap_or(Path::new(""));
    let model = project::resolve(engine, file, "fulldress").await?;
    // Our own images are in no registry; one of that name there would be somebody else's.
    let mut wanted = BTreeMap::from([(plan.mirror.runner_image.clone(), false)]);
    for service in model.services().filter(|service| !model.is_built(service)) {
        let image = model.image(service);
        let image = image.ok_or_else(|| MirrorError::new(format!("service {service} has no image"), ""))?;
        wanted.insert(image.to_owned(), model.may_pull(service));
    }
    for (name, version) in versions {
        let pattern = plan.service(name).and_then(|service| service.image.as_deref());
        if let Some(current) = model.image(name) {
            wanted.insert(image_of_version(pattern, current, version), model.may_pull(name));
        }
    }
    for (image, may_pull) in wanted {
        if engine.has_image(&image).await? {
            continue;
        }
        if !may_pull {
            return Err(MirrorError::new(
                format!("image {image} is not on this machine, and must not be pulled"),
                "build it (`make images` builds those of the storefront), or name another in the compose file",
            ));
        }
        tell(format!("pulling image {image}"));
        engine.pull(&image, PULL_LIMIT).await?;
    }
    Ok(())
}

impl ComposeMirror {
    /// Starts database and gateway, fills the database, takes the snapshot; other services do not run yet. `program` is our
    /// own, which becomes the gateway and the shims; `logs` is the bundle's folder.
    ///
    /// # Errors
    /// When the engine, an image, the compose file or the dataset fails.
    pub async fn start(
        engine: Engine,
        program: PathBuf,
        plan: Arc<Plan>,
        inventory: Arc<Inventory>,
        run: Arc<RunFolder>,
        logs: &Path,
        tell: impl Fn(String) + Send + Sync,
    ) -> Result<Self, MirrorError> {
        tell(format!("starting containers on {}", engine.describe()));
        let file = plan.mirror.compose.as_deref().unwrap_or(Path::new(""));
        let resolved = project::resolve(&engine, file, "fulldress").await?;
        let stage = Stage::set(engine, program, resolved, &plan, &inventory, &run).await?;
        let gateway = stage.make(&plan, &run).await?;
        let passwords = Passwords { own: None, package: uuid() };
        let service = plan.mirror.database.service.clone().unwrap_or_default();
        stage.seed(&run).await?;
        if let Some(folder) = &plan.mirror.dataset.data_folder {
            tell(format!("copying data folder {}", folder.display()));
            stage.seed_data(&run, &service, folder).await?;
        }
        stage.project.start_with(&service).await?;
        let mirror = Self::open(stage, gateway, plan, inventory, run, logs, passwords).await?;
        let restart = mirror.parts.database.prepare(&mirror.parts.plan).await?;
        if let Err(error) = mirror.fill(&tell).await {
            return Err(mirror.parts.database.explain(error).await);
        }
        tell("taking the snapshot".to_owned());
        mirror.parts.database.take_snapshot(restart).await?;
        Ok(mirror)
    }

    /// Reaches a project whose database is coming up.
    async fn open(
        stage: Stage,
        gateway: Gateway,
        plan: Arc<Plan>,
        inventory: Arc<Inventory>,
        run: Arc<RunFolder>,
        logs: &Path,
        passwords: Passwords,
    ) -> Result<Self, MirrorError> {
        let Stage { program, resolved, project, image, data_folder, .. } = stage;
        let start_limit = Duration::from_secs(plan.mirror.start_timeout_s);
        let published = project.engine().inspect(&gateway.container).await?.published;
        let port_of = |index: usize| {
            let inside = GATEWAY_PORT + u16::try_from(index).unwrap_or(u16::MAX - GATEWAY_PORT);
            published.get(&inside).copied().ok_or_else(|| {
                MirrorError::new(format!("the gateway's port {inside} is not published on this machine"), "")
            })
        };
        let place = Place {
            image: image.clone(),
            data_folder: data_folder.clone(),
            port: port_of(0)?,
            password: passwords.own,
        };
        let database = Database::new(&plan, &project, &run, place).await?;
        let mut ports = BTreeMap::new();
        for (index, service) in plan.mirror.services.iter().enumerate() {
            ports.insert(service.name.clone(), port_of(index + 1)?);
        }
        let network = database.network().await?;
        let resolver = *gateway.addresses.get(&network).ok_or_else(|| {
            MirrorError::new(format!("the gateway has no address in the network {network}"), "")
        })?;
        let specs = plan.mirror.services.clone();
        let image_of_ours = plan.mirror.runner_image.clone();
        let outbound =
            OutboundLedger::new(&project, &run, program.clone(), image_of_ours, gateway.container.clone());
        let services =
            ContainerServices::new(Arc::clone(&project), specs, ports, Arc::clone(&outbound), start_limit);
        let services = Arc::new(services);
        let parts = Parts { program, plan, inventory, run, project, database, services, resolver, outbound };
        let package_password = passwords.package;
        Ok(Self { parts, resolved, package_password, gateway, data_folder, image, logs: logs.to_owned() })
    }

    async fn fill(&self, tell: &impl Fn(String)) -> Result<(), MirrorError> {
        let Parts { plan, run, database, .. } = &self.parts;
        let dataset = &plan.mirror.dataset;
        tell(format!("filling database {}", plan.mirror.database.name));
        if !dataset.command.is_empty() {
            let url = |role: &str, password: &str| database.url(role, password);
            let values = dataset::placeholders(plan, Path::new(""), database.admin_url(), url);
            dataset::run_command(plan, &values, run, &self.logs).await?;
        } else if let Some(dump) = &dataset.dump {
            database.load_dump(dump, Duration::from_secs(dataset.timeout_s)).await?;
        }
        let mut connection = database.connect().await?;
        dataset::create_package_role(&mut connection, plan, &self.package_password).await?;
        connection
            .execute("CHECKPOINT")
            .await
            .map_err(|error| database_error("cannot write a checkpoint", &error))?;
        Ok(())
    }

    /// Keeps what the containers said.
    async fn keep_logs(&self) {
        let Ok(containers) = self.parts.project.containers().await else { return };
        for (service, container) in containers {
            let Ok(text) = self.parts.project.engine().logs(&container.id, None).await else { continue };
            // A log that cannot be written is missing evidence and no reason to leave a container running.
            let _ = std::fs::create_dir_all(&self.logs)
                .and_then(|()| std::fs::write(self.logs.join(format!("{service}.log")), text));
        }
    }
}

impl Stage {
    /// Closes the compose file under a new project name, and makes its volumes.
    async fn set(
        engine: Engine,
        program: PathBuf,
        resolved: Model,
        plan: &Plan,
        inventory: &Inventory,
        run: &Arc<RunFolder>,
    ) -> Result<Self, MirrorError> {
        let name = format!("fulldress-{:08x}", rand::random::<u32>());
        let mut model = resolved.clone();
        let service = plan.mirror.database.service.clone().unwrap_or_default();
        model.require(&service, "the database")?;
        for spec in &plan.mirror.services {
            model.require(&spec.name, "a service")?;
        }
        model.refuse_unknown(&engine.describe(), engine.api_minor())?;
        let image = model.image(&service).unwrap_or_default().to_owned();
        let facts = engine.image(&image).await?;
        let data_folder = data_folder(&model, &service, &facts);
        let aliases = aliases(plan, inventory)?;
        let closing = Closing {
            run: &run_label(run.path()),
            project: &name,
            database: &service,
            data_folder: &data_folder,
            aliases: &aliases,
        };
        let seeds = model.close(&closing)?;
        // A given folder's own settings may name a folder for the log that is not there before we have made it.
        if plan.mirror.dataset.data_folder.is_none() {
            model.configure_server(&service, &facts.command, &settings::start_settings());
        }
        let project = Arc::new(Project::new(engine, name, run, model)?);
        project.create_volumes().await?;
        Ok(Self { program, resolved, project, seeds, image, data_folder })
    }

    /// Makes networks, gateway and containers; but for the gateway none of them runs yet.
    async fn make(&self, plan: &Plan, run: &Arc<RunFolder>) -> Result<Gateway, MirrorError> {
        let Self { program, project, .. } = self;
        // Whoever a service asks for names must have an address before the service's container is made.
        let edge = format!("{}-edge", project.name());
        let networks = project.create_networks().await?;
        let container = start_gateway(program, project, plan, run, &edge).await?;
        for network in &networks {
            project.engine().connect_network(network, &container, &[]).await?;
        }
        let addresses = project.engine().inspect(&container).await?.addresses;
        project.model().await.answer_names_at(&addresses);
        project.create().await?;
        Ok(Gateway { container, edge, addresses })
    }

    /// Copies the folders of this machine that services may write.
    async fn seed(&self, run: &Arc<RunFolder>) -> Result<(), MirrorError> {
        for seed in &self.seeds {
            let model = self.project.model().await;
            let volume = model.volume_name(&seed.volume).unwrap_or(&seed.volume).to_owned();
            drop(model);
            self.copy_in(run, Path::new(&seed.source), &volume, "cp -a /from/. /to/").await?;
        }
        Ok(())
    }

    async fn seed_data(&self, run: &Arc<RunFolder>, service: &str, folder: &Path) -> Result<(), MirrorError> {
        let (volume, inside) = {
            let model = self.project.model().await;
            let mount = model.data_mount(service, &self.data_folder);
            let (volume, target) = mount.ok_or_else(|| MirrorError::new("the data has no volume", ""))?;
            let inside = self.data_folder[target.len()..].trim_start_matches('/').to_owned();
            (model.volume_name(&volume).unwrap_or(&volume).to_owned(), inside)
        };
        // The image's own user may have another number than whoever stopped that server, whose log may have had a folder that
        // is not here; the last line of that file wins until the recorder's settings replace it.
        let script = format!(
            "mkdir -p /to/{inside} && cp -a /from/. /to/{inside}/ && rm -f /to/{inside}/postmaster.pid && \
             echo 'logging_collector = off' >>/to/{inside}/postgresql.auto.conf && \
             chown -R postgres /to/{inside} && chmod 700 /to/{inside}"
        );
        self.copy_in(run, folder, &volume, &script).await
    }

    async fn copy_in(
        &self,
        run: &Arc<RunFolder>,
        from: &Path,
        volume: &str,
        script: &str,
    ) -> Result<(), MirrorError> {
        if !from.is_dir() {
            return Err(MirrorError::new(format!("the folder {} is not there", from.display()), ""));
        }
        let mount = |source, target: &str, read_only| Mount { source, target: target.to_owned(), read_only };
        let spec = ContainerSpec {
            name: format!("{}-seed-{}", self.project.name(), uuid()),
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".into(), "-euc".into(), script.to_owned()]),
            user: Some("0".into()),
            network: Some("none".into()),
            mounts: vec![
                mount(MountSource::Bind(from.display().to_string()), "/from", true),
                mount(MountSource::Volume(volume.to_owned()), "/to", false),
            ],
            labels: labels(run, self.project.name()),
            ..ContainerSpec::default()
        };
        let ran = self.project.engine().run_once(&spec, SEED_LIMIT).await?;
        if ran.code == 0 && !ran.timed_out {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        let what = format!("the folder {} could not be copied into a volume: {said}", from.display());
        Err(MirrorError { hint: crate::mirror::disk_hint(&said), ..MirrorError::new(what, "") })
    }
}

/// Where the database's image keeps its data.
fn data_folder(model: &Model, service: &str, image: &ImageFacts) -> String {
    let of_image =
        image.environment.iter().find(|(name, _)| name == "PGDATA").map(|(_, value)| value.as_str());
    model.variable(service, "PGDATA").or(of_image).unwrap_or(DATA_FOLDER).trim_end_matches('/').to_owned()
}

/// Names of the inventory's hosts for the services that stand in for them.
fn aliases(plan: &Plan, inventory: &Inventory) -> Result<Vec<(String, String)>, MirrorError> {
    let mut aliases = Vec::new();
    for host in &inventory.hosts {
        let Some(service) = &host.service else { continue };
        let inside = plan.service(service).and_then(|service| service.container_port);
        if inside.is_some_and(|port| port != host.port) {
            let what = format!(
                "host {}:{} of the inventory is service {service}, which listens on port {}",
                host.name,
                host.port,
                inside.unwrap_or_default()
            );
            return Err(MirrorError::new(
                what,
                "let the stub listen on the third party's port in the compose file",
            ));
        }
        aliases.push((host.name.clone(), service.clone()));
    }
    Ok(aliases)
}

/// The one container that stands in two networks: it publishes the mirror's ports on 127.0.0.1.
async fn start_gateway(
    program: &Path,
    project: &Project,
    plan: &Plan,
    run: &Arc<RunFolder>,
    edge: &str,
) -> Result<String, MirrorError> {
    let database = &plan.mirror.database;
    let targets = std::iter::once((database.service.clone().unwrap_or_default(), database.container_port))
        .chain(
            plan.mirror
                .services
                .iter()
                .map(|spec| (spec.name.clone(), spec.container_port.unwrap_or_default())),
        );
    let forwards: Vec<Forward> =
        targets.zip(GATEWAY_PORT..).map(|((host, port), listen)| Forward { listen, host, port }).collect();
    let publish = forwards.iter().map(|forward| forward.listen).collect();
    let config = GatewayConfig { forwards, resolver: true, ..GatewayConfig::default() };
    let labels = labels(run, project.name());
    project.engine().create_network(edge, false, &labels).await?;
    let spec = ContainerSpec {
        name: format!("{}-gateway", project.name()),
        image: plan.mirror.runner_image.clone(),
        entrypoint: Some(vec![GATEWAY_PROGRAM.into(), "gateway".into()]),
        network: Some(edge.to_owned()),
        publish,
        labels,
        cap_add: vec!["NET_BIND_SERVICE".into()],
        ..gateway_program(program, &config)?
    };
    project.engine().create(&spec).await
}

/// A container that runs our own program as a gateway.
pub(super) fn gateway_program(program: &Path, config: &GatewayConfig) -> Result<ContainerSpec, MirrorError> {
    let config = serde_json::to_string(config)
        .map_err(|error| MirrorError::new(format!("the gateway's configuration: {error}"), ""))?;
    Ok(ContainerSpec {
        environment: vec![(CONFIG_VARIABLE.into(), config)],
        user: Some("0".into()),
        mounts: vec![Mount {
            source: MountSource::Bind(program.display().to_string()),
            target: GATEWAY_PROGRAM.into(),
            read_only: true,
        }],
        cap_drop_all: true,
        ..ContainerSpec::default()
    })
}

#[async_trait]
impl Mirror for ComposeMirror {
    fn services(&self) -> Arc<dyn Services> {
        Arc::<ContainerServices>::clone(&self.parts.services)
    }

    fn server(&self) -> PgConnectOptions {
        self.parts.database.options(&self.parts.plan.mirror.database.name)
    }

    fn log_place(&self) -> LogPlace {
        LogPlace::Server
    }

    fn package_password(&self) -> &str {
        &self.package_password
    }

    async fn connect(&self) -> Result<PgConnection, MirrorError> {
        self.parts.database.connect().await
    }

    async fn dump_schema(&self) -> Result<String, MirrorError> {
        self.parts.database.dump_schema().await
    }

    async fn back_up(&self, copy: DataCopy) -> Result<u64, MirrorError> {
        self.parts.database.back_up(copy).await
    }

    async fn restore(&self, copy: DataCopy) -> Result<(), MirrorError> {
        let database = self.parts.plan.mirror.database.service.as_deref().unwrap_or_default();
        let stopped = self.parts.services.stop_users_of(database).await?;
        self.parts.database.restore(copy).await?;
        for service in stopped {
            self.parts.services.start(&service).await?;
        }
        self.parts.outbound.look_again();
        Ok(())
    }

    async fn clone_from_snapshot(&self, name: &str, _hosts: &[&str]) -> Result<Arc<dyn Mirror>, MirrorError> {
        let Parts { program, plan, inventory, run, project, database, .. } = &self.parts;
        let (engine, resolved) = (project.engine().clone(), self.resolved.clone());
        let stage = Stage::set(engine, program.clone(), resolved, plan, inventory, run).await?;
        let service = plan.mirror.database.service.clone().unwrap_or_default();
        // The place in the new project is known before anything of it runs.
        let place = Place {
            image: self.image.clone(),
            data_folder: self.data_folder.clone(),
            port: 0,
            password: Some(database.password().to_owned()),
        };
        let empty = Database::new(plan, &stage.project, run, place).await?;
        // The copy takes longest, and needs nothing but the volumes.
        let ((), gateway) = tokio::try_join!(empty.fill_from(database), stage.make(plan, run))?;
        stage.seed(run).await?;
        stage.project.start_alone(&service).await?;
        let logs = self.logs.join(name);
        let clone = Self::open(
            stage,
            gateway,
            Arc::clone(plan),
            Arc::clone(inventory),
            Arc::clone(run),
            &logs,
            Passwords { own: Some(database.password().to_owned()), package: self.package_password.clone() },
        )
        .await?;
        clone.parts.database.await_ready().await?;
        Ok(Arc::new(clone))
    }

    async fn script_host(&self, parts: HostParts<'_>) -> Result<Box<dyn ScriptHost>, MirrorError> {
        Ok(Box::new(ContainerHost::start(&self.parts, parts).await?))
    }

    fn sees_outbound(&self) -> bool {
        true
    }

    async fn outbound(&self) -> Option<Outbound> {
        Some(self.parts.outbound.so_far().await)
    }

    async fn died(&self) -> String {
        self.parts.database.died().await
    }

    async fn stop(&self) {
        self.parts.database.expect_end();
        self.keep_logs().await;
        self.parts.outbound.stop().await;
        let engine = self.parts.project.engine();
        // The gateway holds the networks. Whatever cannot be removed now is swept at the run's end, which tells of it.
        let _swept_later = engine.remove(&self.gateway.container, true).await;
        let _swept_later = self.parts.project.down().await;
        let _swept_later = engine.remove_network(&self.gateway.edge).await;
    }
}
