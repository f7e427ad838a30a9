//! Inputs of a sidecar's outbound listeners.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use meltemi_model::Shared;
use meltemi_model::destination::HashKey;
use meltemi_model::endpoint::Health;
use meltemi_model::routing::{Destination, GatewayRef, MatchScope, TcpShare, VirtualService};
use meltemi_model::service::{Service, ServicePort};
use meltemi_names::{ArcStr, Hostname, Protocol, ports};

use super::Plan;
use super::routes::MeshRules;
use crate::listener::outbound::{
    HttpChain, OutboundListenerInput, TcpChain, TcpRoute, VirtualOutboundInput,
};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Listeners under construction, by port and address.
type Building = BTreeMap<(u16, IpAddr), OutboundListenerInput>;

impl Plan<'_> {
    pub(crate) fn virtual_outbound(self) -> VirtualOutboundInput {
        VirtualOutboundInput {
            mesh: self.snapshot.mesh().clone(),
            traits: self.proxy.traits,
        }
    }

    /// One for each port with HTTP, and one for each address of other services.
    pub(crate) fn outbound_listeners(self) -> Vec<OutboundListenerInput> {
        let rules = MeshRules::new(
            self.snapshot
                .routes_for(&GatewayRef::Mesh, &self.proxy.namespace),
        );
        let mut building = Building::new();
        for service in self.services() {
            for port in &service.ports {
                self.add(&mut building, &rules, service, port);
            }
        }
        building.into_values().collect()
    }

    /// Whether some pods have listeners of their own, each left out at the pod itself.
    pub(crate) fn has_pod_listeners(self) -> bool {
        self.services().any(|service| {
            service.is_headless() && service.ports.iter().any(|port| !port.protocol.is_http())
        })
    }

    fn add(
        self,
        building: &mut Building,
        rules: &MeshRules,
        service: &Shared<Service>,
        port: &ServicePort,
    ) {
        if port.protocol.is_http() {
            if !ports::RESERVED_WILDCARD.contains(&port.number) {
                self.add_http(building, ANY, port, ArcStr::from(port.number.to_string()));
            }
            return;
        }
        for bind in self.addresses_of(service, port) {
            let chains = self.tcp_chains(rules, service, port, bind);
            let listener = self.at(building, bind, port.number);
            for chain in chains {
                // The oldest service keeps a condition that two ask for.
                let known = |own: &TcpChain| {
                    own.server_names == chain.server_names && own.subnets == chain.subnets
                };
                if !listener.tcp.iter().any(known) {
                    listener.tcp.push(chain);
                }
            }
            listener.tcp.sort_by_key(TcpChain::is_for_all);
            if port.protocol == Protocol::Auto {
                let route = arcstr::format!("{}:{}", service.host, port.number);
                let route = if bind == ANY {
                    ArcStr::from(port.number.to_string())
                } else {
                    route
                };
                self.add_http(building, bind, port, route);
            }
        }
    }

    fn add_http(self, building: &mut Building, bind: IpAddr, port: &ServicePort, route: ArcStr) {
        let listener = self.at(building, bind, port.number);
        let http = listener.http.get_or_insert(HttpChain {
            route,
            grpc_web: false,
        });
        http.grpc_web |= port.protocol == Protocol::GrpcWeb;
    }

    fn at(self, building: &mut Building, bind: IpAddr, port: u16) -> &mut OutboundListenerInput {
        building
            .entry((port, bind))
            .or_insert_with(|| OutboundListenerInput {
                bind,
                port,
                http: None,
                tcp: Vec::new(),
                mesh: self.snapshot.mesh().clone(),
                traits: self.proxy.traits,
            })
    }

    /// The addresses by which connections to a service are told from others: its own, or those of its pods when it
    /// has none.
    fn addresses_of(self, service: &Service, port: &ServicePort) -> Vec<IpAddr> {
        if !service.is_headless() {
            return vec![service.vip().unwrap_or(ANY)];
        }
        let endpoints = self.snapshot.endpoints(&service.host);
        let endpoints = endpoints
            .map(|endpoints| endpoints.of_port(&port.name))
            .unwrap_or_default();
        let ready = endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Healthy);
        ready
            .map(|endpoint| endpoint.address)
            .filter(|address| !self.proxy.addresses.contains(address))
            .collect()
    }

    /// The byte streams of a service port: what rules say, then everything to the service.
    fn tcp_chains(
        self,
        rules: &MeshRules,
        service: &Shared<Service>,
        port: &ServicePort,
        bind: IpAddr,
    ) -> Vec<TcpChain> {
        let applying = rules.of(&service.host);
        let mut chains = Vec::new();
        if let Some(rules) = applying {
            if port.protocol.is_tls() {
                chains.extend(self.tls_rules(rules, port.number));
            } else {
                chains.extend(self.tcp_rules(rules, port.number));
            }
        }
        if !chains.iter().any(TcpChain::is_for_all) {
            let whole = Destination {
                host: service.host.clone(),
                subset: ArcStr::new(),
                port: Some(port.number),
            };
            let share = TcpShare {
                destination: whole,
                weight: 1,
            };
            let mut rest = TcpChain::all(self.tcp_route(&[share], port.number));
            if bind == ANY && port.protocol.is_tls() {
                rest.server_names = vec![service.host.clone()];
            }
            chains.push(rest);
        }
        chains
    }

    fn tls_rules(self, rules: &VirtualService, port: u16) -> Vec<TcpChain> {
        let mut chains = Vec::new();
        for rule in &rules.tls {
            for wanted in rule
                .matches
                .iter()
                .filter(|wanted| self.in_scope(&wanted.scope, port))
            {
                let server_names: Vec<Hostname> = wanted
                    .sni_hosts
                    .iter()
                    .filter(|host| host.as_str() != "*")
                    .cloned()
                    .collect();
                chains.push(TcpChain {
                    server_names,
                    subnets: wanted.destination_subnets.clone(),
                    route: self.tcp_route(&rule.route, port),
                });
            }
        }
        chains
    }

    fn tcp_rules(self, rules: &VirtualService, port: u16) -> Vec<TcpChain> {
        let mut chains = Vec::new();
        for rule in &rules.tcp {
            let route = self.tcp_route(&rule.route, port);
            if rule.matches.is_empty() {
                chains.push(TcpChain::all(route));
                return chains;
            }
            for wanted in rule
                .matches
                .iter()
                .filter(|wanted| self.in_scope(&wanted.scope, port))
            {
                let subnets = wanted.destination_subnets.clone();
                let chain = TcpChain {
                    server_names: Vec::new(),
                    subnets,
                    route: route.clone(),
                };
                let for_all = chain.is_for_all();
                chains.push(chain);
                if for_all {
                    return chains;
                }
            }
        }
        chains
    }

    /// Whether a condition is for this sidecar and port.
    fn in_scope(self, scope: &MatchScope, port: u16) -> bool {
        let gateways = &scope.gateways;
        let client = scope.source_labels.selects(&self.proxy.labels)
            && (scope.source_namespace.is_empty()
                || scope.source_namespace == self.proxy.namespace);
        scope.port.is_none_or(|wanted| wanted == port)
            && if gateways.is_empty() {
                client
            } else {
                gateways.contains(&GatewayRef::Mesh)
            }
    }

    /// Where connections go, with the limits of the first destination.
    pub(crate) fn tcp_route(self, shares: &[TcpShare], port: u16) -> TcpRoute {
        let targets: Vec<_> = shares
            .iter()
            .map(|share| (self.target_of(&share.destination, port), share))
            .collect();
        let first = targets.first().and_then(|(target, share)| {
            let service = self.snapshot.service(&target.host, &self.proxy.namespace)?;
            let rule = self.rule(service)?;
            let subset = rule.subset(&share.destination.subset);
            rule.effective(target.port, subset).blocks.connection_pool
        });
        let by_source = matches!(
            targets.first().and_then(|(target, _)| target.hash.as_ref()),
            Some(HashKey::SourceIp)
        );
        TcpRoute {
            clusters: targets
                .into_iter()
                .map(|(target, share)| (target.cluster, share.weight))
                .collect(),
            idle_timeout: first.as_ref().and_then(|pool| pool.tcp_idle_timeout),
            max_duration: first.as_ref().and_then(|pool| pool.max_connection_duration),
            by_source,
        }
    }
}
