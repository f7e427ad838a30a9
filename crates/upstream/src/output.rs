//! Outgoing bytes of one connection: small pieces are gathered, large ones queued, all leave in one `writev`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::stream::Stream;

/// Pieces up to this size are copied together: cheaper than one more slice.
const COPY_BELOW: usize = 2 * 1024;
/// Most slices of one `writev`.
const MAX_SLICES: usize = 16;
/// Above this many waiting bytes the other side is no longer read. Small, because every proxied byte in here
/// is memory of a slow reader; large enough for a full socket buffer's worth of work per wake-up.
pub const HIGH_WATER: usize = 64 * 1024;

/// The part of [`HIGH_WATER`] that a connection with this buffer limit (`per_connection_buffer_limit_bytes`, 0 is
/// none) may use.
pub fn high_water(buffer_limit: u32) -> usize {
    match buffer_limit as usize {
        0 => HIGH_WATER,
        limit => limit.min(HIGH_WATER),
    }
}

/// The queue.
#[derive(Debug)]
pub struct Output {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    /// Everything appended since it was last asked for.
    total: u64,
    unflushed: bool,
    high: usize,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            total: 0,
            unflushed: false,
            high: HIGH_WATER,
        }
    }
}

impl Output {
    /// Changes how many bytes may wait; see [`high_water`].
    pub fn set_high_water(&mut self, high: usize) {
        self.high = high;
    }

    /// Appends through an encoder.
    pub fn encode(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        let more = self.tail.len() - before;
        self.waiting += more;
        self.total += more as u64;
    }

    /// Appends bytes, by reference when they are many.
    pub fn push(&mut self, bytes: Bytes) {
        self.waiting += bytes.len();
        self.total += bytes.len() as u64;
        if bytes.len() < COPY_BELOW {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
        self.queue.push_back(bytes);
    }

    /// Bytes not yet accepted by the stream.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes appended since the last call.
    pub fn take_total(&mut self) -> u64 {
        std::mem::take(&mut self.total)
    }

    /// True when the source should pause.
    pub fn congested(&self) -> bool {
        self.waiting >= self.high
    }

    /// Gives the memory back; only when nothing waits.
    pub fn release(&mut self) {
        if self.waiting == 0 {
            self.tail = BytesMut::new();
            self.queue = VecDeque::new();
        }
    }

    /// Writes everything; returns the bytes written by this call once all is out.
    pub fn poll_flush(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.waiting > 0 {
            let written = ready!(self.poll_write(stream, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            return Pin::new(stream).poll_write(cx, &self.tail);
        }
        let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
        let parts = self
            .queue
            .iter()
            .map(|bytes| &bytes[..])
            .chain(std::iter::once(&self.tail[..]));
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = io::IoSlice::new(part);
            count += 1;
        }
        Pin::new(stream).poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.waiting -= written;
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.queue.pop_front();
        }
        if written == self.tail.len() {
            self.tail.clear();
        } else {
            self.tail.advance(written);
        }
    }
}
