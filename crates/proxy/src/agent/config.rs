//! The agent's configuration, read from the variables that Istio's injection template sets.

mod environment;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use meltemi_names::ports;
use meltemi_proto::envoy::config::core::v3::{Extension, Locality, Node};
use meltemi_traffic::Str;
use serde_json::{Map, Value, json};

use crate::standalone::ProxyError;
use crate::state::NodeIdentity;
use environment::{Settings, Variables, downward_file};

/// Time between SIGTERM and the end (`terminationDrainDuration`).
const DRAIN: Duration = Duration::from_secs(5);
/// Time that running exchanges get after that.
const GRACE: Duration = Duration::from_secs(1);
/// Where Kubernetes puts things into the container.
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ROOT_CERT: &str = "/var/run/secrets/istio/root-cert.pem";
const POD_LABELS: &str = "/etc/istio/pod/labels";
const POD_ANNOTATIONS: &str = "/etc/istio/pod/annotations";
/// What this build has of Istio's filters: category and name, as the control plane asks for them.
const EXTENSIONS: [(&str, &str); 6] = [
    ("envoy.filters.http", "istio.alpn"),
    ("envoy.filters.http", "istio.stats"),
    ("envoy.filters.http", "istio.metadata_exchange"),
    ("envoy.filters.http", "envoy.filters.http.grpc_stats"),
    ("envoy.filters.network", "istio.stats"),
    ("envoy.filters.network", "istio.metadata_exchange"),
];

/// Where a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Beside an application.
    Sidecar,
    /// At the edge of the mesh.
    Router,
}

/// Ports that the agent listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Admin interface, loopback only.
    pub admin: u16,
    /// Merged metrics and the application's probes.
    pub agent: u16,
    /// Readiness.
    pub health: u16,
    /// The proxy's own metrics.
    pub metrics: u16,
}

/// What a mesh proxy is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where it stands.
    pub role: Role,
    /// Workers; 0 is one for each CPU.
    pub concurrency: usize,
    /// DNS domain (`default.svc.cluster.local`).
    pub domain: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Address of the pod.
    pub address: IpAddr,
    /// Its service account.
    pub service_account: String,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// `ISTIO_META_*` without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// `PROXY_CONFIG`.
    pub proxy_config: Value,
    /// `host:port` of the control plane's xDS.
    pub discovery_address: String,
    /// `host:port` of the CA.
    pub ca_address: String,
    /// Projected service account token.
    pub token: PathBuf,
    /// Roots that the control plane's certificate chains to.
    pub root_cert: PathBuf,
    /// SO_MARK of all our own connections.
    pub mark: Option<u32>,
    /// Ports.
    pub ports: Ports,
    /// The application's probes by the path the kubelet asks for (`ISTIO_KUBE_APP_PROBERS`).
    pub probes: Map<String, Value>,
    /// Where the application's own metrics are (`ISTIO_PROMETHEUS_ANNOTATIONS`).
    pub app_metrics: Option<Value>,
    /// Time after SIGTERM in which responses end their connections.
    pub drain: Duration,
    /// Time that running exchanges get after that.
    pub grace: Duration,
    /// The environment, for what the configuration may name of it (`%ENVIRONMENT%`, custom tags).
    pub environment: Vec<(Str, Str)>,
}

impl AgentConfig {
    /// Reads the configuration from a process environment.
    ///
    /// # Errors
    /// The variable that is missing or wrong.
    pub fn from_environment(
        role: Role,
        domain: &str,
        concurrency: usize,
        vars: &HashMap<String, String>,
    ) -> Result<Self, ProxyError> {
        let vars = Variables(vars);
        let settings = Settings::read(&vars)?;
        let namespace = vars.required("POD_NAMESPACE")?;
        let discovery = settings
            .text("discoveryAddress")
            .unwrap_or(DISCOVERY)
            .to_owned();
        let drain = settings.text("terminationDrainDuration");
        let drain = drain.and_then(|text| meltemi_names::parse_duration(text).ok());
        let configured = settings.number("concurrency").unwrap_or(DEFAULT_WORKERS);
        Ok(Self {
            role,
            concurrency: if concurrency == 0 {
                configured
            } else {
                concurrency
            },
            domain: if domain.is_empty() {
                format!("{namespace}.svc.cluster.local")
            } else {
                domain.to_owned()
            },
            pod_name: vars.required("POD_NAME")?,
            address: vars.address("INSTANCE_IP")?,
            service_account: vars.or("SERVICE_ACCOUNT", "default"),
            labels: downward_file(POD_LABELS),
            annotations: downward_file(POD_ANNOTATIONS),
            metadata: vars.metadata(),
            ca_address: vars.or("CA_ADDR", &discovery),
            discovery_address: discovery,
            token: TOKEN.into(),
            root_cert: ROOT_CERT.into(),
            mark: vars.number("MELTEMI_SO_MARK")?,
            ports: Ports {
                admin: settings.port("proxyAdminPort", ports::ADMIN),
                agent: settings.port("statusPort", ports::AGENT),
                health: ports::STATUS,
                metrics: ports::PROMETHEUS,
            },
            probes: vars.object("ISTIO_KUBE_APP_PROBERS")?,
            app_metrics: vars.json("ISTIO_PROMETHEUS_ANNOTATIONS")?,
            drain: drain.unwrap_or(DRAIN),
            grace: GRACE,
            environment: vars.all(),
            proxy_config: settings.0,
            namespace,
        })
    }

