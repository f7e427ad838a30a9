//! Listeners and filter chains as configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::access::AccessLog;
use crate::chain::ChainIndex;
use crate::endpoint::Address;
use crate::hcm::{ConnectionManager, FilterStateValue};
use crate::matcher::Cidr;
use crate::metadata::{Criteria, Metadata};
use crate::ratelimit::BucketConfig;
use crate::rbac::RbacFilter;
use crate::tls::DownstreamTls;
use crate::{Limit, Str};

/// One listener.
#[derive(Debug)]
pub struct Listener {
    /// Name.
    pub name: Str,
    /// Name in statistics; without one the first address is.
    pub stat_prefix: Str,
    /// Metadata, for logs.
    pub metadata: Metadata,
    /// Addresses; all share everything.
    pub addresses: Vec<Address>,
    /// False: receives only connections that another listener hands over.
    pub bind_to_port: bool,
    /// After inspection, hands the connection to the listener of its restored destination.
    pub use_original_dst: bool,
    /// Sockets are IP_TRANSPARENT.
    pub transparent: bool,
    /// Binds to addresses the host does not have.
    pub freebind: bool,
    /// One accept socket for each worker.
    pub reuse_port: bool,
    /// Accept queue length.
    pub backlog: Option<u32>,
    /// Connections that may send data with their SYN and wait to be accepted (TCP Fast Open).
    pub fast_open: Option<u32>,
    /// Socket options.
    pub options: Vec<SocketOption>,
    /// Direction, for drain and statistics.
    pub direction: Direction,
    /// Run in order on the raw socket.
    pub filters: Vec<ListenerFilter>,
    /// Time for them; `None` is no limit.
    pub filters_timeout: Limit,
    /// After that time the connection goes on with what is known.
    pub continue_on_timeout: bool,
    /// Soft limit of read and write buffers for each connection.
    pub buffer_limit: u32,
    /// Chains, in order; `index` selects.
    pub chains: Vec<Arc<FilterChain>>,
    /// Used when none matches.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Selection tables over `chains`.
    pub index: ChainIndex,
    /// Logs of connections that found no chain.
    pub access_log: Vec<AccessLog>,
    /// Drains only when it is changed or removed, not on failed health.
    pub drain_modify_only: bool,
    /// New connections are spread evenly over the workers.
    pub exact_balance: bool,
    /// The overload manager and global connection limit do not apply.
    pub ignore_global_limit: bool,
}

/// Direction of a listener's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload (and at gateways).
    Outbound,
}

/// A raw socket option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// `SOL_SOCKET`...
    pub level: i64,
    /// `SO_MARK`...
    pub name: i64,
    /// Bytes as the kernel wants them (integers are native `i32`).
    pub value: Vec<u8>,
}

/// Listener filters.
#[derive(Debug, Clone)]
pub struct ListenerFilter {
    /// What it does.
    pub kind: ListenerFilterKind,
    /// Destination ports for which it does nothing: `[start, end)`.
    pub disabled_ports: Vec<(u32, u32)>,
    /// The predicate is inverted: it does something only for these ports.
    pub disabled_inverted: bool,
}

impl ListenerFilter {
    /// Whether it runs for a connection to this destination port.
    #[must_use]
    pub fn enabled_for(&self, port: u16) -> bool {
        let listed = self
            .disabled_ports
            .iter()
            .any(|(start, end)| (*start..*end).contains(&u32::from(port)));
        if self.disabled_inverted {
            listed
        } else {
            !listed
        }
    }
}

/// What a listener filter does.
#[derive(Debug, Clone)]
pub enum ListenerFilterKind {
    /// Restores the destination of a redirected connection.
    OriginalDst,
    /// Upstream connections use the client's address, marked.
    OriginalSrc {
        /// SO_MARK.
        mark: u32,
    },
    /// Reads a PROXY protocol header.
    ProxyProtocol(Arc<ProxyProtocol>),
    /// Looks for a ClientHello.
    TlsInspector {
        /// Bytes read at first.
        initial_buffer: usize,
        /// A broken ClientHello closes the connection.
        close_on_error: bool,
    },
    /// Looks for HTTP.
    HttpInspector,
}

/// What the PROXY protocol filter takes, and what it keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// A connection without header goes on.
    pub optional: bool,
    /// Headers of version 1 are not taken for headers.
    pub refuse_v1: bool,
    /// Headers of version 2 are not taken for headers.
    pub refuse_v2: bool,
    /// Values that become metadata of the connection.
    pub rules: Vec<TlvRule>,
}

/// Where the value of a TLV goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlvRule {
    /// Type of the TLV.
    pub kind: u8,
    /// Namespace of the metadata.
    pub namespace: Str,
    /// Key in it.
    pub key: Str,
}

/// One filter chain.
#[derive(Debug)]
pub struct FilterChain {
    /// Name.
    pub name: Str,
    /// Metadata, for logs.
    pub metadata: Metadata,
    /// Which connections it takes.
    pub matches: ChainMatch,
    /// TLS termination, when asked for.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Time from accept to the handshake's end.
    pub connect_timeout: Limit,
    /// Filters before the last one.
    pub filters: Vec<NetworkFilter>,
    /// The last filter.
    pub terminal: Terminal,
    /// Hash of the configuration: an equal one keeps its connections over an update.
    pub hash: u64,
}

