//! What of a definition is compared: not the moment at which the object was made, and not the order of a view's columns.
//!
//! Called by [`super::state`] for every object of a fingerprint. `'now'::timestamp` in a view or a default is a constant from then on, and
//! another one each time that a migration makes the object; `SELECT *` lists a table's columns in their physical order.

use std::borrow::Cow;
use std::ops::Range;

use fulldress_reports::sql::{Token, tokens};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, Time};

use crate::fingerprint::{ColumnOrder, Compared};

/// A constant so near to the reading was taken when the object was made: a day covers every time zone.
const MOMENT: Duration = Duration::DAY;
/// What stands for such a constant.
const FROZEN: &str = "'(when it was made)'";

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const CLOCK: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[hour]:[minute]:[second][optional [.[subsecond]]]");

/// What is compared of an object of this kind; none where that is the definition as it stands.
pub(super) fn compared(kind: &str, definition: &str, now: OffsetDateTime) -> Option<Compared> {
    let thawed = without_moments(definition, now);
    if (kind == "view" || kind == "materialized view")
        && let Some((definition, columns)) = sorted(&thawed)
    {
        return Some(Compared { definition, columns: Some(columns) });
    }
    match thawed {
        Cow::Borrowed(_) => None,
        Cow::Owned(definition) => Some(Compared { definition, columns: None }),
    }
}

/// A definition without the constants that were taken when it was made.
fn without_moments(definition: &str, now: OffsetDateTime) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept_to = 0;
    let mut walk = tokens(definition).peekable();
    while let Some((token, at)) = walk.next() {
        let end = walk.peek().map_or(definition.len(), |(_, next)| *next);
        if token == Token::Literal && is_moment(&definition[at..end], now) {
            out.push_str(&definition[kept_to..at]);
            out.push_str(FROZEN);
            kept_to = end;
        }
    }
    if kept_to == 0 {
        return Cow::Borrowed(definition);
    }
    out.push_str(&definition[kept_to..]);
    Cow::Owned(out)
}

/// Whether a literal is a date, or a date and a time, near to now. The fingerprint has both in ISO's form and in UTC.
fn is_moment(literal: &str, now: OffsetDateTime) -> bool {
    let text = literal.trim_matches('\'');
    let (date, clock) = text.split_once(' ').map_or((text, None), |(date, clock)| (date, Some(clock)));
    let Ok(date) = Date::parse(date, DATE) else { return false };
    let now = PrimitiveDateTime::new(now.date(), now.time());
    match clock {
        None => (date - now.date()).abs() <= MOMENT,
        Some(clock) => Time::parse(clock.strip_suffix("+00").unwrap_or(clock), CLOCK)
            .is_ok_and(|clock| (PrimitiveDateTime::new(date, clock) - now).abs() <= MOMENT),
    }
}

/// A view's definition with its columns in the order of their text, and the order in which they stand; none where the order has a
/// meaning, as in a UNION, or no columns are found.
fn sorted(definition: &str) -> Option<(String, ColumnOrder)> {
    let (list, commas) = select_list(definition)?;
    let starts = std::iter::once(list.start).chain(commas.iter().map(|comma| comma + 1));
    let ends = commas.iter().copied().chain([list.end]);
    let mut items: Vec<&str> = starts.zip(ends).map(|(start, end)| definition[start..end].trim()).collect();
    let physical = items.join(", ");
    items.sort_unstable();
    let sorted = items.join(", ");
    let text = format!("{} {sorted} {}", &definition[..list.start], &definition[list.end..]);
    Some((text, ColumnOrder { physical, sorted }))
}

