//! The downward API: fields and resources of a pod as text.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a pod's fields can be resolved against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodFields<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) host_address: Ipv4Addr,
    pub(crate) node: Capacity,
    pub(crate) node_name: &'a str,
}

/// What the node has, used where a container sets no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
}

impl PodFields<'_> {
    /// The value of a `fieldRef`; `None` for an unknown path.
    pub(crate) fn field(&self, path: &str) -> Option<String> {
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let address = || {
            self.address
                .map(|address| address.to_string())
                .unwrap_or_default()
        };
        if let Some(key) = subscript(path, "metadata.labels") {
            return Some(
                meta.labels
                    .as_ref()
                    .and_then(|labels| labels.get(key))
                    .cloned()
                    .unwrap_or_default(),
            );
        }
        if let Some(key) = subscript(path, "metadata.annotations") {
            let annotations = meta.annotations.as_ref();
            return Some(
                annotations
                    .and_then(|all| all.get(key))
                    .cloned()
                    .unwrap_or_default(),
            );
        }
        Some(match path {
            "metadata.name" => meta.name.clone().unwrap_or_default(),
            "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
            "metadata.uid" => meta.uid.clone().unwrap_or_default(),
            "metadata.labels" => formatted(meta.labels.as_ref()),
            "metadata.annotations" => formatted(meta.annotations.as_ref()),
            "spec.nodeName" => self.node_name.to_owned(),
            "spec.serviceAccountName" => spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_default(),
            "status.podIP" | "status.podIPs" => address(),
            "status.hostIP" | "status.hostIPs" => self.host_address.to_string(),
            _ => return None,
        })
    }

    /// The value of a `resourceFieldRef` for `container` (or the one the selector names).
    pub(crate) fn resource(
        &self,
        selector: &ResourceFieldSelector,
        container: &str,
    ) -> Option<String> {
        let name = selector.container_name.as_deref().unwrap_or(container);
        let spec = self.pod.spec.as_ref()?;
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let container = all.into_iter().find(|container| container.name == name)?;
        let (class, resource) = selector.resource.split_once('.')?;
        let resources = container.resources.clone().unwrap_or_default();
        let quantities = match class {
            "limits" => resources.limits,
            "requests" => resources.requests.or(resources.limits),
            _ => return None,
        };
        let value = match quantities.unwrap_or_default().get(resource) {
            Some(quantity) => milli(quantity)?,
            None if class == "requests" => 0,
            None => match resource {
                "cpu" => u128::from(self.node.cpus) * 1000,
                "memory" => u128::from(self.node.memory) * 1000,
                _ => 0,
            },
        };
        let divisor = selector
            .divisor
            .as_ref()
            .and_then(milli)
            .filter(|d| *d > 0)
            .unwrap_or(1000);
        Some(value.div_ceil(divisor).to_string())
    }
}

/// The `key` of `prefix['key']`.
fn subscript<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)?
        .strip_prefix("['")?
        .strip_suffix("']")
}

/// `key="value"` lines, as Kubernetes writes labels and annotations into files.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .iter()
        .copied()
        .flatten()
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    lines.join("\n")
}

/// A quantity in thousandths.
fn milli(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut value = whole.checked_mul(factor)?;
    let mut scale = factor;
    for digit in fraction.chars() {
        scale /= 10;
        value = value.checked_add(u128::from(digit.to_digit(10)?) * scale)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "a", "v": "1\"2"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}},
                                    {"name": "free"}]}
        }))
        .expect("a pod")
    }

    fn with<T>(use_fields: impl FnOnce(PodFields<'_>) -> T) -> T {
        let pod = pod();
        use_fields(PodFields {
            pod: &pod,
            address: Some(Ipv4Addr::new(10, 244, 0, 7)),
            host_address: Ipv4Addr::new(10, 244, 0, 1),
            node: Capacity {
                cpus: 4,
                memory: 1 << 30,
            },
            node_name: "n",
        })
    }

    #[test]
    fn fields_resolve_as_kubernetes_documents_them() {
        with(|fields| {
            assert_eq!(fields.field("metadata.name").as_deref(), Some("p"));
            assert_eq!(fields.field("metadata.labels['app']").as_deref(), Some("a"));
            assert_eq!(fields.field("metadata.labels['none']").as_deref(), Some(""));
            assert_eq!(
                fields.field("metadata.labels").as_deref(),
                Some("app=\"a\"\nv=\"1\\\"2\"")
            );
            assert_eq!(fields.field("status.podIP").as_deref(), Some("10.244.0.7"));
            assert_eq!(fields.field("spec.unknown"), None);
        });
    }

    #[test]
    fn resources_round_up_to_their_divisor() {
        let selector = |resource: &str, divisor: Option<&str>| ResourceFieldSelector {
            resource: resource.to_owned(),
            divisor: divisor.map(|d| Quantity(d.to_owned())),
            container_name: None,
        };
        with(|fields| {
            let value = |r: &str, d: Option<&str>, c: &str| fields.resource(&selector(r, d), c);
            assert_eq!(value("limits.cpu", None, "c").as_deref(), Some("2"));
            assert_eq!(
                value("limits.cpu", Some("1m"), "c").as_deref(),
                Some("1500")
            );
            assert_eq!(
                value("limits.memory", None, "c").as_deref(),
                Some("67108864")
            );
            assert_eq!(
                value("limits.memory", Some("1Mi"), "c").as_deref(),
                Some("64")
            );
            assert_eq!(value("limits.cpu", None, "free").as_deref(), Some("4"));
            assert_eq!(
                value("requests.cpu", Some("0"), "free").as_deref(),
                Some("0")
            );
        });
    }
}
