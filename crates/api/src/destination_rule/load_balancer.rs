//! How endpoints are chosen.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::scalars::Duration;
use crate::schema::{Nullable, at_most_one};

/// How the endpoint for a request is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["simple", "consistentHash", "backendUtilization"])))]
pub struct LoadBalancer {
    /// An algorithm without settings.
    pub simple: Option<SimpleLb>,
    /// Requests with the same key go to the same endpoint.
    pub consistent_hash: Option<ConsistentHash>,
    /// Chooses by the load that endpoints report.
    pub backend_utilization: Option<BackendUtilization>,
    /// Prefers endpoints by place, in place of the mesh's setting.
    pub locality_lb_setting: Option<LocalityLb>,
    /// Keeps traffic within a zone as far as its capacity allows.
    pub zone_aware_lb_setting: Option<ZoneAwareLb>,
    /// Use `warmup`.
    pub warmup_duration_secs: Option<Duration>,
    /// Raises the traffic of new endpoints slowly.
    pub warmup: Option<Warmup>,
}

/// Algorithms without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// The mesh's default, which is `LEAST_REQUEST`.
    #[default]
    Unspecified,
    /// Older name of `LEAST_REQUEST`.
    LeastConn,
    /// At random.
    Random,
    /// The address that the client chose.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The less busy of two random endpoints.
    LeastRequest,
}

/// Requests with the same key go to the same endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("allOf" = hash_choices()))]
pub struct ConsistentHash {
    /// The key is a header.
    pub http_header_name: Option<String>,
    /// The key is a cookie, which is set when it has a lifetime.
    pub http_cookie: Option<HttpCookie>,
    /// The key is the client's address.
    pub use_source_ip: Option<bool>,
    /// The key is a query parameter.
    pub http_query_parameter_name: Option<String>,
    /// Hashes onto a ring.
    pub ring_hash: Option<RingHash>,
    /// Hashes onto a table.
    pub maglev: Option<Maglev>,
    /// Use `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

fn hash_choices() -> Value {
    json!([
        {"oneOf": at_most_one(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"])},
        {"oneOf": at_most_one(&["ringHash", "maglev"])},
    ])
}

/// A cookie as the hash key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct HttpCookie {
    /// Name of the cookie.
    pub name: String,
    /// Path to set it for.
    pub path: String,
    /// Lifetime; 0 makes a session cookie, none never sets one.
    #[schemars(with = "String")]
    pub ttl: Option<Duration>,
    /// Further attributes of the cookie.
    pub attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct CookieAttribute {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Hashing onto a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Smallest number of points on the ring; 1024 when unset.
    pub minimum_ring_size: Option<u64>,
}

/// Hashing onto a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Size of the table, a prime; 65537 when unset.
    pub table_size: Option<u64>,
}

/// Choice by the load that endpoints report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendUtilization {
    /// Time after start-up during which reports are ignored.
    #[schemars(with = "String")]
    pub weight_stabilization_period: Option<Duration>,
    /// Time after which a report is out of date.
    #[schemars(with = "String")]
    pub weight_expiration_period: Option<Duration>,
    /// Pause between two computations of the weights.
    #[schemars(with = "String")]
    pub weight_update_period: Option<Duration>,
    /// Metrics whose largest value is the utilization.
    pub metric_names_for_computing_utilization: Vec<String>,
    /// How strongly errors lower an endpoint's weight, in percent.
    pub error_utilization_penalty_percent: u32,
}

/// Preference by place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLb {
    /// Fixed shares by place.
    pub distribute: Vec<Distribute>,
    /// Regions to fall back to.
    pub failover: Vec<Failover>,
    /// Labels, most important first; endpoints that share more of them with the client come first.
    pub failover_priority: Vec<String>,
    /// Turns the preference on or off; on when unset.
    #[schemars(with = "Nullable<bool>")]
    pub enabled: Option<bool>,
}

/// Shares of the traffic that comes from one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribute {
    /// Place of the clients, as `region/zone/subzone` or with `*` at the end.
    pub from: String,
    /// Percentages by place; they add up to 100.
    pub to: BTreeMap<String, u32>,
}

/// A region to fall back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// Region of the clients.
    pub from: String,
    /// Region used when the clients' own is unhealthy.
    pub to: String,
}

/// Preference for the client's own zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLb {
    /// Turns the preference on or off.
    #[schemars(with = "Nullable<bool>")]
    pub enabled: Option<bool>,
    /// Regions to fall back to.
    pub failover: Vec<Failover>,
    /// Labels, most important first.
    pub failover_priority: Vec<String>,
    /// Endpoints below which the preference is off; 6 when unset.
    #[schemars(with = "Nullable<u32>", range(min = 1))]
    pub min_cluster_size: Option<u32>,
}

/// Slow start of new endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["duration"]))]
pub struct Warmup {
    /// How long an endpoint counts as new.
    pub duration: Option<Duration>,
    /// Share of its weight that an endpoint starts with; 10 when unset.
    #[schemars(with = "Nullable<f64>", range(min = 0, max = 100))]
    pub minimum_percent: Option<f64>,
    /// Steepness of the rise; 1 (linear) when unset.
    #[schemars(with = "Nullable<f64>", range(min = 0))]
    pub aggression: Option<f64>,
}
