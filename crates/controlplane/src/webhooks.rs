//! Admission: injection of pods and validation of mesh configuration.

use std::{sync::Arc, time::Duration};

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use meltemi_inject::{Injection, inject, json_patch};
use meltemi_kube::{Api, Client, ResourceExt, Selectors, Task, reflect, write};
use meltemi_model::{Inputs, Kind, MeshConfig};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use crate::{
    Config, Error,
    authority::Authority,
    connections::{Accepted, TlsConnection, serve_http},
    listeners::Parts,
    metrics::Injections,
};

/// Largest admission review, bytes (Kubernetes limits objects to 1.5 MiB, a review holds two).
const MAX_REVIEW: usize = 4 << 20;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// A request must be complete within this time.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Writes our trust bundle into the webhook configurations that point at this control plane.
pub(crate) async fn announce(
    client: &Client,
    config: &Config,
    roots_pem: String,
) -> Result<(), Error> {
    let bundle = k8s_openapi::ByteString(roots_pem.into_bytes());
    let is_ours = |webhook: &WebhookClientConfig| {
        webhook.service.as_ref().is_some_and(|service| {
            service.namespace == config.namespace && service.name.starts_with("istiod")
        })
    };
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let list = mutating
        .list(&Default::default())
        .await
        .map_err(Error::kubernetes("list MutatingWebhookConfigurations"))?;
    for object in list {
        write::update(&mutating, &object.name_any(), |object| {
            let hooks = object
                .webhooks
                .iter_mut()
                .flatten()
                .map(|hook| &mut hook.client_config);
            set_bundle(hooks.filter(|hook| is_ours(hook)), &bundle)
        })
        .await
        .map_err(Error::kubernetes(format!(
            "write caBundle of MutatingWebhookConfiguration {}",
            object.name_any()
        )))?;
    }
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let list = validating
        .list(&Default::default())
        .await
        .map_err(Error::kubernetes("list ValidatingWebhookConfigurations"))?;
    for object in list {
        write::update(&validating, &object.name_any(), |object| {
            let mut changed = false;
            for hook in object
                .webhooks
                .iter_mut()
                .flatten()
                .filter(|hook| is_ours(&hook.client_config))
            {
                changed |= set_bundle(std::iter::once(&mut hook.client_config), &bundle);
                // Installed as Ignore, so that nothing is refused before somebody answers; from now on we do.
                changed |= hook.failure_policy.as_deref() != Some("Fail");
                hook.failure_policy = Some("Fail".to_owned());
            }
            changed
        })
        .await
        .map_err(Error::kubernetes(format!(
            "write caBundle of ValidatingWebhookConfiguration {}",
            object.name_any()
        )))?;
    }
    Ok(())
}

/// Announces again whenever a webhook configuration changes (an installation over an existing one).
pub(crate) fn keep_announced(client: Client, config: Config, authority: Arc<Authority>) -> Task {
    Task::spawn(async move {
        let changed = Arc::new(Notify::new());
        let (first, second) = (Arc::clone(&changed), Arc::clone(&changed));
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        let _watches = (
            reflect(mutating, Selectors::default(), move |_| first.notify_one()),
            reflect(validating, Selectors::default(), move |_| {
                second.notify_one()
            }),
        );
        loop {
            changed.notified().await;
            if let Err(error) = announce(&client, &config, authority.root_pem()).await {
                tracing::warn!(%error, "webhook configurations not written, trying again");
                tokio::time::sleep(RETRY).await;
                changed.notify_one();
            }
        }
    })
}

fn set_bundle<'a>(
    hooks: impl Iterator<Item = &'a mut WebhookClientConfig>,
    bundle: &k8s_openapi::ByteString,
) -> bool {
    let mut changed = false;
    for hook in hooks {
        changed |= hook.ca_bundle.as_ref() != Some(bundle);
        hook.ca_bundle = Some(bundle.clone());
    }
    changed
}

