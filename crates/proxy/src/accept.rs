//! From an accepted socket to its filter chain: restore the destination, hand over, inspect, choose, TLS.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use meltemi_filters::counters::Entered;
use meltemi_filters::network::FilterState;
use meltemi_traffic::Str;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::listener::{Listener, ListenerFilterKind, ProxyProtocol, Terminal};
use meltemi_traffic::metadata::{Metadata, Value};
use meltemi_upstream::stream::{Socket, SocketKind, Stream};
use meltemi_upstream::tls::{openssl_cipher, peer_identity, version_name};
use meltemi_wire::proxy_protocol::{self, Found};
use meltemi_wire::sniff::client_hello::{self, Tls};
use meltemi_wire::sniff::http::{self as sniff_http, Http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::{ConnInfo, Inspected, TlsFacts};
use crate::listener::{ChainRuntime, ListenerRuntime};
use crate::stats::{ListenerConnection, ListenerStats, count};
use crate::worker::{Served, Worker};
use crate::{http, tcp};

/// Why a connection ended before any filter saw it.
#[derive(Debug, thiserror::Error)]
enum IntakeError {
    #[error("client left")]
    Socket(#[from] io::Error),
    #[error("no filter chain matches")]
    NoChain,
    #[error("a connection limit is reached")]
    Limit,
    #[error("listener filters took too long")]
    Timeout,
    #[error("first bytes are not acceptable")]
    Refused,
    #[error("tls handshake: {0}")]
    Tls(String),
}

impl IntakeError {
    /// Counts what ended a connection before it had a chain.
    fn count_early(&self, stats: &ListenerStats) {
        let counters = &stats.counters;
        match self {
            Self::Socket(_) => count(&counters.filter_remote_close),
            Self::Timeout => count(&counters.pre_cx_timeout),
            Self::Refused => count(&counters.filter_error),
            Self::NoChain | Self::Limit | Self::Tls(_) => {}
        }
    }

    /// Counts what ended a connection's handshake.
    fn count_handshake(&self, stats: &ListenerStats) {
        match self {
            Self::Timeout => count(&stats.counters.handshake_timeout),
            _ => count(&stats.tls.connection_error),
        }
    }
}

/// A connection on its way to a chain.
struct Intake {
    socket: Socket,
    listener: Arc<ListenerRuntime>,
    local: SocketAddr,
    remote: SocketAddr,
    direct_remote: SocketAddr,
    inspected: Inspected,
    metadata: Metadata,
    buffer: BytesMut,
}

/// Serves one connection from accept to close. The end of the process drops it with its worker.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Arc<ListenerRuntime>,
    socket: Socket,
    remote: SocketAddr,
    served: Served,
) {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let local = socket.local_addr().unwrap_or(nowhere);
    let intake = Intake {
        socket,
        listener,
        local,
        remote,
        direct_remote: remote,
        inspected: Inspected::default(),
        metadata: Metadata::default(),
        buffer: BytesMut::new(),
    };
    match take_in(&worker, intake).await {
        Ok((info, stream, counted)) => {
            let logged = ListenerLog::new(&info);
            dispatch(info, stream).await;
            drop((logged, counted));
        }
        Err(error) => tracing::debug!(%error, %remote, "connection not served"),
    }
    drop(served);
}

async fn take_in(
    worker: &Rc<Worker>,
    mut intake: Intake,
) -> Result<(Rc<ConnInfo>, Stream, ListenerConnection), IntakeError> {
    let arriving = intake.listener.stats.arriving();
    let chain = match find_chain(worker, &mut intake).await {
        Ok(found) => found,
        Err(error) => {
            error.count_early(&intake.listener.stats);
            if !intake.buffer.is_empty() {
                close_by_reset(&intake.socket);
            }
            return Err(error);
        }
    };
    let Intake {
        mut socket,
        listener,
        local,
        remote,
        direct_remote,
        inspected,
        metadata,
        buffer,
    } = intake;
    drop(arriving);
    let counted = listener.stats.connection();
    let room = admit(&chain).await?;
    let pipe = match socket.kind() {
        SocketKind::Tcp(_) => Str::default(),
        SocketKind::Unix(_) => path_of(&listener.config),
    };
    socket.unread(buffer.freeze());
    let secured = secure(&chain, socket).await;
    count_handshake(&listener.stats, &secured);
    let (mut stream, tls) = secured?;
    if let Some(protocol) = chain.network.exchanges()
        && stream.alpn() == Some(protocol.as_bytes())
    {
        stream = stream.exchanging(worker.shared.identity.preamble.clone());
    }
    let mut info = ConnInfo {
        id: worker.shared.connection_id(),
        local,
        remote,
        direct_remote,
        pipe,
        inspected,
        metadata,
        filter_state: Vec::new(),
        room,
        tls,
        listener,
        chain,
        worker: Rc::clone(worker),
    };
    if info.chain.network.sets_state() {
        info.filter_state = connection_state(&info);
    }
    Ok((Rc::new(info), stream, counted))
}

/// Counts how a handshake ended, where there was one.
fn count_handshake(
    stats: &ListenerStats,
    secured: &Result<(Stream, Option<TlsFacts>), IntakeError>,
) {
    match secured {
        Ok((_, None)) => {}
        Ok((_, Some(tls))) => {
            count(&stats.tls.handshake);
            if tls.peer.is_none() {
                count(&stats.tls.no_certificate);
            }
        }
        Err(error) => error.count_handshake(stats),
    }
}

/// What the chain's `set_filter_state` filters make of the connection.
fn connection_state(info: &ConnInfo) -> FilterState {
    let mut facts = meltemi_traffic::access::StreamInfo {
        start: crate::logs::now(),
        metadata: Some(&info.metadata),
        ..Default::default()
    };
    info.describe(&mut facts);
    info.chain.network.set_state(&facts)
}

/// Path of a listener's unix socket.
fn path_of(listener: &Listener) -> Str {
    let mut paths = listener
        .addresses
        .iter()
        .filter_map(|address| match address {
            Address::Pipe(path) => Some(path.clone()),
            _ => None,
        });
    paths.next().unwrap_or_default()
}

/// Runs the listener filters, hands over, and chooses the chain.
async fn find_chain(
    worker: &Rc<Worker>,
    intake: &mut Intake,
) -> Result<Arc<ChainRuntime>, IntakeError> {
    run_listener_filters(intake).await?;
    if intake.listener.config.use_original_dst {
        let target = worker
            .shared
            .listeners
            .look()
            .for_destination(intake.local)
            .cloned();
        if let Some(target) = target.filter(|target| !Arc::ptr_eq(target, &intake.listener)) {
            intake.listener = target;
            run_listener_filters(intake).await?;
        }
    }
    choose_chain(intake).ok_or_else(|| {
        worker.shared.stats.no_filter_chain_match();
        count(&intake.listener.stats.counters.no_chain);
        log_without_chain(worker, intake);
        IntakeError::NoChain
    })
}

/// Envoy only peeks at the first bytes: what it leaves unread makes its close a reset.
fn close_by_reset(socket: &Socket) {
    if let SocketKind::Tcp(tcp) = socket.kind()
        && let Err(error) = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO))
    {
        tracing::debug!(%error, "linger not set");
    }
}

