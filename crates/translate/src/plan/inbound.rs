//! The application's own ports.

use std::collections::BTreeMap;

use meltemi_model::Shared;
use meltemi_model::service::{Service, ServicePort, TargetPort};

use super::Plan;
use crate::listener::inbound::{InboundListenerInput, InboundPort};

/// A service port that leads to a port of the application.
#[derive(Clone, Debug)]
pub(crate) struct ServicePortOf {
    pub(crate) service: Shared<Service>,
    pub(crate) port: ServicePort,
}

impl Plan<'_> {
    /// The application's ports with the service ports that lead there, the oldest service first.
    pub(crate) fn inbound_ports(self) -> BTreeMap<u16, Vec<ServicePortOf>> {
        let mut ports: BTreeMap<u16, Vec<ServicePortOf>> = BTreeMap::new();
        for service in self
            .snapshot
            .services_of_workload(&self.proxy.namespace, &self.proxy.labels)
        {
            for port in &service.ports {
                if let Some(target) = self.target(service, port) {
                    let lead = ServicePortOf {
                        service: service.clone(),
                        port: port.clone(),
                    };
                    ports.entry(target).or_default().push(lead);
                }
            }
        }
        ports
    }

    /// The number of a target port; a name is looked up in the pod.
    pub(crate) fn target(self, service: &Service, port: &ServicePort) -> Option<u16> {
        match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let pod = self
                    .proxy
                    .addresses
                    .iter()
                    .find_map(|address| self.snapshot.workload(*address));
                let declared = pod.and_then(|pod| pod.ports.get(name).copied());
                declared.or_else(|| self.port_of_own_endpoint(service, port))
            }
        }
    }

    fn port_of_own_endpoint(self, service: &Service, port: &ServicePort) -> Option<u16> {
        let endpoints = self.snapshot.endpoints(&service.host)?.of_port(&port.name);
        endpoints
            .iter()
            .find(|endpoint| self.proxy.addresses.contains(&endpoint.address))
            .map(|own| own.port)
    }

    /// The inbound listener.
    pub(crate) fn inbound_listener(self) -> InboundListenerInput {
        let demands = self
            .snapshot
            .mutual_tls(&self.proxy.namespace, Some(&self.proxy.labels));
        let ports = self.inbound_ports();
        let declared = ports.iter().filter_map(|(port, leads)| {
            let oldest = leads.first()?;
            Some(InboundPort {
                port: *port,
                protocol: oldest.port.protocol,
                mutual_tls: demands.of_port(*port),
                host: oldest.service.host.clone(),
                service_port: oldest.port.number,
            })
        });
        let exceptions = demands
            .ports
            .iter()
            .filter(|(port, _)| !ports.contains_key(port));
        InboundListenerInput {
            ports: declared.collect(),
            other_ports: demands.mode,
            exceptions: exceptions.map(|(port, mode)| (*port, *mode)).collect(),
            mesh: self.snapshot.mesh().clone(),
            traits: self.proxy.traits,
        }
    }
}
