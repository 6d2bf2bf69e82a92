//! `systemctl` and `service`, with the texts and exit codes of systemd 252.

use std::fmt::Write as _;

use super::{Host, ServiceActions, ShimReply, Unit};

/// Exit code of LSB: the program is not running.
const NOT_RUNNING: i32 = 3;
/// Exit code of LSB: no such unit.
const STATUS_UNKNOWN: i32 = 4;
/// Exit code of systemctl for a unit that is not installed.
const NOT_INSTALLED: i32 = 5;

/// What a systemctl command line asks for.
#[derive(Debug, Default)]
struct Call {
    verb: String,
    units: Vec<String>,
    now: bool,
    quiet: bool,
    value: bool,
    properties: Vec<String>,
}

impl Call {
    fn parse(args: &[String]) -> Self {
        let mut call = Self::default();
        let mut words = Vec::new();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match arg.as_str() {
                "--now" => call.now = true,
                "-q" | "--quiet" => call.quiet = true,
                "--value" => call.value = true,
                "-p" | "--property" => call.add_properties(rest.next().map_or("", String::as_str)),
                // These take a value that changes nothing here.
                "-t" | "--type" | "--state" | "-n" | "--lines" | "-o" | "--output" | "-H" | "-M"
                | "--job-mode" | "-s" | "--signal" => {
                    rest.next();
                }
                property if property.starts_with("--property=") => {
                    call.add_properties(&property["--property=".len()..]);
                }
                flag if flag.starts_with('-') => {}
                word => words.push(word.to_owned()),
            }
        }
        let mut words = words.into_iter();
        call.verb = words.next().unwrap_or_else(|| "list-units".to_owned());
        call.units = words.map(|unit| full_name(&unit)).collect();
        call
    }

    fn add_properties(&mut self, names: &str) {
        self.properties.extend(names.split(',').map(str::to_owned));
    }
}

/// systemctl appends `.service` to a name without a known suffix.
fn full_name(unit: &str) -> String {
    const SUFFIXES: [&str; 8] =
        [".service", ".timer", ".socket", ".target", ".path", ".mount", ".slice", ".scope"];
    if SUFFIXES.iter().any(|suffix| unit.ends_with(suffix)) {
        unit.to_owned()
    } else {
        format!("{unit}.service")
    }
}

impl<Actions: ServiceActions> Host<Actions> {
    pub(super) async fn systemctl(&self, args: &[String], user: &str) -> ShimReply {
        let call = Call::parse(args);
        match call.verb.as_str() {
            "list-timers" => return self.list_timers(),
            "list-units" | "list-unit-files" => return self.list(&call).await,
            "daemon-reload" | "daemon-reexec" | "reset-failed" => return self.reload_files(&call.verb, user),
            "is-system-running" => return ShimReply::say("running\n"),
            "show" => return self.show(&call).await,
            _ => {}
        }
        if call.units.is_empty() {
            return match call.verb.as_str() {
                "status" => ShimReply::say("State: running\n"),
                verb if is_verb(verb) => ShimReply::fail(1, "Too few arguments.\n"),
                verb => unknown_verb(verb),
            };
        }
        let mut whole = Whole::default();
        for unit in &call.units {
            let reply = match call.verb.as_str() {
                "start"
                | "stop"
                | "restart"
                | "reload"
                | "try-restart"
                | "condrestart"
                | "reload-or-restart"
                | "try-reload-or-restart"
                | "force-reload"
                | "kill" => self.act(&call.verb, unit, user).await,
                "enable" | "disable" | "reenable" | "mask" | "unmask" => {
                    self.install(&call, unit, user).await
                }
                "status" => self.status(unit).await,
                "is-active" => self.is_active(unit).await,
                "is-failed" => self.is_failed(unit).await,
                "is-enabled" => self.is_enabled(unit),
                "cat" => self.cat(unit),
                verb => return unknown_verb(verb),
            };
            whole.add(&call.verb, reply);
        }
        whole.end(&call)
    }

