//! The real container engine for tests: found, or skipped with a line that says so; and an image that needs no
//! registry.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions};
use fulldress::mirror::containers::engine::{ContainerSpec, Engine, RUN_LABEL, run_label};
use fulldress::process::RunFolder;
use futures_util::TryStreamExt as _;
use tempfile::TempDir;
use tokio_tar::{Builder, EntryType, Header};

/// What `make images` makes for scripts; it has everything that the tests call.
const RUNNER: &str = "fulldress/runner:1";
/// What the tests call inside.
const PROGRAMS: [&str; 13] =
    ["sh", "cat", "chmod", "chown", "env", "getent", "grep", "id", "ln", "mkdir", "setsid", "sleep", "touch"];

/// The machine's engine; none when none answers, which is told. Fails instead where `FULLDRESS_REQUIRE_CONTAINERS=1`
/// says that there must be one.
pub(crate) async fn engine() -> Option<Engine> {
    match Engine::connect().await {
        Ok(engine) => Some(engine),
        Err(error) => {
            let required = std::env::var("FULLDRESS_REQUIRE_CONTAINERS").is_ok_and(|value| value == "1");
            assert!(!required, "FULLDRESS_REQUIRE_CONTAINERS=1, but {error}");
            println!("skipped: no container engine answers");
            None
        }
    }
}

/// An engine with an image, and a run whose label everything carries. Dropping it removes all that carries it.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    pub(crate) image: String,
    run: Option<RunFolder>,
    made_image: Option<String>,
    _state: TempDir,
}

impl Stage {
    /// None when there is no engine.
    pub(crate) async fn set() -> Option<Self> {
        let engine = engine().await?;
        let state = tempfile::tempdir().unwrap();
        // A run that holds its lock: nobody else's sweep takes its containers for strays.
        let (run, _) = RunFolder::create_in(state.path()).unwrap();
        let (image, made_image) = if engine.has_image(RUNNER).await.unwrap() {
            (RUNNER.to_owned(), None)
        } else {
            let image = format!("fulldress-test:{:08x}", rand::random::<u32>());
            import(&engine, &image).await;
            (image.clone(), Some(image))
        };
        Some(Self { engine, image, run: Some(run), made_image, _state: state })
    }

    /// The value of the run's label.
    pub(crate) fn run(&self) -> String {
        run_label(self.run.as_ref().unwrap().path())
    }

    pub(crate) fn labels(&self) -> Vec<(String, String)> {
        vec![(RUN_LABEL.to_owned(), self.run())]
    }

    /// A name that no other test has.
    pub(crate) fn name(&self, part: &str) -> String {
        format!("fulldress-test-{part}-{}", self.run().rsplit('-').next().unwrap())
    }

    /// A container that runs a shell's script.
    pub(crate) fn script(&self, text: &str) -> ContainerSpec {
        ContainerSpec {
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()]),
            labels: self.labels(),
            ..ContainerSpec::default()
        }
    }

    /// A container that stays; its id.
    pub(crate) async fn container(&self) -> String {
        let spec = ContainerSpec { init: true, ..self.script("exec sleep 600") };
        self.engine.create(&spec).await.unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (engine, run, image) = (self.engine.clone(), self.run(), self.made_image.take());
        // A test's own runtime cannot be blocked from inside.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                engine.sweep(|label| label == run).await.unwrap();
                if let Some(image) = image {
                    docker(&engine).remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
                }
            });
        });
        let cleaned = cleaning.join();
        self.run.take().unwrap().close().unwrap();
        if !std::thread::panicking() {
            cleaned.unwrap();
        }
    }
}

/// The engine behind the room, for what only tests need of it.
pub(crate) fn docker(engine: &Engine) -> Arc<Docker> {
    Arc::new(Docker::connect_with_host(&engine.host()).unwrap())
}

/// Makes an image from a few programs of this machine and the libraries that they load.
async fn import(engine: &Engine, image: &str) {
    let mut files = BTreeSet::new();
    for name in PROGRAMS {
        let program = ["/bin", "/usr/bin"].iter().map(|folder| format!("{folder}/{name}"));
        let program = program.into_iter().find(|path| Path::new(path).is_file()).unwrap();
        files.extend(libraries(&program));
        files.insert(program);
    }
    files.extend(libraries(env!("CARGO_BIN_EXE_fulldress")));
    let mut archive = Builder::new(Vec::new());
    for folder in ["tmp", "etc", "var", "root"] {
        archive.append_data(&mut header(EntryType::Directory, 0), folder, tokio::io::empty()).await.unwrap();
    }
    for file in files {
        let content = std::fs::read(&file).unwrap();
        let mut header = header(EntryType::Regular, content.len() as u64);
        archive.append_data(&mut header, file.trim_start_matches('/'), content.as_slice()).await.unwrap();
    }
    let archive = archive.into_inner().await.unwrap();
    let (repository, tag) = image.split_once(':').unwrap();
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).build();
    let docker = docker(engine);
    let lines = docker.create_image(Some(options), Some(bollard::body_full(archive.into())), None);
    let _lines: Vec<_> = lines.try_collect().await.unwrap();
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The libraries that a program loads, its loader included.
#[expect(clippy::disallowed_methods, reason = "the tests look at programs from outside")]
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(ToOwned::to_owned).collect()
}
