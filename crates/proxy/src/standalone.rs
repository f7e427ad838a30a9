//! `meltemi proxy --config FILE`: a proxy from an Envoy v3 bootstrap file.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meltemi_compile::Boot;
use meltemi_proto::envoy::config::bootstrap::v3::Bootstrap;
use meltemi_traffic::Str;
use meltemi_traffic::endpoint::Address;
use prost::Message as _;
use serde_json::Value;

use crate::admin::{self, Dump, DumpKind};
use crate::discovery::{self, Aggregated, Hub, Never};
use crate::engine::{Change, Engine, EngineOptions};
use crate::listener::ApplyError;
use crate::state::NodeIdentity;

/// Time in which responses end their connections after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);
/// Time that running exchanges get after that.
const GRACE: Duration = Duration::from_secs(1);

/// What `meltemi proxy --config` is told.
#[derive(Debug, Clone)]
pub struct StaticConfig {
    /// Envoy v3 bootstrap, YAML or JSON.
    pub path: PathBuf,
    /// Workers; 0 is one for each CPU.
    pub concurrency: usize,
    /// SO_MARK of upstream connections.
    pub mark: Option<u32>,
    /// The environment, for `%ENVIRONMENT%` and custom tags.
    pub environment: Vec<(String, String)>,
}

/// Why a proxy does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The bootstrap cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The bootstrap is no YAML or JSON.
    #[error("{path}: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The bootstrap asks for something that cannot be given effect.
    #[error("{path}: {refusal}")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Field and reason.
        refusal: String,
    },
    /// A resource cannot be taken into use.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A socket of our own cannot be bound.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// What for.
        what: &'static str,
        /// Which address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Threads or the runtime cannot be made.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The environment lacks something that a mesh proxy needs.
    #[error("{variable} {problem}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The stock engine cannot be started.
    #[error("cannot start the engine {path}: {source}")]
    Engine {
        /// Which program.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The stock engine ended although nobody asked it to.
    #[error("the engine {path} ended by itself with exit code {code}")]
    EngineEnded {
        /// Which program.
        path: PathBuf,
        /// Its exit code; 128 and the signal's number when a signal ended it.
        code: u8,
    },
}

/// Runs a proxy from a bootstrap file until SIGTERM or SIGINT.
///
/// # Errors
/// When the file cannot be used or an address cannot be bound; the message is one sentence with the field's path.
pub fn run_static(config: StaticConfig) -> Result<(), ProxyError> {
    let (bootstrap, json) = read_bootstrap(&config.path)?;
    let boot = meltemi_compile::bootstrap(&bootstrap).map_err(|refusal| ProxyError::Refused {
        path: config.path.clone(),
        refusal: refusal.to_string(),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(&config, boot, &bootstrap, json))
}

async fn run(
    config: &StaticConfig,
    mut boot: Boot,
    bootstrap: &Bootstrap,
    json: Value,
) -> Result<(), ProxyError> {
    let locality = bootstrap
        .node
        .as_ref()
        .and_then(|node| node.locality.as_ref());
    let node = NodeIdentity {
        id: boot.node.id.as_str().into(),
        cluster: boot.node.cluster.as_str().into(),
        zone: locality
            .map(|locality| Str::from(locality.zone.as_str()))
            .unwrap_or_default(),
        message: bootstrap
            .node
            .as_ref()
            .map(|node| node.encode_to_vec().into())
            .unwrap_or_default(),
        ..NodeIdentity::default()
    };
    let engine = Engine::start(EngineOptions {
        node,
        concurrency: config.concurrency,
        mark: config.mark,
        max_connections: boot.max_connections,
        listener_limits: std::mem::take(&mut boot.listener_limits),
        overload: boot.overload.take(),
        statistics: Some(std::mem::take(&mut boot.statistics)),
        environment: config
            .environment
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
    })?;
    let dump = Arc::new(Dump::default());
    dump.set_bootstrap(json);
    remember(&dump, bootstrap);
    let _admin = match &boot.admin {
        Some(Address::Socket(address)) => Some(start_admin(&engine, &dump, *address)?),
        _ => None,
    };
    let node = std::mem::take(&mut boot.node);
    let aggregated = boot
        .ads
        .take()
        .map_or(Aggregated::<Never>::None, Aggregated::Cluster);
    let mut hub = Hub::new(Arc::clone(&engine.shared), dump, false);
    hub.start_static(boot)?;
    let hub = Rc::new(RefCell::new(hub));
    let following = tokio::task::spawn_local(discovery::run(hub, node, aggregated));
    wait_for_end(&engine).await?;
    following.abort();
    engine.stop(DRAIN, GRACE).await;
    Ok(())
}

/// The static resources of a bootstrap text (YAML or JSON), as one change for an [`Engine`].
///
/// # Errors
/// As [`run_static`]; `name` stands for the file in messages.
pub fn static_resources(name: &str, text: &str) -> Result<Change, ProxyError> {
    let (bootstrap, _) = parse_bootstrap(Path::new(name), text)?;
    let boot = meltemi_compile::bootstrap(&bootstrap).map_err(|refusal| ProxyError::Refused {
        path: name.into(),
        refusal: refusal.to_string(),
    })?;
    Ok(Change {
        clusters: boot.clusters,
        secrets: boot.secrets,
        listeners: boot.listeners,
        ..Change::default()
    })
}

/// Reads a bootstrap and its JSON form.
fn read_bootstrap(path: &Path) -> Result<(Bootstrap, Value), ProxyError> {
    let text = std::fs::read_to_string(path).map_err(|source| ProxyError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse_bootstrap(path, &text)
}

fn parse_bootstrap(path: &Path, text: &str) -> Result<(Bootstrap, Value), ProxyError> {
    let json: Value = serde_saphyr::from_str(text).map_err(|error| ProxyError::Syntax {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let bootstrap = meltemi_proto::json::parse(&json).map_err(|error| ProxyError::Refused {
        path: path.to_owned(),
        refusal: error.to_string(),
    })?;
    Ok((bootstrap, json))
}

fn remember(dump: &Dump, bootstrap: &Bootstrap) {
    let Some(resources) = &bootstrap.static_resources else {
        return;
    };
    for cluster in &resources.clusters {
        dump.set(
            DumpKind::Cluster,
            &Str::from(cluster.name.as_str()),
            &Bytes::from(cluster.encode_to_vec()),
            true,
        );
    }
    for listener in &resources.listeners {
        dump.set(
            DumpKind::Listener,
            &Str::from(listener.name.as_str()),
            &Bytes::from(listener.encode_to_vec()),
            true,
        );
    }
}

/// Serves the admin port until the handle is dropped.
pub(crate) fn start_admin(
    engine: &Engine,
    dump: &Arc<Dump>,
    address: SocketAddr,
) -> Result<Task, ProxyError> {
    let (shared, dump) = (Arc::clone(&engine.shared), Arc::clone(dump));
    let handler = move |head: http::request::Parts| {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        std::future::ready(admin::answer(&shared, &dump, &head.method, path, query))
    };
    let (_, serving) = admin::listen(address, handler).map_err(|source| ProxyError::Listen {
        what: "admin",
        address,
        source,
    })?;
    Ok(Task(tokio::spawn(serving)))
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for SIGTERM, SIGINT or the admin port.
pub(crate) async fn wait_for_end(engine: &Engine) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = engine.shared.quit.notified() => {}
    }
    Ok(())
}
