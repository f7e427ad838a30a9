//! Clusters as configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};

use crate::discovery::Reference;
use crate::endpoint::Assignment;
use crate::hcm::{Http1Options, Http2Options};
use crate::listener::SocketOption;
use crate::matcher::StringMatcher;
use crate::metadata::{Metadata, Value};
use crate::tls::UpstreamTls;
use crate::{Limit, Str};

/// One upstream cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name.
    pub name: Str,
    /// `alt_stat_name`, or the name.
    pub stat_name: Str,
    /// Where hosts come from.
    pub kind: ClusterKind,
    /// Hosts given in place (STATIC and DNS types).
    pub endpoints: Arc<Assignment>,
    /// TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// Soft limit of read and write buffers for each connection.
    pub buffer_limit: u32,
    /// How hosts are picked.
    pub lb: LbPolicy,
    /// Settings of all policies.
    pub lb_common: LbCommon,
    /// Hosts grouped by metadata, when on.
    pub subsets: Option<Arc<Subsets>>,
    /// The request may name its host.
    pub override_host: Option<Arc<OverrideHost>>,
    /// Breakers for default and high priority.
    pub breakers: [Thresholds; 2],
    /// Outlier detection, when on.
    pub outlier: Option<OutlierDetection>,
    /// How connections are protected.
    pub transport: TransportSockets,
    /// HTTP settings.
    pub http: HttpUpstream,
    /// Source address and socket options of upstream connections.
    pub bind: BindConfig,
    /// TCP keep-alive, when on.
    pub keepalive: Option<KeepAlive>,
    /// Active health checks.
    pub health_checks: Vec<HealthCheck>,
    /// `istio.services` and the like.
    pub metadata: Metadata,
    /// Upstream network filters.
    pub filters: Vec<UpstreamFilter>,
    /// A host that becomes unhealthy loses its connections.
    pub close_on_health_failure: bool,
    /// A host that discovery removed goes at once; otherwise it stays while active checks call it healthy.
    pub ignore_health_on_removal: bool,
    /// Idle time after which a host of an ORIGINAL_DST cluster is forgotten.
    pub cleanup_interval: Duration,
}

impl Cluster {
    /// First entry of Istio's `istio.services`: host, name, namespace.
    #[must_use]
    pub fn istio_service(&self) -> Option<(&str, &str, &str)> {
        let Value::List(services) = self.metadata.get("istio", &["services"])? else {
            return None;
        };
        let first = services.first()?;
        let field = |key: &str| first.at(&[key]).and_then(Value::as_str);
        Some((field("host")?, field("name")?, field("namespace")?))
    }
}

/// Where a cluster's hosts come from.
#[derive(Debug, Clone)]
pub enum ClusterKind {
    /// Only the given addresses.
    Static,
    /// All addresses of all names, resolved again and again.
    StrictDns(Dns),
    /// One logical host at the name's current address.
    LogicalDns(Dns),
    /// Assignments from a discovery service or file.
    Eds(Reference),
    /// The connection's restored destination.
    OriginalDst(OriginalDst),
    /// The request's host, through a DNS cache.
    DynamicForwardProxy(Arc<DnsCache>),
}

/// A cache of names that requests ask for (`DnsCacheConfig`). Those of one name are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCache {
    /// Name.
    pub name: Str,
    /// How names are resolved.
    pub dns: Dns,
    /// Shortest time between resolutions of a name, whatever its TTL.
    pub min_refresh: Duration,
    /// A name that nobody asks for is forgotten after this.
    pub host_ttl: Duration,
    /// Most names.
    pub max_hosts: u32,
    /// Most requests that wait for a resolution.
    pub max_pending: u32,
    /// Longest resolution; `None` is the resolver's own limit.
    pub query_timeout: Option<Duration>,
    /// A name that could not be resolved is forgotten at once.
    pub forget_failures: bool,
    /// Names that are resolved before anybody asks.
    pub preresolve: Vec<(Str, u16)>,
}

/// DNS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Time between resolutions (a bound when the TTL is respected).
    pub refresh: Duration,
    /// Random addition to the refresh time.
    pub jitter: Duration,
    /// Time to the next try after a failure; `None` is `refresh`.
    pub failure_refresh: Option<Duration>,
    /// Longest time to the next try while failures go on; `None` is ten times the first one.
    pub max_failure_refresh: Option<Duration>,
    /// The answer's TTL is the refresh time.
    pub respect_ttl: bool,
    /// Which address families.
    pub family: DnsFamily,
}

