//! One Compose project: the closed model, what of it runs, and its end.
//!
//! The first service comes up through testcontainers' `DockerCompose`; single services are brought up and replaced, and
//! the project is taken down, through the same Compose program.

use std::ffi::OsStr;
use std::mem::ManuallyDrop;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testcontainers::compose::DockerCompose;
use tokio::sync::{Mutex, MutexGuard};

use super::engine::{Engine, Found};
use super::host::labels;
use super::model::Model;
use crate::mirror::MirrorError;
use crate::process::{Launch, RunFolder};

/// Compose's own label for the name of a project.
const COMPOSE_PROJECT: &str = "com.docker.compose.project";
/// Compose's own label for the name of a service.
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
/// Compose's own label for the name of a volume in its file.
const COMPOSE_VOLUME: &str = "com.docker.compose.volume";
/// How an engine, and Compose for it, say that it lacks something.
const LACKS: [&str; 5] = [
    "Unknown runtime",
    "unknown or invalid runtime",
    "could not select device driver",
    "require Docker Engine",
    "requires API version",
];
/// One call of Compose that starts nothing.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
/// Taking everything away; whatever takes longer is swept by its label.
const DOWN_LIMIT: Duration = Duration::from_secs(120);
/// One call of Compose that starts or replaces services; it waits for those that they depend on.
const UP_LIMIT: Duration = Duration::from_secs(600);

/// A Compose project.
pub struct Project {
    engine: Engine,
    name: String,
    run: Arc<RunFolder>,
    folder: PathBuf,
    /// What is deployed now.
    model: Mutex<Model>,
    /// Whether Compose was asked to start anything.
    begun: AtomicBool,
}

