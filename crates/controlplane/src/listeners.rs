//! The control plane's ports: xDS with and without TLS, webhooks, monitoring.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meltemi_identity::service::CsrService;
use meltemi_kube::Task;
use meltemi_xds::server::AdsService;
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Server;

use crate::{
    Addresses, Config, Error,
    authority::Authority,
    caller::KubernetesTokens,
    connections::{accept_plain, accept_tls, address},
    discovery::Discovery,
    metrics::Metrics,
    monitoring::{self, Pages},
    webhooks,
    world::World,
};

/// Pings find dead proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Streams get this long to end after the signal to stop.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// What the ports serve.
pub(crate) struct Parts {
    pub(crate) authority: Arc<Authority>,
    pub(crate) world: Arc<World>,
    pub(crate) caller: Arc<KubernetesTokens>,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Signal to stop, for everything that serves.
#[derive(Clone)]
pub(crate) struct Stop(pub(crate) watch::Receiver<bool>);

impl Stop {
    /// Resolves when it is time.
    pub(crate) async fn signalled(mut self) {
        let _ = self.0.wait_for(|stop| *stop).await; // a dropped sender means the end, too
    }
}

/// The ports that serve from the start.
pub(crate) struct PageSockets {
    debug: TcpListener,
    monitoring: TcpListener,
}

/// The ports that serve once the mesh is known. Until then, connections wait in their backlogs.
pub(crate) struct MeshSockets {
    plain: TcpListener,
    secure: TcpListener,
    webhooks: TcpListener,
}

/// Opens all ports.
pub(crate) async fn open(config: &Config) -> Result<(MeshSockets, PageSockets), Error> {
    let open = async |port: u16| {
        let address = SocketAddr::new(config.address, port);
        TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })
    };
    let mesh = MeshSockets {
        plain: open(config.ports.plain).await?,
        secure: open(config.ports.secure).await?,
        webhooks: open(config.ports.webhooks).await?,
    };
    let pages = PageSockets {
        debug: open(config.ports.debug).await?,
        monitoring: open(config.ports.monitoring).await?,
    };
    Ok((mesh, pages))
}

/// Where the ports are.
pub(crate) fn addresses(mesh: &MeshSockets, pages: &PageSockets) -> Addresses {
    Addresses {
        plain: address(&mesh.plain),
        secure: address(&mesh.secure),
        webhooks: address(&mesh.webhooks),
        debug: address(&pages.debug),
        monitoring: address(&pages.monitoring),
    }
}

impl PageSockets {
    /// Serves readiness, metrics and debug pages until `stop`.
    pub(crate) fn serve(self, pages: &Arc<Pages>, stop: &Stop) -> [Task; 2] {
        [self.debug, self.monitoring].map(|listener| {
            let (pages, stop) = (Arc::clone(pages), stop.clone());
            Task::spawn(monitoring::serve(listener, pages, stop.signalled()))
        })
    }
}

impl MeshSockets {
    /// Serves the mesh until `stop`.
    pub(crate) async fn serve(self, parts: Arc<Parts>, stop: Stop) {
        let ads = AdsService::new(Arc::clone(&parts.discovery));
        let csr = CsrService::counted(
            Arc::clone(&parts.authority.ca),
            Arc::clone(&parts.caller),
            parts.metrics.csr.clone(),
        );
        let server = || {
            Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .tcp_nodelay(true)
        };
        let (for_grpc, for_webhooks) = (Arc::clone(&parts.authority), Arc::clone(&parts.authority));
        let grpc = accept_tls(self.secure, move || for_grpc.grpc_tls.load_full());
        let hooks = accept_tls(self.webhooks, move || for_webhooks.webhook_tls.load_full());
        let secure = server()
            .add_service(ads.clone())
            .add_service(csr)
            .serve_with_incoming_shutdown(grpc, stop.clone().signalled());
        let plain = server()
            .add_service(ads)
            .serve_with_incoming_shutdown(accept_plain(self.plain), stop.clone().signalled());
        let webhooks = webhooks::serve(hooks, parts, stop.clone().signalled());
        let all = async { tokio::join!(secure, plain, webhooks) };
        let mut all = std::pin::pin!(all);
        tokio::select! {
            biased; // the signal first
            () = stop.signalled() => {}
            _ = &mut all => return,
        }
        // Discovery streams never end by themselves; what is open after the deadline is cut off.
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, all).await;
    }
}
