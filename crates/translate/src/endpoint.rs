//! Endpoints (EDS).

mod locality;

use std::collections::BTreeMap;
use std::net::IpAddr;

use meltemi_model::Shared;
use meltemi_model::destination::LocalityPreference;
use meltemi_model::endpoint::{Endpoint, Health, ServiceEndpoints};
use meltemi_names::{ArcStr, ClusterName, Labels, Locality};

use crate::pb;

/// What shapes the endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointInput {
    /// The cluster.
    pub cluster: ClusterName,
    /// The endpoints of its service; `None` for an unknown one, which has no endpoint.
    pub endpoints: Option<Shared<ServiceEndpoints>>,
    /// The name of the service's port.
    pub port_name: ArcStr,
    /// The labels of the subset.
    pub subset: Labels,
    /// Whether they get mutual TLS, when the client's policy says so for all.
    pub mutual_tls: Option<bool>,
    /// Endpoints whose own policy forbids mutual TLS.
    pub plain_text: Vec<(IpAddr, u16)>,
    /// Unready endpoints are left out.
    pub only_healthy: bool,
    /// The name of this cluster of machines in telemetry.
    pub cluster_id: ArcStr,
    /// The client's place and what it means, when it means anything.
    pub preference: Option<PlaceInput>,
}

/// A client's place, and how endpoints are preferred by theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlaceInput {
    /// Where the client is.
    pub client: Locality,
    /// Its labels, when the setting compares labels.
    pub labels: Labels,
    /// The setting.
    pub setting: LocalityPreference,
}

/// The endpoints. A cluster without any still gets an answer, or it would never become active.
#[must_use]
pub fn endpoints(input: &EndpointInput) -> pb::endpoint::ClusterLoadAssignment {
    let all = input
        .endpoints
        .as_ref()
        .map(|endpoints| endpoints.of_port(&input.port_name))
        .unwrap_or_default();
    let mut by_locality: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in all.iter().filter(|endpoint| input.takes(endpoint)) {
        by_locality
            .entry(&endpoint.locality)
            .or_default()
            .push(endpoint);
    }
    let mut groups: Vec<Group<'_>> = by_locality
        .into_iter()
        .map(|(locality, members)| Group {
            locality,
            weight: u32::try_from(members.len()).unwrap_or(u32::MAX),
            members,
            priority: 0,
        })
        .collect();
    if let Some(place) = &input.preference {
        groups = locality::prefer(groups, place);
    }
    pb::endpoint::ClusterLoadAssignment {
        cluster_name: input.cluster.to_string(),
        endpoints: groups.iter().map(|own| group(input, own)).collect(),
        ..Default::default()
    }
}

/// Endpoints of one place and priority.
struct Group<'a> {
    locality: &'a Locality,
    members: Vec<&'a Endpoint>,
    weight: u32,
    priority: u32,
}

impl EndpointInput {
    fn takes(&self, endpoint: &Endpoint) -> bool {
        let in_subset = self.subset.is_empty()
            || endpoint
                .labels()
                .is_some_and(|own| self.subset.selects(own));
        let usable = match endpoint.health {
            Health::Healthy => true,
            Health::Unhealthy => !self.only_healthy,
            // Only persistent sessions go on with an endpoint that drains.
            Health::Draining => false,
        };
        in_subset && usable
    }

    fn gets_mutual_tls(&self, endpoint: &Endpoint) -> bool {
        self.mutual_tls.unwrap_or_else(|| {
            endpoint.takes_mutual_tls()
                && !self.plain_text.contains(&(endpoint.address, endpoint.port))
        })
    }
}

fn group(input: &EndpointInput, own: &Group<'_>) -> pb::endpoint::LocalityLbEndpoints {
    pb::endpoint::LocalityLbEndpoints {
        // Present also when nothing is known: a weighted group without a place is refused.
        locality: Some(pb::core::Locality {
            region: own.locality.region.to_string(),
            zone: own.locality.zone.to_string(),
            sub_zone: own.locality.sub_zone.to_string(),
        }),
        lb_endpoints: own
            .members
            .iter()
            .map(|endpoint| member(input, endpoint))
            .collect(),
        load_balancing_weight: Some(pb::number(own.weight)),
        priority: own.priority,
        ..Default::default()
    }
}

fn member(input: &EndpointInput, endpoint: &Endpoint) -> pb::endpoint::LbEndpoint {
    let mut metadata = pb::core::Metadata::default();
    let mut add = |key: &str, fields| drop(metadata.filter_metadata.insert(key.to_owned(), fields));
    if input.gets_mutual_tls(endpoint) {
        add(
            "envoy.transport_socket_match",
            pb::fields([("tlsMode", pb::text_value("istio"))]),
        );
    }
    if let Some(workload) = &endpoint.workload {
        let identity = pb::text_value(workload.telemetry(&input.cluster_id));
        add("istio", pb::fields([("workload", identity)]));
    }
    let health = match endpoint.health {
        Health::Healthy => pb::core::HealthStatus::Healthy,
        Health::Unhealthy => pb::core::HealthStatus::Unhealthy,
        Health::Draining => pb::core::HealthStatus::Draining,
    };
    pb::endpoint::LbEndpoint {
        health_status: health.into(),
        metadata: Some(metadata).filter(|metadata| !metadata.filter_metadata.is_empty()),
        load_balancing_weight: Some(pb::number(1)),
        host_identifier: Some(pb::endpoint::lb_endpoint::HostIdentifier::Endpoint(
            pb::endpoint::Endpoint {
                address: Some(pb::address(endpoint.address, endpoint.port)),
                ..Default::default()
            },
        )),
    }
}
