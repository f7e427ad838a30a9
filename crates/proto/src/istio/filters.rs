//! Configuration of the filters that only Istio's data plane has.

/// `istio.alpn`: which protocols are offered upstream.
pub mod alpn {
    /// Overrides by upstream protocol.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct FilterConfig {
        /// The overrides.
        #[prost(message, repeated, tag = "1")]
        pub alpn_override: Vec<AlpnOverride>,
    }

    /// The offer for one protocol.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AlpnOverride {
        /// The request's upstream protocol.
        #[prost(enumeration = "Protocol", tag = "1")]
        pub upstream_protocol: i32,
        /// The offer.
        #[prost(string, repeated, tag = "2")]
        pub alpn_override: Vec<String>,
    }

    /// Upstream protocols.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum Protocol {
        /// HTTP/1.0
        Http10 = 0,
        /// HTTP/1.1
        Http11 = 1,
        /// HTTP/2
        Http2 = 2,
    }

    impl prost::Name for FilterConfig {
        const NAME: &'static str = "FilterConfig";
        const PACKAGE: &'static str = "istio.envoy.config.filter.http.alpn.v2alpha1";
    }
}

/// `istio.metadata_exchange` on TCP chains and clusters.
pub mod tcp_exchange {
    /// Its settings.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetadataExchange {
        /// The negotiated ALPN that switches it on.
        #[prost(string, tag = "1")]
        pub protocol: String,
        /// Peers may be looked up by address.
        #[prost(bool, tag = "2")]
        pub enable_discovery: bool,
        /// Labels sent besides Istio's own.
        #[prost(string, repeated, tag = "3")]
        pub additional_labels: Vec<String>,
    }

    impl prost::Name for MetadataExchange {
        const NAME: &'static str = "MetadataExchange";
        const PACKAGE: &'static str = "envoy.tcp.metadataexchange.config";
    }
}

/// HTTP metadata exchange.
pub mod peer_metadata {
    /// Its settings.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Config {
        /// How the client is found; the first that succeeds.
        #[prost(message, repeated, tag = "1")]
        pub downstream_discovery: Vec<DiscoveryMethod>,
        /// How the server is found; the first that succeeds.
        #[prost(message, repeated, tag = "2")]
        pub upstream_discovery: Vec<DiscoveryMethod>,
        /// What is put into responses.
        #[prost(message, repeated, tag = "3")]
        pub downstream_propagation: Vec<PropagationMethod>,
        /// What is put into requests.
        #[prost(message, repeated, tag = "4")]
        pub upstream_propagation: Vec<PropagationMethod>,
        /// Upstream connections see the peer.
        #[prost(bool, tag = "5")]
        pub shared_with_upstream: bool,
        /// Labels sent besides Istio's own.
        #[prost(string, repeated, tag = "6")]
        pub additional_labels: Vec<String>,
    }

    /// One way to find a peer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DiscoveryMethod {
        /// The way.
        #[prost(oneof = "MethodSpecifier", tags = "1, 2, 3")]
        pub method_specifier: Option<MethodSpecifier>,
    }

    /// Ways to find a peer.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum MethodSpecifier {
        /// Baggage header.
        #[prost(message, tag = "1")]
        Baggage(Empty),
        /// Workload discovery.
        #[prost(message, tag = "2")]
        WorkloadDiscovery(Empty),
        /// x-envoy-peer-metadata headers.
        #[prost(message, tag = "3")]
        IstioHeaders(IstioHeaders),
    }

    /// One way to tell a peer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PropagationMethod {
        /// x-envoy-peer-metadata headers.
        #[prost(message, optional, tag = "1")]
        pub istio_headers: Option<IstioHeaders>,
    }

    /// x-envoy-peer-metadata headers.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct IstioHeaders {
        /// Not towards external clusters.
        #[prost(bool, tag = "1")]
        pub skip_external_clusters: bool,
    }

    /// A way without settings.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Empty {}

    impl prost::Name for Config {
        const NAME: &'static str = "Config";
        const PACKAGE: &'static str = "io.istio.http.peer_metadata";
    }
}

/// `istio.stats`: the standard metrics.
pub mod stats {
    use std::collections::HashMap;

    use envoy_types::pb::google::protobuf::Duration;

    /// Its settings.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PluginConfig {
        /// The Host header never names the destination.
        #[prost(bool, tag = "6")]
        pub disable_host_header_fallback: bool,
        /// Interval of TCP reports (5 s).
        #[prost(message, optional, tag = "7")]
        pub tcp_reporting_duration: Option<Duration>,
        /// Changes to metrics.
        #[prost(message, repeated, tag = "8")]
        pub metrics: Vec<MetricConfig>,
        /// Metrics of one's own.
        #[prost(message, repeated, tag = "9")]
        pub definitions: Vec<MetricDefinition>,
        /// Who reports.
        #[prost(enumeration = "Reporter", tag = "10")]
        pub reporter: i32,
        /// Deprecated.
        #[prost(message, optional, tag = "11")]
        pub rotation_interval: Option<Duration>,
        /// Deprecated.
        #[prost(message, optional, tag = "12")]
        pub graceful_deletion_interval: Option<Duration>,
    }

    /// Changes to one metric.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricConfig {
        /// Labels set to an expression.
        #[prost(map = "string, string", tag = "1")]
        pub dimensions: HashMap<String, String>,
        /// Metric; empty is all.
        #[prost(string, tag = "2")]
        pub name: String,
        /// Labels removed.
        #[prost(string, repeated, tag = "3")]
        pub tags_to_remove: Vec<String>,
        /// Not implemented anywhere.
        #[prost(string, tag = "4")]
        pub r#match: String,
        /// Not exported.
        #[prost(bool, tag = "5")]
        pub drop: bool,
    }

    /// A metric of one's own.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricDefinition {
        /// Name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Value expression.
        #[prost(string, tag = "2")]
        pub value: String,
        /// Kind.
        #[prost(enumeration = "MetricType", tag = "3")]
        pub r#type: i32,
    }

    /// Kinds of metrics.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum MetricType {
        /// Counter.
        Counter = 0,
        /// Gauge.
        Gauge = 1,
        /// Histogram.
        Histogram = 2,
    }

    /// Who reports.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum Reporter {
        /// A sidecar: client or server by direction.
        Unspecified = 0,
        /// A waypoint.
        ServerGateway = 1,
    }

    impl prost::Name for PluginConfig {
        const NAME: &'static str = "PluginConfig";
        const PACKAGE: &'static str = "stats";
    }
}
