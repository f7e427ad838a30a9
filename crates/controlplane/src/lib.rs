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
mod discovery;
mod generate;
mod listeners;
mod monitoring;
mod objects;
mod roots;
mod safe_order;
mod webhooks;
mod world;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use meltemi_kube::connect::{self, InCluster};

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

/// Runs the control plane until `shutdown` resolves; then streams end and proxies reconnect elsewhere.
///
/// # Errors
/// What keeps it from starting. Once it runs, trouble is logged and tried again.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let client = match &config.kubernetes {
        Kubernetes::InCluster(place) => connect::in_cluster(place, "meltemi-discovery")?,
        Kubernetes::Kubeconfig(path) => connect::from_kubeconfig(path, "meltemi-discovery").await?,
    };
    let authority = authority::Authority::load_or_create(&client, &config).await?;
    let (world, _watches) = world::start(client.clone(), &config).await?;
    let caller = Arc::new(caller::KubernetesTokens::new(
        client.clone(),
        config.trust_domain.clone(),
    ));
    let discovery = discovery::Discovery::new(Arc::clone(&world), Arc::clone(&caller));
    let _background = [
        roots::publish(client.clone(), Arc::clone(&authority)),
        safe_order::keep(client.clone(), &config, Arc::clone(&world)),
        authority::renew_serving(Arc::clone(&authority)),
        webhooks::keep_announced(client.clone(), config.clone(), Arc::clone(&authority)),
    ];
    let sockets = listeners::Sockets::open(&config).await?;
    webhooks::announce(&client, &config, authority.root_pem()).await?;
    tracing::info!(secure = %sockets.secure_address(), "control plane is ready");
    world.set_ready();
    sockets
        .serve(
            listeners::Parts {
                authority,
                world,
                caller,
                discovery,
            },
            shutdown,
        )
        .await;
    Ok(())
}
