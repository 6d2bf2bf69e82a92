//! The only ways out of a sandbox, whose network is empty: Unix sockets that lead to the mirror.
//!
//! The step runner starts the relays of the host's side; [`sandbox_init`] is the first process inside, where it
//! turns the sockets into the addresses that the inventory's host names resolve to.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream as InnerStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as InnerSocket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::process::{run_in_foreground, shell_code};

/// The name that libpq looks for in its socket folder.
pub const POSTGRES_SOCKET: &str = ".s.PGSQL.5432";
/// Longest path of a Unix socket, bytes: `sun_path` less its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a relay does not listen.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The kernel has no room for it.
    #[error(
        "listen on {path}: the path has {length} bytes and a socket's may have 107; set FULLDRESS_STATE to a shorter folder"
    )]
    PathTooLong {
        /// The socket.
        path: String,
        /// Its length, bytes.
        length: usize,
    },
    /// The kernel refused.
    #[error("listen on {path}: {source}; check that the folder exists and is ours")]
    Listen {
        /// The socket.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Where a relay leads; copies share it, so that a service that came back on another port is found again.
#[derive(Debug, Clone)]
pub struct Target(Arc<RwLock<SocketAddr>>);

impl Target {
    /// A target at an address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(Arc::new(RwLock::new(address)))
    }

    /// Where new connections go from now on.
    pub fn set(&self, address: SocketAddr) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Where new connections go.
    #[must_use]
    pub fn get(&self) -> SocketAddr {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much went through a relay.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    refused: AtomicU64,
}

/// One Unix socket of the host's side. Stopping or dropping it cuts its connections.
#[derive(Debug)]
pub struct Relay {
    path: PathBuf,
    target: Target,
    counters: Arc<Counters>,
    cut: Arc<Notify>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Leads to PostgreSQL from an address of its own (such as 127.0.0.9), by which the server's `client_addr` tells
    /// the package's sessions, whatever role and application name they use. The socket is `folder/.s.PGSQL.5432`.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn to_postgres(folder: &Path, target: Target, source: IpAddr) -> Result<Self, RelayError> {
        Self::start(folder.join(POSTGRES_SOCKET), target, Some(source))
    }

    /// Leads to a service or a stub of the mirror. The socket is named by [`http_socket_name`].
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn to_service(folder: &Path, host: &str, port: u16, target: Target) -> Result<Self, RelayError> {
        Self::start(folder.join(http_socket_name(host, port)), target, None)
    }

    fn start(path: PathBuf, target: Target, source: Option<IpAddr>) -> Result<Self, RelayError> {
        let listener = listen(&path)?;
        let counters = Arc::new(Counters::default());
        let cut = Arc::new(Notify::new());
        let accepting =
            tokio::spawn(accept(listener, target.clone(), source, Arc::clone(&counters), Arc::clone(&cut)));
        Ok(Self { path, target, counters, cut, accepting })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Connections since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Connections whose target did not answer.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }

    /// Cuts every connection that is open, and goes on listening.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// Stops listening and cuts every connection; returns when they are cut.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // It ends by the abort; there is no other end to report.
        let _aborted = (&mut self.accepting).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        // Its folder is deleted with the run; a socket that is gone already is as good.
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// `partner.example_8080.sock`: one socket for each host and port of the inventory.
#[must_use]
pub fn http_socket_name(host: &str, port: u16) -> String {
    format!("{host}_{port}.sock")
}

/// Listens on a socket that any user may connect to; the folder decides who can reach it.
pub(super) fn listen(path: &Path) -> Result<UnixListener, RelayError> {
    let length = path.as_os_str().len();
    let name = path.display().to_string();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(RelayError::PathTooLong { path: name, length });
    }
    let bound = UnixListener::bind(path).and_then(|listener| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(listener)
    });
    bound.map_err(|source| RelayError::Listen { path: name, source })
}

/// Owns every connection, so that its end is theirs.
async fn accept(
    listener: UnixListener,
    target: Target,
    source: Option<IpAddr>,
    counters: Arc<Counters>,
    cut: Arc<Notify>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((inside, _)) = accepted else {
                    // Out of file descriptors: the next connection may find one.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(pipe(inside, target.get(), source, Open::count(Arc::clone(&counters))));
            }
            Some(_) = connections.join_next() => {}
            () = cut.notified() => connections.shutdown().await,
        }
    }
}

/// Counts a connection as open for as long as it lives, also when it is cut.
struct Open(Arc<Counters>);

