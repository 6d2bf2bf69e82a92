//! Where a vendor's script runs: a bubblewrap sandbox that looks like the mirror's host and reaches nothing else.
//!
//! The step runner prepares one per mirror and launches each script of the package in it. The host's writable folders
//! live in the run folder, so that they persist from step to step and can be fingerprinted.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::relay::{Mapping, POSTGRES_SOCKET, http_socket_name};
use super::shim;
use crate::process::{Launch, ProcessError, RunFolder, StateError, User, find_program, unprivileged_user};

/// Where the package lies inside; the working folder of its scripts.
pub const PACKAGE: &str = "/package";
/// Where the shims are inside.
pub(crate) const SHIMS: &str = "/fulldress/shims";
/// Where the control socket and the ways out are inside.
pub(crate) const SOCKETS: &str = "/run/fulldress";
const POSTGRES_FOLDER: &str = "/run/postgresql";
/// `PATH` of a host without the shims.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bubblewrap's first process ends with us, but its second waits for ever for a word of the first when that is killed
/// while the sandbox is being made. So the whole process group is killed when we die. `$0` is bubblewrap; a shell's
/// background command would ignore the signals of a keyboard, which scripts must not inherit.
const DIE_TOGETHER: &str = r#"trap 'kill -KILL 0' HUP; env --default-signal=INT,QUIT "$0" "$@" & wait "$!""#;
/// How long the trial sandbox may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Folders that every host has, in the writable tree.
pub(crate) const HOST_FOLDERS: &[&str] = &[
    "etc/cron.d",
    "etc/cron.daily",
    "etc/systemd/system",
    "home",
    "opt",
    "root",
    "srv",
    "tmp",
    "usr/local/bin",
    "usr/local/lib",
    "usr/local/sbin",
    "var/cache",
    "var/lib",
    "var/log",
    "var/spool/cron/crontabs",
    "var/tmp",
];
/// What programs of this machine need from its `/etc`, and nothing that tells of its users or network.
const MACHINE_ETC: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "perl",
    "pki",
    "postgresql-common",
    "ssl/certs",
    "ssl/openssl.cnf",
];
/// Top-level folders that are never the host tree's.
const NOT_THE_TREES: &[&str] = &[
    "bin",
    "dev",
    "fulldress",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "package",
    "proc",
    "run",
    "sbin",
    "sys",
    "usr",
];

/// Why a script cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Bubblewrap or another program is missing.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The kernel or a container forbids namespaces.
    #[error("make a sandbox for the package's scripts: bwrap says \"{said}\"; {remedy}")]
    Forbidden {
        /// Bubblewrap's own words.
        said: String,
        /// What to change.
        remedy: String,
    },
    /// A folder of the sandbox could not be prepared.
    #[error("prepare {path} for the sandbox: {source}; check free space and permissions")]
    Prepare {
        /// Which.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The run folder refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// The script is not in the package.
    #[error("run the script {script}: it is not a file of the package; correct the manifest's step")]
    Script {
        /// As the manifest names it.
        script: String,
    },
}

fn prepare_error(path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    let path = path.display().to_string();
    move |source| SandboxError::Prepare { path, source }
}

/// How scripts are kept from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// Bubblewrap as an ordinary user; scripts have the numeric users of the mirror's host.
    UserNamespace,
    /// Bubblewrap as root where user namespaces are forbidden; scripts run as this machine's unprivileged user.
    Root,
    /// Not at all: the shims come first in `PATH`, and everything else is this machine. **Unsafe**: a script can write
    /// wherever the unprivileged user can, and reach the network. For disposable machines, when the plan says
    /// `allow_host_scripts`.
    Host,
}

