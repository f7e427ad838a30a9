//! The application's own probes, asked on the kubelet's behalf over the loopback address that is never captured.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use meltemi_traffic::cluster::BindConfig;
use meltemi_upstream::connect::{Dial, SocketDefaults, Target, dial};
use meltemi_upstream::http1::Conn;
use meltemi_upstream::stream::Stream;
use meltemi_wire::http1::head::HeadLimits;
use meltemi_wire::http1::{Framing, Piece};
use serde_json::Value;

use super::config::AgentConfig;
use crate::admin::Answer;

/// Kubernetes' default `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are read.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Time for the application's metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a probe as Kubernetes would.
pub(crate) async fn run(
    config: &AgentConfig,
    probe: &Value,
    head: &http::request::Parts,
) -> Answer {
    let seconds = probe
        .get("timeoutSeconds")
        .and_then(Value::as_u64)
        .filter(|seconds| *seconds > 0);
    let limit = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let outcome = tokio::time::timeout(limit, ask(config, probe, head)).await;
    match outcome {
        Ok(Ok((status, body))) => Answer::text(
            StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            body,
        ),
        Ok(Err(reason)) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")),
        Err(_) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "probe timed out\n"),
    }
}

async fn ask(
    config: &AgentConfig,
    probe: &Value,
    head: &http::request::Parts,
) -> Result<(u16, Bytes), String> {
    let port = |action: &Value| {
        let port = action
            .get("port")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| "the probe has no port number".to_owned())
    };
    if let Some(action) = probe.get("httpGet") {
        let text = |key: &str| action.get(key).and_then(Value::as_str);
        if text("scheme").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
            return Err("probes over HTTPS are not supported".to_owned());
        }
        let mut headers = HeaderMap::new();
        if let Some(agent) = head.headers.get(http::header::USER_AGENT) {
            headers.insert(http::header::USER_AGENT, agent.clone());
        }
        let mut host = format!("{}:{}", config.address, port(action)?);
        for pair in action
            .get("httpHeaders")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let (Some(name), Some(value)) = (pair["name"].as_str(), pair["value"].as_str()) else {
                continue;
            };
            if name.eq_ignore_ascii_case("host") {
                value.clone_into(&mut host);
            } else if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        let path = text("path").filter(|path| !path.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        return fetch(config, port(action)?, &path, &host, &headers).await;
    }
    if let Some(action) = probe.get("tcpSocket") {
        connect(config, port(action)?, DEFAULT_TIMEOUT).await?;
        return Ok((200, Bytes::new()));
    }
    Err("this kind of probe is not supported".to_owned())
}

/// A GET without special headers.
pub(crate) async fn get(
    config: &AgentConfig,
    port: u16,
    path: &str,
) -> Result<(u16, Bytes), String> {
    let host = format!("{}:{port}", config.address);
    let none = HeaderMap::new();
    let fetched = fetch(config, port, path, &host, &none);
    tokio::time::timeout(METRICS_TIMEOUT, fetched)
        .await
        .unwrap_or_else(|_| Err("timed out".to_owned()))
}

/// Connects to the application from the address that capture lets pass.
async fn connect(config: &AgentConfig, port: u16, timeout: Duration) -> Result<Stream, String> {
    let v4 = config.address.is_ipv4();
    let source: SocketAddr = if v4 {
        (Ipv4Addr::new(127, 0, 0, 6), 0).into()
    } else {
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6), 0).into()
    };
    let bind = BindConfig {
        source: Some(source),
        ..BindConfig::default()
    };
    dial(Dial {
        target: &Target::Tcp(SocketAddr::new(config.address, port)),
        bind: &bind,
        keepalive: None,
        defaults: SocketDefaults { mark: config.mark },
        timeout,
        tls: None,
        more_targets: &[],
        proxy_protocol: None,
        alpn: None,
        sni: None,
    })
    .await
    .map_err(|error| format!("connect to port {port}: {error}"))
}

async fn fetch(
    config: &AgentConfig,
    port: u16,
    path: &str,
    host: &str,
    headers: &HeaderMap,
) -> Result<(u16, Bytes), String> {
    let mut conn = Conn::new(connect(config, port, METRICS_TIMEOUT).await?);
    conn.send_request(
        &Method::GET,
        path.as_bytes(),
        host.as_bytes(),
        headers,
        Framing::None,
    );
    std::future::poll_fn(|cx| conn.poll_flush(cx))
        .await
        .map_err(|error| error.to_string())?;
    let limits = HeadLimits::default();
    let response = loop {
        let response =
            std::future::poll_fn(|cx| conn.poll_response(cx, &limits, &Method::GET)).await;
        let response = response.map_err(|error| error.to_string())?;
        if !response.status.is_informational() {
            break response;
        }
    };
    let mut body = Vec::new();
    while let Piece::Data(data) = std::future::poll_fn(|cx| conn.poll_body(cx))
        .await
        .map_err(|error| error.to_string())?
    {
        if body.len() + data.len() > MAX_BODY {
            return Err("the answer is too large".to_owned());
        }
        body.extend_from_slice(&data);
    }
    Ok((response.status.as_u16(), body.into()))
}
