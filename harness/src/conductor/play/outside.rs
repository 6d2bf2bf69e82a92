//! What the calls to the outside mean: findings about the package, or habits of a service that it had before.
//!
//! The play calls it at the end; the findings become the runtime's part of PRE-ENDPOINT.

use std::collections::HashSet;

use fulldress_reports::check::CheckId;
use fulldress_reports::finding::Finding;

use crate::mirror::{Called, Caller, Outbound, OutboundCall};

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
    for call in &outbound.calls {
        let what = object(&call.called);
        let is_new = told.insert((call.caller.to_string(), what.clone(), is_habit(call)));
        if is_habit(call) {
            if is_new {
                outside.habits.push(format!("{} called {what}", call.caller));
            }
        // What a service did before an upgrade replaced it is not the upgrade's doing, whichever container did it.
        } else if is_new && !habits.contains(&call.called) {
            outside.findings.push(finding(call));
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

fn finding(call: &OutboundCall) -> Finding {
    let (subject, when) = match &call.caller {
        Caller::Script => ("A script".to_owned(), "while it ran"),
        Caller::Service(name) => (format!("Service {name}"), "for the first time since the upgrade began"),
    };
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
}