/// Tries which confinement works here, by running an empty sandbox.
///
/// # Errors
/// Bubblewrap missing or forbidden, with the remedy.
pub async fn probe() -> Result<Confinement, SandboxError> {
    find_program("bwrap".as_ref())?;
    let user = unprivileged_user();
    let mut said = try_empty(Confinement::UserNamespace, user.clone()).await?;
    if said.is_some() && user.is_some() {
        // The first refusal is the one to tell: it is the one that can be remedied without being root.
        if try_empty(Confinement::Root, user).await?.is_none() {
            return Ok(Confinement::Root);
        }
    }
    match said.take() {
        None => Ok(Confinement::UserNamespace),
        Some(said) => Err(SandboxError::Forbidden { said, remedy: remedy(kernel_setting) }),
    }
}

/// What bubblewrap says when it cannot.
async fn try_empty(confinement: Confinement, user: Option<User>) -> Result<Option<String>, ProcessError> {
    let mut launch = Launch::new("bwrap").args(namespaces(confinement)).args([
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--",
        "/bin/true",
    ]);
    launch.cwd = Some("/".into());
    if confinement == Confinement::UserNamespace {
        launch.user = user;
    }
    let output = launch.output(PROBE_TIMEOUT).await?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(Some(if said.is_empty() { format!("nothing, and ends with {}", output.status) } else { said }))
}

fn kernel_setting(name: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(value.trim().to_owned())
}

/// What to change so that bubblewrap may: the kernel's switches first, then the container around us.
fn remedy(setting: impl Fn(&str) -> Option<String>) -> String {
    const SWITCHES: [(&str, &str, &str); 3] = [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    let forbidding = SWITCHES.iter().find(|(name, forbids, _)| setting(name).as_deref() == Some(forbids));
    match forbidding {
        Some((name, forbids, allows)) => {
            format!("this kernel has {name} = {forbids}: run `sysctl -w {name}={allows}` as root")
        }
        None => "in a container, start it with `--security-opt seccomp=unconfined --security-opt \
                 apparmor=unconfined --security-opt systempaths=unconfined`; on a disposable machine the plan may \
                 say `allow_host_scripts = true`"
            .to_owned(),
    }
}

/// An account of the mirror's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Home folder.
    pub home: String,
}

impl Account {
    /// root, whom most packages expect to be.
    #[must_use]
    pub fn root() -> Self {
        Self { name: "root".into(), uid: 0, gid: 0, home: "/root".into() }
    }
}

/// A host and port of the inventory that scripts may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As scripts name it; `localhost` is 127.0.0.1.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The socket behind it, below [`Sandbox::sockets`].
    pub socket: PathBuf,
}

impl Endpoint {
    /// A service or a third party's stub.
    #[must_use]
    pub fn http(host: &str, port: u16) -> Self {
        let socket = Path::new("http").join(http_socket_name(host, port));
        Self { host: host.to_owned(), port, socket }
    }

    /// PostgreSQL over TCP, for scripts that name its host.
    #[must_use]
    pub fn postgres(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, socket: Path::new("postgresql").join(POSTGRES_SOCKET) }
    }
}

/// What the mirror's host is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From [`probe`], or [`Confinement::Host`] when the plan allows it.
    pub confinement: Confinement,
    /// The `fulldress` binary, which becomes the shims.
    pub executable: PathBuf,
    /// The unpacked package.
    pub package: PathBuf,
    /// The host's name.
    pub host_name: String,
    /// Whom scripts run as.
    pub script_user: Account,
    /// The host's other accounts.
    pub users: Vec<Account>,
    /// What scripts can reach; other names do not resolve.
    pub endpoints: Vec<Endpoint>,
    /// Folders of this machine that scripts see at the same path, read-only (a PostgreSQL outside `/usr`).
    pub read_only: Vec<PathBuf>,
    /// Variables that survive sudo beside those of its default policy.
    pub sudo_keeps: Vec<String>,
}

/// A prepared sandbox; scripts are launched in it one after the other, or side by side.
#[derive(Debug, Clone)]
pub struct Sandbox {
    settings: Settings,
    host_tree: PathBuf,
    sockets: PathBuf,
    shims: PathBuf,
    user: Option<User>,
    /// A launch that is recorded in the run folder, from which all others are made.
    template: Launch,
}

