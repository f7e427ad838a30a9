//! Garbage collection by owner references: background, foreground and orphan.
//!
//! It knows the kinds that the node watches. An object of another kind (a custom resource) is
//! neither collected nor waited for.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_kube::{Api, ApiResource, DynamicObject, Error, Key, Resource, Store, write};
use serde_json::json;

use super::Controllers;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What the collector is to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Garbage {
    /// The object with this UID is gone: its dependents go too.
    OwnerGone(String),
    /// A dependent of the object with this UID is gone: the owner may have waited for it.
    DependentGone(String),
    /// This object is new with owners, or waits for its dependents.
    Object {
        /// Its kind.
        kind: String,
        /// Its key.
        key: Key,
    },
}

/// One object as the collector sees it.
struct Seen {
    resource: ApiResource,
    kind: &'static str,
    key: Key,
    meta: ObjectMeta,
}

impl Seen {
    fn api(&self, all: &Controllers) -> Api<DynamicObject> {
        Api::namespaced_with(all.client.clone(), &self.key.namespace, &self.resource)
    }

    fn owned_by(&self, uid: &str) -> bool {
        self.meta
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == uid)
    }

    fn has_finalizer(&self, name: &str) -> bool {
        self.meta
            .finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == name)
    }
}

pub(super) async fn collect(
    all: Arc<Controllers>,
    garbage: Garbage,
) -> Result<Option<Duration>, Error> {
    match garbage {
        Garbage::OwnerGone(uid) => {
            for dependent in everything(&all)
                .into_iter()
                .filter(|seen| seen.owned_by(&uid))
            {
                release_or_delete(&all, &dependent).await?;
            }
        }
        Garbage::DependentGone(uid) => {
            for owner in everything(&all)
                .into_iter()
                .filter(|s| s.meta.uid.as_deref() == Some(&uid))
            {
                finish_deletion(&all, &owner).await?;
            }
        }
        Garbage::Object { kind, key } => {
            let found = everything(&all)
                .into_iter()
                .find(|seen| seen.kind == kind && seen.key == key);
            let Some(object) = found else { return Ok(None) };
            if object.meta.deletion_timestamp.is_some() {
                finish_deletion(&all, &object).await?;
            } else {
                release_or_delete(&all, &object).await?;
            }
        }
    }
    Ok(None)
}

/// Every namespaced object that can own or be owned here.
fn everything(all: &Controllers) -> Vec<Seen> {
    let stores = &all.stores;
    let mut seen = Vec::new();
    list(&stores.pods, "Pod", &mut seen);
    list(&stores.replica_sets, "ReplicaSet", &mut seen);
    list(&stores.deployments, "Deployment", &mut seen);
    list(&stores.stateful_sets, "StatefulSet", &mut seen);
    list(&stores.daemon_sets, "DaemonSet", &mut seen);
    list(&stores.jobs, "Job", &mut seen);
    list(&stores.services, "Service", &mut seen);
    list(&stores.slices, "EndpointSlice", &mut seen);
    list(&stores.config_maps, "ConfigMap", &mut seen);
    list(&stores.secrets, "Secret", &mut seen);
    list(&stores.accounts, "ServiceAccount", &mut seen);
    seen
}

fn list<K: Resource<DynamicType = ()>>(store: &Store<K>, kind: &'static str, into: &mut Vec<Seen>) {
    let resource = ApiResource::erase::<K>(&());
    for object in store.list() {
        let meta = object.meta();
        let owned = meta.owner_references.iter().flatten().next().is_some();
        let owns = !matches!(
            kind,
            "ConfigMap" | "Secret" | "ServiceAccount" | "EndpointSlice"
        );
        if owned || owns {
            let key = Key::of(&*object);
            into.push(Seen {
                resource: resource.clone(),
                kind,
                key,
                meta: meta.clone(),
            });
        }
    }
}

/// Whether the owner exists: by store for known kinds, otherwise assumed to.
fn exists(all: &Controllers, kind: &str, uid: &str, known: &[Seen]) -> bool {
    let is_known = matches!(
        kind,
        "Pod" | "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "Service"
    );
    if kind == "Namespace" {
        return all
            .stores
            .namespaces
            .list()
            .iter()
            .any(|n| n.metadata.uid.as_deref() == Some(uid));
    }
    !is_known
        || known
            .iter()
            .any(|seen| seen.meta.uid.as_deref() == Some(uid))
}

