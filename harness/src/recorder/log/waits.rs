//! The server's sentences about lock waits and deadlocks.
//!
//! `line` calls it for messages of `log_lock_waits` and for the details of failures.

use fulldress_reports::lock::LockMode;

use super::{DeadlockWait, LogKind};
use crate::recorder::observation::{AdvisoryKey, LockTarget};

/// `process 17107 still waiting for AccessShareLock on relation 16387 of database 5 after 21.488 ms`
pub(super) fn parse_wait(message: &str, detail: &str) -> Option<LogKind> {
    let (_, rest) = message.strip_prefix("process ")?.split_once(' ')?;
    let (waiting, rest) = if let Some(rest) = rest.strip_prefix("still waiting for ") {
        (true, rest)
    } else if let Some(rest) = rest.strip_prefix("detected deadlock while waiting for ") {
        (true, rest)
    } else if let Some(rest) = rest.strip_prefix("acquired ") {
        (false, rest)
    } else {
        return None;
    };
    let (mode, rest) = rest.split_once(" on ")?;
    let (target, after) = rest.rsplit_once(" after ")?;
    let mode = LockMode::parse(mode);
    let target = parse_target(target);
    let after_us = parse_milliseconds(after)?;
    Some(if waiting {
        LogKind::Waiting { mode, target, after_us, holders: parse_holders(detail) }
    } else {
        LogKind::Acquired { mode, target, after_us }
    })
}

/// `Process holding the lock: 17099. Wait queue: 17100, 17107.` or `Processes holding the lock: 1, 2. …`
fn parse_holders(detail: &str) -> Vec<u32> {
    let Some((_, rest)) = detail.split_once("holding the lock: ") else { return Vec::new() };
    let list = rest.split('.').next().unwrap_or("");
    list.split(", ").filter_map(|pid| pid.trim().parse().ok()).collect()
}

/// `Process 12 waits for ShareLock on transaction 8; blocked by process 13.`, a line a wait, then `Process 12: UPDATE …`, a
/// statement each.
pub(super) fn parse_deadlock(detail: &str) -> Vec<DeadlockWait> {
    let mut waits: Vec<DeadlockWait> = Vec::new();
    let mut speaking: Option<u32> = None;
    for line in detail.lines() {
        let told = line.strip_prefix("Process ").and_then(|rest| {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
            Some((rest[..digits].parse::<u32>().ok()?, &rest[digits..]))
        });
        if let Some((pid, wait)) = told.and_then(|(pid, rest)| Some((pid, rest.strip_prefix(" waits for ")?)))
        {
            waits.extend(parse_deadlock_wait(pid, wait));
            continue;
        }
        let begun = told.and_then(|(pid, rest)| Some((pid, rest.strip_prefix(": ")?)));
        let begun = begun.filter(|(pid, _)| waits.iter().any(|wait| wait.pid == *pid));
        speaking = begun.map(|(pid, _)| pid).or(speaking);
        let Some(wait) = waits.iter_mut().find(|wait| Some(wait.pid) == speaking) else { continue };
        if !wait.statement.is_empty() {
            wait.statement.push('\n');
        }
        wait.statement.push_str(begun.map_or(line, |(_, text)| text));
    }
    waits
}

fn parse_deadlock_wait(pid: u32, text: &str) -> Option<DeadlockWait> {
    let (wait, blocker) = text.split_once("; blocked by process ")?;
    let (mode, target) = wait.split_once(" on ")?;
    Some(DeadlockWait {
        pid,
        mode: LockMode::parse(mode),
        target: parse_target(target),
        blocker: blocker.trim_end_matches('.').parse().ok()?,
        statement: String::new(),
    })
}

fn parse_target(text: &str) -> LockTarget {
    let words: Vec<&str> =
        text.split([' ', ',', '[', ']', '(', ')']).filter(|word| !word.is_empty()).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
    let parsed = match words.first().copied() {
        Some("relation") => number(1).map(LockTarget::Relation),
        // tuple (0,1) of relation 16387 of database 5
        Some("tuple") => number(5).map(LockTarget::Tuple),
        Some("transaction") => number(1).map(|id| LockTarget::Transaction(u64::from(id))),
        Some("virtual") => Some(LockTarget::VirtualTransaction),
        // advisory lock [database,classid,objid,objsubid]
        Some("advisory") => match (number(3), number(4), words.get(5).and_then(|word| word.parse().ok())) {
            (Some(classid), Some(objid), Some(objsubid)) => {
                Some(LockTarget::Advisory(AdvisoryKey { classid, objid, objsubid }))
            }
            _ => None,
        },
        _ => None,
    };
    parsed.unwrap_or_else(|| LockTarget::Other(text.to_owned()))
}

/// Microseconds of `21.488 ms`; the server prints three digits after the point.
pub(super) fn parse_milliseconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.strip_suffix(" ms")?.split_once('.')?;
    Some(whole.parse::<i64>().ok()? * 1000 + fraction.parse::<i64>().ok()?)
}
