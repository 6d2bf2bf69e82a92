//! The script host of the local mirror: a sandbox on this machine, a tree that looks like the host, relays as the only
//! ways out.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::relay::{Relay, Target};
use super::sandbox::{self, Account, Confinement, Endpoint, Sandbox};
use super::script_host::{PSQL_ARGS, Program, Ran, ScriptHost, script_user};
use crate::inventory::Inventory;
use crate::mirror::{HostParts, MirrorError, Services};
use crate::process::{RunFolder, shell_code};
use crate::proofs::residue::{State, file_states};

/// The database that a host's scripts reach.
#[derive(Debug, Clone, Copy)]
pub struct Database<'programs> {
    /// Folder of PostgreSQL's programs.
    pub programs: &'programs Path,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Address from which the host's sessions reach it.
    pub source: IpAddr,
}

/// A sandbox and the ways out of it.
pub struct LocalHost {
    sandbox: Sandbox,
    confinement: Confinement,
    psql: PathBuf,
    /// Address from which its sessions reach the database.
    source: IpAddr,
    /// The unpacked package.
    package: PathBuf,
    /// Kept for as long as the sandbox leads through them.
    relays: Mutex<Vec<Relay>>,
}

impl LocalHost {
    /// Root of the tree that scripts see as their host.
    #[must_use]
    pub fn root(run: &RunFolder, name: &str) -> PathBuf {
        run.path().join(name).join("host")
    }

