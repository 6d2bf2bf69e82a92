//! The closed-model pump, seen from the harness: a pipe to the worker that lets Goose drive the users.
//!
//! `traffic` attaches it to a worker that the harness started; this crate starts no process. The worker's end is
//! [`crate::worker`]. A worker that ends early is a fact about the driver, and what it reported so far stays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{LedgerEntry, SlowRequest};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::recording::{IntervalRecord, Live, Totals};
use crate::wire::{Control, Hello, Report};

/// What the worker reported.
#[derive(Debug, Default)]
pub(crate) struct UsersResult {
    pub(crate) intervals: Vec<IntervalRecord>,
    pub(crate) ledger: Vec<LedgerEntry>,
    pub(crate) slow: Vec<SlowRequest>,
    pub(crate) totals: Totals,
    pub(crate) cpu_us: u64,
    /// Why the worker ended before it was told to, if it did.
    pub(crate) lost: Option<String>,
}

#[derive(Debug, Default)]
struct Collected {
    result: UsersResult,
    live: Live,
    done: bool,
}

/// The pipe to a worker.
#[derive(Debug)]
pub(crate) struct UsersPump {
    control: mpsc::UnboundedSender<Control>,
    collected: Arc<Mutex<Collected>>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl UsersPump {
    /// Sends the first line over a worker's pipe and reads its reports from then on.
    pub(crate) fn attach<R, W>(reader: R, writer: W, hello: &Hello) -> serde_json::Result<Self>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let first = serde_json::to_string(hello)?;
        let (control, lines) = mpsc::unbounded_channel();
        let collected = Arc::new(Mutex::new(Collected::default()));
        let reading = tokio::spawn(read(reader, Arc::clone(&collected)));
        let writing = tokio::spawn(write(writer, first, lines));
        Ok(Self { control, collected, reading, writing })
    }

    /// Announces a phase.
    pub(crate) fn enter(&self, phase: Phase, from_us: u64) {
        // A worker that has gone is noticed by the reading side, which says why.
        drop(self.control.send(Control::Enter { phase, from_us }));
    }

    /// Tells the worker to stop.
    pub(crate) fn stop(&self) {
        drop(self.control.send(Control::Stop { stop: true }));
    }

    /// The latest live figures.
    pub(crate) fn live(&self) -> Live {
        lock(&self.collected).live
    }

    /// Waits for the worker's last line, or until `patience` has ended.
    pub(crate) async fn finish(mut self, patience: impl Future<Output = ()>) -> UsersResult {
        tokio::select! {
            _ = &mut self.reading => {}
            () = patience => {}
        }
        self.reading.abort();
        self.writing.abort();
        let mut collected = lock(&self.collected);
        if !collected.done && collected.result.lost.is_none() {
            collected.result.lost = Some("it did not end in time after the stop".to_owned());
        }
        if !collected.done {
            collected.result.totals = collected.live.totals;
        }
        std::mem::take(&mut collected.result)
    }
}

fn lock(collected: &Mutex<Collected>) -> MutexGuard<'_, Collected> {
    // Every change is one assignment or push, so a panic elsewhere leaves it valid.
    collected.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    first: String,
    mut lines: mpsc::UnboundedReceiver<Control>,
) {
    let mut line = first;
    loop {
        line.push('\n');
        if writer.write_all(line.as_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        let Some(control) = lines.recv().await else {
            // The harness let go of the traffic: the end of its input tells the worker.
            drop(writer.shutdown().await);
            return;
        };
        // A phase and a number: there is nothing in it that JSON cannot say.
        line = serde_json::to_string(&control).unwrap_or_default();
    }
}

async fn read<R: AsyncRead + Unpin>(reader: R, collected: Arc<Mutex<Collected>>) {
    let mut lines = BufReader::new(reader).lines();
    let lost = loop {
        match lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(report) => take(&mut lock(&collected), report),
                Err(error) => break format!("it sent a line that is no report: {error}"),
            },
            Ok(None) => break "it closed its output before its last line".to_owned(),
            Err(error) => break format!("its output cannot be read: {error}"),
        }
        if lock(&collected).done {
            return;
        }
    };
    let mut collected = lock(&collected);
    // What the worker itself said is closer to the cause.
    collected.result.lost.get_or_insert(lost);
}

fn take(collected: &mut Collected, report: Report) {
    match report {
        Report::Interval(interval) => collected.result.intervals.push(interval),
        Report::Ledger(entry) => collected.result.ledger.push(entry),
        Report::Slow(request) => collected.result.slow.push(request),
        Report::Live(live) => collected.live = live,
        Report::Failed(why) => collected.result.lost = Some(why),
        Report::Done { totals, cpu_us } => {
            collected.result.totals = totals;
            collected.result.cpu_us = cpu_us;
            collected.done = true;
        }
    }
}
