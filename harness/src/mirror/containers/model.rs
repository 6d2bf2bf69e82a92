//! A compose file as the mirror starts it: the user's own, resolved by Compose itself and closed towards outside.
//!
//! The project writes it beside the rehearsal's other files. Whatever would reach production, this machine's files or
//! the network is taken away here or refused; everything else stays as the user wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::engine::RUN_LABEL;
use crate::mirror::MirrorError;

/// Label that every container, network and volume of one project carries; the value is the project's name.
pub const PROJECT_LABEL: &str = "dev.fulldress.project";
/// Name of the volume for the database server's log, its base backup and its snapshot.
pub const EVIDENCE_VOLUME: &str = "fulldress-evidence";
/// Where the database's container has it.
pub const EVIDENCE_FOLDER: &str = "/fulldress";
/// Name of the volume for the database's data where the compose file gives it none.
const DATA_VOLUME: &str = "fulldress-data";
/// The engine's interface from which on a folder of a volume can be mounted is 1 and this; older ones mount all of it.
const SUBPATH_API_MINOR: usize = 45;
/// Longest log of one container.
const LOG_SIZE_MAX: &str = "50m";

/// A resolved compose file.
#[derive(Debug, Clone)]
pub struct Model(Value);

/// A folder of this machine that a service may write: its content is copied into a volume, and the volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeededVolume {
    /// Key of the volume in the model.
    pub volume: String,
    /// Folder on this machine.
    pub source: String,
}

/// A mount of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceMount {
    /// Key of the volume in the model; none for what is no named volume.
    pub volume: Option<String>,
    /// Path in the container.
    pub target: String,
}

/// What the mirror changes about one project.
#[derive(Debug, Clone, Copy)]
pub struct Closing<'closing> {
    /// Value of the label by which strays of killed runs are found.
    pub run: &'closing str,
    /// Compose's name of the project.
    pub project: &'closing str,
    /// Service that is the database.
    pub database: &'closing str,
    /// Path of the data folder in the database's container.
    pub data_folder: &'closing str,
    /// Other names of services, as the inventory's hosts: name and service.
    pub aliases: &'closing [(String, String)],
}

impl Model {
    /// Reads what `docker compose config --format json` prints.
    ///
    /// # Errors
    /// When it is no compose model.
    pub fn parse(text: &str) -> Result<Self, MirrorError> {
        let model: Value = serde_json::from_str(text).map_err(|error| {
            MirrorError::new(format!("the resolved compose file is not JSON: {error}"), "")
        })?;
        if model.get("services").and_then(Value::as_object).is_none_or(Map::is_empty) {
            return Err(MirrorError::new(
                "the compose file has no services",
                "name the right file in mirror.compose",
            ));
        }
        Ok(Self(model))
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// Names of all services.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.map("services").keys().map(String::as_str)
    }

    /// Whether there is such a service.
    ///
    /// # Errors
    /// When there is none; `role` says what the plan wants it for.
    pub fn require(&self, service: &str, role: &str) -> Result<(), MirrorError> {
        if self.map("services").contains_key(service) {
            return Ok(());
        }
        let known = self.services().collect::<Vec<_>>().join(", ");
        Err(MirrorError::new(
            format!("the compose file has no service `{service}`, which the plan names as {role}"),
            &format!("name one of: {known}"),
        ))
    }

    /// Image of a service; none where it is built from a folder and has no name.
    #[must_use]
    pub fn image(&self, service: &str) -> Option<&str> {
        self.service(service)?.get("image")?.as_str()
    }

    /// Whether Compose itself can build the service's image.
    #[must_use]
    pub fn is_built(&self, service: &str) -> bool {
        self.service(service).is_some_and(|service| service.contains_key("build"))
    }

    /// Whether the service's image may be pulled.
    #[must_use]
    pub fn may_pull(&self, service: &str) -> bool {
        self.service(service).and_then(|service| service.get("pull_policy")?.as_str()) != Some("never")
    }

