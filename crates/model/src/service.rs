//! Services: what clients can name.

use std::net::IpAddr;

use meltemi_names::{ArcStr, Hostname, Labels, Protocol};

use crate::Visibility;
use crate::meta::Meta;

/// A destination with a host name, ports and, usually, endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Name, namespace, age.
    pub meta: Meta,
    /// The host name that clients use.
    pub host: Hostname,
    /// Its ports, UDP left out.
    pub ports: Vec<ServicePort>,
    /// Its virtual addresses; none when headless.
    pub vips: Vec<IpAddr>,
    /// How an endpoint is found.
    pub resolution: Resolution,
    /// Outside the mesh: never reached by mutual TLS of the mesh.
    pub mesh_external: bool,
    /// Who sees it.
    pub export_to: Visibility,
    /// Which pods stand behind it; `None` when its endpoints are not selected by labels.
    pub selector: Option<Labels>,
    /// Identities declared for it beside those of its endpoints.
    pub subject_alt_names: Vec<ArcStr>,
}

impl Service {
    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The one address by which a listener can tell this service apart.
    #[must_use]
    pub fn vip(&self) -> Option<IpAddr> {
        self.vips.first().copied()
    }

    /// Endpoints are found by name only: clients connect to the pods directly.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.resolution == Resolution::Passthrough
    }
}

/// How a client finds the endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// From the list of endpoints.
    ClientSide,
    /// The address that the client dialled (headless services).
    Passthrough,
    /// Another name for this host.
    Alias(Hostname),
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name; may be empty when the service has only one.
    pub name: ArcStr,
    /// Its number.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The port of the pods.
    pub target: TargetPort,
}

/// A port of a pod, by number or by the name that its container gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port.
    Name(ArcStr),
}
