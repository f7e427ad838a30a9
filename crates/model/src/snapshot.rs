//! The immutable picture of the mesh that one push is computed from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_names::{Hostname, Labels};

use crate::delegate;
use crate::destination::DestinationRule;
use crate::endpoint::{ServiceEndpoints, Workload};
use crate::gateway::Gateway;
use crate::inputs::Name;
use crate::meta::{Kind, ObjectKey};
use crate::peer_authentication::{PeerAuthentication, WorkloadMutualTls};
use crate::routing::{GatewayRef, VirtualService};
use crate::rules::{Client, RuleIndex};
use crate::safe_order::{self, Held, SafeOrder};
use crate::service::{Resolution, Service};
use crate::{Changes, Inputs, MeshConfig, Shared};

type ByAddress = HashMap<IpAddr, Shared<Workload>, ahash::RandomState>;

/// The mesh at one moment: no lock, no lazy field, no handle. Parts are shared with the snapshot before.
#[derive(Debug, Default)]
pub struct Snapshot {
    mesh: Shared<MeshConfig>,
    services: Arc<Services>,
    endpoints: Arc<BTreeMap<Hostname, Shared<ServiceEndpoints>>>,
    workloads: Arc<ByAddress>,
    gateways: Arc<Vec<Shared<Gateway>>>,
    routes: Arc<Vec<Shared<VirtualService>>>,
    rules: Arc<RuleIndex>,
    peer_authentications: Arc<Vec<Shared<PeerAuthentication>>>,
    held: Arc<Vec<Held>>,
    safe_order: Arc<SafeOrder>,
    client_labels_matter: bool,
    identity: Arc<()>,
}

#[derive(Debug, Default)]
struct Services {
    by_host: BTreeMap<Hostname, Shared<Service>>,
    aliases: BTreeMap<Hostname, Vec<Shared<Service>>>,
    oldest_first: Vec<Shared<Service>>,
}

impl Snapshot {
    /// Rebuilds what changed and shares the rest with `last`; adds to `changes` what only shows in the result.
    pub(crate) fn rebuild(
        inputs: &Inputs,
        last: &Self,
        changes: &mut Changes,
        stale_endpoints: &BTreeSet<Name>,
        safe_order_changed: bool,
    ) -> Self {
        let fresh = changes.everything;
        let mut next = Self {
            mesh: inputs.mesh.clone(),
            services: Arc::clone(&last.services),
            endpoints: Arc::clone(&last.endpoints),
            workloads: Arc::clone(&last.workloads),
            gateways: Arc::clone(&last.gateways),
            routes: Arc::clone(&last.routes),
            rules: Arc::clone(&last.rules),
            peer_authentications: Arc::clone(&last.peer_authentications),
            held: Arc::clone(&last.held),
            safe_order: Arc::clone(&last.safe_order),
            client_labels_matter: false,
            identity: Arc::default(),
        };
        if fresh || !changes.services.is_empty() {
            next.services = Arc::new(Services::new(inputs));
        }
        if fresh || changes.has(Kind::Pod) {
            next.workloads = Arc::new(by_address(inputs));
        }
        if fresh || !stale_endpoints.is_empty() {
            next.rebuild_endpoints(inputs, last, changes, stale_endpoints);
        }
        if fresh || changes.has(Kind::Gateway) {
            next.gateways = Arc::new(oldest_first(inputs.gateways.values(), |gateway| {
                gateway.meta.age()
            }));
        }
        let rules_changed = fresh || changes.has(Kind::DestinationRule);
        if rules_changed {
            next.rules = Arc::new(RuleIndex::new(inputs.destination_rules.values()));
        }
        if rules_changed || safe_order_changed || changes.has(Kind::VirtualService) {
            next.rebuild_routes(inputs, last, changes);
        }
        if fresh || changes.has(Kind::PeerAuthentication) {
            let policies = inputs.peer_authentications.values();
            next.peer_authentications =
                Arc::new(oldest_first(policies, |policy| policy.meta.age()));
        }
        next.client_labels_matter = next.ask_for_labels(inputs);
        next
    }

