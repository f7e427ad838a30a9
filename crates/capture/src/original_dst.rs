//! Where a redirected connection was going.

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// The destination the client dialled, before REDIRECT or DNAT. On a connection that was not
/// redirected it is the connection's own local address. Works for IPv4, IPv6 and IPv4 connections
/// of dual-stack sockets; needs no capability.
///
/// The caller must refuse a destination that is its own listener: connecting to it would loop.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = local_address(&socket)?;
    let answer = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        // A dual-stack listener sees IPv4 clients as mapped addresses; those are tracked as IPv4.
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match answer {
        Ok(address) => address.as_socket().ok_or_else(not_internet),
        // Nothing tracks connections in this namespace, so nothing redirects them either.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
            Ok(unmapped(local))
        }
        Err(e) => Err(e),
    }
}

fn local_address(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(not_internet)
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn not_internet() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "not an IPv4 or IPv6 socket")
}