    /// `service NAME VERB`, which on a systemd host only calls systemctl.
    pub(super) async fn service(&self, args: &[String], user: &str) -> ShimReply {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["--status-all"] => self.status_all().await,
            [name, verb, ..] if !name.starts_with('-') => {
                self.systemctl(&[(*verb).to_owned(), full_name(name)], user).await
            }
            _ => ShimReply::fail(
                1,
                "Usage: service < option > | --status-all | [ service_name [ command | --full-restart ] ]\n",
            ),
        }
    }

    async fn status_all(&self) -> ShimReply {
        let mut list = String::new();
        for (name, unit) in self.snapshot().await.units {
            let sign = if unit.active { '+' } else { '-' };
            // Writing to a string cannot fail.
            let _ = writeln!(list, " [ {sign} ]  {}", name.trim_end_matches(".service"));
        }
        ShimReply::say(list)
    }

    /// Starts, stops, restarts or reloads one unit.
    async fn act(&self, verb: &str, name: &str, user: &str) -> ShimReply {
        let Some(unit) = self.find(name) else {
            let state = if ["stop", "kill"].contains(&verb) { "not loaded" } else { "not found" };
            return ShimReply::fail(
                NOT_INSTALLED,
                format!("Failed to {verb} {name}: Unit {name} {state}.\n"),
            );
        };
        if user != "root" {
            let refused = format!("Failed to {verb} {name}: Interactive authentication required.\n");
            return ShimReply::fail(1, refused);
        }
        if unit.masked && !["stop", "kill"].contains(&verb) {
            return ShimReply::fail(1, format!("Failed to {verb} {name}: Unit {name} is masked.\n"));
        }
        let active = self.running(&unit).await;
        let done = match verb {
            "start" if active => Ok(()),
            "stop" | "kill" if !active => Ok(()),
            "try-restart" | "condrestart" | "try-reload-or-restart" if !active => Ok(()),
            "reload" if !active => {
                return ShimReply::fail(1, format!("{name} is not active, cannot reload.\n"));
            }
            "reload-or-restart" | "force-reload" if !active => self.carry_out("start", &unit).await,
            _ => self.carry_out(verb, &unit).await,
        };
        match done {
            Ok(()) => {
                let runs = !["stop", "kill"].contains(&verb)
                    && (active || !verb.starts_with("try-") && verb != "condrestart");
                self.change(name, |unit| unit.active = runs);
                ShimReply::default()
            }
            Err(reason) => ShimReply::fail(
                1,
                format!(
                    "Job for {name} failed because the control process exited with error code.\n\
                     See \"systemctl status {name}\" and \"journalctl -xeu {name}\" for details.\n({reason})\n"
                ),
            ),
        }
    }

    /// Has the mirror do it. A unit without a service of the mirror only changes its state.
    async fn carry_out(&self, verb: &str, unit: &Unit) -> Result<(), String> {
        let Some(service) = &unit.service else { return Ok(()) };
        match verb {
            "start" => self.actions.start(service).await,
            "stop" | "kill" => self.actions.stop(service).await,
            "reload" | "reload-or-restart" | "try-reload-or-restart" | "force-reload" => {
                self.actions.reload(service).await
            }
            _ => self.actions.restart(service).await,
        }
    }

    async fn install(&self, call: &Call, name: &str, user: &str) -> ShimReply {
        let verb = call.verb.as_str();
        if user != "root" {
            return ShimReply::fail(
                1,
                format!("Failed to {verb} unit: Interactive authentication required.\n"),
            );
        }
        let Some(unit) = self.find(name) else { return absent(verb, name) };
        let link = format!("/etc/systemd/system/{}.wants/{name}", wanted_by(name));
        let mask = format!("/etc/systemd/system/{name}");
        let said = match verb {
            "enable" | "reenable" if unit.masked => {
                return ShimReply::fail(1, format!("Failed to enable unit: Unit file {mask} is masked.\n"));
            }
            "enable" if unit.enabled => String::new(),
            "enable" | "reenable" => format!("Created symlink {link} → {}.\n", unit_file(name, &unit)),
            "disable" if unit.enabled => format!("Removed \"{link}\".\n"),
            "mask" if !unit.masked => format!("Created symlink {mask} → /dev/null.\n"),
            "unmask" if unit.masked => format!("Removed \"{mask}\".\n"),
            _ => String::new(),
        };
        self.change(name, |unit| match verb {
            "mask" => unit.masked = true,
            "unmask" => unit.masked = false,
            _ => unit.enabled = verb != "disable",
        });
        let mut reply = ShimReply { stderr: said, ..ShimReply::default() };
        if call.now && verb != "unmask" {
            let verb = if ["disable", "mask"].contains(&verb) { "stop" } else { "start" };
            let acted = self.act(verb, name, user).await;
            reply.exit = acted.exit;
            reply.stderr.push_str(&acted.stderr);
        }
        reply
    }

    async fn status(&self, name: &str) -> ShimReply {
        let Some(unit) = self.find(name) else {
            return ShimReply::fail(STATUS_UNKNOWN, format!("Unit {name} could not be found.\n"));
        };
        let active = self.running(&unit).await;
        let (sign, word, exit) =
            if active { ("●", "active (running)", 0) } else { ("○", "inactive (dead)", NOT_RUNNING) };
        let (loaded, file) =
            if unit.masked { ("masked", name.to_owned()) } else { ("loaded", unit_file(name, &unit)) };
        let text = format!(
            "{sign} {name} - {name}\n     Loaded: {loaded} ({file}; {}; preset: enabled)\n     Active: {word}\n",
            enablement(&unit)
        );
        ShimReply { exit, stdout: text, stderr: String::new() }
    }

    async fn is_active(&self, name: &str) -> ShimReply {
        let (word, exit) = match self.find(name) {
            None => ("inactive", STATUS_UNKNOWN),
            Some(unit) if self.running(&unit).await => ("active", 0),
            Some(_) => ("inactive", NOT_RUNNING),
        };
        ShimReply { exit, stdout: format!("{word}\n"), stderr: String::new() }
    }

    async fn is_failed(&self, name: &str) -> ShimReply {
        ShimReply { exit: 1, ..self.is_active(name).await }
    }

    fn is_enabled(&self, name: &str) -> ShimReply {
        match self.find(name) {
            None => ShimReply::fail(
                1,
                format!("Failed to get unit file state for {name}: No such file or directory\n"),
            ),
            Some(unit) => ShimReply {
                exit: i32::from(unit.masked || !unit.enabled),
                stdout: format!("{}\n", enablement(&unit)),
                stderr: String::new(),
            },
        }
    }

    fn cat(&self, name: &str) -> ShimReply {
        match self.find(name) {
            None => ShimReply::fail(1, format!("No files found for {name}.\n")),
            Some(unit) => ShimReply::say(format!("# {}\n", unit_file(name, &unit))),
        }
    }

    async fn show(&self, call: &Call) -> ShimReply {
        let mut text = String::new();
        for name in &call.units {
            let unit = self.find(name);
            let active = match &unit {
                Some(unit) => self.running(unit).await,
                None => false,
            };
            let all = [
                ("Id", name.clone()),
                ("LoadState", load_state(unit.as_ref()).to_owned()),
                ("ActiveState", if active { "active" } else { "inactive" }.to_owned()),
                ("SubState", if active { "running" } else { "dead" }.to_owned()),
                ("UnitFileState", unit.as_ref().map_or("", enablement).to_owned()),
            ];
            let asked =
                |name: &str| call.properties.is_empty() || call.properties.iter().any(|asked| asked == name);
            for (property, value) in all.iter().filter(|(property, _)| asked(property)) {
                // Writing to a string cannot fail.
                let _ =
                    if call.value { writeln!(text, "{value}") } else { writeln!(text, "{property}={value}") };
            }
        }
        ShimReply::say(text)
    }

    fn list_timers(&self) -> ShimReply {
        let state = self.lock();
        let timers: Vec<&String> = state
            .units
            .iter()
            .filter(|(name, unit)| name.ends_with(".timer") && unit.active)
            .map(|(name, _)| name)
            .collect();
        let mut text = "NEXT LEFT LAST PASSED UNIT ACTIVATES\n".to_owned();
        for timer in &timers {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "n/a  n/a  n/a  n/a    {timer} {}", timer.replace(".timer", ".service"));
        }
        let _ = write!(
            text,
            "\n{} timers listed.\nPass --all to see loaded but inactive timers, too.\n",
            timers.len()
        );
        ShimReply::say(text)
    }

    async fn list(&self, call: &Call) -> ShimReply {
        let mut text = String::new();
        let units = self.snapshot().await.units;
        for (name, unit) in
            units.iter().filter(|(name, _)| call.units.is_empty() || call.units.contains(name))
        {
            let active = if unit.active { "active running" } else { "inactive dead" };
            // Writing to a string cannot fail.
            let _ = match call.verb.as_str() {
                "list-units" => writeln!(text, "{name} {} {active} {name}", load_state(Some(unit))),
                _ => writeln!(text, "{name} {} enabled", enablement(unit)),
            };
        }
        ShimReply::say(text)
    }

    /// Units that came from files go with their files; new files become units when they are asked for.
    fn reload_files(&self, verb: &str, user: &str) -> ShimReply {
        if user != "root" {
            return ShimReply::fail(1, format!("Failed to {verb}: Interactive authentication required.\n"));
        }
        let mut state = self.lock();
        let gone: Vec<String> = state
            .units
            .iter()
            .filter(|(name, unit)| unit.from_file && !unit.active && !state.has_unit_file(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            state.units.remove(&name);
        }
        ShimReply::default()
    }

    fn find(&self, name: &str) -> Option<Unit> {
        self.lock().unit(name).cloned()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Unit)) {
        if let Some(unit) = self.lock().unit(name) {
            change(unit);
        }
    }

    async fn running(&self, unit: &Unit) -> bool {
        match &unit.service {
            Some(service) => self.actions.is_active(service).await,
            None => unit.active,
        }
    }
}