impl Sandbox {
    /// Makes the host's folders below `run/name`, with accounts, host names and shims. Fill [`Sandbox::host_tree`] and
    /// call [`Sandbox::hand_over`] afterwards. Blocks on files.
    ///
    /// # Errors
    /// Folders that cannot be made.
    pub fn prepare(run: &RunFolder, name: &str, settings: Settings) -> Result<Self, SandboxError> {
        let user = unprivileged_user();
        let base = run.folder(name, None)?;
        let sandbox = Self {
            host_tree: base.join("host"),
            sockets: base.join("sockets"),
            shims: base.join("shims"),
            template: Launch::new("bwrap").recorded_in(run),
            user,
            settings,
        };
        for folder in HOST_FOLDERS {
            make_folder(&sandbox.host_tree.join(folder))?;
        }
        for folder in ["http", "postgresql"] {
            make_folder(&sandbox.sockets.join(folder))?;
        }
        sandbox.write_etc()?;
        link_shims(&sandbox.shims, &sandbox.settings.executable)?;
        sandbox.hand_over()?;
        Ok(sandbox)
    }

    /// The host's writable folders on this machine: `etc`, `opt`, `var` and so on.
    #[must_use]
    pub fn host_tree(&self) -> &Path {
        &self.host_tree
    }

    /// The folder of all sockets that the sandbox sees.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Where the control server must listen.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }

    /// The folder for the relay to PostgreSQL.
    #[must_use]
    pub fn postgres_folder(&self) -> PathBuf {
        self.sockets.join("postgresql")
    }

    /// The folder for relays to services and stubs.
    #[must_use]
    pub fn http_folder(&self) -> PathBuf {
        self.sockets.join("http")
    }

    /// Gives the host tree to the user that scripts run as, and lets that user read the package. Call it after files
    /// were put there. Blocks on files.
    ///
    /// # Errors
    /// A file that cannot be given away.
    pub fn hand_over(&self) -> Result<(), SandboxError> {
        let tmp = self.host_tree.join("tmp");
        let mode = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(&tmp, mode).map_err(prepare_error(&tmp))?;
        if let Some(user) = &self.user {
            each_below(&self.host_tree, &mut |path, _| lchown(path, Some(user.uid), Some(user.gid)))?;
            open_to_others(&self.settings.package)?;
        }
        Ok(())
    }

    /// The launch of a script of the package, with its arguments and variables. The caller chooses its streams.
    ///
    /// # Errors
    /// A script that is not in the package.
    pub fn launch(
        &self,
        script: &str,
        args: &[String],
        env: &[(String, String)],
    ) -> Result<Launch, SandboxError> {
        let mut command = self.interpreter(script)?;
        command.extend(args.iter().map(OsString::from));
        Ok(self.launch_command(command, env))
    }

    /// The launch of any command inside, for probes and for a second runner.
    #[must_use]
    pub fn launch_command(&self, command: Vec<OsString>, env: &[(String, String)]) -> Launch {
        let mut launch = self.template.clone();
        launch.env_clear = true;
        launch.env = self.environment(env);
        launch.user.clone_from(&self.user);
        match self.settings.confinement {
            Confinement::Host => {
                let mut command = command.into_iter();
                launch.program = command.next().unwrap_or_default();
                launch.args = command.collect();
                launch.cwd = Some(self.settings.package.clone());
            }
            Confinement::UserNamespace | Confinement::Root => {
                if self.settings.confinement == Confinement::Root {
                    launch.user = None;
                }
                launch.cwd = Some("/".into());
                launch.death_signal = Signal::HUP;
                launch.program = "/bin/sh".into();
                launch.args = ["-c", DIE_TOGETHER, "bwrap"].map(OsString::from).into();
                launch.args.extend(self.bubblewrap(command));
            }
        }
        launch
    }

