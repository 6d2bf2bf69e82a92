//! How one child is started, awaited and stopped.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, so one thread that lives as long
//! as we do forks everything.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::run_folder::{Records, RunFolder, start_ticks};
use super::{ProcessError, User, find_program};

/// Longest output that is kept per stream; the rest is read and dropped, so that the child never blocks on it.
const OUTPUT_KEPT_BYTES: usize = 16 << 20;
/// A parent that died before the kernel was asked for the signal of its death sends none: such a child sees another
/// parent, and ends instead of living on. `$0` is our process number, the rest is the program.
const STILL_OURS: &str = r#"[ "$PPID" = "$0" ] || exit 143; exec "$@""#;
/// How long a finished child's pipes are read on, for a process that left its group and still holds them.
const DRAIN: Duration = Duration::from_millis(500);

/// What a child reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Input {
    /// Nothing; never our own input.
    #[default]
    Null,
    /// A pipe whose other end is [`Child::stdin`].
    Piped,
}

/// Where a child writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    #[default]
    Null,
    /// A pipe whose other end is [`Child::stdout`] or [`Child::stderr`].
    Piped,
    /// The end of a file, which is made when it is missing. Both streams may name the same one.
    File(PathBuf),
}

/// A program that is to be started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Name that is looked up in our `PATH`, or a path.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables on top of ours, or instead of them with `env_clear`.
    pub env: Vec<(OsString, OsString)>,
    /// Whether our own environment is kept from it.
    pub env_clear: bool,
    /// Working folder; ours when absent, `/` when absent and the child runs as another user.
    pub cwd: Option<PathBuf>,
    /// Whom it runs as; only root may name someone.
    pub user: Option<User>,
    /// Its input.
    pub stdin: Input,
    /// Its output.
    pub stdout: Sink,
    /// Its errors.
    pub stderr: Sink,
    /// The signal it gets from the kernel when we die. `Signal::QUIT` lets PostgreSQL take its children along.
    pub death_signal: Signal,
    /// The first signal of [`Child::stop`]. `Signal::INT` is PostgreSQL's fast shutdown.
    pub stop_signal: Signal,
    records: Option<Records>,
}

impl Launch {
    /// A program with no arguments, our environment, no streams, killed when we die and asked by SIGTERM to stop.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            cwd: None,
            user: None,
            stdin: Input::Null,
            stdout: Sink::Null,
            stderr: Sink::Null,
            death_signal: Signal::KILL,
            stop_signal: Signal::TERM,
            records: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<Arg: Into<OsString>>(mut self, args: impl IntoIterator<Item = Arg>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds one variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Records the child in a run folder, so that the next start ends it if we cannot.
    #[must_use]
    pub fn recorded_in(mut self, folder: &RunFolder) -> Self {
        self.records = Some(folder.records());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// A missing program (with the package to install), a stream that cannot be opened, or the kernel's refusal.
    pub async fn start(self) -> Result<Child, ProcessError> {
        let name = self.program.to_string_lossy().into_owned();
        let stream_error =
            |stream: String| move |source| ProcessError::Stream { program: name.clone(), stream, source };
        let mut command = self.command()?;
        let (input, stdin) = self.input().map_err(stream_error.clone()("the input".to_owned()))?;
        let (output, stdout) =
            self.sink(&self.stdout).map_err(stream_error.clone()(describe("the output", &self.stdout)))?;
        let (errors, stderr) =
            self.sink(&self.stderr).map_err(stream_error.clone()(describe("the errors", &self.stderr)))?;
        command.stdin(input).stdout(output).stderr(errors);
        let program = self.program.to_string_lossy().into_owned();
        let start_error = |source| ProcessError::Start { program: program.clone(), source };
        let process = spawn(command).await.map_err(start_error)?;
        // The guard owns the process from here on: an error below must not leave it running.
        let mut guard = Group::new(process);
        let pidfd = pidfd_open(guard.pid, PidfdFlags::NONBLOCK).map_err(|errno| start_error(errno.into()))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned pidfd keeps the promise it asks for"
        )]
        let exit = AsyncFd::new(pidfd).map_err(start_error)?;
        guard.remember(self.records, &program);
        Ok(Child { program, guard, exit, status: None, stop_signal: self.stop_signal, stdin, stdout, stderr })
    }

