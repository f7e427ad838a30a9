//! Listeners and the filters that are discovered for them.

use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::TypedExtensionConfig;
use meltemi_proto::envoy::config::listener::v3::Listener as ListenerMessage;
use meltemi_traffic::Str;
use meltemi_traffic::discovery::Source;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::hcm::RouteSource;
use meltemi_traffic::listener::{Listener, Terminal};
use meltemi_upstream::tls::secret_references;
use meltemi_xds::ResourceType;
use meltemi_xds::client::{Received, Update};
use prost::Message as _;

use super::hub::{Collection, Hub, compile};
use super::wishes::{Need, Owner};
use crate::admin::DumpKind;
use crate::engine::{Change, apply};
use crate::listener::ApplyError;

/// Routes and secrets of a listener.
pub(super) fn needs(listener: &Listener) -> Vec<Need> {
    let mut needs = Vec::new();
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        if let Terminal::Http(manager) = &chain.terminal
            && let RouteSource::Rds(reference) = &manager.routes
        {
            needs.push((ResourceType::Route, reference.clone()));
        }
        let secrets = chain
            .tls
            .iter()
            .flat_map(|tls| secret_references(&tls.common));
        needs.extend(secrets.map(|reference| (ResourceType::Secret, reference)));
    }
    needs
}

impl Hub {
    /// Takes a listener; it starts once its routes, secrets and filters are there.
    pub(super) fn add_listener(&mut self, listener: Arc<Listener>) -> Result<(), ApplyError> {
        self.check_addresses(&listener)?;
        self.shared.listeners.check(&listener)?;
        super::secrets::check_listener_tls(&listener)?;
        self.check_clusters_of(&listener)?;
        let mut wanted = needs(&listener);
        wanted.extend(self.filter_needs(&listener.name));
        self.need_more(Owner(ResourceType::Listener, listener.name.clone()), wanted);
        self.waiting_listeners
            .insert(listener.name.clone(), listener);
        Ok(())
    }

