//! Checks of `VirtualService`.

mod headers;
mod http;
mod reachability;

use meltemi_names::Hostname;

use super::primitives::{
    export_to, is_dns_label, is_fqdn, is_generated_sni, is_ip, is_subnet, is_wildcard_domain,
    labels, port,
};
use super::{Findings, Validate};
use crate::meta::Object;
use crate::virtual_service::{
    Destination, RouteDestination, TcpRoute, TlsMatch, TlsRoute, VirtualService,
};

/// What the routes are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// Sidecars.
    mesh: bool,
    /// Gateways.
    gateways: bool,
    /// Another virtual service, which refers to this one.
    delegate: bool,
}

impl Validate for VirtualService {
    fn check(object: &Object<Self>, f: &mut Findings) {
        let spec = &object.spec;
        let scope = Scope {
            mesh: spec.gateways.is_empty() || spec.gateways.iter().any(|g| g == "mesh"),
            gateways: spec.gateways.iter().any(|g| g != "mesh"),
            delegate: spec.hosts.is_empty(),
        };
        if scope.delegate {
            f.ensure(
                spec.gateways.is_empty(),
                "delegate virtual service must have no gateways specified",
            );
            f.ensure(
                spec.tls.is_empty(),
                "delegate virtual service must have no tls specified",
            );
            f.ensure(
                spec.tcp.is_empty(),
                "delegate virtual service must have no tcp specified",
            );
        }
        gateway_names(f, &spec.gateways);
        hosts(f, spec, scope);
        if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
            f.error("http, tcp or tls must be provided in virtual service");
        }
        f.each("http", &spec.http, |f, route| http::route(f, route, scope));
        f.each("tls", &spec.tls, |f, route| tls_route(f, route, spec));
        f.each("tcp", &spec.tcp, tcp_route);
        export_to(f, &spec.export_to, &object.metadata.namespace, false);
        reachability::check(f, spec);
    }
}

fn hosts(f: &mut Findings, spec: &VirtualService, scope: Scope) {
    f.each("hosts", &spec.hosts, |f, host| {
        let sni = scope.gateways && !spec.tls.is_empty() && is_generated_sni(host);
        f.ensure(
            is_wildcard_domain(host) || is_ip(host) || sni,
            format!("invalid virtual host {host:?}"),
        );
        if host == "*" && scope.mesh {
            f.error(
                "wildcard host * is not allowed for virtual services bound to the mesh gateway",
            );
        }
    });
    for (at, later) in spec.hosts.iter().enumerate() {
        for earlier in &spec.hosts[..at] {
            if Hostname::new(earlier.as_str()).overlaps(&Hostname::new(later.as_str())) {
                f.error(format!(
                    "duplicate hosts in virtual service: {earlier} covers {later}"
                ));
            }
        }
    }
}

/// Checks references to gateways.
fn gateway_names(f: &mut Findings, gateways: &[String]) {
    let mut legacy = false;
    f.each("gateways", gateways, |f, gateway| {
        if legacy {
            return;
        }
        if gateway.contains('.') && !gateway.contains('/') {
            // The old notation; nothing after it is looked at.
            legacy = true;
            f.ensure(
                is_fqdn(gateway),
                format!("{gateway:?} is not a gateway name"),
            );
            return f.warn(format!(
                "using legacy gatewayName format {gateway:?}; prefer the <namespace>/<name> format"
            ));
        }
        let (namespace, name) = match gateway.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, gateway.as_str()),
        };
        let ok = namespace.is_none_or(is_dns_label) && is_dns_label(name);
        f.ensure(
            ok,
            format!("{gateway:?} is not a gateway; write <name> or <namespace>/<name>"),
        );
    });
}

fn tls_route(f: &mut Findings, route: &TlsRoute, spec: &VirtualService) {
    f.ensure(
        !route.matches.is_empty(),
        "TLS route must have at least one match condition",
    );
    f.each("match", &route.matches, |f, m| tls_match(f, m, spec));
    f.ensure(!route.route.is_empty(), "TLS route is required");
    f.each("route", &route.route, route_destination);
    total_weight(f, &route.route.iter().map(|r| r.weight).collect::<Vec<_>>());
}

fn tls_match(f: &mut Findings, m: &TlsMatch, spec: &VirtualService) {
    f.ensure(
        !m.sni_hosts.is_empty(),
        "TLS match must have at least one SNI host",
    );
    f.each("sniHosts", &m.sni_hosts, |f, sni| {
        if is_ip(sni) {
            f.warn(format!("using an IP address ({sni}) goes against SNI spec and most clients do not support this"));
        } else if !is_wildcard_domain(sni) && !is_generated_sni(sni) {
            return f.error(format!("invalid sni host {sni:?}"));
        }
        let name = Hostname::new(sni.as_str());
        let covered = spec.hosts.iter().any(|host| name.is_subset_of(&Hostname::new(host.as_str())));
        f.ensure(covered, format!("SNI host {sni:?} is not a compatible subset of any of the virtual service hosts"));
    });
    subnets(f, &m.destination_subnets);
    conditions(f, m.port, &m.source_labels, &m.gateways);
}

fn tcp_route(f: &mut Findings, route: &TcpRoute) {
    f.each("match", &route.matches, |f, m| {
        subnets(f, &m.destination_subnets);
        conditions(f, m.port, &m.source_labels, &m.gateways);
    });
    f.ensure(!route.route.is_empty(), "TCP route is required");
    f.each("route", &route.route, route_destination);
    total_weight(f, &route.route.iter().map(|r| r.weight).collect::<Vec<_>>());
}

fn subnets(f: &mut Findings, subnets: &[String]) {
    f.each("destinationSubnets", subnets, |f, subnet| {
        f.ensure(
            is_subnet(subnet),
            format!("{subnet:?} is not an IP address or network"),
        );
    });
}

/// Conditions that choose proxies rather than requests.
fn conditions(
    f: &mut Findings,
    number: Option<u32>,
    source: &std::collections::BTreeMap<String, String>,
    gateways: &[String],
) {
    if let Some(number) = number.filter(|n| *n != 0) {
        f.at("port", |f| port(f, number));
    }
    labels(f, "sourceLabels", source);
    gateway_names(f, gateways);
}

fn route_destination(f: &mut Findings, route: &RouteDestination) {
    match &route.destination {
        None => f.error("destination is required"),
        Some(to) => f.at("destination", |f| destination(f, to)),
    }
    f.ensure(
        route.weight >= 0,
        format!("weight {} must not be negative", route.weight),
    );
}

/// Notes several destinations of which none gets anything.
fn total_weight(f: &mut Findings, weights: &[i32]) {
    let sum: i64 = weights.iter().map(|w| i64::from(*w)).sum();
    f.ensure(
        weights.len() < 2 || sum != 0,
        "total destination weight = 0",
    );
}

fn destination(f: &mut Findings, destination: &Destination) {
    let host = &destination.host;
    if host == "*" {
        f.error("invalid destination host *");
    } else {
        f.ensure(
            is_wildcard_domain(host),
            format!("invalid destination host {host:?}"),
        );
    }
    let subset = &destination.subset;
    f.ensure(
        subset.is_empty() || is_dns_label(subset),
        format!("subset name {subset:?} is not a DNS label"),
    );
    if let Some(selector) = &destination.port {
        f.at("port", |f| port(f, selector.number));
    }
}
