//! Production's day as a table: how often each route is asked for, minute by minute, and by how many clients at once.
//!
//! `file` reads it; a scenario that says `profile = true` takes its rates, its mix of steps and its number of connections or
//! users from it.

use std::collections::BTreeMap;
use std::path::Path;

use super::rates::{RATE_MAX_PER_S, Rates, Stretch, check_rate};
use super::raw::RawProfile;
use crate::feeder::table::{Table, from_csv, read};

/// Minutes of a day.
const MINUTES: usize = 1440;
/// Weight of the most frequent step of a minute.
const WEIGHT_MAX: f64 = 1_000_000.0;
/// Largest number of clients at once that a line may have.
const CLIENTS_MAX: f64 = 1_000_000.0;

/// A profile with the minute of the day at which the traffic begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Profile {
    routes: BTreeMap<String, Vec<Minute>>,
    from_minute: usize,
    factor: f64,
}

/// What one route is asked for in one minute, in production.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Minute {
    rate_per_s: f64,
    clients: Option<f64>,
}

/// How often each step is chosen, from an offset on.
pub(crate) type Mix = (u64, Vec<u32>);

/// What a profile says of an open-model scenario.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProfiledArrivals {
    pub(super) rates: Rates,
    /// Ascending, the first one at 0 µs.
    pub(super) mixes: Vec<Mix>,
    /// Clients at once, where the profile has them.
    pub(super) clients: Option<usize>,
}

/// What a profile says of a journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProfiledUsers {
    pub(super) users: u32,
    pub(super) think_ms: (u64, u64),
}

impl Profile {
    /// Reads the table, which lies beside the workload.
    pub(super) fn read(raw: &RawProfile, beside: &Path) -> Result<Self, String> {
        let factor = raw.factor.unwrap_or(1.0);
        if !(factor > 0.0 && factor <= 1000.0) {
            return Err(format!("factor = {factor} is outside 0 (excluded) to 1000"));
        }
        let text = read(&beside.join(&raw.file))?;
        let routes = from_csv(&text).and_then(|table| days(&table));
        let routes = routes.map_err(|what| format!("{}: {what}", raw.file.display()))?;
        let from_minute = match &raw.from {
            Some(text) => {
                minute_of(text).ok_or_else(|| format!("from = \"{text}\": write a time as 09:30"))?
            }
            None => busiest(&routes),
        };
        Ok(Self { routes, from_minute, factor })
    }

    /// Rates and mix of independent requests on these routes, one a step.
    pub(super) fn arrivals(&self, routes: &[&str]) -> Result<ProfiledArrivals, String> {
        let days = self.days_of(routes)?;
        let (mut stretches, mut mixes): (Vec<Stretch>, Vec<Mix>) = (Vec::new(), Vec::new());
        for passed in 0..MINUTES {
            let minutes = days.iter().map(|day| day[(self.from_minute + passed) % MINUTES]);
            let rates: Vec<f64> = minutes.map(|minute| minute.rate_per_s * self.factor).collect();
            let rate_per_s: f64 = rates.iter().sum();
            if rate_per_s > RATE_MAX_PER_S {
                return Err(format!(
                    "{rate_per_s} requests a second are more than {RATE_MAX_PER_S}: lower `factor`"
                ));
            }
            match stretches.last_mut() {
                #[expect(clippy::float_cmp, reason = "the very same sum of the very same lines")]
                Some(last) if last.rate_per_s == rate_per_s => last.length_s += 60.0,
                _ => stretches.push(Stretch { length_s: 60.0, rate_per_s, to_per_s: rate_per_s }),
            }
            let weights = weights(&rates);
            if mixes.last().is_none_or(|(_, last)| *last != weights) {
                mixes.push((passed as u64 * 60_000_000, weights));
            }
        }
        let rates = Rates::new(&stretches);
        if rates.highest_per_s() <= 0.0 {
            return Err("nothing ever arrives on its routes".to_owned());
        }
        Ok(ProfiledArrivals { rates, mixes, clients: self.clients_max(&days) })
    }

