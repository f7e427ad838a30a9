//! Listeners at run time: sockets made once per address and kept across updates, chains with their TLS contexts.

mod error;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::header::HeaderValue;
use meltemi_capture::socket_options::{RawValue, SocketOptions};
use meltemi_filters::http::Filter;
use meltemi_traffic::Str;
use meltemi_traffic::chain::ConnectionFacts;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::hcm::{ConnectionManager, HttpFilterKind, IstioStats, OnDemand, PeerMetadata};
use meltemi_traffic::listener::{Direction, FilterChain, Listener, Terminal};
use meltemi_upstream::connect::raw_options;
use meltemi_upstream::pool::AlpnOffer;
use meltemi_upstream::tls::{SecretStore, ServerContext};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use error::ApplyError;

use crate::drain::Scope;
use crate::limit::Slots;
use crate::stats::{HttpStats, ListenerStats, Responses, TcpStats};

/// Accept queue length where nothing is configured.
const BACKLOG: i32 = 1024;
/// Numbers of the kernel's interface.
const IPPROTO_TCP: i32 = 6;
const TCP_FASTOPEN: i32 = 23;

/// One listener with what its chains need at run time.
#[derive(Debug)]
pub(crate) struct ListenerRuntime {
    /// Its configuration.
    pub config: Arc<Listener>,
    /// Connections at once, when they are limited.
    pub limit: Option<Arc<Slots>>,
    /// Its statistics.
    pub stats: Arc<ListenerStats>,
    chains: Vec<Arc<ChainRuntime>>,
    default_chain: Option<Arc<ChainRuntime>>,
}

/// One filter chain.
#[derive(Debug)]
pub(crate) struct ChainRuntime {
    /// Its configuration.
    pub config: Arc<FilterChain>,
    /// Network filters before the last.
    pub network: meltemi_filters::network::Filters,
    /// TLS termination.
    pub tls: Option<ServerContext>,
    /// Counters of its TCP proxy.
    pub tcp: Option<Arc<TcpStats>>,
    /// What its connection manager precomputes.
    pub http: Option<HttpRuntime>,
    /// Replaced or removed: its HTTP connections end after their current exchange.
    pub retired: watch::Sender<bool>,
}

/// What a connection manager's filters ask of every exchange, found once.
#[derive(Debug)]
pub(crate) struct HttpRuntime {
    /// The configuration.
    pub config: Arc<ConnectionManager>,
    /// `grpc_stats`: whether every method has its own counters.
    pub grpc_stats: Option<bool>,
    /// Filters with work of their own, in order.
    pub filters: Vec<Filter>,
    /// Offers of `istio.alpn` to upstreams that get HTTP/1.0, HTTP/1.1 and HTTP/2.
    pub alpn: [Option<Arc<AlpnOffer>>; 3],
    /// `istio.stats`.
    pub istio_stats: Option<Arc<IstioStats>>,
    /// `istio.metadata_exchange`.
    pub peer_metadata: Option<Arc<PeerMetadata>>,
    /// `on_demand`.
    pub on_demand: Option<(Str, OnDemand)>,
    /// Some filter has no configuration.
    pub filter_missing: bool,
    /// The router's `suppress_envoy_headers`.
    pub suppress_envoy_headers: bool,
    /// `server` of our responses.
    pub server: HeaderValue,
    /// `via`, when it is added.
    pub via: Option<HeaderValue>,
    /// Counters.
    pub stats: Arc<HttpStats>,
    /// Responses at this listener.
    pub responses: Responses,
}

impl ListenerRuntime {
    /// `old` is the version that this one replaces: chains that did not change are taken over with their connections.
    fn new(
        config: Arc<Listener>,
        secrets: &Arc<SecretStore>,
        old: Option<&Self>,
        limit: Option<Arc<Slots>>,
    ) -> Arc<Self> {
        let known: Vec<&Arc<ChainRuntime>> = old.into_iter().flat_map(Self::all_chains).collect();
        let stats = ListenerStats::of(&config);
        let chain = |config: &Arc<FilterChain>| {
            let same = known.iter().find(|have| {
                have.config.hash == config.hash
                    && have.config.name == config.name
                    && have.config.matches == config.matches
            });
            same.map_or_else(
                || Arc::new(ChainRuntime::new(Arc::clone(config), secrets, &stats)),
                |same| Arc::clone(same),
            )
        };
        let chains = config.chains.iter().map(chain).collect();
        let default_chain = config.default_chain.as_ref().map(chain);
        Arc::new(Self {
            config,
            limit,
            stats,
            chains,
            default_chain,
        })
    }