async fn run_listener_filters(intake: &mut Intake) -> Result<(), IntakeError> {
    let config = Arc::clone(&intake.listener.config);
    if config.use_original_dst {
        restore_destination(intake);
    }
    let filters = inspect(intake);
    let Some(limit) = config.filters_timeout else {
        return filters.await;
    };
    match tokio::time::timeout(limit, filters).await {
        Ok(result) => result,
        Err(_) if config.continue_on_timeout => Ok(()),
        Err(_) => Err(IntakeError::Timeout),
    }
}

fn restore_destination(intake: &mut Intake) {
    if let SocketKind::Tcp(tcp) = intake.socket.kind()
        && let Ok(original) = meltemi_capture::original_dst::original_destination(tcp)
    {
        intake.local = original;
    }
}

/// Runs the filters in order. Cancel-safe: what was read stays in the intake's buffer.
async fn inspect(intake: &mut Intake) -> Result<(), IntakeError> {
    let config = Arc::clone(&intake.listener.config);
    for filter in &config.filters {
        if !filter.enabled_for(intake.local.port()) {
            continue;
        }
        match &filter.kind {
            ListenerFilterKind::OriginalDst => restore_destination(intake),
            ListenerFilterKind::OriginalSrc { .. } => {}
            ListenerFilterKind::ProxyProtocol(settings) => proxy_header(intake, settings).await?,
            ListenerFilterKind::TlsInspector { close_on_error, .. } => {
                inspect_tls(intake, *close_on_error).await?
            }
            ListenerFilterKind::HttpInspector if intake.inspected.tls => {}
            ListenerFilterKind::HttpInspector => inspect_http(intake).await?,
        }
    }
    Ok(())
}

