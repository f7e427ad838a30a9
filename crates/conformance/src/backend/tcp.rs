//! A TCP backend: a script of bytes.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use super::Server;
use crate::bytes_spec::Data;
use crate::client::wire::{Duplex, Wire};
use crate::record::{Ending, Entry};
use crate::span::Span;

/// One turn of a script.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Turn {
    /// Sends bytes.
    Send(Data),
    /// Waits until so many bytes have come since the start or the last wait.
    Await(usize),
    /// Waits.
    Pause(Span),
    /// Ends our direction.
    Shutdown,
    /// Closes with a reset of the connection's buffers, as when a process dies.
    Close,
    /// Sends back what comes until the peer ends, then ends too.
    Echo,
}

/// Serves a connection by its script; without one it sends back what comes.
pub(crate) async fn serve(io: Box<dyn Duplex>, server: &Server, number: u32, tls: Value) {
    let mut head = Map::new();
    if !tls.is_null() {
        head.insert("tls".to_owned(), tls);
    }
    head.insert("connection".to_owned(), json!(number));
    let entry = server.recorder.begin(&server.name, head, true);
    let scripts = server.spec.lock().scripts.clone();
    let index = (number as usize - 1).min(scripts.len().saturating_sub(1));
    let script = scripts
        .get(index)
        .cloned()
        .unwrap_or_else(|| vec![Turn::Echo]);
    let mut wire = Wire::new(io, Value::Null);
    let ended = match play(&mut wire, &script, &entry).await {
        Ok(true) => {
            let _ = wire.io.shutdown().await;
            drain(&mut wire, &entry).await
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    entry.end(if ended.is_ok() {
        Ending::Complete
    } else {
        Ending::Aborted
    });
}

/// Plays a script; `true` when the connection should be ended in good order.
async fn play(wire: &mut Wire, script: &[Turn], entry: &Entry) -> anyhow::Result<bool> {
    for turn in script {
        match turn {
            Turn::Send(data) => wire.send(&data.bytes()?).await?,
            Turn::Await(count) => {
                while wire.buffer.len() < *count {
                    anyhow::ensure!(more(wire, entry).await? > 0, "ended early");
                }
                let _ = wire.buffer.split_to(*count);
            }
            Turn::Pause(span) => tokio::time::sleep(span.0).await,
            Turn::Shutdown => wire.io.shutdown().await?,
            Turn::Close => return Ok(false),
            Turn::Echo => loop {
                let piece = wire.buffer.split();
                wire.send(&piece).await?;
                if more(wire, entry).await? == 0 {
                    return Ok(true);
                }
            },
        }
    }
    Ok(true)
}

async fn more(wire: &mut Wire, entry: &Entry) -> std::io::Result<usize> {
    let before = wire.buffer.len();
    let read = wire.more().await?;
    entry.update(|seen| seen.body.extend_from_slice(&wire.buffer[before..]));
    Ok(read)
}

async fn drain(wire: &mut Wire, entry: &Entry) -> anyhow::Result<()> {
    while more(wire, entry).await? > 0 {
        wire.buffer.clear();
    }
    Ok(())
}
