//! Rules of a host as routes.

use std::time::Duration;

use meltemi_model::routing::{
    Destination, HttpAction, HttpMatch, HttpRule, MatchScope, StringMatch, VirtualService,
};
use meltemi_names::ArcStr;

use super::{HostInput, RouteInput, Target, action, condition, resilience};
use crate::pb;
use crate::pb::route::{route::Action, route_action};

/// The routes of a host: those of its rules, in order, those that take everything last.
pub(super) fn of_host(input: &RouteInput, host: &HostInput) -> Vec<pb::route::Route> {
    if host.rules.iter().all(|rules| rules.http.is_empty()) {
        return host
            .service
            .iter()
            .filter_map(|service| {
                let whole = Destination {
                    host: service.host.clone(),
                    subset: ArcStr::new(),
                    port: None,
                };
                Some(default_route(input, host.destinations.get(&whole)?))
            })
            .collect();
    }
    let mut routes = Vec::new();
    let mut last = Vec::new();
    for rules in &host.rules {
        for route in of_rules(input, host, rules) {
            let for_all = route.r#match.as_ref().is_some_and(condition::is_everything);
            if for_all {
                last.push(route)
            } else {
                routes.push(route)
            }
        }
    }
    // Of several that take everything only the first can be reached.
    routes.extend(last.into_iter().take(1));
    routes
}

/// Everything to one service.
fn default_route(input: &RouteInput, target: &Target) -> pb::route::Route {
    let mut action = to_cluster(&target.cluster);
    limit_time(&mut action, Duration::ZERO);
    action.hash_policy = target
        .hash
        .as_ref()
        .map(resilience::hash)
        .into_iter()
        .collect();
    action.retry_policy =
        resilience::retries(None, &input.mesh.default_retries, target.hash.is_some());
    pb::route::Route {
        name: "default".to_owned(),
        r#match: Some(condition::everything()),
        action: Some(Action::Route(action)),
        decorator: Some(decorator(format!("{}:{}/*", target.host, target.port))),
        ..Default::default()
    }
}

/// Time for the whole exchange; zero is without limit, except one that a gRPC client asks for.
///
/// Istio's own field for gRPC, although a newer one exists: the newer one also ends streams.
#[allow(deprecated)]
pub(super) fn limit_time(action: &mut pb::route::RouteAction, time: Duration) {
    action.timeout = Some(pb::duration(time));
    action.max_grpc_timeout = Some(pb::duration(time));
}

/// No limit, except one that a gRPC client asks for.
fn unlimited() -> route_action::MaxStreamDuration {
    route_action::MaxStreamDuration {
        max_stream_duration: Some(pb::wkt::Duration::default()),
        grpc_timeout_header_max: Some(pb::wkt::Duration::default()),
        ..Default::default()
    }
}

