//! Entries of Envoy's access log service.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::HeaderName;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::data::accesslog::v3 as pb;
use meltemi_proto::google::protobuf::{self as wkt, UInt32Value};
use meltemi_traffic::access::{Heads, Protocol, StreamInfo, Tls};
use meltemi_traffic::collector::AlsLog;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::flags::ResponseFlags as Flags;
use meltemi_traffic::headers::{Headers, RequestHead};
use meltemi_traffic::tls::PeerIdentity;
use prost::Message;

/// Values of request and response headers that have their own fields.
const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}
const USER_AGENT: HeaderName = name("user-agent");
const REFERER: HeaderName = name("referer");
const FORWARDED_FOR: HeaderName = name("x-forwarded-for");
const REQUEST_ID: HeaderName = name("x-request-id");
const ORIGINAL_PATH: HeaderName = name("x-envoy-original-path");

/// An encoded entry.
pub(super) fn entry(log: &AlsLog, info: &StreamInfo<'_>, heads: Heads<'_>) -> Vec<u8> {
    let common = common(log, info, heads);
    if log.tcp {
        return pb::TcpAccessLogEntry {
            common_properties: Some(common),
            connection_properties: Some(pb::ConnectionProperties {
                received_bytes: info.bytes_received,
                sent_bytes: info.bytes_sent,
            }),
        }
        .encode_to_vec();
    }
    let version = match info.protocol {
        Some(Protocol::Http10) => pb::http_access_log_entry::HttpVersion::Http10,
        Some(Protocol::Http11) => pb::http_access_log_entry::HttpVersion::Http11,
        Some(Protocol::Http2) => pb::http_access_log_entry::HttpVersion::Http2,
        None => pb::http_access_log_entry::HttpVersion::ProtocolUnspecified,
    };
    pb::HttpAccessLogEntry {
        common_properties: Some(common),
        protocol_version: version.into(),
        request: Some(request(log, info, heads)),
        response: Some(response(log, info, heads)),
    }
    .encode_to_vec()
}

fn time(since_epoch: Duration) -> wkt::Timestamp {
    wkt::Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0),
    }
}

fn span(span: Option<Duration>) -> Option<wkt::Duration> {
    span.map(|span| wkt::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    })
}

fn socket(address: Option<SocketAddr>) -> Option<core::Address> {
    use core::{address, socket_address};
    let address = address?;
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(
            address.port().into(),
        )),
        ..core::SocketAddress::default()
    };
    Some(core::Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

fn common(log: &AlsLog, info: &StreamInfo<'_>, heads: Heads<'_>) -> pb::AccessLogCommon {
    let times = &info.times;
    let upstream = match info.upstream_host {
        Some(Address::Socket(address)) => Some(*address),
        _ => None,
    };
    let tags = log.tags.iter();
    let metadata = info.metadata.filter(|metadata| !metadata.is_empty());
    pb::AccessLogCommon {
        downstream_remote_address: socket(info.downstream_remote),
        downstream_local_address: socket(info.downstream_local),
        downstream_direct_remote_address: socket(info.downstream_direct_remote),
        tls_properties: tls(&info.downstream_tls, info.requested_server_name),
        start_time: Some(time(info.start)),
        time_to_last_rx_byte: span(times.request_end),
        time_to_first_upstream_tx_byte: span(times.upstream_first_tx),
        time_to_last_upstream_tx_byte: span(times.upstream_last_tx),
        time_to_first_upstream_rx_byte: span(times.upstream_first_rx),
        time_to_last_upstream_rx_byte: span(times.upstream_last_rx),
        time_to_first_downstream_tx_byte: span(times.first_tx),
        time_to_last_downstream_tx_byte: span(times.last_tx),
        upstream_remote_address: socket(upstream),
        upstream_local_address: socket(info.upstream_local),
        upstream_cluster: info.upstream_cluster_raw.to_owned(),
        response_flags: flags(info.flags),
        upstream_transport_failure_reason: info.upstream_failure.to_owned(),
        downstream_transport_failure_reason: info.downstream_failure.to_owned(),
        route_name: info.route_name.to_owned(),
        metadata: metadata.map(|metadata| core::Metadata {
            filter_metadata: metadata
                .namespaces
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.to_string(), super::otel::fields(value.as_struct()?)))
                })
                .collect(),
            ..core::Metadata::default()
        }),
        custom_tags: tags
            .filter_map(|(name, source)| Some((name.to_string(), source.value(info, heads)?)))
            .collect(),
        duration: span(info.duration),
        upstream_request_attempt_count: info.attempts,
        connection_termination_details: info.connection_termination_details.to_owned(),
        stream_id: info.stream_id.to_owned(),
        downstream_wire_bytes_received: info.downstream_wire.0,
        downstream_wire_bytes_sent: info.downstream_wire.1,
        upstream_wire_bytes_sent: info.upstream_wire.0,
        upstream_wire_bytes_received: info.upstream_wire.1,
        access_log_type: pb::AccessLogType::from_str_name(info.log_type)
            .unwrap_or(pb::AccessLogType::NotSet)
            .into(),
        ..pb::AccessLogCommon::default()
    }
}

