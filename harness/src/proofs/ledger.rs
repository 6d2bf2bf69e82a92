//! Reads every acknowledged write back: through the running version, and in the database as second witness.
//!
//! The conductor asks after the traffic has ended. A write over HTTP is read over HTTP, one by SQL with the workload's own
//! query and role.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::evidence::{BrokenWrite, LedgerEvidence, LedgerPhase, WriteFate};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{LedgerEntry, WriteAnswer};
use fulldress_workloads::sql::KeyedQuery;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row};
use tokio::sync::Semaphore;

use crate::http;

/// Requests in flight while reading back.
const CONCURRENCY: usize = 16;
/// Limit of one read.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Broken writes that the report lists; `ledger.jsonl` has all.
const LISTED_MAX: usize = 1000;
/// Keys asked of the database at once.
const WITNESS_BATCH: usize = 5000;

/// What the running version says of a write.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Same,
    Other(String),
    Several(usize),
    Absent,
    Unread(String),
}

/// A ledger entry with its fate: one line of `ledger.jsonl`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct JudgedEntry {
    /// The entry.
    #[serde(flatten)]
    pub entry: LedgerEntry,
    /// What became of it.
    pub fate: WriteFate,
}

/// Whom to ask for writes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `http://127.0.0.1:PORT` of the running version; absent where no scenario speaks HTTP.
    pub base_url: Option<&'a str>,
    /// Databases by the name that the workload gives.
    pub databases: &'a BTreeMap<String, PgConnectOptions>,
}

/// Reads all entries back, and asks the mirror's database when there is a witness query.
///
/// # Errors
/// When the witness query cannot be run; a write that cannot be read is a fate, not an error.
pub async fn read_back(
    entries: Vec<LedgerEntry>,
    asked: Asked<'_>,
    witness: Option<(&mut PgConnection, &str)>,
) -> Result<(LedgerEvidence, Vec<JudgedEntry>), sqlx::Error> {
    let mut seen = ask_running_version(&entries, asked.base_url).await;
    for (name, options) in asked.databases {
        ask_as_application(&entries, name, options, &mut seen).await;
    }
    let counts = match witness {
        Some((connection, query)) => Some(ask_database(&entries, connection, query).await?),
        None => None,
    };
    let mut evidence = LedgerEvidence { entries: entries.len() as u64, ..Default::default() };
    let mut phases: BTreeMap<Phase, BTreeMap<WriteFate, u64>> = BTreeMap::new();
    let mut judged = Vec::with_capacity(entries.len());
    for (entry, seen) in entries.into_iter().zip(seen) {
        let count = counts.as_ref().map(|counts| counts.get(&entry.key).copied().unwrap_or(0));
        let fate = fate(entry.answer, &seen, count);
        if disagrees(&seen, count) {
            evidence.witness_disagreements += 1;
        }
        *phases.entry(entry.phase).or_default().entry(fate).or_default() += 1;
        let broken = !matches!(fate, WriteFate::Kept | WriteFate::Indeterminate);
        if broken && evidence.broken.len() < LISTED_MAX {
            evidence.broken.push(BrokenWrite {
                key: entry.key.clone(),
                phase: entry.phase,
                fate,
                answer: entry.answer,
                seen: describe(&seen, count),
            });
        }
        judged.push(JudgedEntry { entry, fate });
    }
    evidence.phases = phases.into_iter().map(|(phase, fates)| LedgerPhase { phase, fates }).collect();
    Ok((evidence, judged))
}

/// An acknowledged write must be there, once, unchanged. Both witnesses must see it: a row that the running
/// version cannot give is as lost to its users as one that is not in the table.
fn fate(answer: WriteAnswer, seen: &Seen, count: Option<i64>) -> WriteFate {
    if count.is_some_and(|count| count > 1) || matches!(seen, Seen::Several(_)) {
        return WriteFate::Duplicated;
    }
    if answer == WriteAnswer::Indeterminate {
        return WriteFate::Indeterminate;
    }
    match seen {
        Seen::Absent => WriteFate::Lost,
        _ if count == Some(0) => WriteFate::Lost,
        Seen::Same => WriteFate::Kept,
        Seen::Several(_) => WriteFate::Duplicated,
        Seen::Other(_) => WriteFate::Changed,
        Seen::Unread(_) => WriteFate::Unread,
    }
}

