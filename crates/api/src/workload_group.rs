//! `WorkloadGroup`: a template for workloads outside Kubernetes that register themselves.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{AGE, Column, Spec};
use crate::schema::{at_most_one, port_rules, rule};
use crate::workload_entry::{UDS_WITHOUT_PORTS, address_rules, ports_rules};

/// A template for the workload entries of workloads that register themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["template"]))]
pub struct WorkloadGroup {
    /// Metadata of the entries.
    pub metadata: Option<GroupMetadata>,
    /// Everything else of the entries.
    pub template: Option<WorkloadTemplate>,
    /// How to tell whether a workload is healthy.
    pub probe: Option<ReadinessProbe>,
}

impl Spec for WorkloadGroup {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "WorkloadGroup";
    const PLURAL: &'static str = "workloadgroups";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["wg"];
    const COLUMNS: &'static [Column] = &[AGE];
    const SPEC_REQUIRED: bool = true;
}

/// Labels and annotations of workload entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupMetadata {
    /// Labels.
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[schemars(extend("maxProperties" = 256))]
    pub annotations: BTreeMap<String, String>,
}

/// A workload entry without an address of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(UDS_WITHOUT_PORTS, "UDS may not include ports")]))]
pub struct WorkloadTemplate {
    /// Address; left out, because every workload brings its own.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = address_rules()))]
    pub address: String,
    /// Ports of the workload by the service port's name, where they differ.
    #[schemars(transform = ports_rules)]
    pub ports: BTreeMap<String, u32>,
    /// Labels of the workload.
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Network of the workload.
    #[schemars(length(max = 2048))]
    pub network: String,
    /// Place of the workload, as `region/zone/subzone`.
    #[schemars(length(max = 2048))]
    pub locality: String,
    /// Share of the traffic, relative to other endpoints.
    pub weight: u32,
    /// Service account whose identity the workload has.
    #[schemars(length(max = 253))]
    pub service_account: String,
}

/// How to tell whether a workload is healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["httpGet", "tcpSocket", "exec", "grpc"])))]
pub struct ReadinessProbe {
    /// Seconds before the first probe.
    #[schemars(range(min = 0))]
    pub initial_delay_seconds: i32,
    /// Seconds after which a probe has failed; 1 when unset.
    #[schemars(range(min = 0))]
    pub timeout_seconds: i32,
    /// Seconds between probes; 10 when unset.
    #[schemars(range(min = 0))]
    pub period_seconds: i32,
    /// Successes in a row that make a workload healthy; 1 when unset.
    #[schemars(range(min = 0))]
    pub success_threshold: i32,
    /// Failures in a row that make a workload unhealthy; 3 when unset.
    #[schemars(range(min = 0))]
    pub failure_threshold: i32,
    /// A request whose answer tells.
    pub http_get: Option<HttpProbe>,
    /// A connection whose success tells.
    pub tcp_socket: Option<TcpProbe>,
    /// A command whose exit status tells.
    pub exec: Option<ExecProbe>,
    /// A call of the gRPC health service.
    pub grpc: Option<GrpcProbe>,
}

/// A request whose answer tells whether a workload is healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct HttpProbe {
    /// Path.
    pub path: String,
    /// Port.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub port: u32,
    /// Host; the workload itself when empty.
    pub host: String,
    /// `HTTP` or `HTTPS`; `HTTP` when empty.
    #[schemars(extend("x-kubernetes-validations" = [
        rule(r#"self in ["", "HTTP", "HTTPS"]"#, "scheme must be one of [HTTP, HTTPS]")
    ]))]
    pub scheme: String,
    /// Headers to send.
    pub http_headers: Vec<HttpHeader>,
}

/// A header to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHeader {
    /// Name.
    #[schemars(regex(pattern = "^[-_A-Za-z0-9]+$"))]
    pub name: String,
    /// Value.
    pub value: String,
}

/// A connection whose success tells whether a workload is healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct TcpProbe {
    /// Host; the workload itself when empty.
    pub host: String,
    /// Port.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub port: u32,
}

/// A command whose exit status tells whether a workload is healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["command"]))]
pub struct ExecProbe {
    /// Program and arguments.
    #[schemars(inner(length(min = 1)))]
    pub command: Vec<String>,
}

/// A call of the gRPC health service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcProbe {
    /// Port.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub port: u32,
    /// Service to ask about.
    pub service: String,
}
