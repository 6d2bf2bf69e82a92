//! The script host of a mirror in containers: one container that looks like the real host, with the recording shims
//! first in its path.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::compose::Parts;
use super::engine::{
    ChangeKind, ContainerSpec, Engine, EntryKind, ExecCall, FileEntry, Mount, MountSource, NewFile,
    RUN_LABEL, run_label,
};
use super::model::PROJECT_LABEL;
use super::outbound::OutboundLedger;
use crate::inventory::Inventory;
use crate::mirror::{HostParts, MirrorError};
use crate::process::RunFolder;
use crate::proofs::residue::{State, is_unwatched};
use crate::upgrade::sandbox::{self, HOST_FOLDERS, PACKAGE, SHIMS, SOCKETS, SYSTEM_PATH};
use crate::upgrade::script_host::{PSQL_ARGS, Program, Ran, ScriptHost, script_user};
use crate::upgrade::shim;

/// The real sudo of the runner image; the shim asks first and then calls it.
const SUDO: &str = "/usr/libexec/fulldress/sudo";
/// Where scripts look for the programs that are replaced when they name them with their folder.
const SYSTEM_FOLDERS: [(&str, &str); 7] = [
    ("at", "/usr/bin"),
    ("atq", "/usr/bin"),
    ("atrm", "/usr/bin"),
    ("crontab", "/usr/bin"),
    ("service", "/usr/sbin"),
    ("sudo", "/usr/bin"),
    ("systemctl", "/usr/bin"),
];
/// Number of the inventory's first user; the others follow.
const FIRST_USER: u64 = 1000;
/// Folders whose changes are the engine's or ours and no script's.
const OURS: [&str; 6] = ["/dev", "/fulldress", "/package", "/proc", "/run", "/sys"];
/// What sudo and a container need of capabilities; nothing to do with networks or devices.
const CAPABILITIES: [&str; 8] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];

/// A runner container.
pub struct ContainerHost {
    engine: Engine,
    id: String,
    /// What it calls outside is seen from its start to its end.
    outbound: Arc<OutboundLedger>,
    address: IpAddr,
    sockets: PathBuf,
    package: PathBuf,
    user: u64,
    user_name: String,
    database: String,
    database_port: u16,
    /// Mount points of volumes that it shares with services.
    shared: Vec<String>,
}

impl ContainerHost {
    /// Starts the container and gives it the inventory's users and files.
    ///
    /// # Errors
    /// When the container cannot be made or a file of the inventory cannot be read.
    pub(super) async fn start(parts: &Parts, host: HostParts<'_>) -> Result<Self, MirrorError> {
        let engine = parts.project.engine().clone();
        sandbox::open_to_others(host.package)
            .map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        let folder = parts
            .run
            .folder(host.name, None)
            .map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        let sockets = make_folder(folder.join("sockets"))?;
        let shims = folder.join("shims");
        sandbox::link_shims(&shims, &parts.program)
            .map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        let network = parts.database.network().await?;
        let shared = shared_volumes(parts, host.inventory).await;
        let mut mounts = vec![bind(&sockets, SOCKETS), bind(&shims, SHIMS), bind(host.package, PACKAGE)];
        let shim = shims.join("fulldress");
        mounts.extend(SYSTEM_FOLDERS.iter().map(|(name, folder)| bind(&shim, &format!("{folder}/{name}"))));
        mounts.extend(shared.iter().map(|(volume, target)| Mount {
            source: MountSource::Volume(volume.clone()),
            target: target.clone(),
            read_only: false,
        }));
        let spec = ContainerSpec {
            name: format!("{}-runner-{}", parts.project.name(), host.name),
            image: parts.plan.mirror.runner_image.clone(),
            user: Some("0".into()),
            network: Some(network.clone()),
            dns: vec![parts.resolver],
            mounts,
            labels: labels(&parts.run, parts.project.name()),
            cap_drop_all: true,
            cap_add: CAPABILITIES.map(str::to_owned).into(),
            hostname: Some(format!("{}-mirror", host.inventory.product)),
            ..ContainerSpec::default()
        };
        let id = engine.create(&spec).await?;
        let address = *engine.inspect(&id).await?.addresses.get(&network).ok_or_else(|| {
            MirrorError::new(format!("the runner container has no address in the network {network}"), "")
        })?;
        parts.services.join_networks(&id).await?;
        parts.outbound.watch_scripts(&id).await?;
        let database = &parts.plan.mirror.database;
        let runner = Self {
            engine,
            id,
            outbound: Arc::clone(&parts.outbound),
            address,
            sockets,
            package: host.package.to_owned(),
            user: FIRST_USER,
            user_name: script_user(host.inventory).to_owned(),
            database: database.service.clone().unwrap_or_default(),
            database_port: database.container_port,
            shared: shared.into_iter().map(|(_, target)| target).collect(),
        };
        runner.furnish(host.inventory).await?;
        Ok(runner)
    }

