//! The commands from outside: what they print where, which exit code they end with, and what they leave alone.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[path = "support/program.rs"]
mod program;

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use fulldress::package::Limits;
use fulldress_reports::check::{CHECKS, Outcome};
use fulldress_reports::evidence::Evidence;
use fulldress_reports::report::Report;
use fulldress_reports::traffic::{DriverTrust, TrafficEvidence};
use program::{Ended, fulldress, package, report, repository};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

/// Runs a command in a folder of its own, where a rehearsal would also keep its state.
fn run<Argument: AsRef<OsStr>>(folder: &TempDir, arguments: impl IntoIterator<Item = Argument>) -> Ended {
    let mut command = fulldress();
    command.args(arguments).current_dir(folder.path()).env("FULLDRESS_STATE", folder.path().join("state"));
    command.output().unwrap().into()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn plan() -> PathBuf {
    repository().join("fixtures/storefront/rehearsal.toml")
}

fn inventory() -> PathBuf {
    repository().join("fixtures/storefront/inventory.toml")
}

fn json(ended: &Ended) -> serde_json::Value {
    assert_eq!(ended.stderr, "");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", ended.stdout))
}

/// The storefront's plan with a change, in a folder: the file's path.
fn changed_plan(folder: &TempDir, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(plan()).unwrap();
    assert!(text.contains(from), "the plan does not say `{from}` any more");
    let origin = repository().join("fixtures/storefront");
    let absolute = |text: String, path: &str| {
        text.replace(&format!("\"{path}\""), &format!("\"{}\"", origin.join(path).display()))
    };
    let text = ["inventory.toml", "../packages/storefront-2.4-safe", "../../workloads/storefront.toml"]
        .iter()
        .fold(text.replacen(from, to, 1), |text, path| absolute(text, path));
    let file = folder.path().join("rehearsal.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// One bundle with an outcome that evidence of our own leads to.
fn bundle(folder: &TempDir, evidence: Evidence, expected: Outcome) -> PathBuf {
    let report = Report::build(evidence, "2026-01-01");
    assert_eq!(report.verdict.outcome, expected, "{}", report.verdict.sentence);
    std::fs::write(folder.path().join("report.json"), report.to_json().unwrap()).unwrap();
    folder.path().to_owned()
}

#[test]
fn exit_code_3_when_the_evidence_does_not_suffice() {
    let folder = folder();
    let bundle = bundle(&folder, Evidence::default(), Outcome::Inconclusive);
    run(&folder, ["report".as_ref(), bundle.as_os_str()]).expect_code(3);
    assert!(bundle.join("report.html").is_file());
}

#[test]
fn exit_code_4_when_the_driver_was_saturated() {
    let folder = folder();
    let driver = DriverTrust { planned: 1000, sent: 900, ..DriverTrust::default() };
    let evidence = Evidence {
        traffic: Some(TrafficEvidence { driver, ..TrafficEvidence::default() }),
        ..Evidence::default()
    };
    let bundle = bundle(&folder, evidence, Outcome::Unmeasured);
    run(&folder, ["report".as_ref(), bundle.as_os_str()]).expect_code(4);
}

#[test]
fn a_wrong_key_in_the_plan_is_named_with_file_and_line() {
    let folder = folder();
    let plan = changed_plan(&folder, "seed = 20240101", "sede = 20240101");
    let text = std::fs::read_to_string(&plan).unwrap();
    let line = text.lines().position(|line| line.starts_with("sede")).unwrap() + 1;
    let ended = run(&folder, ["run".as_ref(), plan.as_os_str()]).expect_code(2).expect_said("sede");
    // A graphical message may break a long path; file name and line stay together.
    let said: String = ended.stderr.split_whitespace().collect();
    assert!(said.contains(&format!("rehearsal.toml:{line}:")), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_missing_plan_package_or_inventory_is_a_usage_error() {
    let folder = folder();
    run(&folder, ["run", "no-plan.toml"]).expect_code(2).expect_said("no-plan.toml");
    let plan = plan();
    let run_plan = [OsStr::new("run"), plan.as_os_str(), "--package".as_ref(), "no.zip".as_ref()];
    run(&folder, run_plan).expect_code(2).expect_said("no.zip");
    let changed = changed_plan(&folder, "inventory = \"inventory.toml\"", "inventory = \"nothing.toml\"");
    run(&folder, ["run".as_ref(), changed.as_os_str()]).expect_code(2).expect_said("nothing.toml");
    assert!(!folder.path().join("rehearsals").exists() && !folder.path().join("state").exists());
}

#[test]
fn an_unknown_flag_and_an_unknown_command_are_usage_errors() {
    let folder = folder();
    run(&folder, ["run", "--no-such-flag"]).expect_code(2).expect_said("--no-such-flag");
    run(&folder, ["rehears"]).expect_code(2).expect_said("rehears");
    run(&folder, [] as [&str; 0]).expect_code(2).expect_said("Usage");
}

#[test]
fn help_names_every_exit_code_and_is_no_error() {
    let ended = run(&folder(), ["--help"]).expect_code(0);
    for code in ["0 pass", "1 fail", "2 usage", "3 inconclusive", "4 unmeasured", "5 the mirror", "6 package"]
    {
        assert!(ended.stdout.contains(code), "{code}: {}", ended.stdout);
    }
}

#[test]
fn a_bundle_that_holds_something_is_refused_and_left_alone() {
    let folder = folder();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("evidence"), "older").unwrap();
    let plan = plan();
    let arguments = ["run".as_ref(), plan.as_os_str(), "--out".as_ref(), out.as_os_str()];
    run(&folder, arguments).expect_code(2).expect_said("is not empty");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
}

/// A package of the storefront whose archive was changed on its way.
fn tampered(folder: &TempDir, change: impl Fn(&str, Vec<u8>) -> (String, Vec<u8>)) -> PathBuf {
    let sound = folder.path().join("sound.zip");
    fulldress::package::build::build_to(&package("safe"), &sound, &Limits::default()).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&sound).unwrap()).unwrap();
    let path = folder.path().join("upgrade.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let (name, bytes) = change(&entry.name().unwrap(), bytes);
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// The package is refused by every command that opens one; a rehearsal starts nothing and reports the refusal.
#[track_caller]
fn refused(change: impl Fn(&str, Vec<u8>) -> (String, Vec<u8>), id: &str, object: &str) {
    let folder = folder();
    let package = tampered(&folder, change);
    let (plan, inventory, out) = (plan(), inventory(), folder.path().join("out"));
    let inspect = ["package".as_ref(), "inspect".as_ref(), package.as_os_str()];
    run(&folder, inspect).expect_code(6).expect_said(id).expect_said(object);
    let preflight =
        ["preflight".as_ref(), package.as_os_str(), "--inventory".as_ref(), inventory.as_os_str()];
    run(&folder, preflight).expect_code(6).expect_said(id);
    let package = ["--package".as_ref(), package.as_os_str()];
    let rehearse = ["run".as_ref(), plan.as_os_str(), "--out".as_ref(), out.as_os_str()];
    run(&folder, rehearse.into_iter().chain(package)).expect_code(6).expect_said(object);
    let refusal = report(&out).evidence.package.unwrap().refused.unwrap();
    assert_eq!(refusal.check.to_string(), id);
    assert!(!out.join("logs/dataset.log").exists() && !folder.path().join("state").exists());
}

#[test]
fn exit_code_6_for_an_entry_with_another_digest() {
    let change = |name: &str, mut bytes: Vec<u8>| {
        if name.ends_with("030-backfill-channel.up.sql") {
            bytes.extend(b"\nDROP TABLE orders;\n");
        }
        (name.to_owned(), bytes)
    };
    refused(change, "PKG-DIGEST", "030-backfill-channel.up.sql");
}

#[test]
fn exit_code_6_for_an_entry_that_leads_out_of_the_package() {
    let change = |name: &str, bytes: Vec<u8>| match name.ends_with("050-webhook.up.sh") {
        true => ("../050-webhook.up.sh".to_owned(), bytes),
        false => (name.to_owned(), bytes),
    };
    refused(change, "PKG-ARCHIVE", "../050-webhook.up.sh");
}

/// `.ci/nightly` with a stand-in for the program, which writes a report where a bundle goes and ends as it is told.
fn nightly(folder: &TempDir, codes: &str, keep: &str) -> Ended {
    let stand_in = folder.path().join("stand-in");
    let script = "#!/bin/sh\n[ \"$1\" = run ] || exit 0\n\
        case $6 in *unsafe.zip) code=${CODES#* } ;; *) code=${CODES% *} ;; esac\n\
        mkdir -p \"$8\" && echo {} >\"$8\"/report.json\nexit $code\n";
    std::fs::write(&stand_in, script).unwrap();
    std::fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = program::program(repository().join(".ci/nightly"));
    command.current_dir(folder.path()).env("FULLDRESS", stand_in).env("CODES", codes);
    command.env("HISTORY", folder.path().join("history")).env("KEEP", keep).output().unwrap().into()
}

#[test]
fn a_night_expects_both_verdicts_and_keeps_the_newest_bundles_of_each_package() {
    let folder = folder();
    let names = |package: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder.path().join("history").join(package)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for old in ["20200101T000000Z", "20210101T000000Z"] {
        let bundle = folder.path().join("history/safe").join(old);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("report.json"), "{}").unwrap();
    }
    // Somebody's own folder is no bundle, however old.
    std::fs::create_dir(folder.path().join("history/safe/1999-notes")).unwrap();
    nightly(&folder, "0 1", "2").expect_code(0).expect_said("20200101T000000Z: KEEP is 2");
    let left = names("safe");
    assert_eq!((left.len(), left[0].as_str(), left[1].as_str()), (3, "1999-notes", "20210101T000000Z"));
    assert_eq!(names("unsafe").len(), 1);
    // An unsafe package that passes is as ill a night as a safe one that fails.
    nightly(&folder, "0 0", "9")
        .expect_code(1)
        .expect_said("the unsafe package ended with exit code 0 instead of 1");
    nightly(&folder, "5 1", "9")
        .expect_code(1)
        .expect_said("the safe package ended with exit code 5 instead of 0");
    nightly(&folder, "0 1", "none").expect_code(2).expect_said("KEEP is `none`");
}

#[test]
fn a_dry_run_starts_nothing_and_writes_nothing() {
    let folder = folder();
    let plan = plan();
    let ended = run(&folder, ["run".as_ref(), plan.as_os_str(), "--dry-run".as_ref()]).expect_code(0);
    for part in ["2.3 to 2.4", "storefront-seed", "020-orders-channel", "warmup"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The reader keeps its exit codes apart: a finding, a usage error, a refusal.
#[test]
fn preflight_ends_with_0_1_or_2() {
    let folder = folder();
    let preflight = |package: &Path, inventory: &Path, format: &str| {
        let inventory = ["--inventory".as_ref(), inventory.as_os_str()];
        let format = ["--format".as_ref(), format.as_ref()];
        run(&folder, ["preflight".as_ref(), package.as_os_str()].into_iter().chain(inventory).chain(format))
    };
    preflight(&package("safe"), &inventory(), "text").expect_code(0).expect_said("0 findings");
    let found = preflight(&package("unsafe"), &inventory(), "text").expect_code(1);
    for id in [
        "PRE-PRIVILEGE",
        "PRE-UNIT",
        "PRE-CONFIG-KEY",
        "PRE-PATH",
        "PRE-SCHEDULE",
        "PRE-ENDPOINT",
        "PRE-CREDENTIAL",
        "PRE-SQL",
    ] {
        assert!(found.stdout.contains(id), "{id}: {}", found.stdout);
    }
    assert!(!found.stdout.contains("sf-app-2019"), "{}", found.stdout);
    assert!(json(&preflight(&package("unsafe"), &inventory(), "json").expect_code(1))["findings"].is_array());
    preflight(Path::new("no.zip"), &inventory(), "text").expect_code(2).expect_said("no.zip");
    preflight(&package("safe"), Path::new("no.toml"), "text").expect_code(2).expect_said("no.toml");
}

#[test]
fn a_package_is_built_and_inspected() {
    let folder = folder();
    let (source, zip) = (package("safe"), folder.path().join("upgrade.zip"));
    let build = ["package".as_ref(), "build".as_ref(), source.as_os_str(), "--out".as_ref(), zip.as_os_str()];
    run(&folder, build).expect_code(0).expect_said("sha256");
    let inspect = |format: &str| {
        run(
            &folder,
            ["package".as_ref(), "inspect".as_ref(), zip.as_os_str(), "--format".as_ref(), format.as_ref()],
        )
    };
    inspect("text").expect_code(0).expect_said("020-orders-channel").expect_said("signature not verified");
    assert_eq!(json(&inspect("json").expect_code(0))["to"], "2.4");
    let nothing = ["package".as_ref(), "build".as_ref(), folder.path().as_os_str()];
    run(&folder, nothing).expect_code(2).expect_said("manifest.toml");
}

#[test]
fn init_writes_a_plan_once_and_never_over_another() {
    let folder = folder();
    run(&folder, ["init"]).expect_code(0).expect_said("rehearsal.toml");
    let file = folder.path().join("rehearsal.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("fulldress/plan/1"));
    std::fs::write(&file, "mine").unwrap();
    run(&folder, ["init"]).expect_code(2).expect_said("exists already");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn checks_lists_every_record() {
    let folder = folder();
    let text = run(&folder, ["checks"]).expect_code(0).stdout;
    let records = json(&run(&folder, ["checks", "--format", "json"]).expect_code(0));
    assert_eq!(records.as_array().unwrap().len(), CHECKS.len());
    for check in CHECKS {
        assert!(text.contains(&check.id.to_string()), "{}", check.id);
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&folder, ["completions", shell]).expect_code(0).expect_said("preflight");
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn doctor_says_what_it_found_as_text_and_as_json() {
    let folder = folder();
    let ended = run(&folder, ["doctor", "--format", "json"]);
    let findings = json(&ended);
    let well = findings.as_array().unwrap().iter().all(|finding| finding["well"] == true);
    assert_eq!(ended.code, Some(if well { 0 } else { 5 }));
    run(&folder, ["doctor", "--clean"]).expect_said("nothing was left behind");
    assert!(!folder.path().join("state").exists(), "what was made for the look is gone again");
}

#[test]
fn a_bundle_that_cannot_be_read_is_a_usage_error() {
    let folder = folder();
    run(&folder, ["report", "nowhere"]).expect_code(2).expect_said("nowhere");
    run(&folder, ["compare", "nowhere", "nothing"]).expect_code(2).expect_said("nowhere");
    run(&folder, ["compare", "alone"]).expect_code(2);
    std::fs::write(folder.path().join("report.json"), "{}").unwrap();
    run(&folder, ["report", "report.json"]).expect_code(2).expect_said("report.json");
}

/// The README shows the example's files; what a newcomer copies must be what works.
#[test]
fn the_example_is_quoted_as_it_is_and_its_plan_holds() {
    let example = repository().join("docs/example");
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    for file in [
        "rehearsal.toml",
        "inventory.toml",
        "workload.toml",
        "package/manifest.toml",
        "package/sql/010-note.up.sql",
        "package/sql/010-note.down.sql",
    ] {
        let text = std::fs::read_to_string(example.join(file)).unwrap();
        assert!(readme.contains(text.trim()), "the README quotes another {file}");
    }
    let ended = run(
        &folder(),
        [OsStr::new("run"), example.join("rehearsal.toml").as_os_str(), OsStr::new("--dry-run")],
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// A file of the folder.
fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn trace_prints_locks_as_text_and_as_json_and_leaves_nothing() {
    let folder = folder();
    // The server's user has to pass through to its data.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let setup = file(&folder, "schema.sql", "CREATE TABLE orders (id int PRIMARY KEY);\n\\echo loaded\n");
    let script = file(&folder, "up.sql", "-- adds\nALTER TABLE orders ADD COLUMN x int;\n");
    let arguments = |last: &[&str]| -> Vec<std::ffi::OsString> {
        let fixed = ["trace".into(), "--setup".into(), setup.clone().into(), script.clone().into()];
        fixed.into_iter().chain(last.iter().map(Into::into)).collect()
    };
    let ended = run(&folder, arguments(&[])).expect_code(0);
    ended.expect_said("ACCESS EXCLUSIVE table public.orders hazards: no-lock-timeout (lock_timeout none)");
    let trace = json(&run(&folder, arguments(&["--format", "json"])).expect_code(0));
    assert_eq!(trace["schema"], "fulldress/trace/1");
    let statement = &trace["scripts"][0]["statements"][0];
    assert_eq!((&statement["index"], &statement["line"]), (&1.into(), &2.into()));
    assert_eq!(statement["locks"][0]["relation"], "public.orders");
    assert_eq!(statement["locks"][0]["mode"], "AccessExclusiveLock");
    assert!(statement["error"].is_null() && statement["unobserved"].is_null());
    let sarif = folder.path().join("locks.sarif");
    run(&folder, arguments(&["--deny", "rewrite", "--sarif", sarif.to_str().unwrap()])).expect_code(0);
    run(&folder, arguments(&["--deny", "no-lock-timeout"])).expect_code(1);
    run(&folder, arguments(&["--deny", "all"])).expect_code(1);
    run(&folder, arguments(&["--deny", "locks"])).expect_code(2).expect_said("no-lock-timeout");
    let sarif: serde_json::Value = serde_json::from_slice(&std::fs::read(sarif).unwrap()).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "no-lock-timeout");
    assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 2);
    let left: Vec<_> = folder.path().join("state").read_dir().into_iter().flatten().collect();
    assert!(left.iter().all(|entry| !entry.as_ref().unwrap().path().is_dir()), "{left:?}");
    // The server refuses the second: the trace is whole, and the exit code says so.
    std::fs::write(&script, "SELECT 1; ALTER TABLE nothing ADD COLUMN x int;").unwrap();
    run(&folder, arguments(&[]))
        .expect_code(1)
        .expect_said("error 42P01: relation \"nothing\" does not exist");
}

#[test]
fn trace_refuses_what_it_cannot_run_in_one_sentence() {
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = file(&folder, "up.sql", "SELECT 1;\n\\i other.sql\n");
    let said = run(&folder, ["trace".as_ref(), script.as_os_str()]).expect_code(2);
    said.expect_said("up.sql, line 2: `\\i other.sql` is a command of psql, and no SQL;");
    run(&folder, ["trace", "nothing.sql"]).expect_code(2).expect_said("nothing.sql cannot be read");
    let script = file(&folder, "up.sql", "SELECT 1;");
    let setup = file(&folder, "schema.sql", "CREATE TABLE a (id int);\nCREATE TABLE a (id int);\n");
    let arguments = ["trace".as_ref(), "--setup".as_ref(), setup.as_os_str(), script.as_os_str()];
    run(&folder, arguments)
        .expect_code(2)
        .expect_said("schema.sql failed: line 2: ERROR: relation \"a\" already exists");
    run(&folder, ["trace", "--database", "nonsense", "up.sql"])
        .expect_code(2)
        .expect_said("--database is no URL of PostgreSQL");
    run(&folder, ["trace", "--postgres", "/nowhere", "up.sql"])
        .expect_code(5)
        .expect_said("/nowhere has no initdb");
    run(&folder, ["trace", "--postgres", "9.1", "up.sql"])
        .expect_code(5)
        .expect_said("PostgreSQL 9.1 was not found");
}
