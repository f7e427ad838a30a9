//! The settings that shape injected pods: Helm values, the injector's own configuration, mesh configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::decision::{LabelSelector, Policy};

/// Install values, as far as injection reads them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Values {
    /// Settings of everything.
    pub global: Global,
    /// Settings of the control plane.
    pub pilot: Pilot,
    /// Settings of the webhook.
    pub sidecar_injector_webhook: WebhookValues,
}

/// Settings of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Global {
    /// Registry and repository of images.
    pub hub: String,
    /// Tag of images.
    pub tag: Value,
    /// Variant of images.
    pub variant: String,
    /// When images are fetched; the platform's choice when empty.
    pub image_pull_policy: String,
    /// Secrets with registry credentials.
    pub image_pull_secrets: Vec<String>,
    /// Namespace of the control plane.
    pub istio_namespace: String,
    /// Network of the cluster.
    pub network: String,
    /// Id of the mesh; the trust domain when empty.
    #[serde(rename = "meshID")]
    pub mesh_id: String,
    /// Address of the certificate authority; the control plane when empty.
    pub ca_address: String,
    /// Who issues certificates.
    pub pilot_cert_provider: String,
    /// The sidecar.
    pub proxy: Proxy,
    /// The init container.
    #[serde(rename = "proxy_init")]
    pub proxy_init: ProxyInit,
    /// Cluster identity.
    pub multi_cluster: MultiCluster,
    /// Log settings.
    pub logging: Logging,
    /// Logs in JSON.
    pub log_as_json: bool,
    /// `openshift` or empty.
    pub platform: String,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            hub: "meltemi".to_owned(),
            tag: Value::String(env!("CARGO_PKG_VERSION").to_owned()),
            variant: String::new(),
            image_pull_policy: String::new(),
            image_pull_secrets: Vec::new(),
            istio_namespace: "istio-system".to_owned(),
            network: String::new(),
            mesh_id: String::new(),
            ca_address: String::new(),
            pilot_cert_provider: "istiod".to_owned(),
            proxy: Proxy::default(),
            proxy_init: ProxyInit::default(),
            multi_cluster: MultiCluster::default(),
            logging: Logging::default(),
            log_as_json: false,
            platform: String::new(),
        }
    }
}

/// The sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Name of the image, or a whole reference when it contains a slash.
    pub image: String,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Log level of the data plane.
    pub log_level: String,
    /// Log levels of single components.
    pub component_log_level: String,
    /// Port of the agent's health and metrics; 0 turns readiness off.
    pub status_port: u16,
    /// Seconds before the first readiness probe.
    pub readiness_initial_delay_seconds: u32,
    /// Seconds between readiness probes.
    pub readiness_period_seconds: u32,
    /// Failed probes before the pod is not ready.
    pub readiness_failure_threshold: u32,
    /// The probe that holds back the others until the proxy has its configuration.
    pub startup_probe: StartupProbe,
    /// Networks whose outgoing traffic is captured.
    #[serde(rename = "includeIPRanges")]
    pub include_ip_ranges: String,
    /// Networks whose outgoing traffic is not captured.
    #[serde(rename = "excludeIPRanges")]
    pub exclude_ip_ranges: String,
    /// Ports whose incoming traffic is captured.
    pub include_inbound_ports: String,
    /// Ports whose incoming traffic is not captured.
    pub exclude_inbound_ports: String,
    /// Ports whose outgoing traffic is captured wherever it goes.
    pub include_outbound_ports: String,
    /// Ports whose outgoing traffic is not captured.
    pub exclude_outbound_ports: String,
    /// Resources of the container.
    pub resources: Value,
    /// Lifecycle hooks in place of the usual ones.
    pub lifecycle: Value,
    /// Runs the container with all privileges.
    pub privileged: bool,
    /// Writable root file system, for core dumps.
    pub enable_core_dump: bool,
    /// Lets the application start only when the proxy is ready.
    pub hold_application_until_proxy_starts: bool,
    /// Marks the proxy's own sockets so that they are exempt from capture, where the platform cannot give the
    /// proxy a user of its own.
    pub mark_traffic: bool,
    /// Data plane: empty for the built-in one, `envoy` for a stock Envoy.
    pub engine: String,
    /// Path of the stock Envoy.
    pub engine_path: String,
    /// Path of that program on the node, mounted into the proxy's container; wins over `enginePath`.
    pub engine_host_path: String,
    /// Program that lifecycle hooks call to reach the agent.
    pub agent_command: String,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            image: "meltemi".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            log_level: "warning".to_owned(),
            component_log_level: "misc:error".to_owned(),
            status_port: 15020,
            readiness_initial_delay_seconds: 0,
            readiness_period_seconds: 15,
            readiness_failure_threshold: 4,
            startup_probe: StartupProbe::default(),
            include_ip_ranges: "*".to_owned(),
            exclude_ip_ranges: String::new(),
            include_inbound_ports: "*".to_owned(),
            exclude_inbound_ports: String::new(),
            include_outbound_ports: String::new(),
            exclude_outbound_ports: String::new(),
            resources: json!({
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            }),
            lifecycle: Value::Null,
            privileged: false,
            enable_core_dump: false,
            hold_application_until_proxy_starts: false,
            mark_traffic: false,
            engine: String::new(),
            engine_path: String::new(),
            engine_host_path: String::new(),
            agent_command: "meltemi".to_owned(),
        }
    }
}

