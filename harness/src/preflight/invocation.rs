//! What a script would execute: its simple commands with variables filled in, and what wrappers (`env`, `sudo`,
//! `timeout`, `bash -c`, here-documents fed to a shell, …) would execute in turn.

use super::shell::{self, Command, Script};
use super::word::{UNKNOWN, Variables, Word};

/// Scripts inside scripts that are followed.
const NESTING_MAX: usize = 4;
/// Wrappers around wrappers that are followed.
const WRAPPERS_MAX: usize = 8;

/// One program that a script would execute.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) line: u32,
    /// Last segment of the program's path.
    pub(super) program: String,
    pub(super) arguments: Vec<Argument>,
    /// Assignments in front of the command.
    pub(super) environment: Vec<(String, Argument)>,
    pub(super) redirects: Vec<(String, Argument)>,
    /// Body and first line of its here-document.
    pub(super) heredoc: Option<(String, u32)>,
    pub(super) statement: usize,
    pub(super) fed: bool,
}

/// A word with its possible values.
#[derive(Debug, Clone)]
pub(super) struct Argument {
    pub(super) values: Vec<String>,
    /// As written.
    pub(super) raw: String,
}

impl Argument {
    fn new(word: &Word, variables: &Variables) -> Self {
        Self { values: word.values(variables), raw: word.raw.clone() }
    }

    fn literal(text: &str) -> Self {
        Self { values: vec![text.to_owned()], raw: text.to_owned() }
    }

    /// Whether one of its values is this text.
    pub(super) fn is(&self, text: &str) -> bool {
        self.values.iter().any(|value| value == text)
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        self.values.iter().any(|value| value.starts_with(text))
    }
}

impl Invocation {
    /// Arguments that are no options; `valued` options take the next word with them.
    pub(super) fn operands(&self, valued: &[&str]) -> Vec<&Argument> {
        let mut operands = Vec::new();
        let mut skip = false;
        let mut only_operands = false;
        for argument in &self.arguments {
            if std::mem::take(&mut skip) {
                continue;
            }
            if only_operands || !argument.starts_with("-") || argument.is("-") {
                operands.push(argument);
            } else if argument.is("--") {
                only_operands = true;
            } else {
                skip = valued.iter().any(|option| argument.is(option));
            }
        }
        operands
    }

    /// The value of an option: `-h VALUE`, `-hVALUE`, `--host VALUE` or `--host=VALUE`.
    pub(super) fn option(&self, names: &[&str]) -> Option<Argument> {
        for (index, argument) in self.arguments.iter().enumerate() {
            for name in names {
                if argument.is(name) {
                    return self.arguments.get(index + 1).cloned();
                }
                let prefix = if name.starts_with("--") { format!("{name}=") } else { (*name).to_owned() };
                let values: Vec<String> = argument
                    .values
                    .iter()
                    .filter(|value| name.starts_with("--") || !value.starts_with("--"))
                    .filter_map(|value| value.strip_prefix(&prefix).map(str::to_owned))
                    .collect();
                if !values.is_empty() {
                    return Some(Argument { values, raw: argument.raw.clone() });
                }
            }
        }
        None
    }
}

/// A program that executes another one which its arguments name.
struct Wrapper {
    program: &'static str,
    /// Options that take the next word.
    valued: &'static [&'static str],
    /// Operands before the command.
    operands: usize,
}