    fn interpreter(&self, script: &str) -> Result<Vec<OsString>, SandboxError> {
        let package = &self.settings.package;
        let (mut command, inside) = interpreter(package, script)?;
        let folder = match self.settings.confinement {
            Confinement::Host => package.canonicalize().map_err(prepare_error(package))?,
            Confinement::UserNamespace | Confinement::Root => PathBuf::from(PACKAGE),
        };
        command.push(folder.join(inside).into_os_string());
        Ok(command)
    }

    /// The script's whole environment. It goes through our own, not through bubblewrap's `--setenv`: other users of the
    /// machine can read command lines, and there may be passwords in it.
    fn environment(&self, env: &[(String, String)]) -> Vec<(OsString, OsString)> {
        let host = self.settings.confinement == Confinement::Host;
        let shims = if host { self.shims.clone() } else { PathBuf::from(SHIMS) };
        let sockets = if host { self.sockets.clone() } else { PathBuf::from(SOCKETS) };
        let postgres = if host { self.postgres_folder() } else { PathBuf::from(POSTGRES_FOLDER) };
        let user = &self.settings.script_user;
        let home = if host { self.host_tree.join("root") } else { PathBuf::from(&user.home) };
        let asked_path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str());
        let mut path = shims.into_os_string();
        path.push(":");
        path.push(asked_path.unwrap_or(SYSTEM_PATH));
        let namespaces = if self.settings.confinement == Confinement::UserNamespace { "1" } else { "0" };
        let mut all: Vec<(OsString, OsString)> = vec![
            ("HOME".into(), home.into()),
            ("USER".into(), user.name.clone().into()),
            ("LOGNAME".into(), user.name.clone().into()),
            ("SHELL".into(), "/bin/sh".into()),
            ("LANG".into(), "C.UTF-8".into()),
            ("TERM".into(), "dumb".into()),
            ("PGHOST".into(), postgres.into()),
            ("PGPORT".into(), "5432".into()),
            (shim::CONTROL.into(), sockets.join("control.sock").into()),
            (shim::USER.into(), user.name.clone().into()),
            (shim::NAMESPACES.into(), namespaces.into()),
            (shim::SUDO_KEEPS.into(), self.settings.sudo_keeps.join(":").into()),
        ];
        all.extend(env.iter().map(|(name, value)| (name.into(), value.into())));
        all.push(("PATH".into(), path));
        all
    }

    fn bubblewrap(&self, command: Vec<OsString>) -> Vec<OsString> {
        let mut args: Vec<OsString> = namespaces(self.settings.confinement);
        args.extend(["--hostname".into(), self.settings.host_name.clone().into()]);
        let mut mount = |option: &str, from: &Path, to: &Path| {
            // Bubblewrap makes the folders above a mount for their owner alone, who may not be the script's user.
            let above: Vec<&Path> = to.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
            args.extend(above.iter().rev().flat_map(|path| ["--dir".into(), path.as_os_str().to_owned()]));
            args.extend([option.into(), from.as_os_str().to_owned(), to.as_os_str().to_owned()]);
        };
        let root = Path::new("/");
        mount("--ro-bind", Path::new("/usr"), Path::new("/usr"));
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = root.join(name);
            // Merged-usr machines have links here, others folders.
            match path.read_link() {
                Ok(target) => mount("--symlink", &target, &path),
                Err(_) if path.is_dir() => mount("--ro-bind", &path, &path),
                Err(_) => {}
            }
        }
        if Path::new("/usr/local").is_dir() {
            mount("--bind", &self.host_tree.join("usr/local"), Path::new("/usr/local"));
        }
        for name in self.tree_folders() {
            mount("--bind", &self.host_tree.join(&name), &root.join(&name));
        }
        for name in machine_etc() {
            mount("--ro-bind", &Path::new("/etc").join(name), &Path::new("/etc").join(name));
        }
        for path in self.settings.read_only.iter().filter(|path| path.exists()) {
            mount("--ro-bind", path, path);
        }
        for path in shadowed_programs() {
            mount("--ro-bind", &self.shims.join("fulldress"), &path);
        }
        mount("--ro-bind", &self.settings.package, Path::new(PACKAGE));
        mount("--ro-bind", &self.shims, Path::new(SHIMS));
        args.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run"].map(OsString::from));
        let mut mount = |from: &Path, to: &str| {
            args.extend(["--ro-bind".into(), from.as_os_str().to_owned(), to.into()]);
        };
        mount(&self.sockets, SOCKETS);
        mount(&self.postgres_folder(), POSTGRES_FOLDER);
        args.extend(["--chdir", PACKAGE, "--"].map(OsString::from));
        args.extend(["/fulldress/shims/fulldress", "sandbox-init"].map(OsString::from));
        for mapping in self.mappings() {
            args.extend(["--map".into(), mapping.to_argument()]);
        }
        args.push("--".into());
        args.extend(self.as_script_user());
        args.extend(command);
        args
    }

    /// What turns the first process, which is root in its own namespaces, into the script's user.
    fn as_script_user(&self) -> Vec<OsString> {
        let account = &self.settings.script_user;
        match (self.settings.confinement, &self.user) {
            (Confinement::UserNamespace, _) if account.uid != 0 => vec![
                "/usr/bin/unshare".into(),
                "--user".into(),
                format!("--map-user={}", account.uid).into(),
                format!("--map-group={}", account.gid).into(),
                "--".into(),
            ],
            (Confinement::Root, Some(user)) => vec![
                "/usr/bin/setpriv".into(),
                format!("--reuid={}", user.uid).into(),
                format!("--regid={}", user.gid).into(),
                "--clear-groups".into(),
                "--bounding-set=-all".into(),
                "--inh-caps=-all".into(),
                "--no-new-privs".into(),
                "--".into(),
            ],
            _ => Vec::new(),
        }
    }

    /// Top-level folders of the host tree, those that the inventory added included.
    fn tree_folders(&self) -> Vec<OsString> {
        let entries = self.host_tree.read_dir().into_iter().flatten().flatten();
        let mut names: Vec<OsString> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name())
            .filter(|name| !NOT_THE_TREES.iter().any(|reserved| name == reserved))
            .collect();
        names.sort();
        names
    }

    fn mappings(&self) -> Vec<Mapping> {
        let addresses = self.addresses();
        let endpoints = self.settings.endpoints.iter();
        endpoints
            .filter_map(|endpoint| {
                let (_, ip) = addresses.iter().find(|(host, _)| *host == endpoint.host)?;
                Some(Mapping {
                    address: SocketAddr::new(IpAddr::V4(*ip), endpoint.port),
                    socket: Path::new(SOCKETS).join(&endpoint.socket),
                })
            })
            .collect()
    }

    /// One loopback address for each host name: several hosts may use one port.
    fn addresses(&self) -> Vec<(&str, Ipv4Addr)> {
        let mut addresses: Vec<(&str, Ipv4Addr)> = vec![("localhost", Ipv4Addr::LOCALHOST)];
        let first = u32::from(Ipv4Addr::new(127, 0, 1, 1));
        for endpoint in &self.settings.endpoints {
            if !addresses.iter().any(|(host, _)| *host == endpoint.host) {
                // At most as many as endpoints: far below the 16 million of 127.0.0.0/8.
                let number = u32::try_from(addresses.len() - 1).unwrap_or(0);
                addresses.push((&endpoint.host, Ipv4Addr::from(first + number)));
            }
        }
        addresses
    }

    fn write_etc(&self) -> Result<(), SandboxError> {
        let etc = self.host_tree.join("etc");
        let (mut passwd, mut group, mut hosts) = (String::new(), String::new(), String::new());
        let mut accounts = vec![Account::root(), self.settings.script_user.clone()];
        accounts.extend(self.settings.users.iter().cloned());
        accounts.push(Account { name: "nobody".into(), uid: 65534, gid: 65534, home: "/nonexistent".into() });
        let mut seen = Vec::new();
        for Account { name, uid, gid, home } in accounts {
            if !seen.contains(&name) {
                // Writing to a string cannot fail.
                let _ = writeln!(passwd, "{name}:x:{uid}:{gid}:{name}:{home}:/bin/sh");
                let _ = writeln!(group, "{name}:x:{gid}:");
                seen.push(name);
            }
        }
        for (host, address) in self.addresses() {
            let _ = writeln!(hosts, "{address} {host}");
        }
        let _ = writeln!(hosts, "127.0.0.1 {}", self.settings.host_name);
        let name = format!("{}\n", self.settings.host_name);
        let files: [(&str, &str); 6] = [
            ("passwd", &passwd),
            ("group", &group),
            ("hosts", &hosts),
            ("hostname", &name),
            // No name service but the file: an unknown host must not be asked for.
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\n"),
            ("resolv.conf", ""),
        ];
        for (file, text) in files {
            let path = etc.join(file);
            std::fs::write(&path, text).map_err(prepare_error(&path))?;
        }
        self.mount_points(&etc)?;
        let run = self.host_tree.join("var/run");
        // Relative, so that nobody on this machine follows it out of the tree.
        symlink("../run", &run).map_err(prepare_error(&run))
    }

    /// Bubblewrap would make them itself, in the middle of a rehearsal, and they would count as residue.
    fn mount_points(&self, etc: &Path) -> Result<(), SandboxError> {
        for name in machine_etc() {
            let (source, point) = (Path::new("/etc").join(name), etc.join(name));
            if source.is_dir() {
                make_folder(&point)?;
            } else {
                make_folder(point.parent().unwrap_or(etc))?;
                std::fs::write(&point, "").map_err(prepare_error(&point))?;
            }
        }
        Ok(())
    }
}

