//! The staircase: each migration up, down and up again, and on from there.
//!
//! Called by [`super::embedded`]. After a migration whose second way up reached the first one's schema the walk goes on as it
//! stands; after any other it goes on from the state that the first way up had made.

use std::collections::BTreeMap;
use std::ops::Range;

use fulldress_reports::roundtrip::{
    Data, Facts, Failure, Migration as Judged, Note, Place, Reapply, Way, WayBack,
};
use fulldress_reports::sql::{Token, tokens};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;

use super::ground::{AFTER, BEFORE, Ground, Site, Stopped};
use super::state::{self, Change, State};
use super::{Error, Progress, Request, Watch, explain};
use crate::history::{History, Migration, Script};
use crate::synthetic;

/// When what was applied since the copy took longer than this, the copy is taken anew: about what a copy costs.
const KEEP_AFTER_US: u64 = 300_000;

/// Connections that write rows: a walk has few of them, and each connection costs more than they do.
const WRITERS: usize = 1;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) migrations: Vec<Judged>,
    pub(super) notes: Vec<Note>,
    /// Tables that got no rows, with the reason.
    pub(super) unfilled: BTreeMap<String, String>,
}

/// A walk under way.
pub(super) struct Staircase<'walk> {
    ground: Ground<'walk>,
    request: &'walk Request,
    history: &'walk History,
    clock: Clock,
    /// What was applied since the copy was taken, and how long that took.
    applied: Vec<usize>,
    applied_us: u64,
    /// Everything that counts as applied, and how much of it is in the copy without rows.
    taken: Vec<usize>,
    bare: usize,
    /// Whether the migration under way is walked without rows, since it does not bear them.
    without_rows: bool,
    /// The first migration whose way up failed.
    incomplete_since: Option<String>,
    found: Walk,
}

impl<'walk> Staircase<'walk> {
    pub(super) fn new(ground: Ground<'walk>, request: &'walk Request, history: &'walk History) -> Self {
        Self {
            ground,
            request,
            history,
            clock: Clock::start(),
            applied: Vec::new(),
            applied_us: 0,
            taken: Vec::new(),
            bare: 0,
            without_rows: false,
            incomplete_since: None,
            found: Walk::default(),
        }
    }

    /// Walks the range; what comes before it is only applied.
    pub(super) async fn walk(mut self, range: Range<usize>, watch: &mut Watch<'_>) -> Result<Walk, Error> {
        for index in 0..range.start {
            self.only_apply(index, watch).await?;
        }
        self.fill().await?;
        let mut before = self.read().await?;
        let of = range.len();
        for (number, index) in range.enumerate() {
            let id = &self.history.migrations[index].id;
            watch(Progress::Begins { number: number + 1, of, id });
            before = self.step(index, before).await?;
            if let Some(judged) = self.found.migrations.last() {
                watch(Progress::Ended(judged));
            }
            if self.applied_us > KEEP_AFTER_US {
                self.keep().await?;
            }
        }
        Ok(self.found)
    }

    /// Applies a migration that is not walked; one that fails is told.
    async fn only_apply(&mut self, index: usize, watch: &mut Watch<'_>) -> Result<(), Error> {
        let migration = &self.history.migrations[index];
        let mut facts = self.facts(migration);
        match self.ground.run(&migration.up).await? {
            Ok(ran) => {
                self.note_applied(index, ran.us);
                self.found.notes.extend(ran.notes);
            }
            Err(stopped) => {
                self.refused(&mut facts, Way::Up, &migration.up, &stopped);
                facts.notes = stopped.notes;
                self.found.migrations.push(facts.judge());
                if let Some(judged) = self.found.migrations.last() {
                    watch(Progress::Ended(judged));
                }
                if !stopped.contained {
                    self.go_back().await?;
                }
            }
        }
        Ok(())
    }