/// Deletes an object whose owners are all gone; drops references to gone owners otherwise.
async fn release_or_delete(all: &Controllers, object: &Seen) -> Result<(), Error> {
    if object.meta.deletion_timestamp.is_some() {
        return Ok(());
    }
    // The stores lag behind the API server: an owner that is missing there is looked up before
    // anything is deleted.
    let known = everything(all);
    let owners = object.meta.owner_references.clone().unwrap_or_default();
    let mut gone = Vec::new();
    for owner in &owners {
        if !exists(all, &owner.kind, &owner.uid, &known) && !lookup(all, object, owner).await? {
            gone.push(owner.uid.clone());
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let name = &object.key.name;
    if gone.len() == owners.len() {
        let how = write::Deletion {
            uid: object.meta.uid.clone(),
            propagation: Some(kube::api::PropagationPolicy::Background),
            ..Default::default()
        };
        write::delete(&object.api(all), name, how).await?;
        return Ok(());
    }
    drop_owners(all, object, &gone).await
}

/// Asks the API server whether the owner still exists with that UID.
async fn lookup(
    all: &Controllers,
    object: &Seen,
    owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
) -> Result<bool, Error> {
    let (group, version) = owner
        .api_version
        .split_once('/')
        .unwrap_or(("", &owner.api_version));
    let plural = format!("{}s", owner.kind.to_lowercase());
    let resource = meltemi_kube::resource(group, version, &owner.kind, &plural);
    let api: Api<DynamicObject> =
        Api::namespaced_with(all.client.clone(), &object.key.namespace, &resource);
    let found = api.get_metadata_opt(&owner.name).await?;
    Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)))
}

async fn drop_owners(all: &Controllers, object: &Seen, uids: &[String]) -> Result<(), Error> {
    let kept: Vec<_> = object
        .meta
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| !uids.contains(&owner.uid))
        .cloned()
        .collect();
    let patch = json!({"metadata": {"ownerReferences": kept, "resourceVersion": object.meta.resource_version}});
    match write::merge_patch(&object.api(all), &object.key.name, &patch).await {
        Err(error) if !write::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Serves the finalizers `foregroundDeletion` and `orphan` of an object that is being deleted.
async fn finish_deletion(all: &Controllers, owner: &Seen) -> Result<(), Error> {
    if owner.meta.deletion_timestamp.is_none() {
        return Ok(());
    }
    let Some(uid) = owner.meta.uid.clone() else {
        return Ok(());
    };
    let dependents: Vec<Seen> = everything(all)
        .into_iter()
        .filter(|seen| seen.owned_by(&uid))
        .collect();
    if owner.has_finalizer(ORPHAN) {
        for dependent in &dependents {
            drop_owners(all, dependent, std::slice::from_ref(&uid)).await?;
        }
        return remove_finalizer(all, owner, ORPHAN).await;
    }
    if !owner.has_finalizer(FOREGROUND) {
        return Ok(());
    }
    let mut blocked = false;
    for dependent in &dependents {
        let blocks = dependent
            .meta
            .owner_references
            .iter()
            .flatten()
            .any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
        blocked |= blocks;
        if dependent.meta.deletion_timestamp.is_none() {
            let how = write::Deletion {
                uid: dependent.meta.uid.clone(),
                propagation: Some(kube::api::PropagationPolicy::Foreground),
                ..Default::default()
            };
            write::delete(&dependent.api(all), &dependent.key.name, how).await?;
        }
    }
    if blocked {
        Ok(())
    } else {
        remove_finalizer(all, owner, FOREGROUND).await
    }
}

async fn remove_finalizer(all: &Controllers, object: &Seen, name: &str) -> Result<(), Error> {
    let kept: Vec<_> = object
        .meta
        .finalizers
        .iter()
        .flatten()
        .filter(|f| *f != name)
        .collect();
    let patch =
        json!({"metadata": {"finalizers": kept, "resourceVersion": object.meta.resource_version}});
    match write::merge_patch(&object.api(all), &object.key.name, &patch).await {
        Err(error) if !write::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
