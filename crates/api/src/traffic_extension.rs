//! `TrafficExtension`: a WebAssembly module or a Lua script in the filter chain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::{AGE, Column, Spec};
use crate::schema::{Nullable, at_most_one, free_form, rule};
use crate::selection::{TargetRef, WorkloadSelector, one_selection};
use crate::wasm_plugin::{
    FailStrategy, PluginType, PullPolicy, TrafficSelector, VmConfig, url_rules,
};

/// Puts a WebAssembly module or a Lua script into the filter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend(
    "oneOf" = at_most_one(&["wasm", "lua"]),
    "x-kubernetes-validations" = [
        one_selection("selector", &["selector", "targetRefs"]),
        rule("has(self.wasm) != has(self.lua)", "exactly one of wasm or lua must be set")
    ]
))]
pub struct TrafficExtension {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Where in the chain.
    pub phase: ExtensionPhase,
    /// Order within a phase; higher ones come first.
    #[schemars(with = "Nullable<i32>")]
    pub priority: Option<i32>,
    /// Which traffic; any of these, none means all.
    #[serde(rename = "match")]
    pub matches: Vec<TrafficSelector>,
    /// A WebAssembly module.
    pub wasm: Option<WasmExtension>,
    /// A Lua script.
    pub lua: Option<LuaExtension>,
}

impl Spec for TrafficExtension {
    const GROUP: &'static str = "extensions.istio.io";
    const KIND: &'static str = "TrafficExtension";
    const PLURAL: &'static str = "trafficextensions";
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const COLUMNS: &'static [Column] = &[AGE];
    const SPEC_REQUIRED: bool = true;
}

/// Where in the chain an extension sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExtensionPhase {
    /// At the end, before the router.
    #[default]
    Unspecified,
    /// Before authentication.
    Authn,
    /// Before authorization.
    Authz,
    /// Before statistics.
    Stats,
}

/// A WebAssembly module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct WasmExtension {
    /// Where the module is: `http`, `https`, `oci` or `file`; `oci` when the scheme is left out.
    #[schemars(length(min = 1), extend("x-kubernetes-validations" = url_rules(&["file", "oci"])))]
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
}

/// A Lua script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["inlineCode"]))]
pub struct LuaExtension {
    /// The script.
    #[schemars(length(min = 1, max = 65536))]
    pub inline_code: String,
}