    /// Users and think time of a journey over these routes, as the profile has them at the minute of the beginning.
    ///
    /// A journey has as many clients at once as the busiest of its routes. Together they send what its routes have, so each
    /// sends a request every `clients / rate`; that is the mean think time, spread by half of it to both sides.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are checked to be small and positive"
    )]
    pub(super) fn users(&self, routes: &[&str]) -> Result<ProfiledUsers, String> {
        let days = self.days_of(routes)?;
        let now: Vec<Minute> = days.iter().map(|day| day[self.from_minute]).collect();
        let clients = now.iter().filter_map(|minute| minute.clients).fold(0.0, f64::max);
        let rate_per_s: f64 = now.iter().map(|minute| minute.rate_per_s).sum();
        let at = || format!("{:02}:{:02}", self.from_minute / 60, self.from_minute % 60);
        if clients <= 0.0 {
            return Err(format!("it has no `concurrency` for these routes at {}, which users need", at()));
        }
        if rate_per_s <= 0.0 {
            return Err(format!("nothing arrives on these routes at {}", at()));
        }
        let users = (clients * self.factor).round().max(1.0);
        let think_ms = 1000.0 * clients / rate_per_s;
        if users > 10_000.0 || think_ms * 1.5 > 600_000.0 {
            return Err(format!(
                "{users} users who think {think_ms:.0} ms are more than 10000 users or 400000 ms at {}",
                at()
            ));
        }
        let think_ms = ((think_ms * 0.5) as u64, ((think_ms * 1.5) as u64).max(1));
        Ok(ProfiledUsers { users: users as u32, think_ms })
    }

    fn days_of(&self, routes: &[&str]) -> Result<Vec<&Vec<Minute>>, String> {
        let mut days = Vec::with_capacity(routes.len());
        for (index, route) in routes.iter().enumerate() {
            if routes[..index].contains(route) {
                return Err(format!(
                    "two steps have the route `{route}`, and the profile cannot tell them apart"
                ));
            }
            let known = || self.routes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let day = self.routes.get(*route);
            days.push(day.ok_or_else(|| format!("it has no route `{route}`; it has: {}", known()))?);
        }
        Ok(days)
    }

    /// The most clients that these routes have together in any minute.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a scenario may have"
    )]
    fn clients_max(&self, days: &[&Vec<Minute>]) -> Option<usize> {
        let sum = |minute: usize| days.iter().filter_map(|day| day[minute].clients).sum::<f64>();
        let most = (0..MINUTES).map(sum).fold(0.0, f64::max);
        (most > 0.0).then(|| (most * self.factor).ceil().clamp(1.0, 10_000.0) as usize)
    }
}

/// Whole weights in the proportion of rates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
fn weights(rates: &[f64]) -> Vec<u32> {
    let most = rates.iter().copied().fold(0.0, f64::max);
    rates.iter().map(|rate| if most > 0.0 { (rate / most * WEIGHT_MAX).round() as u32 } else { 1 }).collect()
}

/// The minute in which most arrives, over all routes.
fn busiest(routes: &BTreeMap<String, Vec<Minute>>) -> usize {
    let sum = |minute: usize| routes.values().map(|day| day[minute].rate_per_s).sum::<f64>();
    // The first one of several.
    (0..MINUTES).rev().max_by(|left, right| sum(*left).total_cmp(&sum(*right))).unwrap_or(0)
}

/// A time of the day as `HH:MM`.
fn minute_of(text: &str) -> Option<usize> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let (hours, minutes): (usize, usize) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// The days of all routes. A line holds until the next one of its route; before the first one of the day the last one does.
fn days(table: &Table) -> Result<BTreeMap<String, Vec<Minute>>, String> {
    let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
    if !matches!(
        columns[..],
        ["route", "minute", "rate_per_s"] | ["route", "minute", "rate_per_s", "concurrency"]
    ) {
        return Err(
            "its first line must be `route,minute,rate_per_s` or `route,minute,rate_per_s,concurrency`"
                .to_owned(),
        );
    }
    let mut lines: BTreeMap<String, BTreeMap<usize, Minute>> = BTreeMap::new();
    for (row, cells) in (1..).zip(&table.rows) {
        let cell = |index: usize| cells.get(index).and_then(Option::as_deref);
        let fault = |what: String| format!("row {row}: {what}");
        let route = cell(0).ok_or_else(|| fault("it names no route".to_owned()))?;
        let minute = cell(1).unwrap_or_default();
        let at =
            minute_of(minute).ok_or_else(|| fault(format!("minute `{minute}`: write a time as 09:30")))?;
        let rate = cell(2).unwrap_or_default();
        let rate_per_s =
            rate.trim().parse::<f64>().map_err(|_| fault(format!("rate_per_s `{rate}` is no number")))?;
        check_rate(rate_per_s).map_err(fault)?;
        let clients = cell(3).map(|text| {
            let clients =
                text.trim().parse::<f64>().ok().filter(|clients| (0.0..=CLIENTS_MAX).contains(clients));
            clients.ok_or_else(|| fault(format!("concurrency `{text}` is outside 0 to {CLIENTS_MAX}")))
        });
        let line = Minute { rate_per_s, clients: clients.transpose()? };
        if lines.entry(route.to_owned()).or_default().insert(at, line).is_some() {
            return Err(fault(format!("route `{route}` has a second line for {minute}")));
        }
    }
    if lines.is_empty() {
        return Err("it has no line below the first".to_owned());
    }
    let day = |lines: BTreeMap<usize, Minute>| {
        let last = lines.values().next_back().copied().unwrap_or_default();
        let at = |minute: usize| lines.range(..=minute).next_back().map_or(last, |(_, line)| *line);
        (0..MINUTES).map(at).collect()
    };
    Ok(lines.into_iter().map(|(route, lines)| (route, day(lines))).collect())
}

