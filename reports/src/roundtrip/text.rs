//! How a round trip reads on a terminal: the table, what did not come back, the summary.
//!
//! Called by [`super::RoundTrip::text`]; the summary stands last, where a terminal stops.

use std::fmt::Write as _;

use super::{Failure, Migration, Reapply, RoundTrip, VERDICTS, Verdict, Way};
use crate::evidence::Difference;
use crate::figures::{count, cut, thousands};

/// Widest id and widest definition in the text.
const ID_MAX: usize = 60;
const DEFINITION_MAX: usize = 160;
/// Differences that are listed for one migration; the JSON form has all.
const DIFFERENCES_MAX: usize = 20;

pub(super) fn text(trip: &RoundTrip) -> String {
    let mut out = String::new();
    head(&mut out, trip);
    table(&mut out, trip);
    for migration in trip.migrations.iter().filter(|migration| worth_showing(migration)) {
        details(&mut out, migration);
    }
    notes(&mut out, trip);
    summary(&mut out, trip);
    out
}

fn head(out: &mut String, trip: &RoundTrip) {
    let rows = match trip.rows {
        Some(rows) => format!("{} a table from seed {}", count(rows, "row"), trip.seed),
        None => "no rows".to_owned(),
    };
    // Writing to a String cannot fail, here and below.
    _ = writeln!(
        out,
        "{}  ({}: {}; PostgreSQL {}, {rows})\n",
        trip.folder, trip.layout, trip.layout_reason, trip.server_version
    );
}

fn table(out: &mut String, trip: &RoundTrip) {
    let shown = |migration: &Migration| cut(&migration.id, ID_MAX);
    let width =
        trip.migrations.iter().map(|migration| shown(migration).chars().count()).max().unwrap_or(0).max(9);
    _ = writeln!(out, "{:<width$}  verdict      again    up ms  down ms", "migration");
    for migration in &trip.migrations {
        let again = migration.reapply.map_or("-", reapply);
        let down = migration.down_ms.map_or_else(|| "-".to_owned(), thousands);
        _ = writeln!(
            out,
            "{:<width$}  {:<11}  {again:<7}  {:>5}  {down:>7}{}",
            shown(migration),
            migration.verdict.name(),
            thousands(migration.up_ms),
            if migration.incomplete_since.is_some() { " *" } else { "" },
        );
    }
    let mut incomplete = trip.migrations.iter().filter_map(|migration| migration.incomplete_since.as_ref());
    if let Some(since) = incomplete.next() {
        let number = u64::try_from(1 + incomplete.count()).unwrap_or(u64::MAX);
        let judged = if number == 1 { "migration was" } else { "migrations were" };
        _ = writeln!(
            out,
            "* {} {judged} judged without what {since} would have made: correct its way up first",
            thousands(number)
        );
    }
}

const fn reapply(reapply: Reapply) -> &'static str {
    match reapply {
        Reapply::Same => "same",
        Reapply::Differs => "differs",
        Reapply::Failed => "failed",
    }
}

/// What a person has to read; a missing way back says everything in the table.
fn worth_showing(migration: &Migration) -> bool {
    let silent = [Verdict::Exact, Verdict::NoDown, Verdict::EmptyDown];
    !silent.contains(&migration.verdict)
        || migration.failure.is_some()
        || !migration.notes.is_empty()
        || migration.reapply == Some(Reapply::Differs)
}

fn details(out: &mut String, migration: &Migration) {
    _ = writeln!(out, "\n{}  {}", migration.place, sentence(migration));
    if let Some(hint) = migration.failure.as_ref().and_then(|failure| failure.hint.as_ref()) {
        _ = writeln!(out, "    {hint}");
    }
    for difference in migration.differences.iter().take(DIFFERENCES_MAX) {
        write_difference(out, difference);
    }
    if migration.differences.len() > DIFFERENCES_MAX {
        _ = writeln!(out, "    and {} more", migration.differences.len() - DIFFERENCES_MAX);
    }
    for table in &migration.reordered {
        _ = writeln!(out, "    {table}: columns in another order");
    }
    for (table, rows) in migration.data.iter().flat_map(|data| &data.lost) {
        _ = writeln!(out, "    table {table}: {} lost or changed", count(*rows, "row"));
    }
    for note in &migration.notes {
        _ = writeln!(out, "    {note}");
    }
}

