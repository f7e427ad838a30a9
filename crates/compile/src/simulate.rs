//! What the configuration would do with a call, without making it.

use std::net::SocketAddr;

use meltemi_traffic::chain::ConnectionFacts;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::hcm::RouteSource;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_traffic::listener::{Listener, Terminal};
use meltemi_traffic::route::Action;
use meltemi_traffic::select::{RouteFacts, Selected};
use meltemi_traffic::{RuntimeConfig, Str};

/// A call as it arrives.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where the connection was going before it was redirected.
    pub destination: SocketAddr,
    /// Where it comes from.
    pub source: SocketAddr,
    /// SNI; empty without TLS.
    pub server_name: String,
    /// Offered protocols (or what an inspector finds in plain bytes).
    pub application_protocols: Vec<String>,
    /// Comes over TLS.
    pub tls: bool,
    /// The request, when it is HTTP.
    pub request: Option<SimpleRequest>,
    /// Random number for shares and weights.
    pub random: u64,
}

/// What decides about a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Listener.
    pub listener: Option<Str>,
    /// Filter chain (its name, or `default`).
    pub chain: Option<Str>,
    /// Route configuration.
    pub route_table: Option<Str>,
    /// Virtual host.
    pub virtual_host: Option<Str>,
    /// Route.
    pub route: Option<Str>,
    /// Cluster.
    pub cluster: Option<Str>,
    /// Hosts of the cluster.
    pub endpoints: Vec<Address>,
    /// How it ends: `forward`, `redirect 301`, `respond 502`, or why it does not get so far.
    pub outcome: String,
}

/// Walks the configuration for a call that arrives at `entry`.
#[must_use]
pub fn simulate(config: &RuntimeConfig, entry: &str, call: &Call) -> Explanation {
    let mut out = Explanation::default();
    let Some(first) = config.listeners.get(entry) else {
        out.outcome = format!("no listener {entry}");
        return out;
    };
    let listener = if first.use_original_dst {
        hand_over(config, first, call.destination)
    } else {
        first
    };
    out.listener = Some(listener.name.clone());
    let protocols: Vec<&[u8]> = call
        .application_protocols
        .iter()
        .map(String::as_bytes)
        .collect();
    let facts = ConnectionFacts {
        local: call.destination,
        remote: call.source,
        direct_remote: call.source,
        transport: if call.tls { "tls" } else { "raw_buffer" },
        server_name: &call.server_name,
        application_protocols: &protocols,
    };
    let Some(chain) = listener.select_chain(&facts) else {
        out.outcome = "no filter chain".to_owned();
        return out;
    };
    out.chain = Some(if chain.name.is_empty() {
        Str::from("default")
    } else {
        chain.name.clone()
    });
    match &chain.terminal {
        Terminal::Http(manager) => match &call.request {
            Some(request) => http(config, &manager.routes, request, call, &mut out),
            None => out.outcome = "http".to_owned(),
        },
        Terminal::Tcp(proxy) => match proxy.cluster(call.random) {
            Some(cluster) => forward(config, cluster, &mut out),
            None => out.outcome = "no cluster".to_owned(),
        },
        Terminal::DirectResponse(_) => out.outcome = "direct response".to_owned(),
        Terminal::Echo => out.outcome = "echo".to_owned(),
        Terminal::Close => out.outcome = "close".to_owned(),
    }
    out
}

/// The listener of the restored destination: exact address first, then any address with the port, else the first.
fn hand_over<'c>(
    config: &'c RuntimeConfig,
    first: &'c Listener,
    destination: SocketAddr,
) -> &'c Listener {
    let at = |wanted: SocketAddr| {
        config.listeners.values().find(|listener| {
            !std::ptr::eq(listener.as_ref(), first)
                && listener.addresses.contains(&Address::Socket(wanted))
        })
    };
    let any: std::net::IpAddr = match destination {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    at(destination)
        .or_else(|| at(SocketAddr::new(any, destination.port())))
        .map_or(first, |listener| listener)
}

fn http(
    config: &RuntimeConfig,
    source: &RouteSource,
    request: &SimpleRequest,
    call: &Call,
    out: &mut Explanation,
) {
    let table = match source {
        RouteSource::Inline(table) => table,
        RouteSource::Rds(reference) => match config.routes.get(&reference.key) {
            Some(table) => table,
            None => {
                out.outcome = format!("no route configuration {}", reference.name);
                return;
            }
        },
    };
    out.route_table = Some(table.name.clone());
    let facts = RouteFacts {
        random: call.random,
        https: call.tls,
        ..RouteFacts::default()
    };
    match table.select(request, &facts) {
        Selected::None(host) => {
            out.virtual_host = host.map(|host| host.name.clone());
            out.outcome = "no route".to_owned();
        }
        Selected::HttpsRequired(host) => {
            out.virtual_host = Some(host.name.clone());
            out.outcome = "redirect 301".to_owned();
        }
        Selected::Route(host, route) => {
            out.virtual_host = Some(host.name.clone());
            out.route = Some(route.name.clone());
            match &route.action {
                Action::Forward(action) => match action.choose(request, call.random, None) {
                    Some(choice) => forward(config, choice.name.as_str(), out),
                    None => out.outcome = "no cluster header".to_owned(),
                },
                Action::Redirect(redirect) => out.outcome = format!("redirect {}", redirect.status),
                Action::Respond(response) => out.outcome = format!("respond {}", response.status),
                Action::NonForwarding => out.outcome = "not forwarded".to_owned(),
            }
        }
    }
}

fn forward(config: &RuntimeConfig, name: &str, out: &mut Explanation) {
    use meltemi_traffic::cluster::ClusterKind;
    out.cluster = Some(name.into());
    let Some(cluster) = config.clusters.get(name) else {
        out.outcome = "no such cluster".to_owned();
        return;
    };
    let assignment = match &cluster.kind {
        ClusterKind::Eds(service) => config.endpoints.get(&service.key),
        _ => Some(&cluster.endpoints),
    };
    let hosts = assignment
        .into_iter()
        .flat_map(|assignment| &assignment.localities);
    out.endpoints = hosts
        .flat_map(|group| &group.endpoints)
        .map(|host| host.address.clone())
        .collect();
    out.outcome = "forward".to_owned();
}