    fn rebuild_endpoints(
        &mut self,
        inputs: &Inputs,
        last: &Self,
        changes: &mut Changes,
        stale: &BTreeSet<Name>,
    ) {
        let mut endpoints = BTreeMap::clone(&last.endpoints);
        let all = if changes.everything {
            inputs.services.keys().collect()
        } else {
            stale.iter().collect::<Vec<_>>()
        };
        for name in all {
            let host = inputs.host_of(name);
            let before = last.endpoints.get(&host);
            if !inputs.services.contains_key(name) {
                endpoints.remove(&host);
                continue;
            }
            let now = inputs
                .endpoints_of(name)
                .or_identities_of(before.map(|before| &**before));
            let now = Shared::new(now);
            if before == Some(&now) {
                continue;
            }
            // Clients verify servers by identity: a new set of them changes clusters, not only endpoints.
            let same_identities =
                before.is_some_and(|before| before.identities() == now.identities());
            let headless = inputs
                .services
                .get(name)
                .is_some_and(|service| service.is_headless());
            if same_identities && !headless {
                changes.endpoints.insert(host.clone());
            } else {
                changes.services.insert(host.clone());
            }
            endpoints.insert(host, now);
        }
        changes.merge(Changes::default());
        self.endpoints = Arc::new(endpoints);
    }

    fn rebuild_routes(&mut self, inputs: &Inputs, last: &Self, changes: &mut Changes) {
        let resolved = safe_order::resolve(inputs);
        let expanded = delegate::expand(&resolved.routes);
        self.routes = Arc::new(oldest_first(expanded.iter(), |routes| routes.meta.age()));
        // A route may have been released or exchanged although its own object did not change.
        let before: BTreeMap<(&str, &str), &Shared<VirtualService>> = last
            .routes
            .iter()
            .map(|routes| ((&*routes.meta.namespace, &*routes.meta.name), routes))
            .collect();
        for routes in self.routes.iter() {
            let meta = &routes.meta;
            if before.get(&(&*meta.namespace, &*meta.name)) != Some(&routes) {
                let key = ObjectKey::new(
                    Kind::VirtualService,
                    meta.namespace.clone(),
                    meta.name.clone(),
                );
                changes.objects.insert(key);
            }
        }
        self.held = Arc::new(resolved.held);
        self.safe_order = Arc::new(resolved.record);
    }

    /// Whether some rule or policy is for certain clients only.
    fn ask_for_labels(&self, inputs: &Inputs) -> bool {
        let scopes = self.routes.iter().flat_map(|routes| routes.scopes());
        let mut asking = scopes.filter(|scope| !scope.source_labels.is_empty());
        let mut rules = inputs.destination_rules.values();
        asking.next().is_some() || rules.any(|rule| rule.asks_for_labels())
    }

    /// Whether what clients of one namespace get may differ by their labels.
    #[must_use]
    pub fn client_labels_matter(&self) -> bool {
        self.client_labels_matter
    }

    /// A mark that this snapshot and no other has, for those who remember answers.
    #[must_use]
    pub fn identity(&self) -> &Arc<()> {
        &self.identity
    }

    /// The settings of the mesh.
    #[must_use]
    pub fn mesh(&self) -> &Shared<MeshConfig> {
        &self.mesh
    }

    /// The service of this host, if `namespace` sees it.
    #[must_use]
    pub fn service(&self, host: &Hostname, namespace: &str) -> Option<&Shared<Service>> {
        self.services
            .by_host
            .get(host)
            .filter(|service| service.export_to.allows(namespace))
    }

    /// The services that `namespace` sees, oldest first.
    pub fn services_for<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Shared<Service>> {
        self.services
            .oldest_first
            .iter()
            .filter(move |service| service.export_to.allows(namespace))
    }

