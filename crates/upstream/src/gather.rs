//! Writes of one HTTP/2 connection gathered until its driver has nothing more to do for now.
//!
//! The h2 crate flushes after each DATA frame: over TLS a record and a system call for every response, also when ten
//! streams answer in the same turn. A [`Gathered`] stream keeps small writes back, and the driver of the connection
//! writes them at once when h2 has nothing left to do ([`Gather::poll_with`]).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes kept back at most: one TLS record.
const KEPT: usize = 16 * 1024;
/// Writes from this size on are not copied.
const LARGE: usize = 8 * 1024;

/// The stream that h2 owns.
#[derive(Debug)]
pub struct Gathered<S>(Rc<RefCell<State<S>>>);

/// The driver's end of a [`Gathered`] stream.
#[derive(Debug)]
pub struct Gather<S>(Rc<RefCell<State<S>>>);

#[derive(Debug)]
struct State<S> {
    stream: S,
    kept: BytesMut,
    /// Draining failed: h2 learns it at its next read, which ends every stream.
    failed: Option<io::ErrorKind>,
}

/// Wraps a stream. Whoever drives the connection polls it through [`Gather::poll_with`].
pub fn gather<S>(stream: S) -> (Gathered<S>, Gather<S>) {
    let state = Rc::new(RefCell::new(State {
        stream,
        kept: BytesMut::new(),
        failed: None,
    }));
    (Gathered(Rc::clone(&state)), Gather(state))
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Polls the connection, and writes what it left behind once it is pending. While the socket takes no more the task
    /// is woken when it does.
    pub fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            if let Poll::Ready(done) = connection(cx) {
                return Poll::Ready(done);
            }
            let mut state = self.0.borrow_mut();
            if state.failed.is_some() {
                return Poll::Pending;
            }
            match state.poll_drain(cx) {
                Poll::Ready(Err(error)) => state.failed = Some(error.kind()),
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(written);
        }
        // An idle connection keeps no buffer.
        self.kept = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        match state.failed {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => Pin::new(&mut state.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        let size: usize = bufs.iter().map(|buf| buf.len()).sum();
        if state.kept.len() + size > KEPT {
            ready!(state.poll_write_out(cx))?;
        }
        if size >= LARGE {
            ready!(state.poll_write_out(cx))?;
            return Pin::new(&mut state.stream).poll_write_vectored(cx, bufs);
        }
        if state.kept.capacity() == 0 {
            state.kept.reserve(KEPT);
        }
        for buf in bufs {
            state.kept.extend_from_slice(buf);
        }
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The driver flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_write_out(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn small_writes_are_kept_until_the_driver_drains() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (mut stream, driver) = gather(near);
        stream.write_all(b"one").await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(b"two").await.unwrap();
        let mut seen = [0; 6];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let early = Pin::new(&mut far).poll_read(&mut cx, &mut ReadBuf::new(&mut seen));
        assert!(early.is_pending(), "nothing is written before");
        let polled = driver.poll_with(&mut cx, |_| Poll::<()>::Pending);
        assert!(polled.is_pending());
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"onetwo");
    }

    #[tokio::test]
    async fn large_writes_and_the_end_keep_the_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut stream, _driver) = gather(near);
        let large = vec![7; LARGE];
        stream.write_all(b"before").await.unwrap();
        stream.write_all(&large).await.unwrap();
        for _ in 0..3 {
            stream.write_all(&large[..LARGE - 1]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(&seen[..6], b"before");
        assert_eq!(seen.len(), 6 + LARGE + 3 * (LARGE - 1));
    }

    #[tokio::test]
    async fn a_socket_that_fails_while_draining_ends_the_connection() {
        let (near, far) = tokio::io::duplex(16);
        let (mut stream, driver) = gather(near);
        stream.write_all(b"kept").await.unwrap();
        drop(far);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0];
        let mut polls = 0;
        let ended = driver.poll_with(&mut cx, |cx| {
            polls += 1;
            let read = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut byte));
            if polls == 1 { Poll::Pending } else { read }
        });
        assert!(matches!(ended, Poll::Ready(Err(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn a_full_socket_pushes_back() {
        let (near, _far) = tokio::io::duplex(16);
        let (mut stream, driver) = gather(near);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let piece = [1; 4096];
        let taken = (0..100)
            .take_while(|_| Pin::new(&mut stream).poll_write(&mut cx, &piece).is_ready())
            .count();
        assert_eq!(taken, KEPT / piece.len());
        let polled = driver.poll_with(&mut cx, |_| Poll::<()>::Pending);
        assert!(polled.is_pending());
    }
}
