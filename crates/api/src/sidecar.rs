//! `Sidecar`: what a sidecar listens on and which services it knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::destination_rule::ConnectionPool;
use crate::gateway::ServerTls;
use crate::meta::Spec;
use crate::selection::LabelSelector;
use crate::virtual_service::Destination;

/// Narrows what sidecars listen on and which services they know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Workloads of the namespace that this is for; none means all of them.
    pub workload_selector: Option<LabelSelector>,
    /// Ports on which the workload is reached; none means what its services say.
    pub ingress: Vec<IngressListener>,
    /// What the workload may reach; none means every visible service.
    pub egress: Vec<EgressListener>,
    /// Limits on connections from the sidecar to its workload.
    pub inbound_connection_pool: Option<ConnectionPool>,
    /// What happens to traffic for destinations that are not known.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

impl Spec for Sidecar {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "Sidecar";
    const PLURAL: &'static str = "sidecars";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
}

/// A port on which a workload is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct IngressListener {
    /// The port.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic gets to the listener.
    pub capture_mode: CaptureMode,
    /// Where the workload listens, as `127.0.0.1:port`, `0.0.0.0:port` or `unix://path`.
    pub default_endpoint: String,
    /// TLS of the listener.
    pub tls: Option<ServerTls>,
    /// Limits on connections to the workload, in place of the sidecar's.
    pub connection_pool: Option<ConnectionPool>,
}

/// What a workload may reach through one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["hosts"]))]
pub struct EgressListener {
    /// The port; none means every port of the hosts.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic gets to the listener.
    pub capture_mode: CaptureMode,
    /// Services, as `namespace/dnsName`; the namespace may be `*`, `.` or `~`.
    pub hosts: Vec<String>,
}

/// A port of a sidecar's listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarPort {
    /// Port number.
    pub number: u32,
    /// Protocol.
    pub protocol: String,
    /// Name.
    pub name: String,
    /// Accepted and without effect.
    pub target_port: Option<u32>,
}

/// How traffic gets to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the environment is set up.
    #[default]
    Default,
    /// By redirection.
    Iptables,
    /// The application addresses the listener itself.
    None,
}

/// What happens to traffic for destinations that are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    /// Whether it is let out.
    pub mode: OutboundMode,
    /// Service that such traffic is sent to.
    pub egress_proxy: Option<Destination>,
}

/// Whether traffic for unknown destinations is let out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// It is dropped.
    #[default]
    RegistryOnly,
    /// It is forwarded as it is.
    AllowAny,
}
