use std::collections::BTreeSet;
use std::sync::Mutex;

use fulldress_workloads::clock::Clock;

use super::{Host, HostState, ServiceActions, ShimRequest, SudoPolicy, Unit};

/// Services that only remember whether they run.
#[derive(Debug, Default)]
struct Switches {
    running: Mutex<BTreeSet<String>>,
    broken: bool,
}

impl ServiceActions for Switches {
    async fn start(&self, service: &str) -> Result<(), String> {
        if self.broken {
            return Err("the port is taken".to_owned());
        }
        self.running.lock().unwrap().insert(service.to_owned());
        Ok(())
    }

    async fn stop(&self, service: &str) -> Result<(), String> {
        self.running.lock().unwrap().remove(service);
        Ok(())
    }

    async fn restart(&self, service: &str) -> Result<(), String> {
        self.stop(service).await?;
        self.start(service).await
    }

    async fn is_active(&self, service: &str) -> bool {
        self.running.lock().unwrap().contains(service)
    }
}

fn host() -> Host<Switches> {
    let mut state =
        HostState { users: vec!["www".into()], script_user: "root".into(), ..HostState::default() };
    state.units.insert("web.service".into(), Unit::of_service("web"));
    state.units.insert("sweep.timer".into(), Unit { enabled: true, active: true, ..Unit::default() });
    let actions = Switches::default();
    actions.running.lock().unwrap().insert("web".into());
    Host { state: Mutex::new(state), actions, clock: Clock::start() }
}

async fn call(host: &Host<Switches>, user: &str, line: &str, stdin: &str) -> (i32, String, String) {
    let request = ShimRequest {
        argv: line.split_whitespace().map(str::to_owned).collect(),
        stdin: stdin.to_owned(),
        cwd: "/".to_owned(),
        uid: 0,
        user: user.to_owned(),
        // As it was set: here the shim has no file system to look at.
        unit_files: host.lock().unit_files.clone(),
    };
    let reply = host.answer(&request).await;
    (reply.exit, reply.stdout, reply.stderr)
}

/// One call after the other on one host: command line, exit code, and a part of what it says.
async fn check(host: &Host<Switches>, steps: &[(&str, i32, &str)]) {
    for (line, exit, said) in steps {
        let (got, stdout, stderr) = call(host, "", line, "").await;
        assert_eq!(got, *exit, "{line}: {stdout}{stderr}");
        assert!(format!("{stdout}{stderr}").contains(said), "{line}: {stdout}{stderr}");
    }
}

