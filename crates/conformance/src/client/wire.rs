//! A byte stream with a buffer for what was read ahead.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Any duplex stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A stream and what was read from it but not used yet.
pub(crate) struct Wire {
    /// The stream.
    pub(crate) io: Box<dyn Duplex>,
    /// Read ahead.
    pub(crate) buffer: BytesMut,
    /// Facts of the TLS session; null without TLS.
    pub(crate) tls: Value,
    /// True after the peer's end.
    pub(crate) ended: bool,
}

impl Wire {
    /// A fresh stream.
    pub(crate) fn new(io: Box<dyn Duplex>, tls: Value) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            tls,
            ended: false,
        }
    }

    /// Reads more into the buffer; 0 is the end.
    pub(crate) async fn more(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 * 1024);
        let read = self.io.read_buf(&mut self.buffer).await?;
        self.ended |= read == 0;
        Ok(read)
    }

    /// Writes everything.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// How the peer ends the connection within a time: `eof`, `reset`, or `open`. What comes before is kept.
    pub(crate) async fn ending(&mut self, limit: Duration) -> Value {
        let reading = async {
            loop {
                match self.more().await {
                    Ok(0) => return "eof",
                    Ok(_) => {}
                    Err(error) => return ending_of(&error),
                }
            }
        };
        json!(tokio::time::timeout(limit, reading).await.unwrap_or("open"))
    }
}

/// The name of an error's kind, as it is observed.
pub(crate) fn ending_of(error: &io::Error) -> &'static str {
    match error.kind() {
        // A TLS peer that closes without its close alert.
        io::ErrorKind::UnexpectedEof => "eof",
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => "reset",
        io::ErrorKind::ConnectionRefused => "refused",
        _ => "error",
    }
}
