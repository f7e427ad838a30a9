//! What a sidecar's application connects to.

use std::net::IpAddr;

use meltemi_model::{MeshConfig, Shared};
use meltemi_names::cluster::BLACK_HOLE;
use meltemi_names::{ArcStr, Hostname};

pub use super::tcp::TcpRoute;
use super::{base, http, http_inspector, name_of, plain_http, tcp, tls_inspector};
use crate::ProxyTraits;
use crate::istio_filters::Side;
use crate::pb;

/// What shapes the listener that all outbound connections reach first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualOutboundInput {
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// The proxy.
    pub traits: ProxyTraits,
}

/// The listener that all outbound connections reach first: it hands each to the listener of its destination, and
/// treats what has none.
#[must_use]
pub fn virtual_outbound(input: &VirtualOutboundInput) -> pb::listener::Listener {
    let (mesh, traits) = (&input.mesh, input.traits);
    let mut listener = base(
        "virtualOutbound".to_owned(),
        "0.0.0.0",
        mesh.outbound_port,
        mesh,
    );
    set_outbound(&mut listener, mesh);
    listener.use_original_dst = Some(pb::boolean(true));
    listener.transparent = traits.transparent.then(|| pb::boolean(true));
    // Connections to the proxy's own port would come back for ever.
    let loops = pb::listener::FilterChain {
        name: "virtualOutbound-blackhole".to_owned(),
        filter_chain_match: Some(pb::listener::FilterChainMatch {
            destination_port: Some(pb::number(mesh.outbound_port.into())),
            ..Default::default()
        }),
        filters: vec![tcp::proxy(&TcpRoute::to(BLACK_HOLE), mesh, traits)],
        ..Default::default()
    };
    let rest = pb::listener::FilterChain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: tcp::filters(Side::Outbound, &tcp::unclaimed(mesh), mesh, traits),
        ..Default::default()
    };
    listener.filter_chains = vec![loops, rest];
    listener
}

/// What shapes the listener of a port, or of a service's address and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundListenerInput {
    /// The address.
    pub bind: IpAddr,
    /// The port.
    pub port: u16,
    /// Its HTTP, when it has any.
    pub http: Option<HttpChain>,
    /// Its byte streams, those with conditions first.
    pub tcp: Vec<TcpChain>,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// The proxy.
    pub traits: ProxyTraits,
}

/// HTTP of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpChain {
    /// The name of the routes.
    pub route: ArcStr,
    /// gRPC-Web is spoken.
    pub grpc_web: bool,
}

/// Byte streams of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpChain {
    /// For these server names; any when none.
    pub server_names: Vec<Hostname>,
    /// For these destinations in CIDR form; any when none.
    pub subnets: Vec<ArcStr>,
    /// Where they go.
    pub route: TcpRoute,
}

impl TcpChain {
    /// For every connection.
    #[must_use]
    pub fn all(route: TcpRoute) -> Self {
        Self {
            server_names: Vec::new(),
            subnets: Vec::new(),
            route,
        }
    }

    /// Whether every connection is meant.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.server_names.is_empty() && self.subnets.is_empty()
    }
}

/// The listener.
#[must_use]
pub fn outbound(input: &OutboundListenerInput) -> pb::listener::Listener {
    let (mesh, traits) = (&input.mesh, input.traits);
    let name = name_of(input.bind, input.port);
    let mut listener = base(name.clone(), input.bind, input.port, mesh);
    set_outbound(&mut listener, mesh);
    listener.bind_to_port = Some(pb::boolean(false));
    for chain in &input.tcp {
        let built = tcp_chain(chain, mesh, traits);
        if input.http.is_some() && chain.is_for_all() {
            listener.default_filter_chain.get_or_insert(built);
        } else {
            listener.filter_chains.push(built);
        }
    }
    if input.tcp.iter().any(|chain| !chain.server_names.is_empty()) {
        listener.listener_filters.push(tls_inspector());
    }
    if let Some(chain) = &input.http {
        listener
            .filter_chains
            .push(http_chain(chain, &name, mesh, traits));
        listener.listener_filters.push(http_inspector());
    } else {
        // Nothing is sniffed that a server speaking first could be waiting behind.
        listener.listener_filters_timeout = Some(pb::wkt::Duration::default());
    }
    if !input.tcp.iter().any(TcpChain::is_for_all) {
        listener.default_filter_chain = Some(tcp::passthrough_chain(mesh, traits));
    }
    listener
}

fn set_outbound(listener: &mut pb::listener::Listener, mesh: &MeshConfig) {
    listener.traffic_direction = pb::core::TrafficDirection::Outbound.into();
    listener.continue_on_listener_filters_timeout = true;
    listener.listener_filters_timeout = Some(pb::duration(mesh.protocol_detection_timeout));
}

fn tcp_chain(
    chain: &TcpChain,
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> pb::listener::FilterChain {
    let condition = pb::listener::FilterChainMatch {
        server_names: chain.server_names.iter().map(ToString::to_string).collect(),
        prefix_ranges: chain
            .subnets
            .iter()
            .filter_map(|subnet| cidr(subnet))
            .collect(),
        ..Default::default()
    };
    pb::listener::FilterChain {
        filter_chain_match: (!chain.is_for_all()).then_some(condition),
        filters: tcp::filters(Side::Outbound, &chain.route, mesh, traits),
        ..Default::default()
    }
}

fn http_chain(
    chain: &HttpChain,
    listener: &str,
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> pb::listener::FilterChain {
    let routes = http::Routes::Named(chain.route.to_string());
    let prefix = format!("outbound_{listener}");
    pb::listener::FilterChain {
        filter_chain_match: Some(pb::listener::FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: plain_http(traits.http10),
            ..Default::default()
        }),
        filters: vec![http::connection_manager(
            Side::Outbound,
            &prefix,
            routes,
            chain.grpc_web,
            mesh,
            traits,
        )],
        ..Default::default()
    }
}

/// `address/length`, or an address alone.
fn cidr(text: &str) -> Option<pb::core::CidrRange> {
    let (address, length) = text
        .split_once('/')
        .map_or((text, None), |(address, length)| (address, Some(length)));
    let parsed: IpAddr = address.parse().ok()?;
    let whole = if parsed.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(whole), |length| length.parse().ok())?;
    Some(pb::core::CidrRange {
        address_prefix: parsed.to_string(),
        prefix_len: Some(pb::number(length)),
    })
}
