//! The longest life of a client's connection (`max_connection_duration`): from then on it drains, and it ends with its
//! next response, or after the drain time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use meltemi_traffic::hcm::ConnectionManager;
use tokio::time::{Duration, Instant, Sleep};

use crate::stats::{HttpStats, count};

/// How old a connection may grow; without a limit this costs nothing.
#[derive(Debug)]
pub(super) struct Age(Option<Limit>);

#[derive(Debug)]
struct Limit {
    reached: Instant,
    drain: Duration,
    /// Until the limit, then until the end of the drain time.
    sleep: Pin<Box<Sleep>>,
    draining: bool,
    stats: Arc<HttpStats>,
}

impl Limit {
    /// The limit is reached; counts that once.
    fn begin_drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            count(&self.stats.counters.cx_max_duration);
            self.sleep.as_mut().reset(self.reached + self.drain);
        }
    }
}

impl Age {
    /// Of a connection that begins now.
    pub(super) fn new(hcm: &ConnectionManager, stats: &Arc<HttpStats>) -> Self {
        Self(hcm.max_connection_duration.map(|max| {
            let reached = Instant::now() + max;
            Limit {
                reached,
                drain: hcm.drain_timeout,
                sleep: Box::pin(tokio::time::sleep_until(reached)),
                draining: false,
                stats: Arc::clone(stats),
            }
        }))
    }

    /// The limit is reached.
    pub(super) fn is_reached(&mut self) -> bool {
        let limit = self.0.as_mut();
        limit.is_some_and(|limit| {
            let reached = Instant::now() >= limit.reached;
            if reached {
                limit.begin_drain();
            }
            reached
        })
    }

    /// Ready when the limit is reached.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = &mut self.0 else {
            return Poll::Pending;
        };
        if !limit.draining {
            ready!(limit.sleep.as_mut().poll(cx));
            limit.begin_drain();
        }
        Poll::Ready(())
    }

    /// Ready when the drain time after the limit is over too.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_limit(cx));
        match &mut self.0 {
            Some(limit) => limit.sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
