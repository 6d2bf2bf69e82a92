//! The embedded default: a private PostgreSQL cluster, services as child processes, a host tree for scripts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fulldress_reports::evidence::FaultKind;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::sync::Mutex;

use super::cluster::{Cluster, Programs, uuid};
use super::connection::{self, database_error};
use super::dataset::{self, identifier};
use super::processes::Processes;
use super::{DataCopy, HostParts, Mirror, MirrorError, Services};
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::recorder::log::LogPlace;
use crate::recorder::settings;
use crate::upgrade::local_host::{Database, LocalHost};
use crate::upgrade::script_host::ScriptHost;

/// Last byte of the address from which the first script host's sessions reach PostgreSQL. All of 127.0.0.0/8 is
/// loopback, and the application comes from 127.0.0.1.
const FIRST_SOURCE: u8 = 9;

/// A mirror on this machine.
pub struct LocalMirror {
    /// This very program.
    program: PathBuf,
    plan: Arc<Plan>,
    run: Arc<RunFolder>,
    /// Locked while the server is stopped on purpose.
    cluster: Mutex<Cluster>,
    services: Arc<Processes>,
    /// The data folder as it was filled, from which clones are made.
    snapshot: PathBuf,
    /// Where copies are kept that are taken later.
    copies: PathBuf,
    package_password: String,
    /// The superuser's way in; it stays when the server is restarted.
    server: PgConnectOptions,
    log_folder: PathBuf,
    /// Folder of PostgreSQL's programs.
    programs: PathBuf,
    logs: PathBuf,
    /// Script hosts made so far.
    hosts: AtomicU8,
    /// Whether its data was copied from another mirror, and is nobody's once it is stopped.
    is_clone: bool,
}

impl LocalMirror {
    /// Makes cluster and database, fills it, takes the snapshot; services do not run yet. `program` is this very program,
    /// which also runs inside the sandboxes; `logs` is the bundle's; `host` names the script host whose files the services
    /// read.
    ///
    /// # Errors
    /// When the machine or the dataset command fails.
    pub async fn start(
        program: PathBuf,
        plan: Arc<Plan>,
        run: Arc<RunFolder>,
        host: &str,
        logs: &Path,
        tell: impl Fn(String),
    ) -> Result<Self, MirrorError> {
        let start_limit = Duration::from_secs(plan.mirror.start_timeout_s);
        let programs = Programs::find(plan.mirror.postgres.as_deref())?;
        tell(format!("starting PostgreSQL from {}", programs.folder.display()));
        let mut settings: BTreeMap<String, String> = plan.mirror.database.settings.clone();
        for (name, value) in settings::cluster_settings() {
            settings.insert(name.to_owned(), value.to_owned());
        }
        let mut cluster = Cluster::create(programs, &run, "cluster", settings, start_limit).await?;
        cluster.start().await?;
        let package_password = uuid();
        let values = placeholders(&plan, &cluster, &LocalHost::root(&run, host));
        let services = Processes::new(
            plan.mirror.services.clone(),
            values.clone(),
            logs.to_owned(),
            start_limit,
            Arc::clone(&run),
            true,
        )?;
        let mut admin =
            cluster.connect("postgres").await.map_err(|error| database_error("cannot be reached", &error))?;
        let name = &plan.mirror.database.name;
        let create = format!("CREATE DATABASE {}", identifier(name));
        admin
            .execute(AssertSqlSafe(create))
            .await
            .map_err(|error| database_error("cannot be created", &error))?;
        tell(format!("filling database {name}"));
        let mut connection =
            cluster.connect(name).await.map_err(|error| database_error("cannot be reached", &error))?;
        if let Some(dump) = &plan.mirror.dataset.dump {
            if !dataset::brings_roles(dump) {
                dataset::create_missing_roles(&mut connection, &plan).await?;
            }
            let limit = Duration::from_secs(plan.mirror.dataset.timeout_s);
            cluster.load_dump(name, dump, limit, &logs.join("dataset.log")).await?;
        } else {
            dataset::run_command(&plan, &values, &run, logs).await?;
        }
        dataset::create_package_role(&mut connection, &plan, &package_password).await?;
        connection
            .execute("CHECKPOINT")
            .await
            .map_err(|error| database_error("cannot write a checkpoint", &error))?;
        drop((admin, connection));
        tell("taking the snapshot".to_owned());
        cluster.stop().await;
        // Inside the cluster's own folder, which the server's user may write.
        let copies = run.path().join("cluster");
        let snapshot = copies.join("snapshot");
        cluster.snapshot(&snapshot).await?;
        cluster.start().await?;
        let server = cluster.options(&plan.mirror.database.name);
        let mirror = Self {
            program,
            plan,
            run,
            log_folder: cluster.log_folder(),
            programs: cluster.programs().to_owned(),
            cluster: Mutex::new(cluster),
            services: Arc::new(services),
            copies,
            snapshot,
            package_password,
            server,
            logs: logs.to_owned(),
            hosts: AtomicU8::new(0),
            is_clone: false,
        };
        Ok(mirror)
    }
}