    /// Name of the workload.
    fn workload(&self) -> String {
        self.metadata
            .get("WORKLOAD_NAME")
            .filter(|name| !name.is_empty())
            .cloned()
            .unwrap_or_else(|| self.pod_name.clone())
    }

    /// Who this proxy is, for metrics and metadata exchange.
    pub(crate) fn identity(&self) -> NodeIdentity {
        let metadata = |key: &str| {
            self.metadata
                .get(key)
                .map(|value| Str::from(value.as_str()))
                .unwrap_or_default()
        };
        NodeIdentity {
            id: self.node_id().into(),
            cluster: "istio-proxy".into(),
            zone: Str::default(),
            message: bytes::Bytes::default(),
            name: self.pod_name.as_str().into(),
            namespace: self.namespace.as_str().into(),
            workload: self.workload().into(),
            cluster_id: metadata("CLUSTER_ID"),
            owner: metadata("OWNER"),
            labels: self
                .labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
        }
    }

    fn node_id(&self) -> String {
        let role = match self.role {
            Role::Sidecar => "sidecar",
            Role::Router => "router",
        };
        format!(
            "{role}~{}~{}.{}~{}",
            self.address, self.pod_name, self.namespace, self.domain
        )
    }

    /// The node as the control plane gets it.
    pub(crate) fn node(&self) -> Node {
        let mut metadata: Map<String, Value> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), Value::String(value.clone())))
            .collect();
        let fixed = [
            ("NAME", json!(self.pod_name)),
            ("NAMESPACE", json!(self.namespace)),
            ("SERVICE_ACCOUNT", json!(self.service_account)),
            ("INSTANCE_IPS", json!(self.address.to_string())),
            ("WORKLOAD_NAME", json!(self.workload())),
            ("LABELS", json!(self.labels)),
            ("ANNOTATIONS", json!(self.annotations)),
            ("PROXY_CONFIG", self.proxy_config.clone()),
            ("PILOT_SAN", json!([host_of(&self.discovery_address)])),
        ];
        metadata.extend(
            fixed
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value)),
        );
        let label = |key: &str| self.labels.get(key).cloned().unwrap_or_default();
        let locality = Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            sub_zone: label("topology.istio.io/subzone"),
        };
        let extension = |(category, name): (&str, &str)| Extension {
            name: name.to_owned(),
            category: category.to_owned(),
            ..Extension::default()
        };
        Node {
            id: self.node_id(),
            cluster: "istio-proxy".to_owned(),
            metadata: Some(to_struct(metadata)),
            locality: Some(locality),
            user_agent_name: "meltemi".to_owned(),
            extensions: EXTENSIONS.into_iter().map(extension).collect(),
            ..Node::default()
        }
    }

    /// What `/config_dump` shows as bootstrap.
    pub(crate) fn bootstrap_json(&self) -> Value {
        json!({
            "node": {
                "id": self.node_id(),
                "cluster": "istio-proxy",
                "metadata": {"NAMESPACE": self.namespace, "NAME": self.pod_name, "LABELS": self.labels},
            },
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.ports.admin}}},
            "dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3"}},
        })
    }
}

/// Where the control plane is unless something else is configured.
const DISCOVERY: &str = "istiod.istio-system.svc:15012";
/// Istio's default for sidecars without a CPU limit.
const DEFAULT_WORKERS: usize = 2;

/// The host part of `host:port`.
pub(crate) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn to_struct(fields: Map<String, Value>) -> meltemi_proto::google::protobuf::Struct {
    let fields = fields
        .into_iter()
        .map(|(key, value)| (key, to_value(value)))
        .collect();
    meltemi_proto::google::protobuf::Struct { fields }
}

fn to_value(value: Value) -> meltemi_proto::google::protobuf::Value {
    use meltemi_proto::google::protobuf::{ListValue, value::Kind};
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(to_value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    meltemi_proto::google::protobuf::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_injected_environment_makes_a_node_that_the_control_plane_knows() {
        let vars = vars(&[
            ("POD_NAME", "reviews-v1-abc"),
            ("POD_NAMESPACE", "default"),
            ("INSTANCE_IP", "10.244.0.7"),
            ("SERVICE_ACCOUNT", "bookinfo-reviews"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            ("MELTEMI_SO_MARK", "1337"),
            ("PROXY_CONFIG", "{\"concurrency\":1,\"statusPort\":15020}"),
        ]);
        let config =
            AgentConfig::from_environment(Role::Sidecar, "default.svc.cluster.local", 0, &vars)
                .unwrap();
        assert_eq!(config.mark, Some(1337));
        assert_eq!(config.concurrency, 1);
        let node = config.node();
        assert_eq!(
            node.id,
            "sidecar~10.244.0.7~reviews-v1-abc.default~default.svc.cluster.local"
        );
        let metadata = node.metadata.unwrap().fields;
        assert!(metadata.contains_key("CLUSTER_ID") && metadata.contains_key("LABELS"));
        assert!(
            node.extensions
                .iter()
                .any(|extension| extension.name == "istio.stats")
        );
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error =
            AgentConfig::from_environment(Role::Sidecar, "", 0, &vars(&[("POD_NAMESPACE", "a")]))
                .unwrap_err();
        assert_eq!(error.to_string(), "POD_NAME is not set");
    }
}
