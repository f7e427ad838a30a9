//! The variant that sends whole lists.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource as WireResource},
    },
    google::{protobuf::Any, rpc::Status as RpcStatus},
};
use meltemi_names::ArcStr;
use prost::Message;

use super::{
    Arrived, Receipt, Received, Update, Variant, Wanted, delta::REFUSED, expiry::lifetime,
};
use crate::resource::ResourceType;

/// Type of a resource that carries its name, version and time to live around it.
const WRAPPED: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// What the client remembers of one type.
#[derive(Debug, Default)]
struct Known {
    /// On the present stream.
    subscribed: Option<Arc<Wanted>>,
    nonce: String,
    /// The last accepted version; told to the server after a reconnection.
    version: String,
    /// What is there, for types whose responses carry everything.
    names: BTreeSet<ArcStr>,
}

/// What the client remembers.
#[derive(Debug, Default)]
pub(super) struct StateOfTheWorld(HashMap<ResourceType, Known>);

impl Known {
    fn request(&self, kind: &ResourceType) -> DiscoveryRequest {
        let names = self.subscribed.iter().flat_map(|wanted| &wanted.names);
        DiscoveryRequest {
            type_url: kind.url().to_owned(),
            version_info: self.version.clone(),
            response_nonce: self.nonce.clone(),
            resource_names: names.map(ToString::to_string).collect(),
            ..DiscoveryRequest::default()
        }
    }
}

impl Variant for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn reset(&mut self) {
        for known in self.0.values_mut() {
            known.subscribed = None;
            known.nonce.clear();
        }
    }

    fn subscribe(
        &mut self,
        kind: &ResourceType,
        wanted: Option<Arc<Wanted>>,
    ) -> Option<DiscoveryRequest> {
        let known = self.0.entry(kind.clone()).or_default();
        match (&known.subscribed, wanted) {
            (_, None) => {
                // An empty list would mean "everything" to some servers: the last names stay subscribed to.
                None
            }
            (Some(before), Some(wanted)) if Arc::ptr_eq(before, &wanted) => None,
            (before, Some(wanted)) => {
                let same = before.as_ref().is_some_and(|before| **before == *wanted);
                known.subscribed = Some(wanted);
                (!same).then(|| known.request(kind))
            }
        }
    }

    fn update(&mut self, response: DiscoveryResponse) -> (ResourceType, Arrived) {
        let kind = ResourceType::from_url(&response.type_url);
        let mut update = Update {
            version: response.version_info.as_str().into(),
            ..Update::default()
        };
        let mut lifetimes = Vec::new();
        for any in response.resources {
            if let Some((received, lifetime)) = read(any) {
                lifetimes.push((received.name.clone(), lifetime));
                if !received.body.is_empty() {
                    update.resources.push(received);
                }
            }
        }
        let known = self.0.entry(kind.clone()).or_default();
        if kind.is_full_state() {
            let present: BTreeSet<&ArcStr> = lifetimes.iter().map(|(name, _)| name).collect();
            let gone = known.names.iter().filter(|name| !present.contains(name));
            update.removed = gone.cloned().collect();
        }
        let receipt = Receipt {
            versions: lifetimes
                .iter()
                .map(|(name, _)| (name.clone(), String::new()))
                .collect(),
            removed: update.removed.clone(),
            version: response.version_info,
            nonce: response.nonce,
        };
        let arrived = Arrived {
            update,
            receipt,
            lifetimes,
        };
        (kind, arrived)
    }

    fn answer(
        &mut self,
        kind: &ResourceType,
        receipt: Receipt,
        refusal: Option<String>,
    ) -> DiscoveryRequest {
        let known = self.0.entry(kind.clone()).or_default();
        known.nonce = receipt.nonce;
        if kind.is_full_state() {
            // Also after a refusal: what was good of it is in use.
            known.names = receipt.versions.into_iter().map(|(name, _)| name).collect();
        }
        if refusal.is_none() {
            known.version = receipt.version;
        }
        let mut request = known.request(kind);
        request.error_detail = refusal.map(|message| RpcStatus {
            code: REFUSED,
            message,
            ..RpcStatus::default()
        });
        request
    }

    fn expired(&mut self, kind: &ResourceType, name: &str) {
        if let Some(known) = self.0.get_mut(kind) {
            known.names.remove(name);
        }
    }

    fn set_node(request: &mut DiscoveryRequest, node: Node) {
        request.node = Some(node);
    }
}

/// A resource, bare or wrapped; an empty body is a heartbeat.
fn read(any: Any) -> Option<(Received, Option<Duration>)> {
    if any.type_url != WRAPPED {
        let received = Received {
            name: crate::resource::name_in(&any.value).into(),
            aliases: Vec::new(),
            body: any.value.into(),
        };
        return Some((received, None));
    }
    let wrapped = WireResource::decode(&any.value[..]).ok()?;
    let lifetime = lifetime(wrapped.ttl);
    let body = wrapped.resource.map(|any| any.value).unwrap_or_default();
    let name = if wrapped.name.is_empty() {
        crate::resource::name_in(&body)
    } else {
        wrapped.name.as_str()
    };
    let received = Received {
        name: name.into(),
        aliases: Vec::new(),
        body: body.into(),
    };
    Some((received, lifetime))
}
