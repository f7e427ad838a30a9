//! The control plane's ports: xDS with and without TLS, webhooks, monitoring.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::Stream;
use meltemi_identity::{
    certificate_facts,
    service::{CsrService, PeerCertificate},
};
use meltemi_xds::server::AdsService;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::{Server, server::Connected};

use crate::{
    Config, Error, authority::Authority, caller::KubernetesTokens, discovery::Discovery,
    monitoring, webhooks, world::World,
};

/// A peer must finish its TLS handshake within this time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes at the same time.
const CONCURRENT_HANDSHAKES: usize = 256;
/// Accepted connections that may wait to be served.
const ACCEPT_QUEUE: usize = 64;
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
}

/// The open ports.
pub(crate) struct Sockets {
    plain: TcpListener,
    secure: TcpListener,
    webhooks: TcpListener,
    debug: TcpListener,
    monitoring: TcpListener,
}

impl Sockets {
    /// Opens all ports.
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        let open = async |port: u16| {
            let address = SocketAddr::new(config.address, port);
            TcpListener::bind(address)
                .await
                .map_err(|source| Error::Listen { address, source })
        };
        Ok(Self {
            plain: open(config.ports.plain).await?,
            secure: open(config.ports.secure).await?,
            webhooks: open(config.ports.webhooks).await?,
            debug: open(config.ports.debug).await?,
            monitoring: open(config.ports.monitoring).await?,
        })
    }

    /// Where TLS xDS listens.
    pub(crate) fn secure_address(&self) -> SocketAddr {
        self.secure
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, parts: Parts, shutdown: impl Future<Output = ()> + Send) {
        let (stop, stopped) = watch::channel(false);
        let ads = AdsService::new(Arc::clone(&parts.discovery));
        let csr = CsrService::new(Arc::clone(&parts.authority.ca), Arc::clone(&parts.caller));
        let server = || {
            Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .tcp_nodelay(true)
        };
        let secure = server()
            .add_service(ads.clone())
            .add_service(csr)
            .serve_with_incoming_shutdown(
                accept_tls(self.secure, TlsSource::Grpc(Arc::clone(&parts.authority))),
                ended(stopped.clone()),
            );
        let plain = server().add_service(ads).serve_with_incoming_shutdown(
            tokio_stream::wrappers::TcpListenerStream::new(self.plain),
            ended(stopped.clone()),
        );
        let parts = Arc::new(parts);
        let webhooks = webhooks::serve(
            accept_tls(
                self.webhooks,
                TlsSource::Webhook(Arc::clone(&parts.authority)),
            ),
            Arc::clone(&parts),
            ended(stopped.clone()),
        );
        let debug = monitoring::serve(self.debug, Arc::clone(&parts), ended(stopped.clone()));
        let metrics = monitoring::serve(self.monitoring, parts, ended(stopped));
        let all = async { tokio::join!(secure, plain, webhooks, debug, metrics) };
        let mut all = std::pin::pin!(all);
        tokio::select! {
            biased; // the signal first
            () = shutdown => {}
            _ = &mut all => return,
        }
        stop.send_replace(true);
        // Discovery streams never end by themselves; what is open after the deadline is cut off with the process.
        let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, all).await;
    }
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await; // a dropped sender means the end, too
}

#[derive(Clone)]
enum TlsSource {
    Grpc(Arc<Authority>),
    Webhook(Arc<Authority>),
}

impl TlsSource {
    fn current(&self) -> Arc<ServerConfig> {
        let swap: &ArcSwap<ServerConfig> = match self {
            Self::Grpc(authority) => &authority.grpc_tls,
            Self::Webhook(authority) => &authority.webhook_tls,
        };
        swap.load_full()
    }
}

/// Accepts connections and does their handshakes beside each other; the certificate is read anew for each.
fn accept_tls(
    listener: TcpListener,
    tls: TlsSource,
) -> impl Stream<Item = std::io::Result<TlsConnection>> + Send {
    let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(CONCURRENT_HANDSHAKES));
        while !sender.is_closed() {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, sender) = (TlsAcceptor::from(tls.current()), sender.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true); // a peer that is gone already fails the handshake
                match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        drop(slot);
                        let _ = sender.send(Ok(TlsConnection::new(stream))).await; // the server has ended
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            });
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// A connection that knows its client's certificate.
pub(crate) struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: PeerCertificate,
}

impl TlsConnection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let uris = leaf
            .and_then(|leaf| certificate_facts(leaf).ok())
            .map(|facts| facts.uris)
            .unwrap_or_default();
        Self {
            stream,
            peer: PeerCertificate { uris },
        }
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
