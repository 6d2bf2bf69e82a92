//! The mirror's host as scripts see it: units, crontabs, jobs, sudo, behind one Unix socket.
//!
//! The shims inside a sandbox ask; the mirror acts ([`ServiceActions`]); the step runner and the residue probes read
//! [`Host`].

mod schedule;
mod systemctl;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulldress_workloads::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::relay::{RelayError, listen};
use super::shim::SudoCall;

/// Longest question of a shim, bytes: a crontab with room to spare.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// Calls that the journal keeps; a script in an endless loop must not fill the memory.
const JOURNAL_CALLS_MAX: usize = 10_000;

/// What the mirror does when a script starts or stops a service. An error is one sentence.
pub trait ServiceActions: Send + Sync + 'static {
    /// Starts a service that is not running.
    fn start(&self, service: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// Stops it.
    fn stop(&self, service: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// Stops and starts it.
    fn restart(&self, service: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// Whether it is running.
    fn is_active(&self, service: &str) -> impl Future<Output = bool> + Send;
    /// Makes it read its configuration again. Does nothing unless the mirror knows how.
    fn reload(&self, service: &str) -> impl Future<Output = Result<(), String>> + Send {
        let _ = service;
        std::future::ready(Ok(()))
    }
}

/// One systemd unit of the mirror's host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The mirror's service behind it; a timer has none.
    pub service: Option<String>,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// Whether it runs. Of a unit with a service the mirror is asked.
    pub active: bool,
    /// Whether it was masked.
    pub masked: bool,
    /// Whether it is known from a file that the upgrade wrote.
    #[serde(default)]
    pub from_file: bool,
}

impl Unit {
    /// An enabled and running unit of a service.
    #[must_use]
    pub fn of_service(service: impl Into<String>) -> Self {
        Self { service: Some(service.into()), enabled: true, active: true, ..Self::default() }
    }
}

/// A job that `at` took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtJob {
    /// Whose it is.
    pub user: String,
    /// When, in the words of the call.
    pub when: String,
    /// The commands.
    pub commands: String,
}

/// What sudo says to the script's user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SudoPolicy {
    /// Everything without a password.
    #[default]
    Granted,
    /// A password is asked for, and there is nobody to type it.
    PasswordRequired,
    /// The user is not among the sudoers.
    Refused,
}

/// One call of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimCall {
    /// When, microseconds since the rehearsal's epoch.
    pub at_us: u64,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// As whom.
    pub user: String,
    /// What it exited with.
    pub exit: i32,
    /// What it said on its error stream.
    pub stderr: String,
}

/// The host at the start of a rehearsal, and as it becomes.
#[derive(Debug, Clone, Default)]
pub struct HostState {
    /// Units by full name (`storefront-web.service`).
    pub units: BTreeMap<String, Unit>,
    /// Crontabs by user.
    pub crontabs: BTreeMap<String, String>,
    /// Jobs of `at` by number.
    pub at_jobs: BTreeMap<u32, AtJob>,
    /// Accounts besides root.
    pub users: Vec<String>,
    /// Whom scripts run as when they do not say.
    pub script_user: String,
    /// What sudo says.
    pub sudo: SudoPolicy,
    /// Unit files that are in the host's `/etc/systemd/system` now: those that the upgrade puts there become units.
    pub unit_files: BTreeSet<String>,
    /// Every call, in order.
    pub journal: Vec<ShimCall>,
    /// Number of the last job of `at`, which are never used twice.
    pub last_job: u32,
}

impl HostState {
    /// The full name and state of a unit; a new file in the unit folder makes it known, as systemd's own lookup does.
    fn unit(&mut self, name: &str) -> Option<&mut Unit> {
        if !self.units.contains_key(name) && self.has_unit_file(name) {
            self.units.insert(name.to_owned(), Unit { from_file: true, ..Unit::default() });
        }
        self.units.get_mut(name)
    }

    fn has_unit_file(&self, name: &str) -> bool {
        self.unit_files.contains(name)
    }

    fn is_user(&self, name: &str) -> bool {
        name == "root" || name == self.script_user || self.users.iter().any(|user| user == name)
    }
}

/// The host's state for residue probes: equal before the upgrade and after the rollback, or there is residue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// Units by full name.
    pub units: BTreeMap<String, Unit>,
    /// Crontabs by user.
    pub crontabs: BTreeMap<String, String>,
    /// Jobs of `at` by number.
    pub at_jobs: BTreeMap<u32, AtJob>,
}

/// A shim's question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What the tool would have read.
    pub stdin: String,
    /// Working folder inside the sandbox.
    pub cwd: String,
    /// Numeric user inside the sandbox.
    pub uid: u32,
    /// Name of the user on the mirror's host; empty for the script's own.
    pub user: String,
    /// Names of the plain files in the host's `/etc/systemd/system`, as the shim sees it.
    #[serde(default)]
    pub unit_files: BTreeSet<String>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimReply {
    /// Exit code.
    pub exit: i32,
    /// For its output.
    pub stdout: String,
    /// For its error stream.
    pub stderr: String,
}

