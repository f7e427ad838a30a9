//! What an installation can be told.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What an installation can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Values {
    /// Values that injected pods depend on too: images, namespaces, the proxy.
    #[serde(flatten)]
    pub injection: meltemi_inject::Values,
    /// Revision of the control plane; `default` when empty.
    pub revision: String,
    /// Mesh configuration over the defaults.
    pub mesh_config: Value,
    /// What decides about injection, apart from labels.
    pub injector: meltemi_inject::InjectorConfig,
    /// The gateway at the edge.
    pub ingress_gateway: IngressGateway,
    /// Resources of the control plane's container.
    pub control_plane_resources: Value,
    /// Refuses objects with mistakes when they are applied.
    pub validation: bool,
}

/// The gateway at the edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressGateway {
    /// Whether there is one.
    pub enabled: bool,
    /// Its name.
    pub name: String,
    /// Type of its Service.
    pub service_type: String,
    /// Resources of its container.
    pub resources: Value,
}

impl Default for IngressGateway {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "istio-ingressgateway".to_owned(),
            service_type: "LoadBalancer".to_owned(),
            resources: json!({
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            }),
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        let mut injection = meltemi_inject::Values::default();
        // A proxy is ready within milliseconds of its configuration: ask often, tolerate as long as usual.
        injection.global.proxy.readiness_period_seconds = 1;
        injection.global.proxy.readiness_failure_threshold = 30;
        Self {
            injection,
            revision: String::new(),
            mesh_config: json!({}),
            injector: meltemi_inject::InjectorConfig::default(),
            ingress_gateway: IngressGateway::default(),
            control_plane_resources: json!({"requests": {"cpu": "100m", "memory": "128Mi"}}),
            validation: true,
        }
    }
}

impl Values {
    /// For trying things out: every request is logged, and pods ask for few resources.
    pub fn demo() -> Self {
        let mut values = Self {
            mesh_config: json!({"accessLogFile": "/dev/stdout"}),
            ..Self::default()
        };
        values.injection.global.proxy.resources = json!({
            "requests": {"cpu": "10m", "memory": "40Mi"},
            "limits": {"cpu": "2", "memory": "1Gi"},
        });
        values.ingress_gateway.resources = values.injection.global.proxy.resources.clone();
        values.control_plane_resources = json!({"requests": {"cpu": "10m", "memory": "40Mi"}});
        values
    }

    /// Namespace of the control plane.
    pub fn namespace(&self) -> &str {
        &self.injection.global.istio_namespace
    }

    /// Revision of the control plane.
    pub fn revision(&self) -> &str {
        if self.revision.is_empty() {
            "default"
        } else {
            &self.revision
        }
    }

    /// Reference of the image that everything runs from.
    pub(crate) fn image(&self) -> String {
        let global = &self.injection.global;
        let tag = global
            .tag
            .as_str()
            .map_or_else(|| global.tag.to_string(), str::to_owned);
        meltemi_inject::proxy_image(&global.hub, &tag, &global.variant, &global.proxy.image)
    }

    /// The whole mesh configuration: the defaults, and over them what was asked for.
    pub(crate) fn mesh(&self) -> Value {
        let namespace = self.namespace();
        let discovery = format!(
            "{}.{namespace}.svc:15012",
            crate::names::revisioned(self, "istiod")
        );
        let mut mesh = json!({
            "defaultConfig": {"discoveryAddress": discovery},
            "defaultProviders": {"metrics": ["prometheus"]},
            "enablePrometheusMerge": true,
            "rootNamespace": namespace,
            "trustDomain": "cluster.local",
        });
        overlay(&mut mesh, &self.mesh_config);
        mesh
    }
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