const WRAPPERS: &[Wrapper] = &[
    Wrapper { program: "env", valued: &["-u", "-C", "--unset", "--chdir"], operands: 0 },
    Wrapper { program: "command", valued: &[], operands: 0 },
    Wrapper { program: "builtin", valued: &[], operands: 0 },
    Wrapper { program: "exec", valued: &["-a"], operands: 0 },
    Wrapper { program: "nohup", valued: &[], operands: 0 },
    Wrapper { program: "setsid", valued: &[], operands: 0 },
    Wrapper { program: "time", valued: &["-f", "-o"], operands: 0 },
    Wrapper { program: "nice", valued: &["-n", "--adjustment"], operands: 0 },
    Wrapper { program: "ionice", valued: &["-c", "-n"], operands: 0 },
    Wrapper { program: "stdbuf", valued: &["-i", "-o", "-e"], operands: 0 },
    Wrapper { program: "timeout", valued: &["-s", "-k", "--signal", "--kill-after"], operands: 1 },
    Wrapper { program: "xargs", valued: &["-I", "-n", "-P", "-L", "-d", "-a", "-s", "-E"], operands: 0 },
    Wrapper { program: "flock", valued: &["-w", "-E", "--timeout"], operands: 1 },
    Wrapper { program: "chroot", valued: &[], operands: 1 },
    Wrapper { program: "setpriv", valued: &[], operands: 0 },
    Wrapper { program: "busybox", valued: &[], operands: 0 },
    Wrapper {
        program: "sudo",
        valued: &["-u", "-g", "-h", "-p", "-C", "-r", "-t", "-T", "-U", "-D"],
        operands: 0,
    },
    Wrapper { program: "doas", valued: &["-u", "-C"], operands: 0 },
    Wrapper { program: "pkexec", valued: &["--user"], operands: 0 },
    Wrapper { program: "run0", valued: &["-u", "--user"], operands: 0 },
    Wrapper { program: "runuser", valued: &["-u", "-g", "-G"], operands: 0 },
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Everything that a script would execute, and what could not be read of it.
#[derive(Debug, Default)]
pub(super) struct Execution {
    pub(super) invocations: Vec<Invocation>,
    /// Line and what was met.
    pub(super) flaws: Vec<(u32, &'static str)>,
    /// What runs but cannot be seen: line and a phrase.
    pub(super) unseen: Vec<(u32, String)>,
}

/// Follows a script.
pub(super) fn follow(text: &str) -> Execution {
    let mut execution = Execution::default();
    follow_text(text, 1, &Variables::new(), 0, None, &mut execution);
    execution
}

fn follow_text(
    text: &str,
    line: u32,
    outer: &Variables,
    nesting: usize,
    statement: Option<usize>,
    execution: &mut Execution,
) {
    if nesting > NESTING_MAX {
        execution.unseen.push((line, "scripts are nested too deeply".to_owned()));
        return;
    }
    let mut script = shell::read(text, line);
    execution.flaws.extend(script.flaw);
    for (name, values) in outer {
        script.variables.entry(name.clone()).or_default().extend(values.iter().cloned());
    }
    for command in &script.commands {
        follow_command(command, &script, nesting, statement, execution);
    }
}

fn follow_command(
    command: &Command,
    script: &Script,
    nesting: usize,
    statement: Option<usize>,
    execution: &mut Execution,
) {
    let argument = |word: &Word| Argument::new(word, &script.variables);
    let base = Invocation {
        line: command.line,
        program: String::new(),
        arguments: Vec::new(),
        environment: command.assignments.iter().map(|(name, word)| (name.clone(), argument(word))).collect(),
        redirects: command.redirects.iter().map(|(name, word)| (name.clone(), argument(word))).collect(),
        heredoc: command.heredoc.map(|index| {
            let heredoc = &script.heredocs[index];
            (heredoc.body.clone(), heredoc.line)
        }),
        statement: statement.unwrap_or(command.statement),
        fed: command.fed,
    };
    let words: Vec<Argument> = command.words.iter().map(argument).collect();
    if words.is_empty() {
        // Assignments and redirections alone: no program, and still a file written or a variable set.
        execution.invocations.push(base);
        return;
    }
    let mut found = Vec::new();
    programs(&words, &base, 0, &mut found);
    for invocation in found {
        execution.invocations.push(invocation.clone());
        follow_nested(&invocation, &script.variables, nesting, execution);
    }
}

/// The program that the words name, and those that it executes in turn.
fn programs(words: &[Argument], base: &Invocation, wrapped: usize, found: &mut Vec<Invocation>) {
    let Some((first, rest)) = words.split_first() else { return };
    if wrapped > WRAPPERS_MAX {
        return;
    }
    let unquoted = !first.raw.starts_with(['"', '\'']);
    for value in &first.values {
        let mut rest = rest.to_vec();
        let mut name = value.as_str();
        // An unquoted variable is split at blanks; one that is empty vanishes.
        if unquoted && first.raw.contains('$') {
            let mut pieces = value.split_whitespace();
            let Some(head) = pieces.next() else {
                programs(&rest, base, wrapped + 1, found);
                continue;
            };
            rest.splice(0..0, pieces.map(Argument::literal));
            name = head;
        }
        let program = name.rsplit('/').next().unwrap_or(name).to_owned();
        let invocation = Invocation { program: program.clone(), arguments: rest.clone(), ..base.clone() };
        let inner = wrapped_words(&invocation);
        found.push(invocation);
        if let Some(inner) = inner {
            programs(&inner, base, wrapped + 1, found);
        }
    }
}

fn wrapped_words(invocation: &Invocation) -> Option<Vec<Argument>> {
    let arguments = &invocation.arguments;
    if invocation.program == "find" {
        let runs = ["-exec", "-execdir", "-ok", "-okdir"];
        let start = arguments.iter().position(|argument| runs.iter().any(|run| argument.is(run)))?;
        return Some(arguments[start + 1..].to_vec());
    }
    let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.program == invocation.program)?;
    // `command -v sudo` asks whether there is one.
    if wrapper.program == "command" && arguments.iter().any(|argument| argument.is("-v") || argument.is("-V"))
    {
        return None;
    }
    let mut operands = wrapper.operands;
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let assigns = argument.values.iter().any(|value| value.contains('='));
        if argument.is("--") {
            at += 1;
            break;
        } else if argument.starts_with("-") {
            at += if wrapper.valued.iter().any(|option| argument.is(option)) { 2 } else { 1 };
        } else if assigns && matches!(wrapper.program, "env" | "sudo" | "doas") {
            at += 1;
        } else if operands > 0 {
            operands -= 1;
            at += 1;
        } else {
            break;
        }
    }
    arguments.get(at + operands..).map(<[_]>::to_vec)
}

