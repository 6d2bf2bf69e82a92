//! The mirror's services as everyone else sees them, whatever they run as.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;

use super::MirrorError;
use crate::plan::{Service, ServiceRole};

/// All services of a mirror, in the plan's order.
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// As the plan names them.
    fn specs(&self) -> &[Service];

    /// Port of a service on 127.0.0.1; it stays for as long as the mirror runs.
    ///
    /// # Errors
    /// When there is none of that name.
    fn port(&self, name: &str) -> Result<u16, MirrorError>;

    /// Starts a service and waits until it is healthy; nothing happens when it runs.
    ///
    /// # Errors
    /// When it ends or does not become healthy in time.
    async fn start(&self, name: &str) -> Result<(), MirrorError>;

    /// Stops a service, which may drain for a while. Nothing happens when it does not run.
    ///
    /// # Errors
    /// When whoever runs it does not answer.
    async fn stop(&self, name: &str) -> Result<(), MirrorError>;

    /// Puts a service on a version: the old one drained, the new one healthy.
    ///
    /// # Errors
    /// When it does not come up in that version.
    async fn deploy(&self, name: &str, version: &str) -> Result<(), MirrorError>;

    /// Whether a service runs, and in which version.
    ///
    /// # Errors
    /// When there is none of that name.
    async fn state(&self, name: &str) -> Result<ServiceState, MirrorError>;

    /// Starts all services in order, each awaited until it is healthy.
    ///
    /// # Errors
    /// When one does not become healthy.
    async fn start_all(&self) -> Result<(), MirrorError> {
        for spec in self.specs() {
            self.start(&spec.name).await?;
        }
        Ok(())
    }
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// Version that was deployed last.
    pub version: String,
    /// Whether it runs.
    pub active: bool,
}

impl std::fmt::Display for ServiceState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let activity = if self.active { "active" } else { "inactive" };
        write!(formatter, "version {} {activity}", self.version)
    }
}

impl dyn Services {
    /// A service by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn spec(&self, name: &str) -> Result<&Service, MirrorError> {
        find(self.specs(), name)
    }

    /// Address of a service on this machine.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn address(&self, name: &str) -> Result<SocketAddr, MirrorError> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(name)?)))
    }

    /// Base URL of a service.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn url(&self, name: &str) -> Result<String, MirrorError> {
        Ok(format!("http://{}", self.address(name)?))
    }

    /// URL of a service's health endpoint.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn health_url(&self, name: &str) -> Result<String, MirrorError> {
        Ok(format!("{}{}", self.url(name)?, self.spec(name)?.health))
    }

    /// Names of the services of a role.
    #[must_use]
    pub fn of_role(&self, role: ServiceRole) -> Vec<String> {
        self.specs().iter().filter(|spec| spec.role == role).map(|spec| spec.name.clone()).collect()
    }

    /// Replaces `{url:SERVICE}` in a text.
    #[must_use]
    pub fn fill_urls(&self, text: &str) -> String {
        self.specs().iter().fold(text.to_owned(), |text, spec| match self.url(&spec.name) {
            Ok(url) => text.replace(&format!("{{url:{}}}", spec.name), &url),
            Err(_) => text,
        })
    }

    /// States by service; one that cannot be had is left out.
    pub async fn states(&self) -> BTreeMap<String, ServiceState> {
        let mut states = BTreeMap::new();
        for spec in self.specs() {
            if let Ok(state) = self.state(&spec.name).await {
                states.insert(spec.name.clone(), state);
            }
        }
        states
    }
}

/// A service by name.
///
/// # Errors
/// When there is none.
pub fn find<'specs>(specs: &'specs [Service], name: &str) -> Result<&'specs Service, MirrorError> {
    specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
        MirrorError::new(format!("the mirror has no service `{name}`"), "name one of [[mirror.service]]")
    })
}
