//! Where a redirected connection was going.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use socket2::SockRef;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};

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

/// A datagram and where it was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Its length; what is longer than the buffer is lost.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent.
    pub to: SocketAddr,
}

/// Prepares an IPv4 UDP socket for [`receive_with_destination`] (delivered by TPROXY). Needs
/// CAP_NET_ADMIN or CAP_NET_RAW over its namespace.
pub fn receive_destinations(socket: &impl AsFd) -> io::Result<()> {
    crate::socket_options::set_transparent(socket)?;
    setsockopt(&socket.as_fd(), sockopt::Ipv4OrigDstAddr, &true)?;
    Ok(())
}

/// Receives one datagram; `WouldBlock` on a non-blocking socket without one (inside tokio's
/// `UdpSocket::try_io`).
pub fn receive_with_destination(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(libc::sockaddr_in);
    let fd = socket.as_fd().as_raw_fd();
    let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let from = message
        .address
        .map(|a| SocketAddr::V4(SocketAddrV4::new(a.ip(), a.port())));
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(SocketAddr::V4(SocketAddrV4::new(
            u32::from_be(address.sin_addr.s_addr).into(),
            u16::from_be(address.sin_port),
        ))),
        _ => None,
    });
    let (Some(from), Some(to)) = (from, to) else {
        return Err(not_internet());
    };
    Ok(Datagram {
        length: message.bytes,
        from,
        to,
    })
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
