//! Socket options of proxied connections, set in one call.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// TCP keepalive times; unset ones keep the system's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection counts as dead.
    pub probes: Option<u32>,
}

/// Options to set on a socket before it connects or listens. The default sets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// SO_MARK: needs CAP_NET_RAW or CAP_NET_ADMIN over the network namespace.
    pub mark: Option<u32>,
    /// IP_TRANSPARENT and IPV6_TRANSPARENT: the same capabilities.
    pub transparent: bool,
    /// IP_FREEBIND: bind an address the host does not have.
    pub freebind: bool,
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// SO_KEEPALIVE and its times.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT.
    pub user_timeout: Option<Duration>,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// Options given by number (level, name, value), as in Envoy's `socket_options`.
    pub raw: Vec<(i32, i32, RawValue)>,
}

/// The value of an option given by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawValue {
    /// An integer.
    Int(i32),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl SocketOptions {
    /// Sets the options; the first that the kernel refuses is the error (with its name).
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let _ = socket;
        unimplemented!()
    }
}

/// Sets SO_MARK.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    let _ = (socket, mark);
    unimplemented!()
}

/// Sets IP_TRANSPARENT (and IPV6_TRANSPARENT on an IPv6 socket).
pub fn set_transparent(socket: &impl AsFd) -> io::Result<()> {
    let _ = socket;
    unimplemented!()
}
