//! The room that speaks to the container engine, with a real one.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[path = "support/containers.rs"]
mod containers;

use std::time::Duration;

use containers::Stage;
use fulldress::mirror::containers::engine::{
    ChangeKind, ContainerSpec, Engine, EntryKind, ExecCall, Health, Mount, MountSource, NewFile, RUN_LABEL,
    Ran,
};
use fulldress::mirror::containers::gateway::{CONFIG_VARIABLE, Forward, GatewayConfig};
use fulldress_workloads::clock::Clock;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A resolver's code for a name that does not exist.
const NO_SUCH_NAME: u8 = 3;
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn sh(script: &str) -> ExecCall {
    ExecCall { command: ["sh", "-c", script].map(ToOwned::to_owned).to_vec(), ..ExecCall::default() }
}

async fn run(engine: &Engine, id: &str, call: &ExecCall) -> Ran {
    engine.exec(id, call, PATIENCE).await.unwrap()
}

/// How many processes of a container have a word on their command line.
async fn processes(engine: &Engine, id: &str, word: &str) -> usize {
    // The bracket keeps the pattern from finding itself.
    let (first, rest) = word.split_at(1);
    let script = format!("grep -lsa '[{first}]{rest}' /proc/[0-9]*/cmdline; :");
    String::from_utf8(run(engine, id, &sh(&script)).await.stdout).unwrap().lines().count()
}

#[tokio::test]
async fn a_container_runs_once_with_its_environment_and_is_gone() {
    let Some(stage) = Stage::set().await else { return };
    let spec = ContainerSpec {
        name: stage.name("once"),
        environment: vec![("GREETING".to_owned(), "good day".to_owned())],
        ..stage.script("echo $GREETING; echo bad >&2; exit 7")
    };
    let ran = stage.engine.run_once(&spec, PATIENCE).await.unwrap();
    let expected =
        Ran { code: 7, stdout: b"good day\n".to_vec(), stderr: b"bad\n".to_vec(), timed_out: false };
    assert_eq!(ran, expected);
    assert_eq!(stage.engine.find(&[(RUN_LABEL, &stage.run())]).await.unwrap(), []);
}

#[tokio::test]
async fn a_container_that_does_not_end_is_killed_and_what_it_said_is_kept() {
    let Some(stage) = Stage::set().await else { return };
    let spec = stage.script("echo begun; exec sleep 600");
    let ran = stage.engine.run_once(&spec, Duration::from_secs(2)).await.unwrap();
    assert_eq!((ran.timed_out, ran.code, ran.stdout), (true, 137, b"begun\n".to_vec()));
    assert_eq!(stage.engine.find(&[(RUN_LABEL, &stage.run())]).await.unwrap(), []);
}

#[tokio::test]
async fn a_container_whose_future_is_dropped_is_removed() {
    let Some(stage) = Stage::set().await else { return };
    let spec = stage.script("exec sleep 600");
    let running = {
        let engine = stage.engine.clone();
        tokio::spawn(async move { engine.run_once(&spec, PATIENCE).await })
    };
    let labels = [(RUN_LABEL, stage.run())];
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    let there = |wanted: usize| {
        let engine = stage.engine.clone();
        async move {
            while engine.find(&labels).await.unwrap().iter().filter(|found| found.state == "running").count()
                != wanted
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, there(1)).await.unwrap();
    running.abort();
    tokio::time::timeout(PATIENCE, there(0)).await.unwrap();
}

#[tokio::test]
async fn a_failed_start_says_what_to_do_and_leaves_nothing() {
    let Some(stage) = Stage::set().await else { return };
    let unknown = ContainerSpec { image: "fulldress/nowhere:9".to_owned(), ..stage.script(":") };
    let error = stage.engine.create(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("fulldress/nowhere:9") && error.contains("make images"), "{error}");
    let unstartable =
        ContainerSpec { entrypoint: Some(vec!["/no/such/program".to_owned()]), ..stage.script(":") };
    let error = stage.engine.create(&unstartable).await.unwrap_err().to_string();
    assert!(error.contains("failed to start") && error.contains("/no/such/program"), "{error}");
    assert_eq!(stage.engine.find(&[(RUN_LABEL, &stage.run())]).await.unwrap(), []);
}

#[tokio::test]
async fn a_pull_from_a_registry_that_is_not_there_names_the_image() {
    let Some(stage) = Stage::set().await else { return };
    let image = "127.0.0.1:1/fulldress:1";
    assert!(!stage.engine.has_image(image).await.unwrap());
    let error = stage.engine.pull(image, Duration::from_secs(20)).await.unwrap_err().to_string();
    assert!(error.contains(image) && error.contains("make images"), "{error}");
}

#[tokio::test]
async fn a_program_inside_has_input_user_and_folder_and_its_code_comes_back() {
    let Some(stage) = Stage::set().await else { return };
    let id = stage.container().await;
    let call = ExecCall {
        stdin: Some(vec![b'x'; 200_000]),
        user: Some("4321:8765".to_owned()),
        workdir: Some("/tmp".to_owned()),
        environment: vec![("A".to_owned(), "b c".to_owned())],
        ..sh("read -r line; echo ${#line}; id -u; id -g; pwd; echo $A; echo bad >&2; exit 42")
    };
    let ran = run(&stage.engine, &id, &call).await;
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "200000\n4321\n8765\n/tmp\nb c\n");
    assert_eq!((ran.code, ran.stderr, ran.timed_out), (42, b"bad\n".to_vec(), false));
    let missing = ExecCall { command: vec!["/no/such/program".to_owned()], ..ExecCall::default() };
    assert!(matches!(run(&stage.engine, &id, &missing).await.code, 126 | 127));
    // A program that reads nothing of its input is no failure.
    let deaf = ExecCall { stdin: Some(vec![b'x'; 2 << 20]), ..sh("exit 3") };
    assert_eq!(run(&stage.engine, &id, &deaf).await.code, 3);
}

