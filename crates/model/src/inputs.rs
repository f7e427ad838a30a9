//! The objects that a snapshot is made of, and their bookkeeping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_names::{ArcStr, Hostname};
use serde_json::Value;

use crate::convert::{self, Context, ConvertError, kubernetes::Slice};
use crate::destination::DestinationRule;
use crate::endpoint::{Endpoint, ServiceEndpoints, Workload};
use crate::gateway::Gateway;
use crate::meta::{Kind, ObjectKey};
use crate::peer_authentication::PeerAuthentication;
use crate::routing::VirtualService;
use crate::safe_order::SafeOrder;
use crate::service::Service;
use crate::{Changes, MeshConfig, Shared, Snapshot};

/// Namespace and name.
pub(crate) type Name = (ArcStr, ArcStr);

/// The current objects. Fed by watches; makes snapshots.
///
/// An object that cannot be read leaves the previous version in force.
#[derive(Default)]
pub struct Inputs {
    pub(crate) mesh: Shared<MeshConfig>,
    pub(crate) services: BTreeMap<Name, Shared<Service>>,
    pub(crate) workloads: BTreeMap<Name, Shared<Workload>>,
    pub(crate) gateways: BTreeMap<Name, Shared<Gateway>>,
    pub(crate) virtual_services: BTreeMap<Name, WrittenRoutes>,
    pub(crate) destination_rules: BTreeMap<Name, Shared<DestinationRule>>,
    pub(crate) peer_authentications: BTreeMap<Name, Shared<PeerAuthentication>>,
    pub(crate) safe_order: SafeOrder,
    slices: BTreeMap<Name, Slice>,
    changes: Changes,
    stale_endpoints: BTreeSet<Name>,
    safe_order_changed: bool,
    last: Arc<Snapshot>,
}

/// A VirtualService with its text, which the safe order stores.
pub(crate) struct WrittenRoutes {
    pub(crate) routes: Shared<VirtualService>,
    pub(crate) spec: Arc<Value>,
}

/// Why an object was not taken in.
#[derive(Debug, thiserror::Error)]
#[error("{object} is not usable; its previous version stays in force")]
pub struct InputError {
    /// The object.
    pub object: ObjectKey,
    /// What is wrong with it.
    #[source]
    pub source: ConvertError,
}

impl Inputs {
    /// No objects, and these settings.
    #[must_use]
    pub fn new(mesh: MeshConfig) -> Self {
        Self {
            mesh: Shared::new(mesh),
            changes: Changes::all(),
            ..Self::default()
        }
    }

    /// Replaces the settings of the mesh. Names in objects were resolved under the earlier settings: when this
    /// returns `true`, apply all objects again.
    pub fn set_mesh(&mut self, mesh: MeshConfig) -> bool {
        let mesh = Shared::new(mesh);
        if mesh == self.mesh {
            return false;
        }
        self.mesh = mesh;
        self.changes.merge(Changes::all());
        true
    }

    /// Replaces what the safe order remembers, as read from where the lease holder stored it.
    pub fn set_safe_order(&mut self, record: SafeOrder) {
        self.safe_order_changed |= record != self.safe_order;
        self.safe_order = record;
    }

