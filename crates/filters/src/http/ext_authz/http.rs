//! Asks a server by HTTP: the request's method and path, chosen headers, and the body when that is configured.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use meltemi_traffic::ext_authz::HttpAuthorizer;
use meltemi_traffic::headers::RequestHead;
use meltemi_upstream::exchange::BodyKind;

use super::{Changes, Outcome, PARTIAL_BODY, Question, Verdict, as_fields};
use crate::client::{Call, CallError, Response};
use crate::stage::{ReadAhead, Stage};

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// The check.
pub(super) fn question<S: Stage>(
    stage: &S,
    question: &Question<'_>,
    server: &HttpAuthorizer,
) -> Call {
    let request = stage.request();
    let mut headers = HeaderMap::new();
    for (name, value) in stage.fields() {
        if *name != CONTENT_LENGTH
            && *name != TRANSFER_ENCODING
            && question.config.sends(name.as_str())
        {
            headers.append(name, value.clone());
        }
    }
    let mut body = Bytes::new();
    if let Some((_, data, read)) = &question.body {
        body = data.clone();
        let partial = if *read == ReadAhead::TooLong {
            "true"
        } else {
            "false"
        };
        headers.insert(
            HeaderName::from_static(PARTIAL_BODY),
            HeaderValue::from_static(partial),
        );
    }
    for (name, value) in &server.headers_to_add {
        headers.insert(name, value.clone());
    }
    Call {
        method: Method::from_bytes(request.method()).unwrap_or(Method::GET),
        authority: Bytes::copy_from_slice(request.authority()),
        path: [server.path_prefix.as_bytes(), request.path()]
            .concat()
            .into(),
        headers,
        framing: BodyKind::Length(body.len() as u64),
        body,
        forwarded: false,
    }
}

/// What the server's response means.
pub(super) fn verdict(server: &HttpAuthorizer, asked: Result<Response, CallError>) -> Verdict {
    let Ok(response) = asked else {
        return Verdict::default();
    };
    if response.status.is_server_error() {
        return Verdict::default();
    }
    if response.status != StatusCode::OK {
        let mut headers = HeaderMap::new();
        for (name, value) in &response.headers {
            let framing = *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == HOST;
            let hop = matches!(name.as_str(), "connection" | "keep-alive");
            if !framing && !hop && server.tells_denied(name.as_str()) {
                headers.append(name, value.clone());
            }
        }
        if server.tells_denied(SERVICE_TIME.as_str()) {
            let millis = u64::try_from(response.took.as_millis()).unwrap_or(u64::MAX);
            headers.insert(SERVICE_TIME, millis.into());
        }
        return Verdict {
            metadata: None,
            outcome: Outcome::Denied {
                status: response.status,
                headers,
                body: response.body,
            },
        };
    }
    let mut changes = Changes::default();
    let mut metadata = Vec::new();
    for (name, value) in &response.headers {
        let text = name.as_str();
        let pair = || (name.clone(), value.clone());
        if server.replaces(text) {
            changes.set.push(pair());
        }
        if server.appends(text) {
            changes.more.push(pair());
        }
        if server.tells_allowed(text) {
            changes.response.add.push(pair());
        }
        if server.becomes_metadata(text) {
            metadata.push((
                text.to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            ));
        }
    }
    for list in response.headers.get_all(REMOVE) {
        let names = list.to_str().unwrap_or_default().split(',');
        let names = names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
        changes.remove.extend(names.filter(|name| *name != HOST));
    }
    Verdict {
        metadata: Some(as_fields(metadata.into_iter())),
        outcome: Outcome::Allowed(Box::new(changes)),
    }
}
