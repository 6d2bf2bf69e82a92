//! The services of the local mirror: child processes with a health endpoint each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fulldress_workloads::clock::Clock;
use tokio::sync::Mutex;

use super::MirrorError;
use super::cluster::{free_port, has_ended};
use super::services::{ServiceState, Services, find};
use crate::http;
use crate::plan::Service;
use crate::process::{Child, Launch, RunFolder, Sink};

/// Pause between two looks at a starting service.
const HEALTH_PAUSE: Duration = Duration::from_millis(10);
/// A service has this long to drain after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A service's state.
struct Running {
    version: String,
    child: Option<Child>,
}

impl Running {
    async fn is_active(&mut self) -> bool {
        match self.child.as_mut() {
            Some(child) => !has_ended(child).await,
            None => false,
        }
    }
}

/// All services of a local mirror.
pub struct Processes {
    specs: Vec<Service>,
    ports: BTreeMap<String, u16>,
    /// Values of placeholders beside those of the services themselves.
    values: BTreeMap<String, String>,
    logs: PathBuf,
    start_limit: Duration,
    run: Arc<RunFolder>,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Processes {
    /// Chooses ports; starts nothing.
    ///
    /// # Errors
    /// When a port that the plan asks for is taken.
    pub fn new(
        specs: Vec<Service>,
        values: BTreeMap<String, String>,
        logs: PathBuf,
        start_limit: Duration,
        run: Arc<RunFolder>,
        keep_ports: bool,
    ) -> Result<Self, MirrorError> {
        let mut ports = BTreeMap::new();
        for spec in &specs {
            let port = match spec.port.filter(|_| keep_ports) {
                Some(port) => claim(port, &spec.name)?,
                None => free_port()?,
            };
            ports.insert(spec.name.clone(), port);
        }
        let running = specs
            .iter()
            .map(|spec| (spec.name.clone(), Running { version: spec.version.clone(), child: None }))
            .collect();
        Ok(Self { specs, ports, values, logs, start_limit, run, running: Mutex::new(running) })
    }

    /// Stops all services, in reverse order.
    pub async fn stop_all(&self) {
        for spec in self.specs.iter().rev() {
            self.end(&spec.name).await;
        }
    }

    /// Stops every running service that has a database URL, and names them in the order to start them again.
    pub async fn stop_database_users(&self) -> Vec<String> {
        let mut stopped = Vec::new();
        for spec in &self.specs {
            let mut texts = spec.command.iter().chain(spec.environment.values());
            if texts.any(|text| text.contains("{database_url:")) && self.is_active(&spec.name).await {
                stopped.push(spec.name.clone());
            }
        }
        for name in stopped.iter().rev() {
            self.end(name).await;
        }
        stopped
    }

    async fn is_active(&self, name: &str) -> bool {
        match self.running.lock().await.get_mut(name) {
            Some(state) => state.is_active().await,
            None => false,
        }
    }

    /// Stops a service: SIGTERM, then SIGKILL after a grace. Nothing happens when it does not run.
    async fn end(&self, name: &str) {
        let mut running = self.running.lock().await;
        if let Some(mut child) = running.get_mut(name).and_then(|state| state.child.take()) {
            // It is gone either way; its log says how it ended.
            let _ = child.stop(STOP_GRACE).await;
        }
    }

    /// Starts a service's process and waits until it is healthy; `listeners` sockets listen on its port then.
    async fn launch(&self, spec: &Service, version: &str, listeners: usize) -> Result<Child, MirrorError> {
        let name = &spec.name;
        let log = self.logs.join(format!("{name}.log"));
        let command: Vec<String> = spec.command.iter().map(|part| self.fill(part, spec, version)).collect();
        let mut launch = Launch::new(beside_us(&command[0])).args(&command[1..]).recorded_in(&self.run);
        for (variable, value) in &spec.environment {
            launch = launch.env(variable, self.fill(value, spec, version));
        }
        launch.stdout = Sink::File(log.clone());
        launch.stderr = Sink::File(log.clone());
        let started = launch.start().await;
        let mut child =
            started.map_err(|error| MirrorError::new(format!("service {name}: failed to {error}"), ""))?;
        let (url, port) = ((self as &dyn Services).health_url(name)?, self.port(name)?);
        let clock = Clock::start();
        loop {
            let fault = match http::get(&url, Duration::from_secs(1)).await {
                // Beside the old process, any of the two may have answered.
                Ok(_) if listeners > 1 && listeners_on(port) < listeners => {
                    "it does not listen beside the process before it".to_owned()
                }
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => format!("its health endpoint answered with status {}", answer.status),
                Err(error) => error.to_string(),
            };
            if has_ended(&mut child).await {
                return Err(MirrorError::with_log(&format!("service {name} ended while it started"), log));
            }
            if clock.now_us() > u64::try_from(self.start_limit.as_micros()).unwrap_or(u64::MAX) {
                // It failed already; how it ends adds nothing.
                let _ = child.stop(STOP_GRACE).await;
                let what = format!(
                    "service {name} was not healthy within {} s ({fault})",
                    self.start_limit.as_secs()
                );
                return Err(MirrorError::with_log(&what, log));
            }
            tokio::time::sleep(HEALTH_PAUSE).await;
        }
        Ok(child)
    }

    fn fill(&self, text: &str, spec: &Service, version: &str) -> String {
        let mut text = (self as &dyn Services).fill_urls(text).replace("{version}", version);
        if let Some(port) = self.ports.get(&spec.name) {
            text = text.replace("{port}", &port.to_string());
        }
        for (name, value) in &self.values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }
}

#[async_trait]
impl Services for Processes {
    fn specs(&self) -> &[Service] {
        &self.specs
    }

