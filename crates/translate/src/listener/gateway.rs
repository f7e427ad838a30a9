//! What the mesh's edge listens on.

use std::time::Duration;

use meltemi_model::gateway::ServerTls;
use meltemi_model::{MeshConfig, Shared};
use meltemi_names::{ArcStr, Hostname};

use super::downstream_tls::{self, Inside};
use super::{base, http, name_of, tcp, tls_inspector};
use crate::ProxyTraits;
use crate::istio_filters::Side;
use crate::listener::outbound::TcpRoute;
use crate::pb;

/// What shapes a listener of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayListenerInput {
    /// The address.
    pub bind: ArcStr,
    /// The port.
    pub port: u16,
    /// Its chains; more than one only by server names.
    pub chains: Vec<GatewayChain>,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// The proxy.
    pub traits: ProxyTraits,
}

/// One server of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayChain {
    /// For these server names; any when none.
    pub server_names: Vec<Hostname>,
    /// TLS that ends here.
    pub tls: Option<ServerTls>,
    /// What it carries.
    pub traffic: GatewayTraffic,
}

/// What a server of a gateway carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayTraffic {
    /// HTTP with the routes of this name.
    Http(ArcStr),
    /// Byte streams.
    Tcp(TcpRoute),
}

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The listener.
#[must_use]
pub fn gateway(input: &GatewayListenerInput) -> pb::listener::Listener {
    let name = name_of(&input.bind, input.port);
    let mut listener = base(name.clone(), &input.bind, input.port, &input.mesh);
    listener.traffic_direction = pb::core::TrafficDirection::Outbound.into();
    if input
        .chains
        .iter()
        .any(|chain| chain.tls.is_some() || !chain.server_names.is_empty())
    {
        listener.listener_filters.push(tls_inspector());
    }
    listener.filter_chains = input
        .chains
        .iter()
        .map(|chain| build(input, &name, chain))
        .collect();
    listener
}

fn build(
    input: &GatewayListenerInput,
    listener: &str,
    chain: &GatewayChain,
) -> pb::listener::FilterChain {
    let (mesh, traits) = (&input.mesh, input.traits);
    let (filters, inside) = match &chain.traffic {
        GatewayTraffic::Http(route) => {
            let routes = http::Routes::Named(route.to_string());
            let prefix = format!("outbound_{listener}");
            let manager =
                http::connection_manager(Side::Gateway, &prefix, routes, true, mesh, traits);
            (vec![manager], Inside::Http)
        }
        GatewayTraffic::Tcp(route) => {
            let preamble = traits.filters.tcp_peers;
            (
                tcp::filters(Side::Gateway, route, mesh, traits),
                Inside::Tcp { preamble },
            )
        }
    };
    let names: Vec<String> = chain.server_names.iter().map(ToString::to_string).collect();
    pb::listener::FilterChain {
        filter_chain_match: (!names.is_empty()).then(|| pb::listener::FilterChainMatch {
            server_names: names,
            ..Default::default()
        }),
        filters,
        transport_socket: chain
            .tls
            .as_ref()
            .map(|tls| downstream_tls::server(tls, inside, mesh)),
        transport_socket_connect_timeout: chain
            .tls
            .as_ref()
            .map(|_| pb::duration(HANDSHAKE_TIMEOUT)),
        ..Default::default()
    }
}
