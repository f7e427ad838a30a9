//! From an HTTP request to an answer: public paths, authentication, authorization, then
//! discovery documents or [`crate::rest`].

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::json;

use crate::auth::{self, User};
use crate::discovery;
use crate::http::{self as reply, Body};
use crate::rbac::Attributes;
use crate::request::{Query, ResourcePath};
use crate::rest::{self, Call};
use crate::state::Api;
use crate::status::{ApiError, ApiResult};

/// The Kubernetes version whose API this is; clients compare major and minor.
const GIT_VERSION: &str = "v1.32.0+meltemi";

/// Answers one request of a connection whose client certificate named `certificate`.
pub(crate) async fn handle(
    api: Arc<Api>,
    certificate: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    if let Some(response) = public(&api, path) {
        return response;
    }
    match route(api, certificate.as_deref(), request).await {
        Ok(response) => response,
        Err(error) => reply::error(&error),
    }
}

/// What anybody may ask.
fn public(api: &Api, path: &str) -> Option<Response<Body>> {
    match path {
        "/healthz" | "/livez" | "/healthz/ping" | "/livez/ping" => Some(reply::typed(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok",
        )),
        "/readyz" if *api.stopping.borrow() => Some(reply::typed(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain; charset=utf-8",
            "stopping",
        )),
        "/readyz" | "/readyz/ping" => Some(reply::typed(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok",
        )),
        "/version" | "/version/" => Some(reply::value(StatusCode::OK, &version())),
        _ => None,
    }
}

fn version() -> serde_json::Value {
    json!({"major": "1", "minor": "32", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch())})
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn route(
    api: Arc<Api>,
    certificate: Option<&User>,
    request: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let headers = request.headers();
    let user = auth::authenticate(headers, certificate, &api.tokens, &api.store)?;
    let user = auth::impersonate(&api, headers, user)?;
    match ResourcePath::parse(request.uri().path()) {
        Some(path) => resource(api, user, path, request).await,
        None => {
            let attributes = Attributes {
                verb: &request.method().as_str().to_ascii_lowercase(),
                path: Some(request.uri().path()),
                ..Attributes::default()
            };
            auth::require(&api, &user, &attributes)?;
            document(&api, &request)
        }
    }
}

async fn resource(
    api: Arc<Api>,
    user: User,
    path: ResourcePath,
    request: Request<Incoming>,
) -> ApiResult<Response<Body>> {
    let query = Query::parse(request.uri().query());
    let verb = path.verb(request.method(), query.flag("watch"));
    if verb.is_empty() {
        return Err(ApiError::method_not_supported());
    }
    // A list or watch of one named object needs no more than that object's permission.
    let only = query
        .get("fieldSelector")
        .and_then(|f| f.strip_prefix("metadata.name="))
        .filter(|n| path.name.is_empty() && !n.contains(','))
        .unwrap_or(&path.name);
    let is_namespace = path.resource == "namespaces" && path.group.is_empty();
    let attributes = Attributes {
        verb,
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace: if is_namespace {
            &path.name
        } else {
            &path.namespace
        },
        name: only,
        path: None,
    };
    auth::require(&api, &user, &attributes)?;
    let resource = api
        .registry()
        .find(&path.group, &path.version, &path.resource)
        .cloned()
        .ok_or_else(ApiError::no_such_path)?;
    if !resource.namespaced && !path.namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let needs_namespace = resource.namespaced && path.namespace.is_empty() && !path.name.is_empty();
    if needs_namespace {
        return Err(ApiError::no_such_path());
    }
    let call = Call {
        api,
        user,
        resource,
        path,
        query,
        headers: request.headers().clone(),
        warnings: Mutex::default(),
    };
    Ok(rest::serve(call, request).await)
}

/// Discovery, OpenAPI and keys.
fn document(api: &Api, request: &Request<Incoming>) -> ApiResult<Response<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_supported());
    }
    let path = request.uri().path().trim_matches('/');
    let registry = api.registry();
    let parts: Vec<&str> = path.split('/').collect();
    let found = match parts.as_slice() {
        ["api" | "apis"] if wants_aggregated(request) => {
            let document = discovery::aggregated(&registry, parts[0] == "api");
            return Ok(reply::typed(
                StatusCode::OK,
                discovery::AGGREGATED_V2,
                document.to_string(),
            ));
        }
        ["api"] => Some(discovery::api_versions(&api.address.to_string())),
        ["apis"] => Some(discovery::api_groups(&registry)),
        ["api", version] => discovery::api_resources(&registry, "", version),
        ["apis", group] => discovery::api_group(&registry, group),
        ["apis", group, version] => discovery::api_resources(&registry, group, version),
        ["openapi", "v2"] if accepts(request, "proto-openapi") => {
            let document = crate::openapi::v2();
            return Ok(reply::typed(
                StatusCode::OK,
                crate::openapi::V2_PROTOBUF,
                document,
            ));
        }
        ["openapi", "v2"] => Some(crate::openapi::v2_json()),
        ["openapi", "v3"] => Some(crate::openapi::root(&registry)),
        ["openapi", "v3", rest @ ..] => return openapi(&registry, rest),
        ["openid", "v1", "jwks"] => Some(api.tokens.key_set()),
        [".well-known", "openid-configuration"] => Some(json!({
            "issuer": auth::tokens::ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", api.address),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})),
        [""] => Some(
            json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}),
        ),
        _ => None,
    };
    let document = found.ok_or_else(ApiError::no_such_path)?;
    Ok(reply::value(StatusCode::OK, &document))
}

fn openapi(registry: &crate::kinds::Registry, rest: &[&str]) -> ApiResult<Response<Body>> {
    let document = match rest {
        ["api", version] => crate::openapi::document(registry, "", version),
        ["apis", group, version] => crate::openapi::document(registry, group, version),
        _ => None,
    };
    let document = document.ok_or_else(ApiError::no_such_path)?;
    Ok(reply::json(StatusCode::OK, document))
}

fn accepts(request: &Request<Incoming>, part: &str) -> bool {
    let accept = request.headers().get(http::header::ACCEPT);
    accept
        .and_then(|v| v.to_str().ok())
        .is_some_and(|a| a.contains(part))
}

fn wants_aggregated(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| {
            accept.split(',').any(|c| {
                c.contains("as=APIGroupDiscoveryList") && c.split(';').any(|p| p.trim() == "v=v2")
            })
        })
}
