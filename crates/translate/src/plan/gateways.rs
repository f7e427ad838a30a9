//! Inputs of a gateway's listeners and routes: the servers of every Gateway object that selects it, merged.

use std::collections::{BTreeMap, BTreeSet};

use meltemi_model::Shared;
use meltemi_model::gateway::{Gateway, Server, ServerTlsMode};
use meltemi_model::routing::{GatewayRef, TcpShare, VirtualService};
use meltemi_names::{ArcStr, Hostname};

use super::Plan;
use crate::listener::gateway::{GatewayChain, GatewayListenerInput, GatewayTraffic};
use crate::route::{HostInput, RouteInput};

/// A server of a Gateway object.
#[derive(Clone, Debug)]
struct Bound {
    gateway: Shared<Gateway>,
    index: usize,
}

impl Bound {
    fn server(&self) -> &Server {
        &self.gateway.servers[self.index]
    }
}

/// The servers of one address and port of a proxy.
#[derive(Debug, Default)]
struct Port {
    /// They share their routes.
    plain_http: Vec<Bound>,
    /// Each is told from the others by server names.
    tls: Vec<Bound>,
    /// At most one.
    tcp: Vec<Bound>,
}

/// Everything a gateway serves.
pub(crate) struct GatewayPlan<'a> {
    plan: Plan<'a>,
    ports: BTreeMap<(u16, ArcStr), Port>,
}

impl<'a> GatewayPlan<'a> {
    pub(crate) fn new(plan: Plan<'a>) -> Self {
        let mut ports: BTreeMap<(u16, ArcStr), Port> = BTreeMap::new();
        let mut names: BTreeSet<(u16, ArcStr, Hostname)> = BTreeSet::new();
        for gateway in plan.snapshot.gateways_for(&plan.proxy.labels) {
            for (index, server) in gateway.servers.iter().enumerate() {
                let bind = if server.bind.is_empty() {
                    ArcStr::from("0.0.0.0")
                } else {
                    server.bind.clone()
                };
                let target = plan.gateway_port(server.port);
                let port = ports.entry((target, bind.clone())).or_default();
                let bound = Bound {
                    gateway: gateway.clone(),
                    index,
                };
                if server.is_plain_http() {
                    if port.tls.is_empty() && port.tcp.is_empty() {
                        port.plain_http.push(bound);
                    }
                } else if server.tls.is_some() || server.protocol.is_tls() {
                    // A server name that an older server has makes the younger server unusable as a whole.
                    let own: Vec<_> = server
                        .hosts
                        .iter()
                        .map(|host| (target, bind.clone(), host.host.clone()))
                        .collect();
                    if port.plain_http.is_empty() && !own.iter().any(|name| names.contains(name)) {
                        names.extend(own);
                        port.tls.push(bound);
                    }
                } else if port.plain_http.is_empty() && port.tcp.is_empty() && port.tls.is_empty() {
                    port.tcp.push(bound);
                }
            }
        }
        Self { plan, ports }
    }

    /// One listener for each address and port.
    pub(crate) fn listeners(&self) -> Vec<GatewayListenerInput> {
        let listener = |((port, bind), servers): (&(u16, ArcStr), &Port)| {
            let mut chains = Vec::new();
            if !servers.plain_http.is_empty() {
                let traffic = GatewayTraffic::Http(plain_route_name(*port, bind));
                chains.push(GatewayChain {
                    server_names: Vec::new(),
                    tls: None,
                    traffic,
                });
            }
            for bound in &servers.tls {
                chains.extend(self.tls_chains(bound));
            }
            for bound in &servers.tcp {
                chains.extend(self.tcp_chain(bound, Vec::new()));
            }
            (!chains.is_empty()).then(|| GatewayListenerInput {
                bind: bind.clone(),
                port: *port,
                chains,
                mesh: self.plan.snapshot.mesh().clone(),
                traits: self.plan.proxy.traits,
            })
        };
        self.ports.iter().filter_map(listener).collect()
    }

    /// The routes of this name.
    pub(crate) fn routes(&self, name: &str) -> Option<RouteInput> {
        for ((port, bind), servers) in &self.ports {
            if !servers.plain_http.is_empty() && plain_route_name(*port, bind) == name {
                return Some(self.route_input(name, &servers.plain_http));
            }
            for bound in &servers.tls {
                if tls_route_name(bound) == name {
                    return Some(self.route_input(name, std::slice::from_ref(bound)));
                }
            }
        }
        None
    }

    fn tls_chains(&self, bound: &Bound) -> Vec<GatewayChain> {
        let server = bound.server();
        let hosts = server.hosts.iter().map(|host| host.host.clone());
        let server_names: Vec<Hostname> = hosts.filter(|host| host.as_str() != "*").collect();
        let mode = server
            .tls
            .as_ref()
            .map_or(ServerTlsMode::Passthrough, |tls| tls.mode);
        match mode {
            ServerTlsMode::Passthrough => self.passthrough_chains(bound),
            // Needs the clusters of every exposed service under their names as SNI.
            ServerTlsMode::AutoPassthrough => Vec::new(),
            _ if server.protocol.is_tcp() && server.protocol != meltemi_names::Protocol::Https => {
                self.tcp_chain(bound, server_names).into_iter().collect()
            }
            _ => vec![GatewayChain {
                server_names,
                tls: server.tls.clone(),
                traffic: GatewayTraffic::Http(tls_route_name(bound)),
            }],
        }
    }