impl ShimReply {
    fn say(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    fn fail(exit: i32, stderr: impl Into<String>) -> Self {
        Self { exit, stdout: String::new(), stderr: stderr.into() }
    }
}

/// The mirror's host, shared by the server and whoever probes it.
#[derive(Debug)]
pub struct Host<Actions> {
    state: Mutex<HostState>,
    actions: Actions,
    clock: Clock,
}

impl<Actions: ServiceActions> Host<Actions> {
    /// What the host looks like now.
    pub async fn snapshot(&self) -> HostSnapshot {
        let mut snapshot = {
            let state = self.lock();
            HostSnapshot {
                units: state.units.clone(),
                crontabs: state.crontabs.clone(),
                at_jobs: state.at_jobs.clone(),
            }
        };
        for unit in snapshot.units.values_mut() {
            if let Some(service) = &unit.service {
                unit.active = self.actions.is_active(service).await;
            }
        }
        snapshot
    }

    /// Every shim call so far.
    #[must_use]
    pub fn journal(&self) -> Vec<ShimCall> {
        self.lock().journal.clone()
    }

    /// Answers one question and writes it down.
    pub async fn answer(&self, request: &ShimRequest) -> ShimReply {
        let user =
            if request.user.is_empty() { self.lock().script_user.clone() } else { request.user.clone() };
        let user = if user.is_empty() { "root".to_owned() } else { user };
        self.lock().unit_files.clone_from(&request.unit_files);
        let reply = self.dispatch(request, &user).await;
        let call = ShimCall {
            at_us: self.clock.now_us(),
            argv: request.argv.clone(),
            user,
            exit: reply.exit,
            stderr: reply.stderr.clone(),
        };
        let mut state = self.lock();
        if state.journal.len() < JOURNAL_CALLS_MAX {
            state.journal.push(call);
        }
        reply
    }

    async fn dispatch(&self, request: &ShimRequest, user: &str) -> ShimReply {
        let Some((program, args)) = request.argv.split_first() else {
            return ShimReply::fail(2, "empty call\n");
        };
        let stdin = request.stdin.as_str();
        match program.as_str() {
            "sudo" => self.sudo(args, user),
            "systemctl" => self.systemctl(args, user).await,
            "service" => self.service(args, user).await,
            "crontab" => schedule::crontab(&mut self.lock(), args, stdin, user),
            "at" => schedule::at(&mut self.lock(), args, stdin, user),
            "atq" => schedule::atq(&self.lock(), user),
            "atrm" => schedule::atrm(&mut self.lock(), args, user),
            other => ShimReply::fail(127, format!("{other}: not a program of the mirror's host\n")),
        }
    }

    /// Whether sudo lets the caller through; the shim itself runs the command.
    fn sudo(&self, args: &[String], user: &str) -> ShimReply {
        let state = self.lock();
        // A line that sudo cannot read was refused by the shim.
        let call = SudoCall::parse(args).unwrap_or_default();
        let known = |target: &str| target.starts_with('#') || state.is_user(target);
        if let Some(target) = call.user.as_deref().filter(|target| !known(target)) {
            return ShimReply::fail(1, format!("sudo: unknown user {target}\n"));
        }
        match state.sudo {
            _ if user == "root" => ShimReply::default(),
            SudoPolicy::Granted => ShimReply::default(),
            SudoPolicy::PasswordRequired if call.never_ask => {
                ShimReply::fail(1, "sudo: a password is required\n")
            }
            SudoPolicy::PasswordRequired => ShimReply::fail(
                1,
                "sudo: a terminal is required to read the password; either use the -S option to read from standard \
                 input or configure an askpass helper\nsudo: a password is required\n",
            ),
            SudoPolicy::Refused => ShimReply::fail(
                1,
                format!(
                    "{user} is not in the sudoers file.\nThis incident has been reported to the administrator.\n"
                ),
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HostState> {
        // Each change is one assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens to the shims. Dropping it ends the conversations.
#[derive(Debug)]
pub struct ControlServer<Actions> {
    host: Arc<Host<Actions>>,
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl<Actions: ServiceActions> ControlServer<Actions> {
    /// Starts to answer on a socket.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn start(path: &Path, state: HostState, actions: Actions, clock: Clock) -> Result<Self, RelayError> {
        let listener = listen(path)?;
        let host = Arc::new(Host { state: Mutex::new(state), actions, clock });
        let serving = tokio::spawn(serve(listener, Arc::clone(&host)));
        Ok(Self { host, path: path.to_owned(), serving })
    }

    /// The host it speaks for.
    #[must_use]
    pub fn host(&self) -> Arc<Host<Actions>> {
        Arc::clone(&self.host)
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl<Actions> Drop for ControlServer<Actions> {
    fn drop(&mut self) {
        self.serving.abort();
        // Its folder is deleted with the run; a socket that is gone already is as good.
        let _gone = std::fs::remove_file(&self.path);
    }
}

async fn serve<Actions: ServiceActions>(listener: UnixListener, host: Arc<Host<Actions>>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let host = Arc::clone(&host);
                    calls.spawn(async move { converse(stream, &host).await });
                }
                // Out of file descriptors: the next call may find one.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

/// One line in, one line out. A caller that goes away has nobody to be told of it.
async fn converse<Actions: ServiceActions>(stream: UnixStream, host: &Host<Actions>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await.is_err() {
        return;
    }
    let reply = match serde_json::from_str::<ShimRequest>(&line) {
        Ok(request) => host.answer(&request).await,
        Err(error) => ShimReply::fail(2, format!("the mirror did not understand the call: {error}\n")),
    };
    let Ok(mut answer) = serde_json::to_vec(&reply) else { return };
    answer.push(b'\n');
    let _gone = writer.write_all(&answer).await;
}

#[cfg(test)]
mod tests;
