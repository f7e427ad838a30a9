//! One byte stream, whatever carries it: TCP, a unix socket, or TLS on either side.
//!
//! Bytes that were read ahead while sniffing (`prefix`) are handed out first, so a stream can be passed on to
//! TLS, a codec or a raw copy as if nobody had looked at it.

mod exchanging;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

pub use exchanging::{Exchanging, Told};

/// A socket without TLS, with the bytes that were read ahead of it.
#[derive(Debug)]
pub struct Socket {
    prefix: Bytes,
    kind: SocketKind,
}

/// The kinds of sockets a proxy accepts and dials.
#[derive(Debug)]
pub enum SocketKind {
    /// TCP.
    Tcp(TcpStream),
    /// A unix domain socket.
    Unix(UnixStream),
}

impl Socket {
    /// A socket nothing was read from yet.
    pub fn tcp(stream: TcpStream) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: SocketKind::Tcp(stream),
        }
    }

    /// A unix socket nothing was read from yet.
    pub fn unix(stream: UnixStream) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: SocketKind::Unix(stream),
        }
    }

    /// Puts bytes back in front; they come before any that were put back earlier.
    pub fn unread(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.prefix = if self.prefix.is_empty() {
            bytes
        } else {
            [bytes, self.prefix.clone()].concat().into()
        };
    }

    /// The socket itself, for options and addresses.
    pub fn kind(&self) -> &SocketKind {
        &self.kind
    }

    /// Local address, when the socket is TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            SocketKind::Tcp(tcp) => tcp.local_addr().ok(),
            SocketKind::Unix(_) => None,
        }
    }

    /// Splits the socket into what was read ahead and the rest; used by raw copies.
    pub fn into_parts(self) -> (Bytes, SocketKind) {
        (self.prefix, self.kind)
    }
}

/// A socket that no runtime drives, on its way to another thread.
#[derive(Debug)]
pub struct DetachedSocket {
    prefix: Bytes,
    kind: DetachedKind,
}

#[derive(Debug)]
enum DetachedKind {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// Takes the socket out of this thread's runtime.
    ///
    /// # Errors
    /// When the runtime does not give it up.
    pub fn detach(self) -> io::Result<DetachedSocket> {
        let kind = match self.kind {
            SocketKind::Tcp(tcp) => DetachedKind::Tcp(tcp.into_std()?),
            SocketKind::Unix(unix) => DetachedKind::Unix(unix.into_std()?),
        };
        Ok(DetachedSocket {
            prefix: self.prefix,
            kind,
        })
    }
}

impl DetachedSocket {
    /// Gives the socket to this thread's runtime.
    ///
    /// # Errors
    /// When the runtime cannot take it.
    pub fn adopt(self) -> io::Result<Socket> {
        let kind = match self.kind {
            DetachedKind::Tcp(tcp) => SocketKind::Tcp(TcpStream::from_std(tcp)?),
            DetachedKind::Unix(unix) => SocketKind::Unix(UnixStream::from_std(unix)?),
        };
        Ok(Socket {
            prefix: self.prefix,
            kind,
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            return Poll::Ready(Ok(()));
        }
        match &mut self.kind {
            SocketKind::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            SocketKind::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            SocketKind::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            SocketKind::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            SocketKind::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            SocketKind::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            SocketKind::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            SocketKind::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

/// A connection's byte stream.
#[derive(Debug)]
pub enum Stream {
    /// No TLS.
    Plain(Socket),
    /// TLS, we are the server.
    Server(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// TLS, we are the client.
    Client(Box<tokio_rustls::client::TlsStream<Socket>>),
    /// Any of these, after the preambles of Istio's TCP metadata exchange.
    Exchanging(Box<Exchanging>),
}

impl Stream {
    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Server(tls) => tls.get_ref().0,
            Self::Client(tls) => tls.get_ref().0,
            Self::Exchanging(stream) => stream.inner().socket(),
        }
    }

    /// The TLS session's common state, when there is one.
    pub fn tls(&self) -> Option<&rustls::CommonState> {
        match self {
            Self::Plain(_) => None,
            Self::Server(tls) => Some(tls.get_ref().1),
            Self::Client(tls) => Some(tls.get_ref().1),
            Self::Exchanging(stream) => stream.inner().tls(),
        }
    }

    /// The same stream, on which `ours` (a [framed](meltemi_wire::peer_exchange::frame) message) goes first and the
    /// peer's preamble is taken off.
    #[must_use]
    pub fn exchanging(self, ours: Bytes) -> Self {
        Self::Exchanging(Box::new(Exchanging::new(self, ours)))
    }

    /// What the peer told in its preamble; `None` where nobody asked.
    pub fn told(&self) -> Option<&Told> {
        match self {
            Self::Exchanging(stream) => Some(stream.told()),
            _ => None,
        }
    }

    /// The negotiated application protocol.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls().and_then(rustls::CommonState::alpn_protocol)
    }

    /// True when an idle stream can still be used: nothing to read, not closed. Costs no system call unless
    /// the socket signalled something.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut buf).is_pending()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Server(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Client(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Exchanging(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Server(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Client(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Exchanging(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Server(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Client(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Exchanging(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Server(tls) => Pin::new(tls).poll_flush(cx),
            Self::Client(tls) => Pin::new(tls).poll_flush(cx),
            Self::Exchanging(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Server(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Client(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Exchanging(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A stream whose first bytes were read ahead.
#[derive(Debug)]
pub struct Rewound {
    ahead: Bytes,
    stream: Stream,
}

impl Rewound {
    /// Hands out `ahead` before the stream's own bytes.
    pub fn new(ahead: Bytes, stream: Stream) -> Self {
        Self { ahead, stream }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
