//! The control plane's manifests from one set of values, in the order in which they are to be applied.
//!
//! Pure: the caller applies the objects. Names are those that Istio's guides and tools rely on.

mod configuration;
mod control_plane;
mod gateway;
mod names;
mod rbac;
mod values;
mod webhooks;

use serde_json::{Value, json};

pub use self::values::{IngressGateway, Values};

/// Every object of an installation, in the order in which they are to be applied: an object comes after what
/// it refers to.
pub fn manifests(values: &Values) -> Vec<Value> {
    let mut objects = vec![namespace(values)];
    objects.extend(meltemi_api::crds());
    objects.extend(rbac::objects(values));
    objects.extend(configuration::objects(values));
    objects.extend(control_plane::objects(values));
    objects.extend(webhooks::objects(values));
    if values.ingress_gateway.enabled {
        objects.extend(gateway::objects(values));
    }
    objects
}

fn namespace(values: &Values) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        // The control plane must not wait for its own webhook.
        "metadata": {"name": values.namespace(), "labels": {"istio-injection": "disabled"}},
    })
}
