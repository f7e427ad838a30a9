//! The control plane: wires watches to the model, the model to the translation, and that to connected proxies.
//!
//! ```text
//! kube watches ─► world (debounce) ─► Snapshot ─► discovery (per proxy, cached) ─► xds
//!                    │                    └─► held routes ─► status, events, stored record
//!                    └─ mesh and injector settings
//! ca: istio-ca-secret ─► CSR service, own serving certificate, istio-ca-root-cert in every namespace, webhooks
//! ```
//!
//! Nothing is served before the first complete snapshot: a new proxy never gets half a mesh. A proxy that is
//! connected loses nothing when this process dies; it reconnects to the next one and tells what it has.
//!
//! Never here: policy semantics (`translate`, `model`) and Kubernetes transport (`kube`).

mod authority;
mod caller;
mod connections;
mod discovery;
mod generate;
mod listeners;
mod metrics;
mod monitoring;
mod objects;
mod roots;
mod safe_order;
mod webhooks;
mod world;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use meltemi_kube::{
    Client, Task,
    connect::{self, InCluster},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    listeners::{MeshSockets, Parts, Stop},
    metrics::Metrics,
    monitoring::Pages,
};

/// How a control plane is run; every value comes from flags or the environment of the process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Namespace of the control plane (`istio-system`).
    pub namespace: String,
    /// Revision, `default` when there is only one.
    pub revision: String,
    /// Name of this process among replicas (the pod's name).
    pub identity: String,
    /// Trust domain of a new self-signed root.
    pub trust_domain: String,
    /// Where the API server is.
    pub kubernetes: Kubernetes,
    /// Address to listen on.
    pub address: IpAddr,
    /// Ports to listen on.
    pub ports: Ports,
}

/// How to reach the API server.
#[derive(Debug, Clone)]
pub enum Kubernetes {
    /// With the pod's own service account.
    InCluster(InCluster),
    /// With a kubeconfig file.
    Kubeconfig(PathBuf),
}

/// The ports of a control plane, Istio's by default; 0 picks a free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// xDS without TLS: no secrets are served on it.
    pub plain: u16,
    /// xDS and CSR over TLS.
    pub secure: u16,
    /// Admission webhooks over HTTPS.
    pub webhooks: u16,
    /// Metrics, readiness and debug pages.
    pub debug: u16,
    /// Metrics for Prometheus.
    pub monitoring: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            plain: 15010,
            secure: 15012,
            webhooks: 15017,
            debug: 8080,
            monitoring: 15014,
        }
    }
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be reached.
    #[error("connect to the Kubernetes API")]
    Connect(#[from] connect::ConnectError),
    /// The API server refused something that the control plane cannot do without.
    #[error("{action}")]
    Kubernetes {
        /// What was attempted, with the object's name.
        action: String,
        /// The API server's answer.
        #[source]
        source: Box<meltemi_kube::Error>,
    },
    /// The CA's secret or a certificate is unusable.
    #[error("{action}")]
    Identity {
        /// What was attempted.
        action: String,
        /// What is wrong.
        #[source]
        source: meltemi_identity::IdentityError,
    },
    /// A port is taken.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    fn kubernetes(action: impl Into<String>) -> impl FnOnce(meltemi_kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kubernetes {
            action,
            source: Box::new(source),
        }
    }

    fn identity(action: impl Into<String>) -> impl FnOnce(meltemi_identity::IdentityError) -> Self {
        let action = action.into();
        move |source| Self::Identity { action, source }
    }
}

/// Where a running control plane listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// xDS without TLS.
    pub plain: SocketAddr,
    /// xDS and CSR over TLS.
    pub secure: SocketAddr,
    /// Admission webhooks.
    pub webhooks: SocketAddr,
    /// Metrics, readiness and debug pages.
    pub debug: SocketAddr,
    /// The same, for Prometheus.
    pub monitoring: SocketAddr,
}

