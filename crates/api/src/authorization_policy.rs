//! `AuthorizationPolicy`: who may do what with a workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{AGE, Column, Spec};
use crate::schema::{at_most_one, rule};
use crate::selection::{TargetRef, WorkloadSelector, one_selection};

/// Says which requests a workload accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend(
    "oneOf" = at_most_one(&["provider"]),
    "x-kubernetes-validations" = [one_selection("selector", &["selector", "targetRef", "targetRefs"])]
))]
pub struct AuthorizationPolicy {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Use `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Rules, any of which has to match; none never matches.
    #[schemars(length(max = 512))]
    pub rules: Vec<Rule>,
    /// What happens to requests that match.
    pub action: Action,
    /// Decides in place of the rules, for the action `CUSTOM`.
    pub provider: Option<Provider>,
}

impl Spec for AuthorizationPolicy {
    const GROUP: &'static str = "security.istio.io";
    const KIND: &'static str = "AuthorizationPolicy";
    const PLURAL: &'static str = "authorizationpolicies";
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["ap"];
    const COLUMNS: &'static [Column] = &[
        Column::new(
            "Action",
            ".spec.action",
            "What happens to requests that match.",
        ),
        AGE,
    ];
}

/// What happens to requests that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// They are accepted, and others are refused.
    #[default]
    Allow,
    /// They are refused.
    Deny,
    /// They are noted.
    Audit,
    /// An external service decides.
    Custom,
}

/// An external service that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Provider {
    /// Its name in the mesh's configuration.
    pub name: String,
}

/// Conditions on a request; all have to hold, and an empty one always does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Who asks; any of these.
    #[schemars(length(max = 512))]
    pub from: Vec<From>,
    /// What is asked for; any of these.
    pub to: Vec<To>,
    /// Further conditions; all of these.
    pub when: Vec<Condition>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct From {
    /// Properties of the caller.
    pub source: Option<Source>,
}

/// Properties of a caller; all have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) &&\n!has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true",
    "Cannot set serviceAccounts with namespaces or principals"
)]))]
pub struct Source {
    /// Identities, as `trust-domain/ns/namespace/sa/account`.
    pub principals: Vec<String>,
    /// Identities that do not match.
    pub not_principals: Vec<String>,
    /// Identities of end users, as `issuer/subject`.
    pub request_principals: Vec<String>,
    /// Identities of end users that do not match.
    pub not_request_principals: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Namespaces that do not match.
    pub not_namespaces: Vec<String>,
    /// Addresses of the connection's peer.
    pub ip_blocks: Vec<String>,
    /// Addresses of the connection's peer that do not match.
    pub not_ip_blocks: Vec<String>,
    /// Addresses of the original client.
    pub remote_ip_blocks: Vec<String>,
    /// Addresses of the original client that do not match.
    pub not_remote_ip_blocks: Vec<String>,
    /// Service accounts, as `namespace/account` or `account`.
    #[schemars(length(max = 16), inner(length(max = 320)))]
    pub service_accounts: Vec<String>,
    /// Service accounts that do not match.
    #[schemars(length(max = 16), inner(length(max = 320)))]
    pub not_service_accounts: Vec<String>,
    /// Trust domains.
    pub trust_domains: Vec<String>,
    /// Trust domains that do not match.
    pub not_trust_domains: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct To {
    /// Properties of the request.
    pub operation: Option<Operation>,
}

/// Properties of a request; all have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Hosts.
    pub hosts: Vec<String>,
    /// Hosts that do not match.
    pub not_hosts: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// Ports that do not match.
    pub not_ports: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Methods that do not match.
    pub not_methods: Vec<String>,
    /// Paths.
    pub paths: Vec<String>,
    /// Paths that do not match.
    pub not_paths: Vec<String>,
}

/// A condition on an attribute of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct Condition {
    /// Name of the attribute.
    pub key: String,
    /// Values, one of which has to match.
    pub values: Vec<String>,
    /// Values, none of which may match.
    pub not_values: Vec<String>,
}
