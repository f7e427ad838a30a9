//! Where the destinations of rules lead.

use std::collections::BTreeMap;

use meltemi_model::Shared;
use meltemi_model::destination::{HashKey, LoadBalancer};
use meltemi_model::routing::{Destination, VirtualService};
use meltemi_model::service::{Resolution, Service};
use meltemi_names::{ArcStr, ClusterName};

use super::Plan;
use crate::route::Target;

/// Other names of other names are followed this far.
const MAX_ALIASES: usize = 8;

impl Plan<'_> {
    /// Every destination of some rules, resolved.
    pub(crate) fn targets(
        self,
        rules: &[Shared<VirtualService>],
        listener_port: u16,
    ) -> BTreeMap<Destination, Target> {
        let named = rules.iter().flat_map(|rules| rules.destinations());
        named
            .map(|destination| {
                (
                    destination.clone(),
                    self.target_of(destination, listener_port),
                )
            })
            .collect()
    }

    /// Where a destination leads. The port is the one it states, else the service's only one, else the listener's.
    pub(crate) fn target_of(self, destination: &Destination, listener_port: u16) -> Target {
        let mut host = destination.host.clone();
        let mut service = self.snapshot.service(&host, &self.proxy.namespace);
        for _ in 0..MAX_ALIASES {
            let Some(Resolution::Alias(target)) = service.map(|service| &service.resolution) else {
                break;
            };
            host = target.clone();
            service = self.snapshot.service(&host, &self.proxy.namespace);
        }
        let only = service.and_then(|service| match service.ports.as_slice() {
            [only] => Some(only.number),
            _ => None,
        });
        let port = destination.port.or(only).unwrap_or(listener_port);
        let cluster = ClusterName::outbound(port, destination.subset.clone(), host.clone());
        Target {
            cluster: ArcStr::from(cluster.to_string()),
            hash: service.and_then(|service| self.hash_of(service, port, &destination.subset)),
            host,
            port,
        }
    }

    /// What the endpoints of a destination are chosen by, when it is a hash.
    pub(crate) fn hash_of(self, service: &Service, port: u16, subset: &str) -> Option<HashKey> {
        let rule = self.rule(service)?;
        let subset = rule.subset(subset).filter(|_| !subset.is_empty());
        match rule.effective(port, subset).blocks.load_balancer {
            Some(LoadBalancer::ConsistentHash(hash)) => Some(hash.key),
            _ => None,
        }
    }
}
