//! Kubernetes Services, EndpointSlices and Pods.

use std::net::IpAddr;

use meltemi_names::{ArcStr, Hostname, Labels, Locality, Protocol, SpiffeId};
use serde_json::Value;

use super::{Context, ConvertError};
use crate::Visibility;
use crate::endpoint::{Health, Workload};
use crate::kubernetes as k8s;
use crate::service::{Resolution, Service, ServicePort, TargetPort};

const EXPORT_TO: &str = "networking.istio.io/exportTo";
const TLS_MODE: &str = "security.istio.io/tlsMode";

fn read<T: for<'de> serde::Deserialize<'de>>(value: &Value) -> Result<T, ConvertError> {
    k8s::read(value).map_err(|source| ConvertError::Shape { source })
}

pub(crate) fn service(value: &Value, context: &Context<'_>) -> Result<Service, ConvertError> {
    let object: k8s::Service = read(value)?;
    let meta = object.metadata.meta();
    let spec = &object.spec;
    let vips = addresses(spec.cluster_ips.iter().chain(Some(&spec.cluster_ip)));
    let resolution = if spec.kind == "ExternalName" {
        Resolution::Alias(Hostname::from(spec.external_name.as_str()))
    } else if vips.is_empty() {
        Resolution::Passthrough
    } else {
        Resolution::ClientSide
    };
    let tokens = object
        .metadata
        .annotations
        .get(EXPORT_TO)
        .map(String::as_str)
        .unwrap_or_default();
    let export_to = Visibility::of(
        tokens.split(','),
        &meta.namespace,
        &context.mesh.default_service_export_to,
    );
    Ok(Service {
        host: Hostname::service(&meta.name, &meta.namespace, &context.mesh.domain),
        ports: spec.ports.iter().filter_map(service_port).collect(),
        vips,
        resolution,
        mesh_external: false,
        export_to,
        selector: (!spec.selector.is_empty()).then(|| spec.selector.clone().into_iter().collect()),
        subject_alt_names: Vec::new(),
        meta,
    })
}

fn service_port(port: &k8s::ServicePort) -> Option<ServicePort> {
    let transport = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = Protocol::of_port(
        transport,
        port.app_protocol.as_deref(),
        &port.name,
        port.port,
    );
    if protocol == Protocol::Udp {
        return None;
    }
    let target = match &port.target_port {
        Some(k8s::IntOrString::Int(number)) if *number > 0 => TargetPort::Number(*number),
        Some(k8s::IntOrString::String(name)) => match name.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(name.clone()),
        },
        _ => TargetPort::Number(port.port),
    };
    Some(ServicePort {
        name: port.name.clone(),
        number: port.port,
        protocol,
        target,
    })
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out
}

/// An EndpointSlice, its pods not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slice {
    /// The name of the Service; its namespace is that of the slice.
    pub(crate) service: ArcStr,
    pub(crate) ports: Vec<(ArcStr, u16)>,
    pub(crate) members: Vec<Member>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) address: IpAddr,
    pub(crate) health: Health,
    pub(crate) locality: Locality,
    /// Namespace and name of the pod.
    pub(crate) pod: Option<(ArcStr, ArcStr)>,
}

pub(crate) fn slice(value: &Value) -> Result<Slice, ConvertError> {
    let object: k8s::EndpointSlice = read(value)?;
    let service = object
        .metadata
        .labels
        .get("kubernetes.io/service-name")
        .cloned()
        .unwrap_or_default();
    let transport_is_udp = |port: &k8s::SlicePort| port.protocol.as_deref() == Some("UDP");
    let ports = object.ports.iter().filter(|port| !transport_is_udp(port));
    let ports = ports
        .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port.port?)))
        .collect();
    let mut members = Vec::new();
    if object.address_type != "FQDN" {
        for endpoint in &object.endpoints {
            let Some(health) = health(&endpoint.conditions) else {
                continue;
            };
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind == "Pod");
            let namespace_of = |target: &k8s::TargetRef| {
                if target.namespace.is_empty() {
                    object.metadata.namespace.clone()
                } else {
                    target.namespace.clone()
                }
            };
            let pod = pod.map(|target| (namespace_of(target), target.name.clone()));
            let locality = endpoint
                .zone
                .as_ref()
                .map_or_else(Locality::default, |zone| Locality {
                    zone: zone.clone(),
                    ..Locality::default()
                });
            members.extend(
                endpoint
                    .addresses
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .map(|address| Member {
                        address,
                        health,
                        locality: locality.clone(),
                        pod: pod.clone(),
                    }),
            );
        }
    }
    Ok(Slice {
        service,
        ports,
        members,
    })
}

/// `None` for endpoints that are going away and take nothing any more.
fn health(conditions: &k8s::SliceConditions) -> Option<Health> {
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, terminating) {
        (true, _) => Some(Health::Healthy),
        (false, true) if conditions.serving == Some(true) => Some(Health::Draining),
        (false, true) => None,
        (false, false) => Some(Health::Unhealthy),
    }
}

