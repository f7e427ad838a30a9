//! Outgoing bytes of one connection: small pieces are gathered, large ones queued, all leave in one `writev`.
//!
//! A small message first lets the other tasks that are ready have their turn. What a worker has read then goes out in one
//! go: the receiver wakes up once for many messages instead of once, often across processors, for each.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::stream::Stream;

/// Pieces up to this size are copied together: cheaper than one more slice.
const COPY_BELOW: usize = 2 * 1024;
/// Messages below this size wait for the others of their turn; larger ones are worth a wake-up.
const DEFER_BELOW: usize = 16 * 1024;
/// Most slices of one `writev`.
const MAX_SLICES: usize = 16;
/// Above this many waiting bytes the other side is no longer read. Small, because every proxied byte in here
/// is memory of a slow reader; large enough for a full socket buffer's worth of work per wake-up.
pub const HIGH_WATER: usize = 64 * 1024;

/// Room that a fresh tail gets: most heads with a small body.
const TAIL_ROOM: usize = 4 * 1024;
/// Most tails that a thread keeps for the connections that write next.
const MAX_SPARE: usize = 64;

thread_local! {
    /// Tails without an owner, empty, of [`TAIL_ROOM`]. Connections come and go between two messages, their buffers need not.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

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
    /// What comes after the queue; from `sent` on where there is no queue.
    tail: Vec<u8>,
    /// Bytes of the tail that the stream has taken.
    sent: usize,
    waiting: usize,
    /// Everything appended since it was last asked for.
    total: u64,
    unflushed: bool,
    turn: Turn,
    high: usize,
}

/// Whether the others of the turn have been let ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Turn {
    #[default]
    NotAsked,
    Asked,
    Had,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            tail: Vec::new(),
            sent: 0,
            waiting: 0,
            total: 0,
            unflushed: false,
            turn: Turn::NotAsked,
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
    pub fn encode(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.have_tail();
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
            self.have_tail();
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if self.sent < self.tail.len() {
            let mut head = Bytes::from(std::mem::take(&mut self.tail));
            head.advance(self.sent);
            self.queue.push_back(head);
            self.sent = 0;
        }
        self.queue.push_back(bytes);
    }

    fn have_tail(&mut self) {
        if self.tail.capacity() == 0 {
            self.tail = spare();
        }
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
            give_back(std::mem::take(&mut self.tail));
            self.sent = 0;
            self.queue = VecDeque::new();
        }
    }

    /// The last flush only let others ahead; the task is polled again in this turn.
    pub fn defers(&self) -> bool {
        self.turn == Turn::Asked
    }

    /// Lets the other tasks that are ready go first, once for each message.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn == Turn::NotAsked && (1..DEFER_BELOW).contains(&self.waiting) {
            self.turn = Turn::Asked;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turn = Turn::Had;
        Poll::Ready(())
    }

    /// Writes everything; ready once all is out.
    pub fn poll_flush(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
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
        self.turn = Turn::NotAsked;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            return Pin::new(stream).poll_write(cx, &self.tail[self.sent..]);
        }
        let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
        let parts = self
            .queue
            .iter()
            .map(|bytes| &bytes[..])
            .chain(std::iter::once(&self.tail[self.sent..]));
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
        self.sent += written;
        if self.sent == self.tail.len() {
            self.tail.clear();
            self.sent = 0;
        }
    }
}

fn spare() -> Vec<u8> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(TAIL_ROOM))
}

fn give_back(mut tail: Vec<u8>) {
    if tail.capacity() == TAIL_ROOM {
        tail.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.push(tail);
            }
        });
    }
}