#[tokio::test]
async fn units_start_stop_and_tell() {
    check(
        &host(),
        &[
            ("systemctl is-active web", 0, "active\n"),
            ("systemctl stop web.service", 0, ""),
            ("systemctl is-active web", 3, "inactive\n"),
            ("systemctl status web", 3, "inactive (dead)"),
            ("systemctl reload web", 1, "web.service is not active, cannot reload.\n"),
            ("systemctl try-restart web", 0, ""),
            ("systemctl is-active --quiet web", 3, ""),
            ("service web start", 0, ""),
            ("systemctl status web", 0, "active (running)"),
            ("systemctl --user restart web", 0, ""),
            ("service --status-all", 0, " [ + ]  web"),
            ("systemctl show -p ActiveState --value web", 0, "active\n"),
            ("systemctl list-timers", 0, "1 timers listed."),
            ("systemctl frobnicate web", 1, "Unknown command verb frobnicate.\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn unknown_units_fail_as_on_a_real_host() {
    let unknown = "Failed to restart shop.service: Unit shop.service not found.\n";
    let host = host();
    check(
        &host,
        &[
            ("systemctl restart shop", 5, unknown),
            ("service shop restart", 5, unknown),
            ("systemctl stop shop", 5, "Failed to stop shop.service: Unit shop.service not loaded.\n"),
            ("systemctl restart web shop", 5, unknown),
            ("systemctl status shop", 4, "Unit shop.service could not be found.\n"),
            ("systemctl is-active web shop", 0, "active\ninactive\n"),
            ("systemctl enable shop", 1, "Failed to enable unit: Unit file shop.service does not exist.\n"),
            ("systemctl is-enabled shop", 1, "No such file or directory"),
        ],
    )
    .await;
    let journal = host.journal();
    assert_eq!((journal.len(), journal[0].exit), (8, 5));
    assert_eq!(journal[0].stderr, unknown);
}

#[tokio::test]
async fn enabling_and_masking_change_the_snapshot() {
    let host = host();
    let before = host.snapshot().await;
    check(
        &host,
        &[
            ("systemctl is-enabled web", 0, "enabled\n"),
            (
                "systemctl disable --now web",
                0,
                "Removed \"/etc/systemd/system/multi-user.target.wants/web.service\"",
            ),
            ("systemctl is-enabled web", 1, "disabled\n"),
            ("systemctl is-active web", 3, ""),
            ("systemctl mask web", 0, "→ /dev/null"),
            ("systemctl start web", 1, "Failed to start web.service: Unit web.service is masked.\n"),
            ("systemctl unmask web", 0, ""),
            ("systemctl enable --now --quiet web", 0, ""),
        ],
    )
    .await;
    assert_eq!(host.snapshot().await, before);
}

#[tokio::test]
async fn a_unit_file_of_the_upgrade_becomes_a_unit() {
    let host = host();
    host.lock().unit_files.insert("rogue.timer".to_owned());
    check(
        &host,
        &[
            ("systemctl daemon-reload", 0, ""),
            ("systemctl enable --now rogue.timer", 0, "timers.target.wants"),
            ("systemctl list-timers", 0, "rogue.timer"),
        ],
    )
    .await;
    assert!(host.snapshot().await.units["rogue.timer"].enabled);
    host.lock().unit_files.clear();
    check(&host, &[("systemctl stop rogue.timer", 0, ""), ("systemctl daemon-reload", 0, "")]).await;
    assert!(!host.snapshot().await.units.contains_key("rogue.timer"));
}

#[tokio::test]
async fn a_service_that_does_not_start_fails_the_job() {
    let mut host = host();
    host.actions.broken = true;
    check(&host, &[("systemctl restart web", 1, "Job for web.service failed")]).await;
}

#[tokio::test]
async fn only_root_acts_and_sudo_obeys_its_policy() {
    let host = host();
    host.lock().sudo = SudoPolicy::PasswordRequired;
    let (exit, _, stderr) = call(&host, "www", "systemctl restart web", "").await;
    assert_eq!(exit, 1);
    assert!(stderr.contains("Interactive authentication required"), "{stderr}");
    let (exit, _, stderr) = call(&host, "www", "sudo -n true", "").await;
    assert_eq!((exit, stderr.as_str()), (1, "sudo: a password is required\n"));
    assert_eq!(call(&host, "root", "sudo -u nobody-here true", "").await.0, 1);
    assert_eq!(call(&host, "root", "sudo -u www true", "").await.0, 0);
    assert_eq!(
        call(&host, "root", "sudo tool -u nobody-here", "").await.0,
        0,
        "the tool's option, not sudo's"
    );
}

#[tokio::test]
async fn crontabs_are_checked_and_kept_per_user() {
    let host = host();
    check(&host, &[("crontab -l", 1, "no crontab for root\n"), ("crontab -r", 1, "no crontab for root\n")])
        .await;
    let table = "MAILTO=ops\n# nightly\n*/5 1-3 * jan,feb mon /opt/run --all\n@daily /opt/sweep\n";
    assert_eq!(call(&host, "root", "crontab -u www -", table).await.0, 0);
    assert_eq!(call(&host, "www", "crontab -l", "").await, (0, table.to_owned(), String::new()));
    let (exit, _, stderr) = call(&host, "www", "crontab -", "a b * * * * x\n5 ? * * * x\n").await;
    assert_eq!((exit, stderr.contains("\"-\":1: bad hour")), (1, true), "{stderr}");
    assert_eq!(call(&host, "www", "crontab -", "@daily x").await.0, 1, "no newline at the end");
    assert_eq!(call(&host, "www", "crontab -u root -l", "").await.0, 1);
    assert_eq!(call(&host, "root", "crontab -u ghost -l", "").await.0, 1);
    assert_eq!(host.snapshot().await.crontabs["www"], table);
    assert_eq!(call(&host, "www", "crontab -r", "").await.0, 0);
}

#[tokio::test]
async fn jobs_are_numbered_listed_and_removed() {
    let host = host();
    let (exit, _, stderr) = call(&host, "www", "at now + 1 hour", "/opt/late\n").await;
    assert_eq!((exit, stderr.ends_with("job 1 at now + 1 hour\n")), (0, true), "{stderr}");
    check(
        &host,
        &[
            ("atq", 0, "1\tnow + 1 hour a www\n"),
            ("at -c 1", 0, "/opt/late"),
            ("at", 1, "Garbled time"),
            ("atrm 7", 1, "Cannot find jobid 7\n"),
            ("atrm 1", 0, ""),
            ("at -f x tomorrow", 0, "job 2 at"),
        ],
    )
    .await;
    assert_eq!(host.snapshot().await.at_jobs.len(), 1);
}
