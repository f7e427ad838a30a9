//! Passing `log`, `exec`, `attach`, `portforward` and `proxy` on to the pod's kubelet.
//!
//! Bodies stream through; upgraded connections (WebSocket, SPDY) are copied as opaque bytes until
//! either side ends. The caller's credentials stay here: the kubelet sees the API server's own.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderName, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::watch;

use crate::http::Body;
use crate::request::Query;
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};
use crate::store::Key;

/// A kubelet answers within this time; what it streams then has no limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers that must not travel on to the kubelet.
const PRIVATE: &[HeaderName] = &[AUTHORIZATION, HOST, http::header::COOKIE];

/// Forwards a request on a pod's or node's connecting subresource.
pub(crate) async fn forward(
    call: &Arc<Call>,
    request: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let served = call
        .resource
        .subresource(&call.path.subresource)
        .ok_or_else(ApiError::no_such_path)?;
    let verb = call.path.verb(request.method(), false);
    if !served.verbs.contains(&verb) {
        return Err(ApiError::method_not_supported());
    }
    let object = call.current()?.value();
    let target = match call.resource.storage_key().as_str() {
        "pods" if call.path.subresource != "proxy" => pod_target(call, &object)?,
        "nodes" => Target {
            node: call.path.name.clone(),
            path: format!("/{}{}", call.path.tail, query_text(request.uri())),
        },
        _ => return Err(ApiError::method_not_supported()),
    };
    let (host, port) = kubelet_address(call, &target.node)?;
    send(call, request, &host, port, &target.path).await
}

struct Target {
    node: String,
    path: String,
}

fn query_text(uri: &Uri) -> String {
    uri.query().map(|q| format!("?{q}")).unwrap_or_default()
}

fn pod_target(call: &Call, pod: &Value) -> ApiResult<Target> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let (namespace, name) = (&call.path.namespace, &call.path.name);
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let query = &call.query;
    let path = match call.path.subresource.as_str() {
        "portforward" => format!("/portForward/{namespace}/{name}{}", ports(query)),
        sub => {
            let container = container(call, pod)?;
            let (base, pass): (&str, &[&str]) = match sub {
                "log" => ("containerLogs", LOG_PARAMETERS),
                "exec" => ("exec", EXEC_PARAMETERS),
                "attach" => ("attach", EXEC_PARAMETERS),
                _ => return Err(ApiError::no_such_path()),
            };
            format!(
                "/{base}/{namespace}/{name}/{container}{}",
                parameters(query, pass)
            )
        }
    };
    Ok(Target {
        node: node.to_owned(),
        path,
    })
}

const LOG_PARAMETERS: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];
const EXEC_PARAMETERS: &[&str] = &["stdin", "stdout", "stderr", "tty", "command"];

/// The kubelet's names of exec's streams.
fn kubelet_name(name: &str) -> &str {
    match name {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
        other => other,
    }
}

fn parameters(query: &Query, names: &[&str]) -> String {
    let mut out = String::new();
    for name in names {
        for value in query.all(name) {
            // Streams are named and counted (`input=1`) by the kubelet, named and true here.
            let stream = matches!(*name, "stdin" | "stdout" | "stderr" | "tty");
            let value = match value {
                "true" | "1" if stream => "1",
                _ if stream => continue,
                other => other,
            };
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(kubelet_name(name));
            out.push('=');
            out.push_str(&encode(value));
        }
    }
    out
}

fn ports(query: &Query) -> String {
    let all: Vec<String> = query
        .all("ports")
        .map(|p| format!("port={}", encode(p)))
        .collect();
    if all.is_empty() {
        String::new()
    } else {
        format!("?{}", all.join("&"))
    }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The asked container, or the only one.
fn container<'a>(call: &'a Call, pod: &'a Value) -> ApiResult<&'a str> {
    let names = |kind: &str| -> Vec<&'a str> {
        pod["spec"][kind]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let pod_name = &call.path.name;
    if let Some(asked) = call.query.get("container") {
        let known = containers.iter().chain(&init).find(|n| **n == asked);
        return known.copied().ok_or_else(|| {
            ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}"))
        });
    }
    match containers.as_slice() {
        [only] => Ok(only),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]{}",
            containers.join(" "),
            if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            }
        ))),
    }
}

fn kubelet_address(call: &Call, node: &str) -> ApiResult<(String, u16)> {
    let key = Key::new(&call.api.resource_key("nodes"), "", node);
    let unavailable = |what: &str| ApiError::unavailable(format!("node {node:?} {what}"));
    let node_object = call
        .api
        .store
        .get(&key)
        .ok_or_else(|| unavailable("not found"))?
        .value();
    let address = node_object["status"]["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|a| a["type"] == "InternalIP")
        .and_then(|a| a["address"].as_str())
        .ok_or_else(|| unavailable("has no address yet"))?;
    let port = node_object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .ok_or_else(|| unavailable("has no kubelet port yet"))?;
    Ok((address.to_owned(), port))
}

async fn send(
    call: &Call,
    mut request: Request<Incoming>,
    host: &str,
    port: u16,
    path: &str,
) -> ApiResult<Response<Body>> {
    let failed =
        |e: &dyn std::fmt::Display| ApiError::internal(format!("error dialing backend: {e}"));
    let stream = call
        .api
        .dialer
        .kubelet(host, port)
        .await
        .map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    // Ends with the exchange: the response body or the tunnel owns the other half.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %error, "connection to the kubelet ended");
        }
    });
    let client_side = hyper::upgrade::on(&mut request);
    let wants_upgrade = request.headers().contains_key(http::header::UPGRADE);
    let (mut parts, body) = request.into_parts();
    parts.uri = path.parse().map_err(|e| failed(&e))?;
    parts.version = http::Version::HTTP_11;
    for name in PRIVATE {
        parts.headers.remove(name);
    }
    if let Ok(value) = http::HeaderValue::from_str(&format!("{host}:{port}")) {
        parts.headers.insert(HOST, value);
    }
    parts.extensions = http::Extensions::default();
    let answer = sender.send_request(Request::from_parts(parts, body));
    let mut response = tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(|_| ApiError::timeout("the kubelet did not answer in time"))?
        .map_err(|e| failed(&e))?;
    if wants_upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let kubelet_side = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(client_side, kubelet_side, call.api.stopping.clone()));
    }
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

/// Copies until either side ends or the server stops.
async fn tunnel(client: OnUpgrade, kubelet: OnUpgrade, mut stopping: watch::Receiver<bool>) {
    let (client, kubelet) = match tokio::try_join!(client, kubelet) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(error = %error, "upgrade did not complete");
            return;
        }
    };
    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
    tokio::select! {
        () = crate::state::stopped(&mut stopping) => {}
        ended = tokio::io::copy_bidirectional(&mut client, &mut kubelet) => {
            if let Err(error) = ended {
                tracing::debug!(error = %error, "tunnel to the kubelet ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_parameters_take_the_kubelets_names() {
        let query = Query::parse(Some(
            "command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=false",
        ));
        assert_eq!(
            parameters(&query, EXEC_PARAMETERS),
            "?input=1&output=1&command=sh&command=-c&command=a%20b"
        );
    }
}