    /// Walks one migration; gives the state that the next one begins from.
    async fn step(&mut self, index: usize, before: State) -> Result<State, Error> {
        let began_us = self.clock.now_us();
        let migration = &self.history.migrations[index];
        let mut facts = self.facts(migration);
        let after = match self.ground.run(&migration.up).await? {
            Ok(ran) => {
                facts.up_ms = ran.us / 1000;
                facts.notes.extend(ran.notes);
                self.note_applied(index, ran.us);
                self.stand(migration, before, &mut facts).await?
            }
            Err(stopped) if self.has_rows() => self.step_without_rows(index, stopped, &mut facts).await?,
            Err(stopped) => {
                self.refused(&mut facts, Way::Up, &migration.up, &stopped);
                facts.notes.extend(stopped.notes);
                if stopped.contained {
                    before
                } else {
                    self.go_back().await?;
                    self.read().await?
                }
            }
        };
        facts.took_ms = (self.clock.now_us() - began_us) / 1000;
        self.found.migrations.push(facts.judge());
        Ok(after)
    }

    /// A way up that was refused may have met rows that no application would have written. Without any it says what the files
    /// are worth; what fails then too is the files' fault.
    async fn step_without_rows(
        &mut self,
        index: usize,
        stopped: Stopped,
        facts: &mut Facts,
    ) -> Result<State, Error> {
        let migration = &self.history.migrations[index];
        self.without_rows = true;
        if !self.go_bare().await? {
            self.without_rows = false;
            self.refused(facts, Way::Up, &migration.up, &stopped);
            facts.notes.extend(stopped.notes);
            self.go_back().await?;
            return self.read().await;
        }
        let before = self.read().await?;
        match self.ground.run(&migration.up).await? {
            Ok(ran) => {
                let refusal = &stopped.refusal;
                let text = format!(
                    "with the rows that were made for it the server refused it ({}); walked without rows",
                    refusal.what
                );
                facts.notes.push(Note { file: migration.up.file.clone(), line: Some(refusal.line), text });
                facts.up_ms = ran.us / 1000;
                facts.notes.extend(ran.notes);
                self.note_applied(index, ran.us);
                self.stand(migration, before, facts).await?;
            }
            Err(bare) => {
                self.refused(facts, Way::Up, &migration.up, &bare);
                facts.notes.extend(bare.notes);
                if !bare.contained {
                    self.go_back().await?;
                }
            }
        }
        self.without_rows = false;
        self.fill().await?;
        self.keep().await?;
        self.read().await
    }

    /// Makes the state of now without any rows of ours, and keeps it; false where the history does not get so far without them.
    async fn go_bare(&mut self) -> Result<bool, Error> {
        self.ground.go_back_to_bare().await?;
        for &index in &self.taken[self.bare..] {
            if self.ground.run(&self.history.migrations[index].up).await?.is_err() {
                return Ok(false);
            }
        }
        self.bare = self.taken.len();
        self.ground.keep_bare().await?;
        self.keep().await?;
        Ok(true)
    }

    async fn keep(&mut self) -> Result<(), Error> {
        self.ground.keep().await?;
        self.applied.clear();
        self.applied_us = 0;
        Ok(())
    }

    fn note_applied(&mut self, index: usize, us: u64) {
        self.applied.push(index);
        self.taken.push(index);
        self.applied_us += us;
    }

    /// Whether rows are made and compared now.
    const fn has_rows(&self) -> bool {
        self.request.rows.is_some() && !self.without_rows
    }

