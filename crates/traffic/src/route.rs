//! Route configurations, virtual hosts, routes and their actions.
//!
//! What xDS spreads over levels (route configuration, virtual host, route, weighted cluster) is resolved when the
//! configuration is made: a [`Route`] holds everything a request needs, so the hot path looks at one object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use regex::bytes::Regex;

use crate::discovery::Reference;
use crate::hcm::FilterOverride;
use crate::matcher::{Field, HeaderMatcher, QueryMatcher};
use crate::metadata::{Criteria, Metadata, MetadataMatcher};
use crate::mutation::HeaderOp;
use crate::path::Template;
use crate::retry::RetryPolicy;
use crate::rewrite::{HostRewrite, PathRewrite};
use crate::select::DomainIndex;
use crate::{Fraction, Limit, Str};

/// A route configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Name.
    pub name: Str,
    /// Virtual hosts.
    pub hosts: Vec<VirtualHost>,
    /// Domain search over `hosts`.
    pub index: DomainIndex,
    /// The port is cut before the domain search.
    pub ignore_port: bool,
    /// Removed from external requests.
    pub internal_only_headers: Vec<HeaderName>,
    /// Every cluster that it names must exist when it is taken; `None` where the configuration does not say.
    pub validate_clusters: Option<bool>,
    /// Where more virtual hosts come from (VHDS).
    pub virtual_hosts_from: Option<Reference>,
}

impl RouteTable {
    /// The first cluster that a route names and that `known` does not know.
    pub fn unknown_cluster(&self, known: impl Fn(&Str) -> bool) -> Option<&Str> {
        let routes = self.hosts.iter().flat_map(|host| &host.routes);
        routes
            .filter_map(|route| match &route.action {
                Action::Forward(forward) => Some(&forward.cluster),
                _ => None,
            })
            .flat_map(|selector| match selector {
                ClusterSelector::Name(name) => vec![name],
                ClusterSelector::Weighted(weighted) => weighted
                    .clusters
                    .iter()
                    .filter_map(|entry| match &entry.name {
                        ClusterName::Name(name) => Some(name),
                        ClusterName::Header(_) => None,
                    })
                    .collect(),
                ClusterSelector::Header(_) => Vec::new(),
            })
            .find(|name| !known(name))
    }
}

/// A virtual host.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Name.
    pub name: Str,
    /// Domains in lower case.
    pub domains: Vec<Str>,
    /// Routes in order.
    pub routes: Vec<Arc<Route>>,
    /// Which requests must come over TLS.
    pub require_tls: RequireTls,
}

/// Which requests must come over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// External ones.
    External,
    /// All.
    All,
}

/// One route with everything that applies to its requests.
#[derive(Debug)]
pub struct Route {
    /// Name.
    pub name: Str,
    /// Which requests.
    pub matches: RouteMatch,
    /// What happens to them.
    pub action: Action,
    /// Request header changes of all levels, in the order they apply.
    pub request_ops: Vec<HeaderOp>,
    /// Response header changes of all levels, in the order they apply.
    pub response_ops: Vec<HeaderOp>,
    /// Filter settings of all levels, by filter name.
    pub overrides: Overrides,
    /// `istio.config` and the like.
    pub metadata: Metadata,
    /// Span name, and whether it is sent on.
    pub decorator: Option<(Str, bool)>,
    /// Full name of its statistics, `vhost.<host>.route.<prefix>`; empty where it has none of its own.
    pub stat_prefix: Str,
    /// Virtual clusters of its host.
    pub virtual_clusters: Option<Arc<VirtualClusters>>,
    /// x-envoy-attempt-count is sent upstream.
    pub attempt_count_in_request: bool,
    /// x-envoy-attempt-count is sent downstream.
    pub attempt_count_in_response: bool,
    /// x-envoy-is-timeout-retry is sent upstream.
    pub is_timeout_retry_header: bool,
    /// Bytes of a request kept for retries; `None` is the listener's buffer limit.
    pub retry_buffer_limit: Option<u64>,
}