/// Takes a PROXY protocol header off the front, with what it says of the connection.
async fn proxy_header(intake: &mut Intake, settings: &ProxyProtocol) -> Result<(), IntakeError> {
    let header = loop {
        match proxy_protocol::inspect(&intake.buffer) {
            Found::Header(header) => break header,
            Found::Absent if settings.optional => return Ok(()),
            Found::Absent | Found::Malformed => return Err(IntakeError::Refused),
            Found::NeedMore => {}
        }
        if read_more(intake).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let refused = match header.version {
        proxy_protocol::Version::V1 => settings.refuse_v1,
        proxy_protocol::Version::V2 => settings.refuse_v2,
    };
    if refused {
        // Where headers are optional, one of a refused version is the client's own data.
        return if settings.optional {
            Ok(())
        } else {
            Err(IntakeError::Refused)
        };
    }
    intake.buffer.advance(header.len);
    if let Some((source, destination)) = header.addresses {
        (intake.remote, intake.local) = (source, destination);
    }
    for rule in &settings.rules {
        if let Some(tlv) = header.tlvs.iter().find(|tlv| tlv.kind == rule.kind) {
            let value = Value::String(sanitized(&tlv.value).into());
            intake.metadata.set(&rule.namespace, &rule.key, value);
        }
    }
    Ok(())
}

/// Bytes that are no UTF-8 become `!`, as Envoy writes them.
fn sanitized(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}

/// Asks the chain's network filters for room. TCP proxies ask by themselves, because they log refusals.
async fn admit(chain: &ChainRuntime) -> Result<Vec<Entered>, IntakeError> {
    if matches!(chain.config.terminal, Terminal::Tcp(_)) {
        return Ok(Vec::new());
    }
    match chain.network.open() {
        Ok(room) => Ok(room),
        Err(refused) => {
            tokio::time::sleep(refused.delay.unwrap_or_default()).await;
            Err(IntakeError::Limit)
        }
    }
}

async fn inspect_tls(intake: &mut Intake, close_on_error: bool) -> Result<(), IntakeError> {
    loop {
        match client_hello::inspect(&intake.buffer) {
            Tls::Hello(hello) => {
                intake.inspected.tls = true;
                intake.inspected.server_name = hello.server_name.unwrap_or_default().into();
                intake.inspected.protocols = hello.alpn;
                return Ok(());
            }
            Tls::NotTls if close_on_error && intake.buffer.first() == Some(&22) => {
                return Err(IntakeError::Refused);
            }
            Tls::NotTls => return Ok(()),
            Tls::NeedMore => {}
        }
        if read_more(intake).await? == 0 {
            return if intake.buffer.is_empty() {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
            } else {
                Ok(())
            };
        }
    }
}

async fn inspect_http(intake: &mut Intake) -> Result<(), IntakeError> {
    loop {
        match sniff_http::inspect(&intake.buffer) {
            Http::NeedMore => {}
            Http::TooLong => return Err(IntakeError::Refused),
            found => {
                if let Some(protocol) = found.application_protocol() {
                    intake.inspected.protocols = vec![protocol.as_bytes().to_vec()];
                }
                return Ok(());
            }
        }
        if read_more(intake).await? == 0 {
            return if intake.buffer.is_empty() {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
            } else {
                Ok(())
            };
        }
    }
}

async fn read_more(intake: &mut Intake) -> io::Result<usize> {
    intake.buffer.reserve(1024);
    intake.socket.read_buf(&mut intake.buffer).await
}

fn choose_chain(intake: &Intake) -> Option<Arc<ChainRuntime>> {
    let protocols: Vec<&[u8]> = intake
        .inspected
        .protocols
        .iter()
        .map(Vec::as_slice)
        .collect();
    let facts = meltemi_traffic::chain::ConnectionFacts {
        local: intake.local,
        remote: intake.remote,
        direct_remote: intake.direct_remote,
        transport: if intake.inspected.tls {
            "tls"
        } else {
            "raw_buffer"
        },
        server_name: &intake.inspected.server_name,
        application_protocols: &protocols,
    };
    intake.listener.select(&facts).cloned()
}

fn log_without_chain(worker: &Rc<Worker>, intake: &Intake) {
    if intake.listener.config.access_log.is_empty() {
        return;
    }
    let info = meltemi_traffic::access::StreamInfo {
        start: crate::logs::now(),
        duration: Some(std::time::Duration::ZERO),
        flags: ResponseFlags::NO_ROUTE_FOUND,
        response_code: Some(0),
        response_code_details: "",
        connection_termination_details: "filter_chain_not_found",
        downstream_local: Some(intake.local),
        downstream_remote: Some(intake.remote),
        downstream_direct_remote: Some(intake.direct_remote),
        requested_server_name: &intake.inspected.server_name,
        log_type: "NotSet",
        ..Default::default()
    };
    worker.shared.logs.record(
        &worker.shared,
        &intake.listener.config.access_log,
        &info,
        Default::default(),
        fastrand::u64(..),
    );
}

/// Writes the listener's log when the connection ends. `tcp_proxy` does so itself: it knows more.
struct ListenerLog {
    info: Rc<ConnInfo>,
    started: std::time::Duration,
    clock: tokio::time::Instant,
}

impl ListenerLog {
    fn new(info: &Rc<ConnInfo>) -> Option<Self> {
        let wanted = !info.listener.config.access_log.is_empty()
            && !matches!(info.chain.config.terminal, Terminal::Tcp(_));
        wanted.then(|| Self {
            info: Rc::clone(info),
            started: crate::logs::now(),
            clock: tokio::time::Instant::now(),
        })
    }
}

impl Drop for ListenerLog {
    fn drop(&mut self) {
        let mut info = meltemi_traffic::access::StreamInfo {
            start: self.started,
            duration: Some(self.clock.elapsed()),
            response_code: Some(0),
            metadata: Some(&self.info.metadata),
            log_type: "NotSet",
            ..Default::default()
        };
        self.info.describe(&mut info);
        let logs = &self.info.listener.config.access_log;
        let shared = &self.info.worker.shared;
        shared
            .logs
            .record(shared, logs, &info, Default::default(), fastrand::u64(..));
    }
}

/// A client whose offers have nothing in common with the chain's goes on without a protocol; peers of a mesh offer
/// tokens that only say who they are. Left to itself the TLS library would end such a handshake.
fn agreeable<'o>(
    config: Arc<rustls::ServerConfig>,
    mut offers: impl Iterator<Item = &'o [u8]>,
) -> Arc<rustls::ServerConfig> {
    let own = &config.alpn_protocols;
    if own.is_empty() || offers.any(|offer| own.iter().any(|mine| mine == offer)) {
        return config;
    }
    let mut without = rustls::ServerConfig::clone(&config);
    without.alpn_protocols.clear();
    Arc::new(without)
}

