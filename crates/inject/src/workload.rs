//! The workload that owns a pod: its name labels metrics and identifies the proxy.

use serde_json::Value;

/// A workload by type and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// API group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl Workload {
    /// The owner as proxies report it.
    pub fn owner_uri(&self, namespace: &str) -> String {
        let plural = format!("{}s", self.kind.to_lowercase());
        format!(
            "kubernetes://apis/{}/namespaces/{namespace}/{plural}/{}",
            self.api_version, self.name
        )
    }

    /// Finds the workload from the pod: the controller that owns it, seen through the generated objects between.
    pub fn of_pod(pod: &Value) -> Self {
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let mut workload = Self {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: text("/metadata/name").to_owned(),
        };
        let owners = pod
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array);
        let controller = owners
            .into_iter()
            .flatten()
            .find(|o| o["controller"] == Value::Bool(true));
        if text("/metadata/generateName").is_empty() && controller.is_none() {
            return workload;
        }
        if let Some(owner) = controller {
            let part = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
            workload = Self {
                api_version: part("apiVersion"),
                kind: part("kind"),
                name: part("name"),
            };
            workload.see_through(pod);
        }
        if workload.name.is_empty() {
            let generated = text("/metadata/generateName");
            workload.name = generated.strip_suffix('-').unwrap_or(generated).to_owned();
        }
        workload
    }

    /// Replaces a generated owner by the object that generated it.
    fn see_through(&mut self, pod: &Value) {
        let label = |key: &str| pod["metadata"]["labels"][key].as_str();
        match self.kind.as_str() {
            "ReplicaSet" => {
                let hash = label("pod-template-hash").map(|h| format!("-{h}"));
                if let Some(name) = hash.and_then(|h| self.name.strip_suffix(&h).map(str::to_owned))
                {
                    (self.kind, self.name) = ("Deployment".to_owned(), name);
                }
            }
            "ReplicationController" => {
                if let Some(name) = label("deploymentconfig") {
                    (self.kind, self.name) = ("DeploymentConfig".to_owned(), name.to_owned());
                    "apps.openshift.io/v1".clone_into(&mut self.api_version);
                }
            }
            "Job" => {
                // Jobs of a CronJob end in the scheduled time.
                if let Some((name, time)) = self.name.rsplit_once('-')
                    && (8..=10).contains(&time.len())
                    && time.bytes().all(|b| b.is_ascii_digit())
                {
                    (self.kind, self.name) = ("CronJob".to_owned(), name.to_owned());
                    "batch/v1".clone_into(&mut self.api_version);
                }
            }
            _ => {}
        }
    }
}
