//! Accepting and serving connections: one loop for every port, with and without TLS, and one HTTP server.
//!
//! Everything that is spawned here is owned: what accepts ends with its stream, what serves with its server. The
//! number of handshakes and connections is bounded; what exceeds it waits in the system's backlog.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use meltemi_identity::{certificate_facts, service::PeerCertificate};
use meltemi_kube::Task;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// A peer must finish its TLS handshake within this time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes at the same time.
const CONCURRENT_HANDSHAKES: usize = 256;
/// Accepted connections that may wait to be served.
const ACCEPT_QUEUE: usize = 64;
/// Pause after a failed accept: without file descriptors the next one fails at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP connections of one port at the same time.
const MAX_CONNECTIONS: usize = 256;
/// A client must send its request head within this time; also ends idle connections.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Pings find dead HTTP/2 clients.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests on one HTTP/2 connection at the same time.
const MAX_REQUESTS: u32 = 64;
/// Requests under way get this long to end after the signal to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// Connections that are ready to be served. Accepting ends when this is dropped.
pub(crate) struct Accepted<T> {
    ready: mpsc::Receiver<T>,
    _accepting: Task,
}

impl<T> Stream for Accepted<T> {
    type Item = std::io::Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|next| next.map(Ok))
    }
}

/// Accepts connections without TLS.
pub(crate) fn accept_plain(listener: TcpListener) -> Accepted<TcpStream> {
    accept(listener, |stream| async { Some(stream) })
}

/// Accepts connections and does their handshakes beside each other; `tls` is asked for each, so that it may change.
pub(crate) fn accept_tls(
    listener: TcpListener,
    tls: impl Fn() -> Arc<ServerConfig> + Send + 'static,
) -> Accepted<TlsConnection> {
    accept(listener, move |stream| {
        let acceptor = TlsAcceptor::from(tls());
        async move {
            match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Some(TlsConnection::new(stream)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "TLS handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!("TLS handshake timed out");
                    None
                }
            }
        }
    })
}

fn accept<T, P, F>(listener: TcpListener, prepare: P) -> Accepted<T>
where
    T: Send + 'static,
    P: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    let (sender, ready) = mpsc::channel(ACCEPT_QUEUE);
    let accepting = Task::spawn(async move {
        let mut preparing = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept(), if preparing.len() < CONCURRENT_HANDSHAKES => accepted,
                Some(_) = preparing.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true); // a peer that is gone already fails later
            let (prepared, sender) = (prepare(stream), sender.clone());
            preparing.spawn(async move {
                if let Some(connection) = prepared.await {
                    let _ = sender.send(connection).await; // the server has ended
                }
            });
        }
    });
    Accepted {
        ready,
        _accepting: accepting,
    }
}

/// Serves HTTP/1.1 and HTTP/2 until `shutdown`; requests under way are answered.
pub(crate) async fn serve_http<C, H, F>(
    mut connections: Accepted<C>,
    handle: H,
    shutdown: impl Future<Output = ()> + Send,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut server = Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_REQUESTS);
    let mut shutdown = std::pin::pin!(shutdown);
    let graceful = GracefulShutdown::new();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased; // the signal first
            () = &mut shutdown => break,
            Some(_) = open.join_next() => {}
            next = connections.next(), if open.len() < MAX_CONNECTIONS => {
                let Some(Ok(connection)) = next else { break };
                let handle = handle.clone();
                let service = service_fn(move |request| {
                    let answer = handle(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = server.serve_connection(TokioIo::new(connection), service);
                let connection = graceful.watch(connection.into_owned());
                open.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error, "connection ended");
                    }
                });
            }
        }
    }
    let _ = tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await; // what is left is cut off
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

/// Where a listener listens; it was bound, so the system knows.
pub(crate) fn address(listener: &TcpListener) -> SocketAddr {
    listener
        .local_addr()
        .expect("a bound socket has an address")
}
