//! Scripts in real sandboxes, against a real PostgreSQL and real HTTP servers.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use fulldress::process::{Child, Launch, Output, RunFolder, Sink, run_to_end, unprivileged_user};
use fulldress::upgrade::control::{ControlServer, HostState, ServiceActions, Unit};
use fulldress::upgrade::relay::{Relay, Target};
use fulldress::upgrade::sandbox::{Account, Confinement, Endpoint, Sandbox, Settings, probe};
use fulldress_workloads::clock::Clock;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);

/// The confinement that works here. Where none does the test says that it was skipped, and fails if the environment
/// demands a sandbox.
macro_rules! confinement_or_skip {
    () => {
        match probe().await {
            Ok(confinement) => confinement,
            Err(error) => {
                let required = std::env::var("FULLDRESS_REQUIRE_SANDBOX").is_ok_and(|value| value == "1");
                assert!(!required, "FULLDRESS_REQUIRE_SANDBOX=1, but failed to {error}");
                eprintln!("skipped: failed to {error}");
                return;
            }
        }
    };
}

/// A run folder, a package and the sandbox over them.
struct Stage {
    sandbox: Sandbox,
    run: RunFolder,
    package: PathBuf,
    // The last to go: it holds the others.
    _state: TempDir,
}

/// A state folder that the scripts' user may pass through.
fn state_folder() -> TempDir {
    let state = tempfile::tempdir().unwrap();
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    state
}

fn settings(confinement: Confinement, package: &Path) -> Settings {
    Settings {
        confinement,
        executable: PathBuf::from(env!("CARGO_BIN_EXE_fulldress")),
        package: package.to_owned(),
        host_name: "shop-1".to_owned(),
        script_user: Account::root(),
        users: Vec::new(),
        endpoints: vec![
            Endpoint::http("partner.example", 80),
            Endpoint::http("stub.example", 8080),
            Endpoint::postgres("db.internal", 5432),
        ],
        read_only: Vec::new(),
        sudo_keeps: vec!["PGHOST".to_owned()],
    }
}

impl Stage {
    fn new(confinement: Confinement) -> Self {
        Self::with(confinement, |_| {})
    }

    fn with(confinement: Confinement, change: impl FnOnce(&mut Settings)) -> Self {
        let state = state_folder();
        let (run, _) = RunFolder::create_in(state.path()).unwrap();
        let package = run.folder("package", None).unwrap();
        let mut settings = settings(confinement, &package);
        change(&mut settings);
        let sandbox = Sandbox::prepare(&run, "mirror", settings).unwrap();
        Self { sandbox, run, package, _state: state }
    }

    /// Puts a script into the package, as an archive would: readable by its owner, without the execute bit.
    fn launch(&self, text: &str) -> Launch {
        let path = self.package.join("step.sh");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.sandbox.hand_over().unwrap();
        self.sandbox.launch("step.sh", &["one arg".to_owned()], &[]).unwrap()
    }

    async fn sh(&self, text: &str) -> Output {
        self.launch(text).output(LIMIT).await.unwrap()
    }

    fn control(&self) -> ControlServer<Switches> {
        let users = vec!["deploy".to_owned()];
        let mut state = HostState { script_user: "root".to_owned(), users, ..HostState::default() };
        state.units.insert("web.service".into(), Unit::of_service("web"));
        ControlServer::start(&self.sandbox.control_socket(), state, Switches::default(), Clock::start())
            .unwrap()
    }
}

/// Services that remember what was done to them.
#[derive(Debug, Default)]
struct Switches(Mutex<BTreeSet<String>>);

impl ServiceActions for Switches {
    async fn start(&self, service: &str) -> Result<(), String> {
        self.0.lock().unwrap().insert(service.to_owned());
        Ok(())
    }

    async fn stop(&self, service: &str) -> Result<(), String> {
        self.0.lock().unwrap().remove(service);
        Ok(())
    }

    async fn restart(&self, service: &str) -> Result<(), String> {
        self.start(service).await
    }

    async fn is_active(&self, service: &str) -> bool {
        self.0.lock().unwrap().contains(service)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts a script's exit code and what it said.
fn check(output: &Output, code: i32, said: &str) {
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(said), "expected {said:?} in {all:?}");
}

/// Waits for a condition; the limit is only for a broken one.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, holds).await.is_ok(), "waited in vain until {what}");
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap()
}

