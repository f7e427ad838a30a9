//! What the clients of a sidecar's application connect to.

use meltemi_model::peer_authentication::MutualTls;
use meltemi_model::{MeshConfig, Shared};
use meltemi_names::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH};
use meltemi_names::{ClusterName, Hostname, Protocol, alpn};

use super::downstream_tls::{self, Inside};
use super::{
    base, http, http_inspector, name_of, original_destination, plain_http, tcp, tls_inspector,
};
use crate::istio_filters::Side;
use crate::listener::outbound::TcpRoute;
use crate::pb;
use crate::{ProxyTraits, route};

/// What shapes the inbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundListenerInput {
    /// The application's ports, in order.
    pub ports: Vec<InboundPort>,
    /// What ports that no service declares demand.
    pub other_ports: MutualTls,
    /// Undeclared ports that demand something else.
    pub exceptions: Vec<(u16, MutualTls)>,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// The proxy.
    pub traits: ProxyTraits,
}

/// A port of the application.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundPort {
    /// Its number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// What it demands.
    pub mutual_tls: MutualTls,
    /// The service that leads there.
    pub host: Hostname,
    /// That service's port.
    pub service_port: u16,
}

/// The listener of all inbound connections.
#[must_use]
pub fn virtual_inbound(input: &InboundListenerInput) -> pb::listener::Listener {
    let mesh = &input.mesh;
    let mut listener = base(
        "virtualInbound".to_owned(),
        "0.0.0.0",
        mesh.inbound_port,
        mesh,
    );
    listener.traffic_direction = pb::core::TrafficDirection::Inbound.into();
    listener.transparent = input.traits.transparent.then(|| pb::boolean(true));
    listener.continue_on_listener_filters_timeout = true;
    listener.listener_filters_timeout = Some(pb::duration(mesh.protocol_detection_timeout));
    listener.listener_filters = listener_filters(input);
    listener.filter_chains.push(black_hole(input));
    listener
        .filter_chains
        .extend(passthrough(input, None, input.other_ports));
    for (port, mode) in &input.exceptions {
        listener
            .filter_chains
            .extend(passthrough(input, Some(*port), *mode));
    }
    for port in &input.ports {
        listener.filter_chains.extend(chains_of(input, port));
    }
    listener
}

/// Inspection is left out on ports where it decides nothing: there a server may speak first.
fn listener_filters(input: &InboundListenerInput) -> Vec<pb::listener::ListenerFilter> {
    let plain = input
        .ports
        .iter()
        .filter(|port| port.mutual_tls == MutualTls::Disable)
        .map(|port| port.port);
    let declared = input
        .ports
        .iter()
        .filter(|port| port.protocol != Protocol::Auto)
        .map(|port| port.port);
    vec![
        original_destination(),
        pb::listener::ListenerFilter {
            filter_disabled: on_ports(plain.collect()),
            ..tls_inspector()
        },
        pb::listener::ListenerFilter {
            filter_disabled: on_ports(declared.collect()),
            ..http_inspector()
        },
    ]
}

fn on_ports(ports: Vec<u16>) -> Option<pb::listener::ListenerFilterChainMatchPredicate> {
    use pb::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let rule = |port: u16| pb::listener::ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(pb::kinds::Int32Range {
            start: port.into(),
            end: i32::from(port) + 1,
        })),
    };
    match ports[..] {
        [] => None,
        [only] => Some(rule(only)),
        _ => Some(pb::listener::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: ports.into_iter().map(rule).collect(),
            })),
        }),
    }
}

/// Connections to the proxy's own port would come back for ever.
fn black_hole(input: &InboundListenerInput) -> pb::listener::FilterChain {
    pb::listener::FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: Some(pb::listener::FilterChainMatch {
            destination_port: Some(pb::number(input.mesh.inbound_port.into())),
            ..Default::default()
        }),
        filters: vec![tcp::proxy(
            &TcpRoute::to(BLACK_HOLE),
            &input.mesh,
            input.traits,
        )],
        ..Default::default()
    }
}

/// What a connection looks like, and how it is treated then.
struct Family {
    transport: &'static str,
    offers: Vec<String>,
    http: bool,
    terminate: bool,
}

impl Family {
    fn tls(offers: &[&str], http: bool, terminate: bool) -> Self {
        Self {
            transport: "tls",
            offers: offers.iter().map(|offer| (*offer).to_owned()).collect(),
            http,
            terminate,
        }
    }

    fn plain(offers: Vec<String>, http: bool) -> Self {
        Self {
            transport: "raw_buffer",
            offers,
            http,
            terminate: false,
        }
    }
}

/// The kind of traffic that a port declares.
#[derive(Clone, Copy)]
enum Declared {
    Auto,
    Http,
    Tcp,
}

impl Declared {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            protocol if protocol.is_http() => Self::Http,
            _ => Self::Tcp,
        }
    }
}