fn tls(tls: &Tls<'_>, sni: &str) -> Option<pb::TlsProperties> {
    use pb::tls_properties::{CertificateProperties, TlsVersion, certificate_properties};
    if tls.version.is_empty() {
        return None;
    }
    let names = |peer: &PeerIdentity| {
        use certificate_properties::subject_alt_name::San;
        let uris = peer.uri_sans.iter().map(|name| San::Uri(name.to_string()));
        uris.map(|san| certificate_properties::SubjectAltName { san: Some(san) })
            .collect()
    };
    let certificate = |peer: &PeerIdentity, issuer: bool| CertificateProperties {
        subject_alt_name: names(peer),
        subject: peer.subject.to_string(),
        issuer: if issuer {
            peer.issuer.to_string()
        } else {
            String::new()
        },
    };
    let version = if tls.version == "TLSv1.3" {
        TlsVersion::TlSv13
    } else {
        TlsVersion::TlSv12
    };
    Some(pb::TlsProperties {
        tls_version: version.into(),
        tls_cipher_suite: suite(tls.cipher).map(|value| UInt32Value { value }),
        tls_sni_hostname: sni.to_owned(),
        local_certificate_properties: tls.local.map(|local| certificate(local, false)),
        peer_certificate_properties: tls.peer.map(|peer| certificate(peer, true)),
        ..pb::TlsProperties::default()
    })
}

/// IANA's number of a suite.
fn suite(name: &str) -> Option<u32> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}

// table: response flags and their fields
fn flags(set: Flags) -> Option<pb::ResponseFlags> {
    if set.is_empty() {
        return None;
    }
    let has = |flag| set.any_of(flag);
    let denied = has(Flags::UNAUTHORIZED_EXTERNAL_SERVICE);
    Some(pb::ResponseFlags {
        failed_local_healthcheck: has(Flags::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: has(Flags::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(Flags::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(Flags::LOCAL_RESET),
        upstream_remote_reset: has(Flags::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(Flags::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(Flags::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(Flags::UPSTREAM_OVERFLOW),
        no_route_found: has(Flags::NO_ROUTE_FOUND),
        delay_injected: has(Flags::DELAY_INJECTED),
        fault_injected: has(Flags::FAULT_INJECTED),
        rate_limited: has(Flags::RATE_LIMITED),
        unauthorized_details: denied.then(|| pb::response_flags::Unauthorized {
            reason: pb::response_flags::unauthorized::Reason::ExternalService.into(),
        }),
        rate_limit_service_error: has(Flags::RATE_LIMIT_SERVICE_ERROR),
        downstream_connection_termination: has(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(Flags::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(Flags::INVALID_ENVOY_REQUEST_HEADERS),
        downstream_protocol_error: has(Flags::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: has(Flags::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        response_from_cache_filter: has(Flags::RESPONSE_FROM_CACHE),
        no_filter_config_found: has(Flags::NO_FILTER_CONFIG_FOUND),
        duration_timeout: has(Flags::DURATION_TIMEOUT),
        upstream_protocol_error: has(Flags::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(Flags::NO_CLUSTER_FOUND),
        overload_manager: has(Flags::OVERLOAD_MANAGER),
        dns_resolution_failure: has(Flags::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: has(Flags::DOWNSTREAM_REMOTE_RESET),
    })
}

fn text(value: Option<&[u8]>) -> String {
    value
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}

/// The named fields that are there, several values joined by commas.
fn chosen(names: &[HeaderName], from: Option<&dyn Headers>) -> HashMap<String, String> {
    let Some(from) = from else {
        return HashMap::new();
    };
    let present = names.iter().filter(|name| from.has(name));
    present
        .map(|name| {
            let mut all: Vec<u8> = Vec::new();
            from.for_each(name, &mut |value| {
                if !all.is_empty() {
                    all.push(b',');
                }
                all.extend_from_slice(value);
            });
            (name.to_string(), text(Some(&all)))
        })
        .collect()
}

fn request(log: &AlsLog, info: &StreamInfo<'_>, heads: Heads<'_>) -> pb::HttpRequestProperties {
    let Some(head) = heads.request else {
        return pb::HttpRequestProperties::default();
    };
    let method = std::str::from_utf8(head.method()).unwrap_or_default();
    let method = core::RequestMethod::from_str_name(method)
        .unwrap_or(core::RequestMethod::MethodUnspecified);
    let field = |name: &HeaderName| text(head.get(name));
    let mut request_headers = HashMap::new();
    for name in &log.request_headers {
        request_headers.extend(chosen_request(name, head));
    }
    pb::HttpRequestProperties {
        request_method: method.into(),
        scheme: text(Some(head.scheme())),
        authority: text(Some(head.authority())),
        path: text(Some(
            head.get(&ORIGINAL_PATH).unwrap_or_else(|| head.path()),
        )),
        user_agent: field(&USER_AGENT),
        referer: field(&REFERER),
        forwarded_for: field(&FORWARDED_FOR),
        request_id: field(&REQUEST_ID),
        original_path: field(&ORIGINAL_PATH),
        request_body_bytes: info.bytes_received,
        request_headers,
        ..pb::HttpRequestProperties::default()
    }
}

fn chosen_request(name: &HeaderName, head: &dyn RequestHead) -> Option<(String, String)> {
    let mut all: Vec<u8> = Vec::new();
    let mut found = false;
    head.for_each(name, &mut |value| {
        if found {
            all.push(b',');
        }
        found = true;
        all.extend_from_slice(value);
    });
    found.then(|| (name.to_string(), text(Some(&all))))
}

fn response(log: &AlsLog, info: &StreamInfo<'_>, heads: Heads<'_>) -> pb::HttpResponseProperties {
    pb::HttpResponseProperties {
        response_code: info
            .response_code
            .map(|code| UInt32Value { value: code.into() }),
        response_body_bytes: info.bytes_sent,
        response_headers: chosen(&log.response_headers, heads.response),
        response_trailers: chosen(&log.response_trailers, heads.trailers),
        response_code_details: info.response_code_details.to_owned(),
        ..pb::HttpResponseProperties::default()
    }
}
