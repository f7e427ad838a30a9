//! What happens to a request: forward, redirect, answer.

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use meltemi_traffic::hash::{Cookie, HashPolicy, HashSource};
use meltemi_traffic::metadata::{Criteria, merge_criteria};
use meltemi_traffic::path::TemplateRewrite;
use meltemi_traffic::ratelimit::RateLimits;
use meltemi_traffic::rewrite::{HostRewrite, PathRewrite, Redirect, RedirectPath};
use meltemi_traffic::route::{
    ClusterName, ClusterSelector, Connect, DirectResponse, Forward, InternalRedirect, Mirror,
    RedirectPredicate, WeightedCluster, WeightedClusters,
};
use meltemi_traffic::{Fraction, Limit, Str};

use super::{Level, Scope, conditions};
use crate::filter_config::decode;
use crate::headers::level;
use crate::pb::{core, route as pb};
use crate::rate_limit;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{
    criteria, duration, field, flag, header_name, inline_data, limit, number_or, own_limit,
    regex_rewrite, runtime_fraction,
};

const DEFAULT_TIMEOUT: Limit = Some(Duration::from_secs(15));

pub(super) fn forward(
    message: &pb::RouteAction,
    matches: &pb::RouteMatch,
    host: &pb::VirtualHost,
    scope: &Scope<'_>,
) -> Compiled<Forward> {
    let stream = message.max_stream_duration.unwrap_or_default();
    let retry = match (&message.retry_policy, &host.retry_policy) {
        (Some(own), _) => Some(scope.retries.compiled(own).within("retry_policy")?),
        (None, Some(of_host)) => Some(
            scope
                .retries
                .compiled(of_host)
                .within("retry_policy of the virtual host")?,
        ),
        (None, None) => None,
    };
    let mirrors = if message.request_mirror_policies.is_empty() {
        scope.mirrors
    } else {
        &message.request_mirror_policies
    };
    let grpc = old_grpc(message)?;
    let within_stream = "max_stream_duration";
    Ok(Forward {
        cluster: cluster(message, scope)?,
        cluster_not_found: not_found(message),
        path_rewrite: path_rewrite(message, matches)?,
        host_rewrite: host_rewrite(message)?,
        append_forwarded_host: message.append_x_forwarded_host,
        timeout: limit("timeout", message.timeout.as_ref(), DEFAULT_TIMEOUT)?,
        idle_timeout: own_limit("idle_timeout", message.idle_timeout.as_ref())?,
        max_grpc_timeout: grpc.0,
        grpc_timeout_offset: grpc.1,
        max_stream_duration: own_limit("max_stream_duration", stream.max_stream_duration.as_ref())
            .within(within_stream)?,
        grpc_timeout_header_max: own_limit(
            "grpc_timeout_header_max",
            stream.grpc_timeout_header_max.as_ref(),
        )
        .within(within_stream)?,
        grpc_timeout_header_offset: limit(
            "grpc_timeout_header_offset",
            stream.grpc_timeout_header_offset.as_ref(),
            None,
        )
        .within(within_stream)?,
        retry,
        mirrors: each("request_mirror_policies", mirrors, mirror)?,
        hash: each("hash_policy", &message.hash_policy, hash_policy)?,
        high_priority: message.priority() == core::RoutingPriority::High,
        upgrades: upgrades(message),
        rate_limits: rate_limits(message, scope)?,
        connect: connect(message)?,
        internal_redirects: message
            .internal_redirect_policy
            .as_ref()
            .map(internal_redirect)
            .transpose()?,
        criteria: criteria(message.metadata_match.as_ref()),
    })
}

#[expect(deprecated, reason = "what Istio sends")]
fn old_grpc(message: &pb::RouteAction) -> Compiled<(Option<Limit>, Option<Duration>)> {
    Ok((
        own_limit("max_grpc_timeout", message.max_grpc_timeout.as_ref())?,
        limit(
            "grpc_timeout_offset",
            message.grpc_timeout_offset.as_ref(),
            None,
        )?,
    ))
}

fn not_found(message: &pb::RouteAction) -> u16 {
    use pb::route_action::ClusterNotFoundResponseCode as Wire;
    match message.cluster_not_found_response_code() {
        Wire::ServiceUnavailable => 503,
        Wire::NotFound => 404,
        Wire::InternalServerError => 500,
    }
}

