//! Asks `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::net::SocketAddr;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use meltemi_proto::envoy::service::auth::v3 as pb;
use meltemi_proto::envoy::service::auth::v3::attribute_context as context;
use meltemi_proto::google::protobuf as wkt;
use meltemi_traffic::ext_authz::{ExtAuthz, GrpcTarget};
use meltemi_traffic::headers::RequestHead;
use meltemi_traffic::tls::PeerIdentity;

use super::{Changes, Outcome, PARTIAL_BODY, Question, ResponseChanges, Verdict};
use crate::client::{self, CallError};
use crate::metadata::{from_struct, to_struct};
use crate::stage::{ReadAhead, Stage, Upstreams};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Asks.
pub(super) async fn ask(
    upstreams: &Upstreams,
    target: &GrpcTarget,
    check: &pb::CheckRequest,
) -> Result<pb::CheckResponse, CallError> {
    client::unary(upstreams, target, CHECK, check).await
}

/// The check.
pub(super) fn question<S: Stage>(stage: &mut S, question: &Question<'_>) -> pb::CheckRequest {
    let config = question.config;
    let namespaces = |metadata: &meltemi_traffic::Metadata, wanted: &[meltemi_traffic::Str]| {
        let found = wanted.iter().filter_map(|name| {
            let fields = metadata.namespaces.get(name)?.as_struct()?;
            Some((name.to_string(), to_struct(fields)))
        });
        Some(core::Metadata {
            filter_metadata: found.collect(),
            ..core::Metadata::default()
        })
    };
    let metadata_context = namespaces(stage.metadata(), &config.metadata_namespaces);
    let route_metadata_context = match stage.route() {
        Some(route) => namespaces(&route.metadata, &config.route_metadata_namespaces),
        None => Some(core::Metadata::default()),
    };
    let info = stage.info();
    let source = context::Peer {
        address: info.downstream_direct_remote.map(address),
        principal: info.downstream_tls.peer.map(principal).unwrap_or_default(),
        service: header(stage, "x-envoy-downstream-service-cluster"),
        ..context::Peer::default()
    };
    let destination = context::Peer {
        address: info.downstream_local.map(address),
        principal: info.downstream_tls.local.map(principal).unwrap_or_default(),
        ..context::Peer::default()
    };
    let time = wkt::Timestamp {
        seconds: i64::try_from(info.start.as_secs()).unwrap_or_default(),
        // Microseconds, as Envoy has it.
        nanos: i32::try_from(info.start.subsec_micros() * 1000).unwrap_or_default(),
    };
    let tls_session = (config.tls_session && !info.downstream_tls.version.is_empty()).then(|| {
        context::TlsSession {
            sni: info.requested_server_name.to_owned(),
        }
    });
    let attributes = pb::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(context::Request {
            time: Some(time),
            http: Some(http_request(stage, config, question)),
        }),
        context_extensions: question
            .extensions
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        metadata_context,
        route_metadata_context,
        tls_session,
    };
    pb::CheckRequest {
        attributes: Some(attributes),
    }
}

fn header<S: Stage>(stage: &S, name: &'static str) -> String {
    let value = stage.fields().get(name);
    let text = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    text.unwrap_or_default()
}

fn http_request<S: Stage>(
    stage: &S,
    config: &ExtAuthz,
    question: &Question<'_>,
) -> context::HttpRequest {
    let request = stage.request();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pseudo = [
        (":authority", request.authority()),
        (":method", request.method()),
        (":path", request.path()),
        (":scheme", request.scheme()),
    ];
    let mut headers: HashMap<String, String> = pseudo
        .into_iter()
        .filter(|(name, _)| config.sends(name))
        .map(|(name, value)| (name.to_owned(), text(value)))
        .collect();
    for (name, value) in stage.fields() {
        if *name == TRANSFER_ENCODING || !config.sends(name.as_str()) {
            continue;
        }
        let value = text(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|have| {
                have.push(',');
                have.push_str(&value);
            })
            .or_insert(value);
    }
    let mut out = context::HttpRequest {
        id: fastrand::u64(..).to_string(),
        method: text(request.method()),
        path: text(request.path()),
        host: text(request.authority()),
        scheme: text(request.scheme()),
        size: i64::try_from(stage.info().bytes_received).unwrap_or(i64::MAX),
        protocol: stage.protocol().to_owned(),
        ..context::HttpRequest::default()
    };
    if let Some((rule, body, read)) = &question.body {
        if rule.as_bytes {
            out.raw_body = body.to_vec();
        } else {
            out.body = text(body);
        }
        let partial = *read == ReadAhead::TooLong;
        headers.insert(PARTIAL_BODY.to_owned(), partial.to_string());
    }
    out.headers = headers;
    out
}

