//! `PeerAuthentication`: which callers have to use mutual TLS.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{AGE, Column, Spec};
use crate::schema::rule;
use crate::selection::WorkloadSelector;

/// Says whether callers of a workload have to use mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(PORTS_NEED_SELECTOR, "portLevelMtls requires selector")]))]
pub struct PeerAuthentication {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// For every port; inherited when unset.
    pub mtls: Option<MutualTls>,
    /// For single ports of the workload.
    #[schemars(extend("minProperties" = 1, "x-kubernetes-validations" = [
        rule("self.all(key, 0 < int(key) && int(key) <= 65535)", "port must be between 1-65535")
    ]))]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

impl Spec for PeerAuthentication {
    const GROUP: &'static str = "security.istio.io";
    const KIND: &'static str = "PeerAuthentication";
    const PLURAL: &'static str = "peerauthentications";
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["pa"];
    const COLUMNS: &'static [Column] = &[
        Column::new(
            "Mode",
            ".spec.mtls.mode",
            "Whether callers have to use mutual TLS.",
        ),
        AGE,
    ];
}

const PORTS_NEED_SELECTOR: &str = "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? self.selector.matchLabels : {}).size() > 0) : true";

/// Whether mutual TLS is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// Mode.
    pub mode: MutualTlsMode,
}

/// Whether mutual TLS is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// As the wider scope says; `PERMISSIVE` when none does.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}
