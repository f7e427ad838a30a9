//! `DestinationRule`: what happens to traffic for a service after routing.

mod connection_pool;
mod load_balancer;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::connection_pool::*;
pub use self::load_balancer::*;
use crate::meta::{AGE, Column, Spec};
use crate::scalars::{Duration, PortSelector};
use crate::schema::Nullable;
use crate::selection::WorkloadSelector;

/// Policies for traffic to a service after routing: balancing, pools, TLS, ejection, subsets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["host"]))]
pub struct DestinationRule {
    /// Host of the service; a short name belongs to the rule's own namespace.
    pub host: String,
    /// Policy for all of the service's traffic.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named groups of endpoints with policies of their own.
    pub subsets: Vec<Subset>,
    /// Namespaces in which the rule applies: `.`, `*` or names; none means the mesh's default.
    pub export_to: Vec<String>,
    /// Client workloads, in the rule's own namespace, that the rule is for; none means all.
    pub workload_selector: Option<WorkloadSelector>,
}

impl Spec for DestinationRule {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "DestinationRule";
    const PLURAL: &'static str = "destinationrules";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["dr"];
    const COLUMNS: &'static [Column] = &[
        Column::new("Host", ".spec.host", "Host of the service."),
        AGE,
    ];
}

/// A named group of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct Subset {
    /// Name, used by routes.
    pub name: String,
    /// Labels of the endpoints; none means all of them.
    pub labels: BTreeMap<String, String>,
    /// Policy of the subset; each block given replaces the rule's.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Policies for traffic to a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// How endpoints are chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits on connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTls>,
    /// Policies of single ports; a port's entry replaces the policy above as a whole.
    #[schemars(length(max = 4096))]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Tunnels TCP and TLS routes through the endpoint.
    pub tunnel: Option<Tunnel>,
    /// Sends the PROXY protocol to the endpoints.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limits retries to a share of the active requests.
    pub retry_budget: Option<RetryBudget>,
}

/// Policies for traffic to one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The service's port.
    pub port: Option<PortSelector>,
    /// How endpoints are chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits on connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTls>,
}

/// TLS of outgoing connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Whether to use TLS and with which certificates.
    pub mode: ClientTlsMode,
    /// File with the client's certificate chain.
    pub client_certificate: String,
    /// File with the client's private key.
    pub private_key: String,
    /// File with the authorities that the server's certificate is checked against; the system's when empty.
    pub ca_certificates: String,
    /// File with the revocation list for server certificates.
    pub ca_crl: String,
    /// Secret with key and certificates, for gateways and for rules with a workload selector.
    pub credential_name: String,
    /// Names, one of which the server's certificate has to carry.
    pub subject_alt_names: Vec<String>,
    /// Server name to send.
    pub sni: String,
    /// Skips the check of the server's certificate.
    #[schemars(with = "Nullable<bool>")]
    pub insecure_skip_verify: Option<bool>,
}

/// How outgoing connections use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// The server shows a certificate.
    Simple,
    /// Both sides show certificates, the client one that the user provides.
    Mutual,
    /// Both sides show the mesh's own certificates.
    IstioMutual,
}

/// When an endpoint is taken out of service for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Without effect; use `consecutive5xxErrors`.
    pub consecutive_errors: i32,
    /// Whether failures to connect are counted apart from answers.
    pub split_external_local_origin_errors: bool,
    /// Failures to connect in a row before ejection, when they are counted apart.
    #[schemars(with = "Nullable<u32>")]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Answers 502, 503 or 504 in a row before ejection; 0 turns it off.
    #[schemars(with = "Nullable<u32>")]
    pub consecutive_gateway_errors: Option<u32>,
    /// Answers of the 500s in a row before ejection; 5 when unset, 0 turns it off.
    #[serde(rename = "consecutive5xxErrors")]
    #[schemars(with = "Nullable<u32>")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Pause between two checks; 10 s when unset.
    pub interval: Option<Duration>,
    /// Shortest ejection; it grows with every ejection of the endpoint. 30 s when unset.
    pub base_ejection_time: Option<Duration>,
    /// Largest share of ejected endpoints; 10 % when unset.
    pub max_ejection_percent: i32,
    /// Share of healthy endpoints below which ejection stops.
    pub min_health_percent: i32,
    /// Status codes that count as failures, in place of the 500s.
    #[schemars(inner(range(min = 100, max = 599)))]
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// Tunnels connections through the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["targetHost", "targetPort"]))]
pub struct Tunnel {
    /// `CONNECT` or `POST`; `CONNECT` when empty.
    pub protocol: String,
    /// Host to ask the endpoint for.
    pub target_host: String,
    /// Port to ask the endpoint for.
    pub target_port: u32,
}

/// PROXY protocol towards the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Version of the protocol.
    pub version: ProxyProtocolVersion,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}

/// Limits the retries that may run at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Share of the active and pending requests that may be retries; 20 when unset.
    #[schemars(with = "Nullable<f64>", range(min = 0, max = 100))]
    pub percent: Option<f64>,
    /// Time over which requests are counted.
    #[schemars(with = "String")]
    pub budget_interval: Option<Duration>,
    /// Retries that are always allowed; 3 when unset.
    pub min_retry_concurrency: u32,
}
