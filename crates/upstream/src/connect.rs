//! Dialling: socket options, source address, TCP connect and TLS handshake under one timeout.

mod eyeballs;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meltemi_capture::socket_options::{Keepalive, RawValue, SocketOptions};
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{BindConfig, KeepAlive};
use meltemi_traffic::listener::SocketOption;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::stream::{Socket, Stream};
use crate::tls::{ClientContext, TlsError};

/// Where a host is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// IP and port.
    Tcp(SocketAddr),
    /// A unix socket's path; a leading `@` is the abstract namespace.
    Unix(Str),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// Why no connection came about. Cheap to copy: everybody who waited for the connection gets the reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The time for connect and handshake was used up.
    #[error("connection timeout")]
    Timeout,
    /// The socket could not be made or connected.
    #[error("{0}")]
    Socket(Str),
    /// The TLS handshake failed or could not be started.
    #[error("{0}")]
    Tls(Str),
    /// The circuit breaker for connections is full.
    #[error("connection limit reached")]
    Overflow,
}

impl ConnectError {
    /// Text for `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub fn transport_failure(&self) -> Option<Str> {
        match self {
            Self::Tls(reason) => Some(reason.clone()),
            Self::Socket(reason) => Some(reason.clone()),
            Self::Timeout | Self::Overflow => None,
        }
    }
}

/// Options of all upstream sockets of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketDefaults {
    /// SO_MARK that exempts our own connections from redirection.
    pub mark: Option<u32>,
}

/// Everything that describes how to dial.
#[derive(Debug)]
pub struct Dial<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Where else, when that is slow or fails.
    pub more_targets: &'a [Target],
    /// Source address and raw options.
    pub bind: &'a BindConfig,
    /// TCP keep-alive.
    pub keepalive: Option<KeepAlive>,
    /// For the whole process.
    pub defaults: SocketDefaults,
    /// For connect and handshake together.
    pub timeout: Duration,
    /// TLS, when the transport asks for it.
    pub tls: Option<&'a ClientContext>,
    /// Offered instead of the context's protocols.
    pub alpn: Option<&'a [Vec<u8>]>,
    /// Sent instead of the context's name.
    pub sni: Option<&'a str>,
    /// A PROXY protocol header, sent first.
    pub proxy_protocol: Option<&'a [u8]>,
}

/// Dials.
///
/// # Errors
/// See [`ConnectError`]. Cancel-safe: dropping the future closes the socket.
pub async fn dial(dial: Dial<'_>) -> Result<Stream, ConnectError> {
    let timeout = dial.timeout;
    match tokio::time::timeout(timeout, dial_inner(dial)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout),
    }
}

async fn dial_inner(dial: Dial<'_>) -> Result<Stream, ConnectError> {
    let open = |target| open(target, &dial);
    let opened = if dial.more_targets.is_empty() {
        open(dial.target).await
    } else {
        let order = eyeballs::order(dial.target, dial.more_targets);
        let raced = eyeballs::race(&order, open).await;
        raced.unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()))
    };
    let mut socket = opened.map_err(|error| socket_error(&error))?;
    if let Some(header) = dial.proxy_protocol {
        let sent = socket.write_all(header).await;
        sent.map_err(|error| socket_error(&error))?;
    }
    match dial.tls {
        None => Ok(Stream::Plain(socket)),
        Some(context) => handshake(socket, context, &dial).await,
    }
}

async fn open(target: &Target, dial: &Dial<'_>) -> io::Result<Socket> {
    match target {
        Target::Tcp(address) => connect_tcp(*address, dial).await.map(Socket::tcp),
        Target::Unix(path) => connect_unix(path).await.map(Socket::unix),
    }
}

async fn connect_tcp(address: SocketAddr, dial: &Dial<'_>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let options = socket_options(dial.bind, dial.keepalive, dial.defaults);
    options.apply(&socket)?;
    let source = std::iter::once(&dial.bind.source)
        .flatten()
        .chain(&dial.bind.extra_sources)
        .find(|source| source.is_ipv4() == address.is_ipv4());
    if let Some(source) = source {
        socket.bind(*source)?;
    }
    socket.connect(address).await
}

fn socket_options(
    bind: &BindConfig,
    keepalive: Option<KeepAlive>,
    defaults: SocketDefaults,
) -> SocketOptions {
    SocketOptions {
        mark: defaults.mark,
        freebind: bind.freebind,
        no_delay: true,
        keepalive: keepalive.map(|keepalive| Keepalive {
            idle: keepalive.time,
            interval: keepalive.interval,
            probes: keepalive.probes,
        }),
        raw: raw_options(&bind.options),
        ..SocketOptions::default()
    }
}

/// Options given by number, as `capture` takes them.
pub fn raw_options(options: &[SocketOption]) -> Vec<(i32, i32, RawValue)> {
    let number = |value: i64| i32::try_from(value).unwrap_or(-1);
    options
        .iter()
        .map(|option| {
            (
                number(option.level),
                number(option.name),
                RawValue::Bytes(option.value.clone()),
            )
        })
        .collect()
}

async fn connect_unix(path: &str) -> io::Result<UnixStream> {
    match path.strip_prefix('@') {
        None => UnixStream::connect(path).await,
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}

async fn handshake(
    socket: Socket,
    context: &ClientContext,
    dial: &Dial<'_>,
) -> Result<Stream, ConnectError> {
    let config = context.config().map_err(|error| tls_error(&error))?;
    let settings = context.settings();
    let name = dial
        .sni
        .filter(|sni| !sni.is_empty())
        .unwrap_or(&settings.sni);
    let server_name =
        server_name(name).ok_or_else(|| ConnectError::Tls("invalid server name".into()))?;
    let config = if !config.enable_sni && !name.is_empty() {
        let mut with_name = rustls::ClientConfig::clone(&config);
        with_name.enable_sni = true;
        Arc::new(with_name)
    } else {
        config
    };
    let connector = tokio_rustls::TlsConnector::from(config);
    let connecting = match dial.alpn {
        Some(alpn) => connector
            .with_alpn(alpn.to_vec())
            .connect(server_name, socket),
        None => connector.connect(server_name, socket),
    };
    let stream = connecting
        .await
        .map_err(|error| ConnectError::Tls(format!("TLS_error:{error}").into()))?;
    Ok(Stream::Client(Box::new(stream)))
}

/// The name that goes into SNI. Istio's `outbound_.80_._.host` has underscores, which rustls allows; where
/// nothing is sent a placeholder satisfies the type.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    if name.is_empty() {
        return ServerName::try_from("no-sni.invalid").ok();
    }
    ServerName::try_from(name.to_owned()).ok()
}

fn socket_error(error: &io::Error) -> ConnectError {
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or(&text);
    ConnectError::Socket(format!("delayed connect error: {reason}").into())
}

fn tls_error(error: &TlsError) -> ConnectError {
    ConnectError::Tls(error.to_string().into())
}
