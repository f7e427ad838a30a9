//! `WasmPlugin`: a WebAssembly module in the filter chain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::meta::{AGE, Column, Spec};
use crate::schema::{Nullable, free_form, rule};
use crate::selection::{TargetRef, WorkloadSelector, one_selection};

/// Puts a WebAssembly module into the filter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend(
    "required" = ["url"],
    "x-kubernetes-validations" = [one_selection("selector", &["selector", "targetRef", "targetRefs"])]
))]
pub struct WasmPlugin {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Use `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Where the module is: `http`, `https`, `oci` or `file`; `oci` when the scheme is left out.
    #[schemars(length(min = 1), extend("x-kubernetes-validations" = url_rules(&["oci", "file"])))]
    pub url: String,
    /// Hexadecimal SHA-256 of the module.
    #[schemars(regex(pattern = "(^$|^[a-f0-9]{64}$)"))]
    pub sha256: String,
    /// When an image is fetched.
    pub image_pull_policy: PullPolicy,
    /// Secret with the registry's credentials.
    #[schemars(length(min = 1, max = 253))]
    pub image_pull_secret: String,
    /// Accepted and without effect.
    pub verification_key: String,
    /// Configuration for the module.
    #[schemars(schema_with = "free_form")]
    pub plugin_config: Option<Value>,
    /// Name of the module's root context.
    #[schemars(length(min = 1, max = 256))]
    pub plugin_name: String,
    /// What happens when the module fails.
    pub fail_strategy: FailStrategy,
    /// Environment of the module's machine.
    pub vm_config: Option<VmConfig>,
    /// Kind of filter.
    #[serde(rename = "type")]
    pub kind: PluginType,
    /// Where in the chain.
    pub phase: PluginPhase,
    /// Order within a phase; higher ones come first.
    #[schemars(with = "Nullable<i32>")]
    pub priority: Option<i32>,
    /// Which traffic; any of these, none means all.
    #[serde(rename = "match")]
    pub matches: Vec<TrafficSelector>,
}

impl Spec for WasmPlugin {
    const GROUP: &'static str = "extensions.istio.io";
    const KIND: &'static str = "WasmPlugin";
    const PLURAL: &'static str = "wasmplugins";
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const COLUMNS: &'static [Column] = &[AGE];
    const SPEC_REQUIRED: bool = true;
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// `Always` for the tag `latest`, else `IfNotPresent`.
    #[default]
    #[serde(rename = "UNSPECIFIED_POLICY")]
    Unspecified,
    /// When it is not there yet.
    IfNotPresent,
    /// Every time.
    Always,
}

/// What happens when a module fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    /// Requests are refused.
    #[default]
    FailClose,
    /// Requests pass without the module.
    FailOpen,
    /// The module is started again.
    FailReload,
}

/// Kind of filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginType {
    /// As `HTTP`.
    #[default]
    UnspecifiedPluginType,
    /// For requests.
    Http,
    /// For connections.
    Network,
}

/// Where in the chain a plug-in sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginPhase {
    /// At the end, before the router.
    #[default]
    UnspecifiedPhase,
    /// Before authentication.
    Authn,
    /// Before authorization.
    Authz,
    /// Before statistics.
    Stats,
}

/// Which traffic; all conditions have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSelector {
    /// Side.
    pub mode: TrafficMode,
    /// Ports, any of these; none means all.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub ports: Vec<PortNumber>,
}

/// Side of the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrafficMode {
    /// As `CLIENT_AND_SERVER`.
    #[default]
    Undefined,
    /// Traffic that the workload sends.
    Client,
    /// Traffic that the workload receives.
    Server,
    /// Both.
    ClientAndServer,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["number"]))]
pub struct PortNumber {
    /// Its number.
    #[schemars(range(min = 1, max = 65535))]
    pub number: u32,
}

/// Environment of a module's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VmConfig {
    /// Environment variables.
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub env: Vec<EnvVar>,
}

/// An environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"], "x-kubernetes-validations" = [rule(
    "(has(self.valueFrom) ? self.valueFrom : \"\") != \"HOST\" || !has(self.value)",
    "value may only be set when valueFrom is INLINE"
)]))]
pub struct EnvVar {
    /// Name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Where the value comes from.
    pub value_from: EnvValueSource,
    /// Value.
    #[schemars(length(max = 2048))]
    pub value: String,
}

/// Where a variable's value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EnvValueSource {
    /// It is given.
    #[default]
    Inline,
    /// The proxy's environment.
    Host,
}

/// Rules for a module's address; `last` gives the order of the two least usual schemes.
pub(crate) fn url_rules(last: &[&str; 2]) -> Value {
    let schemes = format!(r#"["", "http", "https", "{}", "{}"]"#, last[0], last[1]);
    let test = format!(
        "isURL(self) ? (url(self).getScheme() in {schemes}) : (isURL(\"http://\" + self) &&\nurl(\"http://\" + self).getScheme() in {schemes})"
    );
    json!([rule(
        &test,
        "url must have schema one of [http, https, file, oci]"
    )])
}
