//! `meltemi proxy sidecar|router`: the proxy as part of a mesh.
//!
//! [`config`] reads the environment that the injector sets; [`channel`] reaches the control plane, whose resources
//! [`crate::discovery`] turns into configuration; [`status`] answers readiness, metrics and the application's probes. The workload's
//! key is made here and never leaves the process.

pub(crate) mod channel;
pub(crate) mod config;
pub(crate) mod identity;
pub(crate) mod probe;
mod status;

pub use config::{AgentConfig, Role};

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source};

use crate::admin::{self, Dump};
use crate::discovery::{self, Aggregated, Hub};
use crate::engine::{Engine, EngineOptions};
use crate::standalone::{ProxyError, Task, start_admin, wait_for_end};

/// Runs a mesh proxy until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a port cannot be bound or threads cannot be started. A control plane that does not answer is no error: the
/// proxy waits for it.
pub fn run_sidecar(config: AgentConfig) -> Result<(), ProxyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(config))
}

async fn run(config: AgentConfig) -> Result<(), ProxyError> {
    let config = Arc::new(config);
    let engine = Engine::start(EngineOptions {
        node: config.identity(),
        concurrency: config.concurrency,
        mark: config.mark,
        environment: config.environment.clone(),
        statistics: None,
        ..EngineOptions::default()
    })?;
    let dump = Arc::new(Dump::default());
    dump.set_bootstrap(config.bootstrap_json());
    let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let mut tasks = vec![start_admin(&engine, &dump, loopback(config.ports.admin))?];
    tasks.extend(status_ports(&engine, &config)?);

    let channel = channel::CaChannel::new(Arc::clone(&config));
    let (sender, certificates) = meltemi_identity::store::channel();
    let source = identity::LazyCsr::new(channel, Arc::clone(&config));
    let keep = meltemi_identity::store::keep_fresh(source, sender, fastrand::f64);
    tasks.push(Task(tokio::spawn(keep)));
    let shared = Arc::clone(&engine.shared);
    tasks.push(Task(tokio::spawn(identity::publish(
        shared,
        certificates.clone(),
    ))));

    let shared = Arc::clone(&engine.shared);
    let (node, ads_config, dump) = (config.node(), Arc::clone(&config), Arc::clone(&dump));
    let discovery = tokio::task::spawn_local(async move {
        // A proxy without its certificate must not open listeners: their handshakes would fail.
        identity::wait_for_first(certificates).await;
        let connector = channel::AdsConnector::new(ads_config);
        let mut hub = Hub::new(shared, dump, true);
        let everything = Reference::new(Source::Ads, Str::default(), None);
        hub.want_collections(Some(&everything), Some(&everything));
        let hub = Rc::new(RefCell::new(hub));
        discovery::run(hub, node, Aggregated::Agent(connector)).await;
    });
    let result = wait_for_end(&engine).await;
    discovery.abort();
    engine.stop(config.drain, config.grace).await;
    drop(tasks);
    Ok(result?)
}

/// The agent's port, the health port and the metrics port answer alike; what differs is who is told of them.
fn status_ports(engine: &Engine, config: &Arc<AgentConfig>) -> Result<Vec<Task>, ProxyError> {
    let status = Arc::new(status::Status::new(
        Arc::clone(&engine.shared),
        Arc::clone(config),
    ));
    let ports = [
        ("agent", config.ports.agent),
        ("health", config.ports.health),
        ("metrics", config.ports.metrics),
    ];
    let mut tasks = Vec::new();
    for (what, port) in ports {
        let address = SocketAddr::from(([0, 0, 0, 0], port));
        let status = Arc::clone(&status);
        let handler = move |head: http::request::Parts| {
            let status = Arc::clone(&status);
            async move { status.answer(&head).await }
        };
        let (_, serving) =
            admin::listen(address, handler).map_err(|source| ProxyError::Listen {
                what,
                address,
                source,
            })?;
        tasks.push(Task(tokio::spawn(serving)));
    }
    Ok(tasks)
}