#[tokio::test]
async fn output_beyond_16_mib_is_dropped_and_the_program_still_ends() {
    let Some(stage) = Stage::set().await else { return };
    let id = stage.container().await;
    let call = ExecCall { stdin: Some(vec![b'y'; 18 << 20]), ..sh("cat; exit 5") };
    let ran = run(&stage.engine, &id, &call).await;
    assert_eq!((ran.code, ran.stdout.len(), ran.timed_out), (5, 16 << 20, false));
}

#[tokio::test]
async fn at_its_limit_a_program_is_killed_with_all_that_it_started() {
    let Some(stage) = Stage::set().await else { return };
    let id = stage.container().await;
    // Children in the group, in a session of their own, and with the environment thrown away.
    let script = "echo begun; sleep 7001 & setsid sleep 7001 & env -i sleep 7001 & env -i setsid sleep 7001 & sleep 7001";
    for user in [None, Some("4321".to_owned())] {
        let clock = Clock::start();
        let call = ExecCall { user, ..sh(script) };
        let ran = stage.engine.exec(&id, &call, Duration::from_secs(1)).await.unwrap();
        assert_eq!((ran.timed_out, ran.stdout.as_slice()), (true, b"begun\n".as_slice()));
        assert!(ran.code != 0 && clock.now_us() < 15_000_000, "{ran:?} after {} us", clock.now_us());
        assert_eq!(processes(&stage.engine, &id, "7001").await, 0);
    }
    assert!(stage.engine.inspect(&id).await.unwrap().running, "the container itself goes on");
    assert_eq!(processes(&stage.engine, &id, "sleep").await.min(1), 1);
}

#[tokio::test]
async fn files_go_in_and_come_out_with_their_modes_and_owners() {
    let Some(stage) = Stage::set().await else { return };
    let id = stage.container().await;
    let long = format!("/srv/made/{}/{}.conf", "d".repeat(90), "f".repeat(90));
    let file = |path: &str, content: &[u8], mode| NewFile {
        path: path.to_owned(),
        content: content.to_vec(),
        mode,
        uid: 4321,
        gid: 8765,
    };
    let files = [
        file("/srv/made/key", b"secret", 0o600),
        file(&long, b"", 0o4755),
        file("/tmp/plain", b"text", 0o644),
    ];
    let tmp_before = stage.engine.read_file(&id, "/tmp").await.unwrap().unwrap().entry;
    stage.engine.write_files(&id, &files).await.unwrap();
    assert_eq!(
        stage.engine.read_file(&id, "/tmp").await.unwrap().unwrap().entry,
        tmp_before,
        "left as it was"
    );

    let key = stage.engine.read_file(&id, "/srv/made/key").await.unwrap().unwrap();
    assert_eq!(
        (key.content.as_slice(), key.entry.mode, key.entry.uid, key.entry.gid),
        (b"secret".as_slice(), 0o600, 4321, 8765)
    );
    assert_eq!(stage.engine.read_file(&id, "/srv/made/none").await.unwrap(), None);
    let error = stage.engine.read_file("no-such-container", "/etc").await.unwrap_err().to_string();
    assert!(error.contains("no-such-container"), "{error}");

    let script = "cd /srv/made && ln -s key pointer && ln key twin && chmod 1777 .";
    assert_eq!(run(&stage.engine, &id, &sh(script)).await.code, 0);
    let tree = stage.engine.read_tree(&id, "/srv/made").await.unwrap();
    let paths: Vec<&str> = tree.iter().map(|entry| entry.path.as_str()).collect();
    let folder = long.rsplit_once('/').unwrap().0;
    assert_eq!(
        paths,
        ["/srv/made", folder, long.as_str(), "/srv/made/key", "/srv/made/pointer", "/srv/made/twin"]
    );
    let secret = EntryKind::File { sha256: format!("{:x}", Sha256::digest(b"secret")), bytes: 6 };
    assert_eq!((&tree[0].kind, tree[0].mode), (&EntryKind::Folder, 0o1777));
    assert_eq!((tree[1].mode, tree[1].uid), (0o755, 0), "a folder that was made on the way");
    assert_eq!((tree[2].mode, tree[2].uid), (0o4755, 4321));
    assert_eq!((&tree[3].kind, &tree[5].kind), (&secret, &secret));
    assert_eq!(tree[4].kind, EntryKind::Link("key".to_owned()));
    assert_eq!(stage.engine.read_tree(&id, "/srv/none").await.unwrap(), []);
}