impl Project {
    /// A project of a closed model; nothing runs yet. The name must be unique on the machine.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn new(
        engine: Engine,
        name: String,
        run: &Arc<RunFolder>,
        model: Model,
    ) -> Result<Self, MirrorError> {
        let folder = run
            .folder(&format!("compose-{name}"), None)
            .map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        Ok(Self {
            engine,
            name,
            run: Arc::clone(run),
            folder,
            model: Mutex::new(model),
            begun: AtomicBool::new(false),
        })
    }

    /// Compose's name of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine it runs on.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What is deployed now.
    pub async fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().await
    }

    /// Makes every network of the model; gives the engine's names of them. They are ours and not Compose's, since the
    /// gateway must stand in them before any service is made.
    ///
    /// # Errors
    /// When the engine has no addresses left.
    pub async fn create_networks(&self) -> Result<Vec<String>, MirrorError> {
        let (names, labels) = {
            let model = self.model.lock().await;
            (model.network_names(), labels(&self.run, &self.name))
        };
        for name in &names {
            self.engine.create_network(name, true, &labels).await?;
        }
        Ok(names)
    }

    /// Makes every volume of the model; Compose finds them by its own labels, as if it had made them.
    ///
    /// # Errors
    /// When the engine cannot make one.
    pub async fn create_volumes(&self) -> Result<(), MirrorError> {
        let volumes = self.model.lock().await.volumes();
        for (volume, name) in volumes {
            let mut labels = labels(&self.run, &self.name);
            labels.push((COMPOSE_PROJECT.to_owned(), self.name.clone()));
            labels.push((COMPOSE_VOLUME.to_owned(), volume));
            self.engine.create_volume(&name, &labels).await?;
        }
        self.begun.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes every container of the model; nothing runs yet, so that volumes can be filled.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn create(&self) -> Result<(), MirrorError> {
        self.call(&["create"], None).await
    }

    /// Brings one service up, with those that it depends on and those that others wait for and that do not need it, and
    /// waits until they are healthy or run.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn start_with(&self, service: &str) -> Result<(), MirrorError> {
        let first = {
            let model = self.model.lock().await;
            let mut first = model.foundations(service);
            first.insert(service.to_owned());
            model.only(first)
        };
        let file = self.write("first.json", &first)?;
        let core = DockerCompose::with_local_client(&[file])
            .with_project_name(&self.name)
            .with_env("DOCKER_HOST", self.engine.host())
            // Marks the program as ours, so that it ends with the run folder when we are cut short.
            .with_env("FULLDRESS_RUN", self.run.path().display().to_string());
        // When dropped, it would call Compose without these variables and without a limit.
        let mut core = ManuallyDrop::new(core);
        self.begun.store(true, Ordering::Release);
        match self.engine.attended(core.up()).await? {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = error.to_string();
                let service = failed_service(&error).unwrap_or(service);
                Err(self.explain(service, last_line(&error)).await)
            }
        }
    }

    /// Brings one service up, with those that it depends on, without waiting until it is healthy.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn start_alone(&self, service: &str) -> Result<(), MirrorError> {
        self.call(&["up", "--detach", "--no-recreate"], Some(service)).await
    }

    /// Brings every service up, in the order of the file's own dependencies and conditions.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn start_all(&self) -> Result<(), MirrorError> {
        self.call(&["up", "--detach", "--no-recreate"], None).await
    }

    /// Replaces one service's container by one of the present model.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn replace(&self, service: &str) -> Result<(), MirrorError> {
        self.call(&["up", "--detach", "--no-deps"], Some(service)).await
    }

    /// Starts one more container of a service, of the present model, beside those that there are.
    ///
    /// # Errors
    /// When Compose fails; its last words are in the sentence.
    pub async fn start_beside(&self, service: &str, replicas: usize) -> Result<(), MirrorError> {
        let scale = format!("{service}={replicas}");
        let options = ["up", "--detach", "--no-deps", "--no-recreate", "--scale", &scale];
        self.call(&options, Some(service)).await
    }

    async fn call(&self, command: &[&str], service: Option<&str>) -> Result<(), MirrorError> {
        self.begun.store(true, Ordering::Release);
        let file = self.write("all.json", &*self.model.lock().await)?;
        let arguments = ["--file".as_ref(), file.as_os_str(), "--progress".as_ref(), "plain".as_ref()];
        let words = command.iter().copied().chain(service).map(OsStr::new);
        let arguments: Vec<&OsStr> = arguments.into_iter().chain(words).collect();
        let said = match self.compose(&arguments, UP_LIMIT).await? {
            Ok(()) => return Ok(()),
            Err(said) => said,
        };
        match failed_service(&said).or(service) {
            Some(service) => Err(self.explain(service, last_line(&said)).await),
            None => {
                let what = format!("the mirror did not start: Compose says: {}", last_line(&said));
                Err(MirrorError::new(what, &self.lack(&said)))
            }
        }
    }

    /// Runs Compose on the project; what it said where it failed.
    async fn compose(
        &self,
        arguments: &[&OsStr],
        limit: Duration,
    ) -> Result<Result<(), String>, MirrorError> {
        let launch = compose(&self.engine)
            .args(["--project-name", &self.name])
            .args(arguments.iter().copied())
            .recorded_in(&self.run);
        let output = self.engine.attended(launch.output(limit)).await??;
        if output.timed_out {
            let what = format!("Compose did not end within {} s", limit.as_secs());
            return Err(MirrorError::new(what, "see the services' logs in the bundle"));
        }
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(said()) })
    }

    /// What Compose said, with the last lines of the service that it is about.
    async fn explain(&self, service: &str, said: &str) -> MirrorError {
        let log = match self.container(service).await {
            Ok(found) => self.last_lines(&found.id).await,
            Err(_) => String::new(),
        };
        let log = if log.is_empty() { log } else { format!("; its last lines: {log}") };
        let hint = self.lack(said);
        MirrorError::new(format!("service {service} did not start: Compose says: {said}{log}"), &hint)
    }

    /// What to do when the engine lacks what the file asks for; empty when it is something else.
    fn lack(&self, said: &str) -> String {
        if !LACKS.iter().any(|words| said.contains(words)) {
            return String::new();
        }
        format!(
            "{} lacks it: name a compose file without it in mirror.compose, or use an engine that has it",
            self.engine.describe()
        )
    }

    /// The last lines that a container wrote, joined.
    pub async fn last_lines(&self, id: &str) -> String {
        let text = self.engine.logs(id, Some(3)).await.unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
    }

    /// The container of a service, also a stopped one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn container(&self, service: &str) -> Result<Found, MirrorError> {
        let labels = [(COMPOSE_PROJECT, self.name.as_str()), (COMPOSE_SERVICE, service)];
        self.engine
            .find(&labels)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| MirrorError::new(format!("service {service} of the mirror has no container"), ""))
    }

    /// All containers of a service, also stopped ones, newest first.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn replicas(&self, service: &str) -> Result<Vec<Found>, MirrorError> {
        self.engine.find(&[(COMPOSE_PROJECT, self.name.as_str()), (COMPOSE_SERVICE, service)]).await
    }

    /// All containers of the project by service, also stopped ones.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn containers(&self) -> Result<Vec<(String, Found)>, MirrorError> {
        let found = self.engine.find(&[(COMPOSE_PROJECT, self.name.as_str())]).await?;
        let of_service =
            |found: Found| found.labels.get(COMPOSE_SERVICE).cloned().map(|service| (service, found));
        Ok(found.into_iter().filter_map(of_service).collect())
    }

    /// Takes everything of the project away: containers, networks and volumes. Nothing happens the second time.
    ///
    /// # Errors
    /// When Compose fails.
    pub async fn down(&self) -> Result<(), MirrorError> {
        if !self.begun.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // Without the file, which a full disk may not have let us write: it knows what it made by its own labels. And without a
        // grace: nothing of it is needed any more, and a first process that is a shell hears no SIGTERM.
        let down = ["down", "--volumes", "--timeout", "0"].map(OsStr::new);
        self.compose(&down, DOWN_LIMIT).await?.map_err(|said| {
            MirrorError::new(format!("the mirror could not be taken down: {}", last_line(&said)), "")
        })?;
        let networks = self.model.lock().await.network_names();
        for network in networks {
            self.engine.remove_network(&network).await?;
        }
        Ok(())
    }

    /// The file may hold passwords: nobody else reads it.
    fn write(&self, name: &str, model: &Model) -> Result<PathBuf, MirrorError> {
        let file = self.folder.join(name);
        std::fs::write(&file, model.text())
            .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)))
            .map_err(|error| MirrorError::new(format!("{}: {error}", file.display()), ""))?;
        Ok(file)
    }
}

