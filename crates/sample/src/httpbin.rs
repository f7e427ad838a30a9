//! A server in the manner of httpbin: shows what arrived and answers as it is told.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::{
    Listen,
    server::{self, Body, json as json_reply, reply},
};

/// Largest body that is echoed, bytes.
const MAX_ECHO: usize = 1 << 20;
/// Largest generated body, bytes (4 GiB).
const MAX_BYTES: u64 = 4 << 30;
/// Longest delay that a caller may ask for.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Size of one piece of a generated body, bytes.
const PIECE: u64 = 64 << 10;

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// How to run hello.
#[derive(Debug, Clone, clap::Args)]
pub struct HelloOptions {
    /// Port to listen on
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Version in the answer
    #[arg(long, env = "SERVICE_VERSION", default_value = "v1")]
    version_name: String,
    /// Name of this pod
    #[arg(long, env = "HOSTNAME", default_value = "")]
    pod_name: String,
}

fn listen(port: u16) -> Listen {
    Listen {
        port,
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the port cannot be opened.
pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    server::serve(&listen(options.port), "httpbin", handle).await
}

/// Serves `/hello` until SIGTERM.
///
/// # Errors
/// When the port cannot be opened.
pub(crate) async fn serve_hello(options: HelloOptions) -> anyhow::Result<()> {
    let text = format!(
        "Hello version: {}, instance: {}\n",
        options.version_name, options.pod_name
    );
    server::serve(&listen(options.port), "hello", move |request| {
        let text = text.clone();
        async move {
            match request.uri().path() {
                "/hello" => reply(StatusCode::OK, "text/plain", text),
                "/health" => reply(StatusCode::OK, "text/plain", "Helloworld is healthy"),
                _ => reply(StatusCode::NOT_FOUND, "text/plain", "Not found"),
            }
        }
    })
    .await
}

async fn handle(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let (name, argument) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let number = argument
        .split('/')
        .next()
        .unwrap_or_default()
        .parse::<u64>();
    match (name, number) {
        ("headers", _) => json_reply(
            StatusCode::OK,
            &json!({"headers": header_map(request.headers())}),
        ),
        ("user-agent", _) => json_reply(
            StatusCode::OK,
            &json!({"user-agent": header_map(request.headers())["User-Agent"]}),
        ),
        ("ip", _) => json_reply(
            StatusCode::OK,
            &json!({"origin": header_map(request.headers())["X-Forwarded-For"]}),
        ),
        ("health" | "", _) => reply(StatusCode::OK, "text/plain", "ok"),
        ("get" | "post" | "put" | "patch" | "delete" | "anything", _) => echo(request).await,
        ("status", Ok(code)) => status(code),
        ("delay", _) => delay(argument, request).await,
        ("bytes" | "stream-bytes", Ok(size)) => {
            generated(size.min(MAX_BYTES), Duration::ZERO, PIECE)
        }
        ("drip", Ok(pieces)) => generated(pieces.min(1000), Duration::from_millis(200), 1),
        ("upload", _) => upload(request).await,
        _ => json_reply(
            StatusCode::NOT_FOUND,
            &json!({"error": format!("no such path: {path}")}),
        ),
    }
}

fn header_map(headers: &HeaderMap) -> Value {
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        let entry = map.entry(canonical(name.as_str())).or_default();
        if !entry.is_empty() {
            entry.push(',');
        }
        entry.push_str(&text);
    }
    json!(map)
}

/// `x-request-id` becomes `X-Request-Id`, as httpbin prints it.
fn canonical(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + chars.as_str())
            .unwrap_or_default()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

fn status(code: u64) -> Response<Body> {
    let code = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|code| code.as_u16() >= 200);
    code.map_or_else(
        || reply(StatusCode::BAD_REQUEST, "text/plain", "Invalid status code"),
        |code| reply(code, "text/plain", ""),
    )
}

async fn delay(argument: &str, request: Request<Incoming>) -> Response<Body> {
    let seconds = argument
        .parse::<f64>()
        .ok()
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let Some(seconds) = seconds else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "Invalid delay");
    };
    tokio::time::sleep(Duration::from_secs_f64(
        seconds.min(MAX_DELAY.as_secs_f64()),
    ))
    .await;
    echo(request).await
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_ECHO).collect().await else {
        return reply(
            StatusCode::PAYLOAD_TOO_LARGE,
            "text/plain",
            "body too large to be echoed",
        );
    };
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    json_reply(
        StatusCode::OK,
        &json!({
            "args": head.uri.query().unwrap_or_default(),
            "data": text,
            "headers": header_map(&head.headers),
            "method": head.method.as_str(),
            "url": head.uri.to_string(),
        }),
    )
}

/// Reads a body of any size and answers with the number of its bytes.
async fn upload(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let mut size = 0_u64;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => size += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return reply(StatusCode::BAD_REQUEST, "text/plain", "body cut short"),
        }
    }
    json_reply(StatusCode::OK, &json!({"received": size}))
}

/// A body of zeros in pieces, with a pause before each piece but the first.
fn generated(size: u64, pause: Duration, piece: u64) -> Response<Body> {
    static ZEROS: Bytes = Bytes::from_static(&[0; PIECE as usize]);
    let pieces = futures::stream::unfold((size, true), move |(left, first)| async move {
        if left == 0 {
            return None;
        }
        if !first && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let now = left.min(piece);
        let chunk = ZEROS.slice(..usize::try_from(now).expect("a piece is small"));
        Some((
            Ok::<_, std::convert::Infallible>(Frame::data(chunk)),
            (left - now, false),
        ))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/octet-stream"),
    );
    response
}
