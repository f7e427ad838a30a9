//! `meltemi proxy sidecar|router --engine ENVOY`: a stock Envoy as the data plane of a pod.
//!
//! Envoy cannot prove a workload's identity to the mesh's CA, so this agent stands beside it: it obtains the
//! certificate and serves it over SDS ([`secrets`]), carries the discovery stream into a TLS connection with that
//! certificate ([`tunnel`]), writes the [`bootstrap`], keeps the [`process`], and answers for it on the agent's port
//! ([`status`]). It never looks into the configuration that passes, and never touches the application's traffic.

mod admin;
mod bootstrap;
mod process;
mod secrets;
mod status;
mod tunnel;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin as http_admin;
use crate::agent::AgentConfig;
use crate::agent::channel::CaChannel;
use crate::agent::identity::LazyCsr;
use crate::standalone::{ProxyError, Task};
use admin::EngineAdmin;
use process::{Directory, Engine};
use status::Status;

/// Time for a draining engine to take note of an order.
const ORDER_DEADLINE: Duration = Duration::from_secs(2);

/// Which program is the data plane.
#[derive(Debug, Clone)]
pub struct EngineBinary {
    /// An Envoy: a path, or a name to be found in `PATH`.
    pub path: PathBuf,
    /// Its log level.
    pub log_level: String,
    /// Log levels of its components (`misc:error,upstream:debug`), or nothing.
    pub component_log_level: String,
}

/// Runs a stock Envoy as the data plane until SIGTERM or SIGINT, then drains it.
///
/// Called on the main thread: the engine dies with the thread that starts it.
///
/// # Errors
/// When a socket cannot be bound, the engine cannot be started, or it ends by itself
/// ([`ProxyError::EngineEnded`]). A control plane that does not answer is no error: agent and engine wait for it.
pub fn run_with_engine(config: AgentConfig, engine: EngineBinary) -> Result<(), ProxyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(Arc::new(config), engine))
}

async fn run(config: Arc<AgentConfig>, engine: EngineBinary) -> Result<(), ProxyError> {
    let directory = Directory::create()?;
    let channel = CaChannel::new(Arc::clone(&config));
    let (sender, certificates) = meltemi_identity::store::channel();
    let source = LazyCsr::new(channel, Arc::clone(&config));
    let keep = meltemi_identity::store::keep_fresh(source, sender, fastrand::f64);
    let mut tasks = vec![Task(tokio::spawn(keep))];
    tasks.push(secrets::serve(&directory.secrets(), certificates.clone())?);
    tasks.push(tunnel::serve(
        &directory.discovery(),
        Arc::clone(&config),
        certificates,
    )?);

    let admin = EngineAdmin::new(config.ports.admin);
    let status = Arc::new(Status::new(Arc::clone(&config), admin));
    tasks.push(serve_status(&config, &status)?);

    let mut ends = Ends::new()?;
    let sockets = bootstrap::Sockets {
        secrets: directory.secrets(),
        discovery: directory.discovery(),
    };
    directory.write_bootstrap(&bootstrap::render(&config, &sockets))?;
    let mut engine = Engine::start(&engine, &config, &directory.bootstrap())?;
    tokio::select! {
        biased; // an engine that is gone cannot be drained
        ended = engine.ended() => return Err(ended),
        () = ends.asked(&status) => {}
    }
    let result = drain(&config, &status, admin, &mut engine).await;
    drop(tasks);
    result
}

/// What asks for the end.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self, status: &Status) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = status.quit.notified() => {}
        }
    }
}

/// Lets responses end their connections for the time that the configuration gives, then ends the engine.
async fn drain(
    config: &AgentConfig,
    status: &Status,
    admin: EngineAdmin,
    engine: &mut Engine,
) -> Result<(), ProxyError> {
    status.set_draining();
    tracing::info!(
        drain_s = config.drain.as_secs(),
        "draining the engine before the end"
    );
    let order = admin.post("/drain_listeners?graceful", ORDER_DEADLINE);
    if let Err(reason) = order.await {
        tracing::warn!(reason, "the engine was not told to drain");
    }
    tokio::select! {
        ended = engine.ended() => {
            tracing::warn!(%ended, "while draining");
            return Ok(());
        }
        () = tokio::time::sleep(config.drain) => {}
    }
    if let Err(reason) = admin.post("/quitquitquit", ORDER_DEADLINE).await {
        tracing::debug!(reason, "the engine was not told to end");
    }
    engine.stop(config.grace).await;
    Ok(())
}

/// Readiness, merged metrics and the application's probes; the engine's own health port leads here, too.
fn serve_status(config: &AgentConfig, status: &Arc<Status>) -> Result<Task, ProxyError> {
    let address = SocketAddr::from(([0, 0, 0, 0], config.ports.agent));
    let status = Arc::clone(status);
    let handler = move |head: http::request::Parts| {
        let status = Arc::clone(&status);
        async move { status.answer(&head).await }
    };
    let (_, serving) =
        http_admin::listen(address, handler).map_err(|source| ProxyError::Listen {
            what: "agent",
            address,
            source,
        })?;
    Ok(Task(tokio::spawn(serving)))
}
