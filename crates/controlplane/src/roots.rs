//! The trust bundle in every namespace, as ConfigMap `istio-ca-root-cert`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use meltemi_kube::{Api, Client, Key, Selectors, Task, WorkQueue, reflect, write};

use crate::{authority::Authority, objects};

/// Name of the ConfigMap.
const NAME: &str = "istio-ca-root-cert";
/// Label by which Istio's tools find it.
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// Namespaces written at the same time.
const PARALLEL: usize = 4;
/// Its only key.
const FILE: &str = "root-cert.pem";

/// Writes the bundle into every namespace, and again where somebody changes or deletes it.
pub(crate) fn publish(client: Client, authority: Arc<Authority>) -> Task {
    Task::spawn(async move {
        let queue: WorkQueue<Arc<str>> = WorkQueue::default();
        let changed = queue.clone();
        let (namespaces, _watch) = reflect(
            Api::<Namespace>::all(client.clone()),
            Selectors::default(),
            move |updated| changed.add(updated.key.name.clone()),
        );
        let changed = queue.clone();
        let only_ours = Selectors::fields(format!("metadata.name={NAME}"));
        let (bundles, _watch2) = reflect(
            Api::<ConfigMap>::all(client.clone()),
            only_ours,
            move |updated| changed.add(updated.key.namespace.clone()),
        );
        namespaces.synced().await;
        bundles.synced().await;
        let work = move |namespace: Arc<str>| {
            let (client, authority) = (client.clone(), Arc::clone(&authority));
            let live = namespaces
                .get(&Key::new("", &namespace))
                .is_some_and(|live| live.metadata.deletion_timestamp.is_none());
            let current = bundles.find(&namespace, NAME);
            async move {
                let has = current.and_then(|map| map.data.as_ref()?.get(FILE).cloned());
                let wanted = authority.root_pem();
                if live && has.as_deref() != Some(wanted.as_str()) {
                    write::upsert(
                        &Api::namespaced(client, &namespace),
                        &bundle(&namespace, wanted),
                    )
                    .await?;
                }
                Ok::<_, meltemi_kube::Error>(None)
            }
        };
        queue.run(PARALLEL, work).await;
    })
}

fn bundle(namespace: &str, roots: String) -> ConfigMap {
    let mut map: ConfigMap = objects::named(namespace, NAME);
    map.metadata.labels = Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]));
    map.data = Some(BTreeMap::from([(FILE.to_owned(), roots)]));
    map
}