impl LocalMirror {
    /// Address from which the next script host's sessions will come: two runners of one mirror are told apart by it.
    fn next_source(&self) -> IpAddr {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, FIRST_SOURCE.saturating_add(number)))
    }
}

#[async_trait]
impl Mirror for LocalMirror {
    fn services(&self) -> Arc<dyn Services> {
        Arc::<Processes>::clone(&self.services)
    }

    fn server(&self) -> PgConnectOptions {
        self.server.clone()
    }

    fn log_place(&self) -> LogPlace {
        LogPlace::Folder(self.log_folder.clone())
    }

    fn package_password(&self) -> &str {
        &self.package_password
    }

    async fn connect(&self) -> Result<PgConnection, MirrorError> {
        let cluster = self.cluster.lock().await;
        let limit = Duration::from_secs(self.plan.mirror.start_timeout_s);
        connection::connect(&cluster.options(&self.plan.mirror.database.name), limit).await
    }

    async fn dump_schema(&self) -> Result<String, MirrorError> {
        self.cluster.lock().await.dump_schema(&self.plan.mirror.database.name).await
    }

    async fn back_up(&self, copy: DataCopy) -> Result<u64, MirrorError> {
        self.cluster.lock().await.back_up(&self.copies.join(copy.folder())).await
    }

    async fn restore(&self, copy: DataCopy) -> Result<(), MirrorError> {
        let stopped = self.services.stop_database_users().await;
        {
            let mut cluster = self.cluster.lock().await;
            // Which fences every connection.
            cluster.stop().await;
            cluster.restore(&self.copies.join(copy.folder())).await?;
            cluster.start().await?;
        }
        for name in stopped {
            self.services.start(&name).await?;
        }
        Ok(())
    }

    async fn clone_from_snapshot(&self, name: &str, hosts: &[&str]) -> Result<Arc<dyn Mirror>, MirrorError> {
        let start_limit = Duration::from_secs(self.plan.mirror.start_timeout_s);
        let folder = format!("{name}-cluster");
        let mut cluster = self.cluster.lock().await.clone_from(&self.snapshot, &self.run, &folder).await?;
        cluster.start().await?;
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs)
            .map_err(|error| MirrorError::new(format!("{}: {error}", logs.display()), ""))?;
        let host = hosts.first().copied().unwrap_or(name);
        let values = placeholders(&self.plan, &cluster, &LocalHost::root(&self.run, host));
        let specs = self.plan.mirror.services.clone();
        let services =
            Processes::new(specs, values, logs.clone(), start_limit, Arc::clone(&self.run), false)?;
        Ok(Arc::new(Self {
            program: self.program.clone(),
            plan: Arc::clone(&self.plan),
            run: Arc::clone(&self.run),
            server: cluster.options(&self.plan.mirror.database.name),
            log_folder: cluster.log_folder(),
            programs: cluster.programs().to_owned(),
            cluster: Mutex::new(cluster),
            services: Arc::new(services),
            snapshot: self.snapshot.clone(),
            copies: self.run.path().join(folder),
            package_password: self.package_password.clone(),
            logs,
            hosts: AtomicU8::new(0),
            is_clone: true,
        }))
    }

    async fn crash(&self) -> Result<(), MirrorError> {
        let mut cluster = self.cluster.lock().await;
        cluster.crash().await;
        cluster.start().await
    }

    fn can_suffer(&self, _fault: FaultKind) -> bool {
        true
    }

    async fn script_host(&self, parts: HostParts<'_>) -> Result<Box<dyn ScriptHost>, MirrorError> {
        let database = self.server.get_port();
        let services: &dyn Services = &*self.services;
        let allowed = self.plan.mirror.allow_host_scripts;
        let database = Database { programs: &self.programs, port: database, source: self.next_source() };
        let host = LocalHost::start(&self.program, parts, &self.run, database, services, allowed).await?;
        Ok(Box::new(host))
    }

    async fn died(&self) -> String {
        loop {
            {
                let mut cluster = self.cluster.lock().await;
                if cluster.has_died().await {
                    return format!("PostgreSQL died by itself: {}", cluster.last_words());
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn stop(&self) {
        self.services.stop_all().await;
        let mut cluster = self.cluster.lock().await;
        cluster.stop().await;
        if self.is_clone {
            // A matrix makes many of them. What cannot be removed now goes with the run folder.
            let _ = cluster.remove();
        }
    }
}

fn placeholders(plan: &Plan, cluster: &Cluster, host_root: &Path) -> BTreeMap<String, String> {
    let database = &plan.mirror.database.name;
    let url = |role: &str, password: &str| cluster.url(role, password, database);
    dataset::placeholders(plan, host_root, cluster.admin_url(database), url)
}