    /// The chain for a connection.
    pub(crate) fn select(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<ChainRuntime>> {
        match self.config.index.select(facts) {
            Some(position) => self.chains.get(position),
            None => self.default_chain.as_ref(),
        }
    }

    fn all_chains(&self) -> impl Iterator<Item = &Arc<ChainRuntime>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// Ends the connections of chains that `new` did not take over.
    fn retire(&self, new: Option<&Self>) {
        for chain in self.all_chains() {
            let stays =
                new.is_some_and(|new| new.all_chains().any(|have| Arc::ptr_eq(have, chain)));
            if !stays {
                chain.retired.send_replace(true);
            }
        }
    }
}

impl ChainRuntime {
    fn new(config: Arc<FilterChain>, secrets: &Arc<SecretStore>, stats: &ListenerStats) -> Self {
        let tls = config
            .tls
            .as_ref()
            .map(|tls| ServerContext::new(Arc::clone(tls), Arc::clone(secrets)));
        let http = match &config.terminal {
            Terminal::Http(hcm) => Some(HttpRuntime::new(Arc::clone(hcm), stats)),
            _ => None,
        };
        let tcp = match &config.terminal {
            Terminal::Tcp(proxy) => Some(TcpStats::named(&proxy.stat_prefix)),
            _ => None,
        };
        Self {
            tcp,
            network: meltemi_filters::network::Filters::new(&config.filters),
            config,
            tls,
            http,
            retired: watch::channel(false).0,
        }
    }
}

impl HttpRuntime {
    fn new(config: Arc<ConnectionManager>, listener: &ListenerStats) -> Self {
        let mut runtime = Self {
            stats: HttpStats::named(&config.stat_prefix),
            responses: listener.responses(&config.stat_prefix),
            server: HeaderValue::from_str(&config.server_name)
                .unwrap_or_else(|_| HeaderValue::from_static("envoy")),
            via: HeaderValue::from_str(&config.via)
                .ok()
                .filter(|via| !via.is_empty()),
            filters: config
                .filters
                .iter()
                .filter_map(|filter| Filter::new(filter, &config.stat_prefix))
                .collect(),
            config: Arc::clone(&config),
            alpn: [None, None, None],
            grpc_stats: None,
            istio_stats: None,
            peer_metadata: None,
            on_demand: None,
            filter_missing: false,
            suppress_envoy_headers: false,
        };
        let offer = |list: &[Str]| {
            (!list.is_empty()).then(|| {
                Arc::new(AlpnOffer(
                    list.iter().map(|name| name.as_bytes().to_vec()).collect(),
                ))
            })
        };
        for filter in &config.filters {
            match &filter.kind {
                HttpFilterKind::IstioAlpn(alpn) => {
                    runtime.alpn = [offer(&alpn.http10), offer(&alpn.http11), offer(&alpn.http2)];
                }
                HttpFilterKind::GrpcStats { all_methods, .. } => {
                    runtime.grpc_stats = Some(*all_methods);
                }
                HttpFilterKind::IstioStats(stats) => runtime.istio_stats = Some(Arc::clone(stats)),
                HttpFilterKind::IstioPeerMetadata(exchange) => {
                    runtime.peer_metadata = Some(Arc::clone(exchange))
                }
                HttpFilterKind::OnDemand(settings) => {
                    runtime.on_demand = Some((filter.name.clone(), settings.clone()));
                }
                HttpFilterKind::Missing => runtime.filter_missing = true,
                HttpFilterKind::Router(router) => {
                    runtime.suppress_envoy_headers = router.suppress_envoy_headers
                }
                _ => {}
            }
        }
        runtime
    }
}

/// A bound address: one socket for each worker.
#[derive(Debug)]
pub(crate) struct Bound {
    /// What it is bound to (the real port where 0 was asked for).
    pub address: BoundAddress,
    /// For worker `n`.
    pub sockets: Vec<BoundSocket>,
}

/// What is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum BoundAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(Str),
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

/// One version of all listeners.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By name, in order of their names.
    pub listeners: std::collections::BTreeMap<Str, Arc<ListenerRuntime>>,
    /// Bound addresses with the listener that has them now.
    pub bound: Vec<(Arc<Bound>, Arc<ListenerRuntime>)>,
    by_destination: AHashMap<SocketAddr, Arc<ListenerRuntime>>,
    by_port: AHashMap<u16, Arc<ListenerRuntime>>,
}