fn write_difference(out: &mut String, difference: &Difference) {
    let one_line = |text: &str| cut(text, DEFINITION_MAX);
    let object = format!("{} {}", difference.kind, difference.object);
    match (&difference.before, &difference.after) {
        (None, Some(after)) => _ = writeln!(out, "    {object} is left behind: {}", one_line(after)),
        (Some(before), None) => _ = writeln!(out, "    {object} did not come back: {}", one_line(before)),
        (before, after) => {
            _ = writeln!(out, "    {object} came back otherwise");
            _ = writeln!(out, "        before {}", one_line(before.as_deref().unwrap_or_default()));
            _ = writeln!(out, "        after  {}", one_line(after.as_deref().unwrap_or_default()));
        }
    }
}

/// One sentence on what came of a migration.
pub(super) fn sentence(migration: &Migration) -> String {
    let outcome = outcome(migration);
    match &migration.incomplete_since {
        Some(since) => format!("{outcome} (judged without what {since} would have made)"),
        None => outcome,
    }
}

fn outcome(migration: &Migration) -> String {
    if let Some(failure) = &migration.failure {
        return failed(failure);
    }
    let lost = match migration.rows_lost() {
        0 => String::new(),
        rows => format!("; {} lost or changed", count(rows, "row")),
    };
    match migration.verdict {
        Verdict::Drift => {
            let number = u64::try_from(migration.differences.len()).unwrap_or(u64::MAX);
            format!("drift: {} of {}{lost}", count(number, "difference"), migration.classes.join(", "))
        }
        Verdict::DataLost => format!("data-lost: the schema came back{lost}"),
        Verdict::Exact if migration.reapply == Some(Reapply::Differs) => {
            "exact, but the second way up reached another schema than the first".to_owned()
        }
        verdict => format!("{}: {}", verdict.name(), verdict.record().meaning),
    }
}

fn failed(failure: &Failure) -> String {
    let way = match failure.during {
        Way::Up => "up-failed",
        Way::Down => "down-failed",
        Way::Reapply => "the second way up failed",
    };
    match &failure.sqlstate {
        Some(state) => format!("{way}: {} ({state})", failure.what),
        None => format!("{way}: {}", failure.what),
    }
}

fn notes(out: &mut String, trip: &RoundTrip) {
    if !trip.notes.is_empty() {
        out.push('\n');
    }
    for note in &trip.notes {
        _ = writeln!(out, "note: {note}");
    }
    if let Some((table, reason)) = trip.unfilled.iter().next() {
        let number = u64::try_from(trip.unfilled.len()).unwrap_or(u64::MAX);
        _ = writeln!(
            out,
            "note: {} got no rows, so nothing is known of theirs; {table}: {reason}",
            count(number, "table")
        );
    }
}

fn summary(out: &mut String, trip: &RoundTrip) {
    let counts = trip.counts();
    let number = |number: usize| thousands(u64::try_from(number).unwrap_or(u64::MAX));
    let verdicts: Vec<String> = VERDICTS
        .iter()
        .filter_map(|record| Some(format!("{} {}", number(*counts.get(&record.verdict)?), record.name)))
        .collect();
    let again = |wanted| trip.migrations.iter().filter(|one| one.reapply == Some(wanted)).count();
    _ = writeln!(
        out,
        "\n{}: {}",
        count(u64::try_from(trip.migrations.len()).unwrap_or(u64::MAX), "migration"),
        if verdicts.is_empty() { "nothing was run".to_owned() } else { verdicts.join(", ") }
    );
    _ = writeln!(
        out,
        "up again: {} same, {} differs, {} failed; {} ms a migration on the median",
        number(again(Reapply::Same)),
        number(again(Reapply::Differs)),
        number(again(Reapply::Failed)),
        trip.median_ms().map_or_else(|| "0".to_owned(), thousands),
    );
    let failed = trip.failed().count();
    let required: Vec<&str> = trip.required.iter().map(|one| one.name()).collect();
    let outcome = if failed == 0 { "pass".to_owned() } else { format!("fail, {}", number(failed)) };
    _ = writeln!(out, "{outcome}: none may be {}", required.join(", "));
}
