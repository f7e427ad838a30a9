//! What becomes of a request: forwarding, redirects, answers.

use meltemi_model::routing::{
    DirectResponse, HttpMatch, HttpRule, HttpShare, Redirect, RedirectPort, StringMatch,
};
use meltemi_names::cluster::UNKNOWN_SERVICE;

use super::rule::limit_time;
use super::{HostInput, RouteInput, Target, headers, resilience};
use crate::pb;
use crate::pb::route::{redirect_action, route::Action, route_action, weighted_cluster};

/// Where a share of the traffic goes; a destination that is not known has a cluster that does not exist.
pub(super) fn target<'a>(host: &'a HostInput, share: &HttpShare) -> Option<&'a Target> {
    host.destinations.get(&share.destination)
}

/// Forwards to the destinations of a rule; `None` when it has none.
pub(super) fn forward(
    input: &RouteInput,
    host: &HostInput,
    rule: &HttpRule,
    shares: &[HttpShare],
    route: &mut pb::route::Route,
) -> Option<pb::route::RouteAction> {
    let used: Vec<&HttpShare> = match shares {
        [only] => vec![only],
        several => several.iter().filter(|share| share.weight > 0).collect(),
    };
    let cluster_of = |share: &HttpShare| {
        target(host, share)
            .map_or(UNKNOWN_SERVICE, |target| &target.cluster)
            .to_owned()
    };
    let mut action = pb::route::RouteAction::default();
    match used[..] {
        [] => return None,
        [only] => {
            add_headers(route, &only.headers);
            action.cluster_specifier =
                Some(route_action::ClusterSpecifier::Cluster(cluster_of(only)));
            if let Some(authority) = headers::authority(&only.headers.request) {
                action.host_rewrite_specifier = Some(
                    route_action::HostRewriteSpecifier::HostRewriteLiteral(authority.to_string()),
                );
            }
        }
        _ => {
            let clusters = used
                .iter()
                .map(|share| weighted(share, cluster_of(share)))
                .collect();
            action.cluster_specifier = Some(route_action::ClusterSpecifier::WeightedClusters(
                pb::route::WeightedCluster {
                    clusters,
                    ..Default::default()
                },
            ));
        }
    }
    limit_time(&mut action, rule.timeout.unwrap_or_default());
    let hash = used
        .iter()
        .find_map(|share| target(host, share)?.hash.as_ref());
    action.hash_policy = hash.map(resilience::hash).into_iter().collect();
    let by_hash = used.len() == 1 && hash.is_some();
    action.retry_policy =
        resilience::retries(rule.retries.as_ref(), &input.mesh.default_retries, by_hash);
    let mirrors = rule.mirrors.iter().filter_map(|mirror| {
        let cluster = host
            .destinations
            .get(&mirror.destination)
            .map_or(UNKNOWN_SERVICE, |target| &target.cluster);
        resilience::mirror(cluster, mirror.share)
    });
    action.request_mirror_policies = mirrors.collect();
    Some(action)
}

fn weighted(share: &HttpShare, cluster: String) -> weighted_cluster::ClusterWeight {
    let (request_headers_to_add, request_headers_to_remove) =
        headers::changes(&share.headers.request);
    let (response_headers_to_add, response_headers_to_remove) =
        headers::changes(&share.headers.response);
    let authority = headers::authority(&share.headers.request);
    weighted_cluster::ClusterWeight {
        name: cluster,
        weight: Some(pb::number(share.weight)),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: authority.map(|text| {
            weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
                text.to_string(),
            )
        }),
        ..Default::default()
    }
}

/// Adds changes of headers to those of a route.
pub(super) fn add_headers(
    route: &mut pb::route::Route,
    changes: &meltemi_model::routing::HeaderChanges,
) {
    let (add, remove) = headers::changes(&changes.request);
    route.request_headers_to_add.extend(add);
    route.request_headers_to_remove.extend(remove);
    let (add, remove) = headers::changes(&changes.response);
    route.response_headers_to_add.extend(add);
    route.response_headers_to_remove.extend(remove);
}

/// Changes of path and authority.
pub(super) fn rewrite(
    rule: &HttpRule,
    condition: Option<&HttpMatch>,
    action: &mut pb::route::RouteAction,
) {
    let whole_regex = matches!(
        condition.and_then(|condition| condition.uri.as_ref()),
        Some(StringMatch::Regex(_))
    );
    if let Some(rewrite) = &rule.rewrite {
        if let Some((pattern, substitution)) = &rewrite.uri_regex {
            action.regex_rewrite = Some(pb::matcher::RegexMatchAndSubstitute {
                pattern: Some(pb::regex(pattern)),
                substitution: substitution.to_string(),
            });
        } else if !rewrite.uri.is_empty() && !whole_regex {
            action.prefix_rewrite = rewrite.uri.to_string();
        } else if !rewrite.uri.is_empty() {
            // A pattern matches the whole path, so the whole path is replaced.
            action.regex_rewrite = Some(pb::matcher::RegexMatchAndSubstitute {
                pattern: Some(pb::regex(".*")),
                substitution: rewrite.uri.to_string(),
            });
        }
    }
    let written = rule
        .rewrite
        .as_ref()
        .map(|rewrite| &rewrite.authority)
        .filter(|authority| !authority.is_empty());
    if let Some(authority) = written.or_else(|| headers::authority(&rule.headers.request)) {
        let literal = route_action::HostRewriteSpecifier::HostRewriteLiteral(authority.to_string());
        action.host_rewrite_specifier.get_or_insert(literal);
    }
}

/// Sends the client elsewhere; `None` for a status that is no redirect.
pub(super) fn redirect(input: &RouteInput, redirect: &Redirect) -> Option<Action> {
    use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match redirect.code {
        301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => return None,
    };
    let port = match redirect.port {
        Some(RedirectPort::Number(number)) => Some(number),
        Some(RedirectPort::Request) => Some(input.port),
        Some(RedirectPort::ProtocolDefault) | None => None,
    };
    let scheme = match redirect.scheme.as_str() {
        "" if redirect.port != Some(RedirectPort::Request) => "",
        "" if input.https => "https",
        "" => "http",
        written => written,
    };
    let usual = |number: &u16| matches!((*number, scheme), (80, "http") | (443, "https"));
    let path = if !redirect.prefix_rewrite.is_empty() {
        Some(PathRewriteSpecifier::PrefixRewrite(
            redirect.prefix_rewrite.to_string(),
        ))
    } else if !redirect.uri.is_empty() {
        Some(PathRewriteSpecifier::PathRedirect(redirect.uri.to_string()))
    } else {
        None
    };
    let scheme_rewrite_specifier = (!redirect.scheme.is_empty())
        .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.to_string()));
    Some(Action::Redirect(pb::route::RedirectAction {
        host_redirect: redirect.authority.to_string(),
        port_redirect: port
            .filter(|number| !usual(number))
            .map(u32::from)
            .unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier,
        path_rewrite_specifier: path,
        ..Default::default()
    }))
}

/// An answer by the proxy.
pub(super) fn respond(response: &DirectResponse) -> Action {
    let body = response.body.as_ref().map(|bytes| {
        let specifier = match String::from_utf8(bytes.clone()) {
            Ok(text) => pb::core::data_source::Specifier::InlineString(text),
            Err(other) => pb::core::data_source::Specifier::InlineBytes(other.into_bytes()),
        };
        pb::core::DataSource {
            specifier: Some(specifier),
            ..Default::default()
        }
    });
    Action::DirectResponse(pb::route::DirectResponseAction {
        status: response.status,
        body,
        ..Default::default()
    })
}