impl Table {
    /// The listener that takes connections to a restored destination: exact address, then wildcard.
    pub(crate) fn for_destination(&self, destination: SocketAddr) -> Option<&Arc<ListenerRuntime>> {
        self.by_destination
            .get(&destination)
            .or_else(|| self.by_port.get(&destination.port()))
    }

    /// The present owner of a bound address.
    pub(crate) fn owner(&self, bound: &BoundAddress) -> Option<&Arc<ListenerRuntime>> {
        self.bound
            .iter()
            .find(|(have, _)| have.address == *bound)
            .map(|(_, owner)| owner)
    }
}

/// All listeners of the process.
#[derive(Debug)]
pub(crate) struct Listeners {
    table: ArcSwap<Table>,
    sockets: Mutex<HashMap<Address, Arc<Bound>>>,
    limits: OnceLock<HashMap<Str, Arc<Slots>>>,
    changed: watch::Sender<u64>,
    closed: Closed,
    workers: usize,
}

/// Whose sockets were closed for good.
#[derive(Debug, Default)]
struct Closed {
    all: AtomicBool,
    inbound: AtomicBool,
}

impl Closed {
    fn covers(&self, direction: Direction) -> bool {
        self.all.load(Ordering::Relaxed)
            || (direction == Direction::Inbound && self.inbound.load(Ordering::Relaxed))
    }
}