/// The answers for several units as one.
#[derive(Debug, Default)]
struct Whole {
    reply: ShimReply,
    first: bool,
    one_good: bool,
}

impl Whole {
    fn add(&mut self, verb: &str, reply: ShimReply) {
        self.one_good |= reply.exit == 0;
        if self.first && verb == "status" {
            self.reply.stdout.push('\n');
        }
        self.first = true;
        if self.reply.exit == 0 {
            self.reply.exit = reply.exit;
        }
        self.reply.stdout.push_str(&reply.stdout);
        self.reply.stderr.push_str(&reply.stderr);
    }

    /// The questions `is-…` are answered yes when they hold for one unit.
    fn end(mut self, call: &Call) -> ShimReply {
        if call.verb.starts_with("is-") && self.one_good {
            self.reply.exit = 0;
        }
        if call.quiet {
            self.reply.stdout.clear();
            if self.reply.exit == 0 {
                self.reply.stderr.clear();
            }
        }
        self.reply
    }
}

fn is_verb(verb: &str) -> bool {
    const VERBS: &str = "start stop restart reload try-restart condrestart reload-or-restart try-reload-or-restart \
                         force-reload kill enable disable reenable mask unmask is-active is-failed is-enabled cat";
    VERBS.split(' ').any(|known| known == verb)
}

