//! The variant that sends whole lists.

use std::collections::BTreeMap;

use meltemi_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use meltemi_xds::ResourceType;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Seen, World, any};

#[derive(Default)]
struct Subscription {
    names: Vec<String>,
    /// What was sent, by name.
    sent: BTreeMap<String, u64>,
}

/// One stream.
pub(super) struct Stream {
    world: World,
    method: String,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    nonce: u64,
}

impl Stream {
    pub(super) fn new(
        world: World,
        method: String,
        responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
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
    pub(super) async fn request(&mut self, request: DiscoveryRequest) -> bool {
        let kind = ResourceType::from_url(&request.type_url);
        self.world.note(Seen {
            method: self.method.clone(),
            kind: kind.to_string(),
            names: request.resource_names.clone(),
            unsubscribed: Vec::new(),
            answers: !request.response_nonce.is_empty(),
            refusal: request.error_detail.map(|status| status.message),
            initial: BTreeMap::new(),
            node: request.node.is_some(),
        });
        let first = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind.clone()).or_default();
        if !first && subscription.names == request.resource_names {
            return true;
        }
        subscription.names = request.resource_names;
        self.answer(&kind, first).await
    }

    pub(super) async fn push(&mut self) -> bool {
        let kinds: Vec<_> = self.subscriptions.keys().cloned().collect();
        for kind in kinds {
            if !self.answer(&kind, false).await {
                return false;
            }
        }
        true
    }

    async fn answer(&mut self, kind: &ResourceType, even_empty: bool) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(kind) else {
            return true;
        };
        let resources: Vec<_> = if subscription.names.is_empty() {
            self.world.all(kind)
        } else {
            let names = subscription.names.iter();
            names
                .filter_map(|name| self.world.find(kind, name))
                .collect()
        };
        let now: BTreeMap<String, u64> = resources
            .iter()
            .map(|(name, stored)| (name.clone(), stored.version))
            .collect();
        if now == subscription.sent && !even_empty {
            return true;
        }
        subscription.sent = now;
        self.nonce += 1;
        let response = DiscoveryResponse {
            version_info: self.world.now().to_string(),
            resources: resources
                .iter()
                .map(|(_, stored)| any(kind, stored))
                .collect(),
            type_url: kind.url().to_owned(),
            nonce: self.nonce.to_string(),
            ..DiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.is_ok()
    }
}