    /// The host's users, folders and files as the inventory declares them; all of it belongs to the scripts' user.
    async fn furnish(&self, inventory: &Inventory) -> Result<(), MirrorError> {
        let mut files = self.accounts(inventory).await?;
        for file in &inventory.files {
            let source = inventory.source_path(file);
            let content = std::fs::read(&source).map_err(|error| {
                let what = format!("host file {} from {}: {error}", file.path, source.display());
                MirrorError::new(what, "correct [[file]] in the inventory")
            })?;
            files.push(NewFile {
                path: file.path.clone(),
                content,
                mode: 0o644,
                uid: self.user,
                gid: self.user,
            });
        }
        self.engine.write_files(&self.id, &files).await?;
        let mut script = String::from("set -eu\n");
        for folder in HOST_FOLDERS {
            script.push_str(&format!("mkdir -p /{folder}\n"));
        }
        let homes = std::iter::once(self.user_name.as_str())
            .chain(inventory.users.iter().map(|user| user.name.as_str()));
        for home in homes {
            script.push_str(&format!("mkdir -p '/home/{home}'\n"));
        }
        let owned = HOST_FOLDERS.iter().filter(|folder| **folder != "tmp" && **folder != "var/tmp");
        for folder in owned {
            script.push_str(&format!("chown {0}:{0} /{folder}\n", self.user));
        }
        for file in &inventory.files {
            // A script replaces a file by renaming a new one over it.
            let folder = Path::new(&file.path).parent().unwrap_or(Path::new("/"));
            script.push_str(&format!("chown {0}:{0} '{1}'\n", self.user, folder.display()));
        }
        let call = ExecCall {
            command: vec!["sh".into(), "-c".into(), script],
            user: Some("0".into()),
            ..ExecCall::default()
        };
        let ran = self.engine.exec(&self.id, &call, Duration::from_secs(60)).await?;
        if ran.code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        Err(MirrorError::new(format!("the runner container could not be furnished: {said}"), ""))
    }

