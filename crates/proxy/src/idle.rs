//! An idle timer that costs nothing while there is activity: it is armed once and looks at the last activity only
//! when it fires.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meltemi_upstream::clock;
use tokio::time::{Instant, Sleep};

/// The timer; never fires without a limit.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Option<Duration>,
    last: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    /// A timer that fires when nothing is touched for `limit`.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            last: clock::now(),
            sleep: None,
        }
    }

    /// Something happened.
    pub(crate) fn touch(&mut self) {
        if self.limit.is_some() {
            self.last = clock::now();
        }
    }

    /// Another limit applies from now on.
    pub(crate) fn set_limit(&mut self, limit: Option<Duration>) {
        if self.limit != limit {
            self.limit = limit;
            self.sleep = None;
        }
        self.touch();
    }

    /// Ready when nothing happened for the whole limit.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        loop {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.last + limit)));
            ready!(sleep.as_mut().poll(cx));
            let due = self.last + limit;
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

/// Ticks while somebody polls it; without an interval it never does.
#[derive(Debug, Default)]
pub(crate) struct Ticker {
    interval: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Ticker {
    /// The first tick comes after one interval.
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            sleep: interval.map(|interval| Box::pin(tokio::time::sleep(interval))),
        }
    }

    /// True when an interval is over; the next one has begun then.
    pub(crate) fn ticks(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(sleep), Some(interval)) = (&mut self.sleep, self.interval) else {
            return false;
        };
        let over = sleep.as_mut().poll(cx).is_ready();
        if over {
            sleep.as_mut().reset(Instant::now() + interval);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn activity_puts_the_timer_off() {
        let limit = Duration::from_secs(10);
        let mut timer = IdleTimer::new(Some(limit));
        let started = Instant::now();
        let mut touched = false;
        std::future::poll_fn(|cx| {
            if !touched {
                touched = true;
                let _ = timer.poll(cx);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            timer.poll(cx)
        })
        .await;
        assert_eq!(started.elapsed(), limit);
        tokio::time::advance(Duration::from_secs(3)).await;
        timer.touch();
        let touched_at = Instant::now();
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(touched_at.elapsed(), limit);
    }
}
