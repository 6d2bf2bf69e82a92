//! How the measuring ends: traffic, watch and recorder stop, and tell what they saw.

use std::collections::BTreeMap;
use std::time::Duration;

use fulldress_reports::event::Happening;
use fulldress_reports::traffic::{SlowRequest, TrafficEvidence};
use fulldress_workloads::traffic::TrafficResult;

use super::Play;
use crate::conductor::{impact, traffic};
use crate::recorder;
use crate::recorder::reconcile::StepSpan;

impl Play {
    /// Stops traffic, actors, watch and recorder, and tells what they saw. Nothing happens the second time.
    pub(super) async fn end_traffic(&mut self) {
        self.end_phase();
        let mut measured = None;
        if let Some(traffic) = self.traffic.take() {
            match traffic.stop().await {
                Ok(result) => measured = Some(self.keep_traffic(result)),
                // Without its figures the checks on it stay without evidence, and say so.
                Err(error) => self.events.notice(format!("failed to {error}")),
            }
        }
        if let Some(mut worker) = self.worker.take() {
            // It was told to stop; how it ends adds nothing.
            let _ = worker.stop(Duration::from_secs(2)).await;
        }
        if let Some(actors) = self.actors.take() {
            actors.stop();
        }
        if let Some(invariants) = self.invariants.take() {
            self.readings = invariants.stop();
            self.events.tell(Happening::Invariants(self.readings.evidence()));
        }
        if let Some(watch) = self.watch.take() {
            self.events.tell(Happening::Dependents(watch.stop()));
        }
        if let Some(recorder) = self.recorder.take() {
            let files: BTreeMap<String, String> = self
                .package
                .files
                .iter()
                .map(|(name, file)| (name.clone(), String::from_utf8_lossy(&file.bytes).into_owned()))
                .collect();
            let steps: Vec<StepSpan> = self
                .steps
                .iter()
                .map(|run| StepSpan { id: run.id.clone(), start_us: run.start_us, end_us: run.end_us })
                .collect();
            match recorder.finish(&self.phases, &steps, &files, &self.relations).await {
                Ok(mut recording) => {
                    if let Some((evidence, slow)) = &measured {
                        impact::lay(&mut recording, evidence, slow, &self.phases);
                    }
                    self.keep_locks(recording);
                }
                // Without its evidence the checks on it stay inconclusive, and say so.
                Err(error) => self.events.notice(format!("the recorder failed to {error}")),
            }
        }
    }

    fn keep_locks(&self, recording: recorder::Recording) {
        let written = std::fs::File::create(self.bundle.join("locks.jsonl"))
            .map_err(recorder::RecorderError::from)
            .and_then(|file| recording.write_raw(&mut std::io::BufWriter::new(file)));
        if let Err(error) = written {
            self.events.notice(format!("locks.jsonl could not be written: {error}"));
        }
        self.events.tell(Happening::Locks(recording.evidence));
    }

    /// Gives what the locks are laid on.
    fn keep_traffic(&mut self, result: TrafficResult) -> (TrafficEvidence, Vec<SlowRequest>) {
        let epoch_unix_us = self.events.clock().epoch_unix_us();
        let (evidence, log) = traffic::summarise(&result, &self.plan.limits(), epoch_unix_us);
        let written = log.map_err(|error| error.to_string()).and_then(|log| {
            std::fs::write(self.bundle.join("latency.hlog"), log).map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            self.events.notice(format!("latency.hlog could not be written: {error}"));
        }
        self.ledger = result.ledger;
        self.events.tell(Happening::Traffic(evidence.clone()));
        (evidence, result.slow)
    }
}
