//! Route configurations: levels of settings are resolved here, so that a route holds everything its requests need.

mod action;
mod conditions;
mod retry;

use std::collections::HashMap;
use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::cors::CorsPolicy;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_traffic::ext_authz::ExtAuthzPerRoute;
use meltemi_traffic::hcm::FilterOverride;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::ratelimit::RateLimitRule;
use meltemi_traffic::route::{
    Action, Overrides, RequireTls, Route, RouteTable, VirtualCluster, VirtualClusters, VirtualHost,
};
use meltemi_traffic::select::DomainIndex;
use prost::Name;

pub(crate) use conditions::route_match;

use crate::coverage;
use crate::headers::level;
use crate::http_filter::route_setting;
use crate::pb::{route as pb, wkt};
use crate::rate_limit;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::source::reference;
use crate::values::{flag, header_matcher, header_names, metadata, number_or, strs};

/// Largest direct response when the configuration does not say.
const DEFAULT_DIRECT_BODY: u32 = 4096;

/// Compiles a route configuration.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn route_table(message: &pb::RouteConfiguration) -> Compiled<Arc<RouteTable>> {
    coverage::check(message, &pb::RouteConfiguration::full_name())?;
    embedded(message)
}

/// A route configuration inside a connection manager that was already checked.
pub(crate) fn embedded(message: &pb::RouteConfiguration) -> Compiled<Arc<RouteTable>> {
    let retries = retry::LastPolicy::default();
    let scope = Scope {
        specific_wins: message.most_specific_header_mutations_wins,
        max_body: number_or(
            message.max_direct_response_body_size_bytes.as_ref(),
            DEFAULT_DIRECT_BODY,
        ),
        levels: vec![Level::new(
            &message.typed_per_filter_config,
            &level_headers(message)?,
        )?],
        mirrors: &message.request_mirror_policies,
        rate_limits: Arc::default(),
        virtual_clusters: None,
        retries: &retries,
    };
    let hosts = each("virtual_hosts", &message.virtual_hosts, |host| {
        virtual_host(host, &scope)
    })?;
    let mut names: Vec<&Str> = hosts.iter().map(|host| &host.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse_field(
            "virtual_hosts",
            format!("two virtual hosts are named {}", pair[0]),
        );
    }
    let index = DomainIndex::new(&hosts)
        .or_else(|error| refuse_field("virtual_hosts", error.to_string()))?;
    Ok(Arc::new(RouteTable {
        name: message.name.as_str().into(),
        hosts,
        index,
        ignore_port: message.ignore_port_in_host_matching,
        internal_only_headers: header_names(
            "internal_only_headers",
            &message.internal_only_headers,
        )?,
        validate_clusters: message.validate_clusters.as_ref().map(|flag| flag.value),
        virtual_hosts_from: message
            .vhds
            .as_ref()
            .map(|vhds| virtual_hosts_from(vhds, &message.name).within("vhds.config_source"))
            .transpose()?,
    }))
}

/// More virtual hosts come by the incremental protocol only.
fn virtual_hosts_from(vhds: &pb::Vhds, table: &str) -> Compiled<Reference> {
    let from = reference(vhds.config_source.as_ref(), table)?;
    match &from.source {
        Source::Stream(stream) if !stream.delta => {
            refuse_field("api_config_source.api_type", "must be DELTA_GRPC")
        }
        Source::File(_) => refuse("virtual hosts cannot be discovered from a file"),
        _ => Ok(from),
    }
}

/// Header changes of one level: requests and responses.
type HeaderLevel = (Vec<HeaderOp>, Vec<HeaderOp>);

macro_rules! header_level {
    ($message:expr) => {
        (
            level(
                "request_headers_to_add",
                &$message.request_headers_to_add,
                "request_headers_to_remove",
                &$message.request_headers_to_remove,
            )?,
            level(
                "response_headers_to_add",
                &$message.response_headers_to_add,
                "response_headers_to_remove",
                &$message.response_headers_to_remove,
            )?,
        )
    };
}

fn level_headers(message: &pb::RouteConfiguration) -> Compiled<HeaderLevel> {
    Ok(header_level!(message))
}

/// Route configuration, virtual host, route.
const ROUTE_LEVELS: usize = 3;

