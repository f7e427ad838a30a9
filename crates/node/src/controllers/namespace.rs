//! Every namespace gets the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::Controllers;

const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(namespace) = all.stores.namespaces.get(&key) else {
        return Ok(None);
    };
    if namespace.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let name = &*key.name;
    if all.stores.accounts.find(name, "default").is_none() {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("default".to_owned());
        write::create_if_absent(&Api::namespaced(all.client.clone(), name), &account).await?;
    }
    root_ca(&all, name).await?;
    Ok(None)
}

async fn root_ca(all: &Controllers, namespace: &str) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(all.client.clone(), namespace);
    let Some(stored) = all.stores.config_maps.find(namespace, ROOT_CA) else {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(ROOT_CA.to_owned());
        map.metadata.annotations = Some(BTreeMap::from([(
            "kubernetes.io/description".to_owned(),
            "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
             as the internal service IP or kubernetes.default.svc."
                .to_owned(),
        )]));
        map.data = Some(BTreeMap::from([(
            "ca.crt".to_owned(),
            all.cluster_ca.to_string(),
        )]));
        return write::create_if_absent(&api, &map).await.map(|_| ());
    };
    let current = stored.data.as_ref().and_then(|data| data.get("ca.crt"));
    if current.map(String::as_str) != Some(&all.cluster_ca) {
        let patch = json!({"data": {"ca.crt": &*all.cluster_ca}});
        match write::merge_patch(&api, ROOT_CA, &patch).await {
            Err(error) if !write::is_not_found(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
