//! What goes to the engine and what comes back, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A container to make.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Its name, unique on the machine; empty lets the engine choose one.
    pub name: String,
    /// Image that is on this machine.
    pub image: String,
    /// In place of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's command; empty keeps the image's.
    pub command: Vec<String>,
    /// Added to the image's environment.
    pub environment: Vec<(String, String)>,
    /// `user`, `uid` or `uid:gid`; none keeps the image's.
    pub user: Option<String>,
    /// None keeps the image's.
    pub workdir: Option<String>,
    /// The network it stands in; none is the engine's default, `none` is none at all.
    pub network: Option<String>,
    /// Names by which others in that network find it.
    pub aliases: Vec<String>,
    /// Resolvers in place of the engine's choice.
    pub dns: Vec<IpAddr>,
    /// What is mounted where.
    pub mounts: Vec<Mount>,
    /// TCP ports of the container, each published on 127.0.0.1 at a free port: [`ContainerFacts::published`].
    pub publish: Vec<u16>,
    /// Labels; volumes that the engine makes for `mounts` carry them too.
    pub labels: Vec<(String, String)>,
    /// Takes all capabilities away before `cap_add` gives some back.
    pub cap_drop_all: bool,
    /// Capabilities to give, such as `NET_ADMIN`.
    pub cap_add: Vec<String>,
    /// Whether the engine's own init is the first process: it reaps orphans and passes signals on.
    pub init: bool,
    /// None lets the engine choose one.
    pub hostname: Option<String>,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it comes from.
    pub source: MountSource,
    /// Absolute path inside.
    pub target: String,
    /// Whether writing to it fails.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or folder of this machine, which must be there.
    Bind(String),
    /// A named volume; made when it is missing.
    Volume(String),
    /// Memory. The engine's file exchange does not see it.
    Memory,
}

/// A program to run inside a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecCall {
    /// Program and arguments; no shell is put around them.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub environment: Vec<(String, String)>,
    /// None keeps the container's.
    pub user: Option<String>,
    /// None keeps the container's.
    pub workdir: Option<String>,
    /// Written to its standard input, which then ends; none gives it an empty one.
    pub stdin: Option<Vec<u8>>,
}

/// How a program inside ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Exit code; 128 plus the signal when one ended it.
    pub code: i64,
    /// The first 16 MiB.
    pub stdout: Vec<u8>,
    /// The first 16 MiB.
    pub stderr: Vec<u8>,
    /// Whether it was killed at its time limit.
    pub timed_out: bool,
}

/// What an image brings along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// `sha256:…`, the same for the same content.
    pub id: String,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Paths that become volumes.
    pub volumes: Vec<String>,
    /// Empty is root.
    pub user: String,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Command.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a container's health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    None,
    /// It has not answered well yet.
    Starting,
    /// The last answer was well.
    Healthy,
    /// It failed as often as the check allows.
    Unhealthy,
}

/// What the engine knows about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether its first process runs.
    pub running: bool,
    /// When its first process started last, in the engine's words; empty before that.
    pub started: String,
    /// Exit code of the first process; none while it runs.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed something in it for want of memory.
    pub out_of_memory: bool,
    /// Health.
    pub health: Health,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// Addresses by network.
    pub addresses: BTreeMap<String, IpAddr>,
    /// Ports on 127.0.0.1 by TCP port of the container.
    pub published: BTreeMap<u16, u16>,
    /// What is mounted.
    pub mounts: Vec<MountFacts>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One mount of an existing container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFacts {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// A volume's name, or the path on this machine; empty for memory.
    pub source: String,
    /// Path inside.
    pub target: String,
    /// Whether it can be written.
    pub writable: bool,
}

/// A container that was found by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub state: String,
}

/// What happened to a path of a container's own layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was there, and its content or its properties changed; also a folder with a change in it.
    Modified,
    /// It was not there.
    Added,
    /// It is not there any more.
    Deleted,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File {
        /// SHA-256 of its content, 64 hexadecimal digits.
        sha256: String,
        /// Its length.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link, with its target as it is written in it.
    Link(String),
    /// A device or a pipe.
    Special,
}

/// One path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Absolute path inside.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
}

/// A path of a container and, for a file, its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFile {
    /// The path.
    pub entry: FileEntry,
    /// The file's content; empty for everything else.
    pub content: Vec<u8>,
}

/// A file to put into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Absolute path inside; folders above that are missing are made, as root's and with mode 755.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
}
