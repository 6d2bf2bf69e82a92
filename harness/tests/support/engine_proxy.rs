//! The container engine's socket at another path, so that a test may make the engine silent or dead for one rehearsal
//! alone.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

const ENGINE: &str = "/var/run/docker.sock";

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// Connections are taken, and nothing is answered: a stopped engine.
    Silent,
    /// Connections are cut: an engine that died.
    Dead,
}

struct Gate {
    passage: Mutex<Passage>,
    changed: Condvar,
    /// Both ends of every connection, to be cut.
    streams: Mutex<Vec<UnixStream>>,
}

/// A socket that stands for the engine's.
pub(crate) struct EngineProxy {
    gate: Arc<Gate>,
    path: PathBuf,
}

impl EngineProxy {
    /// Listens at a path that is not there yet.
    pub(crate) fn at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let gate = Arc::new(Gate {
            passage: Mutex::new(Passage::Open),
            changed: Condvar::new(),
            streams: Mutex::default(),
        });
        let doorman = Arc::clone(&gate);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = UnixStream::connect(ENGINE) else { continue };
                doorman.admit(&client, &engine);
            }
        });
        Self { gate, path }
    }

    /// Value of `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fall_silent(&self) {
        self.gate.set(Passage::Silent);
    }

    pub(crate) fn answer_again(&self) {
        self.gate.set(Passage::Open);
    }

    pub(crate) fn die(&self) {
        self.gate.set(Passage::Dead);
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.gate.set(Passage::Dead);
    }
}

impl Gate {
    fn set(&self, passage: Passage) {
        *self.passage.lock().unwrap_or_else(PoisonError::into_inner) = passage;
        self.changed.notify_all();
        if passage == Passage::Dead {
            for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                let _gone = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Waits while nothing is answered; what passes then.
    fn passage(&self) -> Passage {
        let passage = self.passage.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(passage, |passage| *passage == Passage::Silent);
        *waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, client: &UnixStream, engine: &UnixStream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.extend([client.try_clone().unwrap(), engine.try_clone().unwrap()]);
        drop(streams);
        for (from, to) in [(client, engine), (engine, client)] {
            let (gate, from, to) = (Arc::clone(self), from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || gate.pass(from, to));
        }
    }

    fn pass(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if self.passage() == Passage::Dead || to.write_all(&buffer[..length]).is_err() {
                let _gone = from.shutdown(Shutdown::Both);
                break;
            }
        }
        // The other direction goes on: a request may end before its answer.
        let _gone = to.shutdown(Shutdown::Write);
    }
}