    fn command(&self) -> Result<std::process::Command, ProcessError> {
        let program = find_program(&self.program)?;
        let setpriv = find_program("setpriv".as_ref())?;
        #[expect(clippy::disallowed_methods, reason = "this module is the one that starts programs")]
        let mut command = std::process::Command::new(setpriv);
        if self.env_clear {
            command.env_clear();
        }
        if let Some(user) = self.other_user() {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.arg("--clear-groups");
            command
                .env("HOME", &user.home)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name)
                .current_dir("/");
        }
        command.arg(format!("--pdeathsig={}", signal_name(self.death_signal)));
        command.args(["--", "/bin/sh", "-c", STILL_OURS]).arg(std::process::id().to_string());
        command.arg(program).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(records) = &self.records {
            let (name, value) = records.marker();
            command.env(name, value);
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command.process_group(0);
        Ok(command)
    }

    /// The user to switch to; naming ourselves is no switch.
    fn other_user(&self) -> Option<&User> {
        self.user.as_ref().filter(|user| user.uid != rustix::process::geteuid().as_raw())
    }

    fn input(&self) -> io::Result<(Stdio, Option<pipe::Sender>)> {
        match self.stdin {
            Input::Null => Ok((Stdio::null(), None)),
            Input::Piped => {
                let (theirs, ours) = io::pipe()?;
                self.give(&theirs)?;
                Ok((Stdio::from(theirs), Some(pipe::Sender::from_owned_fd(OwnedFd::from(ours))?)))
            }
        }
    }

    fn sink(&self, sink: &Sink) -> io::Result<(Stdio, Option<pipe::Receiver>)> {
        match sink {
            Sink::Null => Ok((Stdio::null(), None)),
            Sink::Piped => {
                let (ours, theirs) = io::pipe()?;
                self.give(&theirs)?;
                Ok((Stdio::from(theirs), Some(pipe::Receiver::from_owned_fd(OwnedFd::from(ours))?)))
            }
            Sink::File(path) => {
                let file = append(path)?;
                self.give(&file)?;
                Ok((Stdio::from(file), None))
            }
        }
    }

    /// A stream belongs to the child's user: `echo … >/dev/stderr` opens it again, with that user's rights.
    fn give(&self, stream: &impl AsFd) -> io::Result<()> {
        let Some(user) = self.other_user() else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        Ok(rustix::fs::fchown(stream, Some(uid), Some(gid))?)
    }
}

fn describe(stream: &str, sink: &Sink) -> String {
    match sink {
        Sink::File(path) => format!("{stream} ({})", path.display()),
        Sink::Null | Sink::Piped => stream.to_owned(),
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// setpriv takes names without their prefix.
fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::QUIT => "QUIT",
        Signal::TERM => "TERM",
        Signal::INT => "INT",
        Signal::HUP => "HUP",
        // Whatever else was asked for: a child that outlives us is worse than one that ends abruptly.
        _ => "KILL",
    }
}

type Job = (std::process::Command, oneshot::Sender<io::Result<std::process::Child>>);

/// Forks on the one thread that lives as long as we do.
async fn spawn(command: std::process::Command) -> io::Result<std::process::Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the spawning thread ended");
    let jobs = match SPAWNER.get() {
        Some(jobs) => jobs,
        None => {
            let jobs = start_spawner()?;
            // Two first callers may race; the loser's thread ends with its channel before it forked anything.
            SPAWNER.get_or_init(|| jobs)
        }
    };
    let (reply, answer) = oneshot::channel();
    jobs.send((command, reply)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn start_spawner() -> io::Result<mpsc::Sender<Job>> {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for (mut command, reply) in queue {
            let started = command.spawn();
            // The caller gave up while we forked: nobody else will ever stop this child.
            if let Err(Ok(process)) = reply.send(started) {
                drop(Group::new(process));
            }
        }
    })?;
    Ok(jobs)
}

/// A process and its group. Dropping it kills the group, unless its end was seen.
#[derive(Debug)]
struct Group {
    process: Option<std::process::Child>,
    pid: Pid,
    records: Option<Records>,
}

impl Group {
    fn new(process: std::process::Child) -> Self {
        // A child's pid is a positive i32, so this neither wraps nor is zero.
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap_or(Pid::INIT);
        Self { process: Some(process), pid, records: None }
    }

    fn remember(&mut self, records: Option<Records>, program: &str) {
        self.records = records;
        if let (Some(records), Some(start_ticks)) = (&self.records, start_ticks(self.pid)) {
            records.add(self.pid, start_ticks, program);
        }
    }

    /// Signals the group while its leader is not reaped, so that its number cannot have gone to someone else.
    fn signal(&self, signal: Signal) {
        if self.process.is_some() && self.pid != Pid::INIT {
            // The only failure is a group that has just ended, and then there is nothing to signal.
            let _ended = kill_process_group(self.pid, signal);
        }
    }

