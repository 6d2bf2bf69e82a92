//! Programs run inside running containers: with bounded output, and ended together with all that they started.
//!
//! The engine can start a program inside a container but cannot end one. So each call carries a variable of its own
//! in its environment. At the time limit more calls find the processes that carry it, their sessions and their
//! children, and kill them until none is left. A wrapper such as coreutils' `timeout` would reach its process group
//! only, and a pid file would stand in the change list. What escapes is a process that did all of this: took another
//! user's id, threw its environment away, began a session of its own and let its parent end. The image needs `sh`,
//! `grep` and `/proc`.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures_util::{Stream, TryStreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::super::super::MirrorError;
use super::{Engine, ExecCall, Ran};

/// What is kept of one stream.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// The variable by which the processes of a call are found.
const MARKER: &str = "FULLDRESS_EXEC";
/// How long killed processes may take to let go of their streams.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the killing may take.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// First and longest pause between two looks at a program that closed its streams and goes on.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// Kills what belongs to the call with the marker `$1`, again and again until a look finds nothing that it may kill:
/// processes that carry the marker, those in their sessions or in the sessions `$2`, and their children. Prints the
/// sessions, and ends with 1 when something is left. The container's first process and its session are never a call's.
const KILL: &str = r#"
marker=$1 sessions=" $2 " rounds=0
# The program's name in parentheses may hold anything.
look() {
    { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    state=$1 parent=$2 session=$4
    [ "$state" != Z ] && [ "$state" != X ]
}
take() {
    pids="$pids$1 "
    [ "$session" -le 1 ] || case $sessions in *" $session "*) ;; *) sessions="$sessions$session " ;; esac
}
while :; do
    pids=' ' before=none
    for file in $(grep -lsF -e "$marker" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${file#/proc/} pid=${pid%/environ}
        if [ "$pid" -gt 1 ] && look "$pid"; then take "$pid"; fi
    done
    while [ "$before" != "$pids" ]; do
        before=$pids
        for folder in /proc/[0-9]*; do
            pid=${folder#/proc/}
            case $pids in *" $pid "*) continue ;; esac
            if [ "$pid" -le 1 ] || ! look "$pid"; then continue; fi
            case $sessions in *" $session "*) take "$pid"; continue ;; esac
            case $pids in *" $parent "*) take "$pid" ;; esac
        done
    done
    killed=
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null && killed=yes; done
    rounds=$((rounds + 1))
    if [ -z "$killed" ] || [ "$rounds" -ge 500 ]; then break; fi
done
echo $sessions
[ "$pids" = ' ' ]
"#;

/// Both streams of a program as far as they are kept.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Both in the order of writing.
    pub(super) both: Vec<u8>,
}

impl Collected {
    pub(super) fn take(&mut self, output: LogOutput) {
        let (stream, message) = match output {
            LogOutput::StdErr { message } => (&mut self.stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => (&mut self.stdout, message),
            LogOutput::StdIn { .. } => return,
        };
        keep(stream, &message, OUTPUT_BYTES_MAX);
        keep(&mut self.both, &message, 2 * OUTPUT_BYTES_MAX);
    }
}

/// Appends as much as fits.
fn keep(kept: &mut Vec<u8>, message: &[u8], most: usize) {
    let room = most.saturating_sub(kept.len());
    kept.extend_from_slice(&message[..message.len().min(room)]);
}

type Output = std::pin::Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
type Input = std::pin::Pin<Box<dyn AsyncWrite + Send>>;

impl Engine {
    /// Runs a program inside a running container and waits for its end. At the limit it is killed together with
    /// everything that it started, and what it said until then is kept. A program that is not there ends with the code
    /// 126 or 127, as in a shell.
    ///
    /// What it leaves in the background at its own end goes on, as on any machine.
    ///
    /// # Errors
    /// When the container does not run, or when the processes could not be killed at the limit.
    pub async fn exec(&self, id: &str, asked: &ExecCall, limit: Duration) -> Result<Ran, MirrorError> {
        let what =
            format!("run {} in the container {id}", asked.command.first().map_or("nothing", String::as_str));
        let marker = format!("{:032x}", rand::random::<u128>());
        let mut environment: Vec<String> =
            asked.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        environment.push(format!("{MARKER}={marker}"));
        let config = ExecConfig {
            attach_stdin: Some(asked.stdin.is_some()),
            env: Some(environment),
            user: asked.user.clone(),
            working_dir: asked.workdir.clone(),
            ..attached(asked.command.clone())
        };
        let (exec, mut output, input) = self.begin(id, &what, config).await?;
        let mut said = Collected::default();
        let conversing = async {
            converse(&mut output, input, asked.stdin.as_deref(), &mut said).await?;
            self.end_of(&exec).await
        };
        let ended = self.attended(tokio::time::timeout(limit, conversing)).await?;
        let (code, timed_out) = match ended {
            Ok(code) => (code.map_err(|error| super::failed(&what, &error))?, false),
            Err(_) => {
                self.kill_marked(id, &marker, asked, &what).await?;
                // Whoever has the streams open is dead or dying; what they said is still in the pipe.
                let reading = converse(&mut output, Box::pin(tokio::io::sink()), None, &mut said);
                let _rest = tokio::time::timeout(LAST_WORDS, reading).await;
                let code = tokio::time::timeout(LAST_WORDS, self.end_of(&exec)).await;
                (code.ok().and_then(Result::ok).unwrap_or(137), true)
            }
        };
        Ok(Ran { code, stdout: said.stdout, stderr: said.stderr, timed_out })
    }