/// Settings of one level.
#[derive(Clone)]
pub(crate) struct Level {
    overrides: Vec<(Str, FilterOverride)>,
    request: Vec<HeaderOp>,
    response: Vec<HeaderOp>,
}

/// The levels around a route or weighted cluster, least specific first.
#[derive(Clone)]
pub(crate) struct Scope<'m> {
    specific_wins: bool,
    max_body: u32,
    levels: Vec<Level>,
    mirrors: &'m [pb::route_action::RequestMirrorPolicy],
    rate_limits: Arc<[RateLimitRule]>,
    virtual_clusters: Option<Arc<VirtualClusters>>,
    retries: &'m retry::LastPolicy,
}

impl Level {
    fn new(settings: &HashMap<String, wkt::Any>, headers: &HeaderLevel) -> Compiled<Self> {
        let mut sorted: Vec<_> = settings.iter().collect();
        sorted.sort_by_key(|(name, _)| name.as_str());
        let mut overrides = Vec::with_capacity(sorted.len());
        for (name, any) in sorted {
            if let Some(setting) = route_setting(any).entry("typed_per_filter_config", name)? {
                overrides.push((Str::from(name.as_str()), setting));
            }
        }
        Ok(Self {
            overrides,
            request: headers.0.clone(),
            response: headers.1.clone(),
        })
    }
}

impl Scope<'_> {
    fn with(&self, level: Level) -> Self {
        let mut inner = self.clone();
        inner.levels.push(level);
        inner
    }

    /// Header changes in the order they apply: the most specific level first. Where that shall win it comes last; only
    /// an entry of weighted clusters, the fourth level, stays in front.
    fn ops(&self, of: impl Fn(&Level) -> &Vec<HeaderOp>) -> Vec<HeaderOp> {
        let flat =
            |levels: &mut dyn Iterator<Item = &Level>| levels.flat_map(|l| of(l).clone()).collect();
        if self.specific_wins {
            let (outer, entry) = self.levels.split_at(self.levels.len().min(ROUTE_LEVELS));
            flat(&mut entry.iter().chain(outer))
        } else {
            flat(&mut self.levels.iter().rev())
        }
    }

    pub(crate) fn request_ops(&self) -> Vec<HeaderOp> {
        self.ops(|level| &level.request)
    }

    pub(crate) fn response_ops(&self) -> Vec<HeaderOp> {
        self.ops(|level| &level.response)
    }

    /// The most specific setting of each filter. Header mutations of all levels add up; what a cross-origin policy
    /// leaves unset is taken from the level above.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut out: Vec<(Str, FilterOverride)> = Vec::new();
        for (name, setting) in self.levels.iter().flat_map(|level| &level.overrides) {
            let Some((_, present)) = out.iter_mut().find(|(have, _)| have == name) else {
                out.push((name.clone(), setting.clone()));
                continue;
            };
            match (present, setting) {
                (FilterOverride::HeaderMutation(all), FilterOverride::HeaderMutation(more)) => {
                    all.extend(more.iter().cloned());
                }
                (FilterOverride::Cors(base), FilterOverride::Cors(policy)) => {
                    *base = Arc::new(CorsPolicy::clone(policy).over(base));
                }
                (FilterOverride::ExtAuthz(base), FilterOverride::ExtAuthz(own)) => {
                    *base = Arc::new(ExtAuthzPerRoute::clone(own).over(base));
                }
                (present, setting) => *present = setting.clone(),
            }
        }
        Overrides(out)
    }
}

fn virtual_host(message: &pb::VirtualHost, scope: &Scope<'_>) -> Compiled<VirtualHost> {
    if message.name.is_empty() {
        return refuse_field("name", "is required");
    }
    if message.domains.is_empty() {
        return refuse_field("domains", "needs at least one");
    }
    if let Some(bad) = message
        .domains
        .iter()
        .position(|domain| domain.is_empty() || inner_star(domain))
    {
        return refuse("a domain has at most one *, at its beginning or end").item("domains", bad);
    }
    let mut inner = scope.with(Level::new(
        &message.typed_per_filter_config,
        &header_level!(message),
    )?);
    if !message.request_mirror_policies.is_empty() {
        inner.mirrors = &message.request_mirror_policies;
    }
    inner.rate_limits = rate_limit::rules("rate_limits", &message.rate_limits)?;
    inner.virtual_clusters = virtual_clusters(message)?;
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains: strs(&message.domains),
        routes: each("routes", &message.routes, |one| {
            route(one, message, &inner).map(Arc::new)
        })?,
        require_tls: match message.require_tls() {
            pb::virtual_host::TlsRequirementType::None => RequireTls::None,
            pb::virtual_host::TlsRequirementType::ExternalOnly => RequireTls::External,
            pb::virtual_host::TlsRequirementType::All => RequireTls::All,
        },
    })
}