fn disagrees(seen: &Seen, count: Option<i64>) -> bool {
    match (seen, count) {
        (Seen::Same | Seen::Other(_) | Seen::Several(_), Some(0)) => true,
        (Seen::Absent, Some(count)) => count > 0,
        _ => false,
    }
}

fn describe(seen: &Seen, count: Option<i64>) -> String {
    let said = match seen {
        Seen::Same => "the running version gives it unchanged".to_owned(),
        Seen::Other(value) => format!("the running version gives {value}"),
        Seen::Several(count) => format!("the running version gives it {count} times"),
        Seen::Absent => "the running version does not know it".to_owned(),
        Seen::Unread(reason) => format!("could not be read: {reason}"),
    };
    match count {
        Some(count) => format!("{said}; {count} in the database"),
        None => said,
    }
}

async fn ask_running_version(entries: &[LedgerEntry], base_url: Option<&str>) -> Vec<Seen> {
    let slots = Arc::new(Semaphore::new(CONCURRENCY));
    let mut reads = tokio::task::JoinSet::new();
    let over_http = entries.iter().enumerate().filter(|(_, entry)| entry.database.is_none());
    for (index, entry) in over_http {
        let Some(base_url) = base_url else { continue };
        let slots = Arc::clone(&slots);
        let url = format!("{base_url}{}", entry.read_back);
        let expected = entry.value.clone();
        reads.spawn(async move {
            // The semaphore is never closed, so a permit always comes.
            let _slot = slots.acquire_owned().await;
            (index, ask(&url, &expected).await)
        });
    }
    let mut seen = vec![Seen::Unread("nobody could be asked".to_owned()); entries.len()];
    while let Some(read) = reads.join_next().await {
        if let Ok((index, answer)) = read {
            seen[index] = answer;
        }
    }
    seen
}

async fn ask(url: &str, expected: &serde_json::Value) -> Seen {
    match http::get(url, READ_LIMIT).await {
        Ok(answer) if answer.status == 200 => match answer.json() {
            Some(document) => compare(expected, &document),
            None => Seen::Unread("the answer is not JSON".to_owned()),
        },
        Ok(answer) if matches!(answer.status, 404 | 410) => Seen::Absent,
        Ok(answer) => Seen::Unread(format!("status {}", answer.status)),
        Err(error) => Seen::Unread(error.to_string()),
    }
}

/// Reads the writes of one database back, one after the other on one connection; `seen` gains what it says.
async fn ask_as_application(
    entries: &[LedgerEntry],
    name: &str,
    options: &PgConnectOptions,
    seen: &mut [Seen],
) {
    let of_database = entries.iter().zip(seen).filter(|(entry, _)| entry.database.as_deref() == Some(name));
    let mut connection = None;
    let mut unreachable: Option<String> = None;
    let mut queries: BTreeMap<&str, Result<KeyedQuery, String>> = BTreeMap::new();
    for (entry, seen) in of_database {
        if connection.is_none() && unreachable.is_none() {
            match tokio::time::timeout(READ_LIMIT, options.connect()).await {
                Ok(Ok(connected)) => connection = Some(connected),
                Ok(Err(error)) => unreachable = Some(error.to_string()),
                Err(_) => unreachable = Some(format!("no connection within {} s", READ_LIMIT.as_secs())),
            }
        }
        if let Some(error) = &unreachable {
            // It would be the same for every other one.
            *seen = Seen::Unread(error.clone());
        }
        let Some(connected) = &mut connection else { continue };
        let text = entry.read_back.as_str();
        if !queries.contains_key(text) {
            queries.insert(text, KeyedQuery::prepare(connected, text).await);
        }
        let answer = match &queries[text] {
            Ok(query) => {
                let rows = tokio::time::timeout(READ_LIMIT, query.rows(connected, &entry.key)).await;
                rows.unwrap_or_else(|_| Err(format!("no answer within {} s", READ_LIMIT.as_secs())))
            }
            Err(error) => Err(error.clone()),
        };
        *seen = match answer.as_deref() {
            Ok([]) => Seen::Absent,
            Ok([row]) => compare(&entry.value, &serde_json::Value::Object(row.clone())),
            Ok(rows) => Seen::Several(rows.len()),
            Err(error) => {
                // A read that was given up may still be under way on it.
                connection = None;
                Seen::Unread(error.clone())
            }
        };
    }
}

