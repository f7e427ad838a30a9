//! The record of the safe order (which routes have been in effect, which subsets have existed), and what users are
//! told about routes that are held back.
//!
//! The record is stored in a ConfigMap by the lease holder. Other replicas, and this one after a restart, read it
//! before their first snapshot, so that all agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::ConfigMap;
use meltemi_kube::{
    Api, Client, DynamicObject, Task,
    events::{Kind, Recorder},
    lease::{LeaseConfig, elect},
    write,
};
use meltemi_model::{Held, SafeOrder};
use serde_json::json;

use crate::{Config, Error, objects, world::World};

/// ConfigMap with the record.
const RECORD: &str = "meltemi-safe-order";
/// Its only key.
const KEY: &str = "record";
/// Lease of who writes status and record.
const LEASE: &str = "istio-status-leader";
/// Condition of a VirtualService: whether its routes are in effect.
const CONDITION: &str = "Reconciled";

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
            told: BTreeMap::new(),
        };
        let mut states = world.states();
        loop {
            if *leads.borrow_and_update() {
                let snapshot = Arc::clone(&states.borrow_and_update().snapshot);
                keeper.store(snapshot.safe_order()).await;
                keeper.tell(snapshot.held()).await;
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
            }
        }
    })
}

struct Keeper {
    client: Client,
    namespace: String,
    recorder: Recorder,
    written: Option<SafeOrder>,
    /// Reason last told, by namespace and name.
    told: BTreeMap<(String, String), String>,
}

impl Keeper {
    async fn store(&mut self, record: &SafeOrder) {
        if self.written.as_ref() == Some(record) {
            return;
        }
        let mut map: ConfigMap = objects::named(&self.namespace, RECORD);
        map.data = Some(BTreeMap::from([(
            KEY.to_owned(),
            json!(record).to_string(),
        )]));
        match write::upsert(&Api::namespaced(self.client.clone(), &self.namespace), &map).await {
            Ok(_) => self.written = Some(record.clone()),
            Err(error) => {
                tracing::warn!(%error, "the record of the safe order is not stored; trying again at the next change")
            }
        }
    }

    async fn tell(&mut self, held: &[Held]) {
        let mut now = BTreeSet::new();
        for one in held {
            let key = (one.namespace.to_string(), one.name.to_string());
            let reason = one.reason();
            tracing::warn!(namespace = %one.namespace, name = %one.name, reason, "VirtualService held back");
            if self.told.get(&key) != Some(&reason)
                && self.set_condition(&key, false, &reason).await
            {
                self.told.insert(key.clone(), reason);
            }
            now.insert(key);
        }
        let released: Vec<_> = self
            .told
            .keys()
            .filter(|key| !now.contains(*key))
            .cloned()
            .collect();
        for key in released {
            if self
                .set_condition(&key, true, "the routes are in effect")
                .await
            {
                self.told.remove(&key);
            }
        }
    }

    /// Writes the condition and an event; `false` when it has to be tried again.
    async fn set_condition(
        &self,
        (namespace, name): &(String, String),
        in_effect: bool,
        message: &str,
    ) -> bool {
        let resource = meltemi_kube::resource(
            "networking.istio.io",
            "v1",
            "VirtualService",
            "virtualservices",
        );
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let reason = if in_effect {
            "InEffect"
        } else {
            "SubsetsMissing"
        };
        let object = match api.get_opt(name).await {
            Ok(Some(object)) => object,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let condition = json!({
            "type": CONDITION,
            "status": if in_effect { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().to_string(),
        });
        let patch = json!({"status": {"conditions": [condition], "observedGeneration": object.metadata.generation}});
        if let Err(error) = write::merge_patch_status(&api, name, &patch).await {
            tracing::debug!(%error, name, "status not written");
            return write::is_not_found(&error);
        }
        let reference = k8s_openapi::api::core::v1::ObjectReference {
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
