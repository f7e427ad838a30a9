//! Bodies in and out: size and time limits, JSON and YAML, content negotiation, responses.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value;

use crate::protobuf;
use crate::status::{ApiError, ApiResult};
use crate::table::IncludeObject;

/// Largest request body: Kubernetes' own limit.
pub const BODY_LIMIT: usize = 3 << 20;
/// A body has to arrive within this time.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Errors of streamed bodies.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Every response body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Reads a request body within the limits.
pub async fn read_body<B>(body: B) -> ApiResult<Bytes>
where
    B: hyper::body::Body,
    B::Error: Into<BoxError>,
{
    let limited = Limited::new(body, BODY_LIMIT);
    match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Err(_) => Err(ApiError::timeout(
            "the request's body did not arrive in time",
        )),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(BODY_LIMIT))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "reading the request's body: {error}"
        ))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// The media type of the request's body, without parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map_or("application/json", str::trim)
}

/// Parses a JSON or YAML object.
pub fn parse_object(headers: &HeaderMap, body: &[u8]) -> ApiResult<Value> {
    let value = match content_type(headers) {
        "application/json" | "" => parse_json(body)?,
        "application/yaml" | "application/apply-patch+yaml" => parse_yaml(body)?,
        protobuf::MEDIA_TYPE => {
            protobuf::decode(body).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        _ => {
            return Err(ApiError::unsupported_media_type(
                "application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request(
            "the body of the request has to be an object",
        ))
    }
}

/// Parses JSON of any shape.
pub fn parse_json(body: &[u8]) -> ApiResult<Value> {
    serde_json::from_slice(body).map_err(|e| {
        ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
    })
}

/// Parses YAML; JSON is YAML too, and much faster to parse as what it is.
pub fn parse_yaml(body: &[u8]) -> ApiResult<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    serde_saphyr::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")))
}

/// How the caller wants objects shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

/// Chooses the view by the `Accept` header, first acceptable wins.
pub fn negotiate(headers: &HeaderMap, include: IncludeObject) -> ApiResult<View> {
    let Some(accept) = headers
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok())
    else {
        return Ok(View::Object);
    };
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*" | "") {
            continue;
        }
        let parameter = |name: &str| {
            clause
                .split(';')
                .filter_map(|p| p.trim().split_once('='))
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v)
        };
        let v1 = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
        match parameter("as") {
            None => return Ok(View::Object),
            Some("Table") if v1 => return Ok(View::Table(include)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if v1 => {
                return Ok(View::Metadata);
            }
            Some(_) => {}
        }
    }
    Err(ApiError::new(
        StatusCode::NOT_ACCEPTABLE,
        "NotAcceptable",
        "only the following media types are accepted: application/json",
    ))
}

/// A JSON response.
pub fn json(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(code, "application/json", body)
}

/// A response of any media type.
pub fn typed(code: StatusCode, media: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    let media = HeaderValue::from_str(media)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// A JSON value as a response.
pub fn value(code: StatusCode, value: &Value) -> Response<Body> {
    json(code, value.to_string())
}

/// An error as a response.
pub fn error(error: &ApiError) -> Response<Body> {
    let mut response = value(error.code, &error.status);
    if let Some(seconds) = error.retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers (RFC 7234 §5.5) as Kubernetes writes them.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::ACCEPT,
            HeaderValue::from_str(value).expect("header"),
        );
        headers
    }

    #[test]
    fn the_first_acceptable_view_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let include = IncludeObject::Metadata;
        assert_eq!(
            negotiate(&accept(kubectl), include),
            Ok(View::Table(include))
        );
        let client_go = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(negotiate(&accept(client_go), include), Ok(View::Metadata));
        assert_eq!(negotiate(&HeaderMap::new(), include), Ok(View::Object));
        assert!(negotiate(&accept("text/html"), include).is_err());
    }

    #[test]
    fn yaml_and_json_bodies_become_the_same_value() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
        let yaml = parse_object(&headers, b"kind: Pod\nspec:\n  n: 1\n").expect("yaml");
        assert_eq!(yaml, serde_json::json!({"kind": "Pod", "spec": {"n": 1}}));
        assert!(parse_object(&HeaderMap::new(), b"[1]").is_err());
    }
}
