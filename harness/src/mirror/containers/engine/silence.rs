//! An engine that was stopped takes connections and answers nothing, so that every call would last as long as its limit:
//! a minute for a look, an hour for a copy. Whatever we wait for, we ask meanwhile whether it is still there; and once it
//! was found silent, nobody waits for it again until it has answered.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use fulldress_workloads::clock::Clock;

use super::super::super::MirrorError;
use super::Engine;

/// Pause between two questions while we wait for something else.
const ASK_PAUSE: Duration = Duration::from_secs(3);
/// Pause between two looks whether an engine that was gone is back.
const RETURN_PAUSE: Duration = Duration::from_millis(200);
/// How long an answer may take that needs nothing but the engine itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Questions in a row without an answer after which it counts as silent: a busy machine may miss one.
const MISSES_MAX: u32 = 2;
/// For how long a silent engine is not asked again.
const BELIEVED: Duration = Duration::from_secs(10);

/// Whether the engine was found silent, and when.
#[derive(Debug)]
pub(super) struct Silence {
    clock: Clock,
    since_us: Mutex<Option<u64>>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { clock: Clock::start(), since_us: Mutex::default() }
    }
}

impl Silence {
    fn set(&self, silent: bool) {
        let since_us = silent.then(|| self.clock.now_us());
        *self.since_us.lock().unwrap_or_else(PoisonError::into_inner) = since_us;
    }

    /// For how long it has been known; none while the engine answers.
    fn known_for(&self) -> Option<Duration> {
        let since_us = *self.since_us.lock().unwrap_or_else(PoisonError::into_inner);
        since_us.map(|since_us| Duration::from_micros(self.clock.now_us().saturating_sub(since_us)))
    }
}

impl Engine {
    /// Awaits something that needs the engine, for as long as that answers.
    ///
    /// # Errors
    /// When the engine is silent: at once where that is known, else within about 16 s.
    pub async fn attended<T>(&self, work: impl Future<Output = T>) -> Result<T, MirrorError> {
        if let Some(known_for) = self.silence.known_for() {
            if known_for < BELIEVED {
                return Err(silent());
            }
            if !self.answers().await {
                self.silence.set(true);
                return Err(silent());
            }
        }
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.fell_silent() => Err(silent()),
        }
    }

    /// Whether nobody listens at its socket: it ended, or is being started again. A silent engine is not gone.
    pub async fn is_gone(&self) -> bool {
        matches!(tokio::time::timeout(ANSWER_LIMIT, self.docker.ping()).await, Ok(Err(_)))
    }

    /// Waits until it is there again, for at most `limit`.
    pub async fn comes_back(&self, limit: Duration) {
        let clock = Clock::start();
        while self.is_gone().await && Duration::from_micros(clock.now_us()) < limit {
            tokio::time::sleep(RETURN_PAUSE).await;
        }
    }

    /// Whether it answers now. An error is an answer too, and comes to whoever waits.
    async fn answers(&self) -> bool {
        let answers = tokio::time::timeout(ANSWER_LIMIT, self.docker.ping()).await.is_ok();
        if answers {
            self.silence.set(false);
        }
        answers
    }

    async fn fell_silent(&self) {
        let mut missed = 0;
        while missed < MISSES_MAX {
            tokio::time::sleep(ASK_PAUSE).await;
            missed = if self.answers().await { 0 } else { missed + 1 };
        }
        self.silence.set(true);
    }
}

fn silent() -> MirrorError {
    MirrorError::new(
        format!(
            "the container engine takes connections and does not answer within {} s",
            ANSWER_LIMIT.as_secs()
        ),
        "look at the engine's log, or start it again; then `fulldress doctor --clean` removes what a rehearsal left",
    )
}