/// Address families asked of DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsFamily {
    /// IPv6, then IPv4 when there is none.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4, then IPv6 when there is none.
    V4Preferred,
    /// Both.
    All,
}

/// ORIGINAL_DST settings.
#[derive(Debug, Clone, Default)]
pub struct OriginalDst {
    /// Header that may name the destination.
    pub header: Option<HeaderName>,
    /// Port used instead of the original one.
    pub port_override: Option<u16>,
    /// Metadata path that may name the destination.
    pub metadata_key: Option<(Str, Vec<Str>)>,
}

/// Load balancing policies.
#[derive(Debug, Clone)]
pub enum LbPolicy {
    /// In turn, weighted when weights differ.
    RoundRobin(Option<SlowStart>),
    /// Fewest active requests.
    LeastRequest(LeastRequest),
    /// Any.
    Random,
    /// Ketama ring.
    RingHash(RingHash),
    /// Maglev table.
    Maglev(Maglev),
    /// The cluster type decides (ORIGINAL_DST, dynamic forward proxy).
    ClusterProvided,
}

/// Least request settings.
#[derive(Debug, Clone)]
pub struct LeastRequest {
    /// Hosts looked at for each pick, at least 2.
    pub choices: u32,
    /// Exponent of the active requests where weights differ.
    pub bias: f64,
    /// All hosts are compared.
    pub full_scan: bool,
    /// Slow start, when on.
    pub slow_start: Option<SlowStart>,
}

/// Slow start settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// Time until a host has its full weight.
    pub window: Duration,
    /// Curve; 1 is linear.
    pub aggression: f64,
    /// Least share of the weight, in percent.
    pub min_weight_percent: f64,
}

/// Ring hash settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHash {
    /// Fewest entries.
    pub min: u64,
    /// Most entries.
    pub max: u64,
    /// MurmurHash2 instead of xxHash.
    pub murmur: bool,
    /// Consistent hashing settings.
    pub hashing: Hashing,
}

/// Maglev settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maglev {
    /// A prime.
    pub table_size: u64,
    /// Consistent hashing settings.
    pub hashing: Hashing,
}

/// Settings of both consistent policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hashing {
    /// Host names instead of addresses are hashed.
    pub use_hostname: bool,
    /// Percent of the mean load at which a host is passed over.
    pub balance_factor: Option<u32>,
}

/// Settings of all policies.
#[derive(Debug, Clone)]
pub struct LbCommon {
    /// Percent of available hosts below which health is ignored; 0 never.
    pub panic_threshold: f64,
    /// Localities are picked by weight.
    pub locality_weighted: bool,
    /// Own zone first.
    pub zone_aware: Option<ZoneAware>,
    /// Hosts do not count before their first active check (`ignore_new_hosts_until_first_hc`).
    pub ignore_unchecked: bool,
}

impl Default for LbCommon {
    fn default() -> Self {
        Self {
            panic_threshold: 50.0,
            locality_weighted: false,
            zone_aware: None,
            ignore_unchecked: false,
        }
    }
}

/// Zone aware settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneAware {
    /// Percent of requests it applies to.
    pub routing_enabled: f64,
    /// Fewest hosts.
    pub min_cluster_size: u64,
    /// No host in panic.
    pub fail_traffic_on_panic: bool,
}

/// Subset balancing (`LbSubsetConfig` and its policy extension).
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// What is used when no subset matches.
    pub fallback: SubsetFallback,
    /// Values of the default subset, sorted by key.
    pub default: Vec<(Str, Value)>,
    /// Keys by which hosts are grouped.
    pub selectors: Vec<SubsetSelector>,
    /// Localities keep their weights within a subset.
    pub locality_weight_aware: bool,
    /// They are scaled by the share of the locality's hosts in the subset.
    pub scale_locality_weight: bool,
    /// Any host is used when the fallback has none.
    pub panic_mode_any: bool,
    /// A host's list value matches by any of its elements.
    pub list_as_any: bool,
    /// The criterion `fallback_list` names alternatives.
    pub fallback_list: bool,
    /// Criteria beyond a selector's keys do not prevent a match.
    pub allow_redundant_keys: bool,
}

/// What is used when no subset matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubsetFallback {
    /// No host.
    #[default]
    None,
    /// Any host.
    Any,
    /// The default subset.
    Default,
}

/// One way to group hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetSelector {
    /// Metadata keys, sorted.
    pub keys: Vec<Str>,
    /// What is used when these keys are asked for and no host has the values.
    pub fallback: SelectorFallback,
}