/// A pod as a workload; `None` when it runs nothing (finished, or without an address yet).
pub(crate) fn workload(
    value: &Value,
    context: &Context<'_>,
) -> Result<Option<Workload>, ConvertError> {
    let pod: k8s::Pod = read(value)?;
    let ips = pod
        .status
        .pod_ips
        .iter()
        .map(|ip| &ip.ip)
        .chain(Some(&pod.status.pod_ip));
    let addresses = addresses(ips);
    if addresses.is_empty() || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return Ok(None);
    }
    let meta = pod.metadata.meta();
    let labels: Labels = pod.metadata.labels.clone().into_iter().collect();
    let workload_name = workload_name(&pod.metadata);
    let first = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| labels.get(key).filter(|v| !v.is_empty()).cloned())
    };
    let canonical_name = first(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    let canonical_revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    let account = if pod.spec.service_account_name.is_empty() {
        ArcStr::from("default")
    } else {
        pod.spec.service_account_name.clone()
    };
    let ports = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| &container.ports);
    Ok(Some(Workload {
        identity: Some(SpiffeId::new(
            context.mesh.trust_domain.clone(),
            meta.namespace.clone(),
            account,
        )),
        takes_mutual_tls: labels.get(TLS_MODE).is_some_and(|mode| mode == "istio"),
        canonical_name: canonical_name.unwrap_or_else(|| workload_name.clone()),
        canonical_revision: canonical_revision.unwrap_or_else(|| "latest".into()),
        ports: ports
            .filter(|p| !p.name.is_empty())
            .map(|p| (p.name.clone(), p.container_port))
            .collect(),
        node: pod.spec.node_name,
        hostname: pod.spec.hostname,
        subdomain: pod.spec.subdomain,
        addresses,
        labels,
        workload_name,
        meta,
    }))
}

/// The Deployment behind a ReplicaSet, else the controller itself, else the pod.
fn workload_name(metadata: &k8s::Metadata) -> ArcStr {
    let Some(owner) = metadata
        .owner_references
        .iter()
        .find(|owner| owner.controller == Some(true))
    else {
        return metadata.name.clone();
    };
    if owner.kind == "ReplicaSet" {
        let hash = metadata
            .labels
            .get("pod-template-hash")
            .map(ArcStr::as_str)
            .unwrap_or_default();
        if let Some(deployment) = owner
            .name
            .strip_suffix(hash)
            .and_then(|name| name.strip_suffix('-'))
        {
            return deployment.into();
        }
    }
    owner.name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context<T>(test: impl FnOnce(&Context<'_>) -> T) -> T {
        test(&Context {
            mesh: &crate::MeshConfig::default(),
        })
    }

    #[test]
    fn a_service_tells_its_ports_addresses_and_resolution() {
        let read = |spec: Value| {
            context(|context| {
                let object = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": spec});
                service(&object, context).expect("valid")
            })
        };
        let plain = read(
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        );
        assert_eq!(plain.host.as_str(), "a.ns.svc.cluster.local");
        assert_eq!(plain.ports.len(), 1);
        assert_eq!(plain.ports[0].target, TargetPort::Name("web".into()));
        assert_eq!(
            (plain.vips.len(), plain.resolution),
            (1, Resolution::ClientSide)
        );
        assert_eq!(
            read(json!({"clusterIP": "None"})).resolution,
            Resolution::Passthrough
        );
        let alias = read(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(alias.resolution, Resolution::Alias("example.com".into()));
    }

    #[test]
    fn a_pod_is_named_after_its_deployment() {
        let pod = json!({
            "metadata": {"name": "reviews-v1-5cb46c9fd4-x2x", "namespace": "default",
                "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "5cb46c9fd4",
                           "security.istio.io/tlsMode": "istio"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "reviews-v1-5cb46c9fd4", "controller": true}]},
            "spec": {"serviceAccountName": "bookinfo-reviews", "containers": [{"ports": null}]},
            "status": {"podIP": "10.244.0.7", "phase": "Running"},
        });
        let workload = context(|context| workload(&pod, context))
            .expect("valid")
            .expect("runs");
        assert_eq!(
            workload.telemetry("Kubernetes"),
            "reviews-v1;default;reviews;v1;Kubernetes"
        );
        assert!(workload.takes_mutual_tls);
        let identity = workload.identity.expect("known").to_string();
        assert_eq!(
            identity,
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        );
    }

    #[test]
    fn nulls_stand_for_fields_that_are_not_set() {
        let object = json!({
            "metadata": {"name": "a", "namespace": "ns", "labels": null, "annotations": null},
            "spec": {"clusterIP": "10.96.0.5", "clusterIPs": null, "selector": null, "ports": null},
        });
        let service = context(|context| service(&object, context)).expect("readable");
        assert!(service.ports.is_empty() && service.selector.is_none());
    }

    #[test]
    fn slice_conditions_become_health() {
        let of = |ready, serving, terminating| {
            health(&k8s::SliceConditions {
                ready,
                serving,
                terminating,
            })
        };
        assert_eq!(of(None, None, None), Some(Health::Healthy));
        assert_eq!(
            of(Some(false), Some(false), Some(false)),
            Some(Health::Unhealthy)
        );
        assert_eq!(
            of(Some(false), Some(true), Some(true)),
            Some(Health::Draining)
        );
        assert_eq!(of(Some(false), Some(false), Some(true)), None);
    }
}
