//! The incremental variant.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
        },
    },
    google::rpc::Status as RpcStatus,
};
use meltemi_names::ArcStr;

use super::{Arrived, Receipt, Received, Update, Variant, Wanted, expiry::lifetime};
use crate::resource::ResourceType;

/// gRPC code of a refusal (INVALID_ARGUMENT), as Envoy sends it.
pub(super) const REFUSED: i32 = 3;
/// Name of "everything" beside other names.
const WILDCARD: &str = "*";

/// What the client remembers.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// On the present stream.
    subscribed: HashMap<ResourceType, Arc<Wanted>>,
    /// What was accepted, by type and name: told to the server after a reconnection.
    versions: HashMap<ResourceType, HashMap<ArcStr, String>>,
}

/// Names as the protocol writes them. "Everything" alone is no name at all.
fn names(wanted: &Wanted) -> BTreeSet<ArcStr> {
    let mut names = wanted.names.clone();
    if wanted.all && !names.is_empty() {
        names.insert(WILDCARD.into());
    }
    names
}

impl Delta {
    fn first(&self, kind: &ResourceType, wanted: &Wanted) -> DeltaDiscoveryRequest {
        let known = self.versions.get(kind).into_iter().flatten();
        DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: names(wanted).iter().map(ToString::to_string).collect(),
            initial_resource_versions: known
                .map(|(name, version)| (name.to_string(), version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn change(
        &mut self,
        kind: &ResourceType,
        before: &Wanted,
        wanted: &Wanted,
    ) -> Option<DeltaDiscoveryRequest> {
        let listed = |of: &BTreeSet<ArcStr>, without: &BTreeSet<ArcStr>| -> Vec<String> {
            of.difference(without).map(ToString::to_string).collect()
        };
        let subscribe = listed(&wanted.names, &before.names);
        let mut unsubscribe = listed(&before.names, &wanted.names);
        if before.all && !wanted.all {
            unsubscribe.push(WILDCARD.to_owned());
        }
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        if !wanted.all
            && let Some(known) = self.versions.get_mut(kind)
        {
            known.retain(|name, _| wanted.names.contains(name));
        }
        Some(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }
}

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn reset(&mut self) {
        self.subscribed.clear();
    }

    fn subscribe(
        &mut self,
        kind: &ResourceType,
        wanted: Option<Arc<Wanted>>,
    ) -> Option<DeltaDiscoveryRequest> {
        let before = self.subscribed.get(kind).cloned();
        match (before, wanted) {
            (None, None) => None,
            (None, Some(wanted)) => {
                let request = self.first(kind, &wanted);
                self.subscribed.insert(kind.clone(), wanted);
                Some(request)
            }
            (Some(before), Some(wanted)) if Arc::ptr_eq(&before, &wanted) => None,
            (Some(before), Some(wanted)) => {
                let request = self.change(kind, &before, &wanted);
                self.subscribed.insert(kind.clone(), wanted);
                request
            }
            (Some(before), None) => {
                let nothing = Arc::default();
                let request = self.change(kind, &before, &nothing);
                self.subscribed.insert(kind.clone(), nothing);
                request
            }
        }
    }

    fn update(&mut self, response: DeltaDiscoveryResponse) -> (ResourceType, Arrived) {
        let kind = ResourceType::from_url(&response.type_url);
        let mut update = Update {
            version: response.system_version_info.as_str().into(),
            removed: response
                .removed_resources
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            ..Update::default()
        };
        let mut versions = Vec::with_capacity(response.resources.len());
        let mut lifetimes = Vec::new();
        for resource in response.resources {
            let name = ArcStr::from(resource.name.as_str());
            let lifetime = lifetime(resource.ttl);
            lifetimes.push((name.clone(), lifetime));
            read(resource, name, &mut update, &mut versions);
        }
        let receipt = Receipt {
            nonce: response.nonce,
            versions,
            version: response.system_version_info,
            removed: update.removed.clone(),
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
    ) -> DeltaDiscoveryRequest {
        if refusal.is_none() {
            let known = self.versions.entry(kind.clone()).or_default();
            known.extend(receipt.versions);
            for name in &receipt.removed {
                known.remove(name);
            }
        }
        DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            response_nonce: receipt.nonce,
            error_detail: refusal.map(|message| RpcStatus {
                code: REFUSED,
                message,
                ..RpcStatus::default()
            }),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn expired(&mut self, kind: &ResourceType, name: &str) {
        if let Some(known) = self.versions.get_mut(kind) {
            known.remove(name);
        }
    }

    fn set_node(request: &mut DeltaDiscoveryRequest, node: Node) {
        request.node = Some(node);
    }
}

/// A resource without content does not exist, unless it only prolongs a life.
fn read(
    resource: WireResource,
    name: ArcStr,
    update: &mut Update,
    versions: &mut Vec<(ArcStr, String)>,
) {
    let aliases: Vec<ArcStr> = resource
        .aliases
        .iter()
        .map(|alias| alias.as_str().into())
        .collect();
    match resource.resource {
        Some(body) => {
            versions.push((name.clone(), resource.version));
            update.resources.push(Received {
                name,
                aliases,
                body: body.value.into(),
            });
        }
        None if resource.ttl.is_some() => {}
        None => {
            update.absent.push(name);
            update.absent.extend(aliases);
        }
    }
}
