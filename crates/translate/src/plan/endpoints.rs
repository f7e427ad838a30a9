//! Inputs of endpoints.

use std::net::IpAddr;

use meltemi_model::destination::{ClientTlsMode, LocalityPreference, PolicyBlocks};
use meltemi_model::endpoint::ServiceEndpoints;
use meltemi_model::peer_authentication::MutualTls;
use meltemi_names::{ClusterName, Direction, Labels};

use super::Plan;
use crate::endpoint::{EndpointInput, PlaceInput};

impl Plan<'_> {
    /// The endpoints of a cluster; `None` for a name that is no service's cluster.
    pub(crate) fn endpoints(self, name: &str) -> Option<EndpointInput> {
        let cluster =
            ClusterName::parse(name).filter(|cluster| cluster.direction == Direction::Outbound)?;
        let mut input = EndpointInput {
            cluster,
            endpoints: None,
            port_name: Default::default(),
            subset: Labels::new(),
            mutual_tls: None,
            plain_text: Vec::new(),
            only_healthy: false,
            cluster_id: self.snapshot.mesh().cluster_id.clone(),
            preference: None,
        };
        let Some(service) = self
            .snapshot
            .service(&input.cluster.host, &self.proxy.namespace)
        else {
            return Some(input);
        };
        let Some(port) = service.port(input.cluster.port) else {
            return Some(input);
        };
        let rule = self.rule(service);
        let subset = rule.and_then(|rule| rule.subset(&input.cluster.subset));
        if subset.is_none() && !input.cluster.subset.is_empty() {
            return Some(input);
        }
        input.subset = subset
            .map(|subset| subset.labels.clone())
            .unwrap_or_default();
        input.port_name = port.name.clone();
        if let Some(rule) = rule {
            let blocks = rule.effective(port.number, subset).blocks;
            input.preference = self.preference(&blocks);
            input.mutual_tls = blocks.tls.map(|tls| tls.mode == ClientTlsMode::IstioMutual);
            input.only_healthy = blocks
                .outlier_detection
                .is_some_and(|outlier| outlier.min_health_percent > 0);
        }
        let endpoints = self.snapshot.endpoints(&service.host);
        if input.mutual_tls.is_none() {
            input.plain_text = endpoints
                .map(|endpoints| self.plain_text(endpoints, &port.name))
                .unwrap_or_default();
        }
        input.endpoints = endpoints.cloned();
        Some(input)
    }

    /// What the proxy's place means: what the policy says; without a word from it, nearer endpoints come first where
    /// failing ones are ejected.
    fn preference(self, blocks: &PolicyBlocks) -> Option<PlaceInput> {
        let nearer_first = || LocalityPreference {
            enabled: true,
            distribute: Vec::new(),
            failover: Vec::new(),
            failover_priority: Vec::new(),
        };
        let setting = blocks.locality.clone().unwrap_or_else(nearer_first);
        let has_place = !self.proxy.locality.is_empty() || !setting.failover_priority.is_empty();
        let acts = !setting.distribute.is_empty() || blocks.outlier_detection.is_some();
        let by_labels = !setting.failover_priority.is_empty();
        (setting.enabled && has_place && acts).then(|| PlaceInput {
            client: self.proxy.locality.clone(),
            labels: if by_labels {
                self.proxy.labels.clone()
            } else {
                Labels::new()
            },
            setting,
        })
    }

    /// Endpoints whose workload forbids mutual TLS although a proxy could take it.
    fn plain_text(self, endpoints: &ServiceEndpoints, port_name: &str) -> Vec<(IpAddr, u16)> {
        if !self.snapshot.has_peer_authentication() {
            return Vec::new();
        }
        let forbidden = endpoints.of_port(port_name).iter().filter(|endpoint| {
            endpoint.workload.as_ref().is_some_and(|workload| {
                let demands = self
                    .snapshot
                    .mutual_tls(&workload.meta.namespace, Some(&workload.labels));
                demands.of_port(endpoint.port) == MutualTls::Disable
            })
        });
        forbidden
            .map(|endpoint| (endpoint.address, endpoint.port))
            .collect()
    }
}
