//! How clients treat a destination: subsets and traffic policies.

use std::time::Duration;

use meltemi_names::{ArcStr, Hostname, Labels};

use crate::Visibility;
use crate::meta::Meta;

/// A policy for a host, possibly merged from several rules of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationRule {
    /// Name, namespace, age; of the oldest rule when merged.
    pub meta: Meta,
    /// The host or wildcard.
    pub host: Hostname,
    /// The policy of the whole host.
    pub policy: Option<TrafficPolicy>,
    /// Named parts of it.
    pub subsets: Vec<Subset>,
    /// Who sees the rule.
    pub export_to: Visibility,
    /// The client workloads that it is for; `None` means all.
    pub workload_selector: Option<Labels>,
}

impl DestinationRule {
    /// The subset of this name.
    #[must_use]
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }

    /// Whether what it says depends on the labels of the client.
    pub(crate) fn asks_for_labels(&self) -> bool {
        let subsets = self
            .subsets
            .iter()
            .filter_map(|subset| subset.policy.as_ref());
        let policies = self.policy.iter().chain(subsets);
        let mut blocks = policies.flat_map(|policy| {
            policy
                .ports
                .iter()
                .map(|(_, blocks)| blocks)
                .chain([&policy.blocks])
        });
        let by_labels = |blocks: &PolicyBlocks| {
            blocks
                .locality
                .as_ref()
                .is_some_and(|own| !own.failover_priority.is_empty())
        };
        self.workload_selector.is_some() || blocks.any(by_labels)
    }

    /// The policy for a port, and for a subset when one is named: the port's own entry replaces the four blocks, a
    /// subset's blocks replace the host's.
    #[must_use]
    pub fn effective(&self, port: u16, subset: Option<&Subset>) -> TrafficPolicy {
        let base = self
            .policy
            .as_ref()
            .map(|policy| policy.for_port(port))
            .unwrap_or_default();
        match subset.and_then(|subset| subset.policy.as_ref()) {
            Some(own) => base.overlaid_by(own, port),
            None => base,
        }
    }
}

/// A named part of a destination, selected by labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subset {
    /// Its name.
    pub name: ArcStr,
    /// The labels of its endpoints.
    pub labels: Labels,
    /// Its own policy.
    pub policy: Option<TrafficPolicy>,
}

/// What applies to connections and requests of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficPolicy {
    /// The four blocks that a port may replace.
    pub blocks: PolicyBlocks,
    /// Entries of single ports.
    pub ports: Vec<(u16, PolicyBlocks)>,
}

/// The blocks of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyBlocks {
    /// Choice of the endpoint.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits of connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection of failing endpoints.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the destination.
    pub tls: Option<ClientTls>,
    /// Slow start of new endpoints; stands and falls with `load_balancer`.
    pub warmup: Option<Warmup>,
    /// Preference by place; stands and falls with `load_balancer`.
    pub locality: Option<LocalityPreference>,
    /// Share of the requests that may be retries. Not a port's own to say.
    pub retry_budget: Option<RetryBudget>,
    /// The PROXY protocol towards the endpoints. Not a port's own to say.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Slow start of new endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warmup {
    /// How long an endpoint counts as new.
    pub duration: Duration,
    /// The share of its weight that it starts with, in millionths.
    pub minimum_share: Option<u32>,
    /// Steepness of the rise, in millionths of 1 (linear).
    pub aggression: Option<u32>,
}

/// Preference of endpoints by where they and the client are. Places are `region/zone/subzone`; missing parts and `*`
/// mean any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalityPreference {
    /// Whether there is one.
    pub enabled: bool,
    /// Percentages by the endpoints' place, for clients of a place; the first entry that fits counts.
    pub distribute: Vec<(ArcStr, Vec<(ArcStr, u32)>)>,
    /// Regions that take over for a region.
    pub failover: Vec<(ArcStr, ArcStr)>,
    /// Labels, as `key` or `key=value`, of which endpoints should share as many as possible with the client.
    pub failover_priority: Vec<ArcStr>,
}

/// Share of the requests that may be retries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// In millionths.
    pub share: u32,
    /// Retries that are always allowed.
    pub minimum: u32,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

impl TrafficPolicy {
    /// What holds for a port: its own entry alone when there is one.
    #[must_use]
    pub fn for_port(&self, port: u16) -> Self {
        let own = self
            .ports
            .iter()
            .find(|(number, _)| *number == port)
            .map(|(_, blocks)| blocks);
        Self {
            blocks: own.unwrap_or(&self.blocks).clone(),
            ports: Vec::new(),
        }
    }