    /// Gives a service another image, which is not built any more.
    pub fn set_image(&mut self, service: &str, image: &str) {
        if let Some(service) = self.service_mut(service) {
            service.insert("image".to_owned(), image.into());
            service.remove("build");
        }
    }

    /// A variable of a service's environment.
    #[must_use]
    pub fn variable(&self, service: &str, name: &str) -> Option<&str> {
        self.service(service)?.get("environment")?.get(name)?.as_str()
    }

    /// Keys of the networks that a service is in.
    #[must_use]
    pub fn networks(&self, service: &str) -> BTreeSet<String> {
        let networks = self.service(service).and_then(|service| service.get("networks")?.as_object());
        networks.into_iter().flat_map(Map::keys).cloned().collect()
    }

    /// Mounts of a service.
    #[must_use]
    pub fn mounts(&self, service: &str) -> Vec<ServiceMount> {
        let mounts = self.service(service).and_then(|service| service.get("volumes")?.as_array());
        let mount = |mount: &Value| {
            let is_volume = mount.get("type").and_then(Value::as_str) == Some("volume");
            let source = mount.get("source").and_then(Value::as_str).filter(|_| is_volume);
            Some(ServiceMount {
                volume: source.map(str::to_owned),
                target: mount.get("target")?.as_str()?.trim_end_matches('/').to_owned(),
            })
        };
        mounts.into_iter().flatten().filter_map(mount).collect()
    }

    /// The engine's name of a volume.
    #[must_use]
    pub fn volume_name(&self, volume: &str) -> Option<&str> {
        self.0.get("volumes")?.get(volume)?.get("name")?.as_str()
    }

    /// The engine's name of a network.
    #[must_use]
    pub fn network_name(&self, network: &str) -> Option<&str> {
        self.0.get("networks")?.get(network)?.get("name")?.as_str()
    }

    /// All volumes: their keys, and the engine's names of them.
    #[must_use]
    pub fn volumes(&self) -> Vec<(String, String)> {
        let volumes = self.map("volumes").iter();
        volumes
            .filter_map(|(key, volume)| Some((key.clone(), volume.get("name")?.as_str()?.to_owned())))
            .collect()
    }