/// Serves `/inject` and `/validate` until `shutdown`.
pub(crate) async fn serve(
    connections: Accepted<TlsConnection>,
    parts: Arc<Parts>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let handle = move |request| {
        let parts = Arc::clone(&parts);
        async move { answer(request, &parts).await }
    };
    serve_http(connections, handle, shutdown).await;
}

async fn answer(request: Request<Incoming>, parts: &Parts) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
    }
    let read = Limited::new(request.into_body(), MAX_REVIEW).collect();
    let body = match tokio::time::timeout(REQUEST_DEADLINE, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the review is cut short or larger than 4 MiB",
            );
        }
        Err(_) => {
            return plain(
                StatusCode::REQUEST_TIMEOUT,
                "the review did not arrive within 10 s",
            );
        }
    };
    let Ok(review) = serde_json::from_slice::<Value>(&body) else {
        return plain(StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let request = &review["request"];
    let outcome = match path.split('/').nth(1) {
        Some("inject") => inject_pod(request, parts),
        Some("validate") => {
            let outcome = validate(request);
            count_validation(request, &outcome, parts);
            outcome
        }
        _ => return plain(StatusCode::NOT_FOUND, "there are /inject and /validate"),
    };
    let mut response = match outcome {
        Ok(None) => json!({"allowed": true}),
        Ok(Some(patch)) => {
            let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
            json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
        }
        Err(message) => {
            json!({"allowed": false, "status": {"status": "Failure", "code": 400, "reason": "BadRequest", "message": message}})
        }
    };
    response["uid"] = request["uid"].clone();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let mut response = plain(StatusCode::OK, review.to_string());
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// The patch that injects a pod, nothing when it is left alone, or why it is refused.
fn inject_pod(request: &Value, parts: &Parts) -> Result<Option<Value>, String> {
    let pod = &request["object"];
    let namespace = request["namespace"].as_str().unwrap_or("default");
    let settings = parts.world.injector();
    let about = meltemi_inject::Request {
        pod,
        namespace,
        namespace_annotations: None,
        workload: None,
    };
    let counts: &Injections = &parts.metrics.injection;
    counts.requests.inc();
    let started = Instant::now();
    let outcome = inject(&about, &settings);
    counts.time.observe(started.elapsed().as_secs_f64());
    match outcome {
        Ok(Injection::Skipped(decision)) => {
            counts.skip.inc();
            tracing::debug!(namespace, ?decision, "pod not injected");
            Ok(None)
        }
        Ok(Injection::Injected(injected)) => {
            counts.success.inc();
            Ok(Some(Value::Array(json_patch(pod, &injected))))
        }
        Err(error) => {
            counts.failure.inc();
            Err(format!(
                "injection of pod in namespace {namespace}: {error}"
            ))
        }
    }
}

fn count_validation(request: &Value, outcome: &Result<Option<Value>, String>, parts: &Parts) {
    let text = |field: &str| request["resource"][field].as_str().unwrap_or_default();
    let (group, version, resource) = (text("group"), text("version"), text("resource"));
    let metrics = &parts.metrics;
    match outcome {
        Ok(_) => metrics
            .validation_passed
            .with([group, version, resource])
            .inc(),
        // One reason for all: sentences are no label values.
        Err(_) => metrics
            .validation_failed
            .with([group, version, resource, "invalid_resource"])
            .inc(),
    }
}

/// Refuses configuration that the mesh could not use, with the object, the field and what is wrong.
fn validate(request: &Value) -> Result<Option<Value>, String> {
    let object = &request["object"];
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let refused = |reason: String| {
        let (kind, namespace, name) = (
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        );
        Err(format!("{kind} {namespace}/{name}: {reason}"))
    };
    if let Some(Err(invalid)) = meltemi_api::validate_value(object) {
        return refused(invalid.to_string());
    }
    // What passes the checks but cannot be read by the model would be ignored later: refuse it now.
    let Some(kind) = Kind::of(text("/apiVersion"), text("/kind")) else {
        return Ok(None);
    };
    match Inputs::new(MeshConfig::default()).apply(kind, object) {
        Ok(()) => Ok(None),
        Err(error) => refused(error.source.to_string()),
    }
}
