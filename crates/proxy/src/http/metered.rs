//! A client's HTTP/2 byte stream with the frames counted that pass in it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use meltemi_upstream::stream::Rewound;
use meltemi_wire::frames::{Flood, FrameLimits, FrameMeter};
use meltemi_wire::sniff::HTTP2_PREFACE;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Which limit the client broke, told to whoever drives the connection.
pub(super) type Broken = Rc<Cell<Option<Flood>>>;

/// The stream; ends for reading when the client breaks a limit.
#[derive(Debug)]
pub(super) struct Metered {
    stream: Rewound,
    meter: FrameMeter,
    broken: Broken,
}

impl Metered {
    pub(super) fn new(stream: Rewound, limits: FrameLimits, broken: Broken) -> Self {
        Self {
            stream,
            meter: FrameMeter::new(limits, HTTP2_PREFACE.len()),
            broken,
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Err(flood) = this.meter.received(&buf.filled()[before..]) {
            this.broken.set(Some(flood));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.meter.sent(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            this.meter.sent(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