    fn overlaid_by(mut self, subset: &Self, port: u16) -> Self {
        if let Some((_, own)) = subset.ports.iter().find(|(number, _)| *number == port) {
            self.blocks = own.clone();
            return self;
        }
        let own = subset.blocks.clone();
        let blocks = &mut self.blocks;
        if own.load_balancer.is_some() {
            blocks.load_balancer = own.load_balancer;
            blocks.warmup = own.warmup;
            blocks.locality = own.locality;
        }
        blocks.connection_pool = own
            .connection_pool
            .or_else(|| blocks.connection_pool.take());
        blocks.outlier_detection = own
            .outlier_detection
            .or_else(|| blocks.outlier_detection.take());
        blocks.tls = own.tls.or_else(|| blocks.tls.take());
        blocks.retry_budget = own.retry_budget.or_else(|| blocks.retry_budget.take());
        blocks.proxy_protocol = own.proxy_protocol.or(blocks.proxy_protocol);
        self
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    /// The less loaded of two.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The address that the client dialled.
    Passthrough,
    /// By a hash of the request.
    ConsistentHash(ConsistentHash),
}

/// Choice by hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How the hash finds an endpoint.
    pub algorithm: HashAlgorithm,
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A request header.
    Header(ArcStr),
    /// A cookie; generated with this life time when absent and a life time is given.
    Cookie {
        /// Its name.
        name: ArcStr,
        /// Its path.
        path: ArcStr,
        /// Its life time; zero is a session cookie.
        ttl: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    QueryParameter(ArcStr),
}

/// Algorithm of a consistent hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// A ring with at least so many entries.
    RingHash {
        /// Smallest size of the ring.
        minimum_ring_size: u64,
    },
    /// A Maglev table.
    Maglev {
        /// Its size; the data plane's default when absent.
        table_size: Option<u64>,
    },
}

/// Limits of connections and requests; absent values are unlimited or the data plane's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionPool {
    /// Connections.
    pub max_connections: Option<u32>,
    /// Time to connect.
    pub connect_timeout: Option<Duration>,
    /// Keep-alive probes of TCP.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Age at which a connection is closed.
    pub max_connection_duration: Option<Duration>,
    /// Idle time of TCP connections.
    pub tcp_idle_timeout: Option<Duration>,
    /// Waiting requests.
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// Requests of one connection.
    pub max_requests_per_connection: Option<u32>,
    /// Retries in flight.
    pub max_retries: Option<u32>,
    /// Idle time of HTTP connections.
    pub http_idle_timeout: Option<Duration>,
    /// Streams of one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 although the port says HTTP/1; `None` is the mesh's default.
    pub h2_upgrade: Option<bool>,
    /// Speak what the client speaks.
    pub use_client_protocol: bool,
    /// Interval and time limit of HTTP/2 pings.
    pub http2_keepalive: Option<(Duration, Duration)>,
}

/// Keep-alive probes of TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpKeepalive {
    /// Probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Ejection of failing endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    /// 5xx answers in a row; zero switches the check off.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 in a row; zero switches the check off.
    pub consecutive_gateway: Option<u32>,
    /// Failures of our own side counted apart.
    pub split_local_origin: bool,
    /// Such failures in a row.
    pub consecutive_local_origin: Option<u32>,
    /// Time between two looks.
    pub interval: Option<Duration>,
    /// Shortest time of an ejection.
    pub base_ejection_time: Option<Duration>,
    /// Share of endpoints that may be ejected.
    pub max_ejection_percent: u32,
    /// Share of healthy endpoints below which all are used.
    pub min_health_percent: u32,
    /// The statuses that count as failures, in place of 5xx.
    pub error_codes: Vec<u32>,
}

/// TLS towards a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Which kind.
    pub mode: ClientTlsMode,
    /// File of the client's certificate.
    pub client_certificate: ArcStr,
    /// File of its key.
    pub private_key: ArcStr,
    /// File of the roots; empty for the system's.
    pub ca_certificates: ArcStr,
    /// Secret with certificate and roots.
    pub credential_name: ArcStr,
    /// Accepted names of the server.
    pub subject_alt_names: Vec<ArcStr>,
    /// The server name to ask for.
    pub sni: ArcStr,
    /// Whether the server's certificate is taken as it is.
    pub insecure_skip_verify: bool,
}

/// Kind of TLS towards a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientTlsMode {
    /// None.
    Disable,
    /// The server is verified.
    Simple,
    /// Both sides are, with own certificates.
    Mutual,
    /// Both sides are, with the mesh's identities.
    IstioMutual,
}

impl ClientTlsMode {
    /// TLS with certificates from outside the mesh.
    #[must_use]
    pub fn originates(self) -> bool {
        matches!(self, Self::Simple | Self::Mutual)
    }
}