    /// From the first way up on.
    async fn stand(
        &mut self,
        migration: &Migration,
        before: State,
        facts: &mut Facts,
    ) -> Result<State, Error> {
        let filled_from_us = self.clock.now_us();
        self.fill().await?;
        self.applied_us += self.clock.now_us() - filled_from_us;
        let Some(down) = migration.down.as_ref().filter(|_| matches!(facts.back, WayBack::Written(_))) else {
            return self.read().await;
        };
        let upgraded = self.read_schema().await?;
        match self.ground.run(down).await? {
            Err(stopped) => {
                self.refused(facts, Way::Down, down, &stopped);
                facts.notes.extend(stopped.notes);
                if !stopped.contained {
                    self.go_back().await?;
                }
                return self.read().await;
            }
            Ok(ran) => {
                facts.down_ms = Some(ran.us / 1000);
                facts.notes.extend(ran.notes);
            }
        }
        let back = State::read_back(self.ground.live.probe().await?, &before).await?;
        let Change { differences, classes, reordered, differing } = before.change(&back);
        if self.has_rows() {
            facts.data = Some(self.lost(migration, down, &before, &differing, &mut facts.notes).await?);
        }
        let differs = differences.first().map(|one| &one.object);
        let lost = facts.data.as_ref().and_then(|data| data.lost.keys().next());
        facts.difference_at = differs.or(lost).and_then(|object| place_of(object, migration));
        (facts.differences, facts.classes, facts.reordered) = (differences, classes, reordered);
        self.again(migration, upgraded, facts).await
    }

    /// Counts the rows that tables lost: the database before the migration is made anew, and one beside it goes up and
    /// down.
    async fn lost(
        &mut self,
        migration: &Migration,
        down: &Script,
        before: &State,
        differing: &[String],
        notes: &mut Vec<Note>,
    ) -> Result<Data, Error> {
        if differing.is_empty() {
            return Ok(Data::default());
        }
        let counted = self.count_lost(migration, down, before, differing).await?;
        self.ground.remove(BEFORE).await?;
        self.ground.remove(AFTER).await?;
        let lost = counted.unwrap_or_else(|what| {
            let text =
                format!("the lost rows could not be counted, so that each table stands for one: {what}");
            notes.push(Note { file: down.file.clone(), line: None, text });
            differing.iter().map(|table| (table.clone(), 1)).collect()
        });
        Ok(Data { lost })
    }

    /// Gives the reason where the state before cannot be made a second time.
    async fn count_lost(
        &mut self,
        migration: &Migration,
        down: &Script,
        of: &State,
        tables: &[String],
    ) -> Result<Result<BTreeMap<String, u64>, String>, Error> {
        let mut before = self.ground.copy_of_kept(BEFORE).await?;
        let (_, earlier) = self.applied.split_last().unwrap_or((&0, &[]));
        for index in earlier {
            if let Err(stopped) = self.ground.run_on(&mut before, &self.history.migrations[*index].up).await?
            {
                return Ok(Err(stopped.refusal.what));
            }
            self.fill_site(&before).await?;
        }
        let mut after = self.ground.copy_of(&mut before, AFTER).await?;
        if let Err(stopped) = self.ground.run_on(&mut after, &migration.up).await? {
            return Ok(Err(stopped.refusal.what));
        }
        self.fill_site(&after).await?;
        if let Err(stopped) = self.ground.run_on(&mut after, down).await? {
            return Ok(Err(stopped.refusal.what));
        }
        state::lost(before.probe().await?, after.probe().await?, of, tables).await.map(Ok)
    }

    /// The second way up.
    async fn again(
        &mut self,
        migration: &Migration,
        upgraded: State,
        facts: &mut Facts,
    ) -> Result<State, Error> {
        match self.ground.run(&migration.up).await? {
            Err(stopped) => {
                facts.reapply = Some(Reapply::Failed);
                self.refused(facts, Way::Reapply, &migration.up, &stopped);
                self.go_back().await?;
            }
            Ok(_) => {
                self.fill().await?;
                let again = self.read().await?;
                if again.has_schema_of(&upgraded) {
                    facts.reapply = Some(Reapply::Same);
                    return Ok(again);
                }
                facts.reapply = Some(Reapply::Differs);
                self.go_back().await?;
            }
        }
        self.read().await
    }

