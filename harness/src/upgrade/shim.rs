//! `sudo`, `systemctl`, `service`, `crontab`, `at`, `atq` and `atrm` as scripts see them in a sandbox.
//!
//! The same binary under these names; each call becomes one question to the mirror's control socket. Plain blocking
//! code: a script may call hundreds of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::process::{replace_with, run_in_foreground};
use crate::upgrade::control::{ShimReply, ShimRequest};

/// The programs that are replaced.
pub const NAMES: [&str; 7] = ["sudo", "systemctl", "service", "crontab", "at", "atq", "atrm"];
/// Path of the control socket, as the script's environment has it.
pub const CONTROL: &str = "FULLDRESS_CONTROL";
/// Who the script is on the mirror's host.
pub const USER: &str = "FULLDRESS_USER";
/// Colon-separated names of variables that sudo's clean environment keeps beside its own.
pub const SUDO_KEEPS: &str = "FULLDRESS_SUDO_KEEPS";
/// `1` where user namespaces let sudo really change the numeric user.
pub const NAMESPACES: &str = "FULLDRESS_NAMESPACES";

/// Where unit files are looked for; the host's own folder when absent.
pub const UNIT_FOLDER: &str = "FULLDRESS_UNIT_FOLDER";
/// A real sudo that changes the numeric user and keeps the environment; a container has one.
pub const SUDO: &str = "FULLDRESS_SUDO";
/// Unit files that are told of; a script that makes more must not fill the memory.
const UNIT_FILES_MAX: usize = 1000;

/// What sudo's default policy keeps.
const SUDO_DEFAULT_KEEPS: &[&str] =
    &["COLORS", "DISPLAY", "HOSTNAME", "LANG", "LANGUAGE", "LS_COLORS", "PATH", "PS1", "PS2", "TERM", "TZ"];

/// The shim that a program name stands for, if any.
#[must_use]
pub fn name_of(argv0: &OsStr) -> Option<&'static str> {
    let name = Path::new(argv0).file_name()?;
    NAMES.into_iter().find(|known| name == *known)
}

/// Runs as the shim of that name. Exit codes are the real tool's; 69 when the mirror does not answer.
#[must_use]
pub fn shim_main(name: &str, args: &[OsString]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let ended = if name == "sudo" { sudo(&args) } else { ask(name, &args) };
    match ended {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("{name}: failed to reach the mirror at ${CONTROL}: {error}");
            ExitCode::from(69)
        }
    }
}

/// Asks the mirror, prints what it says, returns its code.
fn ask(name: &str, args: &[String]) -> io::Result<i32> {
    let stdin = match input(name, args) {
        Ok(stdin) => stdin,
        Err(file) => {
            eprintln!("{file}: No such file or directory");
            return Ok(1);
        }
    };
    let reply = exchange(name, args, stdin)?;
    print_reply(&reply);
    Ok(reply.exit)
}

fn print_reply(reply: &ShimReply) {
    // A closed pipe (`systemctl … | head -1`) is no failure of the call.
    let _closed = io::stdout().write_all(reply.stdout.as_bytes());
    let _closed = io::stderr().write_all(reply.stderr.as_bytes());
}

fn exchange(name: &str, args: &[String], stdin: String) -> io::Result<ShimReply> {
    let path = std::env::var_os(CONTROL).ok_or_else(|| io::Error::other("the variable is not set"))?;
    let mut stream = UnixStream::connect(path)?;
    let request = ShimRequest {
        argv: std::iter::once(name.to_owned()).chain(args.iter().cloned()).collect(),
        stdin,
        cwd: std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned(),
        uid: rustix::process::geteuid().as_raw(),
        user: std::env::var(USER).unwrap_or_default(),
        unit_files: unit_files(),
    };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// What the real tool would read: a crontab's file, a job's commands. Fails with the file that cannot be read.
fn input(name: &str, args: &[String]) -> Result<String, String> {
    let file = match name {
        "crontab" => crontab_file(args),
        "at" => at_file(args),
        _ => None,
    };
    match file.as_deref() {
        None => Ok(String::new()),
        Some("-") => {
            let mut text = Vec::new();
            // A script without input reads nothing, as the real tool would.
            let _none = io::stdin().read_to_end(&mut text);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Some(file) => match std::fs::read(file) {
            Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(_) => Err(file.to_owned()),
        },
    }
}

/// Plain files only: what a package links to is none of the host's units.
fn unit_files() -> BTreeSet<String> {
    let folder = std::env::var_os(UNIT_FOLDER).unwrap_or_else(|| "/etc/systemd/system".into());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(UNIT_FILES_MAX)
        .collect()
}

fn crontab_file(args: &[String]) -> Option<String> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-u" => {
                args.next();
            }
            "-" => return Some("-".to_owned()),
            flag if flag.starts_with('-') => {}
            file => return Some(file.to_owned()),
        }
    }
    None
}

