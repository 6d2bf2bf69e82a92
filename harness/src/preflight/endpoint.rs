//! PRE-ENDPOINT: hosts that scripts and SQL call and the inventory does not know.

use std::net::IpAddr;
use std::sync::LazyLock;

use fulldress_reports::sql::pieces;
use regex::Regex;

use crate::inventory::Inventory;

use super::invocation::{self, Argument, Invocation};
use super::word::UNKNOWN;
use super::{Report, Scene};

/// How a program names the host that it calls.
enum Names {
    /// Operands are URLs or hosts with paths.
    Urls,
    /// The first operand is a host, the second may be its port.
    HostThenPort,
    /// The first operand is `user@host`.
    Login,
    /// Operands with a colon are `user@host:path`.
    Copies,
    /// Options name the host, operands may be connection strings.
    Database,
}

struct Caller {
    program: &'static str,
    names: Names,
    /// Options that take the next word.
    valued: &'static [&'static str],
}

const CURL: &[&str] = &[
    "-o",
    "-X",
    "-H",
    "-d",
    "-u",
    "-T",
    "-F",
    "-A",
    "-e",
    "-b",
    "-c",
    "-m",
    "-w",
    "-r",
    "-K",
    "-E",
    "-D",
    "-x",
    "--output",
    "--request",
    "--header",
    "--data",
    "--data-raw",
    "--data-binary",
    "--data-urlencode",
    "--json",
    "--user",
    "--form",
    "--user-agent",
    "--referer",
    "--cookie",
    "--cookie-jar",
    "--max-time",
    "--write-out",
    "--retry",
    "--retry-delay",
    "--retry-max-time",
    "--connect-timeout",
    "--cacert",
    "--capath",
    "--cert",
    "--key",
    "--proxy",
    "--upload-file",
    "--dump-header",
    "--config",
    "--resolve",
    "--interface",
    "--limit-rate",
    "--url",
];
const WGET: &[&str] = &[
    "-O",
    "-o",
    "-a",
    "-P",
    "-T",
    "-t",
    "-U",
    "-w",
    "-Q",
    "--header",
    "--post-data",
    "--post-file",
    "--method",
    "--body-data",
    "--timeout",
    "--tries",
];
const SSH: &[&str] = &["-p", "-P", "-i", "-l", "-o", "-F", "-J", "-L", "-R", "-D", "-c", "-e", "-S", "--rsh"];
const NETCAT: &[&str] = &["-w", "-p", "-s", "-q", "-i", "-x", "-X"];
const POSTGRES: &[&str] =
    &["-h", "-p", "-U", "-d", "-f", "-c", "-v", "-o", "-P", "-F", "-R", "-t", "-n", "-j", "-T"];

const CALLERS: &[Caller] = &[
    Caller { program: "curl", names: Names::Urls, valued: CURL },
    Caller { program: "wget", names: Names::Urls, valued: WGET },
    Caller { program: "nc", names: Names::HostThenPort, valued: NETCAT },
    Caller { program: "ncat", names: Names::HostThenPort, valued: NETCAT },
    Caller { program: "netcat", names: Names::HostThenPort, valued: NETCAT },
    Caller { program: "telnet", names: Names::HostThenPort, valued: &["-l"] },
    Caller { program: "ping", names: Names::HostThenPort, valued: &["-c", "-i", "-W", "-w", "-s"] },
    Caller { program: "ssh", names: Names::Login, valued: SSH },
    Caller { program: "sftp", names: Names::Login, valued: SSH },
    Caller { program: "scp", names: Names::Copies, valued: SSH },
    Caller { program: "rsync", names: Names::Copies, valued: SSH },
    Caller { program: "psql", names: Names::Database, valued: POSTGRES },
    Caller { program: "pg_dump", names: Names::Database, valued: POSTGRES },
    Caller { program: "pg_dumpall", names: Names::Database, valued: POSTGRES },
    Caller { program: "pg_restore", names: Names::Database, valued: POSTGRES },
    Caller { program: "pg_basebackup", names: Names::Database, valued: POSTGRES },
    Caller { program: "pg_isready", names: Names::Database, valued: POSTGRES },
    Caller { program: "vacuumdb", names: Names::Database, valued: POSTGRES },
    Caller { program: "reindexdb", names: Names::Database, valued: POSTGRES },
    Caller { program: "createdb", names: Names::Database, valued: POSTGRES },
    Caller { program: "dropdb", names: Names::Database, valued: POSTGRES },
    Caller { program: "mysql", names: Names::Database, valued: &["-h", "-P", "-u", "-e", "-D"] },
    Caller { program: "mysqldump", names: Names::Database, valued: &["-h", "-P", "-u"] },
    Caller { program: "redis-cli", names: Names::Database, valued: &["-h", "-p", "-a", "-n", "-u"] },
];

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let inventory = scene.input.inventory;
    for script in &scene.scripts {
        for invocation in &script.execution.invocations {
            judge_invocation(invocation, script.name, inventory, report);
        }
    }
    for (name, file) in &scene.input.package.files {
        if name.ends_with(".sql") {
            judge_sql(&String::from_utf8_lossy(&file.bytes), 1, name, inventory, report);
        }
    }
}