fn cluster(message: &pb::RouteAction, scope: &Scope<'_>) -> Compiled<ClusterSelector> {
    use pb::route_action::ClusterSpecifier as By;
    Ok(match &message.cluster_specifier {
        Some(By::Cluster(name)) if name.is_empty() => {
            return refuse_field("cluster", "must not be empty");
        }
        Some(By::Cluster(name)) => ClusterSelector::Name(name.as_str().into()),
        Some(By::ClusterHeader(name)) => {
            ClusterSelector::Header(field(name).within("cluster_header")?)
        }
        Some(By::WeightedClusters(list)) => {
            let of_route = criteria(message.metadata_match.as_ref());
            ClusterSelector::Weighted(weighted(list, scope, &of_route).within("weighted_clusters")?)
        }
        Some(By::ClusterSpecifierPlugin(_) | By::InlineClusterSpecifierPlugin(_)) => {
            return refuse("cluster specifier plug-ins are not supported");
        }
        None => return refuse("needs a cluster"),
    })
}

fn weighted(
    message: &pb::WeightedCluster,
    scope: &Scope<'_>,
    of_route: &Criteria,
) -> Compiled<WeightedClusters> {
    use pb::weighted_cluster::RandomValueSpecifier;
    let clusters = each("clusters", &message.clusters, |entry| {
        weighted_entry(entry, scope, of_route)
    })?;
    let total: u64 = clusters.iter().map(|entry| u64::from(entry.weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        return refuse_field(
            "clusters",
            "the sum of the weights must be from 1 to 4294967295",
        );
    }
    let (mut header, mut use_hash) = (None, false);
    match &message.random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => {
            header = Some(header_name(name).within("header_name")?)
        }
        Some(RandomValueSpecifier::UseHashPolicy(value)) => use_hash = value.value,
        None => {}
    }
    Ok(WeightedClusters {
        clusters,
        total,
        header,
        use_hash,
    })
}

fn weighted_entry(
    message: &pb::weighted_cluster::ClusterWeight,
    scope: &Scope<'_>,
    of_route: &Criteria,
) -> Compiled<WeightedCluster> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let name = match (message.name.as_str(), message.cluster_header.as_str()) {
        ("", "") => return refuse("needs name or cluster_header"),
        ("", header) => ClusterName::Header(field(header).within("cluster_header")?),
        (name, "") => ClusterName::Name(name.into()),
        _ => return refuse("has both name and cluster_header"),
    };
    let headers = (
        level(
            "request_headers_to_add",
            &message.request_headers_to_add,
            "request_headers_to_remove",
            &message.request_headers_to_remove,
        )?,
        level(
            "response_headers_to_add",
            &message.response_headers_to_add,
            "response_headers_to_remove",
            &message.response_headers_to_remove,
        )?,
    );
    let scope = scope.with(Level::new(&message.typed_per_filter_config, &headers)?);
    Ok(WeightedCluster {
        name,
        weight: number_or(message.weight.as_ref(), 0),
        request_ops: scope.request_ops(),
        response_ops: scope.response_ops(),
        overrides: scope.overrides(),
        host_rewrite: message
            .host_rewrite_specifier
            .as_ref()
            .map(|HostRewriteSpecifier::HostRewriteLiteral(host)| host.as_str().into()),
        criteria: merge_criteria(of_route, &criteria(message.metadata_match.as_ref())),
    })
}

fn path_rewrite(message: &pb::RouteAction, matches: &pb::RouteMatch) -> Compiled<PathRewrite> {
    let given = usize::from(!message.prefix_rewrite.is_empty())
        + usize::from(message.regex_rewrite.is_some())
        + usize::from(message.path_rewrite_policy.is_some());
    if given > 1 {
        return refuse("has more than one path rewrite");
    }
    if !message.prefix_rewrite.is_empty() {
        return Ok(PathRewrite::Prefix(message.prefix_rewrite.as_str().into()));
    }
    if let Some(rewrite) = &message.regex_rewrite {
        return Ok(PathRewrite::Regex(
            regex_rewrite(rewrite).within("regex_rewrite")?,
        ));
    }
    let Some(policy) = &message.path_rewrite_policy else {
        return Ok(PathRewrite::None);
    };
    let field = "path_rewrite_policy.typed_config";
    let Some(any) = &policy.typed_config else {
        return refuse_field(field, "is required");
    };
    let config: UriTemplateRewriteConfig = decode(any).within(field)?;
    let Some(pb::route_match::PathSpecifier::PathMatchPolicy(template)) = &matches.path_specifier
    else {
        return refuse_field("path_rewrite_policy", "needs a path template in the match");
    };
    let template = conditions::template(template).within("path_match_policy")?;
    let rewrite = TemplateRewrite::parse(&config.path_template_rewrite, &template);
    let rewrite = rewrite.or_else(|reason| refuse_field(field, reason))?;
    Ok(PathRewrite::Template(Box::new((template, rewrite))))
}

