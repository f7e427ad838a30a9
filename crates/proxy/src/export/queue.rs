//! The bounded queue in front of a collector.

use std::time::Duration;

use meltemi_traffic::collector::Batching;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most bytes that wait for one collector; beyond it entries are dropped, so that a dead collector costs no memory.
const MAX_WAITING: usize = 2 * 1024 * 1024;
/// A queue without entries for this long is given up, with its task and stream.
const IDLE: Duration = Duration::from_secs(600);

/// Encoded entries, and when they are to leave.
#[derive(Debug)]
pub(crate) struct Queue {
    batching: Batching,
    state: Mutex<State>,
    /// An entry came into an empty queue.
    filled: Notify,
    /// A batch is full.
    full: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(batching: Batching) -> Self {
        Self {
            batching,
            state: Mutex::default(),
            filled: Notify::new(),
            full: Notify::new(),
        }
    }

    /// Takes an entry, or drops it when too much waits already. Gives it back when nobody will send it any more.
    pub(crate) fn put(&self, entry: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(entry);
        }
        if state.bytes + entry.len() > MAX_WAITING {
            state.dropped += 1;
            return Ok(());
        }
        let first = state.entries.is_empty();
        state.bytes += entry.len();
        state.entries.push(entry);
        let full =
            state.bytes >= self.batching.bytes || state.entries.len() >= self.batching.entries;
        drop(state);
        if first {
            self.filled.notify_one();
        }
        if full {
            self.full.notify_one();
        }
        Ok(())
    }

    /// The next batch, once it is full or old enough; `None` after a long time without entries. Cancel-safe.
    pub(crate) async fn batch(&self) -> Option<Vec<Vec<u8>>> {
        if self.state.lock().entries.is_empty() {
            tokio::time::timeout(IDLE, self.filled.notified())
                .await
                .ok()?;
        }
        let _ = tokio::time::timeout(self.batching.interval, self.full.notified()).await;
        Some(self.take())
    }

    /// Everything that waits.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock();
        state.bytes = 0;
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            tracing::warn!(dropped, "entries for a collector dropped");
        }
        std::mem::take(&mut state.entries)
    }

    /// Closes the queue when nothing is in it; true when it is closed.
    pub(crate) fn close_if_empty(&self) -> bool {
        let mut state = self.state.lock();
        state.closed |= state.entries.is_empty();
        state.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(bytes: usize) -> Queue {
        Queue::new(Batching {
            interval: Duration::from_secs(1),
            bytes,
            entries: usize::MAX,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_leaves_when_it_is_full_or_its_time_has_come() {
        let queue = queue(8);
        queue.put(vec![1; 9]).unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(queue.batch().await.unwrap().len(), 1);
        assert!(started.elapsed() < Duration::from_millis(1));
        queue.put(vec![2; 3]).unwrap();
        assert_eq!(queue.batch().await.unwrap(), [vec![2; 3]]);
        assert!(started.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_collector_costs_bounded_memory() {
        let queue = queue(usize::MAX);
        for _ in 0..3 {
            queue.put(vec![0; MAX_WAITING / 2]).unwrap();
        }
        assert_eq!(queue.take().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_without_entries_is_given_up_and_takes_no_more() {
        let queue = queue(8);
        assert!(queue.batch().await.is_none());
        assert!(queue.close_if_empty());
        assert_eq!(queue.put(vec![1]), Err(vec![1]));
    }
}
