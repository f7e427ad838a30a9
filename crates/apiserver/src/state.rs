//! What every request handler shares: the store, the registry of served resources, and caches.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::admission::webhook::WebhookCache;
use crate::auth::RulesCache;
use crate::auth::tokens::Tokens;
use crate::dial::Dialer;
use crate::kinds::{Registry, Resource};
use crate::store::{Key, Store};

/// The server's shared state.
#[derive(Debug)]
pub struct Api {
    /// Objects.
    pub store: Store,
    /// Token signer.
    pub tokens: Tokens,
    /// RBAC snapshot.
    pub rules: RulesCache,
    /// Admission webhooks in force.
    pub webhooks: WebhookCache,
    /// Connections to kubelets and webhooks.
    pub dialer: Dialer,
    /// Where clients reach the server.
    pub address: SocketAddr,
    /// Turns true when the server stops: watches end then.
    pub stopping: watch::Receiver<bool>,
    /// Held while a Service's address is chosen and stored, so that no two get the same.
    pub allocation: tokio::sync::Mutex<()>,
    /// Held while a CRD is accepted and stored, so that names are judged in order.
    pub definitions: tokio::sync::Mutex<()>,
    /// CA certificate, PEM.
    pub ca: String,
    registry: RwLock<Arc<Registry>>,
    /// What each CRD serves, by the revision it was compiled from.
    compiled: Mutex<Compiled>,
    names: Mutex<HashSet<Arc<str>>>,
}

/// The resources of each CRD, with the revision of the CRD they were compiled from.
type Compiled = BTreeMap<Box<str>, (u64, Vec<Resource>)>;

/// What [`Api::new`] needs.
#[derive(Debug)]
pub struct Parts {
    /// Opened store.
    pub store: Store,
    /// Token signer.
    pub tokens: Tokens,
    /// Connection maker.
    pub dialer: Dialer,
    /// Bound address.
    pub address: SocketAddr,
    /// Stop signal.
    pub stopping: watch::Receiver<bool>,
    /// CA certificate, PEM.
    pub ca: String,
}

impl Api {
    /// Assembles the state and registers the stored CRDs.
    pub fn new(parts: Parts) -> Self {
        let api = Self {
            store: parts.store,
            tokens: parts.tokens,
            rules: RulesCache::default(),
            webhooks: WebhookCache::default(),
            dialer: parts.dialer,
            address: parts.address,
            stopping: parts.stopping,
            allocation: tokio::sync::Mutex::default(),
            definitions: tokio::sync::Mutex::default(),
            ca: parts.ca,
            registry: RwLock::new(Arc::new(Registry::builtin())),
            compiled: Mutex::default(),
            names: Mutex::default(),
        };
        api.reload_definitions();
        api
    }

    /// The served resources as of now.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read())
    }

    /// Rebuilds the registry from the stored CRDs; only those that changed are compiled again.
    pub fn reload_definitions(&self) {
        let key = self.resource_key("customresourcedefinitions.apiextensions.k8s.io");
        let stored = self
            .store
            .list(&key, None, None)
            .map(|s| s.items)
            .unwrap_or_default();
        // Held throughout, so that two reloads cannot overtake each other.
        let mut compiled = self.compiled.lock();
        compiled.retain(|name, _| stored.iter().any(|(key, _)| key.name == *name));
        for (key, object) in &stored {
            let known = compiled
                .get(&key.name)
                .is_some_and(|(at, _)| *at == object.revision);
            if !known {
                let resources = crate::crd::resources(&object.value());
                compiled.insert(key.name.clone(), (object.revision, resources));
            }
        }
        let custom = compiled
            .values()
            .flat_map(|(_, resources)| resources.iter().cloned());
        *self.registry.write() = Arc::new(Registry::with_custom(custom));
    }

    /// The shared copy of a resource's store name, so that keys do not each carry their own.
    pub fn resource_key(&self, name: &str) -> Arc<str> {
        let mut names = self.names.lock();
        if let Some(known) = names.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = name.into();
        names.insert(Arc::clone(&shared));
        shared
    }

    /// The store key of an object.
    pub fn key(&self, resource: &Resource, namespace: &str, name: &str) -> Key {
        Key::new(&self.resource_key(&resource.storage_key()), namespace, name)
    }

    /// The store key of a namespace.
    pub fn namespace_key(&self, name: &str) -> Key {
        Key::new(&self.resource_key("namespaces"), "", name)
    }
}

/// Resolves when the server stops. Cancel-safe.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A closed channel means the same as the signal.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Where the server keeps its files.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `DIR/pki`
    pub pki: PathBuf,
    /// `DIR/db/store.redb`
    pub database: PathBuf,
    /// `DIR/run/egress.sock`
    pub egress: PathBuf,
}

impl Paths {
    /// The layout below a state directory.
    pub fn below(state: &std::path::Path) -> Self {
        Self {
            pki: state.join("pki"),
            database: state.join("db").join("store.redb"),
            egress: state.join("run").join("egress.sock"),
        }
    }
}