    /// The image's accounts and those of the inventory.
    async fn accounts(&self, inventory: &Inventory) -> Result<Vec<NewFile>, MirrorError> {
        let mut names: Vec<&str> = vec![&self.user_name];
        names.extend(
            inventory.users.iter().map(|user| user.name.as_str()).filter(|name| *name != self.user_name),
        );
        let mut files = Vec::new();
        for path in ["/etc/passwd", "/etc/group", "/etc/shadow"] {
            let Some(before) = self.engine.read_file(&self.id, path).await? else { continue };
            let mut text = String::from_utf8_lossy(&before.content).into_owned();
            for (name, number) in names.iter().zip(FIRST_USER..) {
                if text.lines().any(|line| line.split(':').next() == Some(name)) {
                    continue;
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(&match path {
                    "/etc/passwd" => format!("{name}:x:{number}:{number}:{name}:/home/{name}:/bin/sh\n"),
                    "/etc/group" => format!("{name}:x:{number}:\n"),
                    // No password, and no account that sudo takes for locked.
                    _ => format!("{name}:*:19000:0:99999:7:::\n"),
                });
            }
            let entry = before.entry;
            files.push(NewFile {
                path: path.to_owned(),
                content: text.into_bytes(),
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
            });
        }
        Ok(files)
    }

    fn environment(&self, asked: &[(String, String)]) -> Vec<(String, String)> {
        let path = asked.iter().rev().find(|(name, _)| name == "PATH").map_or(SYSTEM_PATH, |(_, path)| path);
        let control = format!("{SOCKETS}/control.sock");
        let home = format!("/home/{}", self.user_name);
        let port = self.database_port.to_string();
        let mut all: Vec<(String, String)> = [
            ("HOME", home.as_str()),
            ("USER", &self.user_name),
            ("LOGNAME", &self.user_name),
            ("SHELL", "/bin/sh"),
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
            ("PGHOST", &self.database),
            ("PGPORT", &port),
            (shim::CONTROL, &control),
            (shim::USER, &self.user_name),
            (shim::SUDO, SUDO),
            (shim::SUDO_KEEPS, ""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(asked.iter().cloned());
        all.push(("PATH".to_owned(), format!("{SHIMS}:{path}")));
        all
    }

    fn command(&self, program: Program<'_>) -> Result<Vec<String>, String> {
        let inside = |file: &str| format!("{PACKAGE}/{file}");
        match program {
            Program::Sql(file) => {
                let mut command = vec!["psql".to_owned()];
                command.extend(PSQL_ARGS.map(str::to_owned));
                command.push(inside(file));
                Ok(command)
            }
            Program::Script(file) => {
                let (interpreter, file) =
                    sandbox::interpreter(&self.package, file).map_err(|error| error.to_string())?;
                let mut command: Vec<String> =
                    interpreter.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
                command.push(inside(&file.to_string_lossy()));
                Ok(command)
            }
        }
    }
}

#[async_trait]
impl ScriptHost for ContainerHost {
    async fn run(
        &self,
        program: Program<'_>,
        environment: &[(String, String)],
        limit: Duration,
    ) -> Result<Ran, String> {
        let call = ExecCall {
            command: self.command(program)?,
            environment: self.environment(environment),
            user: Some(format!("{0}:{0}", self.user)),
            workdir: Some(PACKAGE.to_owned()),
            stdin: None,
        };
        let ran = self.engine.exec(&self.id, &call, limit).await.map_err(|error| error.to_string())?;
        Ok(Ran {
            code: i32::try_from(ran.code).unwrap_or(i32::MAX),
            stdout: ran.stdout,
            stderr: ran.stderr,
            timed_out: ran.timed_out,
        })
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        let read = self.engine.read_file(&self.id, path).await.map_err(|error| error.to_string())?;
        Ok(read.filter(|file| matches!(file.entry.kind, EntryKind::File { .. })).map(|file| file.content))
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<(), String> {
        let before = self.engine.read_file(&self.id, path).await.map_err(|error| error.to_string())?;
        let (mode, uid, gid) = before
            .map_or((0o644, self.user, self.user), |file| (file.entry.mode, file.entry.uid, file.entry.gid));
        let file = NewFile { path: path.to_owned(), content: content.to_owned(), mode, uid, gid };
        self.engine.write_files(&self.id, &[file]).await.map_err(|error| error.to_string())
    }

    async fn files(&self) -> Result<State, String> {
        let said = |error: MirrorError| error.to_string();
        let mut state = State::new();
        for (kind, path) in self.engine.changes(&self.id).await.map_err(said)? {
            if is_ours(&path) || is_unwatched(&path) || self.is_shared(&path) {
                continue;
            }
            if kind == ChangeKind::Deleted {
                state.insert(path, "deleted from the image".to_owned());
                continue;
            }
            match self.engine.read_file(&self.id, &path).await.map_err(said)? {
                Some(file) => add(&mut state, &file.entry),
                None => continue,
            };
        }
        for folder in &self.shared {
            for entry in self.engine.read_tree(&self.id, folder).await.map_err(said)? {
                add(&mut state, &entry);
            }
        }
        Ok(state)
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn control_socket(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }

    async fn stop(&self) {
        self.outbound.end(&self.id).await;
        // What stays is swept with the run.
        let _swept_later = self.engine.remove(&self.id, true).await;
    }
}

impl ContainerHost {
    fn is_shared(&self, path: &str) -> bool {
        self.shared.iter().any(|folder| Path::new(path).starts_with(folder))
    }
}

fn add(state: &mut State, entry: &FileEntry) {
    let mode = entry.mode & 0o7777;
    let value = match &entry.kind {
        EntryKind::File { sha256, .. } => format!("file mode {mode:o} sha256 {}", &sha256[..16]),
        EntryKind::Folder => format!("folder mode {mode:o}"),
        EntryKind::Link(target) => format!("link to {target}"),
        EntryKind::Special => format!("special file mode {mode:o}"),
    };
    state.insert(entry.path.clone(), value);
}

fn is_ours(path: &str) -> bool {
    let is_shim = |(name, folder): &(&str, &str)| path == format!("{folder}/{name}");
    OURS.iter().any(|folder| Path::new(path).starts_with(folder)) || SYSTEM_FOLDERS.iter().any(is_shim)
}

fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        source: MountSource::Bind(source.display().to_string()),
        target: target.to_owned(),
        read_only: true,
    }
}

pub(super) fn labels(run: &Arc<RunFolder>, project: &str) -> Vec<(String, String)> {
    vec![(RUN_LABEL.to_owned(), run_label(run.path())), (PROJECT_LABEL.to_owned(), project.to_owned())]
}

fn make_folder(folder: PathBuf) -> Result<PathBuf, MirrorError> {
    std::fs::create_dir_all(&folder)
        .map_err(|error| MirrorError::new(format!("{}: {error}", folder.display()), ""))?;
    Ok(folder)
}

/// Volumes of services that hold a file of the inventory: script and service see one file.
async fn shared_volumes(parts: &Parts, inventory: &Inventory) -> Vec<(String, String)> {
    let model = parts.project.model().await;
    let services: Vec<String> = model.services().map(str::to_owned).collect();
    let mounts = services.iter().flat_map(|service| model.mounts(service));
    let mut shared: Vec<(String, String)> = mounts
        .filter(|mount| inventory.files.iter().any(|file| Path::new(&file.path).starts_with(&mount.target)))
        .filter_map(|mount| Some((model.volume_name(mount.volume.as_deref()?)?.to_owned(), mount.target)))
        .collect();
    shared.sort();
    shared.dedup();
    shared
}