fn host_rewrite(message: &pb::RouteAction) -> Compiled<HostRewrite> {
    use pb::route_action::HostRewriteSpecifier as By;
    Ok(match &message.host_rewrite_specifier {
        None => HostRewrite::None,
        Some(By::HostRewriteLiteral(host)) => HostRewrite::Literal(host.as_str().into()),
        Some(By::AutoHostRewrite(value)) if value.value => HostRewrite::Auto,
        Some(By::AutoHostRewrite(_)) => HostRewrite::None,
        Some(By::HostRewriteHeader(name)) => {
            HostRewrite::Header(header_name(name).within("host_rewrite_header")?)
        }
        Some(By::HostRewritePathRegex(rewrite)) => {
            HostRewrite::PathRegex(regex_rewrite(rewrite).within("host_rewrite_path_regex")?)
        }
        Some(_) => return refuse("this host rewrite is not supported"),
    })
}

fn mirror(message: &pb::route_action::RequestMirrorPolicy) -> Compiled<Mirror> {
    let cluster = match (message.cluster.as_str(), message.cluster_header.as_str()) {
        ("", "") => return refuse("needs a cluster"),
        ("", header) => ClusterName::Header(field(header).within("cluster_header")?),
        (name, _) => ClusterName::Name(name.into()),
    };
    let host = message.host_rewrite_literal.as_str();
    Ok(Mirror {
        cluster,
        fraction: runtime_fraction(message.runtime_fraction.as_ref(), Fraction::ALL),
        shadow_suffix: !message.disable_shadow_host_suffix_append,
        trace_sampled: message.trace_sampled.as_ref().map(|value| value.value),
        host_rewrite: (!host.is_empty()).then(|| host.into()),
    })
}

fn hash_policy(message: &pb::route_action::HashPolicy) -> Compiled<HashPolicy> {
    use pb::route_action::hash_policy::PolicySpecifier as By;
    let source = match &message.policy_specifier {
        Some(By::Header(header)) => HashSource::Header(
            header_name(&header.header_name).within("header.header_name")?,
            header
                .regex_rewrite
                .as_ref()
                .map(regex_rewrite)
                .transpose()
                .within("header.regex_rewrite")?,
        ),
        Some(By::Cookie(cookie)) => {
            let pairs = cookie
                .attributes
                .iter()
                .map(|a| (Str::from(a.name.as_str()), Str::from(a.value.as_str())));
            HashSource::Cookie(Cookie {
                name: cookie.name.as_str().into(),
                ttl: cookie
                    .ttl
                    .as_ref()
                    .map(duration)
                    .transpose()
                    .within("cookie.ttl")?,
                path: cookie.path.as_str().into(),
                attributes: pairs.collect(),
            })
        }
        Some(By::ConnectionProperties(properties)) if properties.source_ip => HashSource::SourceIp,
        Some(By::QueryParameter(parameter)) => HashSource::Query(parameter.name.as_str().into()),
        Some(By::FilterState(state)) => HashSource::FilterState(state.key.as_str().into()),
        _ => return refuse("needs a source"),
    };
    Ok(HashPolicy {
        source,
        terminal: message.terminal,
    })
}

fn upgrades(message: &pb::RouteAction) -> Vec<(Str, bool)> {
    let entry = |config: &pb::route_action::UpgradeConfig| {
        (
            Str::from(config.upgrade_type.to_ascii_lowercase()),
            flag(config.enabled.as_ref(), true),
        )
    };
    message.upgrade_configs.iter().map(entry).collect()
}