    async fn begin(
        &self,
        id: &str,
        what: &str,
        config: ExecConfig,
    ) -> Result<(String, Output, Input), MirrorError> {
        let starting = async {
            let exec = self.docker.create_exec(id, config).await?.id;
            let options = StartExecOptions { output_capacity: Some(64 << 10), ..StartExecOptions::default() };
            match self.docker.start_exec(&exec, Some(options)).await? {
                StartExecResults::Attached { output, input } => Ok((exec, output, input)),
                StartExecResults::Detached => Err(std::io::Error::other("the engine did not attach").into()),
            }
        };
        self.call(what, starting).await
    }

    /// Waits until a program has ended, which may be after its streams were closed; its exit code.
    async fn end_of(&self, exec: &str) -> Result<i64, Error> {
        let (mut pause, longest) = LOOK_PAUSE;
        loop {
            let state = self.docker.inspect_exec(exec).await?;
            if let (Some(false), Some(code)) = (state.running, state.exit_code) {
                return Ok(code);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Kills every process of a call: as its own user, who may read the marker of what is his, then as root, who may
    /// kill what a `sudo` started. Neither needs a capability that the container was not given.
    async fn kill_marked(
        &self,
        id: &str,
        marker: &str,
        asked: &ExecCall,
        what: &str,
    ) -> Result<(), MirrorError> {
        let killing = async {
            let (_, sessions) = self.kill_as(id, asked.user.clone(), marker, "").await?;
            match self.kill_as(id, Some("0".to_owned()), marker, &sessions).await? {
                (0, _) => Ok(()),
                (code, said) => Err(format!("the second look ended with {code}: {said}")),
            }
        };
        let reason = match self.attended(tokio::time::timeout(KILL_LIMIT, killing)).await? {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(_) => format!("that took longer than {} s", KILL_LIMIT.as_secs()),
        };
        // A container that ended took its processes along.
        if self.inspect(id).await.is_ok_and(|facts| !facts.running) {
            return Ok(());
        }
        Err(MirrorError::new(
            format!(
                "failed to {what} for no longer than its limit: its processes could not be ended ({reason})"
            ),
            "the image needs sh, grep and /proc; or stop the container",
        ))
    }

    /// One look, as one user; its exit code, and the sessions that it found.
    async fn kill_as(
        &self,
        id: &str,
        user: Option<String>,
        marker: &str,
        sessions: &str,
    ) -> Result<(i64, String), String> {
        let command = ["sh", "-c", KILL, "sh", marker, sessions].map(ToOwned::to_owned).to_vec();
        let config = ExecConfig { user, ..attached(command) };
        let (exec, mut output, input) =
            self.begin(id, "end it", config).await.map_err(|error| error.to_string())?;
        let mut said = Collected::default();
        converse(&mut output, input, None, &mut said).await.map_err(|error| super::words(&error))?;
        let code = self.end_of(&exec).await.map_err(|error| super::words(&error))?;
        Ok((code, String::from_utf8_lossy(&said.both).trim().to_owned()))
    }
}

/// Both outputs and no input.
fn attached(command: Vec<String>) -> ExecConfig {
    ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command),
        ..ExecConfig::default()
    }
}

/// Writes the input and reads the output until the program closed it.
async fn converse(
    output: &mut Output,
    mut input: Input,
    stdin: Option<&[u8]>,
    said: &mut Collected,
) -> Result<(), Error> {
    let feeding = async {
        if let Some(bytes) = stdin {
            // A program that does not read its input to the end is no failure.
            let _unread = input.write_all(bytes).await;
            let _closed = input.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        while let Some(message) = output.try_next().await? {
            said.take(message);
        }
        Ok(())
    };
    tokio::select! {
        result = reading => result,
        () = feeding => Ok(()),
    }
}
