//! EndpointSlices of Services with a selector.
//!
//! An endpoint is `serving` when its pod is ready, `ready` when it is serving and not being
//! deleted. Pods whose named target ports resolve differently go to different slices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::Controllers;
use crate::watches::{CATCH_UP, SERVICE_NAME, selects};
use crate::{ownership, pod_facts};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints in one slice, as Kubernetes.
const SLICE_SIZE: usize = 100;

/// Ports and endpoints of one slice.
type Content = (Vec<EndpointPort>, Vec<Endpoint>);

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(service) = all.stores.services.get(&key) else {
        return Ok(None);
    };
    let spec = service.spec.clone().unwrap_or_default();
    let selecting = spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty())
        && spec.type_.as_deref() != Some("ExternalName");
    if !selecting || service.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let mut pods = all.stores.pods.in_namespace(&key.namespace);
    pods.retain(|pod| selects(&service, pod.metadata.labels.as_ref()));
    let wanted = contents(&service, &pods);
    let mut present = all.stores.slices.in_namespace(&key.namespace);
    present.retain(|slice| is_ours(slice, &key.name));
    let api: Api<EndpointSlice> = Api::namespaced(all.client.clone(), &key.namespace);
    for content in wanted {
        let with_ports = |ports: &[EndpointPort]| {
            present
                .iter()
                .position(|slice| slice.ports.as_deref().unwrap_or(&[]) == ports)
        };
        let reuse = with_ports(&content.0)
            .or_else(|| with_ports(&[]))
            .map(|index| present.remove(index));
        write_slice(&all, &api, &service, reuse, content).await?;
    }
    for slice in present {
        let name = slice.metadata.name.clone().unwrap_or_default();
        write::delete(&api, &name, write::Deletion::default()).await?;
    }
    Ok(None)
}

fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let label = |name: &str| {
        slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(name))
            .map(String::as_str)
    };
    label(SERVICE_NAME) == Some(service) && label(MANAGED_BY) == Some(MANAGER)
}

async fn write_slice(
    all: &Controllers,
    api: &Api<EndpointSlice>,
    service: &Arc<Service>,
    present: Option<Arc<EndpointSlice>>,
    (ports, endpoints): Content,
) -> Result<(), Error> {
    let written = match present {
        Some(slice)
            if slice.endpoints.as_deref().unwrap_or(&[]) == endpoints
                && slice.ports.as_deref().unwrap_or(&[]) == ports =>
        {
            return Ok(());
        }
        Some(slice) => {
            let name = slice.metadata.name.clone().unwrap_or_default();
            write::merge_patch(api, &name, &json!({"endpoints": endpoints, "ports": ports})).await?
        }
        None => {
            api.create(&Default::default(), &new_slice(service, ports, endpoints))
                .await?
        }
    };
    all.stores.slices.seen(&written, CATCH_UP).await;
    Ok(())
}

fn new_slice(
    service: &Arc<Service>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
    {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut slice = EndpointSlice {
        address_type: "IPv4".to_owned(),
        ports: Some(ports),
        endpoints: Some(endpoints),
        ..EndpointSlice::default()
    };
    slice.metadata.generate_name = Some(format!("{name}-"));
    slice.metadata.namespace = service.metadata.namespace.clone();
    slice.metadata.labels = Some(labels);
    slice.metadata.owner_references = Some(vec![ownership::reference_to(&**service)]);
    slice
}

/// What the service's slices should hold, at least one slice.
fn contents(service: &Service, pods: &[Arc<Pod>]) -> Vec<Content> {
    let spec = service.spec.clone().unwrap_or_default();
    let mut by_ports: BTreeMap<String, Content> = BTreeMap::new();
    for pod in pods {
        let Some(endpoint) = endpoint(service, pod) else {
            continue;
        };
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| resolve(port, pod))
            .collect();
        let group = serde_json::to_string(&ports).unwrap_or_default();
        by_ports
            .entry(group)
            .or_insert_with(|| (ports, Vec::new()))
            .1
            .push(endpoint);
    }
    let mut contents = Vec::new();
    for (_, (ports, endpoints)) in by_ports {
        for chunk in endpoints.chunks(SLICE_SIZE) {
            contents.push((ports.clone(), chunk.to_vec()));
        }
    }
    if contents.is_empty() {
        contents.push((Vec::new(), Vec::new()));
    }
    contents
}

fn endpoint(service: &Service, pod: &Pod) -> Option<Endpoint> {
    let address = pod
        .status
        .as_ref()?
        .pod_ip
        .clone()
        .filter(|address| !address.is_empty())?;
    if pod_facts::is_ended(pod) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let serving = pod_facts::is_ready(pod);
    let terminating = pod_facts::is_deleting(pod);
    let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let pod_spec = pod.spec.as_ref()?;
    let hostname = pod_spec
        .hostname
        .clone()
        .filter(|_| pod_spec.subdomain == service.metadata.name);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: pod_spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The port of this pod that a service port leads to; `None` when the pod has no port of that name.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol),
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let matching = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports
        .into_iter()
        .find(matching)
        .map(|port| port.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "ports": [port]}
        }))
        .expect("a service")
    }

    fn pod(name: &str, ready: &str, container_port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": container_port}]}]},
                "status": {"phase": "Running", "podIP": "10.244.0.9",
                    "conditions": [{"type": "Ready", "status": ready}]}
            }))
            .expect("a pod"),
        )
    }

    #[test]
    fn a_pod_that_is_not_ready_is_listed_but_not_ready() {
        let service = service(json!({"port": 80, "targetPort": 8080}));
        let contents = contents(&service, &[pod("a", "False", 1)]);
        let conditions = contents[0].1[0].conditions.clone().expect("conditions");
        assert_eq!(
            (conditions.ready, conditions.serving),
            (Some(false), Some(false))
        );
        assert_eq!(contents[0].0[0].port, Some(8080));
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut terminating = (*pod("a", "True", 1)).clone();
        terminating.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::now(),
            ));
        let contents = contents(&service(json!({"port": 80})), &[Arc::new(terminating)]);
        let conditions = contents[0].1[0].conditions.clone().expect("conditions");
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[test]
    fn pods_with_different_named_ports_get_slices_of_their_own() {
        let service = service(json!({"port": 80, "targetPort": "http"}));
        let contents = contents(&service, &[pod("a", "True", 8080), pod("b", "True", 9090)]);
        let ports: Vec<_> = contents.iter().map(|(ports, _)| ports[0].port).collect();
        assert_eq!(ports, [Some(8080), Some(9090)]);
    }

    #[test]
    fn a_service_without_pods_still_has_a_slice() {
        assert_eq!(
            contents(&service(json!({"port": 80})), &[]),
            [(vec![], vec![])]
        );
    }
}
