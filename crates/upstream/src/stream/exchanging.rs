//! A stream on which both sides say who they are before their first byte (Istio's TCP metadata exchange).
//!
//! Our preamble goes out as soon as somebody reads or writes; the peer's is taken off what it sends. Neither waits for
//! the other, so that servers that speak first are heard, and peers that turn out to have nothing to tell.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use meltemi_wire::peer_exchange::{self, Found, HEADER};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// What is known of the peer's preamble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It has not come yet.
    Nothing,
    /// The peer has none.
    Absent,
    /// Its message.
    Message(Bytes),
}

/// A stream that begins with the preambles.
#[derive(Debug)]
pub struct Exchanging {
    inner: Stream,
    /// What is left of ours.
    ours: Bytes,
    unflushed: bool,
    /// The peer's first bytes: its preamble, then what has to be handed out before the stream's own bytes.
    ahead: BytesMut,
    told: Told,
}

impl Exchanging {
    pub(super) fn new(inner: Stream, ours: Bytes) -> Self {
        Self {
            inner,
            ours,
            unflushed: false,
            ahead: BytesMut::new(),
            told: Told::Nothing,
        }
    }

    pub(super) fn inner(&self) -> &Stream {
        &self.inner
    }

    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ours.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.ours))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ours.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when it is known what the peer tells.
    fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match peer_exchange::inspect(&self.ahead) {
                Found::Absent => self.told = Told::Absent,
                Found::TooLong => {
                    let reason = "the peer's preamble is too long";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
                Found::Message(length) => {
                    self.ahead.advance(HEADER);
                    self.told = Told::Message(self.ahead.split_to(length).freeze());
                }
                Found::NeedMore => {
                    let read = tokio::io::AsyncReadExt::read_buf(&mut self.inner, &mut self.ahead);
                    if ready!(std::pin::pin!(read).poll(cx))? > 0 {
                        continue;
                    }
                    // It ended amid what could have been one.
                    self.told = Told::Absent;
                }
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncRead for Exchanging {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Reading goes on while the peer takes nothing.
        if let Poll::Ready(Err(error)) = self.poll_tell(cx) {
            return Poll::Ready(Err(error));
        }
        if self.told == Told::Nothing {
            ready!(self.poll_listen(cx))?;
        }
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Exchanging {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::stream::Socket;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn pair(ours: &[u8]) -> (Stream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let stream = Stream::Plain(Socket::unix(near));
        let ours = peer_exchange::frame(ours).into();
        (stream.exchanging(ours), far)
    }

    #[tokio::test]
    async fn both_say_who_they_are_and_the_bytes_follow() {
        let (mut stream, mut far) = pair(b"me");
        far.write_all(&peer_exchange::frame(b"you")).await.unwrap();
        far.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        assert_eq!(stream.told(), Some(&Told::Message("you".into())));
        let mut ours = vec![0; HEADER + 2];
        far.read_exact(&mut ours).await.unwrap();
        assert_eq!(ours, peer_exchange::frame(b"me"));
    }

    #[tokio::test]
    async fn a_peer_without_preamble_loses_no_byte() {
        let (mut stream, mut far) = pair(b"me");
        far.write_all(&[0x3D, 0x23]).await.unwrap();
        drop(far.shutdown().await);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0x3D, 0x23]);
        assert_eq!(stream.told(), Some(&Told::Absent));
    }

    #[tokio::test]
    async fn a_preamble_beyond_the_limit_ends_the_connection() {
        let (mut stream, mut far) = pair(b"me");
        let mut bytes = peer_exchange::MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0xFF; 4]);
        far.write_all(&bytes).await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
}
