//! The speed of a response body: bytes are let through in equal portions, as Envoy's stream rate limiter does.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

/// Portions of a second; Envoy fills its bucket at this rate.
const PORTION: Duration = Duration::from_millis(50);
const PORTIONS_PER_SECOND: u64 = 20;

/// Lets so many bytes through in each portion of a second.
#[derive(Debug)]
pub struct Pace {
    /// Bytes of one portion.
    portion: usize,
    /// Bytes that may still go in this portion.
    left: usize,
    waiting: VecDeque<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// So many KiB a second.
    #[must_use]
    pub fn new(kib_per_second: u64) -> Self {
        let bytes = kib_per_second.saturating_mul(1024) / PORTIONS_PER_SECOND;
        let portion = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        Self {
            portion,
            left: portion,
            waiting: VecDeque::new(),
            timer: None,
        }
    }

    /// Takes data; call only when [`Self::is_empty`], so that at most one piece waits.
    pub fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.waiting.push_back(data);
        }
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next bytes that may go; `None` when nothing waits.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.waiting.is_empty() {
            return Poll::Ready(None);
        }
        if self.left == 0 {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(PORTION)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            self.left = self.portion;
        }
        let Some(mut first) = self.waiting.pop_front() else {
            return Poll::Ready(None);
        };
        if first.len() > self.left {
            let rest = first.split_off(self.left);
            self.waiting.push_front(rest);
        }
        self.left -= first.len();
        Poll::Ready(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_lets_its_bytes_through_and_no_more() {
        let mut pace = Pace::new(1);
        pace.push(Bytes::from(vec![0; 1020]));
        let started = tokio::time::Instant::now();
        let mut sent = 0;
        while let Some(bytes) = std::future::poll_fn(|cx| pace.poll_next(cx)).await {
            sent += bytes.len();
        }
        assert_eq!(sent, 1020);
        // 51 bytes a portion: the first at once, nineteen more behind it.
        let took = started.elapsed();
        assert!(took >= PORTION * 19 && took < PORTION * 21, "{took:?}");
    }
}
