//! Sidecar and gateway injection as a pure function: a pod goes in, the mutated pod comes out.
//!
//! Nothing is read from a cluster here. The webhook and the command line hand in the pod, the injector's
//! settings and what they know of the namespace; the same input always gives the same pod. The names of
//! containers, volumes, labels, annotations, ports and probe paths are Istio's, because tools rely on them.

mod annotations;
mod decision;
mod image;
mod merge;
mod native;
mod overrides;
mod patch;
mod post;
mod probes;
mod proxy_config;
mod template;
mod values;
mod workload;

use serde_json::{Map, Value};

pub use self::annotations::validate as validate_annotations;
pub use self::decision::{Decision, IGNORED_NAMESPACES, LabelSelector, Policy, decide};
pub use self::image::proxy_image;
pub use self::native::{NativeSidecars, use_native_sidecar};
pub use self::patch::json_patch;
pub use self::values::{
    Cni, Global, InjectorConfig, Mesh, MultiCluster, Pilot, Proxy, ProxyInit, StartupProbe, Values,
    WebhookValues,
};
pub use self::workload::Workload;

/// Everything that is the same for all pods of one control plane.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What decides whether a pod is injected, and the user's own templates.
    pub injector: InjectorConfig,
    /// Install values.
    pub values: Values,
    /// The parts of the mesh configuration that shape pods.
    pub mesh: Mesh,
    /// Revision of the control plane; `default` when empty.
    pub revision: String,
    /// Whether proxies run as init containers that keep running.
    pub native_sidecars: NativeSidecars,
}

/// One pod and what is known about its surroundings.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The pod, or the pod template of a workload.
    pub pod: &'a Value,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Annotations of that namespace.
    pub namespace_annotations: Option<&'a Map<String, Value>>,
    /// The workload that owns the pod; found from the pod itself when `None`.
    pub workload: Option<Workload>,
}

/// What injection did.
#[derive(Clone, Debug, PartialEq)]
pub enum Injection {
    /// The pod stays as it is.
    Skipped(Decision),
    /// The pod after injection.
    Injected(Box<Value>),
}

/// Why a pod cannot be injected; the pod is to be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// An annotation has a value that is not allowed.
    #[error("annotation {name}: {problem}, found {value:?}")]
    Annotation {
        /// Name of the annotation.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// The pod names a template that does not exist.
    #[error("injection template {name:?} does not exist; known ones are {known}")]
    UnknownTemplate {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// A template of the user's own cannot be read.
    #[error("injection template {name:?} is not YAML: {problem}")]
    BadTemplate {
        /// Its name.
        name: String,
        /// What the parser says.
        problem: String,
    },
    /// The pod is not an object.
    #[error("the pod is not an object")]
    NotAPod,
}

/// Injects a pod if it is to be injected.
pub fn inject(request: &Request<'_>, settings: &Settings) -> Result<Injection, InjectError> {
    let decision = decide(request.pod, request.namespace, &settings.injector);
    if !decision.injects() {
        return Ok(Injection::Skipped(decision));
    }
    force(request, settings).map(|pod| Injection::Injected(Box::new(pod)))
}

/// Injects a pod without asking whether it is to be injected.
pub fn force(request: &Request<'_>, settings: &Settings) -> Result<Value, InjectError> {
    if !request.pod.is_object() {
        return Err(InjectError::NotAPod);
    }
    let context = template::Context::new(request, settings)?;
    annotations::validate(context.annotations)?;
    let overlay = template::render(&context)?;
    let (stripped, overridden) = overrides::take_out(request.pod, &overlay);
    let merged = merge::pod(&stripped, &overlay);
    let applied = overrides::apply(merged, &overridden, &overlay);
    Ok(post::finish(applied, &overlay, &context))
}