    /// TLS that is routed by server name without being opened.
    fn passthrough_chains(&self, bound: &Bound) -> Vec<GatewayChain> {
        let server = bound.server();
        let mut chains = Vec::new();
        for rules in self.rules_of(bound) {
            for rule in &rules.tls {
                for wanted in rule
                    .matches
                    .iter()
                    .filter(|m| m.scope.port.is_none_or(|port| port == server.port))
                {
                    let names = wanted
                        .sni_hosts
                        .iter()
                        .filter(|host| host.as_str() != "*")
                        .cloned()
                        .collect();
                    chains.push(GatewayChain {
                        server_names: names,
                        tls: None,
                        traffic: GatewayTraffic::Tcp(self.plan.tcp_route(&rule.route, server.port)),
                    });
                }
            }
        }
        chains
    }

    fn tcp_chain(&self, bound: &Bound, server_names: Vec<Hostname>) -> Option<GatewayChain> {
        let server = bound.server();
        let rules = self.rules_of(bound);
        let route: &[TcpShare] = rules.iter().flat_map(|rules| &rules.tcp).find_map(|rule| {
            let here = rule
                .matches
                .iter()
                .any(|m| m.scope.port.is_none_or(|port| port == server.port));
            (rule.matches.is_empty() || here).then_some(rule.route.as_slice())
        })?;
        let traffic = GatewayTraffic::Tcp(self.plan.tcp_route(route, server.port));
        Some(GatewayChain {
            server_names,
            tls: server.tls.clone(),
            traffic,
        })
    }

    /// The rules that are bound to a server by name and by host.
    fn rules_of(&self, bound: &Bound) -> Vec<Shared<VirtualService>> {
        let all = self
            .plan
            .snapshot
            .routes_for(&bound.gateway.reference(), &self.plan.proxy.namespace);
        all.into_iter()
            .filter(|rules| !shared_hosts(bound.server(), rules).is_empty())
            .collect()
    }

    fn route_input(&self, name: &str, servers: &[Bound]) -> RouteInput {
        let port = servers.first().map_or(0, |bound| bound.server().port);
        let mut hosts: BTreeMap<Hostname, HostInput> = BTreeMap::new();
        let mut gateways: Vec<GatewayRef> = Vec::new();
        for bound in servers {
            let reference = bound.gateway.reference();
            if !gateways.contains(&reference) {
                gateways.push(reference);
            }
            for rules in self.rules_of(bound) {
                for host in shared_hosts(bound.server(), &rules) {
                    let input = hosts.entry(host.clone()).or_insert_with(|| free_host(host));
                    if !input.rules.contains(&rules) {
                        input.rules.push(rules.clone());
                    }
                }
            }
            if bound
                .server()
                .tls
                .as_ref()
                .is_some_and(|tls| tls.https_redirect)
            {
                for host in &bound.server().hosts {
                    hosts
                        .entry(host.host.clone())
                        .or_insert_with(|| free_host(host.host.clone()))
                        .https_redirect = true;
                }
            }
        }
        for host in hosts.values_mut() {
            host.rules.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
            host.destinations = self.plan.targets(&host.rules, port);
        }
        RouteInput {
            name: name.into(),
            port,
            https: servers.iter().all(|bound| bound.server().terminates_tls()),
            gateways,
            hosts: hosts.into_values().collect(),
            other_hosts: None,
            client: None,
            namespace: ArcStr::new(),
            mesh: self.plan.snapshot.mesh().clone(),
        }
    }
}

impl Plan<'_> {
    /// The port of the pod behind a port of the gateway's Service; as written when no Service has it.
    fn gateway_port(self, number: u16) -> u16 {
        let services = self
            .snapshot
            .services_of_workload(&self.proxy.namespace, &self.proxy.labels);
        let mut targets =
            services.filter_map(|service| self.target(service, service.port(number)?));
        targets.next().unwrap_or(number)
    }
}

/// The hosts that both a server and rules name: of two that overlap, the narrower.
fn shared_hosts(server: &Server, rules: &VirtualService) -> Vec<Hostname> {
    let mut hosts = Vec::new();
    for wanted in &rules.hosts {
        for served in &server.hosts {
            if served
                .namespace
                .as_ref()
                .is_some_and(|namespace| *namespace != rules.meta.namespace)
            {
                continue;
            }
            let narrower = if wanted.is_subset_of(&served.host) {
                wanted
            } else if served.host.is_subset_of(wanted) {
                &served.host
            } else {
                continue;
            };
            if !hosts.contains(narrower) {
                hosts.push(narrower.clone());
            }
        }
    }
    hosts
}

fn free_host(host: Hostname) -> HostInput {
    HostInput {
        host,
        service: None,
        aliases: Vec::new(),
        rules: Vec::new(),
        destinations: BTreeMap::new(),
        any_authority: false,
        https_redirect: false,
    }
}

fn plain_route_name(port: u16, bind: &str) -> ArcStr {
    if bind == "0.0.0.0" {
        arcstr::format!("http.{port}")
    } else {
        arcstr::format!("http.{port}.{bind}")
    }
}

fn tls_route_name(bound: &Bound) -> ArcStr {
    let (server, meta) = (bound.server(), &bound.gateway.meta);
    let base = arcstr::format!(
        "https.{}.{}.{}.{}",
        server.port,
        server.port_name,
        meta.name,
        meta.namespace
    );
    if server.bind.is_empty() {
        base
    } else {
        arcstr::format!("{base}.{}", server.bind)
    }
}