/// A running control plane; dropping it ends it at once.
#[derive(Debug)]
pub struct Running {
    addresses: Addresses,
    ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    /// One task, here because a set aborts what it owns when it is dropped.
    work: JoinSet<Result<(), Error>>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves when the mesh is served, or when it has ended. Cancel-safe.
    pub async fn ready(&mut self) {
        let _ = self.ready.wait_for(|ready| *ready).await; // it has ended
    }

    /// Resolves when it has ended by itself. Cancel-safe.
    ///
    /// # Errors
    /// What keeps it from serving the mesh. Once it does, trouble is logged and tried again.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match self.work.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// Ends it: streams end, requests under way are answered.
    ///
    /// # Errors
    /// As [`Running::ended`].
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        self.ended().await
    }
}

/// Opens the ports and starts the control plane. Readiness is served at once, the mesh when it is known completely.
///
/// # Errors
/// [`Error::Listen`] when a port is taken.
pub async fn start(config: Config) -> Result<Running, Error> {
    let (mesh, page_sockets) = listeners::open(&config).await?;
    let addresses = listeners::addresses(&mesh, &page_sockets);
    let (stop, stopped) = watch::channel(false);
    let (set_ready, ready) = watch::channel(false);
    let mut work = JoinSet::new();
    work.spawn(async move {
        let stop = Stop(stopped);
        let pages = Arc::new(Pages {
            metrics: Metrics::new(),
            parts: OnceLock::new(),
        });
        let _pages = page_sockets.serve(&pages, &stop);
        serve(config, mesh, &pages, &set_ready, stop).await
    });
    Ok(Running {
        addresses,
        ready,
        stop,
        work,
    })
}

/// Runs the control plane until `shutdown` resolves; then streams end and proxies reconnect elsewhere.
///
/// # Errors
/// What keeps it from starting. Once it runs, trouble is logged and tried again.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let mut running = start(config).await?;
    tokio::select! {
        ended = running.ended() => return ended,
        () = shutdown => {}
    }
    running.stop().await
}

async fn serve(
    config: Config,
    sockets: MeshSockets,
    pages: &Pages,
    ready: &watch::Sender<bool>,
    stop: Stop,
) -> Result<(), Error> {
    let (parts, _background) = tokio::select! {
        prepared = prepare(&config, Arc::clone(&pages.metrics)) => prepared?,
        () = stop.clone().signalled() => return Ok(()),
    };
    tracing::info!("control plane is ready");
    if pages.parts.set(Arc::clone(&parts)).is_err() {
        unreachable!("a control plane is prepared once");
    }
    ready.send_replace(true);
    sockets.serve(parts, stop).await;
    Ok(())
}

/// Everything that has to be known and written before the mesh is served, and the tasks that keep it so.
async fn prepare(config: &Config, metrics: Arc<Metrics>) -> Result<(Arc<Parts>, Vec<Task>), Error> {
    let client: Client = match &config.kubernetes {
        Kubernetes::InCluster(place) => connect::in_cluster(place, "meltemi-discovery")?,
        Kubernetes::Kubeconfig(path) => connect::from_kubeconfig(path, "meltemi-discovery").await?,
    };
    let authority = authority::Authority::load_or_create(&client, config).await?;
    metrics.authority(&authority.ca.load());
    let (world, mut tasks) = world::start(client.clone(), config, Arc::clone(&metrics)).await?;
    let caller = Arc::new(caller::KubernetesTokens::new(
        client.clone(),
        config.trust_domain.clone(),
    ));
    let discovery = discovery::Discovery::new(
        Arc::clone(&world),
        Arc::clone(&caller),
        Arc::clone(&metrics),
    );
    webhooks::announce(&client, config, authority.root_pem()).await?;
    tasks.extend([
        roots::publish(client.clone(), Arc::clone(&authority)),
        safe_order::keep(client.clone(), config, Arc::clone(&world)),
        authority::renew_serving(Arc::clone(&authority)),
        webhooks::keep_announced(client, config.clone(), Arc::clone(&authority)),
    ]);
    let parts = Parts {
        authority,
        world,
        caller,
        discovery,
        metrics,
    };
    Ok((Arc::new(parts), tasks))
}
