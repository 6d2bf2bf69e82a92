//! What the calls to the outside mean: findings about the package, or habits of a service that it had before.
//!
//! The play calls it at the end; the findings become the runtime's part of PRE-ENDPOINT.

use std::collections::{BTreeMap, HashSet};

use fulldress_reports::check::CheckId;
use fulldress_reports::finding::Finding;

use crate::mirror::{Called, Caller, Outbound, OutboundCall};

/// How many calls of one caller are told one by one: one that makes up names would fill the report.
const TOLD_MAX: usize = 25;
/// Object of the finding about the others.
const FURTHER: &str = "further names and addresses";

/// What the calls of a rehearsal come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outside {
    /// Calls of scripts, and those that services made from the upgrade on and not before.
    pub(super) findings: Vec<Finding>,
    /// Calls of services that they made before the upgrade, a phrase each.
    pub(super) habits: Vec<String>,
}

/// Sorts calls; the upgrade began at `upgrade_unix_us`, absent where it did not begin.
pub(super) fn sort(outbound: &Outbound, upgrade_unix_us: Option<u64>) -> Outside {
    let is_habit = |call: &OutboundCall| {
        call.caller != Caller::Script && upgrade_unix_us.is_none_or(|upgrade| call.first_unix_us < upgrade)
    };
    // A service that makes up names calls ten thousand of them: each is looked up, none looked for.
    let habits: HashSet<&Called> =
        outbound.calls.iter().filter(|call| is_habit(call)).map(|call| &call.called).collect();
    let mut outside = Outside::default();
    let mut told = HashSet::new();
    let mut further: BTreeMap<(bool, String), (&OutboundCall, usize)> = BTreeMap::new();
    for call in &outbound.calls {
        let is_habit = is_habit(call);
        // What a service did before an upgrade replaced it is not the upgrade's doing, whichever container did it.
        if !is_habit && habits.contains(&call.called) {
            continue;
        }
        let caller = call.caller.to_string();
        if !told.insert((is_habit, caller.clone(), object(&call.called))) {
            continue;
        }
        let (_, count) = further.entry((is_habit, caller)).or_insert((call, 0));
        *count += 1;
        if *count > TOLD_MAX {
            continue;
        }
        if is_habit {
            outside.habits.push(format!("{} called {}", call.caller, object(&call.called)));
        } else {
            outside.findings.push(finding(call));
        }
    }
    for ((is_habit, caller), (first, count)) in further {
        let Some(more @ 1..) = count.checked_sub(TOLD_MAX) else { continue };
        if is_habit {
            outside.habits.push(format!("{caller} called {more} further names and addresses"));
        } else {
            let what =
                format!("{} called {more} further names and addresses {}.", subject(first), when(first));
            outside.findings.push(Finding { what, object: FURTHER.to_owned(), ..finding(first) });
        }
    }
    outside
}

fn object(called: &Called) -> String {
    match called {
        Called::Name(target) | Called::Address(target) => target.clone(),
        Called::Unknown(_) => "unknown addresses".to_owned(),
    }
}

fn subject(call: &OutboundCall) -> String {
    match &call.caller {
        Caller::Script => "A script".to_owned(),
        Caller::Service(name) => format!("Service {name}"),
    }
}

fn when(call: &OutboundCall) -> &'static str {
    match &call.caller {
        Caller::Script => "while it ran",
        Caller::Service(_) => "for the first time since the upgrade began",
    }
}

fn finding(call: &OutboundCall) -> Finding {
    let (subject, when) = (subject(call), when(call));
    let what = match &call.called {
        Called::Name(name) => {
            format!("{subject} asked for the address of {name} {when}; the mirror has no such host.")
        }
        Called::Address(target) => {
            let (protocol, address) = target.split_once(' ').unwrap_or(("", target));
            format!("{subject} called {address} ({protocol}) {when}; it was refused.")
        }
        Called::Unknown(times) => format!(
            "{subject} called bare addresses outside {times} times as it started, before they could be seen; there was \
             no way to them."
        ),
    };
    let remedy = match &call.caller {
        Caller::Script => {
            "Name the host and its stand-in in the inventory, or take the call out of the package."
        }
        Caller::Service(_) => {
            "Name the host and its stand-in in the inventory, or ask the vendor what the new version calls it for."
        }
    };
    Finding {
        check: CheckId::PreEndpoint,
        what,
        object: object(&call.called),
        place: None,
        remedy: remedy.to_owned(),
        magnitude: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Called, Caller, Outbound, OutboundCall, sort};

    const UPGRADE: u64 = 100;

    fn call(caller: &Caller, name: &str, first_unix_us: u64) -> OutboundCall {
        OutboundCall { caller: caller.clone(), called: Called::Name(name.to_owned()), first_unix_us }
    }

    #[test]
    fn a_script_is_always_found_and_a_service_only_when_the_upgrade_made_it_call() {
        let (script, shop) = (Caller::Script, Caller::Service("shop".to_owned()));
        let calls = vec![
            call(&shop, "metrics.example", 50),
            call(&script, "home.example", 90),
            call(&shop, "metrics.example", 150),
            call(&shop, "telemetry.example", 160),
            call(&shop, "telemetry.example", 170),
            OutboundCall { caller: shop.clone(), called: Called::Unknown(2), first_unix_us: 180 },
        ];
        let outbound = Outbound { calls, unseen: Vec::new() };
        let sorted = sort(&outbound, Some(UPGRADE));
        let objects: Vec<&str> = sorted.findings.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, ["home.example", "telemetry.example", "unknown addresses"]);
        assert_eq!(sorted.habits, ["service shop called metrics.example"]);
        assert!(
            sorted.findings[1].what.starts_with("Service shop asked for the address of telemetry.example")
        );
        // Nothing was upgraded: nothing can be its doing.
        let never = sort(&outbound, None);
        assert_eq!((never.findings.len(), never.habits.len()), (1, 3));
    }

    #[test]
    fn a_caller_that_makes_up_names_is_told_in_a_few_lines() {
        let shop = Caller::Service("shop".to_owned());
        let before = (0..30).map(|number| call(&shop, &format!("a{number}.example"), 50));
        let after = (0..10_000).map(|number| call(&shop, &format!("b{number}.example"), 150));
        let outbound = Outbound { calls: before.chain(after).collect(), unseen: Vec::new() };
        let sorted = sort(&outbound, Some(UPGRADE));
        assert_eq!((sorted.habits.len(), sorted.findings.len()), (26, 26));
        assert_eq!(sorted.habits[25], "service shop called 5 further names and addresses");
        assert_eq!(
            sorted.findings[25].what,
            "Service shop called 9975 further names and addresses for the first time since the upgrade began."
        );
    }
}