/// Fallback of one selector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SelectorFallback {
    /// The cluster's.
    #[default]
    NotDefined,
    /// No host.
    None,
    /// Any host.
    Any,
    /// The default subset.
    Default,
    /// The same request with only these keys.
    Keys(Vec<Str>),
}

/// Where a request may name the host that it wants (`override_host` policy).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideHost {
    /// Tried in order.
    pub sources: Vec<OverrideSource>,
}

/// A place that may hold host addresses, comma separated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverrideSource {
    /// A request field.
    Header(HeaderName),
    /// Dynamic metadata: namespace and path.
    Metadata(Str, Vec<Str>),
}

/// Circuit breaker limits of one priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    /// Parallel requests.
    pub max_requests: u32,
    /// Parallel retries, without a budget.
    pub max_retries: u32,
    /// Retry budget, which replaces `max_retries`.
    pub budget: Option<RetryBudget>,
    /// Connection pools.
    pub max_pools: Option<u32>,
    /// Connections for each host.
    pub max_connections_per_host: Option<u32>,
    /// Gauges of the remaining room are kept.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending: 1024,
            max_requests: 1024,
            max_retries: 3,
            budget: None,
            max_pools: None,
            max_connections_per_host: None,
            track_remaining: false,
        }
    }
}

/// A retry budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests that may be retries.
    pub percent: f64,
    /// Always allowed.
    pub min_concurrency: u32,
}

/// Outlier detection settings with Envoy's defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetection {
    /// 5xx in a row; 0 is off.
    pub consecutive_5xx: u32,
    /// Percent chance that it ejects.
    pub enforcing_consecutive_5xx: u32,
    /// 502, 503, 504 in a row.
    pub consecutive_gateway: u32,
    /// Percent chance that it ejects.
    pub enforcing_consecutive_gateway: u32,
    /// Local failures in a row (split mode).
    pub consecutive_local: u32,
    /// Percent chance that it ejects.
    pub enforcing_consecutive_local: u32,
    /// Local and remote failures are counted apart.
    pub split_local: bool,
    /// A host that passes an active check is ejected no more.
    pub uneject_on_check: bool,
    /// Sweep period.
    pub interval: Duration,
    /// First ejection's length.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Random addition to an ejection.
    pub jitter: Duration,
    /// Most hosts ejected at once, in percent.
    pub max_ejection_percent: u32,
    /// One host may always be ejected.
    pub always_eject_one: bool,
    /// Success rate ejection.
    pub success_rate: SuccessRate,
    /// Failure percentage ejection.
    pub failure_percentage: FailurePercentage,
}

/// Success rate settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Percent chance that it ejects.
    pub enforcing: u32,
    /// Percent chance for local failures (split mode).
    pub enforcing_local: u32,
    /// Hosts with enough requests that are needed.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
    /// Thousandths of a standard deviation below the mean.
    pub stdev_factor: u32,
}

/// Failure percentage settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Percent of failures that ejects.
    pub threshold: u32,
    /// Percent chance that it ejects.
    pub enforcing: u32,
    /// Percent chance for local failures (split mode).
    pub enforcing_local: u32,
    /// Hosts with enough requests that are needed.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
}

/// Transport sockets of a cluster.
#[derive(Debug, Clone, Default)]
pub struct TransportSockets {
    /// Tried in order on the host's `envoy.transport_socket_match` metadata.
    pub matches: Vec<TransportMatch>,
    /// Used when nothing matches.
    pub default: Transport,
}

impl TransportSockets {
    /// The transport for a host with this metadata.
    #[must_use]
    pub fn select(&self, metadata: &Metadata) -> &Transport {
        let have = metadata
            .namespaces
            .get("envoy.transport_socket_match")
            .and_then(Value::as_struct);
        self.matches
            .iter()
            .find(|m| {
                m.criteria
                    .iter()
                    .all(|(key, wanted)| have.is_some_and(|have| have.get(key) == Some(wanted)))
            })
            .map_or(&self.default, |m| &m.transport)
    }
}

/// A conditional transport.
#[derive(Debug, Clone)]
pub struct TransportMatch {
    /// Name, for statistics.
    pub name: Str,
    /// Metadata that must be equal; empty matches every host.
    pub criteria: Vec<(Str, Value)>,
    /// The transport.
    pub transport: Transport,
}

/// How an upstream connection is protected.
#[derive(Debug, Clone, Default)]
pub enum Transport {
    /// Not at all.
    #[default]
    Raw,
    /// TLS.
    Tls(Arc<UpstreamTls>),
    /// A PROXY protocol header, then the inner transport.
    ProxyProtocol(Arc<ProxyProtocol>, Box<Self>),
}

