//! Listeners (LDS).
//!
//! [`outbound`] has the listeners of a sidecar's application, [`inbound`] the one of its clients, [`gateway`] those at
//! the edge. Filter chains are put together in `http` and `tcp`.

mod access_log;
mod downstream_tls;
pub mod gateway;
mod http;
pub mod inbound;
pub mod outbound;
mod tcp;

use envoy_types::pb::envoy::extensions::filters::listener as listener_filters;
use meltemi_model::MeshConfig;

use crate::pb;

/// The name of a listener: its address and port.
fn name_of(bind: impl std::fmt::Display, port: u16) -> String {
    format!("{bind}_{port}")
}

fn listener_filter<M: prost::Message + prost::Name>(
    name: &str,
    config: &M,
) -> pb::listener::ListenerFilter {
    pb::listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(pb::listener::listener_filter::ConfigType::TypedConfig(
            pb::any(config),
        )),
        ..Default::default()
    }
}

/// Finds out whether a connection is TLS, for whom and with which offers.
fn tls_inspector() -> pb::listener::ListenerFilter {
    let config = listener_filters::tls_inspector::v3::TlsInspector {
        // Enough for most hellos: a larger one is read in steps.
        initial_read_buffer_size: Some(pb::number(512)),
        ..Default::default()
    };
    listener_filter("envoy.filters.listener.tls_inspector", &config)
}

/// Finds out whether clear text is HTTP.
fn http_inspector() -> pb::listener::ListenerFilter {
    let config = listener_filters::http_inspector::v3::HttpInspector::default();
    listener_filter("envoy.filters.listener.http_inspector", &config)
}

/// Restores the address that the client dialled.
fn original_destination() -> pb::listener::ListenerFilter {
    let config = listener_filters::original_dst::v3::OriginalDst::default();
    listener_filter("envoy.filters.listener.original_dst", &config)
}

/// The offers by which clear-text HTTP is told from other bytes.
fn plain_http(http10: bool) -> Vec<String> {
    let tokens = meltemi_names::alpn::PLAIN_HTTP.iter().copied();
    let old = http10.then_some(meltemi_names::alpn::HTTP_10);
    tokens.chain(old).map(str::to_owned).collect()
}

/// What every listener has.
fn base(name: String, bind: impl ToString, port: u16, mesh: &MeshConfig) -> pb::listener::Listener {
    pb::listener::Listener {
        name,
        address: Some(pb::address(bind, port)),
        access_log: access_log::of_listener(mesh),
        max_connections_to_accept_per_socket_event: Some(pb::number(1)),
        ..Default::default()
    }
}