/// What stands at a JSON pointer, or in a column.
fn stands_at<'a>(document: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    if name.is_empty() || name.starts_with('/') { document.pointer(name) } else { document.get(name) }
}

/// `expected` is an object of JSON pointers or columns, and the values that they had when the write was acknowledged.
fn compare(expected: &serde_json::Value, document: &serde_json::Value) -> Seen {
    let Some(projection) = expected.as_object() else {
        return Seen::Same;
    };
    let differing: Vec<String> = projection
        .iter()
        .filter(|(name, value)| stands_at(document, name) != Some(value))
        .map(|(name, _)| {
            format!("{name} = {}", stands_at(document, name).unwrap_or(&serde_json::Value::Null))
        })
        .collect();
    if differing.is_empty() { Seen::Same } else { Seen::Other(differing.join(", ")) }
}

async fn ask_database(
    entries: &[LedgerEntry],
    connection: &mut PgConnection,
    query: &str,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    let mut counts = BTreeMap::new();
    for batch in keys.chunks(WITNESS_BATCH) {
        // The plan's own author wrote the query; it runs in the mirror only.
        let rows =
            sqlx::query(AssertSqlSafe(query.to_owned())).bind(batch).fetch_all(&mut *connection).await?;
        for row in rows {
            *counts.entry(row.try_get(0)?).or_default() += row.try_get::<i64, _>(1)?;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use fulldress_reports::evidence::WriteFate;
    use fulldress_reports::traffic::WriteAnswer;
    use serde_json::json;

    use super::{Seen, compare, disagrees, fate};

    #[test]
    fn fates_follow_both_witnesses() {
        let other = || Seen::Other(String::new());
        let cases = [
            (WriteAnswer::Acknowledged, Seen::Same, Some(1), WriteFate::Kept),
            (WriteAnswer::Acknowledged, Seen::Same, None, WriteFate::Kept),
            (WriteAnswer::Acknowledged, Seen::Absent, Some(0), WriteFate::Lost),
            (WriteAnswer::Acknowledged, Seen::Absent, Some(1), WriteFate::Lost),
            (WriteAnswer::Acknowledged, Seen::Same, Some(0), WriteFate::Lost),
            (WriteAnswer::Acknowledged, other(), Some(1), WriteFate::Changed),
            (WriteAnswer::Acknowledged, Seen::Same, Some(2), WriteFate::Duplicated),
            (WriteAnswer::Acknowledged, Seen::Several(2), None, WriteFate::Duplicated),
            (WriteAnswer::Indeterminate, Seen::Several(2), None, WriteFate::Duplicated),
            (WriteAnswer::Acknowledged, Seen::Unread(String::new()), Some(1), WriteFate::Unread),
            (WriteAnswer::Indeterminate, Seen::Absent, Some(0), WriteFate::Indeterminate),
            (WriteAnswer::Indeterminate, Seen::Same, Some(2), WriteFate::Duplicated),
        ];
        for (answer, seen, count, expected) in cases {
            assert_eq!(fate(answer, &seen, count), expected, "{answer:?} {seen:?} {count:?}");
        }
        assert!(disagrees(&Seen::Absent, Some(1)) && disagrees(&Seen::Same, Some(0)));
        assert!(!disagrees(&Seen::Absent, Some(0)) && !disagrees(&Seen::Same, None));
    }

    #[test]
    fn only_the_projection_is_compared() {
        let expected = json!({"/total_cents": 5, "/lines/0/quantity": 2});
        let document = json!({"total_cents": 5, "lines": [{"quantity": 2}], "channel": "web"});
        assert_eq!(compare(&expected, &document), Seen::Same);
        let document = json!({"total_cents": 6, "lines": [{"quantity": 2}]});
        assert_eq!(compare(&expected, &document), Seen::Other("/total_cents = 6".to_owned()));
        let row = json!({"total": 5, "channel": "web"});
        assert_eq!(compare(&json!({"total": 5}), &row), Seen::Same);
        assert_eq!(compare(&json!({"total": 6}), &row), Seen::Other("total = 5".to_owned()));
    }
}