    /// Makes the state anew in which everything is applied that counts as applied.
    async fn go_back(&mut self) -> Result<(), Error> {
        // Rows that a way back lost are there again, and may forbid what was applied without them.
        if self.replay(true).await?.is_some()
            && let Some((id, what)) = self.replay(false).await?
        {
            return Err(Error::Unrepeatable { id, what });
        }
        self.fill().await
    }

    /// Applies everything on the copy; gives the migration that the server refused.
    async fn replay(&mut self, with_rows: bool) -> Result<Option<(String, String)>, Error> {
        self.ground.go_back().await?;
        for index in self.applied.clone() {
            let migration = &self.history.migrations[index];
            if let Err(stopped) = self.ground.run(&migration.up).await? {
                return Ok(Some((migration.id.clone(), stopped.refusal.what)));
            }
            if with_rows {
                self.fill().await?;
            }
        }
        Ok(None)
    }

    /// Gives rows to tables of the living database that have none.
    async fn fill(&mut self) -> Result<(), Error> {
        if !self.has_rows() {
            return Ok(());
        }
        let Some(filled) = fill(self.request, self.ground.live.options()).await? else { return Ok(()) };
        for table in filled.tables {
            match table.unfilled {
                Some(why) => _ = self.found.unfilled.insert(table.relation, why),
                None => _ = self.found.unfilled.remove(&table.relation),
            }
        }
        Ok(())
    }

    async fn fill_site(&self, site: &Site) -> Result<(), Error> {
        fill(self.request, site.options()).await.map(drop)
    }

    async fn read(&mut self) -> Result<State, Error> {
        let rows = self.has_rows();
        State::read(self.ground.live.probe().await?, rows).await
    }

    async fn read_schema(&mut self) -> Result<State, Error> {
        State::read(self.ground.live.probe().await?, false).await
    }

    fn facts(&self, migration: &Migration) -> Facts {
        let facts = Facts::new(migration.id.clone(), migration.up.place(), migration.way_back());
        Facts { incomplete_since: self.incomplete_since.clone(), ..facts }
    }

    fn refused(&mut self, facts: &mut Facts, during: Way, script: &Script, stopped: &Stopped) {
        let refusal = &stopped.refusal;
        if during == Way::Up {
            self.incomplete_since.get_or_insert_with(|| facts.id.clone());
        }
        facts.failure = Some(Failure {
            during,
            place: Place { file: script.file.clone(), line: refusal.line },
            sqlstate: refusal.sqlstate.clone(),
            what: refusal.what.clone(),
            hint: explain::hint(refusal, script, self.ground.version_number),
        });
    }
}

/// Gives rows to empty tables where the walk has rows; the same ones each time.
async fn fill(request: &Request, database: &PgConnectOptions) -> Result<Option<synthetic::Filled>, Error> {
    let Some(rows) = request.rows else { return Ok(None) };
    let wanted = synthetic::Request { rows, seed: request.seed, writers: WRITERS, ..Default::default() };
    Ok(Some(synthetic::fill(database, &wanted).await?))
}

/// Where a migration names an object that did not come back: in its way back, else in its way up, where it is not undone.
fn place_of(object: &str, migration: &Migration) -> Option<Place> {
    let name = last_name(object);
    let scripts = [migration.down.as_ref(), Some(&migration.up)];
    scripts.into_iter().flatten().find_map(|script| {
        let at = script.parts.iter().find_map(|part| {
            let (_, at) = tokens(&part.sql).find(|(token, _)| {
                matches!(token, Token::Word(word) if word.trim_matches('"').eq_ignore_ascii_case(&name))
            })?;
            Some(part.line_at(at))
        });
        at.map(|line| Place { file: script.file.clone(), line })
    })
}

/// The last part of a qualified name, without quotes and arguments.
fn last_name(object: &str) -> String {
    let bare = object.split('(').next().unwrap_or(object);
    bare.rsplit('.').next().unwrap_or(bare).trim_matches('"').to_owned()
}
