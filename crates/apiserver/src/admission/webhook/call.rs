//! One HTTPS exchange with a webhook.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::config::{Client, Hook};
use crate::dial::WebhookTarget;
use crate::state::Api;
use crate::store::Key;

/// Posts the review; the error is the reason as text, for the message that names the webhook.
pub(super) async fn exchange(api: &Api, hook: &Hook, review: &Value) -> Result<Value, String> {
    let (host, port, server_name, path) = match &hook.client {
        Client::Service {
            namespace,
            name,
            port,
            path,
        } => {
            let address = cluster_ip(api, namespace, name)?;
            (address, *port, format!("{name}.{namespace}.svc"), path)
        }
        Client::Url { host, port, path } => (host.clone(), *port, host.clone(), path),
    };
    let target = WebhookTarget {
        host: &host,
        port,
        server_name: &server_name,
        ca_bundle: &hook.ca_bundle,
        through_node: matches!(hook.client, Client::Service { .. }),
    };
    let stream = api.dialer.webhook(&target).await.map_err(|e| chain(&e))?;
    let separator = if path.contains('?') { '&' } else { '?' };
    let request = Request::post(format!(
        "{path}{separator}timeout={}s",
        hook.timeout.as_secs()
    ))
    .header(http::header::HOST, format!("{server_name}:{port}"))
    .header(http::header::CONTENT_TYPE, "application/json")
    .header(http::header::ACCEPT, "application/json")
    .body(Full::new(Bytes::from(review.to_string())))
    .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // The connection is driven beside the exchange and ends with it.
    let driver = tokio::spawn(connection);
    let result = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        let body = crate::http::read_body(response.into_body())
            .await
            .map_err(|e| e.to_string())?;
        if status != StatusCode::OK {
            return Err(format!(
                "an error on the server ({status}): {}",
                String::from_utf8_lossy(&body)
            ));
        }
        serde_json::from_slice(&body).map_err(|e| format!("the answer is no AdmissionReview: {e}"))
    }
    .await;
    driver.abort();
    result
}

fn cluster_ip(api: &Api, namespace: &str, name: &str) -> Result<String, String> {
    let key = Key::new(&api.resource_key("services"), namespace, name);
    let service = api
        .store
        .get(&key)
        .ok_or_else(|| format!("service {name:?} not found"))?
        .value();
    match service["spec"]["clusterIP"].as_str() {
        Some(address) if !address.is_empty() && address != "None" => Ok(address.to_owned()),
        _ => Err(format!("service {name:?} has no cluster IP")),
    }
}

/// The JSON patch of an answer.
pub(super) fn decode_patch(answer: &Value) -> Result<Option<Value>, String> {
    let Some(patch) = answer["patch"].as_str().filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    if answer["patchType"] != "JSONPatch" {
        return Err(format!("unsupported patch type {}", answer["patchType"]));
    }
    let bytes = STANDARD
        .decode(patch)
        .map_err(|e| format!("its patch is not base64: {e}"))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| format!("its patch is not JSON: {e}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Messages above that already end with their cause are not repeated.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