fn unknown_verb(verb: &str) -> ShimReply {
    ShimReply::fail(1, format!("Unknown command verb {verb}.\n"))
}

/// What the verbs about files say of a unit that does not exist.
fn absent(verb: &str, name: &str) -> ShimReply {
    match verb {
        "mask" | "unmask" => ShimReply {
            stderr: format!("Unit {name} does not exist, proceeding anyway.\n"),
            ..ShimReply::default()
        },
        _ => ShimReply::fail(1, format!("Failed to {verb} unit: Unit file {name} does not exist.\n")),
    }
}

fn wanted_by(name: &str) -> &'static str {
    if name.ends_with(".timer") { "timers.target" } else { "multi-user.target" }
}

fn unit_file(name: &str, unit: &Unit) -> String {
    let folder = if unit.from_file { "/etc/systemd/system" } else { "/lib/systemd/system" };
    format!("{folder}/{name}")
}

fn enablement(unit: &Unit) -> &'static str {
    match (unit.masked, unit.enabled) {
        (true, _) => "masked",
        (false, true) => "enabled",
        (false, false) => "disabled",
    }
}

fn load_state(unit: Option<&Unit>) -> &'static str {
    match unit {
        None => "not-found",
        Some(unit) if unit.masked => "masked",
        Some(_) => "loaded",
    }
}