    /// The services that are only other names of a host, oldest first.
    #[must_use]
    pub fn aliases_of(&self, host: &Hostname) -> &[Shared<Service>] {
        self.services
            .aliases
            .get(host)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The services whose selector names a workload, oldest first.
    pub fn services_of_workload<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Shared<Service>> {
        self.services.oldest_first.iter().filter(move |service| {
            service.meta.namespace == namespace
                && service
                    .selector
                    .as_ref()
                    .is_some_and(|selector| selector.selects(labels))
        })
    }

    /// The endpoints of a service.
    #[must_use]
    pub fn endpoints(&self, host: &Hostname) -> Option<&Shared<ServiceEndpoints>> {
        self.endpoints.get(host)
    }

    /// The workload that has this address.
    #[must_use]
    pub fn workload(&self, address: IpAddr) -> Option<&Shared<Workload>> {
        self.workloads.get(&address)
    }

    /// The gateways whose selector names a proxy, oldest first.
    pub fn gateways_for<'a>(
        &'a self,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Shared<Gateway>> {
        self.gateways
            .iter()
            .filter(|gateway| gateway.selector.selects(labels))
    }

    /// The routes in effect at a gateway (or in the mesh) that `namespace` sees: its own private ones first, then
    /// those exported to it by name, then public ones; the oldest first in each group.
    #[must_use]
    pub fn routes_for(&self, gateway: &GatewayRef, namespace: &str) -> Vec<Shared<VirtualService>> {
        let mut routes: Vec<&Shared<VirtualService>> = self
            .routes
            .iter()
            .filter(|routes| routes.binds_to(gateway) && routes.export_to.allows(namespace))
            .collect();
        routes.sort_by_key(|routes| match &routes.export_to {
            visibility if visibility.is_private_to(namespace) => 0,
            crate::Visibility::Namespaces(_) => 1,
            crate::Visibility::Public => 2,
        });
        routes.into_iter().cloned().collect()
    }

    /// The policy that a client follows towards a service.
    #[must_use]
    pub fn destination_rule(
        &self,
        client: Client<'_>,
        service: &Service,
    ) -> Option<&Shared<DestinationRule>> {
        self.rules.find(client, service, &self.mesh.root_namespace)
    }

    /// What a workload demands of its clients; without labels, what its namespace demands.
    #[must_use]
    pub fn mutual_tls(&self, namespace: &str, labels: Option<&Labels>) -> WorkloadMutualTls {
        let policies = self.peer_authentications.iter().map(|policy| &**policy);
        WorkloadMutualTls::resolve(policies, &self.mesh.root_namespace, namespace, labels)
    }

    /// Whether any policy on mutual TLS exists.
    #[must_use]
    pub fn has_peer_authentication(&self) -> bool {
        !self.peer_authentications.is_empty()
    }

    /// The VirtualServices that wait for subsets, with reasons for their status.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// What the safe order remembers now; whoever holds the lease stores it when it differs from what is stored.
    #[must_use]
    pub fn safe_order(&self) -> &SafeOrder {
        &self.safe_order
    }
}

impl Services {
    fn new(inputs: &Inputs) -> Self {
        let oldest_first = oldest_first(inputs.services.values(), |service| service.meta.age());
        let mut by_host = BTreeMap::new();
        let mut aliases: BTreeMap<Hostname, Vec<Shared<Service>>> = BTreeMap::new();
        for service in &oldest_first {
            by_host.insert(service.host.clone(), service.clone());
            if let Resolution::Alias(target) = &service.resolution {
                aliases
                    .entry(target.clone())
                    .or_default()
                    .push(service.clone());
            }
        }
        Self {
            by_host,
            aliases,
            oldest_first,
        }
    }
}

fn by_address(inputs: &Inputs) -> ByAddress {
    let pairs = inputs.workloads.values().flat_map(|workload| {
        workload
            .addresses
            .iter()
            .map(move |address| (*address, workload.clone()))
    });
    pairs.collect()
}

fn oldest_first<'a, T: 'a, F>(values: impl Iterator<Item = &'a Shared<T>>, age: F) -> Vec<Shared<T>>
where
    F: for<'b> Fn(&'b T) -> (&'b str, &'b str, &'b str),
{
    let mut sorted: Vec<Shared<T>> = values.cloned().collect();
    sorted.sort_by(|a, b| age(a).cmp(&age(b)));
    sorted
}
