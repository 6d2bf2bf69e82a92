//! `crontab`, `at`, `atq` and `atrm`, with the texts and exit codes of Debian's.

use std::fmt::Write as _;

use super::{AtJob, HostState, ShimReply};

/// `crontab [-u USER] {-l | -r | -i | - | FILE}`. The file's text arrives as `text`.
pub(super) fn crontab(state: &mut HostState, args: &[String], text: &str, caller: &str) -> ShimReply {
    let (mut user, mut action) = (caller.to_owned(), None);
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        match arg {
            "-u" => match rest.next() {
                Some(name) => user = name.to_owned(),
                None => return usage("option requires an argument"),
            },
            "-l" | "-r" | "-e" => action = Some(arg),
            "-i" => {}
            "-n" | "-T" => return ShimReply::default(),
            flag if flag.len() > 1 && flag.starts_with('-') => return usage("unrecognized option"),
            file => action = Some(file),
        }
    }
    if user != caller && caller != "root" {
        return ShimReply::fail(1, "must be privileged to use -u\n");
    }
    if !state.is_user(&user) {
        return ShimReply::fail(1, format!("crontab:  user `{user}' unknown\n"));
    }
    let none = format!("no crontab for {user}\n");
    match action {
        None => usage("file name must be specified for replace"),
        Some("-l") => match state.crontabs.get(&user) {
            Some(table) => ShimReply::say(table.clone()),
            None => ShimReply::fail(1, none),
        },
        Some("-r") if state.crontabs.remove(&user).is_some() => ShimReply::default(),
        Some("-r") => ShimReply::fail(1, none),
        Some("-e") => ShimReply::fail(1, "crontab: there is no terminal to edit on\n"),
        Some(file) => match fault(text) {
            Some((line, fault)) => {
                let errors = format!("\"{file}\":{line}: {fault}\nerrors in crontab file, can't install.\n");
                ShimReply::fail(1, errors)
            }
            None if !text.is_empty() && !text.ends_with('\n') => {
                ShimReply::fail(1, "new crontab file is missing newline before EOF, can't install.\n")
            }
            None => {
                state.crontabs.insert(user, text.to_owned());
                ShimReply::default()
            }
        },
    }
}

fn usage(reason: &str) -> ShimReply {
    let usage = format!(
        "crontab: usage error: {reason}\nusage:\tcrontab [-u user] file\n\tcrontab [-u user] [ -e | -l | -r ]\n"
    );
    ShimReply::fail(1, usage)
}

/// The first line that cron would not take, counted from 0 as crontab does, and what is wrong with it.
fn fault(text: &str) -> Option<(usize, &'static str)> {
    const NICKNAMES: [&str; 8] =
        ["@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    text.lines().enumerate().find_map(|(number, line)| {
        let line = line.trim_start();
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if first.starts_with('#') || is_variable(line) {
            return None;
        }
        if first.starts_with('@') {
            return (!NICKNAMES.contains(&first)).then_some((number, "bad time specifier"));
        }
        let names = ["bad minute", "bad hour", "bad day-of-month", "bad month", "bad day-of-week"];
        let mut fields = line.split_whitespace();
        for name in names {
            if !fields.next().is_some_and(is_time_field) {
                return Some((number, name));
            }
        }
        fields.next().is_none().then_some((number, "bad command"))
    })
}

fn is_variable(line: &str) -> bool {
    let name = line.split('=').next().unwrap_or_default().trim_end();
    line.contains('=')
        && !name.is_empty()
        && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// Numbers, names, ranges, lists and steps. Which numbers fit which field is cron's affair.
fn is_time_field(field: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"*,-/~".contains(&byte);
    field.bytes().all(legal) && field.bytes().any(|byte| byte == b'*' || byte.is_ascii_alphanumeric())
}

/// `at [-f FILE] [-q QUEUE] [-m] TIME…`, and `at -l`, `at -d N`, `at -r N`, `at -c N`.
pub(super) fn at(state: &mut HostState, args: &[String], commands: &str, user: &str) -> ShimReply {
    let mut when = Vec::new();
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        match arg {
            "-l" => return atq(state, user),
            "-d" | "-r" => return atrm(state, &rest.map(str::to_owned).collect::<Vec<_>>(), user),
            "-c" => return show(state, rest.next().unwrap_or_default()),
            "-V" => return ShimReply::fail(0, "at version 3.2.5\n"),
            "-f" | "-q" => {
                rest.next();
            }
            "-t" => when.extend(rest.next()),
            flag if flag.starts_with('-') => {}
            word => when.push(word),
        }
    }
    if when.is_empty() {
        return ShimReply::fail(1, "Garbled time\n");
    }
    let number = state.at_jobs.keys().next_back().copied().unwrap_or(0).max(state.last_job) + 1;
    state.last_job = number;
    let when = when.join(" ");
    let taken = format!("warning: commands will be executed using /bin/sh\njob {number} at {when}\n");
    let job = AtJob { user: user.to_owned(), when, commands: commands.to_owned() };
    state.at_jobs.insert(number, job);
    ShimReply::fail(0, taken)
}

fn show(state: &HostState, number: &str) -> ShimReply {
    match number.parse().ok().and_then(|number: u32| state.at_jobs.get(&number)) {
        Some(job) => ShimReply::say(format!("#!/bin/sh\n{}", job.commands)),
        None => unknown_job(number),
    }
}

fn unknown_job(number: &str) -> ShimReply {
    ShimReply::fail(1, format!("Cannot find jobid {number}\n"))
}

/// `atq`: root sees everybody's jobs.
pub(super) fn atq(state: &HostState, user: &str) -> ShimReply {
    let mut list = String::new();
    for (number, job) in state.at_jobs.iter().filter(|(_, job)| user == "root" || job.user == user) {
        // Writing to a string cannot fail.
        let _ = writeln!(list, "{number}\t{} a {}", job.when, job.user);
    }
    ShimReply::say(list)
}

/// `atrm N…`
pub(super) fn atrm(state: &mut HostState, args: &[String], user: &str) -> ShimReply {
    let mut last = ShimReply::default();
    for word in args {
        let number = word.parse().ok();
        let owner = number.and_then(|number: u32| state.at_jobs.get(&number)).map(|job| job.user.clone());
        match (number, owner) {
            (Some(number), Some(owner)) if user == "root" || owner == user => {
                state.at_jobs.remove(&number);
            }
            (Some(_), Some(_)) => last = ShimReply::fail(1, format!("{word}: Not owner\n")),
            _ => last = unknown_job(word),
        }
    }
    last
}
