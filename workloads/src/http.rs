//! Arrivals over HTTP: how [`Lanes`](crate::lanes::Lanes) send a request on a [`Connection`].

use std::cell::Cell;
use std::sync::Arc;

use crate::answer::{Ending, Judgement, judge};
use crate::connection::{Connection, Target, exchange};
use crate::file::{Rendered, Scenario};
use crate::lanes::{Progress, Protocol, WriteKey};
use crate::template::Session;

/// A scenario's requests to one target.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) target: Target,
}

impl Protocol for Http {
    type Request = Rendered;
    type Connection = Connection;
    type Ending = Ending;

    fn render(&self, step: usize, session: &mut Session) -> Result<(Rendered, Option<WriteKey>), String> {
        let step = &self.scenario.http_steps()[step];
        let mut rendered = step.render(&self.scenario.templates, session)?;
        let write = rendered.write.take();
        let write = write.map(|(key, read_back)| WriteKey { key, read_back, database: None });
        Ok((rendered, write))
    }

    fn is_open(connection: &Connection) -> bool {
        connection.is_open()
    }

    async fn reusable(connection: Connection) -> Option<Connection> {
        connection.reusable().await
    }

    async fn exchange(
        &self,
        idle: Option<Connection>,
        step: usize,
        request: Rendered,
        progress: &Cell<Progress>,
    ) -> (Ending, Option<Connection>) {
        exchange(idle, &self.target, &self.scenario.http_steps()[step], request, progress).await
    }

    fn abandoned(&self, progress: Progress) -> Ending {
        Ending::Broken { kind: progress.out_of_time(), perhaps_sent: progress != Progress::Connecting }
    }

    fn judge(&self, step: usize, ending: &Ending) -> Judgement {
        judge(&self.scenario.http_steps()[step], ending, None)
    }

    fn said(ending: &Ending) -> Option<String> {
        match ending {
            Ending::Answered { status, .. } => Some(format!("status {status}")),
            Ending::Broken { .. } => None,
        }
    }

    fn ends_others(_ending: &Ending) -> bool {
        // A connection that the server has closed is known to be closed.
        false
    }
}