/// One binary under all names, in a folder that the scripts' user can reach even if the binary's own is private.
pub(crate) fn link_shims(folder: &Path, executable: &Path) -> Result<(), SandboxError> {
    make_folder(folder)?;
    let binary = folder.join("fulldress");
    let meta = executable.metadata().map_err(prepare_error(executable))?;
    let shared = meta.mode() & 0o005 == 0o005 && std::fs::hard_link(executable, &binary).is_ok();
    if !shared {
        // Another file system, or a binary that others may not run.
        std::fs::copy(executable, &binary).map_err(prepare_error(&binary))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&binary, mode).map_err(prepare_error(&binary))?;
    }
    for name in shim::NAMES {
        let link = folder.join(name);
        symlink("fulldress", &link).map_err(prepare_error(&link))?;
    }
    Ok(())
}

/// Lets every user read a package that was unpacked for its scripts.
pub(crate) fn open_to_others(package: &Path) -> Result<(), SandboxError> {
    each_below(package, &mut let_others_read)
}

/// How the kernel would run a script of the package: by its first line, or by the shell; and the script's path in the
/// package, links followed. So no execute bit is needed, which archives lose.
pub(crate) fn interpreter(package: &Path, script: &str) -> Result<(Vec<OsString>, PathBuf), SandboxError> {
    let refused = || SandboxError::Script { script: script.to_owned() };
    let package = package.canonicalize().map_err(|_| refused())?;
    let file = package.join(script).canonicalize().map_err(|_| refused())?;
    let inside = file.strip_prefix(&package).map_err(|_| refused())?.to_owned();
    let mut line = Vec::new();
    let reader = std::fs::File::open(&file).map(BufReader::new).map_err(|_| refused())?;
    // The kernel's own limit of such a line.
    reader.take(256).read_until(b'\n', &mut line).map_err(|_| refused())?;
    Ok((shebang(&line), inside))
}

