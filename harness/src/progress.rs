//! What a person sees while a rehearsal runs: a live line on a terminal, plain lines elsewhere.
//!
//! A consumer of the event stream; it knows nothing that the events do not say.

use std::io::IsTerminal;
use std::time::Duration;

use fulldress_reports::event::{Event, Happening};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::TrafficTick;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows events as they come; everything goes to standard error, so that standard output stays for results.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: Option<(Phase, u64)>,
    step: Option<String>,
}

impl Progress {
    /// Shows a live line when standard error is a terminal, plain lines otherwise.
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; a test builds it.
            bar.set_style(
                ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet: false, phase: None, step: None }
    }

    /// Shows nothing.
    #[must_use]
    pub const fn silent() -> Self {
        Self { bar: None, quiet: true, phase: None, step: None }
    }

    /// Takes in one event.
    pub fn show(&mut self, event: &Event) {
        if self.quiet {
            return;
        }
        let at_us = event.at_us;
        match &event.what {
            Happening::Stage(text) => self.line(at_us, text),
            Happening::Notice(text) => self.line(at_us, &format!("note: {text}")),
            Happening::Interrupted(interruption) => self.line(at_us, &interruption.reason),
            Happening::PhaseStarted(phase) => {
                self.phase = Some((*phase, at_us));
                self.line(at_us, &format!("phase {phase}"));
            }
            Happening::PhaseEnded(_) => self.phase = None,
            Happening::StepStarted { id, .. } => {
                self.step = Some(id.clone());
                self.line(at_us, &format!("  step {id}"));
            }
            Happening::StepFinished(run) => {
                self.step = None;
                let took_s = micros_to_s(run.end_us.saturating_sub(run.start_us));
                let text = match &run.error {
                    None => format!("  step {} ended well after {took_s:.1} s", run.id),
                    Some(error) => format!("  step {} failed after {took_s:.1} s: {error}", run.id),
                };
                self.line(at_us, &text);
            }
            Happening::Preflight(found) if !found.findings.is_empty() => {
                self.line(at_us, &format!("preflight found {}", found.findings.len()));
            }
            Happening::Tick(tick) => self.tick(at_us, tick),
            _ => {}
        }
    }

    /// Shows live figures where nothing else happens.
    pub fn traffic(&self, at_us: u64, tick: &TrafficTick) {
        if !self.quiet {
            self.tick(at_us, tick);
        }
    }

    /// Leaves the terminal clean.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, at_us: u64, text: &str) {
        let line = format!("{:>7.1} s  {text}", micros_to_s(at_us));
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn tick(&self, at_us: u64, tick: &TrafficTick) {
        let Some(bar) = &self.bar else { return };
        let phase = self.phase.map_or(String::new(), |(phase, start_us)| {
            format!("{phase} {:.0} s", micros_to_s(at_us.saturating_sub(start_us)))
        });
        let p99 =
            tick.p99_us.map_or("—".to_owned(), |p99_us| format!("{:.1} ms", micros_to_s(p99_us) * 1000.0));
        let step = self.step.as_ref().map_or(String::new(), |step| format!("  step {step}"));
        bar.set_message(format!(
            "{phase}  {:.0} requests/s  p99 {p99}  {} errors  {} in flight{step}",
            tick.rate_per_s, tick.errors, tick.in_flight
        ));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

const TEMPLATE: &str = "{elapsed_precise} {spinner} {wide_msg}";

fn micros_to_s(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_one() {
        assert!(indicatif::ProgressStyle::with_template(super::TEMPLATE).is_ok());
    }
}