/// Terminates TLS where the chain says so.
async fn secure(
    chain: &ChainRuntime,
    socket: Socket,
) -> Result<(Stream, Option<TlsFacts>), IntakeError> {
    let Some(context) = &chain.tls else {
        return Ok((Stream::Plain(socket), None));
    };
    let config = context
        .config()
        .map_err(|error| IntakeError::Tls(error.to_string()))?;
    let handshake = async {
        let acceptor = rustls::server::Acceptor::default();
        let start = tokio_rustls::LazyConfigAcceptor::new(acceptor, socket).await?;
        let offers = start.client_hello().alpn();
        let config = agreeable(config, offers.into_iter().flatten());
        start.into_stream(config).await
    };
    let result = match chain.config.connect_timeout {
        Some(limit) => tokio::time::timeout(limit, handshake)
            .await
            .map_err(|_| IntakeError::Timeout)?,
        None => handshake.await,
    };
    let tls = result.map_err(|error| IntakeError::Tls(error.to_string()))?;
    let state = tls.get_ref().1;
    let local = context.local_identity();
    let facts = TlsFacts {
        peer: peer_identity(state, context.verifies_peer()),
        local_uris: local
            .as_ref()
            .map(|local| local.uri_sans.clone())
            .unwrap_or_default(),
        local,
        version: version_name(state),
        cipher: openssl_cipher(state),
    };
    if context.settings().require_sni && state_without_sni(&tls) {
        return Err(IntakeError::Tls("no server name".to_owned()));
    }
    Ok((Stream::Server(Box::new(tls)), Some(facts)))
}

fn state_without_sni(tls: &tokio_rustls::server::TlsStream<Socket>) -> bool {
    tls.get_ref().1.server_name().is_none()
}

/// Hands the connection to the chain's last filter.
async fn dispatch(info: Rc<ConnInfo>, mut stream: Stream) {
    let chain = Arc::clone(&info.chain);
    match &chain.config.terminal {
        Terminal::Http(_) => http::serve(info, stream).await,
        Terminal::Tcp(proxy) => tcp::serve(info, Arc::clone(proxy), stream).await,
        Terminal::DirectResponse(bytes) => {
            if stream.write_all(bytes).await.is_ok() {
                let _ = stream.shutdown().await;
            }
        }
        Terminal::Echo => {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
        Terminal::Close => {}
    }
}