/// Scripts that the program gets as text.
fn follow_nested(invocation: &Invocation, variables: &Variables, nesting: usize, execution: &mut Execution) {
    let line = invocation.line;
    let mut texts: Vec<(Argument, u32)> = Vec::new();
    let is_shell = SHELLS.contains(&invocation.program.as_str());
    match invocation.program.as_str() {
        "eval" => {
            let joined: Vec<String> =
                invocation.arguments.iter().filter_map(|argument| argument.values.first().cloned()).collect();
            texts.push((Argument::literal(&joined.join(" ")), line));
        }
        "trap" => texts.extend(invocation.operands(&[]).first().map(|argument| ((*argument).clone(), line))),
        "su" | "runuser" => texts.extend(invocation.option(&["-c", "--command"]).map(|text| (text, line))),
        _ if is_shell => {
            let position = invocation.arguments.iter().position(|argument| {
                // `-ec` and the like end in the option that takes the script.
                argument.values.iter().any(|value| value.starts_with('-') && value.ends_with('c'))
            });
            if let Some(position) = position {
                texts.extend(invocation.arguments.get(position + 1).map(|text| (text.clone(), line)));
            } else if let Some((body, first_line)) = &invocation.heredoc {
                texts.push((Argument::literal(body), *first_line));
            } else if let Some((_, text)) =
                invocation.redirects.iter().find(|(operator, _)| operator == "<<<")
            {
                texts.push((text.clone(), line));
            } else if invocation.fed && invocation.operands(&[]).is_empty() {
                execution.unseen.push((line, format!("{} runs what a pipe feeds it", invocation.program)));
            }
        }
        _ => {}
    }
    for (text, line) in texts {
        for value in &text.values {
            // What is not known becomes a variable that has no value.
            let known = value.replace(UNKNOWN, "$__UNKNOWN__");
            follow_text(&known, line, variables, nesting + 1, Some(invocation.statement), execution);
        }
    }
}