impl Open {
    fn count(counters: Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn pipe(mut inside: UnixStream, target: SocketAddr, source: Option<IpAddr>, open: Open) {
    match connect(target, source).await {
        Ok(mut outside) => {
            // A side that breaks off is the traffic's affair, and the other side sees it.
            let _broken_off = copy_bidirectional(&mut inside, &mut outside).await;
        }
        Err(_) => {
            open.0.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    // Replies of a query protocol are small and awaited: never held back to be sent together.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One address inside the sandbox and the Unix socket behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// What the script connects to.
    pub address: SocketAddr,
    /// What answers.
    pub socket: PathBuf,
}

impl Mapping {
    /// The form on the command line, `127.0.1.1:8080=/run/fulldress/http/partner.example_8080.sock`.
    #[must_use]
    pub fn to_argument(&self) -> OsString {
        let mut argument = OsString::from(format!("{}=", self.address));
        argument.push(&self.socket);
        argument
    }

    fn parse(argument: &OsStr) -> Option<Self> {
        let (address, socket) = argument.to_str()?.split_once('=')?;
        Some(Self { address: address.parse().ok()?, socket: PathBuf::from(socket) })
    }
}

/// `sandbox-init [--map ADDRESS=SOCKET]… -- COMMAND [ARG]…`: the first process of ours in a sandbox. Listens on the
/// addresses, runs the command with our streams and ends with its code; the sandbox ends with us.
#[must_use]
pub fn sandbox_init(args: &[OsString]) -> ExitCode {
    match start_inside(args) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err((code, reason)) => {
            eprintln!("fulldress sandbox: failed to {reason}");
            ExitCode::from(code)
        }
    }
}

/// A shell's exit codes for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

fn start_inside(args: &[OsString]) -> Result<i32, (u8, String)> {
    let broken = |reason: String| (NOT_RUNNABLE, reason);
    let mut rest = args;
    while let [flag, mapping, tail @ ..] = rest {
        if flag != "--map" {
            break;
        }
        let mapping =
            Mapping::parse(mapping).ok_or_else(|| broken(format!("read the mapping {mapping:?}")))?;
        let listener = TcpListener::bind(mapping.address)
            .map_err(|error| broken(format!("listen on {} inside the sandbox: {error}", mapping.address)))?;
        std::thread::spawn(move || serve_inside(&listener, &mapping.socket));
        rest = tail;
    }
    let [separator, program, command_args @ ..] = rest else {
        return Err(broken("find the command: it comes after `--`".to_owned()));
    };
    if separator != "--" {
        return Err(broken(format!("read the option {separator:?}")));
    }
    let status = run_in_foreground(program, command_args).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
        (code, format!("run {}: {error}", program.to_string_lossy()))
    })?;
    Ok(shell_code(status))
}

fn serve_inside(listener: &TcpListener, socket: &Path) {
    for stream in listener.incoming().flatten() {
        let socket = socket.to_owned();
        std::thread::spawn(move || join(&stream, &socket));
    }
}

/// Copies both ways until both have ended; a target that is not there resets the connection, as a dead server does.
fn join(stream: &InnerStream, socket: &Path) {
    let Ok(outside) = InnerSocket::connect(socket) else { return };
    let (Ok(stream_back), Ok(outside_back)) = (stream.try_clone(), outside.try_clone()) else { return };
    let back = std::thread::spawn(move || {
        copy(&outside_back, &stream_back);
        let _closed = stream_back.shutdown(Shutdown::Write);
    });
    copy(stream, &outside);
    let _closed = outside.shutdown(Shutdown::Write);
    // The thread only copies; it cannot panic.
    let _ended = back.join();
}

/// `io::copy` between sockets, byte by byte as they come.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UnixStream};

    use super::{Mapping, Relay, RelayError, Target};

    #[test]
    fn a_mapping_reads_back() {
        let mapping = Mapping {
            address: "127.0.1.1:8080".parse().unwrap(),
            socket: PathBuf::from("/run/fulldress/http/partner.example_8080.sock"),
        };
        assert_eq!(Mapping::parse(&mapping.to_argument()), Some(mapping));
        assert_eq!(Mapping::parse(OsStr::new("127.0.1.1=/x")), None);
    }

    #[tokio::test]
    async fn a_target_may_move_and_connections_come_from_the_source_address() {
        let folder = tempfile::tempdir().unwrap();
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::new(first.local_addr().unwrap());
        let source = Ipv4Addr::new(127, 0, 0, 9).into();
        let relay = Relay::to_postgres(folder.path(), target.clone(), source).unwrap();

        let _one = UnixStream::connect(relay.path()).await.unwrap();
        let (_held, peer) = first.accept().await.unwrap();
        assert_eq!(peer.ip(), source);

        target.set(second.local_addr().unwrap());
        let mut two = UnixStream::connect(relay.path()).await.unwrap();
        let (mut served, _) = second.accept().await.unwrap();
        two.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        served.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, relay.accepted(), relay.open()), (b"ping", 2, 2));

        relay.stop().await;
        assert_eq!(two.read(&mut got).await.unwrap_or(0), 0, "the connection outlived its relay");
    }

    #[tokio::test]
    async fn a_dead_target_closes_the_connection_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let port_of_nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let relay =
            Relay::to_service(folder.path(), "partner.example", 80, Target::new(port_of_nobody)).unwrap();
        let mut client = UnixStream::connect(relay.path()).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(relay.refused(), 1);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_says_so() {
        let folder = PathBuf::from("/tmp").join("x".repeat(120));
        let error =
            Relay::to_service(&folder, "a", 1, Target::new("127.0.0.1:1".parse().unwrap())).unwrap_err();
        assert!(matches!(error, RelayError::PathTooLong { .. }), "{error}");
    }
}
