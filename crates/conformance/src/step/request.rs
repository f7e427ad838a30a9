//! A request by structure: HTTP/1 or HTTP/2, plain or over TLS, on a new connection or a named one.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Context as _;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Context, PATIENCE};
use crate::backend::rules::{OneOrMany, pairs};
use crate::bytes_spec::Data;
use crate::client::connect::{Opened, Target, Tls};
use crate::client::http2::{Exchange, Http2};
use crate::client::wire::Wire;
use crate::client::{Connection, http1};
use crate::span::Span;

/// How to ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Request {
    to: Option<Value>,
    from: Option<IpAddr>,
    prefix: Option<Data>,
    tls: Option<Tls>,
    /// Name of a connection that stays open for later steps.
    connection: Option<String>,
    /// `1.1`, `1.0` or `2`.
    version: Version,
    method: String,
    path: String,
    /// Host or `:authority`; null for none.
    authority: Option<String>,
    /// `:scheme` of HTTP/2.
    scheme: Option<String>,
    /// `:protocol` of HTTP/2 extended CONNECT.
    protocol: Option<String>,
    headers: IndexMap<String, OneOrMany>,
    body: Option<Data>,
    /// Body in several chunks or frames.
    pieces: Option<Vec<Data>>,
    /// HTTP/1 body in chunks.
    chunked: bool,
    trailers: IndexMap<String, OneOrMany>,
    /// Messages of a gRPC call; also sets method, content-type and te.
    grpc: Option<Vec<Value>>,
    /// Gives up after the request was sent: resets the stream or closes the connection.
    abort: Option<Span>,
    /// The request's end is never sent.
    unfinished: bool,
    /// How the connection ends within this time is observed too.
    ending: Option<Span>,
    /// Longest wait for the response; then `timeout` is observed.
    timeout: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Version {
    #[serde(rename = "1.0")]
    Http10,
    #[serde(rename = "1.1")]
    Http11,
    #[serde(rename = "2", alias = "2.0")]
    Http2,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            to: None,
            from: None,
            prefix: None,
            tls: None,
            connection: None,
            version: Version::Http11,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            authority: Some("test.example".to_owned()),
            scheme: None,
            protocol: None,
            headers: IndexMap::new(),
            body: None,
            pieces: None,
            chunked: false,
            trailers: IndexMap::new(),
            grpc: None,
            abort: None,
            unfinished: false,
            ending: None,
            timeout: None,
        }
    }
}

