//! Whatever bytes a control plane sends, the answer is a configuration or a refusal, never a panic or a hang.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use meltemi_proto::envoy::config::bootstrap::v3::Bootstrap;
use meltemi_proto::{json, validate};
use prost::Message;
use serde_json::json;

/// A configuration that uses many kinds of fields.
fn seed() -> Bootstrap {
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let rbac = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {
        "action": "DENY", "policies": { "p": {
            "permissions": [{ "and_rules": { "rules": [{ "url_path": { "path": { "safe_regex": { "regex": "/a.*" } } } },
                { "destination_port": 80 }] } }],
            "principals": [{ "not_id": { "remote_ip": { "address_prefix": "10.0.0.0", "prefix_len": 8 } } }] } } } });
    let routes = json!([
        { "match": { "path_separated_prefix": "/x", "headers": [{ "name": "a", "range_match": { "start": 1, "end": 9 } }] },
          "route": { "weighted_clusters": { "clusters": [{ "name": "a", "weight": 1 }, { "name": "b", "weight": 2 }] },
            "retry_policy": { "retry_on": "5xx", "retry_back_off": { "base_interval": "0.025s" } },
            "hash_policy": [{ "cookie": { "name": "c", "ttl": "1s" } }] },
          "typed_per_filter_config": { "f": { "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "delay": { "fixed_delay": "1s", "percentage": { "numerator": 10 } } } } },
        { "match": { "prefix": "/" }, "redirect": { "https_redirect": true, "path_redirect": "/y" },
          "request_headers_to_add": [{ "header": { "key": "x", "value": "%REQ(:path):9%" } }] }
    ]);
    json::parse(&json!({ "static_resources": {
        "listeners": [{ "name": "l", "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
            "filter_chains": [{ "filter_chain_match": { "server_names": ["*.a.b"], "source_ports": [1, 2] },
                "filters": [{ "name": "h", "typed_config": { "@type": hcm, "stat_prefix": "s",
                    "route_config": { "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*", "a.b"], "routes": routes }] },
                    "http_filters": [{ "name": "rbac", "typed_config": rbac }, { "name": "r", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } }] }] }],
        "clusters": [{ "name": "a", "type": "STATIC", "lb_policy": "RING_HASH", "ring_hash_lb_config": { "minimum_ring_size": 8 },
            "outlier_detection": { "interval": "1s" },
            "load_assignment": { "cluster_name": "a", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": "127.0.0.1", "port_value": 2 } } } }] }] } }]
    } }))
    .unwrap()
}

/// A small generator: the same mutations on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => {
                    bytes.remove(at);
                }
                3 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
    }
}

#[test]
fn broken_messages_are_compiled_or_refused() {
    let valid = seed();
    meltemi_compile::bootstrap(&valid).unwrap();
    let bytes = valid.encode_to_vec();
    let mut numbers = Numbers(0x5EED);
    let (mut compiled, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut broken = bytes.clone();
        numbers.mutate(&mut broken);
        let _ = json::from_wire("envoy.config.bootstrap.v3.Bootstrap", &broken, true);
        let _ = validate::validate("envoy.config.bootstrap.v3.Bootstrap", &broken);
        let Ok(message) = Bootstrap::decode(&broken[..]) else {
            continue;
        };
        match meltemi_compile::bootstrap(&message) {
            Ok(_) => compiled += 1,
            Err(_) => refused += 1,
        }
    }
    println!("seed 0x5EED: {compiled} compiled, {refused} refused");
    assert!(compiled > 100 && refused > 100);
}

#[test]
fn broken_json_is_read_or_refused() {
    let text = json::print(&seed()).to_string();
    let mut numbers = Numbers(0xBAD);
    for _ in 0..2000 {
        let mut broken = text.clone().into_bytes();
        numbers.mutate(&mut broken);
        let Ok(value) = serde_json::from_slice(&broken) else {
            continue;
        };
        let _ = json::parse::<Bootstrap>(&value);
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    // An access rule inside an access rule, a hundred thousand times: `not_rule` is field 8 of a permission.
    let mut permission = vec![0x18, 1];
    for _ in 0..100_000 {
        let mut outer = vec![0x42];
        let mut length = permission.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap());
        // Only the lengths matter; what is inside stays one chunk.
        permission.splice(0..0, outer);
        if permission.len() > 400_000 {
            break;
        }
    }
    let name = "envoy.config.rbac.v3.Permission";
    assert!(
        validate::validate(name, &permission)
            .unwrap_err()
            .to_string()
            .ends_with("nested too deeply")
    );
    assert!(json::from_wire(name, &permission, false)["undecodable"].is_string());
}
