//! Socket options of proxied connections, set in one call.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RawValue {
    /// An integer.
    Int(i32),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl SocketOptions {
    /// Sets the options; the first that the kernel refuses is the error (with its name).
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let fd = SockRef::from(socket);
        if let Some(mark) = self.mark {
            named("SO_MARK", fd.set_mark(mark))?;
        }
        if self.transparent {
            named("IP_TRANSPARENT", set_transparent(socket))?;
        }
        if self.freebind {
            named("IP_FREEBIND", fd.set_freebind_v4(true))?;
        }
        if self.no_delay {
            named("TCP_NODELAY", fd.set_tcp_nodelay(true))?;
        }
        if let Some(keepalive) = self.keepalive {
            named("SO_KEEPALIVE", set_keepalive(&fd, keepalive))?;
        }
        if let Some(timeout) = self.user_timeout {
            named("TCP_USER_TIMEOUT", fd.set_tcp_user_timeout(Some(timeout)))?;
        }
        if self.reuse_port {
            named("SO_REUSEPORT", fd.set_reuse_port(true))?;
        }
        for (level, name, value) in &self.raw {
            named(
                &format!("socket option {level}/{name}"),
                set_raw(socket, *level, *name, value),
            )?;
        }
        Ok(())
    }
}

/// Sets SO_MARK.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

/// Sets IP_TRANSPARENT (and IPV6_TRANSPARENT on an IPv6 socket).
pub fn set_transparent(socket: &impl AsFd) -> io::Result<()> {
    let fd = SockRef::from(socket);
    if fd.domain()? == socket2::Domain::IPV6 {
        const IPV6_TRANSPARENT: i32 = 75;
        set_raw(
            socket,
            libc::IPPROTO_IPV6,
            IPV6_TRANSPARENT,
            &RawValue::Int(1),
        )?;
    }
    fd.set_ip_transparent_v4(true)
}

fn set_keepalive(fd: &SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let mut times = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        times = times.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        times = times.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        times = times.with_retries(probes);
    }
    fd.set_tcp_keepalive(&times)
}

fn set_raw(socket: &impl AsFd, level: i32, name: i32, value: &RawValue) -> io::Result<()> {
    let integer;
    let bytes = match value {
        RawValue::Int(number) => {
            integer = number.to_ne_bytes();
            integer.as_slice()
        }
        RawValue::Bytes(bytes) => bytes.as_slice(),
    };
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_ptr().cast(),
            bytes.len() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn named(name: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|e| io::Error::new(e.kind(), format!("cannot set {name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn options_reach_the_socket() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let options = SocketOptions {
            no_delay: true,
            keepalive: Some(Keepalive {
                idle: Some(Duration::from_secs(7)),
                ..Keepalive::default()
            }),
            user_timeout: Some(Duration::from_secs(9)),
            reuse_port: true,
            raw: vec![(libc::SOL_SOCKET, libc::SO_OOBINLINE, RawValue::Int(1))],
            ..SocketOptions::default()
        };
        options.apply(&socket).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(9))
        );
        assert!(socket.out_of_band_inline().unwrap());
    }

    #[test]
    fn a_refused_option_is_named() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let options = SocketOptions {
            raw: vec![(1, 9999, RawValue::Int(1))],
            ..SocketOptions::default()
        };
        let error = options.apply(&socket).unwrap_err();
        assert!(
            error.to_string().contains("socket option 1/9999"),
            "{error}"
        );
    }
}
