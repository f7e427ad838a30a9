//! Endpoints and the workloads behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meltemi_names::{ArcStr, Labels, Locality, SpiffeId};

use crate::Shared;
use crate::meta::Meta;

/// One address of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// Whether it takes traffic.
    pub health: Health,
    /// Where it runs.
    pub locality: Locality,
    /// The workload behind it, when it is known.
    pub workload: Option<Shared<Workload>>,
}

impl Endpoint {
    /// The labels by which subsets select.
    #[must_use]
    pub fn labels(&self) -> Option<&Labels> {
        self.workload.as_ref().map(|workload| &workload.labels)
    }

    /// Whether a proxy in front of it takes mutual TLS of the mesh.
    #[must_use]
    pub fn takes_mutual_tls(&self) -> bool {
        self.workload
            .as_ref()
            .is_some_and(|workload| workload.takes_mutual_tls)
    }
}

/// Whether an endpoint takes traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Not ready.
    Unhealthy,
    /// Terminating but still serving.
    Draining,
}

/// All endpoints of a service, by the name of its port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceEndpoints {
    by_port: BTreeMap<ArcStr, Vec<Endpoint>>,
    identities: Shared<BTreeSet<SpiffeId>>,
}

impl ServiceEndpoints {
    /// Sorts the endpoints of each port and collects the identities.
    #[must_use]
    pub fn new(mut by_port: BTreeMap<ArcStr, Vec<Endpoint>>) -> Self {
        let mut identities = BTreeSet::new();
        for endpoints in by_port.values_mut() {
            endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
            endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
            identities.extend(
                endpoints
                    .iter()
                    .filter_map(|e| e.workload.as_ref()?.identity.clone()),
            );
        }
        Self {
            by_port,
            identities: Shared::new(identities),
        }
    }

    /// The endpoints of the port of this name.
    #[must_use]
    pub fn of_port(&self, name: &str) -> &[Endpoint] {
        self.by_port.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every endpoint of every port.
    pub fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_port.values().flatten()
    }

    /// While no endpoint says who is behind the service, it is who it was: clients need not be told twice that a
    /// workload restarts.
    #[must_use]
    pub(crate) fn or_identities_of(mut self, before: Option<&Self>) -> Self {
        if self.identities.is_empty()
            && let Some(before) = before
        {
            self.identities = before.identities.clone();
        }
        self
    }

    /// The identities of the workloads behind the service.
    #[must_use]
    pub fn identities(&self) -> &Shared<BTreeSet<SpiffeId>> {
        &self.identities
    }
}

/// A running instance: in Kubernetes, a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Name, namespace, age of the pod.
    pub meta: Meta,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Who it is.
    pub identity: Option<SpiffeId>,
    /// The controller that made it, for example the Deployment's name.
    pub workload_name: ArcStr,
    /// The service name of its telemetry.
    pub canonical_name: ArcStr,
    /// The version of its telemetry.
    pub canonical_revision: ArcStr,
    /// A proxy in front of it takes mutual TLS of the mesh.
    pub takes_mutual_tls: bool,
    /// The names of its containers' ports.
    pub ports: BTreeMap<ArcStr, u16>,
    /// The node that runs it.
    pub node: ArcStr,
    /// Its host name, when it has its own.
    pub hostname: Option<ArcStr>,
    /// The headless service that gives it a DNS name, when it has one.
    pub subdomain: Option<ArcStr>,
}

impl Workload {
    /// Where its labels say that it runs, with dots between the parts.
    #[must_use]
    pub(crate) fn place(&self) -> Option<Locality> {
        let written = self.labels.get("topology.istio.io/locality")?;
        Some(Locality::parse(&written.replace('.', "/")))
    }

    /// What proxies carry for telemetry: `workload;namespace;canonical-name;canonical-revision;cluster`.
    #[must_use]
    pub fn telemetry(&self, cluster: &str) -> String {
        format!(
            "{};{};{};{};{}",
            self.workload_name,
            self.meta.namespace,
            self.canonical_name,
            self.canonical_revision,
            cluster
        )
    }
}
