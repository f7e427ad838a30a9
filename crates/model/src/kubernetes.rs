//! The parts of Kubernetes objects that the model reads.

use std::collections::BTreeMap;

use meltemi_names::ArcStr;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: ArcStr,
    pub(crate) namespace: ArcStr,
    pub(crate) creation_timestamp: Option<ArcStr>,
    pub(crate) deletion_timestamp: Option<ArcStr>,
    pub(crate) labels: BTreeMap<ArcStr, ArcStr>,
    pub(crate) annotations: BTreeMap<ArcStr, String>,
    pub(crate) owner_references: Vec<Owner>,
}

impl Metadata {
    pub(crate) fn meta(&self) -> crate::meta::Meta {
        crate::meta::Meta {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            created: self.creation_timestamp.clone().unwrap_or_default(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: ArcStr,
    pub(crate) controller: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Metadata,
    pub(crate) spec: ServiceSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Vec<String>,
    pub(crate) external_name: String,
    pub(crate) selector: BTreeMap<ArcStr, ArcStr>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) publish_not_ready_addresses: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub(crate) name: ArcStr,
    pub(crate) port: u16,
    pub(crate) protocol: Option<String>,
    pub(crate) app_protocol: Option<String>,
    pub(crate) target_port: Option<IntOrString>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum IntOrString {
    Int(u16),
    String(ArcStr),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Metadata,
    pub(crate) address_type: String,
    pub(crate) endpoints: Vec<SliceEndpoint>,
    pub(crate) ports: Vec<SlicePort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceEndpoint {
    pub(crate) addresses: Vec<String>,
    pub(crate) conditions: SliceConditions,
    pub(crate) target_ref: Option<TargetRef>,
    pub(crate) zone: Option<ArcStr>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct SliceConditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct TargetRef {
    pub(crate) kind: String,
    pub(crate) name: ArcStr,
    pub(crate) namespace: ArcStr,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct SlicePort {
    pub(crate) name: Option<ArcStr>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) service_account_name: ArcStr,
    pub(crate) node_name: ArcStr,
    pub(crate) hostname: Option<ArcStr>,
    pub(crate) subdomain: Option<ArcStr>,
    pub(crate) containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Container {
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: ArcStr,
    pub(crate) container_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Vec<PodIp>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: String,
}

/// Reads an object. A null stands for "not set" and is taken out where it is in the way.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(value).or_else(|_| T::deserialize(&without_nulls(value)))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, field)| !field.is_null());
            Value::Object(
                kept.map(|(key, field)| (key.clone(), without_nulls(field)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}