fn address(from: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: from.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                from.port().into(),
            )),
            ..core::SocketAddress::default()
        })),
    }
}

/// The first URI name, else the first DNS name, else the subject.
fn principal(peer: &PeerIdentity) -> String {
    let names = peer.uri_sans.iter().chain(&peer.dns_sans);
    names
        .chain([&peer.subject])
        .next()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// What the service's response means.
pub(super) fn verdict(asked: Result<pb::CheckResponse, CallError>) -> Verdict {
    let Ok(response) = asked else {
        return Verdict::default();
    };
    let allowed = response
        .status
        .as_ref()
        .is_none_or(|status| status.code == 0);
    let mut metadata = response.dynamic_metadata.as_ref().map(from_struct);
    let outcome = match response.http_response {
        Some(pb::check_response::HttpResponse::ErrorResponse(_)) => Outcome::Failed,
        Some(pb::check_response::HttpResponse::OkResponse(ok)) if allowed => {
            #[expect(deprecated, reason = "old services still send it")]
            if metadata.is_none() {
                metadata = ok.dynamic_metadata.as_ref().map(from_struct);
            }
            Outcome::Allowed(Box::new(changes(ok)))
        }
        _ if allowed => Outcome::Allowed(Box::default()),
        Some(pb::check_response::HttpResponse::DeniedResponse(denied)) => denial(denied),
        _ => denial(pb::DeniedHttpResponse::default()),
    };
    Verdict { metadata, outcome }
}

fn denial(denied: pb::DeniedHttpResponse) -> Outcome {
    let status = denied
        .status
        .and_then(|status| u16::try_from(status.code).ok())
        .filter(|status| *status >= 200)
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = HeaderMap::new();
    for option in &denied.headers {
        if let Some((name, value)) = pair(option)
            && name != CONTENT_LENGTH
            && name != TRANSFER_ENCODING
        {
            headers.append(name, value);
        }
    }
    Outcome::Denied {
        status,
        headers,
        body: denied.body.into(),
    }
}

fn pair(option: &core::HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let header = option.header.as_ref()?;
    let bytes = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    Some((
        HeaderName::from_bytes(header.key.as_bytes()).ok()?,
        HeaderValue::from_bytes(bytes).ok()?,
    ))
}

/// How a field is put: `append`, where it is set, wins over the action.
#[expect(deprecated, reason = "old services still send it")]
fn action(option: &core::HeaderValueOption) -> HeaderAppendAction {
    match &option.append {
        Some(append) if append.value => HeaderAppendAction::AppendIfExistsOrAdd,
        Some(_) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        None => option.append_action(),
    }
}

fn changes(ok: pb::OkHttpResponse) -> Changes {
    let mut out = Changes::default();
    for option in &ok.headers {
        let Some(pair) = pair(option) else { continue };
        #[expect(deprecated, reason = "old services still send it")]
        let joined = option.append.is_some_and(|append| append.value);
        match action(option) {
            _ if joined => out.join.push(pair),
            HeaderAppendAction::AddIfAbsent => out.absent.push(pair),
            _ => out.set.push(pair),
        }
    }
    let removable = |name: &String| HeaderName::from_bytes(name.as_bytes()).ok();
    out.remove = ok.headers_to_remove.iter().filter_map(removable).collect();
    out.remove.retain(|name| *name != HOST);
    out.query_set = ok
        .query_parameters_to_set
        .into_iter()
        .map(|parameter| (parameter.key, parameter.value))
        .collect();
    out.query_remove = ok.query_parameters_to_remove;
    out.response = response_changes(&ok.response_headers_to_add);
    out
}

fn response_changes(options: &[core::HeaderValueOption]) -> ResponseChanges {
    let mut out = ResponseChanges::default();
    for option in options {
        let Some(pair) = pair(option) else { continue };
        match action(option) {
            HeaderAppendAction::AppendIfExistsOrAdd => out.add.push(pair),
            HeaderAppendAction::AddIfAbsent => out.absent.push(pair),
            HeaderAppendAction::OverwriteIfExistsOrAdd => out.set.push(pair),
            HeaderAppendAction::OverwriteIfExists => out.present.push(pair),
        }
    }
    out
}