/// Where the list of the first SELECT outside parentheses stands, and the commas between its items.
fn select_list(definition: &str) -> Option<(Range<usize>, Vec<usize>)> {
    let (mut start, mut end) = (None, None);
    let mut commas = Vec::new();
    let mut depth = 0_usize;
    // `DISTINCT`, and `ON (…)` after it, stand before the first item.
    let mut distinct = false;
    for (token, at) in tokens(definition) {
        match token {
            Token::Symbol("(" | "[") => depth += 1,
            Token::Symbol(")" | "]") => {
                depth = depth.saturating_sub(1);
                if depth == 0 && distinct {
                    (start, distinct) = (Some(at + 1), false);
                }
            }
            _ if depth > 0 => {}
            Token::Symbol(",") if start.is_some() && end.is_none() => commas.push(at),
            Token::Symbol(";") => end = end.or(Some(at)),
            Token::Word(word) => {
                let is = |words: &[&str]| words.iter().any(|one| word.eq_ignore_ascii_case(one));
                if is(&["union", "intersect", "except"]) {
                    return None;
                } else if start.is_none() {
                    start = is(&["select"]).then_some(at + word.len());
                } else if is(&["distinct"]) && definition[start?..at].trim().is_empty() {
                    start = Some(at + word.len());
                } else if is(&["on"]) && commas.is_empty() && definition[start?..at].trim().is_empty() {
                    distinct = true;
                } else if is(&["from", "where", "group", "having", "window", "order", "limit", "offset"]) {
                    end = end.or(Some(at));
                }
            }
            _ => {}
        }
    }
    Some((start?..end.unwrap_or(definition.len()), commas))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::{compared, sorted, without_moments};

    #[test]
    fn constants_from_the_moment_of_making_are_not_compared() {
        let now = datetime!(2026-11-25 21:40:00 UTC);
        let is_same = |left: &str, right: &str| without_moments(left, now) == without_moments(right, now);
        let view = |constant: &str| {
            format!(" SELECT a FROM t WHERE (t.at > '{constant}'::timestamp without time zone);")
        };
        assert!(is_same(&view("2026-11-25 21:39:58.123456"), &view("2026-11-25 21:40:01")));
        assert!(is_same(&view("2026-11-25 21:39:58+00"), &view("2026-11-25")));
        // What the migration says itself, and what is no time.
        assert!(!is_same(&view("2026-11-20 21:39:58"), &view("2026-11-25 21:40:01")));
        assert!(!is_same(&view("2026-11-25 21:39:58"), "SELECT a FROM t WHERE (t.at > '1');"));
        assert!(!is_same(&view("release 2026-11-25"), &view("release 2026-11-26")));
        assert!(compared("function", "SELECT 'it''s'", now).is_none());
    }

    #[track_caller]
    fn has_order(definition: &str, other: &str) {
        let (one, two) = (sorted(definition).unwrap(), sorted(other).unwrap());
        assert_eq!(one.0, two.0);
        assert_eq!(one.1.sorted, two.1.sorted);
        assert_ne!(one.1.physical, two.1.physical);
    }

    #[test]
    fn columns_of_a_view_are_compared_without_their_order() {
        has_order(
            " SELECT t.id,\n    t.b,\n    t.a\n   FROM t;",
            " SELECT t.id,\n    t.a,\n    t.b\n   FROM t;",
        );
        has_order(
            " SELECT DISTINCT t.b, f(t.a, 1) AS a FROM t;",
            " SELECT DISTINCT f(t.a, 1) AS a, t.b FROM t;",
        );
        has_order(
            " SELECT DISTINCT ON (t.a, t.b) t.b, t.a FROM t;",
            " SELECT DISTINCT ON (t.a, t.b) t.a, t.b FROM t;",
        );
        has_order(
            "options security_barrier=true WITH x AS ( SELECT 1 AS p UNION SELECT 2) SELECT x.p, 'a, b'::text AS q FROM x",
            "options security_barrier=true WITH x AS ( SELECT 1 AS p UNION SELECT 2) SELECT 'a, b'::text AS q, x.p FROM x",
        );
        has_order(" SELECT 1 AS a, 2 AS b;", " SELECT 2 AS b, 1 AS a;");
    }

    #[test]
    fn an_order_that_means_something_stays() {
        assert!(sorted(" SELECT t.a, t.b FROM t UNION SELECT t.b, t.a FROM t;").is_none());
        let order = |columns: &str| sorted(&format!(" SELECT t.a FROM t ORDER BY {columns};")).unwrap().0;
        assert_ne!(order("t.a, t.b"), order("t.b, t.a"));
        let distinct =
            |columns: &str| sorted(&format!(" SELECT DISTINCT ON ({columns}) t.a FROM t;")).unwrap().0;
        assert_ne!(distinct("t.a, t.b"), distinct("t.b, t.a"));
        // The same names for other columns are another view.
        assert_ne!(
            sorted(" SELECT t.a AS x, t.b AS y FROM t;"),
            sorted(" SELECT t.b AS x, t.a AS y FROM t;")
        );
    }
}
