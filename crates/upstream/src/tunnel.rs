//! An HTTP exchange as a byte stream: the payload of a CONNECT, or both bodies of a POST.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use meltemi_wire::http1::Piece;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exchange::{Exchange, StreamError};
use crate::pool::ConnFacts;

/// The byte stream of an exchange whose response head has come. Dropping it ends the exchange.
#[derive(Debug)]
pub struct Tunnel {
    exchange: Exchange,
    unread: Bytes,
    /// The upstream sends no more.
    ended: bool,
    /// We send no more.
    shut: bool,
}

impl Tunnel {
    /// Over an exchange that the upstream agreed to.
    pub fn new(exchange: Exchange) -> Self {
        Self {
            exchange,
            unread: Bytes::new(),
            ended: false,
            shut: false,
        }
    }

    /// Facts of the connection below.
    pub fn facts(&self) -> &ConnFacts {
        self.exchange.connection()
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::other(error)
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.exchange.poll_body(cx)).map_err(broken)? {
                Piece::Data(data) => self.unread = data,
                Piece::End(_) => self.ended = true,
                Piece::NeedMore => return Poll::Pending,
            }
        }
        let count = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.exchange.congested() {
            ready!(self.exchange.poll_flush(cx)).map_err(broken)?;
        }
        let data = Bytes::copy_from_slice(buf);
        self.exchange.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.shut, true) {
            self.exchange.send_end(None).map_err(broken)?;
        }
        self.exchange.poll_flush(cx).map_err(broken)
    }
}