impl Listeners {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            table: ArcSwap::default(),
            sockets: Mutex::default(),
            limits: OnceLock::new(),
            changed: watch::channel(0).0,
            closed: Closed::default(),
            workers,
        }
    }

    /// The present listeners.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// A cheap look at the present listeners.
    pub(crate) fn look(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Tells when the set of bound addresses changed.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Connections that limits of listeners refused.
    pub(crate) fn refused(&self) -> u64 {
        let limits = self.limits.get().into_iter().flat_map(HashMap::values);
        limits.map(|limit| limit.refused()).sum()
    }

    /// Sets the most connections of listeners, by their names; once, before there are any.
    pub(crate) fn limit(&self, limits: &[(Str, u64)]) {
        let limits = limits.iter();
        let slots = limits.map(|(name, max)| (name.clone(), Slots::new(*max)));
        let _ = self.limits.set(slots.collect());
    }

    /// Adds, replaces and removes listeners. Sockets of addresses that stay are kept; an address that cannot be
    /// bound leaves its listener out and is reported.
    pub(crate) fn apply(
        &self,
        configs: Vec<Arc<Listener>>,
        removed: &[Str],
        secrets: &Arc<SecretStore>,
    ) -> Vec<ApplyError> {
        let mut errors = Vec::new();
        let old = self.table.load_full();
        let mut listeners = old.listeners.clone();
        for name in removed {
            listeners.remove(name);
        }
        for config in configs {
            let ready = crate::support::check_listener(&config).and_then(|()| self.bind(&config));
            match ready {
                Ok(()) => {
                    let before = old.listeners.get(&config.name).map(Arc::as_ref);
                    let limit = self
                        .limits
                        .get()
                        .and_then(|limits| limits.get(&config.name).cloned());
                    listeners.insert(
                        config.name.clone(),
                        ListenerRuntime::new(config, secrets, before, limit),
                    );
                }
                Err(error) => errors.push(error),
            }
        }
        let table = self.arrange(listeners);
        for (name, before) in &old.listeners {
            match table.listeners.get(name) {
                Some(now) if Arc::ptr_eq(now, before) => {}
                now => before.retire(now.map(Arc::as_ref)),
            }
        }
        self.table.store(Arc::new(table));
        self.changed.send_modify(|version| *version += 1);
        errors
    }

    /// Whether a listener could be taken into use now: everything that it asks for is there, and its addresses are free.
    pub(crate) fn check(&self, config: &Listener) -> Result<(), ApplyError> {
        crate::support::check_listener(config)?;
        if !config.bind_to_port {
            return Ok(());
        }
        let ours = self.sockets.lock();
        for address in &config.addresses {
            let Address::Socket(socket) = address else {
                continue;
            };
            if ours.contains_key(address) {
                continue;
            }
            // Bound and closed again: it must not take connections before it can serve them.
            bind_tcp(*socket, config).map_err(|source| ApplyError::Bind {
                listener: config.name.clone(),
                address: address.to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Closes sockets for good: new connections are refused at once instead of waiting for nobody. What was accepted
    /// goes on.
    pub(crate) fn close(&self, scope: Scope) {
        let old = self.table.load_full();
        let mut sockets = self.sockets.lock();
        let closed = match scope {
            Scope::All => &self.closed.all,
            Scope::Inbound => &self.closed.inbound,
        };
        closed.store(true, Ordering::Relaxed);
        let (gone, bound): (Vec<_>, Vec<_>) = old
            .bound
            .iter()
            .cloned()
            .partition(|(_, owner)| self.closed.covers(owner.config.direction));
        sockets.retain(|_, socket| !gone.iter().any(|(bound, _)| Arc::ptr_eq(bound, socket)));
        let table = Table {
            listeners: old.listeners.clone(),
            bound,
            by_destination: old.by_destination.clone(),
            by_port: old.by_port.clone(),
        };
        drop(sockets);
        self.table.store(Arc::new(table));
        self.changed.send_modify(|version| *version += 1);
    }

    fn bind(&self, config: &Listener) -> Result<(), ApplyError> {
        if !config.bind_to_port || self.closed.covers(config.direction) {
            return Ok(());
        }
        let mut sockets = self.sockets.lock();
        for address in &config.addresses {
            if sockets.contains_key(address) {
                continue;
            }
            let bound =
                bind_address(address, config, self.workers).map_err(|source| ApplyError::Bind {
                    listener: config.name.clone(),
                    address: address.to_string(),
                    source,
                })?;
            sockets.insert(address.clone(), Arc::new(bound));
        }
        Ok(())
    }

    fn arrange(&self, listeners: std::collections::BTreeMap<Str, Arc<ListenerRuntime>>) -> Table {
        let mut table = Table::default();
        let mut sockets = self.sockets.lock();
        let mut used = Vec::new();
        for listener in listeners.values() {
            for address in &listener.config.addresses {
                if let Some(bound) = sockets
                    .get(address)
                    .filter(|_| listener.config.bind_to_port)
                {
                    table.bound.push((Arc::clone(bound), Arc::clone(listener)));
                    used.push(address.clone());
                }
                let Address::Socket(socket) = address else {
                    continue;
                };
                if is_wildcard(socket.ip()) {
                    table.by_port.insert(socket.port(), Arc::clone(listener));
                } else {
                    table.by_destination.insert(*socket, Arc::clone(listener));
                }
            }
        }
        sockets.retain(|address, _| used.contains(address));
        table.listeners = listeners;
        table
    }
}

fn is_wildcard(ip: IpAddr) -> bool {
    ip.is_unspecified()
}

fn bind_address(address: &Address, config: &Listener, workers: usize) -> io::Result<Bound> {
    match address {
        Address::Socket(wanted) => {
            let mut sockets = Vec::with_capacity(workers);
            let mut address = *wanted;
            for _ in 0..workers {
                let listener = listen_tcp(address, config)?;
                address = listener.local_addr()?;
                sockets.push(BoundSocket::Tcp(listener));
            }
            Ok(Bound {
                address: BoundAddress::Tcp(address),
                sockets,
            })
        }
        Address::Pipe(path) => {
            let listener = bind_unix(path)?;
            listener.set_nonblocking(true)?;
            let mut sockets = Vec::with_capacity(workers);
            for _ in 0..workers {
                sockets.push(BoundSocket::Unix(listener.try_clone()?));
            }
            Ok(Bound {
                address: BoundAddress::Unix(path.clone()),
                sockets,
            })
        }
        Address::Named(..) | Address::Internal(..) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a listener needs an IP address or a path",
        )),
    }
}

fn listen_tcp(address: SocketAddr, config: &Listener) -> io::Result<std::net::TcpListener> {
    let socket = bind_tcp(address, config)?;
    let backlog = config
        .backlog
        .and_then(|backlog| i32::try_from(backlog).ok())
        .unwrap_or(BACKLOG);
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn bind_unix(path: &str) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    match path.strip_prefix('@') {
        Some(name) => UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?),
        None => {
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path)
        }
    }
}

fn bind_tcp(address: SocketAddr, config: &Listener) -> io::Result<socket2::Socket> {
    let domain = if address.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let mut raw = raw_options(&config.options);
    if let Some(length) = config.fast_open {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        raw.push((IPPROTO_TCP, TCP_FASTOPEN, RawValue::Int(length)));
    }
    SocketOptions {
        transparent: config.transparent,
        freebind: config.freebind,
        reuse_port: config.reuse_port,
        raw,
        ..SocketOptions::default()
    }
    .apply(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