    /// Prepares sandbox, host files and relays. `program` is this very program, which is the first process inside;
    /// `allow_unconfined` lets scripts run without a sandbox where there can be
    /// none.
    ///
    /// # Errors
    /// When scripts cannot be confined here and may not run unconfined.
    pub async fn start(
        program: &Path,
        parts: HostParts<'_>,
        run: &RunFolder,
        database: Database<'_>,
        services: &dyn Services,
        allow_unconfined: bool,
    ) -> Result<Self, MirrorError> {
        let confinement = match sandbox::probe().await {
            Ok(confinement) => confinement,
            Err(_) if allow_unconfined => Confinement::Host,
            Err(error) => {
                return Err(MirrorError::new(format!("scripts of the package are refused: {error}"), ""));
            }
        };
        let Database { programs, source, .. } = database;
        let settings = sandbox_settings(confinement, program, parts, programs);
        let sandbox = Sandbox::prepare(run, parts.name, settings)
            .map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        fill_host(parts.inventory, &sandbox)?;
        let relays = start_relays(parts.inventory, database, services, &sandbox)?;
        let psql = Some(programs.join("psql")).filter(|psql| psql.is_file()).unwrap_or_else(|| "psql".into());
        Ok(Self {
            sandbox,
            confinement,
            psql,
            source,
            package: parts.package.to_owned(),
            relays: Mutex::new(relays),
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.sandbox.host_tree().join(path.trim_start_matches('/'))
    }

    fn sql_command(&self, file: &str) -> Vec<OsString> {
        let path = match self.confinement {
            Confinement::Host => self.package.join(file),
            Confinement::UserNamespace | Confinement::Root => Path::new(sandbox::PACKAGE).join(file),
        };
        let mut command: Vec<OsString> = vec![self.psql.clone().into()];
        command.extend(PSQL_ARGS.map(OsString::from));
        command.push(path.into());
        command
    }
}

#[async_trait]
impl ScriptHost for LocalHost {
    async fn run(
        &self,
        program: Program<'_>,
        environment: &[(String, String)],
        limit: Duration,
    ) -> Result<Ran, String> {
        let launch = match program {
            Program::Sql(file) => self.sandbox.launch_command(self.sql_command(file), environment),
            Program::Script(file) => {
                self.sandbox.launch(file, &[], environment).map_err(|error| error.to_string())?
            }
        };
        let output = launch.output(limit).await.map_err(|error| error.to_string())?;
        Ok(Ran {
            code: shell_code(output.status),
            stdout: output.stdout,
            stderr: output.stderr,
            timed_out: output.timed_out,
        })
    }

    fn cut_connections(&self) {
        for relay in self.relays.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            relay.cut();
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        match std::fs::read(self.path(path)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("read {path}: {error}")),
        }
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<(), String> {
        std::fs::write(self.path(path), content).map_err(|error| format!("write {path}: {error}"))
    }

    async fn files(&self) -> Result<State, String> {
        let root = self.sandbox.host_tree();
        file_states(root).map_err(|error| format!("read {}: {error}", root.display()))
    }

    fn address(&self) -> IpAddr {
        self.source
    }

    fn control_socket(&self) -> PathBuf {
        self.sandbox.control_socket()
    }

    fn notice(&self) -> Option<&'static str> {
        match self.confinement {
            Confinement::Host => Some("scripts ran on this machine without a sandbox, as the plan allows"),
            Confinement::UserNamespace | Confinement::Root => None,
        }
    }

    async fn stop(&self) {
        let relays: Vec<Relay> =
            std::mem::take(&mut *self.relays.lock().unwrap_or_else(PoisonError::into_inner));
        for relay in relays {
            relay.stop().await;
        }
    }
}

fn sandbox_settings(
    confinement: Confinement,
    program: &Path,
    parts: HostParts<'_>,
    programs: &Path,
) -> sandbox::Settings {
    let HostParts { inventory, package, .. } = parts;
    let mut users = inventory.users.iter().zip(1000..).map(|(user, number)| Account {
        name: user.name.clone(),
        uid: number,
        gid: number,
        home: format!("/home/{}", user.name),
    });
    let script_user = users.next().unwrap_or_else(|| Account {
        name: script_user(inventory).to_owned(),
        uid: 1000,
        gid: 1000,
        home: format!("/home/{}", script_user(inventory)),
    });
    let endpoints = inventory
        .hosts
        .iter()
        .filter(|host| host.service.is_some())
        .map(|host| Endpoint::http(&host.name, host.port))
        .collect();
    let read_only = if programs.starts_with("/usr") {
        Vec::new()
    } else {
        programs.parent().map(Path::to_owned).into_iter().collect()
    };
    sandbox::Settings {
        confinement,
        executable: program.to_owned(),
        package: package.to_owned(),
        host_name: format!("{}-mirror", inventory.product),
        script_user,
        users: users.collect(),
        endpoints,
        read_only,
        sudo_keeps: Vec::new(),
    }
}

/// The host's files as the inventory declares them.
fn fill_host(inventory: &Inventory, sandbox: &Sandbox) -> Result<(), MirrorError> {
    for file in &inventory.files {
        let source = inventory.source_path(file);
        let target = sandbox.host_tree().join(file.path.trim_start_matches('/'));
        let copied = target
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::copy(&source, &target));
        copied.map_err(|error| {
            let what = format!("host file {} from {}: {error}", file.path, source.display());
            MirrorError::new(what, "correct [[file]] in the inventory")
        })?;
    }
    sandbox.hand_over().map_err(|error| MirrorError::new(format!("failed to {error}"), ""))
}

/// The sandbox has no network of its own: these sockets are all that it reaches.
fn start_relays(
    inventory: &Inventory,
    database: Database<'_>,
    services: &dyn Services,
    sandbox: &Sandbox,
) -> Result<Vec<Relay>, MirrorError> {
    let failed = |error: super::relay::RelayError| MirrorError::new(format!("failed to {error}"), "");
    let server = Target::new((Ipv4Addr::LOCALHOST, database.port).into());
    let mut relays =
        vec![Relay::to_postgres(&sandbox.postgres_folder(), server, database.source).map_err(failed)?];
    for host in &inventory.hosts {
        if let Some(service) = &host.service {
            let target = Target::new(services.address(service)?);
            relays.push(
                Relay::to_service(&sandbox.http_folder(), &host.name, host.port, target).map_err(failed)?,
            );
        }
    }
    Ok(relays)
}
