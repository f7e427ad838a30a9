//! The server's own background work: emptying terminating namespaces, removing the objects of
//! deleted CRDs, filling aggregated ClusterRoles, forgetting old events.
//!
//! One task looks at what is marked for deletion whenever namespaces or CRDs change, and again in
//! short steps while something is still in the way. It deletes through the same code as clients do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admission::definitions::CLEANUP;
use crate::auth::User;
use crate::kinds::Resource;
use crate::request::{Query, ResourcePath};
use crate::rest::{Call, DeleteOptions, remove};
use crate::state::Api;
use crate::store::{Expect, Key, Stored};

/// How soon a namespace that is not yet empty is looked at again; only while one is terminating.
const RETRY: Duration = Duration::from_millis(200);
/// How often old events are looked for.
const EVENTS_EVERY: Duration = Duration::from_secs(60);
/// Age at which Kubernetes forgets an event.
const EVENT_TTL: SignedDuration = SignedDuration::from_secs(3600);

/// Runs until the server stops.
pub async fn run(api: Arc<Api>) {
    let namespaces = api.resource_key("namespaces");
    let definitions = api.resource_key("customresourcedefinitions.apiextensions.k8s.io");
    let mut namespace_changes = api.store.subscribe(&namespaces);
    let mut definition_changes = api.store.subscribe(&definitions);
    let cluster_roles = api.resource_key("clusterroles.rbac.authorization.k8s.io");
    let mut role_changes = api.store.subscribe(&cluster_roles);
    let mut stopping = api.stopping.clone();
    let mut events = tokio::time::interval(EVENTS_EVERY);
    events.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        namespace_changes.mark_unchanged();
        definition_changes.mark_unchanged();
        role_changes.mark_unchanged();
        aggregate_roles(&api, &cluster_roles).await;
        let pending =
            empty_namespaces(&api, &namespaces).await | clean_definitions(&api, &definitions).await;
        tokio::select! {
            () = crate::state::stopped(&mut stopping) => return,
            Ok(()) = namespace_changes.changed() => {}
            // The writer reloads them itself, unless its client went away between commit and reload.
            Ok(()) = definition_changes.changed() => api.reload_definitions(),
            Ok(()) = role_changes.changed() => {}
            () = tokio::time::sleep(RETRY), if pending => {}
            _ = events.tick() => expire_events(&api).await,
        }
    }
}

/// Writes into aggregated ClusterRoles what they select, so that readers see it too.
async fn aggregate_roles(api: &Api, cluster_roles: &Arc<str>) {
    let Ok(snapshot) = api.store.list(cluster_roles, None, None) else {
        return;
    };
    let roles: Vec<Value> = snapshot
        .items
        .iter()
        .map(|(_, stored)| stored.value())
        .collect();
    for ((key, stored), role) in snapshot.items.into_iter().zip(&roles) {
        let Some(rules) = crate::rbac::aggregated_rules(role, &roles) else {
            continue;
        };
        if role["rules"] == rules {
            continue;
        }
        let mut role = role.clone();
        role["rules"] = rules;
        if let Err(error) = api
            .store
            .put(key, Expect::Revision(stored.revision), role, None)
            .await
        {
            // Somebody changed it meanwhile; that change wakes this task again.
            tracing::debug!(error = %error, "aggregating a cluster role");
        }
    }
}

fn terminating(api: &Api, resource: &Arc<str>) -> Vec<(Key, Arc<Stored>, Value)> {
    let items = api
        .store
        .list(resource, None, None)
        .map(|s| s.items)
        .unwrap_or_default();
    items
        .into_iter()
        .map(|(key, stored)| {
            let object = stored.value();
            (key, stored, object)
        })
        .filter(|(_, _, object)| !object["metadata"]["deletionTimestamp"].is_null())
        .collect()
}

/// Returns whether some namespace still has content.
async fn empty_namespaces(api: &Arc<Api>, namespaces: &Arc<str>) -> bool {
    let mut pending = false;
    for (key, stored, object) in terminating(api, namespaces) {
        if empty_namespace(api, &key.name).await {
            finish_namespace(api, key, &stored, object).await;
        } else {
            pending = true;
        }
    }
    pending
}

/// Deletes everything in a namespace; returns whether nothing is left.
async fn empty_namespace(api: &Arc<Api>, namespace: &str) -> bool {
    let mut stored: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
    for resource in api
        .registry()
        .iter()
        .filter(|r| r.namespaced && r.is_stored())
    {
        stored
            .entry(resource.storage_key())
            .or_insert_with(|| Arc::clone(resource));
    }
    let mut empty = true;
    for (name, resource) in stored {
        let key = api.resource_key(&name);
        if api.store.is_empty(&key, namespace) {
            continue;
        }
        let Ok(snapshot) = api.store.list(&key, Some(namespace), None) else {
            continue;
        };
        for (key, object) in snapshot.items {
            empty &= delete(api, &resource, &key, &object).await;
        }
    }
    empty
}