fn at_file(args: &[String]) -> Option<String> {
    let questions = ["-l", "-r", "-d", "-c", "-V"];
    if args.iter().any(|arg| questions.contains(&arg.as_str())) {
        return None;
    }
    let named = args.iter().position(|arg| arg == "-f").and_then(|at| args.get(at + 1));
    Some(named.cloned().unwrap_or_else(|| "-".to_owned()))
}

/// What a sudo command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SudoCall {
    /// `-u`; root when absent.
    pub(super) user: Option<String>,
    /// `-n`: never ask for a password.
    pub(super) never_ask: bool,
    /// Keep the whole environment (`-E`).
    preserve: bool,
    /// Keep these too (`--preserve-env=A,B`).
    preserve_names: Vec<String>,
    /// `-i` or `-s`.
    shell: bool,
    login: bool,
    background: bool,
    /// `-l`, `-v`, `-k`, `-K`, `-V`: a question about sudo itself.
    question: bool,
    chdir: Option<String>,
    variables: Vec<(String, String)>,
    command: Vec<String>,
}

impl SudoCall {
    pub(super) fn parse(args: &[String]) -> Result<Self, String> {
        let mut call = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.as_slice().first() {
            if !arg.starts_with('-') || arg == "-" {
                break;
            }
            rest.next();
            if arg == "--" {
                break;
            }
            if let Some(long) = arg.strip_prefix("--") {
                call.long_option(long, &mut rest)?;
            } else {
                call.short_options(&arg[1..], &mut rest)?;
            }
        }
        let mut rest = rest.peekable();
        while let Some((name, value)) = rest.peek().and_then(|arg| assignment(arg)) {
            call.variables.push((name.to_owned(), value.to_owned()));
            rest.next();
        }
        call.command = rest.cloned().collect();
        Ok(call)
    }

    /// Options with a value take the rest of their cluster or the next argument: `-u www`, `-uwww`, `-nu www`.
    fn short_options<'arg>(
        &mut self,
        cluster: &str,
        rest: &mut impl Iterator<Item = &'arg String>,
    ) -> Result<(), String> {
        for (at, option) in cluster.char_indices() {
            if "ugpCDhrtTUR".contains(option) {
                let attached = &cluster[at + option.len_utf8()..];
                let value =
                    if attached.is_empty() { rest.next().cloned() } else { Some(attached.to_owned()) };
                let value = value.ok_or_else(|| format!("option requires an argument -- '{option}'"))?;
                match option {
                    'u' => self.user = Some(value),
                    'D' => self.chdir = Some(value),
                    _ => {}
                }
                return Ok(());
            }
            match option {
                'E' => self.preserve = true,
                'i' => (self.login, self.shell) = (true, true),
                's' => self.shell = true,
                'b' => self.background = true,
                'l' | 'v' | 'k' | 'K' | 'V' => self.question = true,
                'n' => self.never_ask = true,
                'H' | 'S' | 'A' | 'B' | 'P' | 'N' => {}
                _ => return Err(format!("invalid option -- '{option}'")),
            }
        }
        Ok(())
    }

    fn long_option<'arg>(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = &'arg String>,
    ) -> Result<(), String> {
        let (name, attached) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        match name {
            "user" | "group" | "prompt" | "chdir" | "host" | "close-from" => {
                let value = attached.or_else(|| rest.next().cloned());
                let value = value.ok_or_else(|| format!("option '--{name}' requires an argument"))?;
                match name {
                    "user" => self.user = Some(value),
                    "chdir" => self.chdir = Some(value),
                    _ => {}
                }
            }
            "preserve-env" => match attached {
                Some(names) => self.preserve_names.extend(names.split(',').map(str::to_owned)),
                None => self.preserve = true,
            },
            "login" => (self.login, self.shell) = (true, true),
            "shell" => self.shell = true,
            "background" => self.background = true,
            "list" | "validate" | "reset-timestamp" | "remove-timestamp" | "version" => self.question = true,
            "non-interactive" => self.never_ask = true,
            "set-home" | "stdin" | "askpass" | "bell" => {}
            _ => return Err(format!("unrecognized option '--{name}'")),
        }
        Ok(())
    }

    /// The command as it runs: through a shell for `-i` and `-s`, whose input is the script when nothing follows.
    fn command_line(&self) -> Vec<String> {
        if self.background && !self.command.is_empty() {
            let wrapper = ["/bin/sh", "-c", "\"$@\" &", "sudo"].map(str::to_owned);
            return wrapper.into_iter().chain(self.command.iter().cloned()).collect();
        }
        if !self.shell {
            return self.command.clone();
        }
        let mut line = vec!["/bin/sh".to_owned()];
        if self.login {
            line.push("-l".to_owned());
        }
        if !self.command.is_empty() {
            let quoted: Vec<String> = self.command.iter().map(|word| quote(word)).collect();
            line.extend(["-c".to_owned(), quoted.join(" ")]);
        }
        line
    }
}

