//! `EnvoyFilter`: changes to the generated proxy configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::Spec;
use crate::schema::{at_most_one, free_form, port_rules, rule};
use crate::selection::{LabelSelector, TargetRef};

/// Changes the configuration that the control plane generates for proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
    "only one of targetRefs or workloadSelector can be set"
)]))]
pub struct EnvoyFilter {
    /// Workloads of the namespace that this is for; none means all of them.
    pub workload_selector: Option<LabelSelector>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Changes, in order.
    pub config_patches: Vec<ConfigPatch>,
    /// Order among several objects; lower ones come first.
    pub priority: i32,
}

impl Spec for EnvoyFilter {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "EnvoyFilter";
    const PLURAL: &'static str = "envoyfilters";
    const VERSIONS: &'static [&'static str] = &["v1alpha3"];
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigPatch {
    /// Kind of configuration that is changed.
    pub apply_to: ApplyTo,
    /// Which piece of it; none means every one.
    #[serde(rename = "match")]
    pub matches: Option<PatchMatch>,
    /// The change.
    pub patch: Option<Patch>,
}

/// Kind of configuration that a patch changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApplyTo {
    /// Not stated.
    #[default]
    Invalid,
    /// A listener.
    Listener,
    /// A chain of a listener.
    FilterChain,
    /// A network filter of a chain.
    NetworkFilter,
    /// An HTTP filter of a connection manager.
    HttpFilter,
    /// A route configuration.
    RouteConfiguration,
    /// A virtual host of a route configuration.
    VirtualHost,
    /// A route of a virtual host.
    HttpRoute,
    /// A cluster.
    Cluster,
    /// A configuration that filters fetch.
    ExtensionConfig,
    /// The bootstrap.
    Bootstrap,
    /// A listener filter.
    ListenerFilter,
}

/// Which piece of the configuration is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend(
    "oneOf" = at_most_one(&["listener", "routeConfiguration", "cluster", "waypoint"]),
    "x-kubernetes-validations" = [rule(
        "has(self.context) ? ((self.context == \"WAYPOINT\") ? has(self.waypoint) : !has(self.waypoint)) : !has(self.waypoint)",
        "only support waypointMatch when context is WAYPOINT"
    )]
))]
pub struct PatchMatch {
    /// Kind of proxy and direction.
    pub context: PatchContext,
    /// Properties of the proxy.
    pub proxy: Option<ProxyMatch>,
    /// Properties of the listener.
    pub listener: Option<ListenerMatch>,
    /// Properties of the route configuration.
    pub route_configuration: Option<RouteConfigurationMatch>,
    /// Properties of the cluster.
    pub cluster: Option<ClusterMatch>,
    /// Properties of a waypoint's configuration.
    pub waypoint: Option<WaypointMatch>,
}

/// Kind of proxy and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PatchContext {
    /// Every one.
    #[default]
    Any,
    /// Towards a sidecar's workload.
    SidecarInbound,
    /// From a sidecar's workload.
    SidecarOutbound,
    /// A gateway.
    Gateway,
    /// A waypoint.
    Waypoint,
}

/// Properties of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyMatch {
    /// Regular expression for the proxy's version.
    pub proxy_version: String,
    /// Entries of the node's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Properties of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerMatch {
    /// Port.
    pub port_number: u32,
    /// Name of the port.
    pub port_name: String,
    /// Properties of a chain.
    pub filter_chain: Option<FilterChainMatch>,
    /// Name of a listener filter.
    pub listener_filter: String,
    /// Name of the listener.
    pub name: String,
}

/// Properties of a filter chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterChainMatch {
    /// Name.
    pub name: String,
    /// Server name of its condition.
    pub sni: String,
    /// Transport of its condition.
    pub transport_protocol: String,
    /// Application protocols of its condition, separated by commas.
    pub application_protocols: String,
    /// A network filter of the chain.
    pub filter: Option<FilterMatch>,
    /// Destination port of its condition.
    pub destination_port: u32,
    /// Name of its transport socket.
    pub transport_socket: String,
}

/// A network filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterMatch {
    /// Name.
    pub name: String,
    /// A filter within it.
    pub sub_filter: Option<SubFilterMatch>,
}

/// A filter within a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubFilterMatch {
    /// Name.
    pub name: String,
}

/// Properties of a route configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteConfigurationMatch {
    /// Port.
    pub port_number: u32,
    /// Name of the port.
    pub port_name: String,
    /// Gateway, as `namespace/name`.
    pub gateway: String,
    /// A virtual host.
    pub vhost: Option<VirtualHostMatch>,
    /// Name.
    pub name: String,
}

/// Properties of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualHostMatch {
    /// Name.
    pub name: String,
    /// A route.
    pub route: Option<RouteMatch>,
    /// One of its domains.
    pub domain_name: String,
}

/// Properties of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteMatch {
    /// Name.
    pub name: String,
    /// What the route does.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RouteAction {
    /// Anything.
    #[default]
    Any,
    /// Forwards.
    Route,
    /// Redirects.
    Redirect,
    /// Answers.
    DirectResponse,
}

/// Properties of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterMatch {
    /// Port.
    pub port_number: u32,
    /// Host of the service.
    pub service: String,
    /// Subset.
    pub subset: String,
    /// Name.
    pub name: String,
}

/// Properties of a waypoint's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WaypointMatch {
    /// Port of the service.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub port_number: u32,
    /// A network filter.
    pub filter: Option<FilterMatch>,
    /// A route.
    pub route: Option<WaypointRouteMatch>,
}

/// A route of a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WaypointRouteMatch {
    /// Name.
    pub name: String,
}

/// A change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Patch {
    /// What is done.
    pub operation: PatchOperation,
    /// The configuration to merge, add or put in place.
    #[schemars(schema_with = "free_form")]
    pub value: Option<Value>,
    /// Where an added filter belongs.
    pub filter_class: FilterClass,
}

/// What a patch does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PatchOperation {
    /// Not stated.
    #[default]
    Invalid,
    /// Merges into what is there.
    Merge,
    /// Adds at the end.
    Add,
    /// Removes.
    Remove,
    /// Adds before the match.
    InsertBefore,
    /// Adds after the match.
    InsertAfter,
    /// Adds at the beginning.
    InsertFirst,
    /// Replaces what is there.
    Replace,
    /// Merges, and replaces lists instead of extending them.
    MergeAndReplaceList,
}

/// Where an added filter belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FilterClass {
    /// Where the match says.
    #[default]
    Unspecified,
    /// After authentication.
    Authn,
    /// After authorization.
    Authz,
    /// Before statistics.
    Stats,
}
