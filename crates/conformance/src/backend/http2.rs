//! HTTP/2 connections of a backend, through the h2 crate.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt as _};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Server;
use super::rules::{Asked, Reset, Rule, choose, pairs};
use crate::client::http2::{headers, write};
use crate::client::wire::{Duplex, Wire};
use crate::grpc;
use crate::record::{Ending, Entry};

/// Serves a connection to its end.
pub(crate) async fn serve(wire: Wire, server: &Server, number: u32) {
    let tls = wire.tls.clone();
    let io = Replayed {
        before: wire.buffer,
        io: wire.io,
    };
    let mut builder = h2::server::Builder::new();
    builder
        .enable_connect_protocol()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 22);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else {
        return;
    };
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => running.push(stream(request, respond, server, number, tls.clone())),
                Some(Err(_)) | None => break,
            },
            Some(outcome) = running.next() => match outcome {
                Outcome::Goes => {}
                Outcome::Closes => connection.graceful_shutdown(),
                Outcome::HangsUp => return,
            },
        }
    }
    // What is being sent does not depend on the peer's reading any more.
    drop(running);
}

enum Outcome {
    Goes,
    Closes,
    HangsUp,
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    server: &Server,
    number: u32,
    tls: Value,
) -> Outcome {
    let (head, body) = request.into_parts();
    let path = head
        .uri
        .path_and_query()
        .map(|path| path.as_str().to_owned())
        .unwrap_or_default();
    let entry = server
        .recorder
        .begin(&server.name, seen(&head, &path, number, tls), false);
    let fields: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let asked = Asked {
        method: head.method.as_str(),
        path: &path,
        fields: &fields,
    };
    let rule = match choose(server, &asked).lower(&path) {
        Ok(rule) => rule,
        Err(error) => {
            eprintln!("backend {}: {error:#}", server.name);
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            return Outcome::Goes;
        }
    };
    match run(&mut respond, body, server, &rule, &entry, &path).await {
        Ok(outcome) => outcome,
        Err(_) => {
            entry.end(Ending::Aborted);
            Outcome::Goes
        }
    }
}

fn seen(head: &http::request::Parts, path: &str, number: u32, tls: Value) -> Map<String, Value> {
    let mut seen = Map::new();
    seen.insert("method".to_owned(), json!(head.method.as_str()));
    seen.insert("path".to_owned(), json!(path));
    seen.insert("version".to_owned(), json!("HTTP/2"));
    seen.insert(
        "authority".to_owned(),
        json!(head.uri.authority().map(|authority| authority.as_str())),
    );
    seen.insert("scheme".to_owned(), json!(head.uri.scheme_str()));
    if let Some(protocol) = head.extensions.get::<h2::ext::Protocol>() {
        seen.insert("protocol".to_owned(), json!(protocol.as_str()));
    }
    seen.insert("headers".to_owned(), headers(&head.headers));
    if !tls.is_null() {
        seen.insert("tls".to_owned(), tls);
    }
    seen.insert("connection".to_owned(), json!(number));
    seen
}

async fn run(
    respond: &mut SendResponse<Bytes>,
    mut request: RecvStream,
    server: &Server,
    rule: &Rule,
    entry: &Entry,
    path: &str,
) -> anyhow::Result<Outcome> {
    let mut body = Vec::new();
    if rule.early || rule.upgrade.is_some() {
        entry.end(Ending::Ignored);
    } else {
        body = receive(&mut request, entry, path).await?;
    }
    if rule.never {
        poll_fn(|context| respond.poll_reset(context)).await?;
        return Ok(Outcome::Goes);
    }
    if let Some(delay) = rule.delay {
        tokio::select! {
            () = tokio::time::sleep(delay.0) => {}
            reset = poll_fn(|context| respond.poll_reset(context)) => { reset?; return Ok(Outcome::Goes); }
        }
    }
    if rule.hang_up == Some(Reset::Head) {
        return Ok(Outcome::HangsUp);
    }
    if rule.reset == Some(Reset::Head) {
        respond.send_reset(reason(rule.code.as_deref()));
        return Ok(Outcome::Goes);
    }
    for early in &rule.informational {
        let mut head = Response::new(());
        *head.status_mut() = http::StatusCode::from_u16(early.status)?;
        *head.headers_mut() = map(&pairs(&early.headers))?;
        respond.send_informational(head)?;
    }
    let outcome = answer(respond, request, server, rule, &body, entry).await?;
    Ok(outcome)
}

