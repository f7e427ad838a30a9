//! Limits on connections and requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalars::Duration;

/// Limits on connections and requests to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// For every connection.
    pub tcp: Option<TcpPool>,
    /// For HTTP on top.
    pub http: Option<HttpPool>,
}

/// Limits on connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// Connections at once; unlimited when 0.
    pub max_connections: i32,
    /// Longest time to connect; the mesh's setting when unset.
    pub connect_timeout: Option<Duration>,
    /// Keep-alive probes on idle connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Closes connections without traffic after this time; 1 h when unset, `0s` never.
    #[schemars(with = "String")]
    pub idle_timeout: Option<Duration>,
}

/// Keep-alive probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: u32,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
}

/// Limits on HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Requests that may wait for a connection; unlimited when 0.
    #[serde(rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: i32,
    /// Requests that may be active at once; unlimited when 0.
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: i32,
    /// Requests on one connection before it is closed; unlimited when 0, no keep-alive when 1.
    pub max_requests_per_connection: i32,
    /// Retries that may be active at once; unlimited when 0.
    pub max_retries: i32,
    /// Closes connections without requests after this time; 1 h when unset.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 requests are sent as HTTP/2.
    #[serde(rename = "h2UpgradePolicy")]
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Keeps the client's version of HTTP.
    pub use_client_protocol: bool,
    /// Streams on one HTTP/2 connection.
    pub max_concurrent_streams: i32,
    /// Pings on HTTP/2 connections.
    #[serde(rename = "http2KeepAlive")]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether HTTP/1.1 is sent as HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// As the mesh is set.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// Pings on HTTP/2 connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2KeepAlive {
    /// Pause between pings.
    pub interval: Option<Duration>,
    /// Longest time to wait for the answer.
    pub timeout: Option<Duration>,
}