fn assignment(arg: &str) -> Option<(&str, &str)> {
    let (name, value) = arg.split_once('=')?;
    let legal = |(at, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit()
    };
    (!name.is_empty() && name.bytes().enumerate().all(legal)).then_some((name, value))
}

/// One word for a shell.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn sudo(args: &[String]) -> io::Result<i32> {
    let call = match SudoCall::parse(args) {
        Ok(call) => call,
        Err(reason) => {
            eprintln!("sudo: {reason}\nusage: sudo -h | -K | -k | -V");
            return Ok(1);
        }
    };
    let reply = exchange("sudo", args, String::new())?;
    print_reply(&reply);
    if reply.exit != 0 || call.question && call.command.is_empty() {
        return Ok(reply.exit);
    }
    let line = call.command_line();
    let Some((program, command_args)) = line.split_first() else {
        eprintln!("usage: sudo [-bEHnPS] [-u user] [VAR=value] [-i | -s] [command [arg ...]]");
        return Ok(1);
    };
    let user = call.user.as_deref().unwrap_or("root");
    let account = account(user);
    let env = sudo_environment(&call, user, account.as_ref(), &line);
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let Some(found) = find(program, &path) else {
        eprintln!("sudo: {program}: command not found");
        return Ok(1);
    };
    let home = account.as_ref().filter(|_| call.login).map(|account| account.home.as_str());
    if let Some(folder) = call.chdir.as_deref().or(home)
        && let Err(error) = std::env::set_current_dir(folder)
    {
        eprintln!("sudo: unable to change directory to {folder}: {error}");
        return Ok(1);
    }
    let command_args: Vec<OsString> = command_args.iter().map(OsString::from).collect();
    Ok(exec_as(account.as_ref(), &found, command_args, env))
}

/// Replaces us by the command, under the numeric user where the kernel lets us. Returns only on failure.
fn exec_as(
    account: Option<&Account>,
    program: &Path,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
) -> i32 {
    let env: Vec<(OsString, OsString)> = env.into_iter().collect();
    if let Some((sudo, account)) = std::env::var_os(SUDO).zip(account) {
        let mut wrapped: Vec<OsString> = ["-n", "-E", "-u"].map(OsString::from).into();
        wrapped.extend([format!("#{}", account.uid).into(), "--".into(), program.as_os_str().to_owned()]);
        wrapped.extend(args);
        let error = replace_with(Path::new(&sudo), &wrapped, &env);
        eprintln!("sudo: unable to execute {}: {error}", sudo.display());
        return 1;
    }
    if let Some(mapping) = account.and_then(namespace_options) {
        let mut wrapped = mapping;
        wrapped.extend(["--".into(), program.as_os_str().to_owned()]);
        wrapped.extend(args);
        let error = replace_with(Path::new(UNSHARE), &wrapped, &env);
        eprintln!("sudo: unable to execute {UNSHARE}: {error}");
        return 1;
    }
    let error = replace_with(program, &args, &env);
    eprintln!("sudo: unable to execute {}: {error}", program.display());
    1
}

const UNSHARE: &str = "/usr/bin/unshare";