#[tokio::test]
async fn the_change_list_tells_added_from_modified() {
    let Some(stage) = Stage::set().await else { return };
    let id = stage.container().await;
    assert_eq!(run(&stage.engine, &id, &sh("mkdir /etc/new; touch /etc/new/file")).await.code, 0);
    let changes = stage.engine.changes(&id).await.unwrap();
    for expected in [
        (ChangeKind::Modified, "/etc"),
        (ChangeKind::Added, "/etc/new"),
        (ChangeKind::Added, "/etc/new/file"),
    ] {
        assert!(changes.contains(&(expected.0, expected.1.to_owned())), "{changes:?}");
    }
    // Reading a file and running a program leave no trace of their own.
    assert!(!changes.iter().any(|(_, path)| path.contains("fulldress")), "{changes:?}");
}

#[tokio::test]
async fn a_container_is_described_with_mounts_addresses_and_ports() {
    let Some(stage) = Stage::set().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let bind = folder.path().display().to_string();
    let (network, volume) = (stage.name("network"), stage.name("volume"));
    stage.engine.create_network(&network, false, &stage.labels()).await.unwrap();
    let mount = |source, target: &str, read_only| Mount { source, target: target.to_owned(), read_only };
    let spec = ContainerSpec {
        name: stage.name("described"),
        network: Some(network.clone()),
        mounts: vec![
            mount(MountSource::Bind(bind.clone()), "/bind", true),
            mount(MountSource::Volume(volume.clone()), "/volume", false),
            mount(MountSource::Memory, "/memory", false),
        ],
        publish: vec![8080],
        ..stage.script("echo begun; exec sleep 600")
    };
    let id = stage.engine.create(&spec).await.unwrap();
    let facts = stage.engine.inspect(&id).await.unwrap();
    assert_eq!(
        (facts.name, facts.running, facts.exit_code, facts.health),
        (spec.name, true, None, Health::None)
    );
    assert_eq!(facts.addresses.keys().collect::<Vec<_>>(), [&network]);
    assert!(facts.published[&8080] > 0);
    let mut mounts: Vec<_> = facts
        .mounts
        .iter()
        .map(|mount| (mount.target.as_str(), mount.source.as_str(), mount.writable))
        .collect();
    mounts.sort_unstable();
    assert_eq!(
        mounts,
        [("/bind", bind.as_str(), false), ("/memory", "", true), ("/volume", volume.as_str(), true)]
    );
    // Right after its start a signal may still meet the engine's own first process, which ends with another code.
    let begun = async {
        while stage.engine.logs(&id, Some(1)).await.unwrap() != "begun\n" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    stage.engine.stop(&id, Duration::from_secs(0)).await.unwrap();
    let stopped = stage.engine.inspect(&id).await.unwrap();
    assert_eq!((stopped.running, stopped.exit_code), (false, Some(137)));
    stage.engine.start(&id).await.unwrap();
    stage.engine.kill(&id).await.unwrap();
    stage.engine.kill(&id).await.unwrap();
    stage.engine.remove(&id, false).await.unwrap();
    stage.engine.remove(&id, false).await.unwrap();
}

#[tokio::test]
async fn the_sweep_removes_what_carries_the_label_and_nothing_else() {
    let Some(stage) = Stage::set().await else { return };
    let (network, volume) = (stage.name("network"), stage.name("volume"));
    stage.engine.create_network(&network, true, &stage.labels()).await.unwrap();
    stage.engine.create_volume(&volume, &stage.labels()).await.unwrap();
    let mount =
        Mount { source: MountSource::Volume(volume.clone()), target: "/data".to_owned(), read_only: false };
    let spec = ContainerSpec {
        name: stage.name("swept"),
        network: Some(network.clone()),
        mounts: vec![mount],
        ..stage.script("exec sleep 600")
    };
    let id = stage.engine.create(&spec).await.unwrap();
    assert_eq!(stage.engine.sweep(|label| label == "/no/such/run").await.unwrap(), Vec::<String>::new());
    assert!(stage.engine.inspect(&id).await.unwrap().running);
    let run = stage.run();
    let swept = stage.engine.sweep(|label| label == run).await.unwrap();
    let expected = [
        format!("removed the container {}", spec.name),
        format!("removed the network {network}"),
        format!("removed the volume {volume}"),
    ];
    assert_eq!(swept, expected);
    assert_eq!(stage.engine.sweep(|label| label == run).await.unwrap(), Vec::<String>::new());
}

/// A question for `telemetry.example` over TCP, and the answer's code.
async fn asked_over_tcp(port: u16) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let question = b"\0\x23\0\x07\x01\0\0\x01\0\0\0\0\0\0\x09telemetry\x07example\0\0\x01\0\x01";
    stream.write_all(question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer[3] & 0x0f)
}

