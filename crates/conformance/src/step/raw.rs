//! Raw bytes on a connection: pipelined, split, half-closed, or no HTTP at all.

use std::net::IpAddr;

use fluke_hpack::Decoder;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Context, PATIENCE};
use crate::bytes_spec::{Data, observed};
use crate::client::connect::{Opened, Target, Tls};
use crate::client::frames::{self, Frame, Until};
use crate::client::wire::{Wire, ending_of};
use crate::client::{Connection, http1};
use crate::span::Span;

/// A conversation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    to: Option<Value>,
    from: Option<IpAddr>,
    prefix: Option<Data>,
    tls: Option<Tls>,
    connection: Option<String>,
    /// In order.
    exchange: Vec<Turn>,
}

/// One turn.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Turn {
    /// Sends bytes.
    Send(Data),
    /// Lets time pass, so that what was sent arrives alone.
    Pause(Span),
    /// Reads so many HTTP/1 responses, each to a request of this method.
    Responses(Vec<String>),
    /// Reads so many bytes.
    Bytes(usize),
    /// Reads until a text has come.
    Until(String),
    /// Sends HTTP/2 frames.
    Frames(Vec<Frame>),
    /// Reads HTTP/2 frames.
    ReadFrames(Until),
    /// Reads until the end of the connection, at most so long.
    Ending(Span),
    /// Ends our direction.
    Shutdown,
    /// Closes the connection.
    Close,
}

impl Raw {
    /// Talks.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let kept = self
            .connection
            .as_deref()
            .and_then(|name| context.connections.take(name));
        let mut wire = match kept {
            Some(Connection::Bytes(wire)) => wire,
            Some(Connection::Http2(_)) => anyhow::bail!("the connection speaks HTTP/2"),
            None => match self.connect(context).await? {
                Ok(wire) => wire,
                Err(failed) => return Ok(json!({ "connect": failed })),
            },
        };
        let mut seen = Map::new();
        if !wire.tls.is_null() {
            seen.insert("tls".to_owned(), wire.tls.clone());
        }
        let mut decoder = Decoder::new();
        let mut is_closed = false;
        for turn in &self.exchange {
            if matches!(turn, Turn::Close) {
                is_closed = true;
                break;
            }
            turn.play(&mut wire, &mut decoder, &mut seen).await?;
        }
        if let (Some(name), false) = (&self.connection, is_closed) {
            context.connections.keep(name, Connection::Bytes(wire));
        }
        Ok(Value::Object(seen))
    }

    async fn connect(&self, context: &Context<'_>) -> anyhow::Result<Result<Wire, String>> {
        let target = Target {
            to: self.to.clone(),
            from: self.from,
            prefix: self.prefix.clone(),
            tls: self.tls.clone(),
        };
        Ok(
            match target.open(context.port, context.certificates).await? {
                Opened::Wire(wire, port) => {
                    if let Some(port) = port {
                        context.connections.local_port(port);
                    }
                    Ok(wire)
                }
                Opened::Failed(how) => Err(how),
            },
        )
    }
}

impl Turn {
    async fn play(
        &self,
        wire: &mut Wire,
        decoder: &mut Decoder<'static>,
        seen: &mut Map<String, Value>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Send(data) => {
                if let Err(error) = wire.send(&data.bytes()?).await {
                    seen.insert("send".to_owned(), json!(ending_of(&error)));
                }
            }
            Self::Pause(span) => tokio::time::sleep(span.0).await,
            Self::Responses(methods) => {
                for method in methods {
                    let response =
                        tokio::time::timeout(PATIENCE, http1::response(wire, method)).await;
                    let response = response.unwrap_or_else(|_| json!({ "timeout": true }));
                    push(seen, "responses", response);
                }
            }
            Self::Bytes(count) => {
                let complete = read_until(wire, |bytes| bytes.len() >= *count).await;
                let here = wire.buffer.len().min(*count);
                push(seen, "received", observed(&wire.buffer.split_to(here)));
                note(seen, complete);
            }
            Self::Until(text) => {
                let find = |bytes: &[u8]| {
                    bytes
                        .windows(text.len())
                        .position(|window| window == text.as_bytes())
                };
                let complete = read_until(wire, |bytes| find(bytes).is_some()).await;
                let end = find(&wire.buffer).map_or(wire.buffer.len(), |start| start + text.len());
                push(seen, "received", observed(&wire.buffer.split_to(end)));
                note(seen, complete);
            }
            Self::Frames(frames) => {
                let bytes: anyhow::Result<Vec<Vec<u8>>> = frames.iter().map(Frame::bytes).collect();
                if let Err(error) = wire.send(&bytes?.concat()).await {
                    seen.insert("send".to_owned(), json!(ending_of(&error)));
                }
            }
            Self::ReadFrames(until) => {
                let reading = frames::read(wire, decoder, until);
                let read = tokio::time::timeout(PATIENCE, reading).await;
                for frame in read.unwrap_or_else(|_| vec![json!("timeout")]) {
                    push(seen, "frames", frame);
                }
            }
            Self::Ending(span) => {
                let ending = wire.ending(span.0).await;
                if !wire.buffer.is_empty() {
                    push(seen, "received", observed(&wire.buffer.split()));
                }
                seen.insert("ending".to_owned(), ending);
            }
            Self::Shutdown => wire.io.shutdown().await?,
            Self::Close => {}
        }
        Ok(())
    }
}

async fn read_until(wire: &mut Wire, done: impl Fn(&[u8]) -> bool) -> Result<(), &'static str> {
    let reading = async {
        while !done(&wire.buffer) {
            match wire.more().await {
                Ok(0) => return Err("eof"),
                Ok(_) => {}
                Err(error) => return Err(ending_of(&error)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or(Err("timeout"))
}

fn note(seen: &mut Map<String, Value>, complete: Result<(), &'static str>) {
    if let Err(how) = complete {
        seen.insert("ending".to_owned(), json!(how));
    }
}

fn push(seen: &mut Map<String, Value>, key: &str, value: Value) {
    let list = seen.entry(key).or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        list.push(value);
    }
}