/// `FilterChainMatch`; empty lists match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ChainMatch {
    /// Restored destination port.
    pub destination_port: Option<u16>,
    /// Restored destination address.
    pub destination: Vec<Cidr>,
    /// SNI, lower case; `*.x` is a suffix.
    pub server_names: Vec<Str>,
    /// `raw_buffer` or `tls`; empty is any.
    pub transport: Str,
    /// Offered protocols.
    pub application_protocols: Vec<Str>,
    /// TCP peer.
    pub direct_source: Vec<Cidr>,
    /// Kind of source.
    pub source_type: SourceType,
    /// Source address (after a PROXY header).
    pub source: Vec<Cidr>,
    /// Source port.
    pub source_ports: Vec<u16>,
}

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceType {
    /// Any.
    #[default]
    Any,
    /// The same host.
    Local,
    /// Another host.
    External,
}

/// Network filters before the last one.
#[derive(Debug, Clone)]
pub struct NetworkFilter {
    /// Configured name.
    pub name: Str,
    /// What it does.
    pub kind: NetworkFilterKind,
}

/// What a network filter does.
#[derive(Debug, Clone)]
pub enum NetworkFilterKind {
    /// Role-based access.
    Rbac(Arc<RbacFilter>),
    /// Istio's TCP metadata exchange.
    MetadataExchange {
        /// ALPN that switches it on.
        protocol: Str,
        /// Workloads may be looked up by address.
        enable_discovery: bool,
    },
    /// Istio's statistics.
    IstioStats(Arc<crate::hcm::IstioStats>),
    /// SNI becomes the cluster's name.
    SniCluster,
    /// One token for each connection.
    LocalRateLimit {
        /// Statistics prefix.
        stat_prefix: Str,
        /// The bucket.
        bucket: BucketConfig,
    },
    /// Most connections at once.
    ConnectionLimit {
        /// Statistics prefix.
        stat_prefix: Str,
        /// The limit.
        max: u64,
        /// Time before a refused connection closes.
        delay: Limit,
    },
    /// Sets filter state from connection properties.
    SetFilterState(Arc<ConnectionState>),
    /// Counts MongoDB commands, and may delay them.
    MongoProxy(Arc<MongoProxy>),
}

/// `set_filter_state` of connections.
#[derive(Debug, Clone, Default)]
pub struct ConnectionState {
    /// Set when the connection is new; TLS has told nothing yet.
    pub on_open: Vec<FilterStateValue>,
    /// Set after the TLS handshake, or at once without TLS.
    pub on_handshake: Vec<FilterStateValue>,
}

/// MongoDB sniffing.
#[derive(Debug, Clone)]
pub struct MongoProxy {
    /// Statistics prefix.
    pub stat_prefix: Str,
    /// Delay of operations and its share.
    pub delay: Option<(Duration, crate::Fraction)>,
    /// Dynamic metadata is set.
    pub emit_metadata: bool,
    /// Commands that have counters of their own.
    pub commands: Vec<Str>,
    /// Deepest document that is read.
    pub max_depth: u32,
}

/// The last filter of a chain.
#[derive(Debug, Clone)]
pub enum Terminal {
    /// HTTP.
    Http(Arc<ConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
    /// Bytes sent back, as given; the connection then closes.
    DirectResponse(bytes::Bytes),
    /// Every byte comes back.
    Echo,
    /// No filter: the connection closes.
    Close,
}

/// `tcp_proxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// Statistics prefix.
    pub stat_prefix: Str,
    /// Targets with weights; one entry is the plain case.
    pub clusters: Vec<TcpTarget>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Closes when no byte moved for so long; `None` never (default 1 h).
    pub idle_timeout: Limit,
    /// Connect attempts, each to a new pick.
    pub max_connect_attempts: u32,
    /// Hash of the source IP picks the host.
    pub hash_source_ip: bool,
    /// Closes after so long.
    pub max_duration: Limit,
    /// Logs.
    pub access_log: Vec<AccessLog>,
    /// An entry is also written once the upstream is connected.
    pub log_on_connected: bool,
    /// Time between entries before the end.
    pub log_interval: Limit,
    /// Tunnel over HTTP CONNECT or POST.
    pub tunnel: Option<Tunnel>,
    /// Host metadata wanted (subset balancing), sorted by key.
    pub criteria: Criteria,
}

/// A weighted target.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpTarget {
    /// Cluster.
    pub cluster: Str,
    /// Weight.
    pub weight: u32,
    /// Host metadata wanted of this entry and the proxy, sorted by key.
    pub criteria: Criteria,
}

/// Tunnel settings (`TcpProxy.TunnelingConfig`).
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// `host:port`.
    pub hostname: crate::format::Format,
    /// POST instead of CONNECT.
    pub use_post: bool,
    /// `:path` of a POST.
    pub post_path: Str,
    /// Fields of the request.
    pub headers: Vec<crate::mutation::HeaderOp>,
}

impl TcpProxy {
    /// The cluster of a connection with this random number.
    #[must_use]
    pub fn cluster(&self, random: u64) -> Option<&Str> {
        self.target(random).map(|target| &target.cluster)
    }

    /// The target of a connection with this random number.
    #[must_use]
    pub fn target(&self, random: u64) -> Option<&TcpTarget> {
        if let [only] = self.clusters.as_slice() {
            return Some(only);
        }
        let mut left = random.checked_rem(self.total_weight)?;
        for target in &self.clusters {
            let weight = u64::from(target.weight);
            if left < weight {
                return Some(target);
            }
            left -= weight;
        }
        None
    }
}
