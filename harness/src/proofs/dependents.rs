//! Watches the dependent services' health endpoints through all phases and measures their outages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fulldress_reports::evidence::{DependentEvidence, Outage};
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use tokio::task::JoinHandle;

use crate::http;

/// Pause between two probes of a service, microseconds.
const PROBE_INTERVAL_US: u64 = 50_000;
/// Pause between two looks at how many probes there were.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A probe that takes longer counts as an outage.
const PROBE_LIMIT: Duration = Duration::from_millis(1000);

/// The watch over all dependents.
pub struct Watch {
    tasks: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<DependentEvidence>>,
    phase: tokio::sync::watch::Sender<Phase>,
}

impl Watch {
    /// Starts watching; `services` are names and health URLs.
    #[must_use]
    pub fn start(services: Vec<(String, String)>, clock: Clock) -> Self {
        let watched = services.iter().map(|(name, _)| name.clone()).collect();
        let seen = Arc::new(Mutex::new(DependentEvidence { watched, ..Default::default() }));
        let (phase, current) = tokio::sync::watch::channel(Phase::Warmup);
        let tasks = services
            .into_iter()
            .map(|(name, url)| tokio::spawn(watch(name, url, clock, Arc::clone(&seen), current.clone())))
            .collect();
        Self { tasks, seen, phase }
    }

    /// Outages that begin from now on belong to this phase.
    pub fn enter_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Stops watching once every service was asked again, so that the end of an outage is seen.
    pub async fn stop_after_next(self) -> DependentEvidence {
        // The probe that is under way may have begun before.
        let enough = lock(&self.seen).probes + 2 * self.tasks.len() as u64;
        while lock(&self.seen).probes < enough {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.stop()
    }

    /// Stops watching; an outage that still lasts ends now.
    pub fn stop(self) -> DependentEvidence {
        for task in &self.tasks {
            task.abort();
        }
        lock(&self.seen).clone()
    }
}

fn lock(seen: &Mutex<DependentEvidence>) -> std::sync::MutexGuard<'_, DependentEvidence> {
    // Evidence that a panicking task left half-written is still evidence: each change is one assignment.
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn watch(
    service: String,
    url: String,
    clock: Clock,
    seen: Arc<Mutex<DependentEvidence>>,
    phase: tokio::sync::watch::Receiver<Phase>,
) {
    let mut healthy_until_us = clock.now_us();
    let mut open: Option<usize> = None;
    let mut next_us = clock.now_us();
    loop {
        let fault = probe(&url).await;
        let now_us = clock.now_us();
        {
            let mut seen = lock(&seen);
            seen.probes += 1;
            match (fault, open) {
                (None, _) => {
                    // The outage's end is the first healthy answer.
                    if let Some(index) = open.take() {
                        seen.outages[index].end_us = now_us;
                    }
                    healthy_until_us = now_us;
                }
                (Some(_), Some(index)) => seen.outages[index].end_us = now_us,
                (Some(reason), None) => {
                    open = Some(seen.outages.len());
                    seen.outages.push(Outage {
                        service: service.clone(),
                        phase: *phase.borrow(),
                        start_us: healthy_until_us,
                        end_us: now_us,
                        reason,
                    });
                }
            }
        }
        next_us = (next_us + PROBE_INTERVAL_US).max(now_us);
        clock.sleep_until(next_us).await;
    }
}

/// Why the service is not healthy; `None` when it is.
async fn probe(url: &str) -> Option<String> {
    match http::get(url, PROBE_LIMIT).await {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => {
            let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            Some(format!("status {}: {body}", answer.status))
        }
        Err(error) => Some(error.to_string()),
    }
}
