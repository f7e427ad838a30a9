//! Where a redirected connection was going.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// The destination the client dialled, before REDIRECT or DNAT. On a connection that was not
/// redirected it is the connection's own local address. Works for IPv4, IPv6 and IPv4 connections
/// of dual-stack sockets; needs no capability.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let _ = socket;
    unimplemented!()
}