fn make_folder(path: &Path) -> Result<(), SandboxError> {
    std::fs::create_dir_all(path).map_err(prepare_error(path))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).map_err(prepare_error(path))
}

/// Calls for a folder and everything below it; never follows a link.
fn each_below(
    path: &Path,
    call: &mut impl FnMut(&Path, &std::fs::Metadata) -> io::Result<()>,
) -> Result<(), SandboxError> {
    let meta = path.symlink_metadata().map_err(prepare_error(path))?;
    call(path, &meta).map_err(prepare_error(path))?;
    if meta.is_dir() {
        for entry in path.read_dir().map_err(prepare_error(path))? {
            each_below(&entry.map_err(prepare_error(path))?.path(), call)?;
        }
    }
    Ok(())
}

fn let_others_read(path: &Path, meta: &std::fs::Metadata) -> io::Result<()> {
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.mode() & 0o7777;
    let runnable = meta.is_dir() || mode & 0o100 != 0;
    let wanted = mode | 0o044 | if runnable { 0o011 } else { 0 };
    if wanted == mode {
        Ok(())
    } else {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted))
    }
}

/// Bubblewrap's namespaces. Inside, the first process is root with two rights over its own namespaces only: to listen
/// on low ports, and to make the user namespaces in which `sudo` and the script's user get their numbers.
fn namespaces(confinement: Confinement) -> Vec<OsString> {
    let own_user: &[&str] = match confinement {
        Confinement::UserNamespace => {
            &["--unshare-all", "--uid", "0", "--gid", "0", "--cap-drop", "ALL", "--cap-add", "CAP_SETFCAP"]
        }
        Confinement::Root | Confinement::Host => &[
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CAP_SETUID",
            "--cap-add",
            "CAP_SETGID",
            "--cap-add",
            "CAP_SETPCAP",
        ],
    };
    let common = ["--cap-add", "CAP_NET_BIND_SERVICE", "--die-with-parent", "--new-session"];
    own_user.iter().chain(&common).map(OsString::from).collect()
}

