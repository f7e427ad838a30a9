//! The incremental variant.

use std::collections::{BTreeMap, BTreeSet};

use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use meltemi_xds::ResourceType;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Seen, Stored, World, any};

/// Resources in one response.
const BATCH: usize = 500;

#[derive(Default)]
struct Subscription {
    all: bool,
    names: BTreeSet<String>,
    /// What the client has, by resource name.
    sent: BTreeMap<String, u64>,
}

impl Subscription {
    /// What the client does not have yet, or asked for again.
    fn news(
        &mut self,
        kind: &ResourceType,
        wanted: &BTreeMap<String, (Stored, Vec<String>)>,
        asked: &[String],
    ) -> Vec<Resource> {
        let mut resources = Vec::new();
        for (name, (stored, aliases)) in wanted {
            let again = aliases.iter().any(|alias| asked.contains(alias));
            if self.sent.get(name) == Some(&stored.version) && !again {
                continue;
            }
            self.sent.insert(name.clone(), stored.version);
            let by_alias = *kind == ResourceType::VirtualHost;
            resources.push(Resource {
                name: name.clone(),
                version: stored.version.to_string(),
                aliases: if by_alias {
                    aliases.clone()
                } else {
                    Vec::new()
                },
                resource: Some(any(kind, stored)),
                ..Resource::default()
            });
        }
        resources
    }
}

/// One stream.
pub(super) struct Stream {
    world: World,
    method: String,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    nonce: u64,
}

impl Stream {
    pub(super) fn new(
        world: World,
        method: String,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Self {
        Self {
            world,
            method,
            responses,
            subscriptions: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// False when the client is gone.
    pub(super) async fn request(&mut self, request: DeltaDiscoveryRequest) -> bool {
        let kind = ResourceType::from_url(&request.type_url);
        self.world.note(Seen {
            method: self.method.clone(),
            kind: kind.to_string(),
            names: request.resource_names_subscribe.clone(),
            unsubscribed: request.resource_names_unsubscribe.clone(),
            answers: !request.response_nonce.is_empty(),
            refusal: request.error_detail.map(|status| status.message),
            initial: request
                .initial_resource_versions
                .clone()
                .into_iter()
                .collect(),
            node: request.node.is_some(),
        });
        let first = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind.clone()).or_default();
        if first {
            let named = !request.resource_names_subscribe.is_empty();
            subscription.all = !named && kind.is_wildcard();
            for (name, version) in &request.initial_resource_versions {
                let version = version.parse().unwrap_or_default();
                subscription.sent.insert(name.clone(), version);
            }
        }
        let mut asked = Vec::new();
        for name in request.resource_names_subscribe {
            if name == "*" {
                subscription.all = true;
            } else {
                subscription.names.insert(name.clone());
                asked.push(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                subscription.all = false;
            }
            subscription.names.remove(&name);
            subscription.sent.remove(&name);
        }
        if !first && asked.is_empty() {
            return true;
        }
        self.answer(&kind, &asked, true).await
    }

    pub(super) async fn push(&mut self) -> bool {
        let kinds: Vec<_> = self.subscriptions.keys().cloned().collect();
        for kind in kinds {
            if !self.answer(&kind, &[], false).await {
                return false;
            }
        }
        true
    }

    /// Sends what is new, and says of names just asked for when they do not exist.
    async fn answer(&mut self, kind: &ResourceType, asked: &[String], even_empty: bool) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(kind) else {
            return true;
        };
        let mut wanted: BTreeMap<String, (Stored, Vec<String>)> = BTreeMap::new();
        if subscription.all {
            for (name, stored) in self.world.all(kind) {
                wanted.insert(name, (stored, Vec::new()));
            }
        }
        let mut missing = Vec::new();
        for alias in &subscription.names {
            match self.world.find(kind, alias) {
                Some((name, stored)) => {
                    let entry = wanted.entry(name).or_insert((stored, Vec::new()));
                    entry.1.push(alias.clone());
                }
                None if asked.contains(alias) => missing.push(alias.clone()),
                None => {}
            }
        }
        let mut resources = subscription.news(kind, &wanted, asked);
        let mut removed: Vec<String> = subscription
            .sent
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in &removed {
            subscription.sent.remove(name);
        }
        if *kind == ResourceType::VirtualHost {
            resources.extend(missing.into_iter().map(|name| Resource {
                aliases: vec![name.clone()],
                name,
                ..Resource::default()
            }));
        } else {
            removed.extend(missing);
        }
        if resources.is_empty() && removed.is_empty() && !even_empty {
            return true;
        }
        self.send(kind, resources, removed).await
    }

    async fn send(
        &mut self,
        kind: &ResourceType,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> bool {
        let mut rest = resources.into_iter().peekable();
        let mut removed = Some(removed);
        loop {
            let batch: Vec<_> = rest.by_ref().take(BATCH).collect();
            self.nonce += 1;
            let response = DeltaDiscoveryResponse {
                system_version_info: self.world.now().to_string(),
                resources: batch,
                removed_resources: removed.take().unwrap_or_default(),
                type_url: kind.url().to_owned(),
                nonce: self.nonce.to_string(),
                ..DeltaDiscoveryResponse::default()
            };
            if self.responses.send(Ok(response)).await.is_err() {
                return false;
            }
            if rest.peek().is_none() {
                return true;
            }
        }
    }
}