/// The answer's code as soon as there is one.
async fn answered(port: u16) -> u8 {
    let asking = async {
        loop {
            match asked_over_tcp(port).await {
                Ok(code) => return code,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

#[tokio::test]
async fn the_gateway_leads_into_an_internal_network_and_writes_down_who_asks_for_names() {
    let Some(stage) = Stage::set().await else { return };
    let network = stage.name("internal");
    stage.engine.create_network(&network, true, &stage.labels()).await.unwrap();
    let binary = Mount {
        source: MountSource::Bind(env!("CARGO_BIN_EXE_fulldress").to_owned()),
        target: "/fulldress/fulldress".to_owned(),
        read_only: true,
    };
    let gateway = |config: &GatewayConfig| ContainerSpec {
        entrypoint: Some(vec!["/fulldress/fulldress".to_owned(), "gateway".to_owned()]),
        environment: vec![(CONFIG_VARIABLE.to_owned(), serde_json::to_string(config).unwrap())],
        mounts: vec![binary.clone()],
        ..stage.script("")
    };
    // The target inside is a second one of the kind: it answers over TCP.
    let sink = GatewayConfig { resolver: true, resolver_port: 53, ..GatewayConfig::default() };
    let inside =
        ContainerSpec { network: Some(network.clone()), aliases: vec!["sink".to_owned()], ..gateway(&sink) };
    let sink = stage.engine.create(&inside).await.unwrap();
    let forward = Forward { listen: 8080, host: "sink".to_owned(), port: 53 };
    let config = GatewayConfig { forwards: vec![forward], ..GatewayConfig::default() };
    let outside =
        stage.engine.create(&ContainerSpec { publish: vec![8080], ..gateway(&config) }).await.unwrap();
    stage.engine.connect_network(&network, &outside, &["gateway".to_owned()]).await.unwrap();
    let port = stage.engine.inspect(&outside).await.unwrap().published[&8080];
    assert_eq!(answered(port).await, NO_SUCH_NAME);
    // A redeployed service has another address: whoever comes next takes the old one.
    let old = stage.engine.inspect(&sink).await.unwrap().addresses[&network];
    stage.engine.remove(&sink, true).await.unwrap();
    assert!(asked_over_tcp(port).await.is_err(), "nobody is there");
    let taker = ContainerSpec { network: Some(network.clone()), ..stage.script("exec sleep 600") };
    stage.engine.create(&taker).await.unwrap();
    let sink = stage.engine.create(&inside).await.unwrap();
    assert_ne!(stage.engine.inspect(&sink).await.unwrap().addresses[&network], old);
    assert_eq!(answered(port).await, NO_SUCH_NAME);

    let address = stage.engine.inspect(&sink).await.unwrap().addresses[&network];
    let asker = ContainerSpec {
        network: Some(network),
        dns: vec![address],
        ..stage.script("getent hosts home.vendor.example; echo $?")
    };
    let clock = Clock::start();
    let ran = stage.engine.run_once(&asker, PATIENCE).await.unwrap();
    assert_eq!(ran.stdout, b"2\n", "there is no such name");
    assert!(clock.now_us() < 10_000_000, "an unknown name took {} us", clock.now_us());
    let log = stage.engine.logs(&sink, None).await.unwrap();
    let names: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        names.iter().any(|line| line["attempt"] == "name" && line["name"] == "home.vendor.example"),
        "{log}"
    );

    let clock = Clock::start();
    stage.engine.stop(&outside, Duration::from_secs(20)).await.unwrap();
    let ended = stage.engine.inspect(&outside).await.unwrap();
    assert_eq!(ended.exit_code, Some(0));
    assert!(clock.now_us() < 5_000_000, "SIGTERM took {} us", clock.now_us());
}