/// The PROXY protocol header that upstream connections begin with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyProtocol {
    /// The text form.
    pub version_1: bool,
    /// TLVs of version 2: type and value.
    pub added: Vec<(u8, Vec<u8>)>,
}

/// HTTP settings of a cluster.
#[derive(Debug, Clone, Default)]
pub struct HttpUpstream {
    /// Which protocol is spoken.
    pub protocol: UpstreamProtocol,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// HTTP/2 options.
    pub http2: Http2Options,
    /// A connection without streams closes after this; default 1 h.
    pub idle_timeout: Option<Duration>,
    /// A connection drains after this.
    pub max_connection_duration: Limit,
    /// A connection closes after so many requests.
    pub max_requests_per_connection: Option<u32>,
    /// Largest response head, in KiB.
    pub max_response_headers_kb: Option<u32>,
    /// Most response fields; default 100.
    pub max_headers_count: Option<u32>,
    /// A stream is reset after this.
    pub max_stream_duration: Limit,
    /// SNI is the request's host.
    pub auto_sni: bool,
    /// Header that `auto_sni` reads instead of the host.
    pub auto_sni_header: Option<HeaderName>,
    /// The peer's SAN must contain the request's host.
    pub auto_san_validation: bool,
    /// Status codes that count as failure for outlier detection, instead of 5xx.
    pub error_statuses: Option<Vec<StringMatcher>>,
}

/// Upstream HTTP versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// What the request came with.
    Downstream,
    /// Negotiated by ALPN.
    Auto,
}

/// Source address and options of upstream sockets.
#[derive(Debug, Clone, Default)]
pub struct BindConfig {
    /// Source address; port 0 is any.
    pub source: Option<SocketAddr>,
    /// Further source addresses (another family).
    pub extra_sources: Vec<SocketAddr>,
    /// Binds to addresses the host does not have.
    pub freebind: bool,
    /// Options set before connecting.
    pub options: Vec<SocketOption>,
}

/// TCP keep-alive; `None` is the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepAlive {
    /// Probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Upstream network filters.
#[derive(Debug, Clone)]
pub enum UpstreamFilter {
    /// Istio's TCP metadata exchange for this ALPN.
    MetadataExchange {
        /// ALPN that switches it on.
        protocol: Str,
    },
}

/// An active health check.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Time for one check.
    pub timeout: Duration,
    /// Time between checks of a healthy host.
    pub interval: Duration,
    /// Random time before the first check.
    pub initial_jitter: Duration,
    /// Random addition to every interval.
    pub interval_jitter: Duration,
    /// The same, in percent of the interval.
    pub interval_jitter_percent: u32,
    /// Time between checks while the cluster has made no connection.
    pub no_traffic_interval: Duration,
    /// The same, of a healthy host.
    pub no_traffic_healthy_interval: Duration,
    /// Time between checks of an unhealthy host.
    pub unhealthy_interval: Duration,
    /// Time to the next check of a healthy host that failed, while it is not yet unhealthy.
    pub unhealthy_edge_interval: Duration,
    /// Time to the next check of an unhealthy host that passed, while it is not yet healthy.
    pub healthy_edge_interval: Duration,
    /// Failures that make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes that make it healthy again.
    pub healthy_threshold: u32,
    /// The connection is kept between checks.
    pub reuse_connection: bool,
    /// Protocols offered instead of the transport's own.
    pub alpn: Vec<Str>,
    /// What is asked.
    pub kind: HealthCheckKind,
}

/// What a health check asks.
#[derive(Debug, Clone)]
pub enum HealthCheckKind {
    /// A connection, optionally sending and expecting bytes.
    Tcp {
        /// Sent after connecting.
        send: Vec<u8>,
        /// Expected in the answer, in order.
        receive: Vec<Vec<u8>>,
    },
    /// An HTTP request.
    Http(HttpCheck),
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Service asked for.
        service: Str,
        /// `:authority`; empty is the cluster's name.
        authority: Str,
    },
}

/// An HTTP request as a health check.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    /// `:method`.
    pub method: Method,
    /// `Host`; empty is the cluster's name.
    pub host: Str,
    /// Path.
    pub path: Str,
    /// Further fields.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Accepted status ranges, half-open; empty is 200 only.
    pub expected: Vec<(u16, u16)>,
    /// Ranges that count as a failure only by the threshold.
    pub retriable: Vec<(u16, u16)>,
    /// HTTP/2 is spoken.
    pub http2: bool,
}
