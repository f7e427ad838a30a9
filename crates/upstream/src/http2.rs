//! Halves of one HTTP/2 stream, the same on both sides, with back-pressure as HTTP/1 has it.
//!
//! Received data gives its window back when it is taken, and it is only taken while the other side can accept
//! it; data to send waits for window and is never piled up inside the h2 crate.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::header::HeaderMap;
use meltemi_wire::http1::Piece;

/// What h2 buffers of one stream at most, where the connection's limit does not say less.
const SEND_BUFFER: usize = 400 * 1024;

/// Bytes of one stream that may wait to be sent on a connection with this limit
/// (`per_connection_buffer_limit_bytes`, 0 is none).
pub fn send_buffer(buffer_limit: u32) -> usize {
    match buffer_limit as usize {
        0 => SEND_BUFFER,
        limit => limit.min(SEND_BUFFER),
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Recv {
    stream: RecvStream,
    finished: bool,
}

impl Recv {
    /// Wraps the body of a request or response.
    pub fn new(stream: RecvStream) -> Self {
        Self {
            finished: stream.is_end_stream(),
            stream,
        }
    }

    /// The next piece; never [`Piece::NeedMore`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>> {
        loop {
            if self.finished {
                return Poll::Ready(Ok(Piece::End(None)));
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.finished = self.stream.is_end_stream();
                    if data.is_empty() {
                        continue;
                    }
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Ok(Piece::Data(data)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(cx))?;
                    self.finished = true;
                    return Poll::Ready(Ok(Piece::End(trailers)));
                }
            }
        }
    }

    /// The end of the stream was taken.
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct Send {
    stream: SendStream<Bytes>,
    waiting: Bytes,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    /// To be sent behind the waiting data.
    Queued(Option<HeaderMap>),
    Sent,
}

impl Send {
    /// Wraps the sending half; `finished` when the head ended the stream already.
    pub fn new(stream: SendStream<Bytes>, finished: bool) -> Self {
        Self {
            stream,
            waiting: Bytes::new(),
            end: if finished { End::Sent } else { End::Open },
        }
    }

    /// Takes data to send; only call while not [`Self::congested`].
    pub fn send_data(&mut self, data: Bytes, end: bool) {
        debug_assert!(self.waiting.is_empty(), "data sent while congested");
        self.stream.reserve_capacity(data.len());
        self.waiting = data;
        if end {
            self.end = End::Queued(None);
        }
    }

    /// Ends the stream behind what was sent.
    pub fn send_end(&mut self, trailers: Option<HeaderMap>) {
        if matches!(self.end, End::Open) {
            self.end = End::Queued(trailers);
        }
    }

    /// True while the last data has not been accepted.
    pub fn congested(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The end was handed to the connection.
    pub fn is_finished(&self) -> bool {
        matches!(self.end, End::Sent)
    }

    /// Moves waiting data into the connection as the window allows.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.waiting.is_empty() {
            let capacity = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(capacity) => capacity?,
                    None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                },
                capacity => capacity,
            };
            let count = capacity.min(self.waiting.len());
            if count == 0 {
                continue;
            }
            let part = self.waiting.split_to(count);
            let last = self.waiting.is_empty() && matches!(self.end, End::Queued(None));
            self.stream.send_data(part, last)?;
            if last {
                self.end = End::Sent;
            }
        }
        if let End::Queued(trailers) = &mut self.end {
            match trailers.take() {
                Some(trailers) => self.stream.send_trailers(trailers)?,
                None => self.stream.send_data(Bytes::new(), true)?,
            }
            self.end = End::Sent;
        }
        Poll::Ready(Ok(()))
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
        self.end = End::Sent;
    }

    /// Ready when the peer resets the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }
}