fn machine_etc() -> impl Iterator<Item = &'static str> {
    MACHINE_ETC.iter().copied().filter(|name| Path::new("/etc").join(name).exists())
}

/// Real tools of this machine under the shims' names: scripts may call them by their whole path.
fn shadowed_programs() -> Vec<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin"];
    let paths = folders.iter().flat_map(|folder| shim::NAMES.map(|name| Path::new(folder).join(name)));
    // Bubblewrap would mount over the target of a link, which may be a program with other duties.
    paths.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file())).collect()
}

/// The words before the script's own path: the interpreter and at most one argument, as the kernel splits them.
fn shebang(line: &[u8]) -> Vec<OsString> {
    let Some(rest) = line.strip_prefix(b"#!") else { return vec!["/bin/sh".into()] };
    let rest = rest.trim_ascii();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let (interpreter, argument) = rest.split_at(end);
    let words = [interpreter, argument.trim_ascii()];
    words.into_iter().filter(|word| !word.is_empty()).map(|word| OsString::from_vec(word.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::{remedy, shebang};

    #[test]
    fn a_first_line_is_split_as_the_kernel_does() {
        assert_eq!(shebang(b"#!/bin/bash\n"), ["/bin/bash"]);
        assert_eq!(shebang(b"#! /usr/bin/env  bash -e \n"), ["/usr/bin/env", "bash -e"]);
        assert_eq!(shebang(b"echo hello\n"), ["/bin/sh"]);
        assert_eq!(shebang(b""), ["/bin/sh"]);
    }

    #[test]
    fn the_remedy_names_the_switch_that_forbids() {
        let switch = |name: &str| (name == "kernel.unprivileged_userns_clone").then(|| "0".to_owned());
        assert!(remedy(switch).contains("sysctl -w kernel.unprivileged_userns_clone=1"));
        assert!(remedy(|_| None).contains("seccomp=unconfined"));
    }
}
