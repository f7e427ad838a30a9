//! The HTTP half of a virtual service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Destination;
use crate::scalars::{Duration, Percent, StringMatch};
use crate::schema::{Nullable, at_most_one};

/// A rule for HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name, shown in access logs.
    pub name: String,
    /// Any of these has to hold; none matches every request.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Where the request goes, by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answers with a redirect, instead of routing.
    pub redirect: Option<HttpRedirect>,
    /// Answers with a fixed response, instead of routing.
    pub direct_response: Option<DirectResponse>,
    /// Virtual service that holds the rules for this match.
    pub delegate: Option<Delegate>,
    /// Changes path and authority before the request is forwarded.
    pub rewrite: Option<HttpRewrite>,
    /// Longest time for the whole exchange, retries included; none means unlimited.
    pub timeout: Option<Duration>,
    /// When and how often a failed request is tried again.
    pub retries: Option<HttpRetry>,
    /// Delays or aborts a share of the requests, for testing.
    pub fault: Option<HttpFault>,
    /// Service that gets a copy of the requests; its answers are ignored.
    pub mirror: Option<Destination>,
    /// Several services that get copies.
    pub mirrors: Vec<HttpMirror>,
    /// Share of the requests to mirror; use `mirrorPercentage`.
    #[schemars(with = "Nullable<u32>")]
    pub mirror_percent: Option<u32>,
    /// Older spelling of `mirrorPercent`.
    #[serde(rename = "mirror_percent")]
    #[schemars(with = "Nullable<u32>")]
    pub mirror_percent_snake: Option<u32>,
    /// Share of the requests to mirror; none means all.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin resource sharing.
    pub cors_policy: Option<CorsPolicy>,
    /// Headers to change.
    pub headers: Option<Headers>,
}

/// Conditions on a request; all have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Name, joined to the route's name in access logs.
    pub name: String,
    /// Path.
    pub uri: Option<StringMatch>,
    /// Scheme.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host that the client asked for.
    pub authority: Option<StringMatch>,
    /// Headers, by lower-case name; an empty condition asks for presence.
    pub headers: BTreeMap<String, StringMatch>,
    /// Port on which the request arrived.
    pub port: Option<u32>,
    /// Labels of the client workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this is for, in place of the virtual service's.
    pub gateways: Vec<String>,
    /// Query parameters.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compares the path without regard to case.
    pub ignore_uri_case: bool,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Namespace of the client workload.
    pub source_namespace: String,
    /// Prefix for the statistics of this route.
    pub stat_prefix: String,
}

/// A share of the requests and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["destination"]))]
pub struct HttpRouteDestination {
    /// Service, subset and port.
    pub destination: Option<Destination>,
    /// Share, relative to the sum of all weights.
    pub weight: i32,
    /// Headers to change for this destination only.
    pub headers: Option<Headers>,
}

/// Changes of headers, by direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// On the way to the destination.
    pub request: Option<HeaderOperations>,
    /// On the way back.
    pub response: Option<HeaderOperations>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Sets headers, in place of what is there.
    pub set: BTreeMap<String, String>,
    /// Adds values.
    pub add: BTreeMap<String, String>,
    /// Removes headers.
    pub remove: Vec<String>,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["port", "derivePort"])))]
pub struct HttpRedirect {
    /// New path, whole.
    pub uri: String,
    /// Replaces the prefix that was matched.
    pub prefix_rewrite: String,
    /// New host.
    pub authority: String,
    /// New port.
    pub port: Option<u32>,
    /// Where the new port comes from.
    pub derive_port: Option<DerivePort>,
    /// New scheme.
    pub scheme: String,
    /// Status code; 301 when unset.
    pub redirect_code: u32,
}

/// Source of a redirect's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// The port of the request.
    FromRequestPort,
}

/// A fixed response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["status"]))]
pub struct DirectResponse {
    /// Status code.
    pub status: u32,
    /// Body; none sends an empty one.
    pub body: Option<HttpBody>,
}

/// Content of a fixed response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["string", "bytes"])))]
pub struct HttpBody {
    /// As text.
    pub string: Option<String>,
    /// As base64.
    #[schemars(extend("format" = "byte"))]
    pub bytes: Option<String>,
}

/// Reference to the virtual service that continues a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; the referring object's when empty.
    pub namespace: String,
}

/// Changes of path and authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    /// Replaces the matched prefix, or the whole path when the match was exact.
    pub uri: String,
    /// New host.
    pub authority: String,
    /// Replaces parts of the path.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A replacement by regular expression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    /// Expression with capture groups.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Replacement, in which `\1` stands for the first group.
    pub rewrite: String,
}

/// When and how often a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    /// Further tries after the first; 0 turns retries off.
    pub attempts: i32,
    /// Longest time for one try.
    pub per_try_timeout: Option<Duration>,
    /// Conditions, separated by commas; status codes may be among them.
    pub retry_on: String,
    /// Whether other localities may be tried.
    #[schemars(with = "Nullable<bool>")]
    pub retry_remote_localities: Option<bool>,
    /// Whether hosts that failed are avoided.
    #[schemars(with = "Nullable<bool>")]
    pub retry_ignore_previous_hosts: Option<bool>,
    /// First pause, which doubles from try to try; 25 ms when unset.
    pub backoff: Option<Duration>,
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpFault {
    /// Delays before forwarding.
    pub delay: Option<FaultDelay>,
    /// Answers in place of forwarding.
    pub abort: Option<FaultAbort>,
}

/// A delay for a share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["fixedDelay", "exponentialDelay"])))]
pub struct FaultDelay {
    /// Share of the requests in whole percents; use `percentage`.
    pub percent: i32,
    /// How long to wait.
    pub fixed_delay: Option<Duration>,
    /// Mean of a random wait; not supported.
    pub exponential_delay: Option<Duration>,
    /// Share of the requests; none means no request.
    pub percentage: Option<Percent>,
}

/// An abort for a share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = at_most_one(&["httpStatus", "grpcStatus", "http2Error"])))]
pub struct FaultAbort {
    /// HTTP status to answer.
    pub http_status: Option<i32>,
    /// Name of the gRPC status to answer.
    pub grpc_status: Option<String>,
    /// HTTP/2 error; not supported.
    pub http2_error: Option<String>,
    /// Share of the requests; none means no request.
    pub percentage: Option<Percent>,
}

/// A service that gets copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["destination"]))]
pub struct HttpMirror {
    /// Where the copies go.
    pub destination: Option<Destination>,
    /// Share of the requests; none means all.
    pub percentage: Option<Percent>,
}

/// Cross-origin resource sharing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Accepted origins, compared as a whole; use `allowOrigins`.
    pub allow_origin: Vec<String>,
    /// Accepted origins.
    pub allow_origins: Vec<StringMatch>,
    /// Accepted methods.
    pub allow_methods: Vec<String>,
    /// Accepted request headers.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// How long the answer to a preflight may be cached.
    pub max_age: Option<Duration>,
    /// Whether requests may carry credentials.
    #[schemars(with = "Nullable<bool>")]
    pub allow_credentials: Option<bool>,
    /// What happens to preflights of other origins.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What happens to preflights whose origin is not accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// As `FORWARD`.
    #[default]
    Unspecified,
    /// They are forwarded.
    Forward,
    /// They are answered without the headers that would allow the request.
    Ignore,
}
