//! The templates: what injection adds to a pod.

mod capture;
mod gateway;
mod proxy;
mod sidecar;
mod volumes;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::native::use_native_sidecar;
use crate::{InjectError, Request, Settings, Workload, merge, proxy_config};

/// Everything a template may depend on, looked up once.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) pod: &'a Value,
    pub(crate) namespace: &'a str,
    pub(crate) namespace_annotations: Option<&'a Map<String, Value>>,
    pub(crate) annotations: &'a Map<String, Value>,
    pub(crate) labels: &'a Map<String, Value>,
    pub(crate) workload: Workload,
    pub(crate) proxy_config: Map<String, Value>,
    pub(crate) revision: String,
    pub(crate) native: bool,
    pub(crate) hold_application: bool,
    pub(crate) status_port: u16,
}

static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

impl<'a> Context<'a> {
    pub(crate) fn new(request: &Request<'a>, settings: &'a Settings) -> Result<Self, InjectError> {
        let map = |path: &str| {
            request
                .pod
                .pointer(path)
                .and_then(Value::as_object)
                .unwrap_or(&NOTHING)
        };
        let annotations = map("/metadata/annotations");
        let proxy_config = proxy_config::effective(&settings.mesh.default_config, annotations)?;
        let proxy = &settings.values.global.proxy;
        let status_port = annotations
            .get("status.sidecar.istio.io/port")
            .and_then(Value::as_str);
        let hold = proxy_config
            .get("holdApplicationUntilProxyStarts")
            .and_then(Value::as_bool);
        let revision = if settings.revision.is_empty() {
            "default"
        } else {
            &settings.revision
        };
        Ok(Self {
            settings,
            pod: request.pod,
            namespace: request.namespace,
            namespace_annotations: request.namespace_annotations,
            annotations,
            labels: map("/metadata/labels"),
            workload: request
                .workload
                .clone()
                .unwrap_or_else(|| Workload::of_pod(request.pod)),
            revision: revision.to_owned(),
            native: use_native_sidecar(annotations, &settings.native_sidecars),
            hold_application: hold.unwrap_or(proxy.hold_application_until_proxy_starts),
            status_port: status_port
                .and_then(|p| p.parse().ok())
                .unwrap_or(proxy.status_port),
            proxy_config,
        })
    }

    /// An annotation of the pod.
    pub(crate) fn annotation(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(name).and_then(Value::as_str)
    }

    /// A label of the pod, unless it is empty.
    pub(crate) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels
            .get(name)
            .and_then(Value::as_str)
            .filter(|v| !v.is_empty())
    }

    /// The mesh's port of the agent, which does not depend on the pod.
    pub(crate) fn default_status_port(&self) -> u64 {
        self.settings
            .mesh
            .default_config
            .get("statusPort")
            .and_then(Value::as_u64)
            .unwrap_or(15020)
    }

    /// How connections are redirected.
    pub(crate) fn interception_mode(&self) -> &str {
        self.annotation("sidecar.istio.io/interceptionMode")
            .or_else(|| {
                self.proxy_config
                    .get("interceptionMode")
                    .and_then(Value::as_str)
            })
            .unwrap_or("REDIRECT")
    }

    /// Containers of the application.
    pub(crate) fn app_containers(&self) -> impl Iterator<Item = &'a Value> {
        let containers = self
            .pod
            .pointer("/spec/containers")
            .and_then(Value::as_array);
        containers
            .into_iter()
            .flatten()
            .filter(|c| c["name"] != "istio-proxy")
    }

    /// Variables that the proxy configuration adds, by name.
    pub(crate) fn proxy_metadata(&self) -> BTreeMap<&String, &str> {
        let metadata = self
            .proxy_config
            .get("proxyMetadata")
            .and_then(Value::as_object);
        metadata
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| v.as_str().map(|v| (k, v)))
            .collect()
    }
}

/// The names of the templates that a pod asks for.
fn selected<'a>(context: &'a Context<'_>) -> Vec<&'a str> {
    let defaults = &context.settings.injector.default_templates;
    let asked: Vec<&str> = match context.annotation("inject.istio.io/templates") {
        Some(names) => names
            .split(',')
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .collect(),
        None if defaults.is_empty() => vec!["sidecar"],
        None => defaults.iter().map(String::as_str).collect(),
    };
    asked
}

/// Everything that the pod's templates add, as one part of a pod.
pub(crate) fn render(context: &Context<'_>) -> Result<Value, InjectError> {
    let mut whole = Value::Object(Map::new());
    let mut done = Vec::new();
    for name in selected(context) {
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        whole = merge::pod(&whole, &one(name, context)?);
    }
    Ok(whole)
}

fn one(name: &str, context: &Context<'_>) -> Result<Value, InjectError> {
    let own = &context.settings.injector.templates;
    match (own.get(name), name) {
        (Some(Value::String(text)), _) => {
            serde_saphyr::from_str(text).map_err(|e| InjectError::BadTemplate {
                name: name.to_owned(),
                problem: e.to_string(),
            })
        }
        (Some(part), _) => Ok(part.clone()),
        (None, "sidecar") => Ok(sidecar::render(context)),
        (None, "gateway") => Ok(gateway::render(context)),
        (None, _) => {
            let known: Vec<&str> = ["sidecar", "gateway"]
                .into_iter()
                .chain(own.keys().map(String::as_str))
                .collect();
            Err(InjectError::UnknownTemplate {
                name: name.to_owned(),
                known: known.join(", "),
            })
        }
    }
}
