//! The record of the safe order (which routes have been in effect, which subsets have existed), and what users are
//! told about routes that are held back.
//!
//! The record is stored in a ConfigMap by the lease holder. Other replicas, and this one after a restart, read it
//! before their first snapshot, so that all agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use meltemi_kube::{
    Api, Client, DynamicObject, ResourceExt, Task,
    events::{Kind, Recorder},
    lease::{LeaseConfig, elect},
    write,
};
use meltemi_model::{Held, SafeOrder};
use serde_json::{Value, json};

use crate::{Config, Error, objects, world::World};

/// ConfigMap with the record.
const RECORD: &str = "meltemi-safe-order";
/// Its only key.
const KEY: &str = "record";
/// Lease of who writes status and record.
const LEASE: &str = "istio-status-leader";
/// Condition of a VirtualService: whether its routes are in effect.
const CONDITION: &str = "Reconciled";
/// What is told about routes that were held back before.
const RELEASED: &str = "the routes are in effect";
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Reads the record.
pub(crate) async fn stored(client: &Client, config: &Config) -> Result<SafeOrder, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &config.namespace);
    let map = api
        .get_opt(RECORD)
        .await
        .map_err(Error::kubernetes(format!("read ConfigMap {RECORD}")))?;
    let text = map
        .and_then(|map| map.data?.remove(KEY))
        .unwrap_or_default();
    if text.is_empty() {
        return Ok(SafeOrder::default());
    }
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "the record of the safe order is damaged; starting with an empty one");
        SafeOrder::default()
    }))
}

/// Stores the record and tells users, for as long as this replica leads.
pub(crate) fn keep(client: Client, config: &Config, world: Arc<World>) -> Task {
    let namespace = config.namespace.clone();
    let identity = config.identity.clone();
    Task::spawn(async move {
        let (mut leads, _election) = elect(
            client.clone(),
            LeaseConfig::new(&namespace, LEASE, &identity),
        );
        let (recorder, _events) = Recorder::new(client.clone(), "istiod", &identity);
        let mut keeper = Keeper {
            client,
            namespace,
            recorder,
            written: None,
            told: None,
        };
        let mut states = world.states();
        loop {
            let mut complete = true;
            if *leads.borrow_and_update() {
                let snapshot = Arc::clone(&states.borrow_and_update().snapshot);
                complete &= keeper.store(snapshot.safe_order()).await;
                complete &= keeper.tell(snapshot.held()).await;
            } else {
                // Somebody else may write meanwhile.
                (keeper.written, keeper.told) = (None, None);
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !complete => {}
            }
        }
    })
}

struct Keeper {
    client: Client,
    namespace: String,
    recorder: Recorder,
    written: Option<SafeOrder>,
    /// Reason last told, by namespace and name; nothing until it was read from the objects.
    told: Option<Told>,
}

type Told = BTreeMap<(String, String), String>;

impl Keeper {
    /// Stores the record where it differs; `false` when it has to be tried again.
    async fn store(&mut self, record: &SafeOrder) -> bool {
        if self.written.as_ref() == Some(record) {
            return true;
        }
        let mut map: ConfigMap = objects::named(&self.namespace, RECORD);
        map.data = Some(BTreeMap::from([(
            KEY.to_owned(),
            json!(record).to_string(),
        )]));
        match write::upsert(&Api::namespaced(self.client.clone(), &self.namespace), &map).await {
            Ok(_) => {
                self.written = Some(record.clone());
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the record of the safe order is not stored; trying again");
                false
            }
        }
    }

    /// Writes conditions that differ; `false` when something has to be tried again.
    async fn tell(&mut self, held: &[Held]) -> bool {
        let mut told = match self.told.take() {
            Some(told) => told,
            None => match self.told_before().await {
                Ok(told) => told,
                Err(error) => {
                    tracing::warn!(%error, "conditions of VirtualServices cannot be read; trying again");
                    return false;
                }
            },
        };
        let mut complete = true;
        let mut now = BTreeSet::new();
        for one in held {
            let key = (one.namespace.to_string(), one.name.to_string());
            let reason = one.reason();
            if told.get(&key) != Some(&reason) {
                tracing::warn!(namespace = %one.namespace, name = %one.name, reason, "VirtualService held back");
                if self.set_condition(&key, false, &reason).await {
                    told.insert(key.clone(), reason);
                } else {
                    complete = false;
                }
            }
            now.insert(key);
        }
        let released: Vec<_> = told
            .keys()
            .filter(|key| !now.contains(*key))
            .cloned()
            .collect();
        for key in released {
            if self.set_condition(&key, true, RELEASED).await {
                told.remove(&key);
            } else {
                complete = false;
            }
        }
        self.told = Some(told);
        complete
    }

    /// What the last leader told: it is not told twice, and it is taken back when it no longer holds.
    async fn told_before(&self) -> Result<Told, meltemi_kube::Error> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &virtual_services());
        let list = api.list(&Default::default()).await?;
        let told = list.into_iter().filter_map(|object| {
            let condition = conditions(&object).find(|one| one["type"] == CONDITION)?;
            let reason = condition["message"]
                .as_str()
                .filter(|_| condition["status"] == "False")?;
            let (namespace, name) = (object.namespace()?, object.name_any());
            Some(((namespace, name), reason.to_owned()))
        });
        Ok(told.collect())
    }

    /// Writes the condition and an event; `false` when it has to be tried again.
    async fn set_condition(
        &self,
        (namespace, name): &(String, String),
        in_effect: bool,
        message: &str,
    ) -> bool {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &virtual_services());
        let object = match api.get_opt(name).await {
            Ok(Some(object)) => object,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let reason = if in_effect {
            "InEffect"
        } else {
            "SubsetsMissing"
        };
        let patch = status_patch(&object, in_effect, reason, message);
        if let Err(error) = write::merge_patch_status(&api, name, &patch).await {
            tracing::debug!(%error, name, "status not written");
            return write::is_not_found(&error);
        }
        let reference = ObjectReference {
            api_version: Some("networking.istio.io/v1".to_owned()),
            kind: Some("VirtualService".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: object.metadata.uid.clone(),
            ..Default::default()
        };
        let kind = if in_effect {
            Kind::Normal
        } else {
            Kind::Warning
        };
        self.recorder.record(reference, kind, reason, message);
        true
    }
}

fn virtual_services() -> meltemi_kube::ApiResource {
    meltemi_kube::resource(
        "networking.istio.io",
        "v1",
        "VirtualService",
        "virtualservices",
    )
}

fn conditions(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    object.data["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
}

/// Our condition among those of others; refused when the object has changed meanwhile.
fn status_patch(object: &DynamicObject, in_effect: bool, reason: &str, message: &str) -> Value {
    let status = if in_effect { "True" } else { "False" };
    let before = conditions(object).find(|one| one["type"] == CONDITION && one["status"] == status);
    let since = match before {
        Some(before) => before["lastTransitionTime"].clone(),
        None => json!(k8s_openapi::jiff::Timestamp::now().to_string()),
    };
    let ours = json!({
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    });
    let others = conditions(object).filter(|one| one["type"] != CONDITION);
    let all: Vec<Value> = others.cloned().chain([ours]).collect();
    json!({
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "status": {"conditions": all, "observedGeneration": object.metadata.generation},
    })
}
