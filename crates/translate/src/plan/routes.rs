//! Inputs of a sidecar's routes.

use std::collections::{BTreeMap, BTreeSet};

use meltemi_model::routing::{Destination, GatewayRef, MatchScope, VirtualService};
use meltemi_model::service::Service;
use meltemi_model::{OutboundPolicy, Shared};
use meltemi_names::{ArcStr, Hostname, Protocol};

use super::Plan;
use crate::route::{ClientIdentity, HostInput, RouteInput};

/// On this port rules may also name hosts that no service has.
const PORT_OF_FREE_HOSTS: u16 = 80;

impl Plan<'_> {
    /// The routes of this name: `9080` for a port, `host:9080` for a service that has its listener for itself.
    pub(crate) fn sidecar_routes(self, name: &str) -> Option<RouteInput> {
        if let Ok(port) = name.parse::<u16>() {
            return Some(self.routes_of_port(name, port));
        }
        let (host, port) = name.rsplit_once(':')?;
        self.routes_of_service(name, &Hostname::from(host), port.parse().ok()?)
    }

    fn routes_of_port(self, name: &str, port: u16) -> RouteInput {
        let rules = MeshRules::new(
            self.snapshot
                .routes_for(&GatewayRef::Mesh, &self.proxy.namespace),
        );
        let mut hosts: Vec<HostInput> = Vec::new();
        for service in self.services().filter(|service| is_routed(service, port)) {
            let chosen = rules.of(&service.host);
            hosts.push(self.service_host(service, chosen.cloned(), port));
        }
        if port == PORT_OF_FREE_HOSTS {
            hosts.extend(self.free_hosts(&rules, &hosts));
        }
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        self.mesh_routes(
            name,
            port,
            hosts,
            Some(self.snapshot.mesh().outbound_policy),
        )
    }

    fn routes_of_service(self, name: &str, host: &Hostname, port: u16) -> Option<RouteInput> {
        let service = self.snapshot.service(host, &self.proxy.namespace)?;
        service.port(port)?;
        let rules = MeshRules::new(
            self.snapshot
                .routes_for(&GatewayRef::Mesh, &self.proxy.namespace),
        );
        let mut only = self.service_host(service, rules.of(host).cloned(), port);
        only.any_authority = true;
        Some(self.mesh_routes(name, port, vec![only], None))
    }

    fn service_host(
        self,
        service: &Shared<Service>,
        rules: Option<Shared<VirtualService>>,
        port: u16,
    ) -> HostInput {
        let rules: Vec<Shared<VirtualService>> = rules.into_iter().collect();
        let mut destinations = self.targets(&rules, port);
        // Where requests go when no rule applies: this port of the service, not its only one.
        let whole = Destination {
            host: service.host.clone(),
            subset: ArcStr::new(),
            port: None,
        };
        if rules.iter().all(|rules| rules.http.is_empty()) {
            let here = Destination {
                port: Some(port),
                ..whole.clone()
            };
            destinations.insert(whole, self.target_of(&here, port));
        }
        HostInput {
            host: service.host.clone(),
            service: Some(service.clone()),
            aliases: self.aliases_of(&service.host),
            rules,
            destinations,
            any_authority: false,
            https_redirect: false,
        }
    }

    /// Services that are other names of a host.
    fn aliases_of(self, host: &Hostname) -> Vec<Shared<Service>> {
        let aliases = self.snapshot.aliases_of(host).iter();
        aliases
            .filter(|alias| alias.export_to.allows(&self.proxy.namespace))
            .cloned()
            .collect()
    }

    /// Hosts that only rules name.
    fn free_hosts(self, rules: &MeshRules, services: &[HostInput]) -> Vec<HostInput> {
        let taken: BTreeSet<&Hostname> = services.iter().map(|service| &service.host).collect();
        let mut hosts: BTreeMap<Hostname, HostInput> = BTreeMap::new();
        for written in rules.all.iter().filter(|rules| !rules.http.is_empty()) {
            for host in written.hosts.iter().filter(|host| !taken.contains(host)) {
                let is_service = self.snapshot.service(host, &self.proxy.namespace).is_some();
                let covers_services =
                    host.is_wildcard() && taken.iter().any(|service| service.is_subset_of(host));
                if is_service || covers_services || hosts.contains_key(host) {
                    continue;
                }
                let input = HostInput {
                    host: host.clone(),
                    service: None,
                    aliases: Vec::new(),
                    destinations: self.targets(std::slice::from_ref(written), PORT_OF_FREE_HOSTS),
                    rules: vec![written.clone()],
                    any_authority: false,
                    https_redirect: false,
                };
                hosts.insert(host.clone(), input);
            }
        }
        hosts.into_values().collect()
    }

    fn mesh_routes(
        self,
        name: &str,
        port: u16,
        hosts: Vec<HostInput>,
        other_hosts: Option<OutboundPolicy>,
    ) -> RouteInput {
        let asked = hosts
            .iter()
            .flat_map(|host| &host.rules)
            .any(|rules| asks_for_client(rules));
        let client = asked.then(|| ClientIdentity {
            namespace: self.proxy.namespace.clone(),
            labels: self.proxy.labels.clone(),
        });
        RouteInput {
            name: name.into(),
            port,
            https: false,
            gateways: vec![GatewayRef::Mesh],
            hosts,
            other_hosts,
            client,
            namespace: self.proxy.namespace.clone(),
            mesh: self.snapshot.mesh().clone(),
        }
    }
}

/// Whether a service takes part in the routes of a port.
fn is_routed(service: &Service, port: u16) -> bool {
    service
        .port(port)
        .is_some_and(|port| port.protocol.is_http() || port.protocol == Protocol::Auto)
}

/// Whether some condition depends on who the client is.
fn asks_for_client(rules: &VirtualService) -> bool {
    let asks =
        |scope: &MatchScope| !scope.source_labels.is_empty() || !scope.source_namespace.is_empty();
    rules
        .http
        .iter()
        .flat_map(|rule| &rule.matches)
        .any(|wanted| asks(&wanted.scope))
}

/// The rules of the mesh, found by host: for each host exactly one set takes effect.
pub(super) struct MeshRules {
    all: Vec<Shared<VirtualService>>,
    exact: BTreeMap<Hostname, usize>,
    /// The most specific first.
    wildcards: Vec<(Hostname, usize)>,
}

impl MeshRules {
    pub(super) fn new(all: Vec<Shared<VirtualService>>) -> Self {
        let (mut exact, mut wildcards) = (BTreeMap::new(), Vec::new());
        for (index, rules) in all.iter().enumerate() {
            for host in &rules.hosts {
                if host.is_wildcard() {
                    wildcards.push((host.clone(), index));
                } else {
                    exact.entry(host.clone()).or_insert(index);
                }
            }
        }
        wildcards.sort_by_key(|(host, index)| (host.specificity(), *index));
        Self {
            all,
            exact,
            wildcards,
        }
    }

    /// The rules for a host: the most specific, the first among equals.
    pub(super) fn of(&self, host: &Hostname) -> Option<&Shared<VirtualService>> {
        let wildcard = || {
            self.wildcards
                .iter()
                .find(|(pattern, _)| host.is_subset_of(pattern))
                .map(|(_, index)| index)
        };
        let index = self.exact.get(host).or_else(wildcard)?;
        self.all.get(*index)
    }
}