/// `unshare` options that make us that user in a namespace of its own; none where we are it already or cannot be.
fn namespace_options(account: &Account) -> Option<Vec<OsString>> {
    let wanted = account.uid != rustix::process::geteuid().as_raw();
    if !wanted || std::env::var_os(NAMESPACES).is_none_or(|value| value != "1") {
        return None;
    }
    let options: Vec<OsString> = vec![
        "--user".into(),
        format!("--map-user={}", account.uid).into(),
        format!("--map-group={}", account.gid).into(),
    ];
    // The kernel refuses some chains (root to another user and on): then the command runs as who we are.
    let mut trial = options.clone();
    trial.extend(["--".into(), "/bin/true".into()]);
    let quiet = ["-c".into(), "exec \"$@\" 2>/dev/null".into(), "sh".into(), UNSHARE.into()];
    let trial: Vec<OsString> = quiet.into_iter().chain(trial).collect();
    run_in_foreground("/bin/sh".as_ref(), &trial).is_ok_and(|status| status.success()).then_some(options)
}

/// A line of the sandbox's `/etc/passwd`.
struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

fn account(user: &str) -> Option<Account> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let number = user.strip_prefix('#');
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        (*name == user || number == Some(*uid)).then_some(())?;
        Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: (*home).to_owned() })
    })
}

/// sudo's clean environment: what its policy keeps, what the call sets, and who calls.
fn sudo_environment(
    call: &SudoCall,
    user: &str,
    account: Option<&Account>,
    line: &[String],
) -> BTreeMap<OsString, OsString> {
    let mirror_keeps = std::env::var(SUDO_KEEPS).unwrap_or_default();
    let kept = |name: &OsStr| {
        let name = name.to_string_lossy();
        call.preserve
            || SUDO_DEFAULT_KEEPS.contains(&name.as_ref())
            || name.starts_with("LC_")
            || name.starts_with("FULLDRESS_")
            || mirror_keeps.split(':').any(|keep| keep == name)
            || call.preserve_names.iter().any(|keep| *keep == name)
    };
    let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().filter(|(name, _)| kept(name)).collect();
    let before = std::env::var(USER).unwrap_or_default();
    let home = account.map_or("/", |account| account.home.as_str());
    let set = [
        ("HOME", home),
        ("USER", user),
        ("LOGNAME", user),
        ("SHELL", "/bin/sh"),
        ("SUDO_USER", before.as_str()),
        (USER, user),
    ];
    env.extend(set.map(|(name, value)| (name.into(), value.into())));
    env.insert("SUDO_COMMAND".into(), line.join(" ").into());
    env.extend(call.variables.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(executable);
    }
    std::env::split_paths(path).map(|folder| folder.join(program)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::{SudoCall, assignment, at_file, crontab_file, name_of, quote};

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn check(line: &str, user: Option<&str>, command: &str) {
        let call = SudoCall::parse(&words(line)).unwrap();
        assert_eq!((call.user.as_deref(), call.command_line().join(" ").as_str()), (user, command), "{line}");
    }

    #[test]
    fn sudo_command_lines_are_understood() {
        check("systemctl restart web", None, "systemctl restart web");
        check("-n -u www id -u", Some("www"), "id -u");
        check("-nHuwww id", Some("www"), "id");
        check("--user=www -- -odd", Some("www"), "-odd");
        check("-E PGPASSWORD=x psql -c 1", None, "psql -c 1");
        check("-i id -u", None, "/bin/sh -l -c id -u");
        check("-s", None, "/bin/sh");
        let call = SudoCall::parse(&words("-E A=1 B_2=x=y env")).unwrap();
        assert!(call.preserve);
        assert_eq!(call.variables, [("A".to_owned(), "1".to_owned()), ("B_2".to_owned(), "x=y".to_owned())]);
        assert!(SudoCall::parse(&words("-Z id")).is_err());
        assert!(SudoCall::parse(&words("-u")).is_err());
        assert!(SudoCall::parse(&words("-l")).unwrap().question);
    }

    #[test]
    fn words_and_assignments() {
        assert_eq!(quote("a b'c"), "'a b'\\''c'");
        assert_eq!(assignment("./configure=x"), None);
        assert_eq!(assignment("1A=x"), None);
        assert_eq!(name_of("/fulldress/shims/systemctl".as_ref()), Some("systemctl"));
        assert_eq!(name_of("/usr/bin/fulldress".as_ref()), None);
    }

    #[test]
    fn inputs_are_found() {
        assert_eq!(crontab_file(&words("-u www -l")), None);
        assert_eq!(crontab_file(&words("-u www tab")), Some("tab".to_owned()));
        assert_eq!(crontab_file(&words("-")), Some("-".to_owned()));
        assert_eq!(at_file(&words("-f job now + 1 hour")), Some("job".to_owned()));
        assert_eq!(at_file(&words("now")), Some("-".to_owned()));
        assert_eq!(at_file(&words("-l")), None);
    }
}
