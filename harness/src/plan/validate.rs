//! What single keys cannot show: names that must fit each other, and what each kind of mirror needs.

use std::collections::BTreeSet;

use fulldress_reports::check::CheckId;
use fulldress_reports::sql::split;
use fulldress_workloads::file::Workload;

use super::{MirrorKind, Plan, ServiceRole};
use crate::document::{Document, DocumentError};

impl Plan {
    pub(super) fn validate(&self, document: Document<'_>) -> Result<(), DocumentError> {
        let fault = |needle: &str, message: String, hint: &str| {
            let start = document.text.find(needle).unwrap_or(0);
            let hint = (!hint.is_empty()).then_some(hint);
            Err(document.error(start..start + needle.len(), message, hint))
        };
        for id in self.checks.keys() {
            if CheckId::parse(id).is_none() {
                let message = format!("[checks] names `{id}`, which is no check");
                return fault(id, message, "`fulldress checks` lists them");
            }
        }
        for (index, service) in self.mirror.services.iter().enumerate() {
            let name = &service.name;
            if self.mirror.services[..index].iter().any(|other| other.name == *name) {
                return fault(
                    name,
                    format!("service `{name}` is named twice"),
                    "give each a name of its own",
                );
            }
            if !service.health.starts_with('/') {
                let message = format!("health of service `{name}` is no path");
                return fault(&service.health, message, "write it as \"/healthz\"");
            }
        }
        self.check_placeholders(&fault)?;
        self.check_kinds(&fault)?;
        self.check_traffic(&fault)?;
        self.check_invariants(&fault)?;
        self.check_rollback(&fault)?;
        if !(0.0..100.0).contains(&self.objectives.availability_percent) {
            let message = "availability_percent is not in 0..100".to_owned();
            return fault("availability_percent", message, "99.9 is usual");
        }
        if self.phases.baseline_s == 0 {
            let message = "baseline_s is 0".to_owned();
            return fault("baseline_s", message, "later phases are compared with the baseline");
        }
        Ok(())
    }

    /// There is a way back, and none is named twice.
    fn check_rollback(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let methods = &self.rollback.method;
        let message = if methods.is_empty() {
            "rollback.method is an empty list"
        } else if methods.iter().enumerate().any(|(index, one)| methods[..index].contains(one)) {
            "rollback.method names a way back twice"
        } else {
            return Ok(());
        };
        let hint = "name \"down\", \"restore\", or both with the one first that is rehearsed under traffic";
        fault("[rollback]", message.to_owned(), hint)
    }

    /// An invariant is one query, and has a name of its own.
    fn check_invariants(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        for (index, one) in self.invariants.iter().enumerate() {
            let name = &one.name;
            let statements = split(&one.sql).iter().filter(|statement| !statement.trim().is_empty()).count();
            let (message, hint) = if self.invariants[..index].iter().any(|other| other.name == *name) {
                (format!("invariant `{name}` is named twice"), "give each a name of its own")
            } else if statements == 0 {
                (format!("invariant `{name}` has no SQL"), "write a query that gives the offending rows")
            } else if statements > 1 {
                (
                    format!("invariant `{name}` has more than one statement"),
                    "make each an invariant of its own",
                )
            } else if one.timeout_ms == 0 {
                (format!("timeout_ms of invariant `{name}` is 0"), "1000 is the default")
            } else {
                continue;
            };
            return fault(name, message, hint);
        }
        Ok(())
    }

    /// Where the traffic goes must be in the mirror.
    fn check_traffic(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        for (name, role) in &self.traffic.database {
            if !self.mirror.database.roles.contains_key(role) {
                let message =
                    format!("traffic.database.{name} names the role `{role}`, which the mirror has not");
                return fault(role, message, "name one of mirror.database.roles");
            }
        }
        let Some(target) = &self.traffic.target else { return Ok(()) };
        match self.mirror.services.iter().find(|service| service.name == *target) {
            None => {
                let message = format!("traffic.target names `{target}`, which is no service");
                fault("target", message, "name one of [[mirror.service]]")
            }
            Some(service) if service.role != ServiceRole::Application => {
                let message = format!("traffic.target `{target}` is not of role \"application\"");
                fault("target", message, "traffic goes to the system that is upgraded")
            }
            Some(_) => Ok(()),
        }
    }

    /// Checks that the plan says where a workload's traffic goes.
    ///
    /// # Errors
    /// One sentence.
    pub fn check_workload(&self, workload: &Workload) -> Result<(), String> {
        let file = self.file.display();
        if workload.has_http() && self.traffic.target.is_none() {
            let name = workload.name();
            return Err(format!(
                "{file}: the workload {name} speaks HTTP, and traffic.target is not there: name the service that it goes to"
            ));
        }
        match workload.databases().into_iter().find(|name| !self.traffic.database.contains_key(*name)) {
            Some(name) => Err(format!(
                "{file}: the workload uses the database `{name}`, and traffic.database.{name} is not there: name the role that connects"
            )),
            None => Ok(()),
        }
    }