/// Which connections a port takes, by what it demands and declares.
fn families(mode: MutualTls, declared: Declared, http10: bool) -> Vec<Family> {
    // table: Istio's chain matches
    match (mode, declared) {
        (MutualTls::Permissive, Declared::Auto) => vec![
            Family::tls(&alpn::MESH_HTTP, true, true),
            Family::plain(plain_http(http10), true),
            Family::tls(&alpn::MESH_TCP, false, true),
            Family::plain(Vec::new(), false),
            Family::tls(&[], false, false),
        ],
        (MutualTls::Permissive, Declared::Http) => {
            vec![
                Family::tls(&alpn::MESH_ALL, true, true),
                Family::plain(Vec::new(), true),
            ]
        }
        (MutualTls::Permissive, Declared::Tcp) => vec![
            Family::tls(&alpn::MESH_ALL, false, true),
            Family::tls(&[], false, false),
            Family::plain(Vec::new(), false),
        ],
        (MutualTls::Strict, Declared::Auto) => {
            vec![
                Family::tls(&alpn::MESH_HTTP, true, true),
                Family::tls(&[], false, true),
            ]
        }
        (MutualTls::Strict, Declared::Http) => vec![Family::tls(&[], true, true)],
        (MutualTls::Strict, Declared::Tcp) => vec![Family::tls(&[], false, true)],
        (MutualTls::Disable, Declared::Auto) => {
            vec![
                Family::plain(plain_http(http10), true),
                Family::plain(Vec::new(), false),
            ]
        }
        (MutualTls::Disable, Declared::Http) => vec![Family::plain(Vec::new(), true)],
        (MutualTls::Disable, Declared::Tcp) => vec![Family::plain(Vec::new(), false)],
    }
}

/// Connections to ports that no service declares.
fn passthrough(
    input: &InboundListenerInput,
    port: Option<u16>,
    mode: MutualTls,
) -> Vec<pb::listener::FilterChain> {
    let families = families(mode, Declared::Auto, input.traits.http10);
    let chain = |family: Family| {
        let name = if family.http {
            "virtualInbound-catchall-http"
        } else {
            "virtualInbound"
        };
        let target = Target {
            cluster: INBOUND_PASSTHROUGH,
            port,
            operation: ":0/*".to_owned(),
            grpc: false,
        };
        chain(input, name, &family, &target)
    };
    families.into_iter().map(chain).collect()
}

fn chains_of(input: &InboundListenerInput, port: &InboundPort) -> Vec<pb::listener::FilterChain> {
    let cluster = ClusterName::inbound(port.port).to_string();
    let families = families(
        port.mutual_tls,
        Declared::of(port.protocol),
        input.traits.http10,
    );
    let chain = |family: Family| {
        let target = Target {
            cluster: &cluster,
            port: Some(port.port),
            operation: format!("{}:{}/*", port.host, port.service_port),
            grpc: port.protocol.is_grpc(),
        };
        chain(input, &name_of("0.0.0.0", port.port), &family, &target)
    };
    families.into_iter().map(chain).collect()
}

/// Where a chain leads.
struct Target<'a> {
    cluster: &'a str,
    port: Option<u16>,
    operation: String,
    grpc: bool,
}

fn chain(
    input: &InboundListenerInput,
    name: &str,
    family: &Family,
    target: &Target<'_>,
) -> pb::listener::FilterChain {
    let (mesh, traits) = (&input.mesh, input.traits);
    let filters = if family.http {
        let exchange = traits
            .filters
            .tcp_peers
            .then(crate::istio_filters::tcp_metadata_exchange);
        let routes = http::Routes::Inline(Box::new(inline_routes(target)));
        let prefix = format!("inbound_{}", name_of("0.0.0.0", target.port.unwrap_or(0)));
        let manager = http::connection_manager(Side::Inbound, &prefix, routes, false, mesh, traits);
        exchange.into_iter().chain([manager]).collect()
    } else {
        tcp::filters(Side::Inbound, &TcpRoute::to(target.cluster), mesh, traits)
    };
    let inside = if family.http {
        Inside::Http
    } else {
        Inside::Tcp {
            preamble: traits.filters.tcp_peers,
        }
    };
    pb::listener::FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(pb::listener::FilterChainMatch {
            destination_port: target.port.map(|port| pb::number(port.into())),
            transport_protocol: family.transport.to_owned(),
            application_protocols: family.offers.clone(),
            ..Default::default()
        }),
        filters,
        transport_socket: family.terminate.then(|| downstream_tls::mesh(inside, mesh)),
        transport_socket_connect_timeout: family.terminate.then(|| pb::duration(HANDSHAKE_TIMEOUT)),
        ..Default::default()
    }
}

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Everything to the application.
fn inline_routes(target: &Target<'_>) -> pb::route::RouteConfiguration {
    let port = target.port.unwrap_or(0);
    pb::route::RouteConfiguration {
        name: target.cluster.to_owned(),
        virtual_hosts: vec![pb::route::VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route::inbound(
                target.cluster,
                target.operation.clone(),
                target.grpc,
            )],
            ..Default::default()
        }],
        validate_clusters: Some(pb::boolean(false)),
        ..Default::default()
    }
}
