//! From Services and EndpointSlices to NAT rules. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meltemi_capture::service_rules::{Affinity, Protocol, ServiceRule};
use meltemi_kube::Key;

use crate::watches::SERVICE_NAME;

/// All rules: `fixed` first, then one for each address and port of each Service. A later rule for
/// the same address, protocol and port is left out.
pub(super) fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    fixed: &[ServiceRule],
    gateway: Ipv4Addr,
) -> Vec<ServiceRule> {
    let mut by_service: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let meta = &slice.metadata;
        if let Some(name) = meta
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME))
        {
            let key = Key::new(meta.namespace.as_deref().unwrap_or_default(), name);
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut rules = fixed.to_vec();
    let mut taken: BTreeSet<(Ipv4Addr, Protocol, u16)> = rules
        .iter()
        .map(|rule| (rule.address, rule.protocol, rule.port))
        .collect();
    for service in services {
        let slices = by_service
            .get(&Key::of(&**service))
            .map_or(&[][..], Vec::as_slice);
        let own = service_rules(service, slices, gateway);
        rules.extend(
            own.into_iter()
                .filter(|rule| taken.insert((rule.address, rule.protocol, rule.port))),
        );
    }
    rules
}

fn service_rules(
    service: &Service,
    slices: &[&EndpointSlice],
    gateway: Ipv4Addr,
) -> Vec<ServiceRule> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let affinity = if spec.session_affinity.as_deref() == Some("ClientIP") {
        Affinity::ClientIp
    } else {
        Affinity::None
    };
    let parse = |address: &String| address.parse::<Ipv4Addr>().ok();
    let mut addresses: Vec<Ipv4Addr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(parse)
        .collect();
    if addresses.is_empty() {
        addresses.extend(spec.cluster_ip.as_ref().and_then(parse));
    }
    addresses.extend(spec.external_ips.iter().flatten().filter_map(parse));
    addresses.extend(crate::controllers::balancer_addresses(service));
    let mut rules = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => continue,
        };
        let backends = backends(port, slices);
        let rule = |address, number: i32| {
            let port = u16::try_from(number).ok().filter(|port| *port > 0)?;
            Some(ServiceRule {
                address,
                protocol,
                port,
                backends: backends.clone(),
                affinity,
            })
        };
        rules.extend(
            addresses
                .iter()
                .filter_map(|address| rule(*address, port.port)),
        );
        rules.extend(port.node_port.and_then(|number| rule(gateway, number)));
    }
    rules
}

/// Endpoints of a service port: the ready ones, or while there are none those that still serve.
fn backends(port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<SocketAddrV4> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let wanted = port.name.as_deref().unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let found = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == wanted
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let number = found
            .and_then(|port| port.port)
            .and_then(|number| u16::try_from(number).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let addresses = endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok());
            let sockets = addresses.map(|address| SocketAddrV4::new(address, number));
            if conditions.ready.unwrap_or(true) {
                ready.extend(sockets);
            } else if conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false)
            {
                serving.extend(sockets);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

    fn rules_of(service: Value, endpoints: Value) -> Vec<ServiceRule> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"}, "spec": service["spec"], "status": service["status"]
        }))
        .expect("a service");
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-x", "namespace": "ns", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints
        }))
        .expect("a slice");
        rules(&[Arc::new(service)], &[Arc::new(slice)], &[], GATEWAY)
    }

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    #[test]
    fn every_address_of_a_service_leads_to_its_ready_endpoints() {
        let service = json!({
            "spec": {"clusterIP": "10.96.0.7", "type": "LoadBalancer",
                     "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "172.18.255.200"}]}}});
        let endpoints = json!([
            endpoint("10.244.0.5", true, true, false),
            endpoint("10.244.0.6", false, false, false)
        ]);
        let rules = rules_of(service, endpoints);
        let keys: Vec<String> = rules
            .iter()
            .map(|rule| format!("{}:{}", rule.address, rule.port))
            .collect();
        assert_eq!(
            keys,
            ["10.96.0.7:80", "172.18.255.200:80", "10.244.0.1:30080"]
        );
        for rule in rules {
            assert_eq!(
                rule.backends,
                ["10.244.0.5:8080".parse().expect("an address")]
            );
        }
    }

    #[test]
    fn terminating_endpoints_serve_while_none_is_ready() {
        let service =
            json!({"spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}});
        let rules = rules_of(service, json!([endpoint("10.244.0.5", false, true, true)]));
        assert_eq!(
            rules[0].backends,
            ["10.244.0.5:8080".parse().expect("an address")]
        );
    }

    #[test]
    fn a_headless_service_has_no_rules_and_an_empty_one_refuses() {
        let headless =
            json!({"spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}});
        assert_eq!(rules_of(headless, json!([])), []);
        let empty =
            json!({"spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}});
        assert_eq!(rules_of(empty, json!([]))[0].backends, []);
    }
}
