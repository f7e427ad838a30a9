//! Active health checks.

use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use meltemi_traffic::cluster::{HealthCheck, HealthCheckKind, HttpCheck};

use crate::pb::{core, kinds, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{duration, duration_or, flag, header_name, number_or, positive_or, strs};

const DEFAULT_NO_TRAFFIC: Duration = Duration::from_secs(60);

/// Compiles one check.
pub(super) fn check(message: &core::HealthCheck) -> Compiled<HealthCheck> {
    let (Some(timeout), Some(interval)) = (&message.timeout, &message.interval) else {
        return refuse("timeout and interval are required");
    };
    let interval = duration(interval).within("interval")?;
    let or = |field: &str, given: Option<&wkt::Duration>, default: Duration| {
        positive_or(field, given, default)
    };
    let no_traffic = or(
        "no_traffic_interval",
        message.no_traffic_interval.as_ref(),
        DEFAULT_NO_TRAFFIC,
    )?;
    let unhealthy = or(
        "unhealthy_interval",
        message.unhealthy_interval.as_ref(),
        interval,
    )?;
    let jitter =
        |field: &str, given: Option<&wkt::Duration>| duration_or(field, given, Duration::ZERO);
    Ok(HealthCheck {
        timeout: duration(timeout).within("timeout")?,
        interval,
        initial_jitter: jitter("initial_jitter", message.initial_jitter.as_ref())?,
        interval_jitter: jitter("interval_jitter", message.interval_jitter.as_ref())?,
        interval_jitter_percent: message.interval_jitter_percent,
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: or(
            "no_traffic_healthy_interval",
            message.no_traffic_healthy_interval.as_ref(),
            no_traffic,
        )?,
        unhealthy_interval: unhealthy,
        unhealthy_edge_interval: or(
            "unhealthy_edge_interval",
            message.unhealthy_edge_interval.as_ref(),
            unhealthy,
        )?,
        healthy_edge_interval: or(
            "healthy_edge_interval",
            message.healthy_edge_interval.as_ref(),
            interval,
        )?,
        unhealthy_threshold: number_or(message.unhealthy_threshold.as_ref(), 1),
        healthy_threshold: number_or(message.healthy_threshold.as_ref(), 1),
        reuse_connection: flag(message.reuse_connection.as_ref(), true),
        alpn: message
            .tls_options
            .as_ref()
            .map_or_else(Vec::new, |options| strs(&options.alpn_protocols)),
        kind: kind(message)?,
    })
}

fn kind(message: &core::HealthCheck) -> Compiled<HealthCheckKind> {
    use core::health_check::HealthChecker;
    Ok(match &message.health_checker {
        Some(HealthChecker::TcpHealthCheck(check)) => HealthCheckKind::Tcp {
            send: check
                .send
                .as_ref()
                .map(payload)
                .transpose()
                .within("tcp_health_check.send")?
                .unwrap_or_default(),
            receive: each("tcp_health_check.receive", &check.receive, payload)?,
        },
        Some(HealthChecker::HttpHealthCheck(check)) => {
            HealthCheckKind::Http(http(check).within("http_health_check")?)
        }
        Some(HealthChecker::GrpcHealthCheck(check)) => HealthCheckKind::Grpc {
            service: check.service_name.as_str().into(),
            authority: check.authority.as_str().into(),
        },
        _ => return refuse("this kind of health check is not supported"),
    })
}

fn http(check: &core::health_check::HttpHealthCheck) -> Compiled<HttpCheck> {
    use core::RequestMethod;
    let method = match check.method() {
        RequestMethod::MethodUnspecified | RequestMethod::Get => Method::GET,
        RequestMethod::Connect => return refuse_field("method", "must not be CONNECT"),
        other => Method::from_bytes(other.as_str_name().as_bytes())
            .or_else(|_| refuse_field("method", "is no HTTP method"))?,
    };
    let add = each(
        "request_headers_to_add",
        &check.request_headers_to_add,
        added,
    )?;
    Ok(HttpCheck {
        method,
        host: check.host.as_str().into(),
        path: check.path.as_str().into(),
        add,
        expected: each("expected_statuses", &check.expected_statuses, range)?,
        retriable: each("retriable_statuses", &check.retriable_statuses, range)?,
        http2: check.codec_client_type() == kinds::CodecClientType::Http2,
    })
}

/// Values with formatters have nothing to format here.
fn added(option: &core::HeaderValueOption) -> Compiled<(HeaderName, HeaderValue)> {
    let Some(header) = &option.header else {
        return refuse_field("header", "is required");
    };
    if header.value.contains('%') {
        return refuse_field(
            "header.value",
            "formatters are not supported in health checks",
        );
    }
    let value = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    let value = HeaderValue::from_bytes(value)
        .or_else(|_| refuse_field("header.value", "is no header value"))?;
    Ok((header_name(&header.key).within("header.key")?, value))
}

fn range(range: &kinds::Int64Range) -> Compiled<(u16, u16)> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end => Ok((start, end)),
        _ => refuse("must be a range of status codes"),
    }
}

fn payload(message: &core::health_check::Payload) -> Compiled<Vec<u8>> {
    use core::health_check::payload::Payload;
    match &message.payload {
        Some(Payload::Binary(bytes)) => Ok(bytes.clone()),
        Some(Payload::Text(hex)) => {
            let digits: Option<Vec<u8>> = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            digits.map_or_else(|| refuse_field("text", "must be hexadecimal"), Ok)
        }
        None => refuse("needs a payload"),
    }
}