impl Request {
    /// Asks once.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let connection = match self
            .connection
            .as_deref()
            .and_then(|name| context.connections.take(name))
        {
            Some(connection) => connection,
            None => match self.connect(context).await? {
                Ok(connection) => connection,
                Err(failed) => return Ok(json!({ "connect": failed })),
            },
        };
        let (mut seen, connection) = match connection {
            Connection::Bytes(wire) => self.http1(wire).await?,
            Connection::Http2(http2) => self.http2(http2).await?,
        };
        if let (Some(name), Some(connection)) = (&self.connection, connection) {
            context.connections.keep(name, connection);
        }
        if let Value::Object(map) = &mut seen {
            map.retain(|_, value| !value.is_null());
        }
        Ok(seen)
    }

    async fn connect(&self, context: &Context<'_>) -> anyhow::Result<Result<Connection, String>> {
        let target = Target {
            to: self.to.clone(),
            from: self.from,
            prefix: self.prefix.clone(),
            tls: self.tls.clone(),
        };
        let (wire, port) = match target.open(context.port, context.certificates).await? {
            Opened::Wire(wire, port) => (wire, port),
            Opened::Failed(how) => return Ok(Err(how)),
        };
        if let Some(port) = port {
            context.connections.local_port(port);
        }
        if self.version != Version::Http2 {
            return Ok(Ok(Connection::Bytes(wire)));
        }
        Ok(match Http2::start(wire).await {
            Ok(http2) => Ok(Connection::Http2(http2)),
            Err(error) => Err(format!("http2: {}", error.is_io())),
        })
    }

    fn method(&self) -> &str {
        if self.grpc.is_some() {
            "POST"
        } else {
            &self.method
        }
    }

    fn body(&self) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
        if let Some(messages) = &self.grpc {
            let name = crate::grpc::request_type(&self.path);
            let mut body = Vec::new();
            for message in messages {
                let bytes = match (name, message) {
                    (_, Value::String(text)) => text.clone().into_bytes(),
                    (Some(name), message) => meltemi_proto::json::to_wire(name, message)?,
                    (None, message) => serde_json::from_value::<Data>(message.clone())?.bytes()?,
                };
                crate::grpc::frame(&bytes, &mut body);
            }
            return Ok(Some(vec![body]));
        }
        if let Some(pieces) = &self.pieces {
            return pieces
                .iter()
                .map(Data::bytes)
                .collect::<anyhow::Result<_>>()
                .map(Some);
        }
        self.body
            .as_ref()
            .map(|body| Ok(vec![body.bytes()?]))
            .transpose()
    }

    fn fields(&self) -> Vec<(String, String)> {
        let mut fields = pairs(&self.headers);
        let has = |name: &str| {
            self.headers
                .keys()
                .any(|key| key.eq_ignore_ascii_case(name))
        };
        if self.grpc.is_some() {
            for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
                if !has(name) {
                    fields.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        fields
    }

    fn http1_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let version = if self.version == Version::Http10 {
            "1.0"
        } else {
            "1.1"
        };
        let mut head = format!("{} {} HTTP/{version}\r\n", self.method(), self.path);
        let mut fields = self.fields();
        let has = |fields: &[(String, String)], name: &str| {
            fields
                .iter()
                .any(|field| field.0.eq_ignore_ascii_case(name))
        };
        if let Some(authority) = &self.authority
            && !has(&fields, "host")
        {
            fields.insert(0, ("Host".to_owned(), authority.clone()));
        }
        let body = self.body()?;
        let chunked = self.chunked || self.pieces.is_some() || !self.trailers.is_empty();
        if chunked && !has(&fields, "transfer-encoding") {
            fields.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
        } else if let Some(body) = &body
            && !has(&fields, "content-length")
            && !has(&fields, "transfer-encoding")
        {
            let length: usize = body.iter().map(Vec::len).sum();
            fields.push(("Content-Length".to_owned(), length.to_string()));
        }
        for (name, value) in &fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let mut bytes = (head + "\r\n").into_bytes();
        for piece in body.unwrap_or_default() {
            if chunked {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(&piece);
                bytes.extend_from_slice(b"\r\n");
            } else {
                bytes.extend_from_slice(&piece);
            }
        }
        if chunked && !self.unfinished {
            let mut end = "0\r\n".to_owned();
            for (name, value) in pairs(&self.trailers) {
                let _ = write!(end, "{name}: {value}\r\n");
            }
            bytes.extend_from_slice((end + "\r\n").as_bytes());
        }
        Ok(bytes)
    }

    async fn http1(&self, mut wire: Wire) -> anyhow::Result<(Value, Option<Connection>)> {
        // A peer that refuses early may close before it has read everything.
        let bytes = self.http1_bytes()?;
        let (mut reader_wire, sent);
        if bytes.len() > 32 * 1024 {
            // Both directions at once, or two full pipes wait for each other.
            let (reader, mut writer) = tokio::io::split(wire.io);
            let writing = tokio::spawn(async move {
                let _ = writer.write_all(&bytes).await;
                let _ = writer.flush().await;
                writer
            });
            reader_wire = Wire::new(
                Box::new(tokio::io::join(reader, tokio::io::empty())),
                wire.tls.clone(),
            );
            sent = Some(writing);
        } else {
            let _ = wire.send(&bytes).await;
            reader_wire = wire;
            sent = None;
        }
        if let Some(abort) = self.abort {
            tokio::time::sleep(abort.0).await;
            return Ok((json!({ "aborted": true }), None));
        }
        let mut seen = self
            .patient(http1::response(&mut reader_wire, self.method()))
            .await;
        self.finish(&mut seen, &reader_wire.tls);
        if let (Some(limit), Value::Object(map)) = (self.ending, &mut seen) {
            map.insert("ending".to_owned(), reader_wire.ending(limit.0).await);
        }
        drop(sent);
        Ok((seen, Some(Connection::Bytes(reader_wire))))
    }

    async fn http2(&self, mut http2: Http2) -> anyhow::Result<(Value, Option<Connection>)> {
        let mut head = http::Request::builder().method(self.method());
        let default_scheme = if self.tls.is_some() { "https" } else { "http" };
        let scheme = self.scheme.as_deref().unwrap_or(default_scheme);
        let mut uri = http::Uri::builder();
        if self.method() == "CONNECT" && self.protocol.is_none() {
            uri = uri.authority(self.authority.as_deref().unwrap_or_default());
        } else {
            uri = uri.scheme(scheme).path_and_query(self.path.as_str());
            uri = uri.authority(
                self.authority
                    .as_deref()
                    .context("HTTP/2 here needs an authority; use raw frames")?,
            );
        }
        head = head.uri(uri.build()?);
        if let Some(protocol) = &self.protocol {
            head = head.extension(h2::ext::Protocol::from(protocol.as_str()));
        }
        for (name, value) in self.fields() {
            head = head.header(name, value);
        }
        let trailers = if self.trailers.is_empty() {
            None
        } else {
            let mut map = http::HeaderMap::new();
            for (name, value) in pairs(&self.trailers) {
                map.append(
                    http::HeaderName::try_from(name)?,
                    http::HeaderValue::try_from(value)?,
                );
            }
            Some(map)
        };
        let body: Vec<Bytes> = self
            .body()?
            .unwrap_or_default()
            .into_iter()
            .map(Bytes::from)
            .collect();
        let exchange = Exchange {
            head: head.body(())?,
            body,
            trailers,
            unfinished: self.unfinished,
        };
        if let Some(abort) = self.abort {
            // Dropping the exchange resets its stream.
            let _ = tokio::time::timeout(abort.0, http2.exchange(exchange)).await;
            return Ok((json!({ "aborted": true }), Some(Connection::Http2(http2))));
        }
        let mut seen = self.patient(http2.exchange(exchange)).await;
        let tls = http2.tls.clone();
        self.finish(&mut seen, &tls);
        if let (Some(limit), Value::Object(map)) = (self.ending, &mut seen) {
            map.insert("ending".to_owned(), http2.ending(limit.0).await);
        }
        Ok((seen, Some(Connection::Http2(http2))))
    }

    async fn patient(&self, response: impl Future<Output = Value>) -> Value {
        let limit = self.timeout.map_or(PATIENCE, |span| span.0);
        tokio::time::timeout(limit, response)
            .await
            .unwrap_or_else(|_| json!({ "timeout": true }))
    }

    fn finish(&self, seen: &mut Value, tls: &Value) {
        if let (Value::Object(map), false) = (seen, tls.is_null()) {
            map.insert("tls".to_owned(), tls.clone());
        }
    }
}