    /// Takes in a new or changed object. Lists omit `kind` and `apiVersion`, so the kind is given.
    ///
    /// # Errors
    /// When the object cannot be read; its previous version stays in force.
    pub fn apply(&mut self, kind: Kind, object: &Value) -> Result<(), InputError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = (ArcStr::from(text("namespace")), ArcStr::from(text("name")));
        self.take_in(kind, &name, object)
            .map_err(|source| InputError {
                object: ObjectKey {
                    kind,
                    namespace: name.0.clone(),
                    name: name.1.clone(),
                },
                source,
            })
    }

    fn take_in(&mut self, kind: Kind, name: &Name, object: &Value) -> Result<(), ConvertError> {
        let mesh = self.mesh.clone();
        let context = Context { mesh: &mesh };
        match kind {
            Kind::Namespace => {}
            Kind::Service => {
                self.put_service(name, convert::kubernetes::service(object, &context)?)
            }
            Kind::EndpointSlice => self.put_slice(name, Some(convert::kubernetes::slice(object)?)),
            Kind::Pod => self.put_workload(name, convert::kubernetes::workload(object, &context)?),
            Kind::Gateway => {
                let gateway = convert::gateway::convert(object)?;
                let changed = put(&mut self.gateways, name, gateway);
                self.note(changed, kind, name);
            }
            Kind::VirtualService => {
                let routes = Shared::new(convert::virtual_service::convert(object, &context)?);
                let changed = self
                    .virtual_services
                    .get(name)
                    .is_none_or(|written| written.routes != routes);
                let spec = Arc::new(object["spec"].clone());
                self.virtual_services
                    .insert(name.clone(), WrittenRoutes { routes, spec });
                self.note(changed, kind, name);
            }
            Kind::DestinationRule => {
                let rule = convert::destination_rule::convert(object, &context)?;
                let changed = put(&mut self.destination_rules, name, rule);
                self.note(changed, kind, name);
            }
            Kind::PeerAuthentication => {
                let policy = convert::peer_authentication::convert(object)?;
                let changed = put(&mut self.peer_authentications, name, policy);
                self.note(changed, kind, name);
            }
        }
        Ok(())
    }

    /// Takes an object out.
    pub fn remove(&mut self, object: &ObjectKey) {
        let name = (object.namespace.clone(), object.name.clone());
        let removed = match object.kind {
            Kind::Namespace => false,
            Kind::Service => {
                if let Some(service) = self.services.remove(&name) {
                    self.changes.services.insert(service.host.clone());
                    self.stale_endpoints.insert(name.clone());
                }
                false
            }
            Kind::EndpointSlice => {
                self.put_slice(&name, None);
                false
            }
            Kind::Pod => {
                self.put_workload(&name, None);
                false
            }
            Kind::Gateway => self.gateways.remove(&name).is_some(),
            Kind::VirtualService => self.virtual_services.remove(&name).is_some(),
            Kind::DestinationRule => self.destination_rules.remove(&name).is_some(),
            Kind::PeerAuthentication => self.peer_authentications.remove(&name).is_some(),
        };
        self.note(removed, object.kind, &name);
    }

    /// The objects of a kind that are known, for a watch that restarts and has to find what vanished meanwhile.
    #[must_use]
    pub fn known(&self, kind: Kind) -> Vec<ObjectKey> {
        let names: Vec<&Name> = match kind {
            Kind::Namespace => Vec::new(),
            Kind::Service => self.services.keys().collect(),
            Kind::EndpointSlice => self.slices.keys().collect(),
            Kind::Pod => self.workloads.keys().collect(),
            Kind::Gateway => self.gateways.keys().collect(),
            Kind::VirtualService => self.virtual_services.keys().collect(),
            Kind::DestinationRule => self.destination_rules.keys().collect(),
            Kind::PeerAuthentication => self.peer_authentications.keys().collect(),
        };
        names
            .into_iter()
            .map(|(namespace, name)| ObjectKey::new(kind, namespace.clone(), name.clone()))
            .collect()
    }

    /// A snapshot of the current objects, and what differs from the one before. Parts that did not change are shared.
    pub fn snapshot(&mut self) -> (Arc<Snapshot>, Changes) {
        let mut changes = std::mem::take(&mut self.changes);
        let stale = std::mem::take(&mut self.stale_endpoints);
        let safe_order_changed = std::mem::take(&mut self.safe_order_changed);
        if changes.is_empty() && stale.is_empty() && !safe_order_changed {
            return (Arc::clone(&self.last), changes);
        }
        let next = Snapshot::rebuild(self, &self.last, &mut changes, &stale, safe_order_changed);
        self.safe_order = next.safe_order().clone();
        self.last = Arc::new(next);
        (Arc::clone(&self.last), changes)
    }

    fn note(&mut self, changed: bool, kind: Kind, name: &Name) {
        if changed {
            self.changes
                .objects
                .insert(ObjectKey::new(kind, name.0.clone(), name.1.clone()));
        }
    }

    fn put_service(&mut self, name: &Name, service: Service) {
        let host = service.host.clone();
        if put(&mut self.services, name, service) {
            self.changes.services.insert(host);
            self.stale_endpoints.insert(name.clone());
        }
    }

    fn put_slice(&mut self, name: &Name, slice: Option<Slice>) {
        let new = slice.as_ref().map(|slice| slice.service.clone());
        let old = match &slice {
            Some(slice) if self.slices.get(name) == Some(slice) => return,
            Some(slice) => self.slices.insert(name.clone(), slice.clone()),
            None => self.slices.remove(name),
        };
        let services = old.map(|slice| slice.service).into_iter().chain(new);
        self.stale_endpoints
            .extend(services.map(|service| (name.0.clone(), service)));
    }

    fn put_workload(&mut self, name: &Name, workload: Option<Workload>) {
        let changed = match workload {
            Some(workload) => put(&mut self.workloads, name, workload),
            None => self.workloads.remove(name).is_some(),
        };
        if !changed {
            return;
        }
        self.note(true, Kind::Pod, name);
        let here = self
            .slices
            .iter()
            .filter(|((namespace, _), _)| *namespace == name.0);
        let with_pod = here.filter(|(_, slice)| {
            slice
                .members
                .iter()
                .any(|member| member.pod.as_ref() == Some(name))
        });
        let services =
            with_pod.map(|((namespace, _), slice)| (namespace.clone(), slice.service.clone()));
        self.stale_endpoints.extend(services);
    }

    /// The endpoints of a service, from its slices and the pods they name.
    pub(crate) fn endpoints_of(&self, service: &Name) -> ServiceEndpoints {
        let mut by_port: BTreeMap<ArcStr, Vec<Endpoint>> = BTreeMap::new();
        let here = self.slices.range((service.0.clone(), ArcStr::new())..);
        let here = here.take_while(|((namespace, _), _)| *namespace == service.0);
        for slice in here
            .map(|(_, slice)| slice)
            .filter(|slice| slice.service == service.1)
        {
            for member in &slice.members {
                let workload = member.pod.as_ref().and_then(|pod| self.workloads.get(pod));
                for (port_name, port) in &slice.ports {
                    by_port
                        .entry(port_name.clone())
                        .or_default()
                        .push(Endpoint {
                            address: member.address,
                            port: *port,
                            health: member.health,
                            locality: workload
                                .and_then(|pod| pod.place())
                                .unwrap_or_else(|| member.locality.clone()),
                            workload: workload.cloned(),
                        });
                }
            }
        }
        ServiceEndpoints::new(by_port)
    }

    /// The host of a service, also of one that is gone.
    pub(crate) fn host_of(&self, service: &Name) -> Hostname {
        Hostname::service(&service.1, &service.0, &self.mesh.domain)
    }
}

/// Whether the value differs from what was there.
fn put<T: std::hash::Hash + Eq>(
    map: &mut BTreeMap<Name, Shared<T>>,
    name: &Name,
    value: T,
) -> bool {
    let value = Shared::new(value);
    if map.get(name) == Some(&value) {
        return false;
    }
    map.insert(name.clone(), value);
    true
}
