//! Which route makes a statement, learnt in the warmup: there every request and every statement is known, and one that runs in
//! a request of the same route each time is made by that route.

use std::collections::BTreeMap;

use fulldress_reports::traffic::SlowRequest;

use super::{CANDIDATES_MAX, Kind};
use crate::recorder::Heard;

/// How much earlier than its request a statement may seem to begin, or later to end, microseconds: its end is known to the
/// millisecond, and the clocks to less.
const TOLERANCE_US: u64 = 1_500;
/// A kind of statement that was heard less often is not known.
const HEARD_MIN: u32 = 5;
/// In this share of its runs a request of the route must have been under way: some lie on the edge of the tolerance.
const PRESENT_MIN: f64 = 0.9;
/// And of any other route in so many of those at most, or chance and cause are not told apart.
const OTHERS_MAX: f64 = 0.6;

/// The route of each kind of statement that only one route can have made. The requests are in the order of their start.
pub(super) fn learnt<'a>(heard: &'a [Heard], requests: &[&'a SlowRequest]) -> BTreeMap<Kind<'a>, &'a str> {
    let mut kinds: BTreeMap<Kind<'a>, (u32, BTreeMap<&'a str, u32>)> = BTreeMap::new();
    for one in heard {
        let (runs, present) = kinds.entry((&one.role, &one.statement)).or_default();
        *runs += 1;
        for route in under_way(one, requests) {
            *present.entry(route).or_default() += 1;
        }
    }
    let only = |(kind, (runs, present)): (Kind<'a>, (u32, BTreeMap<&'a str, u32>))| {
        let mut by_count: Vec<(u32, &str)> =
            present.into_iter().map(|(route, count)| (count, route)).collect();
        by_count.sort_unstable();
        let (most, route) = by_count.pop()?;
        let next = by_count.pop().map_or(0, |(count, _)| count);
        let is_made = f64::from(most) >= PRESENT_MIN * f64::from(runs);
        let is_alone = f64::from(next) <= OTHERS_MAX * f64::from(most);
        (runs >= HEARD_MIN && is_made && is_alone).then_some((kind, route))
    };
    kinds.into_iter().filter_map(only).collect()
}

/// Routes with a request around a statement, each once.
fn under_way<'a>(one: &Heard, requests: &[&'a SlowRequest]) -> Vec<&'a str> {
    let before = requests.partition_point(|request| request.started_us <= one.start_us + TOLERANCE_US);
    let around = requests[..before].iter().rev().take(CANDIDATES_MAX);
    let around = around.filter(|request| request.ended_us + TOLERANCE_US >= one.end_us);
    let mut routes: Vec<&str> = around.map(|request| request.route.as_str()).collect();
    routes.sort_unstable();
    routes.dedup();
    routes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fulldress_reports::traffic::SlowRequest;

    use super::learnt;
    use crate::recorder::Heard;

    fn heard(role: &str, statement: &str, start_us: u64) -> Heard {
        let (role, statement) = (role.to_owned(), statement.to_owned());
        Heard { role, statement, start_us, end_us: start_us + 1_000 }
    }

    #[test]
    fn a_statement_is_a_routes_where_no_other_can_have_made_it() {
        let mut statements = Vec::new();
        let mut requests = Vec::new();
        for round in 0..10 {
            let start_us = round * 100_000;
            for (route, after_us) in [("GET /a", 0), ("GET /b", 40_000)] {
                let started_us = start_us + after_us;
                requests.push(SlowRequest {
                    route: route.to_owned(),
                    started_us,
                    ended_us: started_us + 5_000,
                });
            }
            statements.push(heard("app", "SELECT a", start_us + 1_000));
            statements.push(heard("app", "SELECT b", start_us + 42_000));
            // Both routes make it.
            statements.push(heard("app", "SELECT user", start_us + 1_000));
            statements.push(heard("app", "SELECT user", start_us + 42_000));
            // By its own clock, and only by chance within a request.
            statements.push(heard("worker", "SELECT poll", round * 130_000));
        }
        statements.truncate(statements.len() - 1);
        statements.push(heard("app", "SELECT seldom", 1_000));
        let requests: Vec<&SlowRequest> = requests.iter().collect();
        let expected = BTreeMap::from([(("app", "SELECT a"), "GET /a"), (("app", "SELECT b"), "GET /b")]);
        assert_eq!(learnt(&statements, &requests), expected);
    }

    #[test]
    fn nothing_is_learnt_where_requests_of_all_routes_are_always_under_way() {
        let endless =
            |route: &str| SlowRequest { route: route.to_owned(), started_us: 0, ended_us: 1_000_000 };
        let (one, other) = (endless("GET /a"), endless("GET /b"));
        let statements: Vec<Heard> = (0..20).map(|round| heard("app", "SELECT a", round * 10_000)).collect();
        assert_eq!(learnt(&statements, &[&one, &other]), BTreeMap::new());
    }
}
