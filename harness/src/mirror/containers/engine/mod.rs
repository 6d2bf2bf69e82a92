//! The room that speaks to the machine's container engine: Docker 20.10 or newer. Podman's socket has the same form and is
//! told apart, since a mirror cannot be closed on it.
//!
//! The mirror in containers, `fulldress doctor` and the sweep at a rehearsal's start call it; it tells nobody but its
//! caller. Nothing else in the harness knows the engine's interface. Every call ends: each has a time limit.

mod container;
mod exec;
mod files;
mod image;
mod place;
mod silence;
mod sweep;
mod values;

pub use sweep::{is_stray, run_label};
pub use values::{
    ChangeKind, ContainerFacts, ContainerSpec, EntryKind, ExecCall, FileEntry, Found, Health, ImageFacts,
    Mount, MountFacts, MountSource, NewFile, Ran, ReadFile,
};

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{ClientVersion, Docker};

use self::silence::Silence;
use super::super::MirrorError;

/// The label that everything of a run carries; its value is the path of the run's working folder.
pub const RUN_LABEL: &str = "dev.fulldress.run";
/// An engine that does not answer within this is none.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Limit of a call that does one thing.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// The oldest interface that is spoken: Docker 20.10.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// A connection to the machine's container engine; clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    host: String,
    description: String,
    silence: Arc<Silence>,
}

impl Engine {
    /// Finds the engine: at `DOCKER_HOST`, else at Docker's socket, else at Podman's (the user's, then the system's).
    ///
    /// # Errors
    /// When none answers within 5 s, when it is Podman or older than Docker 20.10, or when `DOCKER_HOST` is another
    /// machine: sockets and bind mounts need an engine on this one.
    pub async fn connect() -> Result<Self, MirrorError> {
        let mut faults = Vec::new();
        for host in place::candidates(|name| std::env::var(name).ok())? {
            match tokio::time::timeout(CONNECT_LIMIT, Self::at(&host)).await {
                Ok(Ok(engine)) => return Ok(engine),
                Ok(Err(fault)) => faults.push(format!("{host}: {fault}")),
                Err(_) => faults.push(format!("{host}: no answer within {} s", CONNECT_LIMIT.as_secs())),
            }
        }
        let denied = faults.iter().any(|fault| fault.contains("ermission denied"));
        let hint = if denied {
            "add yourself to the group of the socket (docker) and log in again"
        } else {
            "install docker.io and start it, or set DOCKER_HOST to its socket"
        };
        let what = if faults.is_empty() { "there is no socket of one".to_owned() } else { faults.join("; ") };
        Err(MirrorError::new(format!("no container engine answers on this machine ({what})"), hint))
    }

    async fn at(host: &str) -> Result<Self, String> {
        let docker = Docker::connect_with_host(host).map_err(|error| words(&error))?;
        docker.ping().await.map_err(|error| words(&error))?;
        let docker = docker.negotiate_version().await.map_err(|error| words(&error))?;
        let spoken = docker.client_version();
        if spoken < OLDEST {
            return Err(format!("it speaks API {spoken}, and {OLDEST} is needed (Docker 20.10 or newer)"));
        }
        let facts = docker.version().await.map_err(|error| words(&error))?;
        let podman = facts.components.iter().flatten().any(|component| component.name.contains("Podman"));
        let version = facts.version.unwrap_or_default();
        // Distributions append their own part, `20.10.24+dfsg1`, that no one needs here.
        let version = version.split('+').next().unwrap_or_default();
        // Tried with 4.3.1. Docker's own resolver stands in every container, answers for its neighbours and asks ours for the rest.
        if podman {
            return Err(format!(
                "it is Podman {version}, where services that ask us for names do not find each other"
            ));
        }
        Ok(Self {
            docker,
            host: host.to_owned(),
            description: format!("Docker {version} (API {spoken})"),
            silence: Arc::default(),
        })
    }

    /// One that nobody hears at its socket any more.
    #[cfg(test)]
    pub(crate) fn gone(socket: &std::path::Path) -> Self {
        drop(std::os::unix::net::UnixListener::bind(socket));
        let host = format!("unix://{}", socket.display());
        let docker = Docker::connect_with_host(&host).unwrap_or_else(|error| panic!("{host}: {error}"));
        Self { docker, host, description: "no engine".to_owned(), silence: Arc::default() }
    }

    /// For people: `Docker 20.10.24 (API 1.41)`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.description.clone()
    }

    /// The interface that is spoken with it is 1 and this.
    #[must_use]
    pub fn api_minor(&self) -> usize {
        self.docker.client_version().minor_version
    }

    /// Value of `DOCKER_HOST` for child processes, so that they speak to the same engine whatever their context says.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// Awaits one call for at most its limit, and says on failure what was tried.
    async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, MirrorError> {
        match self.attended(tokio::time::timeout(limit, call)).await? {
            Ok(result) => result.map_err(|error| failed(what, &error)),
            Err(_) => Err(MirrorError::new(
                format!("the container engine did not {what} within {} s", limit.as_secs()),
                "look at the engine's log, or start it again",
            )),
        }
    }

    /// One call with the usual limit.
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, MirrorError> {
        self.within(CALL_LIMIT, what, call).await
    }
}

/// The sentence for a failed call: what was tried, the engine's words, and the remedy where it is known.
fn failed(what: &str, error: &Error) -> MirrorError {
    let said = words(error);
    let hint = if said.contains("No such image") || said.contains("no such image") {
        "make the mirror's images with `make images`, or name an image that this machine has"
    } else if said.contains("Conflict. The container name") {
        "another container has the name: remove it, or run `fulldress doctor --clean`"
    } else if said.contains("No such container") || said.contains("is not running") {
        "it ended or was removed from outside: look at its log"
    } else if said.contains("port is already allocated") || said.contains("address already in use") {
        "another program took the port that the engine had chosen: start the rehearsal again"
    } else if matches!(error, Error::HyperLegacyError { .. } | Error::SocketNotFoundError(_)) {
        "check that the container engine still runs"
    } else {
        ""
    };
    MirrorError::new(format!("failed to {what}: {said}"), hint)
}

/// The engine's or the kernel's own words, on one line, without the layers that passed them on.
fn words(error: &Error) -> String {
    if let Error::DockerResponseServerError { status_code, message } = error {
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        return if message.is_empty() { format!("status {status_code}") } else { message };
    }
    let mut innermost = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        innermost = inner.to_string();
        source = inner.source();
    }
    innermost
}

/// The status of a refusal; none when the engine did not answer at all.
fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The engine's form of a search by labels.
fn label_filter<'label>(
    labels: impl IntoIterator<Item = (&'label str, &'label str)>,
) -> HashMap<String, Vec<String>> {
    let labels = labels
        .into_iter()
        .map(|(name, value)| if value.is_empty() { name.to_owned() } else { format!("{name}={value}") });
    HashMap::from([("label".to_owned(), labels.collect())])
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::Engine;

    /// What Podman 4.3.1 answers to a question for its version, as far as we read it.
    const PODMAN: &str = r#"{"Components":[{"Name":"Podman Engine","Version":"4.3.1"}],"Version":"4.3.1","ApiVersion":"1.41"}"#;

    #[tokio::test]
    async fn podman_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let asked = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let body = if asked.contains("/version") { PODMAN } else { "OK" };
                let length = body.len();
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json";
                let _gone = write!(&stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
        let error = Engine::at(&format!("unix://{}", socket.display())).await.unwrap_err();
        assert!(error.starts_with("it is Podman 4.3.1, where services"), "{error}");
    }
}