/// Deletes one object unless it is marked already; returns whether it is gone.
async fn delete(api: &Arc<Api>, resource: &Arc<Resource>, key: &Key, object: &Stored) -> bool {
    if !object.value()["metadata"]["deletionTimestamp"].is_null() {
        return false;
    }
    let call = Arc::new(own_call(api, resource, &key.namespace, &key.name));
    let options = DeleteOptions {
        propagation: Some("Background".into()),
        ..DeleteOptions::default()
    };
    match remove(&call, &options).await {
        Ok(removal) => removal.gone,
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::debug!(error = %error, name = %key.name, "deleting the content of a namespace");
            false
        }
    }
}

fn own_call(api: &Arc<Api>, resource: &Arc<Resource>, namespace: &str, name: &str) -> Call {
    Call {
        api: Arc::clone(api),
        user: User {
            name: "system:serviceaccount:kube-system:namespace-controller".into(),
            groups: vec![
                "system:serviceaccounts".into(),
                "system:authenticated".into(),
            ],
            ..User::default()
        },
        resource: Arc::clone(resource),
        path: ResourcePath {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..ResourcePath::default()
        },
        query: Query::default(),
        headers: http::HeaderMap::new(),
        warnings: Mutex::default(),
    }
}

/// Takes Kubernetes' finalizer off an empty namespace, which ends it unless others are left.
async fn finish_namespace(api: &Api, key: Key, stored: &Stored, mut object: Value) {
    if let Some(finalizers) = object["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|f| f != "kubernetes");
    }
    let held = |v: &Value| v.as_array().is_some_and(|f| !f.is_empty());
    let outcome = if held(&object["spec"]["finalizers"]) || held(&object["metadata"]["finalizers"])
    {
        if object == stored.value() {
            return;
        }
        api.store
            .put(key, Expect::Revision(stored.revision), object, None)
            .await
    } else {
        api.store.delete(key, Some(stored.revision)).await
    };
    if let Err(error) = outcome {
        // Somebody changed it meanwhile; that change wakes this task again.
        tracing::debug!(error = %error, "finishing a namespace");
    }
}

/// Returns whether some deleted CRD still has objects.
async fn clean_definitions(api: &Arc<Api>, definitions: &Arc<str>) -> bool {
    let mut pending = false;
    for (key, stored, mut object) in terminating(api, definitions) {
        let ours = |f: &Value| f == CLEANUP;
        if !object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|l| l.iter().any(ours))
        {
            continue;
        }
        if !delete_instances(api, &object).await {
            pending = true;
            continue;
        }
        if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|f| f != CLEANUP);
        }
        let last = object["metadata"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty);
        let outcome = if last {
            api.store.delete(key, Some(stored.revision)).await
        } else {
            api.store
                .put(key, Expect::Revision(stored.revision), object, None)
                .await
        };
        match outcome {
            Ok(_) => api.reload_definitions(),
            Err(error) => tracing::debug!(error = %error, "finishing a custom resource definition"),
        }
    }
    pending
}

async fn delete_instances(api: &Arc<Api>, definition: &Value) -> bool {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (
        text(&definition["spec"]["group"]),
        text(&definition["spec"]["names"]["plural"]),
    );
    let registry = api.registry();
    let Some(resource) = registry.find_resource(&group, &plural) else {
        return true;
    };
    let key = api.resource_key(&resource.storage_key());
    let Ok(snapshot) = api.store.list(&key, None, None) else {
        return false;
    };
    let mut empty = true;
    for (key, object) in snapshot.items {
        empty &= delete(api, resource, &key, &object).await;
    }
    empty
}

async fn expire_events(api: &Api) {
    let events = api.resource_key("events");
    let Ok(snapshot) = api.store.list(&events, None, None) else {
        return;
    };
    let limit = Timestamp::now() - EVENT_TTL;
    for (key, stored) in snapshot.items {
        let event = stored.value();
        let last = ["lastTimestamp", "eventTime"]
            .iter()
            .filter_map(|f| event[*f].as_str())
            .chain(event["metadata"]["creationTimestamp"].as_str())
            .find_map(|t| t.parse::<Timestamp>().ok());
        if last.is_some_and(|t| t < limit) {
            // A changed or vanished event is looked at next time.
            let _ = api.store.delete(key, Some(stored.revision)).await;
        }
    }
}

/// The finalizers that `/finalize` may set.
pub(crate) fn finalized(old: &Value, asked: &Value) -> Value {
    let mut object = old.clone();
    object["spec"]["finalizers"] = match &asked["spec"]["finalizers"] {
        Value::Array(list) => json!(list),
        _ => json!([]),
    };
    object
}
