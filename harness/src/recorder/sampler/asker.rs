//! Asks the sampler's long questions, on a connection of its own.
//!
//! The sampler's loop asks and takes the answers while its glances go on: who somebody is takes the server longer to say than
//! the pace of the glances allows. It comes back by itself after a loss, with the next question.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc;

use super::look::{self, Look};
use super::{PATIENCE, connect};
use crate::recorder::observation::PackageIdentity;

/// What the loop wants to know.
enum Question {
    /// Who has and wants which lock.
    Full,
    /// What relations are called.
    Names(BTreeSet<u32>),
}

/// What the server said.
pub(super) enum Answer {
    /// The look, and which sessions are not the package's.
    Full(Look, Vec<i32>),
    /// Names by object id.
    Names(BTreeMap<u32, String>),
    /// Nothing: why, or nothing more than that there is still no connection.
    Lost(Option<String>),
}

/// The loop's side. Dropping it ends the task and its connection.
pub(super) struct Asker {
    questions: mpsc::UnboundedSender<Question>,
    answers: mpsc::UnboundedReceiver<Answer>,
    /// Whether a full look is under way.
    busy: bool,
}

impl Asker {
    /// Starts the task on this thread's runtime.
    pub(super) fn start(
        options: PgConnectOptions,
        identity: PackageIdentity,
        connection: Option<PgConnection>,
    ) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        let (answered, answers) = mpsc::unbounded_channel();
        tokio::spawn(answer_all(options, identity, connection, asked, answered));
        Self { questions, answers, busy: false }
    }

    /// Asks for a full look, unless one is under way.
    pub(super) fn look(&mut self) {
        self.busy = self.busy || self.questions.send(Question::Full).is_ok();
    }

    /// Whether a full look is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Asks what relations are called.
    pub(super) fn name(&self, relations: BTreeSet<u32>) {
        if !relations.is_empty() {
            // Without a task the full looks fail too, which is told.
            let _ = self.questions.send(Question::Names(relations));
        }
    }

    /// The next answer; waits for ever where nothing was asked. May be dropped and called again.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = match self.answers.recv().await {
            Some(answer) => answer,
            // The task failed, and whatever waits for its answer is told by its own limit.
            None => std::future::pending().await,
        };
        if !matches!(answer, Answer::Names(_)) {
            self.busy = false;
        }
        answer
    }
}

async fn answer_all(
    options: PgConnectOptions,
    identity: PackageIdentity,
    mut connection: Option<PgConnection>,
    mut asked: mpsc::UnboundedReceiver<Question>,
    answered: mpsc::UnboundedSender<Answer>,
) {
    while let Some(question) = asked.recv().await {
        if connection.is_none() {
            connection = connect(&options).await.ok();
        }
        let answer = match &mut connection {
            None => Answer::Lost(None),
            Some(live) => match tokio::time::timeout(PATIENCE, ask(live, &identity, &question)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Answer::Lost(Some(error.to_string())),
                Err(_) => Answer::Lost(Some("a sample took too long".to_owned())),
            },
        };
        if matches!(answer, Answer::Lost(_)) {
            connection = None;
        }
        if answered.send(answer).is_err() {
            return;
        }
    }
}

async fn ask(
    connection: &mut PgConnection,
    identity: &PackageIdentity,
    question: &Question,
) -> Result<Answer, sqlx::Error> {
    match question {
        Question::Full => {
            let (look, others) = look::full(connection, identity).await?;
            Ok(Answer::Full(look, others))
        }
        Question::Names(wanted) => Ok(Answer::Names(look::names(connection, wanted).await?)),
    }
}
