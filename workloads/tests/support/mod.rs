//! A small real HTTP server on loopback whose answers a test decides, and short cuts around workloads.

#![expect(dead_code, unreachable_pub, reason = "each test binary uses its part of this module")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that fails")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fulldress_reports::latency::standard_histogram;
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::ErrorKind;
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;
use fulldress_workloads::recording::IntervalRecord;
use fulldress_workloads::traffic::{Traffic, TrafficPlan};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

/// What the server does with a request.
pub enum Reply {
    /// Status and body.
    Answer(u16, String),
    /// Status 200, one header, and body.
    With(&'static str, String, String),
    /// Breaks the connection without an answer.
    Break,
    /// Never answers.
    Hang,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub key: Option<String>,
    pub body: String,
}

/// A running server; ends when dropped.
pub struct Server {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// While true, requests are read and wait.
    pub frozen: watch::Sender<bool>,
    _runtime: Runtime,
}

struct Runtime(Option<tokio::runtime::Runtime>);

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// A server on a free port, in a runtime of its own.
    pub fn start(decide: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (frozen, thaw) = watch::channel(false);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (log, decide) = (Arc::clone(&seen), Arc::new(decide));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, decide, thaw) = (Arc::clone(&log), Arc::clone(&decide), thaw.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, Arc::clone(&log), Arc::clone(&decide), thaw.clone())
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { url, seen, frozen, _runtime: Runtime(Some(runtime)) }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Blocks the server's only thread, so that nothing is accepted, read or written meanwhile; gives the instants between
    /// which it was blocked, as that thread read them.
    pub async fn freeze(&self, clock: Clock, length: Duration) -> (u64, u64) {
        let runtime = self._runtime.0.as_ref().unwrap();
        let blocked = runtime.spawn(async move {
            let from_us = clock.now_us();
            std::thread::sleep(length);
            (from_us, clock.now_us())
        });
        blocked.await.unwrap()
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    log: Arc<Mutex<Vec<Seen>>>,
    decide: Arc<impl Fn(&Seen) -> Reply>,
    mut thaw: watch::Receiver<bool>,
) -> Result<Response<Full<Bytes>>, Broken> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        key: head.headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().unwrap().push(seen.clone());
    thaw.wait_for(|frozen| !frozen).await.map_err(|_| Broken)?;
    match decide(&seen) {
        Reply::Answer(status, body) => {
            Ok(Response::builder().status(status).body(Full::new(body.into())).unwrap())
        }
        Reply::With(name, value, body) => {
            Ok(Response::builder().header(name, value).body(Full::new(body.into())).unwrap())
        }
        Reply::Break => Err(Broken),
        Reply::Hang => std::future::pending().await,
    }
}

/// Makes hyper drop the connection.
#[derive(Debug, thiserror::Error)]
#[error("broken on purpose")]
pub struct Broken;

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// An address where nobody listens.
pub fn refused_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A workload from its scenarios.
pub fn workload(scenarios: &str) -> Workload {
    let source = format!("schema = \"fulldress/workload/1\"\nname = \"test\"\n{scenarios}");
    Workload::parse("test.toml", &source).unwrap()
}

/// A scenario of arrivals with these settings and GET steps on these paths, which are the routes too.
pub fn arrivals(settings: &str, paths: &[&str]) -> Workload {
    let mut text = format!("[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\n{settings}\n");
    for path in paths {
        text.push_str(&format!(
            "[[scenario.step]]\nroute = \"{path}\"\nmethod = \"GET\"\npath = \"{path}\"\nexpect = {{ json = {{ \"/id\" = \"present\" }} }}\n"
        ));
    }
    workload(&text)
}

/// A workload in a folder of its own, with a file beside it; a feeder's file is read when the traffic starts.
pub fn workload_beside(name: &str, file: &str, scenarios: &str) -> (Workload, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), file).unwrap();
    let path = folder.path().join("workload.toml");
    std::fs::write(&path, format!("schema = \"fulldress/workload/1\"\nname = \"test\"\n{scenarios}"))
        .unwrap();
    (Workload::load(&path).unwrap(), folder)
}

/// A scenario of arrivals that only writes orders.
pub fn orders(settings: &str) -> Workload {
    workload(&format!(
        r#"
        [[scenario]]
        name = "a"
        model = "arrivals"
        {settings}
        [[scenario.step]]
        route = "POST /orders"
        method = "POST"
        path = "/orders"
        headers = {{ Idempotency-Key = "{{{{ key }}}}" }}
        body = '{{"customer_id": {{{{ random(1, 9) }}}}}}'
        expect = {{ status = 201 }}
        acknowledged = {{ key = "{{{{ key }}}}", value = ["/total_cents"], read_back = "/orders/by-key/{{{{ key }}}}" }}
        "#
    ))
}

/// Traffic without users.
pub async fn start(workload: Workload, base_url: &str, clock: Clock) -> Traffic {
    let plan = TrafficPlan {
        workload,
        base_url: Some(base_url.to_owned()),
        databases: BTreeMap::new(),
        clock,
        seed: 1,
        users_stream: None,
    };
    Traffic::start(plan).await.unwrap()
}

/// Sums over records.
#[derive(Debug)]
pub struct Sums {
    pub planned: u64,
    pub sent: u64,
    pub errors: BTreeMap<ErrorKind, u64>,
    pub response: Histogram<u64>,
    pub service: Histogram<u64>,
}

/// Sums over the records that `wanted` takes.
pub fn sums(intervals: &[IntervalRecord], wanted: impl Fn(&IntervalRecord) -> bool) -> Sums {
    let mut sums = Sums {
        planned: 0,
        sent: 0,
        errors: BTreeMap::new(),
        response: standard_histogram(),
        service: standard_histogram(),
    };
    for record in intervals.iter().filter(|record| wanted(record)) {
        sums.planned += record.planned;
        sums.sent += record.sent;
        for (kind, count) in &record.errors {
            *sums.errors.entry(*kind).or_default() += count;
        }
        sums.response.add(record.response.unpack().unwrap()).unwrap();
        sums.service.add(record.service.unpack().unwrap()).unwrap();
    }
    sums
}

/// Sums over one phase.
pub fn in_phase(intervals: &[IntervalRecord], phase: Phase) -> Sums {
    sums(intervals, |record| record.phase == phase)
}
