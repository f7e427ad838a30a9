//! Validation of Services and of where they lead.

use std::collections::HashSet;

use serde_json::Value;

use super::{meta, names, pod};
use crate::field::{FieldError, child, index};

/// A new or changed Service.
pub(super) fn check(object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let mut errors = Vec::new();
    pod::one_of(
        spec,
        "type",
        "spec",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        &mut errors,
    );
    pod::one_of(
        spec,
        "sessionAffinity",
        "spec",
        &["ClientIP", "None"],
        &mut errors,
    );
    let external = spec["type"] == "ExternalName";
    if external {
        let name = spec["externalName"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('.');
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            let refused = names::dns1123_subdomain(name);
            errors.extend(
                refused
                    .iter()
                    .map(|w| FieldError::invalid("spec.externalName", &spec["externalName"], w)),
            );
        }
    }
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if ports.is_empty() && !external && spec["clusterIP"] != "None" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let (mut seen_names, mut seen_ports) = (HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = index("spec.ports", i);
        service_port(port, &at, ports.len() > 1, &mut errors);
        if let Some(name) = port["name"].as_str().filter(|n| !n.is_empty())
            && !seen_names.insert(name)
        {
            errors.push(FieldError::duplicate(child(&at, "name"), &port["name"]));
        }
        if !seen_ports.insert((port["protocol"].as_str(), port["port"].as_i64())) {
            let shown = serde_json::json!({"protocol": port["protocol"], "port": port["port"]});
            errors.push(FieldError::duplicate(at, &shown));
        }
    }
    errors.extend(meta::labels(&spec["selector"], "spec.selector"));
    if let Some(ip) = spec["clusterIP"]
        .as_str()
        .filter(|s| !s.is_empty() && *s != "None")
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    errors
}

fn service_port(port: &Value, at: &str, name_required: bool, errors: &mut Vec<FieldError>) {
    match port["name"].as_str().filter(|n| !n.is_empty()) {
        None if name_required => errors.push(FieldError::required(child(at, "name"), "")),
        None => {}
        Some(name) => {
            let refused = names::dns1123_label(name);
            errors.extend(
                refused
                    .iter()
                    .map(|w| FieldError::invalid(child(at, "name"), &port["name"], w)),
            );
        }
    }
    let number = port["port"].as_i64().unwrap_or(0);
    let refused = names::port_number(number);
    errors.extend(
        refused
            .iter()
            .map(|w| FieldError::invalid(child(at, "port"), &Value::from(number), w)),
    );
    pod::one_of(port, "protocol", at, &["SCTP", "TCP", "UDP"], errors);
    if !port["targetPort"].is_null() {
        pod::port_reference(&port["targetPort"], &child(at, "targetPort"), errors);
    }
}

/// A Service's address may not change once set.
pub(super) fn update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (spec, was) = (&object["spec"], &old["spec"]);
    if spec["type"] == "ExternalName" || was["type"] == "ExternalName" {
        return Vec::new();
    }
    let set = was["clusterIP"].as_str().is_some_and(|s| !s.is_empty());
    if set && spec["clusterIP"] != was["clusterIP"] {
        let shown = serde_json::json!([spec["clusterIP"]]);
        return vec![FieldError::invalid(
            "spec.clusterIPs[0]",
            &shown,
            "may not change once set",
        )];
    }
    Vec::new()
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match object["addressType"].as_str() {
        None | Some("") => errors.push(FieldError::required("addressType", "")),
        Some(_) => pod::one_of(
            object,
            "addressType",
            "",
            &["FQDN", "IPv4", "IPv6"],
            &mut errors,
        ),
    }
    for (i, endpoint) in object["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let addresses = endpoint["addresses"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let field = format!("endpoints[{i}].addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(
                field.clone(),
                "must contain at least 1 address",
            ));
        }
        for (j, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let bad = match object["addressType"].as_str() {
                Some("IPv4") => text
                    .parse::<std::net::Ipv4Addr>()
                    .is_err()
                    .then_some("must be an IPv4 address"),
                Some("IPv6") => text
                    .parse::<std::net::Ipv6Addr>()
                    .is_err()
                    .then_some("must be an IPv6 address"),
                _ => None,
            };
            if let Some(why) = bad {
                errors.push(FieldError::invalid(format!("{field}[{j}]"), address, why));
            }
        }
    }
    errors
}