#[cfg(test)]
mod tests {
    use super::{Profile, ProfiledUsers};
    use crate::file::raw::RawProfile;

    const DAY: &str = "route,minute,rate_per_s,concurrency\nread,08:00,100,20\nread,20:00,10,2\nwrite,09:00,50,30\nwrite,09:02,0,\n";

    fn profile(text: &str, from: Option<&str>, factor: f64) -> Result<Profile, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("day.csv"), text).unwrap();
        let raw = RawProfile { file: "day.csv".into(), from: from.map(str::to_owned), factor: Some(factor) };
        Profile::read(&raw, folder.path())
    }

    #[test]
    fn rates_mix_and_clients_follow_the_day() {
        let profile = profile(DAY, Some("08:59"), 0.1).unwrap();
        let arrivals = profile.arrivals(&["read", "write"]).unwrap();
        // A minute at 10 a second, two at 15, then 10 again until the evening.
        let due = |count: f64| arrivals.rates.due_us(count).unwrap() / 1e6;
        assert!((due(600.0) - 60.0).abs() < 1e-6 && (due(615.0) - 61.0).abs() < 1e-6, "{}", due(615.0));
        assert!((due(2400.0) - 180.0).abs() < 1e-6 && (due(2410.0) - 181.0).abs() < 1e-6);
        let mixes: Vec<(u64, &[u32])> =
            arrivals.mixes.iter().map(|(at_us, weights)| (*at_us / 60_000_000, weights.as_slice())).collect();
        assert_eq!(mixes, [(0, [1_000_000, 0].as_slice()), (1, &[1_000_000, 500_000]), (3, &[1_000_000, 0])]);
        assert_eq!(arrivals.clients, Some(5), "a tenth of 20 and 30");
        assert_eq!(profile.arrivals(&["write"]).unwrap().clients, Some(3));
    }

    #[test]
    fn it_begins_in_the_busiest_minute_and_users_think_what_is_left() {
        let profile = profile(DAY, None, 0.5).unwrap();
        let arrivals = profile.arrivals(&["read", "write"]).unwrap();
        assert!((arrivals.rates.first_per_s() - 75.0).abs() < 1e-9);
        // 30 clients send 150 a second: one every 200 ms each.
        let users = profile.users(&["read", "write"]).unwrap();
        assert_eq!(users, ProfiledUsers { users: 15, think_ms: (100, 300) });
    }

    #[test]
    fn what_it_lacks_is_named() {
        let refusal = |text: &str, from: Option<&str>, factor: f64| profile(text, from, factor).unwrap_err();
        for (text, expected) in [
            ("route,rate\n", "first line must be"),
            ("route,minute,rate_per_s\n", "no line below the first"),
            ("route,minute,rate_per_s\nr,24:00,1\n", "row 1: minute `24:00`"),
            ("route,minute,rate_per_s\nr,10:00,fast\n", "row 1: rate_per_s `fast` is no number"),
            ("route,minute,rate_per_s\nr,10:00,-1\n", "row 1: -1 requests a second"),
            (
                "route,minute,rate_per_s\nr,10:00,1\nr,10:00,2\n",
                "row 2: route `r` has a second line for 10:00",
            ),
            ("route,minute,rate_per_s,concurrency\nr,10:00,1,many\n", "row 1: concurrency `many`"),
        ] {
            let error = refusal(text, None, 1.0);
            assert!(
                error.starts_with("day.csv: ") && error.contains(expected),
                "{error}\nshould contain {expected}"
            );
        }
        assert!(refusal(DAY, Some("nine"), 1.0).contains("from = \"nine\": write a time as 09:30"));
        assert!(refusal(DAY, None, 0.0).contains("factor = 0 is outside"));
        let fine = profile(DAY, Some("10:00"), 1.0).unwrap();
        for (error, expected) in [
            (fine.arrivals(&["read", "pay"]).unwrap_err(), "no route `pay`; it has: read, write"),
            (fine.arrivals(&["read", "read"]).unwrap_err(), "two steps have the route `read`"),
            (fine.users(&["write"]).unwrap_err(), "no `concurrency` for these routes at 10:00"),
            (
                profile("route,minute,rate_per_s\nr,10:00,100000\n", None, 2.0)
                    .unwrap()
                    .arrivals(&["r"])
                    .unwrap_err(),
                "lower `factor`",
            ),
        ] {
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }
}
