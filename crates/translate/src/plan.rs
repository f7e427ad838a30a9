//! What a proxy gets: from a snapshot and a proxy to the inputs of the generators.
//!
//! Here the questions are asked (which services does it see, which rules apply, where do they lead); the generators
//! only render the answers. Nothing that a generator needs may bypass its input.

mod clusters;
mod endpoints;
mod gateways;
mod inbound;
mod listeners;
mod routes;
mod targets;

use meltemi_model::destination::DestinationRule;
use meltemi_model::peer_authentication::MutualTls;
use meltemi_model::service::{Resolution, Service};
use meltemi_model::{Client, Shared, Snapshot};

use crate::ProxyView;

pub(crate) use gateways::GatewayPlan;
pub(crate) use inbound::ServicePortOf;

/// One proxy in one snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) proxy: &'a ProxyView,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, proxy: &'a ProxyView) -> Self {
        Self { snapshot, proxy }
    }

    /// The services that the proxy may reach, oldest first; other names for hosts are not among them.
    pub(crate) fn services(self) -> impl Iterator<Item = &'a Shared<Service>> {
        let all = self.snapshot.services_for(&self.proxy.namespace);
        all.filter(|service| !matches!(service.resolution, Resolution::Alias(_)))
    }

    pub(crate) fn rule(self, service: &Service) -> Option<&'a Shared<DestinationRule>> {
        let client = Client {
            namespace: &self.proxy.namespace,
            labels: &self.proxy.labels,
        };
        self.snapshot.destination_rule(client, service)
    }

    /// Whether clients may use mutual TLS towards a service: per endpoint, or for all of one that is dialled by
    /// address.
    fn takes_mutual_tls(self, service: &Service) -> bool {
        if self.snapshot.mutual_tls(&service.meta.namespace, None).mode == MutualTls::Disable {
            return false;
        }
        if !service.is_headless() || self.proxy.traits.router {
            return true;
        }
        let endpoints = self.snapshot.endpoints(&service.host);
        endpoints.is_some_and(|endpoints| {
            endpoints.all().next().is_some()
                && endpoints.all().all(|endpoint| endpoint.takes_mutual_tls())
        })
    }
}