/// Virtual clusters of a virtual host: requests that are counted under a name.
#[derive(Debug)]
pub struct VirtualClusters {
    /// In order; the first that fits counts.
    pub clusters: Vec<VirtualCluster>,
    /// Of requests that none fits.
    pub other: VirtualCluster,
}

/// A virtual cluster.
#[derive(Debug)]
pub struct VirtualCluster {
    /// Name.
    pub name: Str,
    /// Full name of its statistics, `vhost.<host>.vcluster.<name>`.
    pub stat_prefix: Str,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
}

impl VirtualClusters {
    /// That of a request.
    #[must_use]
    pub fn of<R: crate::headers::RequestHead + ?Sized>(&self, request: &R) -> &VirtualCluster {
        let fits = |one: &&VirtualCluster| one.headers.iter().all(|header| header.matches(request));
        self.clusters.iter().find(fits).unwrap_or(&self.other)
    }
}

/// Filter settings by filter name; few entries, searched in order.
#[derive(Debug, Clone, Default)]
pub struct Overrides(pub Vec<(Str, FilterOverride)>);

impl Overrides {
    /// The setting for a filter.
    #[must_use]
    pub fn get(&self, filter: &str) -> Option<&FilterOverride> {
        self.0
            .iter()
            .find(|(name, _)| name == filter)
            .map(|(_, setting)| setting)
    }
}

/// `RouteMatch`.
#[derive(Debug, Default)]
pub struct RouteMatch {
    /// Path test.
    pub path: PathMatch,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query: Vec<QueryMatcher>,
    /// content-type begins with application/grpc.
    pub grpc: bool,
    /// Share of requests.
    pub fraction: Option<Fraction>,
    /// Client certificate presented.
    pub tls_presented: Option<bool>,
    /// Client certificate validated.
    pub tls_validated: Option<bool>,
    /// All must match dynamic metadata.
    pub metadata: Vec<MetadataMatcher>,
}

/// Path tests.
#[derive(Debug)]
pub enum PathMatch {
    /// Begins with.
    Prefix(Str, CaseRule),
    /// Equal, without query.
    Exact(Str, CaseRule),
    /// The whole path, without query, matches.
    Regex(Regex),
    /// Equal, or begins with this and `/`.
    Separated(Str, CaseRule),
    /// A path template.
    Template(Template),
    /// CONNECT requests.
    Connect,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(Str::default(), CaseRule::Sensitive)
    }
}

/// Case rule of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseRule {
    /// ASCII case counts.
    Sensitive,
    /// ASCII case is ignored.
    Insensitive,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Action {
    /// Forwarded.
    Forward(Box<Forward>),
    /// Redirected.
    Redirect(Box<crate::rewrite::Redirect>),
    /// Answered.
    Respond(DirectResponse),
    /// Nothing is forwarded (proxyless gRPC servers).
    NonForwarding,
}

