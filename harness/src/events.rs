//! The engine's side of the event stream: every room tells what happens through an [`Events`] handle; one
//! consumer task writes `events.jsonl`, folds the evidence and shows progress.

use std::io::Write;
use std::path::{Path, PathBuf};

use fulldress_reports::event::{Event, Happening};
use fulldress_reports::evidence::Evidence;
use fulldress_workloads::clock::Clock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::progress::Progress;

/// A handle that events are told through; clones tell the same stream.
#[derive(Debug, Clone)]
pub struct Events {
    clock: Clock,
    sender: UnboundedSender<Event>,
}

impl Events {
    /// Tells that something happened now.
    pub fn tell(&self, what: Happening) {
        // Without a consumer there is nobody left to tell, and nothing to do about it.
        let _ = self.sender.send(Event { at_us: self.clock.now_us(), what });
    }

    /// Tells that something happened at an instant of the clock.
    pub fn tell_at(&self, at_us: u64, what: Happening) {
        let _ = self.sender.send(Event { at_us, what });
    }

    /// Tells that a stage outside the phases begins.
    pub fn stage(&self, text: impl Into<String>) {
        self.tell(Happening::Stage(text.into()));
    }

    /// Tells something that a reader must know about the rehearsal itself.
    pub fn notice(&self, text: impl Into<String>) {
        self.tell(Happening::Notice(text.into()));
    }

    /// The rehearsal's clock.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }
}

/// The consumer: ends when every [`Events`] handle is gone.
pub struct Consumer {
    task: JoinHandle<(Evidence, Option<std::io::Error>)>,
}

impl Consumer {
    /// Starts a stream whose events go to `events.jsonl` in a folder and to `progress`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn start(clock: Clock, folder: &Path, progress: Progress) -> std::io::Result<(Events, Self)> {
        let file = std::fs::File::create(folder.join("events.jsonl"))?;
        let (sender, receiver) = unbounded_channel();
        let task = tokio::spawn(consume(receiver, file, progress));
        Ok((Events { clock, sender }, Self { task }))
    }

    /// Waits for the stream's end and gives the folded evidence; the error is the first that `events.jsonl` met.
    pub async fn finish(self) -> (Evidence, Option<std::io::Error>) {
        self.task.await.unwrap_or_else(|error| (Evidence::default(), Some(std::io::Error::other(error))))
    }
}

async fn consume(
    mut receiver: UnboundedReceiver<Event>,
    mut file: std::fs::File,
    mut progress: Progress,
) -> (Evidence, Option<std::io::Error>) {
    let mut evidence = Evidence::default();
    let mut failed = None;
    while let Some(event) = receiver.recv().await {
        // Whole lines in one write: a reader of a torn file loses the last line only.
        let written = serde_json::to_vec(&event).map_err(std::io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            failed.get_or_insert(error);
        }
        progress.show(&event);
        evidence.apply(&event);
    }
    progress.finish();
    (evidence, failed)
}

/// Reads `events.jsonl` of a bundle; a torn last line is left out.
///
/// # Errors
/// When the file cannot be read or a line in the middle is no event.
pub fn read(folder: &Path) -> Result<Vec<Event>, String> {
    let path: PathBuf = folder.join("events.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), index + 1))
        })
        .collect()
}