    /// No two listeners have the same address, whether they bind to it or not; port 0 is another one each time.
    fn check_addresses(&self, listener: &Listener) -> Result<(), ApplyError> {
        let table = self.shared.listeners.table();
        let served = table.listeners.values().map(|served| &served.config);
        let others = self.waiting_listeners.values().chain(served);
        for other in others.filter(|other| other.name != listener.name) {
            let shared = listener.addresses.iter().find(|address| {
                let chosen_later = matches!(address, Address::Socket(at) if at.port() == 0);
                !chosen_later && other.addresses.contains(address)
            });
            if let Some(address) = shared {
                return Err(ApplyError::DuplicateAddress {
                    listener: listener.name.clone(),
                    address: address.to_string(),
                    other: other.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Routes that a listener has in itself name clusters that exist, unless they say otherwise.
    fn check_clusters_of(&self, listener: &Listener) -> Result<(), ApplyError> {
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            let Terminal::Http(manager) = &chain.terminal else {
                continue;
            };
            let RouteSource::Inline(table) = &manager.routes else {
                continue;
            };
            if table.validate_clusters == Some(false) {
                continue;
            }
            if let Some(unknown) = table.unknown_cluster(|name| self.knows_cluster(name)) {
                return Err(ApplyError::UnknownCluster {
                    kind: "listener",
                    name: listener.name.clone(),
                    cluster: unknown.clone(),
                });
            }
        }
        Ok(())
    }

    /// A cluster serves, or will once it is warm.
    pub(super) fn knows_cluster(&self, name: &Str) -> bool {
        self.waiting_clusters.contains_key(name) || self.shared.clusters.knows(name)
    }

    /// Discovered filters that a listener waits for.
    pub(super) fn filter_needs(&self, name: &str) -> Vec<Need> {
        let Some(message) = self.open_listeners.get(name) else {
            return Vec::new();
        };
        let extended = meltemi_compile::extend_listener(message, |_| None);
        let references = extended.ok().flatten().map(|extended| extended.references);
        references
            .into_iter()
            .flatten()
            .map(|reference| (ResourceType::ExtensionConfig, reference))
            .collect()
    }

    pub(super) fn listener_update(&mut self, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let removed: Vec<Str> = update
            .removed
            .iter()
            .filter(|name| !self.is_fixed_listener(name))
            .cloned()
            .collect();
        for name in &removed {
            self.waiting_listeners.remove(name);
            self.open_listeners.remove(name);
            self.dump.remove(DumpKind::Listener, name);
        }
        let change = Change {
            removed_listeners: removed.clone(),
            ..Change::default()
        };
        apply(&self.shared, change);
        for name in removed {
            self.need(Owner(ResourceType::Listener, name), Vec::new());
        }
        for received in self.changed(DumpKind::Listener, &update.resources) {
            if self.is_fixed_listener(&received.name) {
                continue;
            }
            match self.receive_listener(received) {
                Ok(()) => {
                    self.dump
                        .set(DumpKind::Listener, &received.name, &received.body, false);
                }
                Err(error) => errors.push(error),
            }
        }
        self.listeners = Collection::Seen;
        errors
    }

    fn is_fixed_listener(&self, name: &Str) -> bool {
        self.fixed
            .contains(&Owner(ResourceType::Listener, name.clone()))
    }

    fn receive_listener(&mut self, received: &Received) -> Result<(), String> {
        let message = ListenerMessage::decode(received.body.clone())
            .map_err(|error| format!("{}: {error}", received.name))?;
        self.open_listener(message)
            .map_err(|reason| format!("{}: {reason}", received.name))
    }

    /// Compiles a listener with the filters that are known, and remembers it when more may come.
    fn open_listener(&mut self, message: ListenerMessage) -> Result<(), String> {
        let known = |reference: &meltemi_traffic::discovery::Reference| {
            self.extensions.get(&reference.key).cloned()
        };
        let extended = meltemi_compile::extend_listener(&message, known)
            .map_err(|refusal| refusal.to_string())?;
        let compiled = match &extended {
            Some(extended) => meltemi_compile::listener(&extended.message),
            None => meltemi_compile::listener(&message),
        };
        let listener = compiled.map_err(|refusal| refusal.to_string())?;
        let name = listener.name.clone();
        let before = match extended {
            Some(_) => self.open_listeners.insert(name.clone(), message),
            None => self.open_listeners.remove(&name),
        };
        self.add_listener(listener).map_err(|error| {
            match before {
                Some(before) => self.open_listeners.insert(name, before),
                None => self.open_listeners.remove(&name),
            };
            error.to_string()
        })
    }

    pub(super) fn extension_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let kind = ResourceType::ExtensionConfig;
        let mut errors = Vec::new();
        for received in &update.resources {
            let Some(key) = self.wishes.key(source, &kind, &received.name) else {
                continue;
            };
            let make = meltemi_compile::extension_config;
            match compile::<TypedExtensionConfig, _>(received, make) {
                Ok(any) => {
                    let before = self.extensions.insert(key.clone(), any);
                    if let Err(error) = self.reopen(&key) {
                        errors.push(format!("{}: {error}", received.name));
                        match before {
                            Some(before) => self.extensions.insert(key, before),
                            None => self.extensions.remove(&key),
                        };
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        for name in &update.removed {
            if let Some(key) = self.wishes.key(source, &kind, name) {
                self.extensions.remove(&key);
                if let Err(error) = self.reopen(&key) {
                    errors.push(format!("{name}: {error}"));
                }
            }
        }
        errors
    }

    /// Compiles the listeners that use a discovered filter anew.
    fn reopen(&mut self, key: &str) -> Result<(), String> {
        let uses = |hub: &Self, name: &Str| {
            let owner = Owner(ResourceType::Listener, name.clone());
            hub.wishes.needs(&owner).iter().any(|(kind, reference)| {
                *kind == ResourceType::ExtensionConfig && reference.key == key
            })
        };
        let affected: Vec<ListenerMessage> = self
            .open_listeners
            .iter()
            .filter(|(name, _)| uses(self, name))
            .map(|(_, message)| message.clone())
            .collect();
        affected
            .into_iter()
            .try_for_each(|message| self.open_listener(message))
    }
}