    /// The engine's names of all networks.
    #[must_use]
    pub fn network_names(&self) -> Vec<String> {
        let names = self.map("networks").values().filter_map(|network| network.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }

    /// Lets every service ask for names at an address in one of its networks; `addresses` are by the engine's names of
    /// networks. Without this the engine may ask this machine's own resolvers, which would lead outside.
    pub fn answer_names_at(&mut self, addresses: &BTreeMap<String, IpAddr>) {
        let names: Vec<String> = self.services().map(str::to_owned).collect();
        for name in &names {
            let address = self
                .networks(name)
                .iter()
                .find_map(|network| addresses.get(self.network_name(network)?).copied());
            if let (Some(address), Some(service)) = (address, self.service_mut(name)) {
                service.insert("dns".to_owned(), json!([address.to_string()]));
            }
        }
    }

    /// Services that depend on a service, directly or through others.
    #[must_use]
    pub fn dependants(&self, service: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut looked_for = vec![service.to_owned()];
        while let Some(wanted) = looked_for.pop() {
            for name in self.services() {
                let depends = self
                    .service(name)
                    .and_then(|service| service.get("depends_on")?.as_object())
                    .is_some_and(|on| on.contains_key(&wanted));
                if depends && found.insert(name.to_owned()) {
                    looked_for.push(name.to_owned());
                }
            }
        }
        found
    }

    /// Services that others wait for and that do not wait for the database themselves, as another database or a cache.
    #[must_use]
    pub fn foundations(&self, database: &str) -> BTreeSet<String> {
        let late = self.dependants(database);
        let awaited = |name: &&str| !self.dependants(name).is_empty();
        let others = self.services().filter(|name| *name != database && !late.contains(*name));
        others.filter(awaited).map(str::to_owned).collect()
    }

    /// The same file with some services, and those that they depend on.
    #[must_use]
    pub fn only(&self, services: impl IntoIterator<Item = String>) -> Self {
        let mut kept = BTreeSet::new();
        let mut looked_for: Vec<String> = services.into_iter().collect();
        while let Some(name) = looked_for.pop() {
            let needs = self.service(&name).and_then(|service| service.get("depends_on")?.as_object());
            looked_for.extend(needs.into_iter().flat_map(Map::keys).cloned());
            kept.insert(name);
        }
        let mut model = self.clone();
        if let Some(services) = model.0.get_mut("services").and_then(Value::as_object_mut) {
            services.retain(|name, _| kept.contains(name));
        }
        model
    }

    /// Holds what the services ask for against the interface that the engine speaks, where an older one would leave it out
    /// without a word. `engine` is its name.
    ///
    /// # Errors
    /// The first service that would see something else than the file says.
    pub fn refuse_unknown(&self, engine: &str, api_minor: usize) -> Result<(), MirrorError> {
        if api_minor >= SUBPATH_API_MINOR {
            return Ok(());
        }
        for name in self.services() {
            let mounts = self.service(name).and_then(|service| service.get("volumes")?.as_array());
            let part = |mount: &Value| Some(mount.get("volume")?.get("subpath")?.as_str()?.to_owned());
            if let Some(part) = mounts.into_iter().flatten().find_map(part) {
                return Err(MirrorError::new(
                    format!(
                        "service {name} mounts the folder {part} of a volume, and {engine} would mount all of it"
                    ),
                    &format!(
                        "mount the volume itself, or use an engine from API 1.{SUBPATH_API_MINOR} on (Docker 26)"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Takes away what leads out of the mirror, adds labels, aliases and the volumes that the rehearsal needs. Gives the
    /// volumes that must be filled before a service starts.
    ///
    /// # Errors
    /// What cannot be taken away without changing what the service is.
    pub fn close(&mut self, closing: &Closing<'_>) -> Result<Vec<SeededVolume>, MirrorError> {
        let labels = json!({ RUN_LABEL: closing.run, PROJECT_LABEL: closing.project });
        let mut seeds = Vec::new();
        let names: Vec<String> = self.services().map(str::to_owned).collect();
        for name in &names {
            let Some(service) = self.service_mut(name) else { continue };
            refuse(name, service)?;
            for key in ["ports", "container_name", "restart"] {
                service.remove(key);
            }
            extend(service, "labels", &labels);
            service.insert(
                "logging".to_owned(),
                json!({ "driver": "json-file", "options": { "max-size": LOG_SIZE_MAX, "max-file": "2" } }),
            );
            seeds.extend(close_mounts(name, service)?);
            close_networks(name, service, closing.aliases);
        }
        if let Some(database) = self.service_mut(closing.database) {
            add_volume(database, EVIDENCE_VOLUME, EVIDENCE_FOLDER);
        }
        if self.data_mount(closing.database, closing.data_folder).is_none()
            && let Some(database) = self.service_mut(closing.database)
        {
            // Neither an anonymous volume nor memory could be copied by name.
            forget_memory(database, closing.data_folder);
            add_volume(database, DATA_VOLUME, closing.data_folder);
        }
        self.close_resources("networks", closing, &labels);
        self.close_resources("volumes", closing, &labels);
        Ok(seeds)
    }

    /// Gives the database's server settings that hold from its first start, where it is clear how: the command is the
    /// server's program, as in the official image, or its arguments. Otherwise nothing happens, and they hold after a
    /// restart.
    pub fn configure_server(&mut self, database: &str, of_image: &[String], settings: &[(&str, &str)]) {
        let Some(service) = self.service_mut(database) else { return };
        let words = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect()
        };
        if service.get("entrypoint").is_some_and(|entrypoint| !entrypoint.is_null()) {
            return;
        }
        let own = service.get("command").filter(|command| !command.is_null()).map(words);
        let Some(mut command) = own.unwrap_or_else(|| Some(of_image.to_vec())) else { return };
        if !command.first().is_some_and(|first| first == "postgres" || first.starts_with('-')) {
            return;
        }
        for (name, value) in settings {
            command.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        service.insert("command".to_owned(), command.into());
    }

    /// The named volume that the data folder lies in, and where it is mounted.
    #[must_use]
    pub fn data_mount(&self, database: &str, data_folder: &str) -> Option<(String, String)> {
        self.mounts(database).into_iter().find_map(|mount| {
            let inside = data_folder
                .strip_prefix(&mount.target)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            inside.then_some(mount.volume?).map(|volume| (volume, mount.target))
        })
    }

    /// Networks without a way out and volumes of our own: an external one would be production's.
    fn close_resources(&mut self, kind: &str, closing: &Closing<'_>, labels: &Value) {
        let mut used: BTreeSet<String> = BTreeSet::new();
        let names: Vec<String> = self.services().map(str::to_owned).collect();
        for name in &names {
            match kind {
                "networks" => used.extend(self.networks(name)),
                _ => used.extend(self.mounts(name).into_iter().filter_map(|mount| mount.volume)),
            }
        }
        let mut resources = Map::new();
        for key in used {
            let mut resource = Map::new();
            resource.insert("name".to_owned(), format!("{}_{key}", closing.project).into());
            if kind == "networks" {
                // For Compose. They are made by the project, internal and with the labels.
                resource.insert("external".to_owned(), true.into());
            } else {
                resource.insert("labels".to_owned(), labels.clone());
            }
            resources.insert(key, Value::Object(resource));
        }
        if let Some(model) = self.0.as_object_mut() {
            model.insert(kind.to_owned(), Value::Object(resources));
            model.insert("name".to_owned(), closing.project.into());
        }
    }

    fn map(&self, key: &str) -> &Map<String, Value> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        self.0.get(key).and_then(Value::as_object).unwrap_or(&EMPTY)
    }

    fn service(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get("services")?.get(name)?.as_object()
    }

    fn service_mut(&mut self, name: &str) -> Option<&mut Map<String, Value>> {
        self.0.get_mut("services")?.get_mut(name)?.as_object_mut()
    }
}

/// What would make a service part of this machine.
fn refuse(name: &str, service: &Map<String, Value>) -> Result<(), MirrorError> {
    let text = |key: &str| service.get(key).and_then(Value::as_str).unwrap_or_default();
    let refused = if service.get("privileged") == Some(&Value::Bool(true)) {
        Some("privileged".to_owned())
    } else if !matches!(text("network_mode"), "" | "none") {
        Some(format!("network_mode: {}", text("network_mode")))
    } else {
        ["pid", "ipc", "userns_mode", "uts", "cgroup"]
            .into_iter()
            .find(|key| text(key) == "host")
            .map(|key| format!("{key}: host"))
            .or_else(|| service.get("devices").filter(|value| !is_empty(value)).map(|_| "devices".to_owned()))
    };
    match refused {
        None => Ok(()),
        Some(what) => Err(MirrorError::new(
            format!("service {name} of the compose file asks for `{what}`, which reaches out of the mirror"),
            "give the mirror a compose file without it",
        )),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// Takes away mounts of memory that a folder lies in.
fn forget_memory(service: &mut Map<String, Value>, folder: &str) {
    let covers = |target: &str| {
        let rest = folder.strip_prefix(target.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(mounts) = service.get_mut("volumes").and_then(Value::as_array_mut) {
        mounts.retain(|mount| {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            text("type") != "tmpfs" || !covers(text("target"))
        });
    }
    if let Some(mounts) = service.get_mut("tmpfs").and_then(Value::as_array_mut) {
        // `/path` or `/path:options`.
        mounts.retain(|mount| {
            !mount.as_str().is_some_and(|mount| covers(mount.split(':').next().unwrap_or_default()))
        });
    }
}

/// Folders of this machine that a service could write become volumes; files must be read-only.
fn close_mounts(name: &str, service: &mut Map<String, Value>) -> Result<Vec<SeededVolume>, MirrorError> {
    let mut seeds = Vec::new();
    let Some(mounts) = service.get_mut("volumes").and_then(Value::as_array_mut) else { return Ok(seeds) };
    for (index, mount) in mounts.iter_mut().enumerate() {
        let Some(mount) = mount.as_object_mut() else { continue };
        let source = mount.get("source").and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = mount.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "volume" && source.is_empty() {
            mount.insert("source".to_owned(), format!("fulldress-{name}-{index}").into());
        }
        if kind != "bind" {
            continue;
        }
        if source.ends_with(".sock") {
            return Err(MirrorError::new(
                format!("service {name} of the compose file mounts the socket {source} of this machine"),
                "give the mirror a compose file without it",
            ));
        }
        if mount.get("read_only") == Some(&Value::Bool(true)) {
            continue;
        }
        if std::path::Path::new(&source).is_file() {
            return Err(MirrorError::new(
                format!("service {name} of the compose file may write the file {source} of this machine"),
                "mount it read-only (`:ro`)",
            ));
        }
        let volume = format!("fulldress-{name}-{index}");
        mount.retain(|key, _| key == "target");
        mount.insert("type".to_owned(), "volume".into());
        mount.insert("source".to_owned(), volume.clone().into());
        seeds.push(SeededVolume { volume, source });
    }
    Ok(seeds)
}

/// Fixed addresses would collide between two mirrors; names stay.
fn close_networks(name: &str, service: &mut Map<String, Value>, aliases: &[(String, String)]) {
    if service.contains_key("network_mode") {
        return;
    }
    let networks = service.entry("networks").or_insert_with(|| json!({ "default": null }));
    let Some(networks) = networks.as_object_mut() else { return };
    if networks.is_empty() {
        networks.insert("default".to_owned(), Value::Null);
    }
    for network in networks.values_mut() {
        let mut own: Vec<Value> =
            network.get("aliases").and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = aliases.iter().filter(|(_, service)| service == name);
        own.extend(ours.map(|(alias, _)| Value::from(alias.as_str())));
        *network = if own.is_empty() { Value::Null } else { json!({ "aliases": own }) };
    }
}

fn add_volume(service: &mut Map<String, Value>, volume: &str, target: &str) {
    let mounts = service.entry("volumes").or_insert_with(|| json!([]));
    if let Some(mounts) = mounts.as_array_mut() {
        mounts.push(json!({ "type": "volume", "source": volume, "target": target }));
    }
}

fn extend(service: &mut Map<String, Value>, key: &str, with: &Value) {
    let into = service.entry(key).or_insert_with(|| json!({}));
    if let (Some(into), Some(with)) = (into.as_object_mut(), with.as_object()) {
        into.extend(with.clone());
    }
}

/// The image of another version: the plan's own pattern, or the same image with the version as its tag.
#[must_use]
pub fn image_of_version(pattern: Option<&str>, current: &str, version: &str) -> String {
    if let Some(pattern) = pattern {
        return pattern.replace("{version}", version);
    }
    let without_digest = current.split('@').next().unwrap_or(current);
    // A colon before the last slash belongs to a registry's port.
    let name = match without_digest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => without_digest,
    };
    format!("{name}:{version}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{Closing, Model, SeededVolume, image_of_version};

    fn model(services: &serde_json::Value) -> Model {
        Model::parse(&json!({ "name": "x", "services": services }).to_string()).unwrap()
    }

    fn closing<'closing>(aliases: &'closing [(String, String)]) -> Closing<'closing> {
        Closing {
            run: "/run/1",
            project: "fd-1",
            database: "db",
            data_folder: "/var/lib/postgresql/data",
            aliases,
        }
    }

    #[test]
    fn a_folder_of_a_volume_is_refused_where_the_engine_would_mount_all_of_it() {
        let volume =
            json!({ "type": "volume", "source": "data", "target": "/d", "volume": { "subpath": "part" } });
        let model = model(&json!({ "db": {}, "web": { "volumes": [volume] } }));
        assert!(model.refuse_unknown("Docker 26.0", 45).is_ok());
        let error = model.refuse_unknown("Docker 20.10", 41).unwrap_err().to_string();
        assert!(
            error.starts_with("service web mounts the folder part of a volume, and Docker 20.10 "),
            "{error}"
        );
    }

    #[test]
    fn nothing_of_a_closed_file_leads_out() {
        let mut model = model(&json!({
            "db": { "image": "postgres:16", "volumes": [{ "type": "volume", "source": "data", "target": "/var/lib/postgresql/data/" }] },
            "web": {
                "image": "web:1", "container_name": "web", "restart": "always",
                "ports": [{ "target": 80, "published": "80" }], "depends_on": { "db": { "condition": "service_healthy" } },
                "networks": { "front": { "ipv4_address": "10.0.0.9", "aliases": ["www"] } },
                "volumes": [
                    { "type": "bind", "source": "/etc/hosts", "target": "/h", "read_only": true },
                    { "type": "bind", "source": "/srv/uploads", "target": "/u" },
                ],
            },
        }));
        let aliases = [("shop.example".to_owned(), "web".to_owned())];
        let seeds = model.close(&closing(&aliases)).unwrap();
        assert_eq!(seeds, [SeededVolume { volume: "fulldress-web-1".into(), source: "/srv/uploads".into() }]);
        let text: serde_json::Value = serde_json::from_str(&model.text()).unwrap();
        let web = &text["services"]["web"];
        assert!(web.get("ports").is_none() && web.get("container_name").is_none());
        assert!(web.get("restart").is_none());
        assert_eq!(web["networks"]["front"], json!({ "aliases": ["www", "shop.example"] }));
        assert_eq!(web["labels"]["dev.fulldress.run"], "/run/1");
        assert_eq!(web["volumes"][1]["source"], "fulldress-web-1");
        assert_eq!(text["networks"]["front"]["external"], true);
        assert_eq!(model.network_names(), ["fd-1_default", "fd-1_front"]);
        assert_eq!(text["volumes"]["data"]["name"], "fd-1_data");
        assert_eq!(
            model.data_mount("db", "/var/lib/postgresql/data").unwrap(),
            ("data".to_owned(), "/var/lib/postgresql/data".to_owned())
        );
        assert_eq!(model.dependants("db").into_iter().collect::<Vec<_>>(), ["web"]);
        let front = BTreeMap::from([("fd-1_front".to_owned(), "172.20.0.2".parse().unwrap())]);
        model.answer_names_at(&front);
        let text: serde_json::Value = serde_json::from_str(&model.text()).unwrap();
        assert_eq!(text["services"]["web"]["dns"], json!(["172.20.0.2"]));
        assert!(text["services"]["db"].get("dns").is_none(), "no address in its networks");
        assert_eq!(model.only(["db".to_owned()]).services().collect::<Vec<_>>(), ["db"]);
        assert_eq!(model.only(["web".to_owned()]).services().collect::<Vec<_>>(), ["db", "web"]);
    }

    #[test]
    fn what_others_wait_for_may_start_beside_the_database() {
        let on = |names: &[&str]| -> serde_json::Value {
            names.iter().map(|name| ((*name).to_owned(), json!({ "condition": "service_healthy" }))).collect()
        };
        let model = model(&json!({
            "db": { "image": "postgres:16" },
            "cache": { "image": "cache:1" },
            "schema": { "image": "schema:1", "depends_on": on(&["db"]) },
            "web": { "image": "web:1", "depends_on": on(&["cache", "schema"]) },
            "cron": { "image": "cron:1" },
        }));
        // Nobody waits for cron, which may itself read the database as soon as it runs.
        assert_eq!(model.foundations("db").into_iter().collect::<Vec<_>>(), ["cache"]);
    }

    #[test]
    fn a_server_gets_its_settings_where_its_command_is_clear() {
        let image = ["postgres".to_owned()];
        let command = |service: serde_json::Value, image: &[String]| {
            let mut model = model(&json!({ "db": service }));
            model.configure_server("db", image, &[("logging_collector", "on")]);
            serde_json::from_str::<serde_json::Value>(&model.text()).unwrap()["services"]["db"]["command"]
                .clone()
        };
        let expected = json!(["postgres", "-c", "logging_collector=on"]);
        assert_eq!(command(json!({ "image": "x", "command": null }), &image), expected);
        assert_eq!(
            command(json!({ "image": "x", "command": ["-c", "fsync=off"] }), &image),
            json!(["-c", "fsync=off", "-c", "logging_collector=on"])
        );
        // A program of the user's own may take no such arguments.
        assert_eq!(
            command(json!({ "image": "x", "command": ["patroni", "/p.yml"] }), &image),
            json!(["patroni", "/p.yml"])
        );
        assert_eq!(command(json!({ "image": "x" }), &["run-server".to_owned()]), json!(null));
        assert_eq!(command(json!({ "image": "x", "entrypoint": ["/run"] }), &image), json!(null));
    }

    #[test]
    fn data_in_memory_gets_a_volume_that_can_be_copied() {
        let mut model = model(&json!({ "db": {
            "image": "postgres:16",
            "tmpfs": ["/run", "/var/lib/postgresql/data:size=1g"],
            "volumes": [
                { "type": "tmpfs", "target": "/var/lib/postgresql" },
                { "type": "tmpfs", "target": "/var/lib/post" },
            ],
        } }));
        model.close(&closing(&[])).unwrap();
        let text: serde_json::Value = serde_json::from_str(&model.text()).unwrap();
        let database = &text["services"]["db"];
        assert_eq!(database["tmpfs"], json!(["/run"]));
        let targets: Vec<_> = database["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["target"].as_str().unwrap())
            .collect();
        assert_eq!(targets, ["/var/lib/post", "/fulldress", "/var/lib/postgresql/data"]);
    }

    #[test]
    fn a_database_without_a_volume_gets_one() {
        let mut model = model(&json!({ "db": { "image": "postgres:16" } }));
        assert!(model.close(&closing(&[])).unwrap().is_empty());
        let (volume, target) = model.data_mount("db", "/var/lib/postgresql/data").unwrap();
        assert_eq!((volume.as_str(), target.as_str()), ("fulldress-data", "/var/lib/postgresql/data"));
        assert!(model.volume_name("fulldress-evidence").is_some());
    }

    #[test]
    fn what_reaches_out_is_refused_by_name() {
        let cases = [
            json!({ "image": "x", "privileged": true }),
            json!({ "image": "x", "network_mode": "host" }),
            json!({ "image": "x", "pid": "host" }),
            json!({ "image": "x", "devices": [{ "source": "/dev/kvm" }] }),
            json!({ "image": "x", "volumes": [{ "type": "bind", "source": "/var/run/docker.sock", "target": "/s" }] }),
            json!({ "image": "x", "volumes": [{ "type": "bind", "source": "/etc/hosts", "target": "/s" }] }),
        ];
        for service in cases {
            let error = model(&json!({ "odd": service })).close(&closing(&[])).unwrap_err().to_string();
            assert!(error.contains("service odd of the compose file") && error.contains("; "), "{error}");
        }
    }

    #[test]
    fn an_image_keeps_its_name_and_changes_its_tag() {
        assert_eq!(image_of_version(None, "shop:2.3", "2.4"), "shop:2.4");
        assert_eq!(image_of_version(None, "localhost:5000/shop", "2.4"), "localhost:5000/shop:2.4");
        assert_eq!(image_of_version(None, "shop:2.3@sha256:00", "2.4"), "shop:2.4");
        assert_eq!(image_of_version(Some("web-{version}"), "shop:2.3", "2.4"), "web-2.4");
    }
}
