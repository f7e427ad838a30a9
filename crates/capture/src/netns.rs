//! Network namespaces as file descriptors, and short-lived threads that work inside them.
//!
//! A socket belongs to the namespace in which it was created, whatever thread uses it later. So a
//! disposable thread enters the namespace, creates the socket and ends; the caller's own threads
//! never move (an ordinary user's thread could not come back).

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The threads do little.
const STACK: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A network namespace, held by a file descriptor. It lives as long as one clone of this value, a
/// process in it or a socket made in it lives.
#[derive(Debug, Clone)]
pub struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// A new, empty network namespace (its `lo` is down).
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Self(Arc::new(file.into())))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// A namespace received as a file descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
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
    on_thread(|| {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        f()
    })
}

fn on_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, f)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread in a namespace panicked")))
    })
}

/// A TCP listener inside `ns` (SO_REUSEADDR, backlog 1024, non-blocking: ready for
/// `tokio::net::TcpListener::from_std`).
pub fn tcp_listener(ns: &NetNs, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_in(
        ns,
        Domain::for_address(address),
        Type::STREAM,
        Protocol::TCP,
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A bound UDP socket inside `ns`, non-blocking.
pub fn udp_socket(ns: &NetNs, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket_in(ns, Domain::for_address(address), Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// A non-blocking UDP socket inside `ns` that sends as `source`, which need not be an address of
/// the namespace: answers to datagrams that were on their way elsewhere.
pub fn foreign_udp_socket(ns: &NetNs, source: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket_in(ns, Domain::for_address(source), Type::DGRAM, Protocol::UDP)?;
    crate::socket_options::set_transparent(&socket)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(source))?;
    Ok(socket.into())
}

/// An unconnected, non-blocking TCP socket that belongs to `ns`; connect it from any thread
/// (`tokio::net::TcpSocket::from_std_stream(socket.into())`, then `connect`).
pub fn tcp_socket(ns: &NetNs, ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    socket_in(ns, domain, Type::STREAM, Protocol::TCP)
}

/// Connects from inside `ns` with a deadline; blocks. For asynchronous code use [`tcp_connect`].
pub fn tcp_connect_blocking(
    ns: &NetNs,
    to: SocketAddr,
    deadline: Duration,
) -> io::Result<TcpStream> {
    let socket = tcp_socket(ns, to.is_ipv6())?;
    socket.set_nonblocking(false)?;
    socket.connect_timeout(&SockAddr::from(to), deadline)?;
    Ok(socket.into())
}

/// Connects from inside `ns` without blocking the runtime (probes, port-forward, relays). The
/// caller puts its own deadline around it.
pub async fn tcp_connect(ns: &NetNs, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = tcp_socket(ns, to.is_ipv6())?;
    let fd = socket.into_raw_fd();
    // SAFETY: `fd` was just released by its owner and is a TCP socket.
    let socket = unsafe { <tokio::net::TcpSocket as FromRawFd>::from_raw_fd(fd) };
    socket.connect(to).await
}

fn socket_in(ns: &NetNs, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = in_netns(ns, || Socket::new(domain, kind, Some(protocol)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