/// How many processes have this word as an argument of their own, not inside a shell's script.
fn processes_with(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}

/// A number of seconds that nobody else sleeps: the sleepers can be counted by it.
fn own_seconds() -> String {
    (100_000_000 + u64::from(rand::random::<u32>())).to_string()
}

/// An HTTP server that gives each caller the same body.
async fn http_server(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all((head + body).as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_script_sees_no_network_but_the_inventory() {
    let stage = Stage::new(confinement_or_skip!());
    let outside = http_server("outside").await;
    let partner = Target::new(http_server("partner").await);
    let folder = stage.sandbox.http_folder();
    let _partner = Relay::to_service(&folder, "partner.example", 80, partner.clone()).unwrap();
    let _stub = Relay::to_service(&folder, "stub.example", 8080, Target::new(outside)).unwrap();

    check(&stage.sh(&format!("curl -sS --max-time 5 http://{outside}/")).await, 7, "");
    check(&stage.sh("curl -sS --max-time 5 http://elsewhere.example/").await, 6, "Could not resolve host");
    check(&stage.sh("curl -sS --max-time 5 http://partner.example/").await, 0, "partner");
    check(&stage.sh("curl -sS --max-time 5 http://stub.example:8080/").await, 0, "outside");
    partner.set(http_server("moved").await);
    check(&stage.sh("curl -sS --max-time 5 http://partner.example/").await, 0, "moved");
}

#[tokio::test]
async fn the_shims_speak_to_the_mirror() {
    let stage = Stage::new(confinement_or_skip!());
    let control = stage.control();
    let unknown = "Failed to restart shop.service: Unit shop.service not found.\n";
    check(&stage.sh("systemctl restart shop").await, 5, unknown);
    check(&stage.sh("sudo -n systemctl restart shop.service").await, 5, unknown);
    check(&stage.sh("sudo service web restart && systemctl is-active web").await, 0, "active");
    check(&stage.sh("crontab -l").await, 1, "no crontab for root");
    check(&stage.sh("(crontab -l 2>/dev/null; echo '* * * * * /opt/x') | crontab -").await, 0, "");
    check(&stage.sh("crontab -l && echo /opt/y | at now + 1 hour && atq").await, 0, "job 1 at now + 1 hour");
    check(&stage.sh("sudo no-such-program").await, 1, "sudo: no-such-program: command not found");
    let clean = "A=1 B=2 sudo B=3 sh -c 'echo a=$A b=$B who=$USER'";
    check(&stage.sh(clean).await, 0, "a= b=3 who=root");
    let kept = "A=1 sudo -E sh -c 'echo a=$A host=$PGHOST'";
    check(&stage.sh(kept).await, 0, "a=1 host=/run/postgresql");
    if Path::new("/usr/bin/systemctl").exists() {
        check(&stage.sh("/usr/bin/systemctl restart shop").await, 5, unknown);
    }

    let host = control.host();
    let snapshot = host.snapshot().await;
    assert_eq!(snapshot.crontabs["root"], "* * * * * /opt/x\n");
    assert_eq!(snapshot.at_jobs[&1].commands, "/opt/y\n");
    assert!(snapshot.units["web.service"].active);
    assert_eq!(host.journal().iter().filter(|call| call.argv[0] == "sudo").count(), 5);
}

#[tokio::test]
async fn without_a_mirror_a_shim_says_so() {
    let stage = Stage::new(confinement_or_skip!());
    check(&stage.sh("systemctl restart web").await, 69, "failed to reach the mirror");
}

#[tokio::test]
async fn the_script_user_has_its_number_and_sudo_changes_it() {
    let confinement = confinement_or_skip!();
    let deploy = Account { name: "deploy".into(), uid: 1000, gid: 1000, home: "/home/deploy".into() };
    let stage = Stage::with(confinement, |settings| settings.script_user = deploy);
    let _control = stage.control();
    if confinement != Confinement::UserNamespace {
        eprintln!("skipped: numeric users need user namespaces, and this machine has none");
        return;
    }
    check(&stage.sh("id -un; sudo id -un; sudo -u deploy id -un").await, 0, "deploy\nroot\ndeploy\n");
    check(&stage.sh("sudo touch /opt/by-root && touch /opt/by-deploy && ls /opt").await, 0, "by-deploy");
}

#[tokio::test]
async fn files_of_the_host_persist_and_nothing_else_can_be_written() {
    let stage = Stage::new(confinement_or_skip!());
    std::fs::create_dir_all(stage.sandbox.host_tree().join("etc/storefront")).unwrap();
    let write = "echo a > /etc/storefront/new; echo b > /opt/b; echo c > /var/lib/c; echo d > /tmp/d";
    check(&stage.sh(write).await, 0, "");
    let read = "cat /etc/storefront/new /opt/b /var/lib/c /tmp/d";
    check(&stage.sh(read).await, 0, "a\nb\nc\nd\n");
    assert_eq!(std::fs::read_to_string(stage.sandbox.host_tree().join("var/lib/c")).unwrap(), "c\n");

    for place in ["/usr/bin/x", "/package/x", "/fulldress/shims/x", "/etc/alternatives/x", "/run/fulldress/x"]
    {
        check(&stage.sh(&format!("echo x > {place}")).await, 2, "");
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    check(&stage.sh(&format!("test -e {}", secret.path().display())).await, 1, "");
    let place = "echo $1; pwd; hostname; ls -A /package; echo e > /dev/stderr";
    check(&stage.sh(place).await, 0, "one arg\n/package\nshop-1\nstep.sh\ne\n");
}

#[tokio::test]
async fn scripts_run_by_their_first_line_and_fail_with_their_code() {
    let stage = Stage::new(confinement_or_skip!());
    check(&stage.sh("#!/bin/bash\n[[ -n $BASH_VERSION ]] && echo bash; exit 9").await, 9, "bash");
    check(&stage.sh("#!/no/such/interpreter\n").await, 127, "failed to run /no/such/interpreter");
    check(&stage.sh("kill -TERM $$").await, 143, "");
    for stray in ["../lock", "/etc/passwd", "missing.sh"] {
        assert!(stage.sandbox.launch(stray, &[], &[]).is_err(), "{stray}");
    }
}

#[tokio::test]
async fn root_without_user_namespaces_still_confines() {
    let _any = confinement_or_skip!();
    let Some(user) = unprivileged_user() else {
        eprintln!("skipped: only root needs this confinement");
        return;
    };
    let stage = Stage::new(Confinement::Root);
    let _control = stage.control();
    let outside = http_server("outside").await;
    let stub = Target::new(outside);
    let _stub = Relay::to_service(&stage.sandbox.http_folder(), "partner.example", 80, stub).unwrap();
    let powerless = format!("{}\nCapEff:\t0000000000000000\n", user.uid);
    check(&stage.sh("id -u; grep CapEff /proc/self/status").await, 0, &powerless);
    check(&stage.sh(&format!("curl -sS --max-time 5 http://{outside}/")).await, 7, "");
    check(&stage.sh("curl -sS --max-time 5 http://partner.example/").await, 0, "outside");
    check(&stage.sh("echo b > /opt/b && sudo systemctl restart shop").await, 5, "not found");
}

#[tokio::test]
async fn host_mode_runs_with_the_shims_first() {
    let stage = Stage::new(Confinement::Host);
    let _control = stage.control();
    check(&stage.sh("systemctl restart shop; echo $? $1; cat step.sh | wc -l").await, 0, "5 one arg");
}

/// A cluster of this machine's PostgreSQL 15 on a free port.
async fn cluster(run: &RunFolder) -> (Child, u16) {
    let bin = Path::new("/usr/lib/postgresql/15/bin");
    let user = unprivileged_user();
    let data = run.folder("data", user.as_ref()).unwrap();
    let program = |name: &str| {
        let mut launch = Launch::new(bin.join(name)).args(["-D".into(), data.clone().into_os_string()]);
        launch.user.clone_from(&user);
        launch.recorded_in(run)
    };
    let initdb = program("initdb").args(["-A", "trust", "-U", "postgres", "--no-sync", "-N"]);
    let made = initdb.output(LIMIT).await.unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    // The default admits 127.0.0.1 alone, and the package comes from another loopback address.
    std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut launch = program("postgres").args(["-p", &port.to_string(), "-h", "127.0.0.1", "-F"]);
    launch = launch.args(["-c", "unix_socket_directories="]);
    launch.death_signal = Signal::QUIT;
    launch.stop_signal = Signal::INT;
    launch.stderr = Sink::File(run.path().join("postgres.log"));
    (launch.start().await.unwrap(), port)
}

#[tokio::test]
async fn the_packages_sessions_come_from_their_own_address() {
    let stage = Stage::new(confinement_or_skip!());
    let (mut postmaster, port) = cluster(&stage.run).await;
    let target = Target::new(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let relay = Relay::to_postgres(&stage.sandbox.postgres_folder(), target, source).unwrap();

    let ask = "psql -X -At -U postgres -d postgres -c 'select inet_client_addr()'";
    check(&stage.sh(&format!("until {ask} 2>/dev/null; do sleep 0.05; done")).await, 0, "127.0.0.9");
    // The same by TCP and under another name: a hard-coded address hides nothing.
    check(&stage.sh(&format!("PGAPPNAME=web {ask} -h db.internal")).await, 0, "127.0.0.9");
    assert!(relay.accepted() >= 2);

    relay.stop().await;
    assert_ne!(stage.sh(ask).await.status.code(), Some(0));
    let status = postmaster.stop(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "a fast shutdown ends well");
}

#[tokio::test]
async fn a_timeout_ends_the_grandchildren() {
    for confinement in [confinement_or_skip!(), Confinement::Host] {
        let stage = Stage::new(confinement);
        let seconds = own_seconds();
        let mut launch = stage.launch(&format!("sleep {seconds} & sh -c 'sleep {seconds} & wait' & wait"));
        launch.stdout = Sink::Piped;
        let clock = Clock::start();
        let output = run_to_end(launch, Duration::from_millis(700)).await.unwrap();
        assert!(output.timed_out && clock.now_us() < 10_000_000);
        until("the sleepers have ended", || processes_with(&seconds) == 0).await;
    }
}

#[tokio::test]
async fn an_interrupt_of_a_sandbox_leaves_nothing() {
    let stage = Stage::new(confinement_or_skip!());
    let seconds = own_seconds();
    let launch = stage.launch(&format!("trap '' INT; setsid sleep {seconds} & sleep {seconds} & wait; wait"));
    let mut child = launch.start().await.unwrap();
    until("both sleep", || processes_with(&seconds) == 2).await;
    child.signal(Signal::INT);
    child.wait().await.unwrap();
    until("both are gone", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn stopping_asks_first_and_kills_after_the_grace() {
    let obedient = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut launch = Launch::new("sh").args(["-c", obedient]);
    launch.stdout = Sink::Piped;
    let mut child = launch.start().await.unwrap();
    let mut said = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut said).await.unwrap();
    assert_eq!(child.stop(LIMIT).await.unwrap().code(), Some(3));

    let seconds = own_seconds();
    let deaf = format!("trap '' TERM; sleep {seconds} & echo ready; wait; wait");
    let mut launch = Launch::new("sh").args(["-c".to_owned(), deaf]);
    launch.stdout = Sink::Piped;
    let mut child = launch.start().await.unwrap();
    child.stdout.take().unwrap().read_exact(&mut said).await.unwrap();
    assert_eq!(child.stop(Duration::from_millis(50)).await.unwrap().code(), None);
    until("the group is gone", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn a_dropped_child_takes_its_group_along() {
    let seconds = own_seconds();
    let launch = Launch::new("sh").args(["-c".to_owned(), format!("sleep {seconds} & sleep {seconds}; :")]);
    let child = launch.start().await.unwrap();
    until("both sleep", || processes_with(&seconds) == 2).await;
    drop(child);
    until("both are gone", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn what_a_finished_child_left_in_its_group_ends_with_it() {
    let seconds = own_seconds();
    let launch = Launch::new("sh").args(["-c".to_owned(), format!("sleep {seconds} & exit 4")]);
    let output = launch.output(LIMIT).await.unwrap();
    assert_eq!((output.status.code(), output.timed_out), (Some(4), false));
    until("the sleeper is gone", || processes_with(&seconds) == 0).await;
}

#[tokio::test]
async fn our_terminals_interrupt_does_not_reach_a_child() {
    let child = Launch::new("sleep").args(["60"]).start().await.unwrap();
    let group = rustix::process::getpgid(Some(pid_of(&child))).unwrap();
    assert_eq!(group, pid_of(&child));
    assert_ne!(group, rustix::process::getpgrp());
}

#[tokio::test]
async fn input_is_fed_and_a_missing_program_is_named() {
    let output = Launch::new("cat").feed(b"fed".to_vec(), LIMIT).await.unwrap();
    assert_eq!(text(&output.stdout), "fed");
    let error = Launch::new("no-such-program").start().await.unwrap_err().to_string();
    assert!(error.contains("`no-such-program`"), "{error}");
}

/// Not a test of its own: the process that the next one kills. It starts children and waits for ever.
#[tokio::test]
#[ignore = "a helper process of `a_sigkill_of_ours_leaves_nothing`"]
async fn holder() {
    let Some(state) = std::env::var_os("HOLDER_STATE") else { return };
    let seconds = std::env::var("HOLDER_SECONDS").unwrap();
    let (run, _) = RunFolder::create_in(Path::new(&state)).unwrap();
    let shell = |line: &str| Launch::new("sh").args(["-c".to_owned(), line.replace('N', &seconds)]);
    let _one = shell("exec sleep N").recorded_in(&run).start().await.unwrap();
    // A grandchild in a session of its own: neither the parent-death signal nor the group reaches it.
    let _two = shell("setsid sleep N & wait").recorded_in(&run).start().await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_sigkill_of_ours_leaves_nothing() {
    let state = state_folder();
    let seconds = own_seconds();
    let me: OsString = std::env::current_exe().unwrap().into();
    let launch = Launch::new(me)
        .args(["--exact", "holder", "--ignored", "--nocapture"])
        .env("HOLDER_STATE", state.path())
        .env("HOLDER_SECONDS", &seconds);
    let mut holder = launch.start().await.unwrap();
    until("both sleep", || processes_with(&seconds) == 2).await;
    // Only the holder itself, as an operator's `kill -9` does.
    kill_process(pid_of(&holder), Signal::KILL).unwrap();
    holder.wait().await.unwrap();
    until("the direct child died with its parent", || processes_with(&seconds) == 1).await;

    let (_run, swept) = RunFolder::create_in(state.path()).unwrap();
    until("the sweep ended the rest", || processes_with(&seconds) == 0).await;
    assert!(swept.iter().any(|line| line.starts_with("deleted ")), "{swept:?}");
}

#[tokio::test]
async fn a_sweep_ends_only_the_process_that_was_recorded() {
    let state = state_folder();
    let mut ours = Launch::new("sleep").args(["60"]).start().await.unwrap();
    let other = Launch::new("sleep").args(["60"]).start().await.unwrap();
    let ticks = |child: &Child| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
    };
    let stray = state.path().join("20200101T000000Z-00000000");
    std::fs::create_dir_all(stray.join("kept/deep")).unwrap();
    std::fs::set_permissions(stray.join("kept"), std::fs::Permissions::from_mode(0o500)).unwrap();
    std::fs::write(stray.join("lock"), "").unwrap();
    let line = |child: &Child, start: u64| {
        format!("{{\"pid\":{},\"start_ticks\":{start},\"program\":\"sleep\"}}\n", child.pid())
    };
    let lines = line(&ours, ticks(&ours)) + &line(&other, ticks(&other) + 1);
    std::fs::write(stray.join("children.jsonl"), lines).unwrap();

    let (_run, swept) = RunFolder::create_in(state.path()).unwrap();
    assert_eq!(ours.wait().await.unwrap().code(), None, "the recorded one is killed");
    assert!(test_kill_process(pid_of(&other)).is_ok(), "a reused number is somebody else");
    assert!(!stray.exists());
    assert_eq!(swept.len(), 2, "{swept:?}");
}

#[tokio::test]
async fn a_closed_run_folder_takes_everything_along() {
    let stage = Stage::new(confinement_or_skip!());
    let read_only = "mkdir -p /var/lib/a/b && touch /var/lib/a/b/c && chmod 500 /var/lib/a/b";
    check(&stage.sh(read_only).await, 0, "");
    let owner = stage.sandbox.host_tree().join("var/lib/a").metadata().unwrap().uid();
    let us = rustix::process::geteuid().as_raw();
    assert_eq!(owner, unprivileged_user().map_or(us, |user| user.uid));
    let seconds = own_seconds();
    let launch = Launch::new("sh").args(["-c".to_owned(), format!("setsid sleep {seconds} & wait")]);
    let child = launch.recorded_in(&stage.run).start().await.unwrap();
    until("it sleeps", || processes_with(&seconds) == 1).await;
    drop(child);
    let path = stage.run.path().to_owned();
    stage.run.close().unwrap();
    until("it is gone", || processes_with(&seconds) == 0).await;
    assert!(!path.exists());
}
