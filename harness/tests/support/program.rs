//! The built programs, run as a person or a CI job runs them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fulldress_reports::report::Report;

/// Programs that the storefront's plan starts; cargo builds them with the workspace, not with this test alone.
const BESIDE: [&str; 4] = ["storefront", "fulfilment", "partner", "storefront-seed"];

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails with everything that was said unless the code is the expected one.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless both streams together hold the text; where lines break does not matter.
    #[track_caller]
    pub(crate) fn expect_said(self, text: &str) -> Self {
        let on_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let both = format!("{}{}", self.stdout, self.stderr);
        assert!(on_one_line(&both).contains(&on_one_line(text)), "`{text}` was not said:\n{both}");
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A program of this machine.
#[expect(clippy::disallowed_methods, reason = "the tests start the real program from outside")]
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(name)
}

/// The real `fulldress`, once the fixtures that it starts are known to stand beside it.
pub(crate) fn fulldress() -> Command {
    let ours = Path::new(env!("CARGO_BIN_EXE_fulldress"));
    let missing = BESIDE.iter().filter(|name| !ours.with_file_name(name).is_file()).fold(
        String::new(),
        |mut missing, name| {
            write!(missing, " {name}").unwrap();
            missing
        },
    );
    assert!(
        missing.is_empty(),
        "these programs do not stand beside {}:{missing}; run `cargo build --workspace --bins` first",
        ours.display()
    );
    let mut command = program(ours);
    command.env_remove("FULLDRESS_RUN").env("NO_COLOR", "1");
    command
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// One of the storefront's two package folders.
pub(crate) fn package(kind: &str) -> PathBuf {
    repository().join(format!("fixtures/packages/storefront-2.4-{kind}"))
}

/// The report of a bundle, read as the program reads it.
pub(crate) fn report(bundle: &Path) -> Report {
    let file = bundle.join("report.json");
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    Report::from_json(&bytes).unwrap()
}