/// The probe that holds back the others until the proxy has its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupProbe {
    /// Whether there is one.
    pub enabled: bool,
    /// Failed probes, one every second, before the container is started again.
    pub failure_threshold: u32,
}

impl Default for StartupProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_threshold: 600,
        }
    }
}

/// The init container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyInit {
    /// Name of the image, or a whole reference when it contains a slash.
    pub image: String,
    /// First argument: the program that sets capture up.
    pub command: String,
}

impl Default for ProxyInit {
    fn default() -> Self {
        Self {
            image: "meltemi".to_owned(),
            command: "capture".to_owned(),
        }
    }
}

/// Cluster identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiCluster {
    /// Name of the cluster; `Kubernetes` when empty.
    pub cluster_name: String,
}

/// Log settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// Levels by scope.
    pub level: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "default:info".to_owned(),
        }
    }
}

/// Settings of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pilot {
    /// The network plug-in that sets capture up in place of an init container.
    pub cni: Cni,
}

/// The network plug-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cni {
    /// Whether it is used.
    pub enabled: bool,
    /// `default` or `multus`.
    pub provider: String,
}

/// Settings of the webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookValues {
    /// Sends the application's probes through the agent.
    #[serde(rename = "rewriteAppHTTPProbe")]
    pub rewrite_app_http_probe: bool,
    /// Annotations that every injected pod gets.
    pub injected_annotations: BTreeMap<String, String>,
}

impl Default for WebhookValues {
    fn default() -> Self {
        Self {
            rewrite_app_http_probe: true,
            injected_annotations: BTreeMap::new(),
        }
    }
}

/// What decides whether a pod is injected, and the user's own templates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InjectorConfig {
    /// What happens to pods that say nothing.
    pub policy: Policy,
    /// Templates for pods that name none; `sidecar` when empty.
    pub default_templates: Vec<String>,
    /// Pods that are always injected.
    pub always_inject_selector: Vec<LabelSelector>,
    /// Pods that are never injected.
    pub never_inject_selector: Vec<LabelSelector>,
    /// The user's own templates: parts of a pod, merged over what is there. Text is read as YAML.
    pub templates: BTreeMap<String, Value>,
}

/// The parts of the mesh configuration that shape pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mesh {
    /// Proxy configuration that all pods share.
    pub default_config: Map<String, Value>,
    /// Trust domain; `cluster.local` when empty.
    pub trust_domain: String,
    /// Whether the agent serves the application's metrics together with its own; yes when unset.
    pub enable_prometheus_merge: Option<bool>,
    /// How incoming traffic reaches the application.
    pub inbound_traffic_policy: InboundTrafficPolicy,
}

/// How incoming traffic reaches the application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InboundTrafficPolicy {
    /// `PASSTHROUGH` or `LOCALHOST`.
    pub mode: String,
}

impl Mesh {
    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        if self.trust_domain.is_empty() {
            "cluster.local"
        } else {
            &self.trust_domain
        }
    }
}
