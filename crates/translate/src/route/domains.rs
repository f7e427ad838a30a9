//! The authorities by which a host is called.

use std::collections::HashSet;
use std::net::IpAddr;

use meltemi_model::service::Service;

use super::{HostInput, RouteInput};

/// Domains of earlier virtual hosts: a domain may stand only once in a route configuration.
#[derive(Default)]
pub(super) struct Taken(HashSet<String>);

impl Taken {
    /// The domains that are still free, now taken.
    pub(super) fn claim(&mut self, domains: Vec<String>) -> Vec<String> {
        domains
            .into_iter()
            .filter(|domain| self.0.insert(domain.clone()))
            .collect()
    }
}

/// The domains of a host, the full name first.
pub(super) fn of_host(input: &RouteInput, host: &HostInput) -> Vec<String> {
    if host.any_authority {
        return vec!["*".to_owned()];
    }
    let name = host.host.as_str();
    let Some(service) = host
        .service
        .as_ref()
        .filter(|_| !input.namespace.is_empty())
    else {
        let absolute =
            (!host.host.is_wildcard() && !input.namespace.is_empty()).then(|| format!("{name}."));
        return std::iter::once(name.to_owned()).chain(absolute).collect();
    };
    let mut domains = names_of(service, &input.namespace);
    if service.is_headless() {
        let below: Vec<String> = domains.iter().map(|domain| format!("*.{domain}")).collect();
        domains.extend(below);
    }
    domains.extend(
        host.aliases
            .iter()
            .flat_map(|alias| names_of(alias, &input.namespace)),
    );
    domains.extend(service.vips.iter().map(|vip| authority(*vip)));
    domains
}

/// The full name, with and without its final dot, and the short ones.
fn names_of(service: &Service, client_namespace: &str) -> Vec<String> {
    let name = service.host.as_str();
    let mut names = vec![name.to_owned(), format!("{name}.")];
    names.extend(short_names(service, client_namespace));
    names
}

/// What a client may leave out of the full name, by its own namespace.
fn short_names(service: &Service, client_namespace: &str) -> Vec<String> {
    let (name, namespace) = (&service.meta.name, &service.meta.namespace);
    let full = format!("{name}.{namespace}.svc.");
    if !service.host.as_str().starts_with(&full) {
        return Vec::new();
    }
    let with_namespace = [
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ];
    let alone = (client_namespace == namespace.as_str()).then(|| name.to_string());
    alone.into_iter().chain(with_namespace).collect()
}

fn authority(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
