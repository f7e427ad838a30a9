//! `Telemetry`: what is measured, logged and traced.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{AGE, Column, Spec};
use crate::scalars::Duration;
use crate::schema::{Nullable, at_most_one, rule};
use crate::selection::{TargetRef, WorkloadSelector, one_selection};

/// Says what proxies measure, log and trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [one_selection("selector", &["selector", "targetRef", "targetRefs"])]))]
pub struct Telemetry {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Use `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Traces.
    pub tracing: Vec<Tracing>,
    /// Metrics.
    pub metrics: Vec<Metrics>,
    /// Access logs.
    pub access_logging: Vec<AccessLogging>,
}

impl Spec for Telemetry {
    const GROUP: &'static str = "telemetry.istio.io";
    const KIND: &'static str = "Telemetry";
    const PLURAL: &'static str = "telemetries";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha1"];
    const STORAGE: &'static str = "v1alpha1";
    const SHORT_NAMES: &'static [&'static str] = &["telemetry"];
    const COLUMNS: &'static [Column] = &[AGE];
}

/// A provider of the mesh's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct ProviderRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// Which traffic settings are for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModeMatch {
    /// Side.
    pub mode: WorkloadMode,
}

/// Side of the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkloadMode {
    /// Both.
    #[default]
    ClientAndServer,
    /// Traffic that the workload sends.
    Client,
    /// Traffic that the workload receives.
    Server,
}

/// Settings of traces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Which traffic this is for.
    #[serde(rename = "match")]
    pub matches: Option<ModeMatch>,
    /// Where spans are sent.
    pub providers: Vec<ProviderRef>,
    /// Share of the requests that a new trace is started for.
    #[schemars(with = "Nullable<f64>", range(min = 0, max = 100))]
    pub random_sampling_percentage: Option<f64>,
    /// Sends no spans.
    #[schemars(with = "Nullable<bool>")]
    pub disable_span_reporting: Option<bool>,
    /// Passes no trace headers on.
    #[schemars(with = "Nullable<bool>")]
    pub disable_context_propagation: Option<bool>,
    /// Further tags of spans.
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Uses the request id for the choice of traces.
    #[schemars(with = "Nullable<bool>")]
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Adds the mesh's own tags.
    #[schemars(with = "Nullable<bool>")]
    pub enable_istio_tags: Option<bool>,
}

/// A further tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["literal", "environment", "header", "formatter"])))]
pub struct CustomTag {
    /// A fixed value.
    pub literal: Option<LiteralTag>,
    /// From the proxy's environment.
    pub environment: Option<LookupTag>,
    /// From a header.
    pub header: Option<LookupTag>,
    /// From an access log format.
    pub formatter: Option<LiteralTag>,
}

/// A value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["value"]))]
pub struct LiteralTag {
    /// The value.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// A value that is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct LookupTag {
    /// Name to look up.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Value when there is none.
    pub default_value: String,
}

/// Settings of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// Where metrics go.
    pub providers: Vec<ProviderRef>,
    /// Changes, in order.
    pub overrides: Vec<MetricsOverride>,
    /// Pause between reports.
    pub reporting_interval: Option<Duration>,
}

/// A change of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// Which metrics; none means all.
    #[serde(rename = "match")]
    pub matches: Option<MetricMatch>,
    /// Turns them off.
    #[schemars(with = "Nullable<bool>")]
    pub disabled: Option<bool>,
    /// Changes their labels.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Which metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["metric", "customMetric"])))]
pub struct MetricMatch {
    /// One of the standard ones.
    pub metric: Option<StandardMetric>,
    /// Any other, by name.
    #[schemars(length(min = 1))]
    pub custom_metric: Option<String>,
    /// Side.
    pub mode: WorkloadMode,
}

/// A standard metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StandardMetric {
    /// All of them.
    #[default]
    AllMetrics,
    /// `istio_requests_total`.
    RequestCount,
    /// `istio_request_duration_milliseconds`.
    RequestDuration,
    /// `istio_request_bytes`.
    RequestSize,
    /// `istio_response_bytes`.
    ResponseSize,
    /// `istio_tcp_connections_opened_total`.
    TcpOpenedConnections,
    /// `istio_tcp_connections_closed_total`.
    TcpClosedConnections,
    /// `istio_tcp_sent_bytes_total`.
    TcpSentBytes,
    /// `istio_tcp_received_bytes_total`.
    TcpReceivedBytes,
    /// `istio_request_messages_total`.
    GrpcRequestMessages,
    /// `istio_response_messages_total`.
    GrpcResponseMessages,
}

/// A change of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "((has(self.operation) ? self.operation : \"\") == \"UPSERT\") ? (self.value != \"\") : true",
        "value must be set when operation is UPSERT"
    ),
    rule(
        "((has(self.operation) ? self.operation : \"\") == \"REMOVE\") ? !has(self.value) : true",
        "value must not be set when operation is REMOVE"
    )
]))]
pub struct TagOverride {
    /// What is done.
    pub operation: TagOperation,
    /// Expression for the value.
    pub value: String,
}

/// What is done with a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TagOperation {
    /// Sets it.
    #[default]
    Upsert,
    /// Removes it.
    Remove,
}

/// Settings of access logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessLogging {
    /// Which traffic this is for.
    #[serde(rename = "match")]
    pub matches: Option<ModeMatch>,
    /// Where logs go.
    pub providers: Vec<ProviderRef>,
    /// Turns logs off.
    #[schemars(with = "Nullable<bool>")]
    pub disabled: Option<bool>,
    /// Which requests are logged.
    pub filter: Option<LogFilter>,
}

/// Which requests are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LogFilter {
    /// CEL expression.
    pub expression: String,
}