fn connect(message: &pb::RouteAction) -> Compiled<Option<Connect>> {
    let mut found = None;
    for (position, upgrade) in message.upgrade_configs.iter().enumerate() {
        let Some(config) = &upgrade.connect_config else {
            continue;
        };
        if !upgrade.upgrade_type.eq_ignore_ascii_case("connect") {
            return refuse_field("connect_config", "is for upgrades of type CONNECT")
                .item("upgrade_configs", position);
        }
        found = Some(Connect {
            allow_post: config.allow_post,
        });
    }
    Ok(found)
}

fn internal_redirect(message: &pb::InternalRedirectPolicy) -> Compiled<InternalRedirect> {
    let codes = if message.redirect_response_codes.is_empty() {
        &[302][..]
    } else {
        &message.redirect_response_codes
    };
    let codes = codes
        .iter()
        .filter(|code| [301, 302, 303, 307, 308].contains(*code));
    Ok(InternalRedirect {
        max: number_or(message.max_internal_redirects.as_ref(), 1),
        codes: codes.filter_map(|code| u16::try_from(*code).ok()).collect(),
        allow_cross_scheme: message.allow_cross_scheme_redirect,
        copied_headers: each(
            "response_headers_to_copy",
            &message.response_headers_to_copy,
            |name| match name.as_str() {
                pseudo if pseudo.starts_with(':') || pseudo.eq_ignore_ascii_case("host") => {
                    refuse(format!("{pseudo} cannot be copied"))
                }
                name => header_name(name),
            },
        )?,
        predicates: each("predicates", &message.predicates, redirect_predicate)?,
    })
}

fn redirect_predicate(message: &core::TypedExtensionConfig) -> Compiled<RedirectPredicate> {
    use meltemi_proto::envoy::extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig;
    let field = "typed_config";
    let Some(any) = &message.typed_config else {
        return refuse_field(field, "is required");
    };
    Ok(match meltemi_proto::any::type_name(&any.type_url) {
        "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => {
            RedirectPredicate::PreviousRoutes
        }
        "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
            let config: AllowListedRoutesConfig = decode(any).within(field)?;
            RedirectPredicate::AllowListed(crate::values::strs(&config.allowed_route_names))
        }
        "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
            RedirectPredicate::SafeCrossScheme
        }
        other => return refuse_field(field, format!("predicate {other} is not supported")),
    })
}

#[expect(deprecated, reason = "still sent")]
fn rate_limits(message: &pb::RouteAction, scope: &Scope<'_>) -> Compiled<RateLimits> {
    Ok(RateLimits {
        route: rate_limit::rules("rate_limits", &message.rate_limits)?,
        host: Arc::clone(&scope.rate_limits),
        include_host: flag(message.include_vh_rate_limits.as_ref(), false),
    })
}

pub(super) fn redirect(message: &pb::RedirectAction) -> Compiled<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let status = match message.response_code() {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    let scheme = match &message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some(Str::from("https")),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(Str::from(scheme.as_str())),
        _ => None,
    };
    let path = match &message.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Path(path.as_str().into()),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Rewrite(PathRewrite::Prefix(prefix.as_str().into()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => RedirectPath::Rewrite(
            PathRewrite::Regex(regex_rewrite(rewrite).within("regex_rewrite")?),
        ),
        Some(_) => return refuse("this path rewrite is not supported"),
    };
    let port = u16::try_from(message.port_redirect)
        .or_else(|_| refuse_field("port_redirect", "must be at most 65535"))?;
    Ok(Redirect {
        status,
        scheme,
        host: (!message.host_redirect.is_empty()).then(|| message.host_redirect.as_str().into()),
        port: (port != 0).then_some(port),
        path,
        strip_query: message.strip_query,
    })
}

pub(super) fn direct(
    message: &pb::DirectResponseAction,
    max_body: u32,
) -> Compiled<DirectResponse> {
    let status = u16::try_from(message.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let Some(status) = status else {
        return refuse_field("status", "must be from 200 to 599");
    };
    let body = message
        .body
        .as_ref()
        .map(inline_data)
        .transpose()
        .within("body")?
        .unwrap_or_default();
    if body.len() > max_body as usize {
        return refuse_field("body", format!("is longer than {max_body} bytes"));
    }
    Ok(DirectResponse { status, body })
}
