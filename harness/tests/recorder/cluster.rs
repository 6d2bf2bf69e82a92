//! A cluster of PostgreSQL of the tests' own, with the recorder's settings.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use fulldress::recorder::settings;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

pub(crate) fn command(program: &str) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the tests bring their own PostgreSQL and psql")]
    std::process::Command::new(program)
}

fn as_postgres(program: &str) -> std::process::Command {
    let mut command = command("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]);
    command.arg(format!("{BIN}/{program}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A cluster in a temporary folder. It dies with the thread that started it, so it has a thread of its own.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    orders: mpsc::Sender<Order>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

enum Order {
    Restart(mpsc::Sender<()>),
    Stop,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("fulldress-recorder-").tempdir().unwrap();
        let owned = command("chown").arg("postgres").arg(folder.path()).status().unwrap();
        assert!(owned.success());
        let data = folder.path().join("data");
        let made = as_postgres("initdb")
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success(), "initdb");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        writeln!(file, "port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\nfsync=off")
            .unwrap();
        writeln!(file, "max_prepared_transactions=5\nautovacuum=off").unwrap();
        for (name, value) in settings::cluster_settings() {
            writeln!(file, "{name} = '{value}'").unwrap();
        }
        drop(file);
        // The package comes from an address of its own on the loopback network.
        std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n").unwrap();
        let (orders, inbox) = mpsc::channel();
        let folder_of_data = data.clone();
        let thread = std::thread::spawn(move || keep_running(&folder_of_data, &inbox));
        Self { port, data, orders, thread: Some(thread), _folder: folder }
    }

    /// One cluster for all tests that run at the same time; the last one stops it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    pub(crate) fn restart(&self) {
        let (done, is_done) = mpsc::channel();
        self.orders.send(Order::Restart(done)).unwrap();
        is_done.recv().unwrap();
    }

    pub(crate) fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(role)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging()
    }
}

fn keep_running(data: &Path, inbox: &mpsc::Receiver<Order>) {
    let run = || -> Child { as_postgres("postgres").arg("-D").arg(data).spawn().unwrap() };
    let stop = |mut server: Child| {
        // SIGINT is PostgreSQL's fast shutdown.
        let sent = command("kill").args(["-INT", &server.id().to_string()]).status().unwrap();
        assert!(sent.success());
        server.wait().unwrap();
    };
    let mut server = run();
    while let Ok(Order::Restart(done)) = inbox.recv() {
        stop(server);
        server = run();
        done.send(()).unwrap();
    }
    stop(server);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
