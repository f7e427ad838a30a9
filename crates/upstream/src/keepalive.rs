//! HTTP/2 keep-alive: PINGs by time, and the end of a connection that does not answer them
//! (Envoy's `connection_keepalive`).

use std::pin::Pin;
use std::task::{Context, Poll};

use h2::{Ping, PingPong};
use meltemi_traffic::hcm::Http2KeepAlive;
use tokio::time::{Instant, Sleep};

/// The PINGs of one connection.
#[derive(Debug)]
pub struct KeepAlive {
    ping: PingPong,
    settings: Http2KeepAlive,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl KeepAlive {
    /// PINGs as configured; `None` when none are sent by time or the connection's PINGs are taken.
    pub fn new(ping: Option<PingPong>, settings: Option<Http2KeepAlive>) -> Option<Self> {
        let settings = settings?;
        let interval = settings.interval?;
        Some(Self {
            ping: ping?,
            settings,
            timer: Box::pin(tokio::time::sleep(interval)),
            waiting: false,
        })
    }

    /// Ready when the peer did not answer in time: the connection is to be closed.
    pub fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                match self.ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.start(self.settings.interval.unwrap_or_default());
                    }
                    // The connection reports its own end.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => return self.timer.as_mut().poll(cx),
                }
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            if self.ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.start(self.settings.timeout);
        }
    }

    fn start(&mut self, time: std::time::Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}