/// A direct response.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Which cluster.
    pub cluster: ClusterSelector,
    /// Status when the cluster does not exist.
    pub cluster_not_found: u16,
    /// Path rewrite.
    pub path_rewrite: PathRewrite,
    /// Host rewrite.
    pub host_rewrite: HostRewrite,
    /// The original host is kept in x-forwarded-host.
    pub append_forwarded_host: bool,
    /// Whole response, from the request's end; `None` never.
    pub timeout: Limit,
    /// Inactivity; outer `None` is the connection manager's value.
    pub idle_timeout: Option<Limit>,
    /// gRPC timeouts are honoured: `Some(None)` without cap, `Some(Some(cap))`.
    pub max_grpc_timeout: Option<Limit>,
    /// Subtracted from the client's grpc-timeout.
    pub grpc_timeout_offset: Option<Duration>,
    /// `max_stream_duration`: outer `None` is the connection manager's value.
    pub max_stream_duration: Option<Limit>,
    /// Cap on `grpc-timeout` as stream duration: `Some(None)` without cap.
    pub grpc_timeout_header_max: Option<Limit>,
    /// Subtracted from `grpc-timeout` as stream duration.
    pub grpc_timeout_header_offset: Option<Duration>,
    /// Retries.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies of requests.
    pub mirrors: Vec<Mirror>,
    /// Hash for consistent balancing.
    pub hash: Vec<crate::hash::HashPolicy>,
    /// The other circuit breaker limits.
    pub high_priority: bool,
    /// Upgrades of this route: name in lower case, and whether it is allowed.
    pub upgrades: Vec<(Str, bool)>,
    /// Rate limit descriptors.
    pub rate_limits: crate::ratelimit::RateLimits,
    /// CONNECT ends here: its payload is sent as raw TCP.
    pub connect: Option<Connect>,
    /// Redirects from the upstream are followed so often.
    pub internal_redirects: Option<InternalRedirect>,
    /// Host metadata wanted (subset balancing), sorted by key.
    pub criteria: Criteria,
}

/// How tunnels end at the proxy (`UpgradeConfig.ConnectConfig`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect {
    /// The body of a POST is a payload too.
    pub allow_post: bool,
}

impl Connect {
    /// Whether the body of a request with this method is the payload of a tunnel.
    #[must_use]
    pub fn ends(self, method: &http::Method) -> bool {
        *method == http::Method::CONNECT || self.allow_post && *method == http::Method::POST
    }
}

/// Internal redirects.
#[derive(Debug, Clone)]
pub struct InternalRedirect {
    /// How many.
    pub max: u32,
    /// Which statuses.
    pub codes: Vec<u16>,
    /// Between schemes too.
    pub allow_cross_scheme: bool,
    /// Fields of the response that the new request carries.
    pub copied_headers: Vec<HeaderName>,
    /// All must accept the target.
    pub predicates: Vec<RedirectPredicate>,
}

/// Tests of an internal redirect's target (`envoy.extensions.internal_redirect`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Each route is the target of one route's redirects only once for a request.
    PreviousRoutes,
    /// The target's route has one of these names.
    AllowListed(Vec<Str>),
    /// Not from a connection without TLS to https.
    SafeCrossScheme,
}

/// Which cluster.
#[derive(Debug)]
pub enum ClusterSelector {
    /// By name.
    Name(Str),
    /// Named by a header.
    Header(Field),
    /// By weight.
    Weighted(WeightedClusters),
}

/// Weighted clusters.
#[derive(Debug)]
pub struct WeightedClusters {
    /// The entries.
    pub clusters: Vec<WeightedCluster>,
    /// Sum of the weights, never zero.
    pub total: u64,
    /// The random number is read from this header.
    pub header: Option<HeaderName>,
    /// The request's hash decides.
    pub use_hash: bool,
}

/// One weighted cluster.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Cluster.
    pub name: ClusterName,
    /// Weight.
    pub weight: u32,
    /// Request header changes of this entry and all levels above, in the order they apply.
    pub request_ops: Vec<HeaderOp>,
    /// Response header changes, likewise.
    pub response_ops: Vec<HeaderOp>,
    /// Filter settings of this entry and all levels above.
    pub overrides: Overrides,
    /// Host rewrite of this entry.
    pub host_rewrite: Option<Str>,
    /// Host metadata wanted of this entry and the route, sorted by key.
    pub criteria: Criteria,
}

/// A weighted entry's cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterName {
    /// By name.
    Name(Str),
    /// Named by a header.
    Header(Field),
}

/// A request mirror.
#[derive(Debug)]
pub struct Mirror {
    /// Cluster.
    pub cluster: ClusterName,
    /// Share of requests.
    pub fraction: Fraction,
    /// `-shadow` is appended to the host.
    pub shadow_suffix: bool,
    /// Traced.
    pub trace_sampled: Option<bool>,
    /// Host of the copy.
    pub host_rewrite: Option<Str>,
}