    fn port(&self, name: &str) -> Result<u16, MirrorError> {
        find(&self.specs, name)?;
        self.ports.get(name).copied().ok_or_else(|| unknown(name))
    }

    async fn start(&self, name: &str) -> Result<(), MirrorError> {
        let spec = find(&self.specs, name)?;
        let mut running = self.running.lock().await;
        let state = running.get_mut(name).ok_or_else(|| unknown(name))?;
        if state.is_active().await {
            return Ok(());
        }
        state.child = Some(self.launch(spec, &state.version, 1).await?);
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), MirrorError> {
        self.end(name).await;
        Ok(())
    }

    async fn deploy(&self, name: &str, version: &str) -> Result<(), MirrorError> {
        let spec = find(&self.specs, name)?;
        if spec.overlap {
            let mut running = self.running.lock().await;
            let state = running.get_mut(name).ok_or_else(|| unknown(name))?;
            if state.is_active().await {
                let new = self.launch(spec, version, 2).await?;
                version.clone_into(&mut state.version);
                if let Some(mut old) = state.child.replace(new) {
                    // It is gone either way; its log says how it ended.
                    let _ = old.stop(STOP_GRACE).await;
                }
                return Ok(());
            }
        }
        self.end(name).await;
        if let Some(state) = self.running.lock().await.get_mut(name) {
            version.clone_into(&mut state.version);
        }
        self.start(name).await
    }

    async fn state(&self, name: &str) -> Result<ServiceState, MirrorError> {
        let mut running = self.running.lock().await;
        let state = running.get_mut(name).ok_or_else(|| unknown(name))?;
        let active = state.is_active().await;
        Ok(ServiceState { version: state.version.clone(), active })
    }
}

fn unknown(name: &str) -> MirrorError {
    MirrorError::new(format!("the mirror has no service `{name}`"), "name one of [[mirror.service]]")
}

/// How many sockets listen on a port of 127.0.0.1. Source of the columns: proc(5), `/proc/net/tcp`.
fn listeners_on(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let (address, listening) = (format!("0100007F:{port:04X}"), "0A");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1) == Some(&address.as_str()) && row.get(3) == Some(&listening)).count()
}

/// Refuses a port that something else listens on: a clear sentence now instead of a service that dies later.
fn claim(port: u16, service: &str) -> Result<u16, MirrorError> {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(port),
        Err(error) => Err(MirrorError::new(
            format!("port {port} of service {service} cannot be used: {error}"),
            "stop what listens there, or leave `port` out so that a free one is chosen",
        )),
    }
}

/// A program that stands beside our own, else the name for a search on `PATH`: a build's own services are found
/// without being installed.
#[must_use]
pub fn beside_us(program: &str) -> PathBuf {
    let sibling = std::env::current_exe().ok().and_then(|ours| Some(ours.parent()?.join(program)));
    match sibling {
        Some(sibling) if !program.contains('/') && sibling.is_file() => sibling,
        _ => PathBuf::from(program),
    }
}