pub(super) fn to_cluster(cluster: &str) -> pb::route::RouteAction {
    pb::route::RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

/// Everything to the application behind the proxy.
pub(crate) fn inbound(cluster: &str, operation: String, grpc: bool) -> pb::route::Route {
    let mut action = to_cluster(cluster);
    action.timeout = Some(pb::wkt::Duration::default());
    action.max_stream_duration = Some(unlimited());
    action.retry_policy = (!grpc).then(resilience::inbound_retries);
    pb::route::Route {
        name: "default".to_owned(),
        r#match: Some(condition::everything()),
        action: Some(Action::Route(action)),
        decorator: Some(decorator(operation)),
        ..Default::default()
    }
}

fn of_rules(input: &RouteInput, host: &HostInput, rules: &VirtualService) -> Vec<pb::route::Route> {
    let mut out = Vec::new();
    for rule in &rules.http {
        let conditions: Vec<Option<&HttpMatch>> = if rule.matches.is_empty() {
            vec![None]
        } else {
            rule.matches
                .iter()
                .filter(|wanted| in_scope(input, &wanted.scope))
                .map(Some)
                .collect()
        };
        for wanted in conditions {
            let Some(route) = route(input, host, rules, rule, wanted) else {
                continue;
            };
            let for_all = route.r#match.as_ref().is_some_and(condition::is_everything);
            out.push(route);
            if for_all {
                return out;
            }
        }
    }
    out
}

/// Whether a condition is for this client and listener.
fn in_scope(input: &RouteInput, scope: &MatchScope) -> bool {
    if scope.port.is_some_and(|port| port != input.port) {
        return false;
    }
    if !scope.gateways.is_empty() {
        // Where the gateways are named, who the client is does not matter.
        return scope
            .gateways
            .iter()
            .any(|gateway| input.gateways.contains(gateway));
    }
    if scope.source_labels.is_empty() && scope.source_namespace.is_empty() {
        return true;
    }
    input.client.as_ref().is_some_and(|client| {
        scope.source_labels.selects(&client.labels)
            && (scope.source_namespace.is_empty() || scope.source_namespace == client.namespace)
    })
}

fn route(
    input: &RouteInput,
    host: &HostInput,
    rules: &VirtualService,
    rule: &HttpRule,
    wanted: Option<&HttpMatch>,
) -> Option<pb::route::Route> {
    let mut route = pb::route::Route {
        name: name(rule, wanted),
        r#match: Some(wanted.map_or_else(condition::everything, condition::of_request)),
        metadata: Some(metadata(rules)),
        stat_prefix: wanted
            .map(|wanted| wanted.stat_prefix.to_string())
            .unwrap_or_default(),
        ..Default::default()
    };
    action::add_headers(&mut route, &rule.headers);
    let chosen = match &rule.action {
        HttpAction::Redirect(redirect) => action::redirect(input, redirect)?,
        HttpAction::Respond(response) => action::respond(response),
        HttpAction::Forward(shares) => {
            let mut forward = action::forward(input, host, rule, shares, &mut route)?;
            action::rewrite(rule, wanted, &mut forward);
            route.decorator = Some(decorator(operation(
                host, rules, shares, wanted, input.port,
            )));
            Action::Route(forward)
        }
    };
    route.action = Some(chosen);
    if !rule.fault.is_none() {
        route.typed_per_filter_config.insert(
            "envoy.filters.http.fault".to_owned(),
            resilience::fault(&rule.fault),
        );
    }
    if let Some(cors) = &rule.cors {
        route
            .typed_per_filter_config
            .insert("envoy.filters.http.cors".to_owned(), resilience::cors(cors));
    }
    Some(route)
}

/// `rule.match`, each part only where it has a name.
fn name(rule: &HttpRule, wanted: Option<&HttpMatch>) -> String {
    match wanted
        .map(|wanted| &wanted.name)
        .filter(|name| !name.is_empty())
    {
        Some(of_match) => format!("{}.{of_match}", rule.name),
        None => rule.name.to_string(),
    }
}

fn metadata(rules: &VirtualService) -> pb::core::Metadata {
    let (namespace, name) = (&rules.meta.namespace, &rules.meta.name);
    let path =
        format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
    pb::metadata([("istio", pb::fields([("config", pb::text_value(path))]))])
}

/// What spans call the request.
fn operation(
    host: &HostInput,
    rules: &VirtualService,
    shares: &[meltemi_model::routing::HttpShare],
    wanted: Option<&HttpMatch>,
    port: u16,
) -> String {
    let path = match wanted.and_then(|wanted| wanted.uri.as_ref()) {
        None => "/*".to_owned(),
        Some(StringMatch::Exact(path) | StringMatch::Regex(path)) => path.to_string(),
        Some(StringMatch::Prefix(prefix)) => format!("{prefix}*"),
    };
    match shares {
        [only] => match action::target(host, only) {
            Some(target) => format!("{}:{}{path}", target.host, target.port),
            None => format!("{}:{port}{path}", only.destination.host),
        },
        _ => format!("{}:{port}{path}", rules.meta.name),
    }
}

fn decorator(operation: String) -> pb::route::Decorator {
    pb::route::Decorator {
        operation,
        ..Default::default()
    }
}