    /// What each kind of mirror needs to be said.
    fn check_kinds(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let mirror = &self.mirror;
        if let Some(missing) = self.lacks_for_local().filter(|_| !self.can_be_containers()) {
            return fault("[mirror]", missing.0, missing.1);
        }
        if mirror.kind == MirrorKind::Local {
            return self.lacks_for_local().map_or(Ok(()), |missing| fault("[mirror]", missing.0, missing.1));
        }
        if mirror.compose.is_none() {
            return if mirror.kind == MirrorKind::Compose {
                let message = "mirror.kind is \"compose\", and mirror.compose is not there".to_owned();
                fault("[mirror]", message, "name the compose file: compose = \"docker-compose.yml\"")
            } else {
                Ok(())
            };
        }
        if mirror.database.service.is_none() {
            let message = "mirror.database.service is not there".to_owned();
            return fault(
                "[mirror.database]",
                message,
                "name the compose file's service that is the database",
            );
        }
        if let Some(service) = mirror.services.iter().find(|service| service.container_port.is_none()) {
            let message = format!("service `{}` has no container_port", service.name);
            return fault(&service.name, message, "name the port that it listens on inside its container");
        }
        let dataset = &mirror.dataset;
        let sources = [!dataset.command.is_empty(), dataset.dump.is_some(), dataset.data_folder.is_some()];
        if sources.iter().filter(|given| **given).count() > 1 {
            let message = "mirror.dataset has more than one of command, dump and data_folder".to_owned();
            return fault("[mirror.dataset]", message, "keep the one that fills the database");
        }
        Ok(())
    }

    /// Chooses another kind of mirror than the plan's.
    ///
    /// # Errors
    /// When the plan does not say what that kind needs; one sentence.
    pub fn set_kind(&mut self, kind: MirrorKind) -> Result<(), String> {
        let file = self.file.display();
        match kind {
            MirrorKind::Compose if self.mirror.compose.is_none() => {
                return Err(format!(
                    "{file}: mirror.compose is not there: name the compose file to use containers"
                ));
            }
            MirrorKind::Local => {
                if let Some((lack, hint)) = self.lacks_for_local() {
                    return Err(format!("{file}: {lack}, which the local mirror needs: {hint}"));
                }
            }
            MirrorKind::Auto | MirrorKind::Compose => {}
        }
        self.mirror.kind = kind;
        Ok(())
    }

    /// Whether the plan can be rehearsed in containers.
    #[must_use]
    pub fn can_be_containers(&self) -> bool {
        self.mirror.compose.is_some() && self.mirror.kind != MirrorKind::Local
    }

    /// What the local mirror would lack, and what to do about it.
    #[must_use]
    pub fn lacks_for_local(&self) -> Option<(String, &'static str)> {
        if let Some(service) = self.mirror.services.iter().find(|service| service.command.is_empty()) {
            return Some((format!("service `{}` has no command", service.name), "name its program"));
        }
        let dataset = &self.mirror.dataset;
        (dataset.command.is_empty() && dataset.dump.is_none()).then(|| {
            let lack = "mirror.dataset.command is empty, and there is no dump".to_owned();
            (lack, "name the program that fills the database, or a dump")
        })
    }

    /// Every `{…}` of a command, an environment or a residue URL must be one that the mirror fills.
    fn check_placeholders(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let mut everywhere: BTreeSet<String> =
            ["plan", "seed", "host_root", "admin_url"].map(str::to_owned).into();
        for role in self.mirror.database.roles.keys() {
            everywhere.extend([format!("database_url:{role}"), format!("password:{role}")]);
        }
        let mut of_services = everywhere.clone();
        of_services.extend(["port".to_owned(), "version".to_owned()]);
        of_services.extend(self.mirror.services.iter().map(|service| format!("url:{}", service.name)));
        let dataset = &self.mirror.dataset;
        let residue = [&self.residue.flags, &self.residue.webhooks].into_iter().flatten();
        let services = self.mirror.services.iter();
        let texts = dataset
            .command
            .iter()
            .chain(dataset.environment.values())
            .map(|text| (text, &everywhere))
            .chain(
                services
                    .flat_map(|one| one.command.iter().chain(one.environment.values()))
                    .map(|text| (text, &of_services)),
            )
            .chain(residue.map(|text| (text, &of_services)));
        for (text, known) in texts {
            if let Some(name) = placeholders(text).find(|name| !known.contains(*name)) {
                let message = format!("`{{{name}}}` is no placeholder that is filled here");
                let hint =
                    "name a role of mirror.database.roles or a service of the plan; docs/plan.md lists all";
                return fault(&format!("{{{name}}}"), message, hint);
            }
        }
        Ok(())
    }
}

/// Names between braces that look like placeholders; other braces, such as JSON, are left alone.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let (kind, _) = name.split_once(':').unwrap_or((name, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (!kind.is_empty() && plain(kind) && !name.contains(char::is_whitespace)).then_some(name)
    })
}
