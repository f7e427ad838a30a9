//! HTTP/2 through the h2 crate: one connection, many streams, what came back on each.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde_json::{Map, Value, json};

use super::http1::{field_map, insert_body};
use super::wire::Wire;
use crate::step::ASK_AGAIN;

/// How often to look whether extended CONNECT is allowed.
const SETTINGS_QUESTIONS: u32 = 50;

/// An open connection.
pub(crate) struct Http2 {
    send: SendRequest<Bytes>,
    /// Facts of the TLS session.
    pub(crate) tls: Value,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What to send on a stream.
pub(crate) struct Exchange {
    /// Head.
    pub(crate) head: Request<()>,
    /// DATA frames.
    pub(crate) body: Vec<Bytes>,
    /// Last fields.
    pub(crate) trailers: Option<http::HeaderMap>,
    /// The request's end is never sent.
    pub(crate) unfinished: bool,
}

impl Http2 {
    /// Speaks HTTP/2 on a stream.
    pub(crate) async fn start(wire: Wire) -> Result<Self, h2::Error> {
        let tls = wire.tls.clone();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .handshake(wire.io)
            .await?;
        Ok(Self {
            send,
            tls,
            driver: tokio::spawn(connection),
        })
    }

    /// How the peer ends the connection within a time: `eof`, `goaway: …`, or `open`.
    pub(crate) async fn ending(&mut self, limit: Duration) -> Value {
        match tokio::time::timeout(limit, &mut self.driver).await {
            Err(_) => json!("open"),
            Ok(Ok(Err(error))) => failure(&error),
            Ok(_) => json!("eof"),
        }
    }

    /// Sends a request and reads its response.
    pub(crate) async fn exchange(&self, exchange: Exchange) -> Value {
        let mut seen = Map::new();
        if let Err(error) = self.talk(exchange, &mut seen).await {
            seen.insert("broken".to_owned(), failure(&error));
        }
        Value::Object(seen)
    }

    async fn talk(
        &self,
        exchange: Exchange,
        seen: &mut Map<String, Value>,
    ) -> Result<(), h2::Error> {
        let mut send = self.send.clone().ready().await?;
        if exchange
            .head
            .extensions()
            .get::<h2::ext::Protocol>()
            .is_some()
        {
            // The peer's SETTINGS must have come; the crate gives no event for it.
            for _ in 0..SETTINGS_QUESTIONS {
                if send.is_extended_connect_protocol_enabled() {
                    break;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
        let has_more =
            !exchange.body.is_empty() || exchange.trailers.is_some() || exchange.unfinished;
        let (mut response, mut stream) = send.send_request(exchange.head, !has_more)?;
        let mut sending = None;
        if has_more {
            sending = Some(tokio::spawn(async move {
                let count = exchange.body.len();
                for (index, piece) in exchange.body.into_iter().enumerate() {
                    let is_last =
                        index + 1 == count && exchange.trailers.is_none() && !exchange.unfinished;
                    write(&mut stream, piece, is_last).await?;
                }
                if let Some(trailers) = exchange.trailers {
                    stream.send_trailers(trailers)?;
                }
                // The stream lives as long as the response is awaited.
                Ok::<_, h2::Error>(stream)
            }));
        }
        let mut informational = Vec::new();
        while let Some(head) = poll_fn(|context| response.poll_informational(context)).await {
            let head = head?;
            informational.push(
                json!({ "status": head.status().as_u16(), "headers": headers(head.headers()) }),
            );
            seen.insert("informational".to_owned(), json!(informational));
        }
        let result = read(response, seen).await;
        drop(sending);
        result
    }
}

async fn read(
    response: h2::client::ResponseFuture,
    seen: &mut Map<String, Value>,
) -> Result<(), h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    seen.insert("status".to_owned(), json!(head.status.as_u16()));
    seen.insert("version".to_owned(), json!("HTTP/2"));
    seen.insert("headers".to_owned(), headers(&head.headers));
    let mut bytes = Vec::new();
    let mut outcome = Ok(());
    while let Some(piece) = body.data().await {
        match piece {
            Ok(piece) => {
                let _ = body.flow_control().release_capacity(piece.len());
                bytes.extend_from_slice(&piece);
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    insert_body(seen, &bytes);
    outcome?;
    if let Some(trailers) = body.trailers().await? {
        seen.insert("trailers".to_owned(), headers(&trailers));
    }
    Ok(())
}

/// Writes a piece as the peer's window allows.
pub(crate) async fn write(
    stream: &mut h2::SendStream<Bytes>,
    mut piece: Bytes,
    is_last: bool,
) -> Result<(), h2::Error> {
    if piece.is_empty() {
        return stream.send_data(piece, is_last);
    }
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let granted = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(granted) => granted?,
            // The stream was reset; reading tells why.
            None => return Ok(()),
        };
        let now = piece.split_to(granted.min(piece.len()));
        let ends = is_last && piece.is_empty();
        stream.send_data(now, ends)?;
    }
    Ok(())
}

/// Fields as they are observed.
pub(crate) fn headers(fields: &http::HeaderMap) -> Value {
    let pairs: Vec<(String, String)> = fields
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    field_map(
        pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

/// A failure as it is observed: who ended what, with which code.
fn failure(error: &h2::Error) -> Value {
    let kind = match () {
        () if error.is_reset() => "reset",
        () if error.is_go_away() => "goaway",
        () if error.is_io() => "eof",
        () => "error",
    };
    match error.reason() {
        Some(reason) => json!(format!("{kind}: {reason:?}")),
        None => json!(kind),
    }
}
