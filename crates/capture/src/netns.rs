//! Network namespaces as file descriptors, and short-lived threads that work inside them.
//!
//! A socket belongs to the namespace in which it was created, whatever thread uses it later. So a
//! disposable thread enters the namespace, creates the socket and ends; the caller's own threads
//! never move (an ordinary user's thread could not come back).

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A network namespace, held by a file descriptor. It lives as long as one clone of this value, a
/// process in it or a socket made in it lives.
#[derive(Debug, Clone)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// A new, empty network namespace (its `lo` is down).
    pub fn create() -> io::Result<Self> {
        unimplemented!()
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        unimplemented!()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `f` on a fresh thread inside `ns` and returns its result; blocks for that long (about
/// 0.2 ms plus `f`).
///
/// `f` must not leave threads behind and must not start processes (they would die with the thread).
pub fn in_netns<T: Send>(ns: &NetNs, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let _ = (ns, f);
    unimplemented!()
}

/// A TCP listener inside `ns` (SO_REUSEADDR, backlog 1024, non-blocking: ready for
/// `tokio::net::TcpListener::from_std`).
pub fn tcp_listener(ns: &NetNs, address: SocketAddr) -> io::Result<TcpListener> {
    let _ = (ns, address);
    unimplemented!()
}

/// A bound UDP socket inside `ns`, non-blocking.
pub fn udp_socket(ns: &NetNs, address: SocketAddr) -> io::Result<UdpSocket> {
    let _ = (ns, address);
    unimplemented!()
}

/// An unconnected, non-blocking TCP socket that belongs to `ns`; connect it from any thread
/// (`tokio::net::TcpSocket::from_std_stream(socket.into())`, then `connect`).
pub fn tcp_socket(ns: &NetNs, ipv6: bool) -> io::Result<socket2::Socket> {
    let _ = (ns, ipv6);
    unimplemented!()
}

/// Connects from inside `ns` with a deadline; blocks. For asynchronous code use [`tcp_connect`].
pub fn tcp_connect_blocking(
    ns: &NetNs,
    to: SocketAddr,
    deadline: Duration,
) -> io::Result<std::net::TcpStream> {
    let _ = (ns, to, deadline);
    unimplemented!()
}

/// Connects from inside `ns` without blocking the runtime (probes, port-forward, relays). The
/// caller puts its own deadline around it.
pub async fn tcp_connect(ns: &NetNs, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let _ = (ns, to);
    unimplemented!()
}
