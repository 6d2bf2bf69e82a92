//! The program of the one container that stands in two networks: it lets the harness into the mirror's internal
//! network, and answers every question for a name outside with "there is none".
//!
//! The mirror mounts our own binary into that container and starts it as `fulldress gateway`; what it reads is
//! [`GatewayConfig`], what it tells is a line per asked name on standard output. It knows nothing of the engine.
//!
//! The same program stands as a witness beside each container that runs scripts: see `witness`.

mod forward;
mod resolver;
mod witness;

pub use resolver::Attempt;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// The variable with the configuration as JSON.
pub const CONFIG_VARIABLE: &str = "FULLDRESS_GATEWAY";
/// Connections of all forwards together; those above are reset.
const CONNECTIONS_MAX: usize = 4096;
/// Lines that wait for standard output.
const ATTEMPTS_WAITING_MAX: usize = 1024;
/// Where resolvers are asked.
const RESOLVER_PORT: u16 = 53;

/// One port that leads into the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// TCP port on all addresses; 0 is a free one.
    pub listen: u16,
    /// Name or address of the target, looked up again for every connection: a redeployed service has another address.
    pub host: String,
    /// The target's TCP port.
    pub port: u16,
}

/// What the gateway is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Ports that lead into the mirror.
    pub forwards: Vec<Forward>,
    /// Whether names are answered, each with "there is none", and written down.
    #[serde(default)]
    pub resolver: bool,
    /// Whether calls to bare addresses outside are written down; see the module `witness`.
    #[serde(default)]
    pub witness: bool,
    /// UDP and TCP port of the resolver; 0 is a free one.
    #[serde(default = "resolver_port")]
    pub resolver_port: u16,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { forwards: Vec::new(), resolver: false, witness: false, resolver_port: RESOLVER_PORT }
    }
}

const fn resolver_port() -> u16 {
    RESOLVER_PORT
}

/// Why the gateway cannot work.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// There is no configuration.
    #[error(
        "read {CONFIG_VARIABLE}: the variable is not set; a mirror in containers starts the gateway with it"
    )]
    Missing,
    /// The configuration is not one.
    #[error("read {CONFIG_VARIABLE}: {0}; it is the JSON of the gateway's configuration")]
    Config(#[from] serde_json::Error),
    /// A port cannot be listened on.
    #[error("listen on port {port}: {source}; another program has it, or the container may not take it")]
    Listen {
        /// The port.
        port: u16,
        /// The kernel's word.
        source: io::Error,
    },
    /// Packets cannot be seen.
    #[error("see the namespace's packets: {0}; the container needs NET_RAW")]
    Packets(#[source] io::Error),
    /// A signal handler, a thread or standard output is not to be had.
    #[error("work: {0}")]
    Io(#[from] io::Error),
}

/// A gateway that listens already.
#[derive(Debug)]
pub struct Gateway {
    forwards: Vec<(TcpListener, Forward)>,
    resolver: Option<resolver::Resolver>,
    witness: Option<witness::Witness>,
    attempts: mpsc::Receiver<Attempt>,
}

impl Gateway {
    /// Listens on every port of the configuration.
    ///
    /// # Errors
    /// The first port that cannot be listened on.
    pub async fn bind(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let mut forwards = Vec::new();
        for forward in &config.forwards {
            let at = (Ipv4Addr::UNSPECIFIED, forward.listen);
            let listener = TcpListener::bind(at)
                .await
                .map_err(|source| GatewayError::Listen { port: forward.listen, source })?;
            forwards.push((listener, forward.clone()));
        }
        let (told, attempts) = mpsc::channel(ATTEMPTS_WAITING_MAX);
        let resolver = if config.resolver {
            let port = config.resolver_port;
            let bound = resolver::Resolver::bind(port, told.clone()).await;
            Some(bound.map_err(|source| GatewayError::Listen { port, source })?)
        } else {
            None
        };
        let witness = if config.witness {
            let witness = witness::Witness::bind(told.clone()).map_err(GatewayError::Packets)?;
            // Whoever started it waits for this before anything runs that it is to see.
            let _ready = told.try_send(Attempt::ready());
            Some(witness)
        } else {
            None
        };
        Ok(Self { forwards, resolver, witness, attempts })
    }

    /// The ports of the forwards, in the configuration's order.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn ports(&self) -> io::Result<Vec<u16>> {
        self.forwards.iter().map(|(listener, _)| Ok(listener.local_addr()?.port())).collect()
    }

    /// Where names are answered, over UDP and TCP; none without a resolver.
    #[must_use]
    pub fn resolver(&self) -> Option<SocketAddr> {
        self.resolver.as_ref().map(resolver::Resolver::address)
    }

    /// Serves until the future is dropped; each attempt is written as a line of JSON.
    ///
    /// # Errors
    /// When the lines cannot be written any more.
    pub async fn serve(mut self, mut lines: impl io::Write) -> Result<(), GatewayError> {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // Aborts what is in it when this future is dropped.
        let mut serving = JoinSet::new();
        for (listener, forward) in self.forwards {
            serving.spawn(forward::accept(listener, forward, Arc::clone(&permits)));
        }
        if let Some(resolver) = self.resolver {
            serving.spawn(resolver.answer());
        }
        if let Some(witness) = self.witness {
            std::thread::Builder::new().name("witness".to_owned()).spawn(move || {
                // Its end closes the channel, which ends the program: nobody must believe that it still sees.
                let _ended = witness.look();
            })?;
        }
        while let Some(attempt) = self.attempts.recv().await {
            let mut line = serde_json::to_vec(&attempt)?;
            line.push(b'\n');
            lines.write_all(&line)?;
            lines.flush()?;
        }
        // Without a resolver nobody tells anything, and only forwards are left to wait for.
        while serving.join_next().await.is_some() {}
        Ok(())
    }
}

/// The program: reads its configuration from the environment and serves until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no configuration, or a port cannot be listened on.
pub fn run() -> Result<(), GatewayError> {
    let text = std::env::var(CONFIG_VARIABLE).map_err(|_| GatewayError::Missing)?;
    let config: GatewayConfig = serde_json::from_str(&text)?;
    // One thread: a byte that needs no other one to be woken is through soonest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // As a container's first process it has no signal but those that it asks for.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let gateway = Gateway::bind(&config).await?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            ended = gateway.serve(io::stdout()) => ended,
        }
    });
    // A look-up of a name that nobody answers must not hold the end up.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::{Forward, GatewayConfig};

    #[test]
    fn the_configuration_reads_back_and_the_resolver_stands_at_its_usual_port() {
        let config: GatewayConfig = serde_json::from_str(
            r#"{"forwards":[{"listen":8080,"host":"storefront","port":80}],"resolver":true}"#,
        )
        .unwrap();
        let forward = Forward { listen: 8080, host: "storefront".to_owned(), port: 80 };
        assert_eq!(
            config,
            GatewayConfig { forwards: vec![forward], resolver: true, witness: false, resolver_port: 53 }
        );
        assert_eq!(
            serde_json::from_str::<GatewayConfig>(&serde_json::to_string(&config).unwrap()).unwrap(),
            config
        );
        assert!(serde_json::from_str::<GatewayConfig>(r#"{"forwards":[],"resolvr":true}"#).is_err());
        assert_eq!(GatewayConfig::default(), serde_json::from_str(r#"{"forwards":[]}"#).unwrap());
    }
}
