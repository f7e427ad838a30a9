//! Inputs of clusters.

use meltemi_model::Shared;
use meltemi_model::service::Service;
use meltemi_names::{ArcStr, ClusterName, Direction};

use super::Plan;
use crate::cluster::inbound::InboundClusterInput;
use crate::cluster::outbound::OutboundClusterInput;
use crate::cluster::special::SpecialClustersInput;

impl Plan<'_> {
    /// One for each port of each service, and one more for each of its subsets.
    pub(crate) fn outbound_clusters(self) -> Vec<OutboundClusterInput> {
        let mut inputs = Vec::new();
        for service in self.services() {
            let rule = self.rule(service);
            let subsets = rule.map(|rule| rule.subsets.as_slice()).unwrap_or_default();
            for port in &service.ports {
                inputs.push(self.outbound_cluster(service, port.number, ArcStr::new()));
                inputs.extend(subsets.iter().map(|subset| {
                    self.outbound_cluster(service, port.number, subset.name.clone())
                }));
            }
        }
        inputs
    }

    fn outbound_cluster(
        self,
        service: &Shared<Service>,
        port: u16,
        subset: ArcStr,
    ) -> OutboundClusterInput {
        let endpoints = self.snapshot.endpoints(&service.host);
        OutboundClusterInput {
            service: service.clone(),
            port,
            subset,
            rule: self.rule(service).cloned(),
            identities: endpoints
                .map(|endpoints| endpoints.identities().clone())
                .unwrap_or_default(),
            service_takes_mutual_tls: self.takes_mutual_tls(service),
            mesh: self.snapshot.mesh().clone(),
            traits: self.proxy.traits,
        }
    }

    /// The one of this name, when the proxy has it.
    pub(crate) fn outbound_cluster_named(self, name: &ClusterName) -> Option<OutboundClusterInput> {
        let service = self.snapshot.service(&name.host, &self.proxy.namespace)?;
        let known = name.direction == Direction::Outbound && service.port(name.port).is_some();
        let subset_known =
            name.subset.is_empty() || self.rule(service)?.subset(&name.subset).is_some();
        (known && subset_known)
            .then(|| self.outbound_cluster(service, name.port, name.subset.clone()))
    }

    /// One for each port of the application.
    pub(crate) fn inbound_clusters(self) -> Vec<InboundClusterInput> {
        let ports = self.inbound_ports();
        let input = |(port, leads): (&u16, &Vec<super::ServicePortOf>)| {
            let oldest = leads.first()?;
            let policy = self
                .rule(&oldest.service)
                .map(|rule| rule.effective(oldest.port.number, None));
            Some(InboundClusterInput {
                port: *port,
                protocol: oldest.port.protocol,
                services: leads.iter().map(|lead| lead.service.clone()).collect(),
                pool: policy.and_then(|policy| policy.blocks.connection_pool),
                mesh: self.snapshot.mesh().clone(),
            })
        };
        ports.iter().filter_map(input).collect()
    }

    pub(crate) fn special_clusters(self) -> SpecialClustersInput {
        SpecialClustersInput {
            mesh: self.snapshot.mesh().clone(),
            router: self.proxy.traits.router,
        }
    }
}
