//! Making Kubernetes objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_kube::Resource;

/// An empty object with a name.
pub(crate) fn named<K: Resource + Default>(namespace: &str, name: &str) -> K {
    let mut object = K::default();
    *object.meta_mut() = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    object
}