    /// Ends the rest of a group whose leader has ended, then reaps the leader.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        let Some(mut process) = self.process.take() else { return Err(io::Error::other("already reaped")) };
        let status = process.wait();
        self.forget();
        status
    }

    fn forget(&mut self) {
        if let Some(records) = self.records.take() {
            records.remove(self.pid);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut process) = self.process.take() {
            // A killed process may still take a moment in the kernel; a destructor must not wait for it.
            let reaper = std::thread::Builder::new().name("reaper".to_owned()).spawn(move || process.wait());
            drop(reaper);
        }
        self.forget();
    }
}

/// A started program. Dropping it kills its whole group at once.
#[derive(Debug)]
pub struct Child {
    program: String,
    guard: Group,
    exit: AsyncFd<OwnedFd>,
    status: Option<ExitStatus>,
    stop_signal: Signal,
    /// Our end of its input, when it is piped.
    pub stdin: Option<pipe::Sender>,
    /// Our end of its output, when it is piped.
    pub stdout: Option<pipe::Receiver>,
    /// Our end of its errors, when they are piped.
    pub stderr: Option<pipe::Receiver>,
}

impl Child {
    /// The process and, by the same number, its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        u32::try_from(self.guard.pid.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// How it ended, once [`Child::wait`] or [`Child::stop`] has seen it.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Signals its whole group; a group that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        self.guard.signal(signal);
    }

    /// Waits until it ends. What it leaves behind in its group is killed then. May be cancelled and called again.
    ///
    /// # Errors
    /// The kernel's word when it will not tell.
    pub async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let program = self.program.clone();
        let failed = |source| ProcessError::Wait { program, source };
        let ended = match self.exit.readable().await {
            Ok(_) => self.guard.reap(),
            Err(error) => Err(error),
        };
        let status = ended.map_err(failed)?;
        self.status = Some(status);
        Ok(status)
    }

    /// Asks its group to end and kills the group after the grace. A grace of zero kills at once.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, ProcessError> {
        if !grace.is_zero() {
            self.signal(self.stop_signal);
            if let Ok(ended) = tokio::time::timeout(grace, self.wait()).await {
                return ended;
            }
        }
        self.signal(Signal::KILL);
        self.wait().await
    }
}

/// What a program left when it ran to its end.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its output, when the launch asked for a pipe; at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Its errors, when the launch asked for a pipe; at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Whether the time was up and its group was killed.
    pub timed_out: bool,
}

/// Runs a program to its end, or kills its whole group when the time is up. Set both sinks to [`Sink::Piped`] to
/// have what it wrote.
///
/// # Errors
/// As [`Launch::start`] and [`Child::wait`]; a failing program is no error.
pub async fn run_to_end(launch: Launch, timeout: Duration) -> Result<Output, ProcessError> {
    run_with_input(launch, Vec::new(), timeout).await
}

async fn run_with_input(launch: Launch, input: Vec<u8>, timeout: Duration) -> Result<Output, ProcessError> {
    let mut child = launch.start().await?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut kept_output, mut kept_errors) = (Vec::new(), Vec::new());
    let (status, timed_out) = {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input is not at fault.
                let _closed = stdin.write_all(&input).await;
            }
        };
        let streams = async {
            tokio::join!(write, keep(stdout, &mut kept_output), keep(stderr, &mut kept_errors));
        };
        let ended = async {
            match tokio::time::timeout(timeout, child.wait()).await {
                Ok(status) => (status, false),
                Err(_) => (child.stop(Duration::ZERO).await, true),
            }
        };
        tokio::pin!(streams, ended);
        tokio::select! {
            // The streams may close long before the program ends, and may stay open after it.
            () = &mut streams => ended.await,
            ended = &mut ended => {
                let _still_open = tokio::time::timeout(DRAIN, &mut streams).await;
                ended
            }
        }
    };
    Ok(Output { status: status?, stdout: kept_output, stderr: kept_errors, timed_out })
}

async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_KEPT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

impl Launch {
    /// Runs it to its end with this text as its input and both outputs kept.
    ///
    /// # Errors
    /// As [`run_to_end`].
    pub async fn feed(mut self, input: Vec<u8>, timeout: Duration) -> Result<Output, ProcessError> {
        self.stdin = Input::Piped;
        self.stdout = Sink::Piped;
        self.stderr = Sink::Piped;
        run_with_input(self, input, timeout).await
    }

    /// Runs it to its end with both outputs kept.
    ///
    /// # Errors
    /// As [`run_to_end`].
    pub async fn output(mut self, timeout: Duration) -> Result<Output, ProcessError> {
        self.stdout = Sink::Piped;
        self.stderr = Sink::Piped;
        run_to_end(self, timeout).await
    }
}
