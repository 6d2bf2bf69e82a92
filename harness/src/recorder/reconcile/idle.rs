//! How long a session sat idle in its transaction while it held a lock.
//!
//! `reconcile` asks for each lock. The statement log tells when a statement ended and when the next one came: what lies
//! between is the client's time, in which the lock is held for nothing.

use fulldress_reports::lock::{Bounds, LockOutcome};

use super::Context;
use super::holdings::Draft;
use super::timeline::Timeline;

/// The idle time inside a hold; absent where no log has all of the session's statements.
pub(super) fn idle(context: &Context<'_>, timeline: &Timeline<'_>, draft: &Draft) -> Option<Bounds> {
    if !context.is_fully_logged(timeline) {
        return None;
    }
    let mut idle = Bounds { low_us: 0, high_us: 0 };
    if draft.outcome != LockOutcome::Granted {
        return Some(idle);
    }
    // What passed before the statement that took the lock was not under it.
    for (index, statement) in timeline.statements.iter().enumerate().skip(draft.statement) {
        let Some(ended) = statement.end.filter(|_| statement.open_after) else { continue };
        // After its last statement a session is idle until it is gone, and its locks with it.
        let next = timeline.statements.get(index + 1);
        let came = next.map_or((i64::MAX, i64::MAX), super::statements::Statement::came);
        idle.low_us += overlap((ended.1, came.0), (draft.acquired.1, draft.released.0));
        idle.high_us += overlap((ended.0, came.1), (draft.acquired.0, draft.released.1));
    }
    Some(idle)
}

fn overlap(one: (i64, i64), other: (i64, i64)) -> u64 {
    u64::try_from(one.1.min(other.1).saturating_sub(one.0.max(other.0))).unwrap_or(0)
}
