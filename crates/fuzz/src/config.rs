//! What control planes and users send.

use meltemi_proto::envoy::config::bootstrap::v3::Bootstrap;
use meltemi_proto::envoy::config::cluster::v3::Cluster;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use meltemi_proto::envoy::config::listener::v3::Listener;
use meltemi_proto::envoy::config::route::v3::RouteConfiguration;
use meltemi_proto::json as mapping;
use prost::Message;
use serde_json::Value;

/// The JSON mapping: what was read prints to what reads as the same.
pub(crate) fn json(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let Ok(message) = mapping::parse::<Listener>(&value) else {
        return;
    };
    let printed = mapping::print(&message);
    match mapping::parse::<Listener>(&printed) {
        Ok(again) => assert!(
            again.encode_to_vec() == message.encode_to_vec() || has_unordered(&printed),
            "printing changed the message"
        ),
        Err(error) => panic!("what was printed does not read: {error}"),
    }
}

/// Maps have no order on the wire, and a number that is none equals nothing.
fn has_unordered(value: &Value) -> bool {
    let text = value.to_string();
    text.contains("metadata") || text.contains("NaN") || text.contains("@type")
}

/// A whole bootstrap, YAML or JSON.
pub(crate) fn bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(value) = serde_saphyr::from_str::<Value>(text) else {
        return;
    };
    if let Ok(message) = mapping::parse::<Bootstrap>(&value) {
        let _ = meltemi_compile::bootstrap(&message);
    }
}

/// Resources as they come in a discovery response.
pub(crate) fn resources(bytes: &[u8]) {
    if let Ok(message) = Listener::decode(bytes) {
        let _ = meltemi_compile::listener(&message);
    }
    if let Ok(message) = Cluster::decode(bytes) {
        let _ = meltemi_compile::cluster(&message);
    }
    if let Ok(message) = RouteConfiguration::decode(bytes) {
        let _ = meltemi_compile::route_table(&message);
    }
    if let Ok(message) = ClusterLoadAssignment::decode(bytes) {
        let _ = meltemi_compile::assignment(&message);
    }
}
