//! The embedded Kubernetes-style API server of the local platform.
//!
//! It serves Kubernetes' HTTP API (discovery, lists, watches, patches, server-side apply, tables,
//! custom resources, admission webhooks, tokens, RBAC) over a durable store, so that `kubectl` and
//! every Kubernetes client library work against it unchanged. It starts no pods and runs no
//! controllers beyond its own [`lifecycle`] work: those live in `node` and talk to this server over
//! its API like any other client.
//!
//! Request path: `server` accepts and terminates TLS, `router` answers public paths and asks
//! [`auth`] who is calling and whether they may, `rest` executes, [`admission`] completes and
//! judges, [`store`] makes it durable and feeds the watches. The surface modules are pure functions
//! over JSON. `flow.md` beside this file follows a request through them.

// === Surface: pure functions over JSON ===
pub mod apply;
pub mod crd;
pub mod discovery;
pub mod field;
pub mod jsonpath;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod rbac;
pub mod schema;
pub mod selector;
pub mod table;
mod types;
pub mod validate;

// === Core: state, protocol, policy ===
pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod dial;
pub mod http;
mod kubelet;
pub mod lifecycle;
pub mod pki;
pub mod protobuf;
pub mod request;
mod rest;
mod router;
mod server;
pub mod state;
pub mod status;
pub mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use auth::tokens::Tokens;
use dial::Dialer;
use pki::Pki;
use state::{Api, Parts, Paths};
use store::{Store, StoreError, StoreOptions};

/// The server ends within this time of being asked to, whatever its clients do.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// State directory: certificates, kubeconfigs, database.
    pub state_dir: PathBuf,
    /// Port on 127.0.0.1; 0 picks a free one (the kubeconfigs name it).
    pub port: u16,
    /// Limits of the change log.
    pub store: StoreOptions,
}

impl Config {
    /// The default configuration below a state directory.
    pub fn new(state_dir: impl Into<PathBuf>, port: u16) -> Self {
        Self {
            state_dir: state_dir.into(),
            port,
            store: StoreOptions::default(),
        }
    }
}

/// Why the server cannot start. Each is one sentence with the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the port.
    #[error(
        "port {port} is in use on 127.0.0.1; stop what listens there or choose another with --api-port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Listening failed otherwise.
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot write the state directory {}: {source}; free or allow space there, or choose another with --state", path.display())]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// Two servers on one directory.
    #[error(
        "the state directory {} is used by another API server; stop that one or choose another directory with --state",
        path.display()
    )]
    StateInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The database.
    #[error(
        "cannot open the object store {}: {source}; free or allow space there, or choose another directory with --state",
        path.display()
    )]
    Store {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// TLS set-up.
    #[error("cannot set up TLS from {}: {reason}; remove the directory to make new certificates", path.display())]
    Tls {
        /// The PKI directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals: {source}")]
    Signals {
        /// Why.
        source: std::io::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    kubeconfig: PathBuf,
    api: Arc<Api>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The shared state, for tests that look behind the API.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Ends it: watches end, requests complete, everything acknowledged is on disk.
    pub async fn stop(self) {
        // Nobody listening any more is what we want.
        let _ = self.stop.send(true);
        let tasks = futures::future::join_all(self.tasks);
        if tokio::time::timeout(STOP_TIMEOUT, tasks).await.is_err() {
            tracing::warn!("api server tasks did not end in time");
        }
        let api = self.api;
        // Joining the writer blocks for one commit at most, but it must not block the runtime.
        let closed = tokio::task::spawn_blocking(move || api.store.close());
        let _ = tokio::time::timeout(STOP_TIMEOUT, closed).await;
    }
}

/// Runs the server until SIGTERM or SIGINT. Two worker threads are plenty for it.
///
/// # Errors
/// When it cannot start; each error is one sentence for the user.
pub async fn run(config: Config) -> Result<(), Error> {
    let signals = |kind| signal(kind).map_err(|source| Error::Signals { source });
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    let running = start(config).await?;
    tracing::info!(address = %running.address, kubeconfig = %running.kubeconfig.display(), "api server ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("api server stopping");
    running.stop().await;
    Ok(())
}

/// Starts the server and returns when it answers.
///
/// # Errors
/// When it cannot start; each error is one sentence for the user.
pub async fn start(config: Config) -> Result<Running, Error> {
    let paths = Paths::below(&config.state_dir);
    prepare(&config.state_dir, &paths)?;
    let listener = listen(config.port).await?;
    let address = listener.local_addr().map_err(|source| Error::Listen {
        port: config.port,
        source,
    })?;
    let pki = Pki::load_or_create(&paths.pki)?;
    let failed = |reason: String| Error::Tls {
        path: paths.pki.clone(),
        reason,
    };
    let tls = server::tls(&pki).map_err(|e| failed(e.to_string()))?;
    let tokens = Tokens::new(&pki.service_account_key).map_err(|e| failed(e.to_string()))?;
    let dialer = Dialer::new(&pki.ca, &pki.kubelet_client, paths.egress.clone())
        .map_err(|e| failed(e.to_string()))?;
    let failed = |source| match source {
        StoreError::InUse => Error::StateInUse {
            path: config.state_dir.clone(),
        },
        source => Error::Store {
            path: paths.database.clone(),
            source,
        },
    };
    let store = Store::open(&paths.database, config.store).map_err(failed)?;
    let (stop, stopping) = watch::channel(false);
    let api = Arc::new(Api::new(Parts {
        store,
        tokens,
        dialer,
        address,
        stopping,
        ca: pki.ca.clone(),
    }));
    bootstrap::ensure(&api).await.map_err(failed)?;
    pki.write_kubeconfigs(&config.state_dir, &format!("https://{address}"))?;
    let tasks = vec![
        tokio::spawn(server::serve(listener, tls, Arc::clone(&api))),
        tokio::spawn(lifecycle::run(Arc::clone(&api))),
    ];
    Ok(Running {
        address,
        kubeconfig: config.state_dir.join("kubeconfig"),
        api,
        stop,
        tasks,
    })
}

fn prepare(state: &Path, paths: &Paths) -> Result<(), Error> {
    let parents = [&paths.database, &paths.egress];
    for directory in parents.iter().filter_map(|p| p.parent()) {
        std::fs::create_dir_all(directory).map_err(|source| Error::StateDirectory {
            path: state.to_owned(),
            source,
        })?;
    }
    Ok(())
}

async fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|source| {
            if source.kind() == std::io::ErrorKind::AddrInUse {
                Error::PortInUse { port }
            } else {
                Error::Listen { port, source }
            }
        })
}