fn judge_invocation(invocation: &Invocation, file: &str, inventory: &Inventory, report: &mut Report) {
    let place = (file, invocation.line);
    for (target, how) in targets(invocation) {
        for value in &target.values {
            judge(value, &target.raw, &how, place, inventory, report);
        }
    }
    let database = CALLERS
        .iter()
        .any(|caller| caller.program == invocation.program && matches!(caller.names, Names::Database));
    if !database {
        return;
    }
    // SQL that goes to a database's client is searched as a file of SQL would be.
    if let Some((body, line)) = &invocation.heredoc {
        judge_sql(body, *line, file, inventory, report);
    }
    let commands = invocation.option(&["-c", "--command"]).into_iter().flat_map(|text| text.values);
    for command in commands {
        judge_sql(&command, invocation.line, file, inventory, report);
    }
}

/// What an invocation calls, each with a word for how.
fn targets(invocation: &Invocation) -> Vec<(Argument, String)> {
    let mut targets = Vec::new();
    for (operator, target) in &invocation.redirects {
        let values: Vec<String> = target
            .values
            .iter()
            .filter_map(|value| value.strip_prefix("/dev/tcp/").or_else(|| value.strip_prefix("/dev/udp/")))
            .map(|rest| rest.replacen('/', ":", 1))
            .collect();
        if !values.is_empty() {
            targets.push((
                Argument { values, raw: target.raw.clone() },
                format!("a redirection with {operator}"),
            ));
        }
    }
    let environment =
        invocation.environment.iter().filter(|(name, _)| name == "PGHOST" || name == "PGHOSTADDR");
    targets.extend(environment.map(|(name, value)| (value.clone(), name.clone())));
    let Some(caller) = CALLERS.iter().find(|caller| caller.program == invocation.program) else {
        return targets;
    };
    let how = caller.program.to_owned();
    let operands = invocation.operands(caller.valued);
    match caller.names {
        Names::Urls => {
            if invocation.option(&["--unix-socket", "--abstract-unix-socket"]).is_some() {
                return targets;
            }
            targets.extend(operands.into_iter().cloned().map(|operand| (operand, how.clone())));
            let options = [invocation.option(&["--url"]), invocation.option(&["-x", "--proxy"])];
            targets.extend(options.into_iter().flatten().map(|option| (option, how.clone())));
        }
        Names::HostThenPort => {
            let listens = invocation.arguments.iter().any(|argument| argument.is("-l") || argument.is("-U"));
            if let (Some(host), false) = (operands.first(), listens) {
                targets.push((with_port(host, operands.get(1).copied()), how));
            }
        }
        Names::Login => {
            if let Some(login) = operands.first() {
                targets.push(((*login).clone(), how));
            }
        }
        Names::Copies => {
            for operand in operands {
                let remote = |value: &&String| value.contains(':') && !value.starts_with(['/', '.']);
                let hosts: Vec<String> = operand
                    .values
                    .iter()
                    .filter(remote)
                    .map(|value| if value.contains("://") { value.clone() } else { before_colon(value) })
                    .collect();
                if !hosts.is_empty() {
                    targets.push((Argument { values: hosts, raw: operand.raw.clone() }, how.clone()));
                }
            }
        }
        Names::Database => targets.extend(database_targets(invocation, &operands, &how)),
    }
    targets
}

fn before_colon(value: &str) -> String {
    value.split(':').next().unwrap_or(value).to_owned()
}

fn with_port(host: &Argument, port: Option<&Argument>) -> Argument {
    let port = port.and_then(|port| port.values.first()).filter(|port| port.parse::<u16>().is_ok());
    let values = match port {
        Some(port) => host.values.iter().map(|host| format!("{host}:{port}")).collect(),
        None => host.values.clone(),
    };
    Argument { values, raw: host.raw.clone() }
}

fn database_targets(invocation: &Invocation, operands: &[&Argument], how: &str) -> Vec<(Argument, String)> {
    let mut targets = Vec::new();
    if let Some(host) = invocation.option(&["-h", "--host"]) {
        let port = invocation.option(&["-p", "--port"]);
        targets.push((with_port(&host, port.as_ref()), how.to_owned()));
    }
    let strings = invocation.option(&["-d", "--dbname"]);
    for argument in strings.iter().chain(operands.iter().copied()) {
        let hosts: Vec<String> = argument.values.iter().flat_map(|value| connection_hosts(value)).collect();
        if !hosts.is_empty() {
            targets.push((Argument { values: hosts, raw: argument.raw.clone() }, how.to_owned()));
        }
    }
    targets
}