/// Names of Envoy's statistics of what no virtual cluster counts.
const OTHER: &str = "other";

fn virtual_clusters(host: &pb::VirtualHost) -> Compiled<Option<Arc<VirtualClusters>>> {
    if host.virtual_clusters.is_empty() {
        return Ok(None);
    }
    let named = |name: &str, headers| VirtualCluster {
        name: name.into(),
        stat_prefix: format!("vhost.{}.vcluster.{name}", host.name).into(),
        headers,
    };
    let clusters = each("virtual_clusters", &host.virtual_clusters, |cluster| {
        if cluster.name.is_empty() {
            return refuse_field("name", "is required");
        }
        let headers = each("headers", &cluster.headers, header_matcher)?;
        Ok(named(&cluster.name, headers))
    })?;
    Ok(Some(Arc::new(VirtualClusters {
        clusters,
        other: named(OTHER, Vec::new()),
    })))
}

fn inner_star(domain: &str) -> bool {
    let rest = domain
        .strip_prefix('*')
        .or_else(|| domain.strip_suffix('*'))
        .unwrap_or(domain);
    rest.contains('*')
}

#[expect(deprecated, reason = "old fields are still sent")]
fn route(message: &pb::Route, host: &pb::VirtualHost, scope: &Scope<'_>) -> Compiled<Route> {
    let scope = scope.with(Level::new(
        &message.typed_per_filter_config,
        &header_level!(message),
    )?);
    let Some(matches) = &message.r#match else {
        return refuse_field("match", "is required");
    };
    let action = match &message.action {
        Some(pb::route::Action::Route(forward)) => Action::Forward(Box::new(
            action::forward(forward, matches, host, &scope).within("route")?,
        )),
        Some(pb::route::Action::Redirect(redirect)) => {
            Action::Redirect(Box::new(action::redirect(redirect).within("redirect")?))
        }
        Some(pb::route::Action::DirectResponse(response)) => {
            Action::Respond(action::direct(response, scope.max_body).within("direct_response")?)
        }
        Some(pb::route::Action::NonForwardingAction(_)) => Action::NonForwarding,
        Some(pb::route::Action::FilterAction(_)) => {
            return refuse_field("filter_action", "not supported");
        }
        None => return refuse("needs an action"),
    };
    let own = message
        .request_body_buffer_limit
        .as_ref()
        .or(host.request_body_buffer_limit.as_ref());
    let old = message
        .per_request_buffer_limit_bytes
        .as_ref()
        .or(host.per_request_buffer_limit_bytes.as_ref());
    let decorator = message.decorator.as_ref();
    Ok(Route {
        name: message.name.as_str().into(),
        matches: route_match(matches).within("match")?,
        action,
        request_ops: scope.request_ops(),
        response_ops: scope.response_ops(),
        overrides: scope.overrides(),
        metadata: metadata(message.metadata.as_ref()),
        decorator: decorator.map(|d| {
            (
                d.operation.as_str().into(),
                flag(d.propagate.as_ref(), true),
            )
        }),
        stat_prefix: if message.stat_prefix.is_empty() {
            Str::default()
        } else {
            format!("vhost.{}.route.{}", host.name, message.stat_prefix).into()
        },
        virtual_clusters: scope.virtual_clusters,
        attempt_count_in_request: host.include_request_attempt_count,
        attempt_count_in_response: host.include_attempt_count_in_response,
        is_timeout_retry_header: host.include_is_timeout_retry_header,
        retry_buffer_limit: own
            .map(|limit| limit.value)
            .or_else(|| old.map(|limit| u64::from(limit.value))),
    })
}
