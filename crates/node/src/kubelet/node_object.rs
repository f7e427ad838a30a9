//! The Node object and its heartbeat Lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use meltemi_kube::{Api, Client, Error, Task, write};
use serde_json::{Value, json};

use super::fields::Capacity;

/// Kubernetes' heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What the Node object says.
#[derive(Debug, Clone)]
pub(crate) struct NodeObject {
    pub(crate) name: Arc<str>,
    /// Where the API server reaches the kubelet.
    pub(crate) kubelet_port: u16,
    pub(crate) pod_cidr: String,
    pub(crate) capacity: Capacity,
    pub(crate) version: String,
}

impl NodeObject {
    /// Registers the node and keeps its Lease fresh until the task is dropped.
    pub(crate) async fn register(self, client: Client) -> Result<Task, Error> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = self.node().map_err(Error::SerdeError)?;
        write::upsert(&nodes, &node).await?;
        write::merge_patch_status(&nodes, &self.name, &json!({"status": self.status()})).await?;
        Ok(Task::spawn(async move {
            let mut ticks = tokio::time::interval(HEARTBEAT);
            loop {
                ticks.tick().await;
                if let Err(error) = self.heartbeat(&client).await {
                    tracing::debug!(%error, "heartbeat not written");
                }
            }
        }))
    }

    fn node(&self) -> Result<Node, serde_json::Error> {
        let labels = BTreeMap::from([
            ("kubernetes.io/hostname", &*self.name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("node-role.kubernetes.io/control-plane", ""),
        ]);
        serde_json::from_value(json!({
            "metadata": {"name": &*self.name, "labels": labels},
            "spec": {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr], "providerID": format!("meltemi://{}", self.name)},
        }))
    }

    fn status(&self) -> Value {
        let now = Timestamp::now();
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                   "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let resources = json!({
            "cpu": self.capacity.cpus.to_string(),
            "memory": format!("{}Ki", self.capacity.memory / 1024),
            "pods": "1000",
        });
        json!({
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"},
                          {"type": "Hostname", "address": &*self.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
            "capacity": resources,
            "allocatable": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "nodeInfo": {
                "architecture": architecture(),
                "bootID": read("/proc/sys/kernel/random/boot_id"),
                "containerRuntimeVersion": format!("meltemi://{}", self.version),
                "kernelVersion": read("/proc/sys/kernel/osrelease"),
                "kubeProxyVersion": "",
                "kubeletVersion": format!("v1.36.0+meltemi-{}", self.version),
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "Meltemi local platform",
                "systemUUID": "",
            },
        })
    }

    async fn heartbeat(&self, client: &Client) -> Result<(), Error> {
        let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.to_string());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.name.to_string());
        spec.lease_duration_seconds = Some(40);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        write::upsert(&api, &lease).await.map(|_| ())
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
