//! Route configurations, and virtual hosts that are added to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use meltemi_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_traffic::route::RouteTable;
use meltemi_xds::ResourceType;
use meltemi_xds::client::{Received, Update};
use prost::Message as _;

use super::hub::{Hub, compile};
use super::wishes::Owner;
use crate::admin::DumpKind;
use crate::engine::{Change, apply};

/// Route configurations whose virtual hosts are discovered, by key.
#[derive(Debug, Default)]
pub(super) struct OnDemandRoutes(HashMap<Str, OnDemandRoute>);

#[derive(Debug)]
struct OnDemandRoute {
    message: RouteConfiguration,
    from: Reference,
    /// By resource name.
    hosts: BTreeMap<Str, VirtualHost>,
    /// The first answer has come, or its time is over.
    answered: bool,
}

impl OnDemandRoutes {
    /// Nothing has to be waited for before the routes serve.
    pub(super) fn has_first_hosts(&self, key: &str) -> bool {
        self.0.get(key).is_none_or(|route| route.answered)
    }

    /// The key of the route configuration with this name at a source.
    pub(super) fn key(&self, source: &Source, table: &str) -> Option<Str> {
        let found = self
            .0
            .iter()
            .find(|(_, route)| route.from.source == *source && route.from.name == table);
        found.map(|(key, _)| key.clone())
    }

    /// Where a route configuration's virtual hosts come from.
    pub(super) fn from(&self, key: &str) -> Option<&Reference> {
        self.0.get(key).map(|route| &route.from)
    }
}

/// The route configuration in the name of a virtual host (`table/host`).
pub(super) fn table_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(table, _)| table)
}

impl Hub {
    pub(super) fn route_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let kind = ResourceType::Route;
        let mut change = Change::default();
        for name in &update.removed {
            if let Some(key) = self.wishes.key(source, &kind, name) {
                self.dump.remove(DumpKind::Route, &key);
                self.on_demand.0.remove(&key);
                change.removed_routes.push(key);
            }
        }
        for received in &update.resources {
            let Some(key) = self.wishes.key(source, &kind, &received.name) else {
                continue;
            };
            if self.dump.has(DumpKind::Route, &key, &received.body) {
                continue;
            }
            match self.receive_routes(&key, received) {
                Ok(table) => {
                    self.dump.set(DumpKind::Route, &key, &received.body, false);
                    change.routes.push((key, table));
                }
                Err(error) => errors.push(error),
            }
        }
        errors.extend(apply(&self.shared, change).iter().map(ToString::to_string));
        errors
    }

    fn receive_routes(
        &mut self,
        key: &Str,
        received: &Received,
    ) -> Result<Arc<RouteTable>, String> {
        let table = compile::<RouteConfiguration, _>(received, meltemi_compile::route_table)?;
        if table.validate_clusters == Some(true)
            && let Some(unknown) = table.unknown_cluster(|name| self.knows_cluster(name))
        {
            return Err(format!("{}: cluster {unknown} is unknown", received.name));
        }
        let Some(from) = table.virtual_hosts_from.clone() else {
            self.on_demand.0.remove(key);
            return Ok(table);
        };
        let message = RouteConfiguration::decode(received.body.clone())
            .map_err(|error| format!("{}: {error}", received.name))?;
        self.wishes.open(&from.source, &ResourceType::VirtualHost);
        let before = self.on_demand.0.remove(key);
        let same_source = before.filter(|before| before.from.source == from.source);
        let route = OnDemandRoute {
            answered: same_source.as_ref().is_some_and(|before| before.answered),
            hosts: same_source.map(|before| before.hosts).unwrap_or_default(),
            message,
            from,
        };
        let built = route.build();
        self.on_demand.0.insert(key.clone(), route);
        built.map_err(|reason| format!("{}: {reason}", received.name))
    }

    /// Nobody refers to a route configuration any more.
    pub(super) fn forget_routes(&mut self, key: &Str) {
        self.shared
            .routes
            .apply(Vec::new(), std::slice::from_ref(key));
        self.dump.remove(DumpKind::Route, key);
        self.on_demand.0.remove(key);
        self.need(Owner(ResourceType::Route, key.clone()), Vec::new());
    }

    pub(super) fn virtual_host_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let mut errors = Vec::new();
        let mut changed: BTreeMap<Str, Vec<&Received>> = BTreeMap::new();
        for received in &update.resources {
            if let Some(key) = self.on_demand.key(source, table_of(&received.name)) {
                changed.entry(key).or_default().push(received);
            }
        }
        for name in &update.removed {
            if let Some(key) = self.on_demand.key(source, table_of(name)) {
                changed.entry(key).or_default();
            }
        }
        for (key, received) in changed {
            if let Err(error) = self.change_hosts(&key, &received, &update.removed) {
                errors.push(error);
            }
        }
        // The first answer of a source, even an empty one, completes the routes that wait for it.
        for route in self.on_demand.0.values_mut() {
            route.answered |= route.from.source == *source;
        }
        errors
    }

    fn change_hosts(
        &mut self,
        key: &Str,
        received: &[&Received],
        removed: &[Str],
    ) -> Result<(), String> {
        let Some(route) = self.on_demand.0.get_mut(key) else {
            return Ok(());
        };
        let before = route.hosts.clone();
        for name in removed {
            route.hosts.remove(name);
        }
        for resource in received {
            let host = VirtualHost::decode(resource.body.clone())
                .map_err(|error| format!("{}: {error}", resource.name))?;
            route.hosts.insert(resource.name.clone(), host);
        }
        match route.build() {
            Ok(table) => {
                self.shared.routes.apply(vec![(key.clone(), table)], &[]);
                Ok(())
            }
            Err(reason) => {
                route.hosts = before;
                Err(format!("{}: {reason}", route.from.name))
            }
        }
    }
}

impl OnDemandRoute {
    /// The table of its own virtual hosts and the discovered ones.
    fn build(&self) -> Result<Arc<RouteTable>, String> {
        let mut message = self.message.clone();
        message.virtual_hosts.extend(self.hosts.values().cloned());
        meltemi_compile::route_table(&message).map_err(|refusal| refusal.to_string())
    }
}
