//! Copying between two connections, and the relay that brings pods to the API server.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use meltemi_capture::netns::{self, NetNs};
use meltemi_kube::Task;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections of one relay at a time.
pub(super) const CONNECTIONS: usize = 1024;
/// Dialling takes at most this long.
pub(super) const DIAL: Duration = Duration::from_secs(10);
/// Bytes copied at a time, in each direction.
const BUFFER: usize = 16 << 10;

/// Accepts forever and hands each connection to `serve`, at most [`CONNECTIONS`] at once.
pub(super) async fn accept<F, Fut>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Copies both ways until both directions have ended.
pub(super) async fn copy<A, B>(mut one: A, mut other: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) =
        tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await
    {
        tracing::trace!(%error, "relay ended");
    }
}

/// Makes closing a connection a reset, so that the other side sees the failure.
pub(super) fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Relays connections to `address` inside `netns` to `target` outside.
pub(crate) fn outwards(
    netns: &NetNs,
    address: SocketAddrV4,
    target: SocketAddr,
) -> std::io::Result<Task> {
    let listener = TcpListener::from_std(netns::tcp_listener(netns, address.into())?)?;
    Ok(Task::spawn(accept(listener, move |client| async move {
        match tokio::time::timeout(DIAL, TcpStream::connect(target)).await {
            Ok(Ok(server)) => {
                let _ = server.set_nodelay(true);
                copy(client, server).await;
            }
            failed => {
                tracing::debug!(%target, ?failed, "relay could not connect");
                reset(client);
            }
        }
    })))
}