/// Hosts of a connection string or URL; none when it is the plain name of a database.
fn connection_hosts(text: &str) -> Vec<String> {
    if text.contains("://") {
        return vec![text.to_owned()];
    }
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    let host = pairs
        .filter(|(key, _)| matches!(*key, "host" | "hostaddr"))
        .map(|(_, value)| value.trim_matches('\''));
    host.flat_map(|value| value.split(',')).map(str::to_owned).collect()
}

/// What a target is.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Host {
        name: String,
        port: Option<u16>,
    },
    Local,
    /// Only a running script knows.
    Unknown,
}

pub(super) fn parse_target(value: &str) -> Target {
    let (scheme, rest) = value.split_once("://").map_or((None, value), |(scheme, rest)| (Some(scheme), rest));
    if scheme == Some("file") {
        return Target::Local;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_port = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = if let Some(bracketed) = host_port.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').unwrap_or((bracketed, ""));
        (host, rest.strip_prefix(':'))
    } else if host_port.matches(':').count() > 1 {
        (host_port, None)
    } else {
        host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port)))
    };
    if host.contains([UNKNOWN, '{', '<', '%', '$']) {
        return Target::Unknown;
    }
    let host = host.trim_end_matches('.').to_lowercase();
    let loopback =
        host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address.is_unspecified());
    // Nothing before the first slash is a path or a socket's folder.
    if host.is_empty() || host == "localhost" || host.ends_with(".localhost") || loopback {
        return Target::Local;
    }
    Target::Host { name: host, port: port.and_then(|port| port.parse().ok()) }
}

fn judge(value: &str, raw: &str, how: &str, place: (&str, u32), inventory: &Inventory, report: &mut Report) {
    match parse_target(value) {
        Target::Local => {}
        Target::Unknown => {
            report.note(
                place,
                format_args!("{how} calls {}: the host is known only when it runs", without_login(raw)),
            );
        }
        Target::Host { name, port } => {
            let mut known =
                inventory.hosts.iter().filter(|host| host.name.eq_ignore_ascii_case(&name)).peekable();
            if known.peek().is_some() && known.clone().any(|host| port.is_none_or(|port| port == host.port)) {
                return;
            }
            let shown = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
            let what = match known.next() {
                Some(host) => {
                    format!("{how} calls {shown}; the inventory knows this host on port {} only", host.port)
                }
                None => format!("{how} calls {shown}, a host that the inventory does not know"),
            };
            report.add(shown, place, what);
        }
    }
}

/// A login in a URL is a credential and must not be shown.
fn without_login(raw: &str) -> String {
    match (raw.find("://"), raw.rfind('@')) {
        (Some(start), Some(end)) if start < end => format!("{}…{}", &raw[..start + 3], &raw[end..]),
        _ => raw.to_owned(),
    }
}

/// Calls out of the database: foreign servers, dblink, HTTP extensions, subscriptions, programs.
static SQL_CALL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)\b(?:dblink(?:_\w+)? \s*\( | http(?:_(?:get|post|put|patch|delete|head))? \s*\( | net\.http_\w+ \s*\(
        | (?:create|alter)\s+(?:server|subscription)\b | program\b) | ^\s*\\(?:c|connect|!)",
    )
    .ok()
});
static SQL_URL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\x22)]+").ok());
static SQL_HOST: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)\bhost(?:addr)?\s*(?:=\s*|\s')([^\s',)]+)").ok());
static SQL_PROGRAM: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)(?:\bprogram\s+'((?:[^']|'')+)'|^\s*\\!\s*(.+))").ok());

fn judge_sql(text: &str, line: u32, file: &str, inventory: &Inventory, report: &mut Report) {
    let (Some(call), Some(url), Some(host), Some(program)) =
        (SQL_CALL.as_ref(), SQL_URL.as_ref(), SQL_HOST.as_ref(), SQL_PROGRAM.as_ref())
    else {
        return;
    };
    for statement in pieces(text, line) {
        if !call.is_match(&statement.code) {
            continue;
        }
        let how = "SQL";
        for found in url.find_iter(&statement.text) {
            let place = (file, statement.line_at(found.start()));
            judge(found.as_str(), found.as_str(), how, place, inventory, report);
        }
        for found in host.captures_iter(&statement.text).filter_map(|captures| captures.get(1)) {
            let place = (file, statement.line_at(found.start()));
            judge(found.as_str(), found.as_str(), how, place, inventory, report);
        }
        for captures in program.captures_iter(&statement.text) {
            let Some(found) = captures.get(1).or(captures.get(2)) else { continue };
            for mut inner in invocation::follow(&found.as_str().replace("''", "'")).invocations {
                inner.line = statement.line_at(found.start());
                judge_invocation(&inner, file, inventory, report);
            }
        }
    }
}