/// Resolves a compose file as Compose itself reads it, with the environment's variables.
///
/// # Errors
/// When Compose is missing or refuses the file.
pub async fn resolve(engine: &Engine, file: &Path, project: &str) -> Result<Model, MirrorError> {
    if !file.is_file() {
        let what = format!("the compose file {} is not there", file.display());
        return Err(MirrorError::new(what, "correct mirror.compose in the plan"));
    }
    let launch = compose(engine).args(["--project-name", project, "--file"]).args([file.as_os_str()]);
    let output = launch.args(["config", "--format", "json"]).output(QUESTION_LIMIT).await?;
    if output.status.success() {
        return Model::parse(&String::from_utf8_lossy(&output.stdout));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(MirrorError::new(
        format!("Compose refuses {}: {}", file.display(), last_line(&said)),
        "`docker compose config` shows the same",
    ))
}

/// Whether Compose is there.
///
/// # Errors
/// When it is not, with what to install.
pub async fn version(engine: &Engine) -> Result<String, MirrorError> {
    let missing = || {
        MirrorError::new(
            "Docker's Compose plugin is missing",
            "install the package docker-compose-plugin, or run `make prerequisites`",
        )
    };
    let output = compose(engine).args(["version", "--short"]).output(QUESTION_LIMIT).await?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(missing())
    }
}

fn compose(engine: &Engine) -> Launch {
    Launch::new("docker").args(["compose"]).env("DOCKER_HOST", engine.host())
}

/// Which service Compose speaks of: `dependency failed to start: container NAME-SERVICE-1 is unhealthy`, or
/// `service:SERVICE:1 Error response from daemon: …`, or nothing but that it was starting `Container NAME-SERVICE-1`.
fn failed_service(said: &str) -> Option<&str> {
    let lines = || said.lines().map(str::trim).rev();
    if let Some(rest) = lines().find_map(|line| line.strip_prefix("service:")) {
        return rest.split(':').next();
    }
    if let Some(container) = lines().find_map(|line| line.split("container ").nth(1)) {
        return service_of(container.split_whitespace().next()?.trim_matches('"'));
    }
    let in_state = |state| {
        lines().filter_map(move |line| line.strip_prefix("Container ")?.strip_suffix(state)).map(str::trim)
    };
    let mut unfinished = in_state("Starting").filter(|name| !in_state("Started").any(|other| other == *name));
    unfinished.next().and_then(service_of)
}

/// The service of a container's name.
fn service_of(name: &str) -> Option<&str> {
    let (name, number) = name.rsplit_once('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    // Our projects' names end with a hexadecimal number.
    name.split_once('-').and_then(|(_, rest)| rest.split_once('-')).map(|(_, service)| service)
}

fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use super::failed_service;

    #[test]
    fn the_service_that_failed_is_found_in_what_compose_says() {
        let said = "dependency failed to start: container fulldress-1a2b-order-desk-1 is unhealthy\n";
        assert_eq!(failed_service(said), Some("order-desk"));
        assert_eq!(failed_service("no such image"), None);
        let said = " Container fulldress-1a2b-fine-1 Creating \n \
                    service:order-desk:1 Error response from daemon: Unknown runtime specified runsc \n\
                    Error response from daemon: Unknown runtime specified runsc\n";
        assert_eq!(failed_service(said), Some("order-desk"));
        let said = " Container fulldress-1a2b-fine-1 Starting \n Container fulldress-1a2b-order-desk-1 Starting \n \
                    Container fulldress-1a2b-fine-1 Started \n\
                    Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]]\n";
        assert_eq!(failed_service(said), Some("order-desk"));
    }
}