async fn answer(
    respond: &mut SendResponse<Bytes>,
    mut request: RecvStream,
    server: &Server,
    rule: &Rule,
    asked_body: &[u8],
    entry: &Entry,
) -> anyhow::Result<Outcome> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(rule.status.unwrap_or(200))?;
    *head.headers_mut() = map(&pairs(&rule.headers))?;
    let trailers = map(&pairs(&rule.trailers))?;
    if rule.upgrade.is_some() {
        let mut stream = respond.send_response(head, false)?;
        while let Some(piece) = request.data().await {
            let piece = piece?;
            let _ = request.flow_control().release_capacity(piece.len());
            entry.update(|seen| seen.body.extend_from_slice(&piece));
            write(&mut stream, piece, false).await?;
        }
        stream.send_data(Bytes::new(), true)?;
        return Ok(Outcome::Goes);
    }
    let pieces = rule.body(&server.name, asked_body)?;
    let length: usize = pieces.iter().map(Vec::len).sum();
    let goes_on = rule.reset.is_some() || rule.hang_up.is_some();
    let ends_here = length == 0 && trailers.is_empty() && !goes_on;
    let mut stream = respond.send_response(head, ends_here)?;
    if !ends_here {
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            if let (Some(pause), true) = (rule.between, index > 0) {
                tokio::time::sleep(pause.0).await;
            }
            let is_last = index + 1 == count && trailers.is_empty() && !goes_on;
            write(&mut stream, piece.into(), is_last).await?;
        }
        match (rule.reset, rule.hang_up) {
            (Some(_), _) => stream.send_reset(reason(rule.code.as_deref())),
            (_, Some(_)) => return Ok(Outcome::HangsUp),
            _ if !trailers.is_empty() => stream.send_trailers(trailers)?,
            _ => {}
        }
    }
    if rule.early && !goes_on {
        receive(&mut request, entry, "").await?;
    }
    Ok(if rule.close {
        Outcome::Closes
    } else {
        Outcome::Goes
    })
}

/// Reads the request to its end; gRPC messages are decoded as they come.
async fn receive(request: &mut RecvStream, entry: &Entry, path: &str) -> anyhow::Result<Vec<u8>> {
    let name = grpc::request_type(path);
    let (mut body, mut unread) = (Vec::new(), Vec::new());
    while let Some(piece) = request.data().await {
        let piece = piece?;
        let _ = request.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
        unread.extend_from_slice(&piece);
        let messages = if entry.is_grpc {
            grpc::take(&mut unread)
        } else {
            Vec::new()
        };
        entry.update(|seen| {
            seen.body.extend_from_slice(&piece);
            seen.messages
                .extend(messages.iter().map(|message| grpc::message(name, message)));
        });
    }
    let trailers = request.trailers().await?;
    entry.update(|seen| seen.trailers = trailers.as_ref().map(headers).unwrap_or_default());
    entry.end(Ending::Complete);
    Ok(body)
}

fn map(pairs: &[(String, String)]) -> anyhow::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_bytes(name.to_lowercase().as_bytes())?,
            HeaderValue::from_bytes(value.as_bytes())?,
        );
    }
    Ok(map)
}

/// A reset's code from its name in RFC 9113.
pub(crate) fn reason(name: Option<&str>) -> h2::Reason {
    use h2::Reason;
    match name {
        Some("NO_ERROR") => Reason::NO_ERROR,
        Some("PROTOCOL_ERROR") => Reason::PROTOCOL_ERROR,
        Some("REFUSED_STREAM") => Reason::REFUSED_STREAM,
        Some("CANCEL") => Reason::CANCEL,
        Some("ENHANCE_YOUR_CALM") => Reason::ENHANCE_YOUR_CALM,
        Some("HTTP_1_1_REQUIRED") => Reason::HTTP_1_1_REQUIRED,
        _ => Reason::INTERNAL_ERROR,
    }
}

/// A stream that first gives back what was read to find the version.
struct Replayed {
    before: BytesMut,
    io: Box<dyn Duplex>,
}

impl AsyncRead for Replayed {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.before.is_empty() {
            return Pin::new(&mut this.io).poll_read(context, into);
        }
        let length = this.before.len().min(into.remaining());
        into.put_slice(&this.before[..length]);
        this.before.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
