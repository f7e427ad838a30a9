//! One HTTP/1 connection over a [`Stream`]: the same driver for the server and the client side.
//!
//! Everything is a `poll_` function on `&mut self`, so one task can pump both directions of an exchange over the
//! same connection without splitting or locking it. Idle connections hold no buffer: small reads go through a
//! scratch buffer of the thread, large bodies are read straight into what is forwarded.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Method, StatusCode};
use meltemi_wire::http1::body::{BodyDecoder, BodyError};
use meltemi_wire::http1::case::{Casing, HeaderCase};
use meltemi_wire::http1::encode::{self, ResponseBody};
use meltemi_wire::http1::head::{HeadDecoder, HeadError, HeadLimits, RequestHead, ResponseHead};
use meltemi_wire::http1::{Framing, Piece, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::output::{Output, high_water};
use crate::stream::Stream;

/// Size of the scratch buffer that small reads go through.
const SCRATCH: usize = 16 * 1024;
/// Size of the buffer for bodies known to be large: one read empties a default socket buffer's worth.
const LARGE_READ: usize = 64 * 1024;
/// A read at least this large makes the next one go to a large buffer.
const LARGE_FROM: usize = 8 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What went wrong on an HTTP/1 connection.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// The peer sent a head that is refused.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The peer's body breaks the framing.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The connection ended inside a message.
    #[error("connection closed inside a message")]
    Closed,
    /// We were given more or fewer body bytes than announced.
    #[error("body length differs from content-length")]
    LengthMismatch,
    /// The socket failed.
    #[error("socket")]
    Io(#[from] io::Error),
}

/// An HTTP/1 connection.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    input: BytesMut,
    output: Output,
    head: HeadDecoder,
    body_in: BodyDecoder,
    body_out: BodyOut,
    eof: bool,
    last_read: usize,
    proper_case: bool,
    spelling: Option<Arc<HeaderCase>>,
    /// Of our responses.
    version: Version,
    /// Bytes read since [`Conn::take_wire`].
    received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyOut {
    /// Nothing more may be sent.
    Done,
    Length(u64),
    Chunked,
    /// Raw bytes; the end closes our side of the connection.
    UntilClose,
    Shutdown,
}

impl Conn {
    /// A connection over a fresh stream.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: Output::default(),
            head: HeadDecoder::default(),
            body_in: BodyDecoder::new(Framing::None),
            body_out: BodyOut::Done,
            eof: false,
            last_read: 0,
            proper_case: false,
            spelling: None,
            version: Version::Http11,
            received: 0,
        }
    }

    /// So many bytes may wait to be sent before the other side is no longer read.
    pub fn set_buffer_limit(&mut self, limit: u32) {
        self.output.set_high_water(high_water(limit));
    }

    /// Header names go out as `Proper-Case` (`header_key_format`).
    pub fn set_proper_case(&mut self, proper: bool) {
        self.proper_case = proper;
    }

    /// Our responses name this version: that of the request, where HTTP/1.0 is served.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The next head's names go out as the peer of the other side spelt them.
    pub fn set_spelling(&mut self, spelling: Option<Arc<HeaderCase>>) {
        self.spelling = spelling;
    }

    /// The stream below.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What was received and not yet decoded.
    pub fn buffered(&self) -> &[u8] {
        &self.input
    }

    /// The stream and the bytes read ahead of it, to hand the connection to another protocol.
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.input.freeze())
    }

    /// Bytes sent and received since the last call; what was read ahead counts for the next one.
    pub fn take_wire(&mut self) -> (u64, u64) {
        let ahead = self.input.len() as u64;
        let received = std::mem::replace(&mut self.received, ahead);
        (self.output.take_total(), received.saturating_sub(ahead))
    }

    /// True when nothing is left over from the last exchange and the peer said nothing since.
    pub fn is_reusable(&mut self) -> bool {
        !self.eof
            && self.input.is_empty()
            && self.output.waiting() == 0
            && self.body_in.is_done()
            && self.body_out == BodyOut::Done
            && self.stream.is_quiet()
    }

    /// Gives buffers back while the connection is idle.
    pub fn release_buffers(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.output.release();
    }

    /// Reads more; 0 is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let large = self.last_read >= LARGE_FROM
            || self
                .body_in
                .remaining()
                .is_some_and(|left| left >= 16 * 1024);
        let count = if large {
            self.input.reserve(LARGE_READ);
            ready!(poll_read_buf(&mut self.stream, cx, &mut self.input))?
        } else {
            let (stream, input) = (&mut self.stream, &mut self.input);
            ready!(SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
                input.extend_from_slice(buf.filled());
                Poll::Ready(io::Result::Ok(buf.filled().len()))
            }))?
        };
        self.last_read = count;
        self.received += count as u64;
        self.eof |= count == 0;
        Poll::Ready(Ok(count))
    }

    /// The next request head; `None` when the client closed between requests.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        limits: &HeadLimits,
    ) -> Poll<Result<Option<RequestHead>, Http1Error>> {
        loop {
            if let Some(head) = self.head.request(&mut self.input, limits)? {
                self.body_in = BodyDecoder::new(head.framing);
                self.last_read = 0;
                return Poll::Ready(Ok(Some(head)));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(if self.input.is_empty() {
                    Ok(None)
                } else {
                    Err(Http1Error::Closed)
                });
            }
        }
    }

    /// The next response head (interim ones included) to a request with `method`.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        limits: &HeadLimits,
        method: &Method,
    ) -> Poll<Result<ResponseHead, Http1Error>> {
        loop {
            if let Some(head) = self.head.response(&mut self.input, limits, method)? {
                self.body_in = BodyDecoder::new(head.framing);
                self.last_read = 0;
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(Http1Error::Closed));
            }
        }
    }

    /// The next piece of the message body; never [`Piece::NeedMore`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Http1Error>> {
        loop {
            match self.body_in.decode(&mut self.input)? {
                Piece::NeedMore => {}
                piece => return Poll::Ready(Ok(piece)),
            }
            if ready!(self.poll_fill(cx))? == 0 {
                self.body_in.end_of_input()?;
            }
        }
    }

    /// The whole incoming message was taken.
    pub fn body_finished(&self) -> bool {
        self.body_in.is_done()
    }

    /// Our whole outgoing message was handed over (not necessarily flushed).
    pub fn output_finished(&self) -> bool {
        matches!(self.body_out, BodyOut::Done | BodyOut::Shutdown)
    }

    /// Queues a request head.
    pub fn send_request(
        &mut self,
        method: &Method,
        target: &[u8],
        host: &[u8],
        headers: &HeaderMap,
        framing: Framing,
    ) {
        let spelling = self.spelling.take();
        let case = casing(self.proper_case, spelling.as_deref());
        self.output
            .encode(|dst| encode::request(dst, method, target, host, headers, framing, case));
        self.body_out = match framing {
            Framing::None => BodyOut::Done,
            Framing::Length(length) => BodyOut::Length(length),
            Framing::Chunked | Framing::UntilClose => BodyOut::Chunked,
        };
    }

    /// Queues a response head. `sends_body` is false for HEAD, 204 and 304, whatever is announced.
    pub fn send_response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        body: ResponseBody,
        connection: Option<&str>,
        sends_body: bool,
    ) {
        let spelling = self.spelling.take();
        let case = casing(self.proper_case, spelling.as_deref());
        let version = self.version;
        self.output
            .encode(|dst| encode::response(dst, status, headers, body, connection, case, version));
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        self.body_out = match body {
            _ if !sends_body => BodyOut::Done,
            ResponseBody::Length(0) => BodyOut::Done,
            ResponseBody::Length(length) => BodyOut::Length(length),
            ResponseBody::Chunked => BodyOut::Chunked,
            ResponseBody::Unannounced => BodyOut::UntilClose,
        };
    }

    /// From now on both directions are raw bytes until close (after 101, or 200 to CONNECT).
    pub fn switch_to_raw(&mut self) {
        self.body_in = BodyDecoder::new(Framing::UntilClose);
        self.body_out = BodyOut::UntilClose;
    }

    /// Only the outgoing direction becomes raw; the peer's answer is not there yet.
    pub fn switch_output_to_raw(&mut self) {
        self.body_out = BodyOut::UntilClose;
    }

    /// Queues body bytes.
    ///
    /// # Errors
    /// When they exceed the announced length.
    pub fn send_data(&mut self, data: Bytes) -> Result<(), Http1Error> {
        match &mut self.body_out {
            BodyOut::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(Http1Error::LengthMismatch)?;
                if *left == 0 {
                    self.body_out = BodyOut::Done;
                }
                self.output.push(data);
            }
            BodyOut::Chunked => {
                self.output
                    .encode(|dst| encode::chunk_size(dst, data.len()));
                self.output.push(data);
                self.output.encode(|dst| dst.extend_from_slice(b"\r\n"));
            }
            BodyOut::UntilClose => self.output.push(data),
            // A response to HEAD, or a peer that sends more than it announced: nothing may follow on the wire.
            BodyOut::Done | BodyOut::Shutdown => {}
        }
        Ok(())
    }

    /// Ends the outgoing message. Trailers are dropped unless the framing can carry them.
    ///
    /// # Errors
    /// When fewer bytes were sent than announced.
    pub fn send_end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Http1Error> {
        match self.body_out {
            BodyOut::Length(left) if left > 0 => return Err(Http1Error::LengthMismatch),
            BodyOut::Length(_) | BodyOut::Done => self.body_out = BodyOut::Done,
            BodyOut::Chunked => {
                self.output.encode(|dst| encode::last_chunk(dst, trailers));
                self.body_out = BodyOut::Done;
            }
            BodyOut::UntilClose | BodyOut::Shutdown => self.body_out = BodyOut::Shutdown,
        }
        Ok(())
    }

    /// True when the other side should not be read for now.
    pub fn congested(&self) -> bool {
        self.output.congested()
    }

    /// What is queued goes out when the other tasks that are ready have had their turn.
    pub fn defers(&self) -> bool {
        self.output.defers()
    }

    /// Queued outgoing bytes.
    pub fn waiting(&self) -> usize {
        self.output.waiting()
    }

    /// Writes all that is queued, and the end of the stream where that ends the message.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.poll_flush(&mut self.stream, cx))?;
        if self.body_out == BodyOut::Shutdown {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.body_out = BodyOut::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that is queued and closes our side.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.poll_flush(&mut self.stream, cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A spelling that came with the message goes before the connection's own.
fn casing(proper: bool, spelling: Option<&HeaderCase>) -> Casing<'_> {
    match spelling {
        Some(spelling) => Casing::Kept(spelling),
        None if proper => Casing::Proper,
        None => Casing::Lower,
    }
}

/// Reads into the spare capacity of `buf`.
fn poll_read_buf(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let future = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(stream, buf));
    // `read_buf` keeps no state between polls, so a fresh future continues where the last one stopped.
    future.poll(cx)
}
