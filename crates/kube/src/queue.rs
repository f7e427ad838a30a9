//! A queue of keys to reconcile: each key once, one worker per key, retries with back-off.
//!
//! Bounded by nature: it never holds a key twice, so it is at most as long as there are objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shared queue; clones are handles of the same queue.
#[derive(Debug, Clone)]
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    queued: BTreeSet<T>,
    running: BTreeSet<T>,
    later: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
}

impl<T: Ord + Clone + Send + 'static> Default for WorkQueue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            running: BTreeSet::new(),
            later: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Notify::new(),
            }),
        }
    }
}

impl<T: Ord + Clone + Send + 'static> WorkQueue<T> {
    /// Adds a key; a key that waits already is not added twice, one that is being worked on is
    /// worked on again afterwards.
    pub fn add(&self, key: T) {
        let mut state = self.shared.state.lock();
        state.later.remove(&key);
        if state.queued.insert(key.clone()) && !state.running.contains(&key) {
            state.ready.push_back(key);
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Adds a key at a later time, unless it comes earlier anyway.
    pub fn add_after(&self, key: T, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.shared.state.lock();
        let entry = state.later.entry(key).or_insert(at);
        *entry = (*entry).min(at);
        drop(state);
        self.shared.wake.notify_one();
    }

    /// The next key; the caller must hand it back with [`Self::done`].
    pub async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.shared.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                state.later.values().min().copied()
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.shared.wake.notified()).await;
                }
                None => self.shared.wake.notified().await,
            }
        }
    }

    /// Ends the work on a key. After a failure it comes again: 5 ms doubling to 30 s.
    pub fn done(&self, key: &T, succeeded: bool) {
        let mut state = self.shared.state.lock();
        state.running.remove(key);
        let again = state.queued.contains(key);
        if again {
            state.ready.push_back(key.clone());
        }
        if succeeded {
            state.failures.remove(key);
        } else {
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            let delay =
                Duration::from_millis(5 << (*failures).min(13)).min(Duration::from_secs(30));
            if !again {
                state.later.insert(key.clone(), Instant::now() + delay);
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Works forever on the keys, up to `parallel` at a time, never two of the same key. `work`
    /// returns a delay after which the key is looked at again, or an error to retry with back-off.
    pub async fn run<E, F, Fut>(self, parallel: usize, work: F)
    where
        E: std::fmt::Display,
        T: Debug,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<Option<Duration>, E>>,
    {
        let workers = (0..parallel.max(1)).map(|_| async {
            loop {
                let key = self.next().await;
                let outcome = work(key.clone()).await;
                match &outcome {
                    Ok(Some(delay)) => self.add_after(key.clone(), *delay),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(?key, %error, "reconcile failed, will retry"),
                }
                self.done(&key, outcome.is_ok());
            }
        });
        futures::future::join_all(workers).await;
    }
}

impl<T: Ord + Clone> State<T> {
    /// Moves what is due from `later` to `ready`.
    fn promote(&mut self, now: Instant) {
        let due: Vec<T> = self
            .later
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.later.remove(&key);
            if self.queued.insert(key.clone()) && !self.running.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_worked_on_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_work_comes_again_after_it() {
        let queue = WorkQueue::default();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        queue.done(&key, true);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_again_with_growing_delay() {
        let queue = WorkQueue::default();
        queue.add("a");
        let mut gaps = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let key = queue.next().await;
            gaps.push((Instant::now() - before).as_millis());
            queue.done(&key, false);
        }
        assert_eq!(gaps[0], 0);
        assert!(gaps[1] < gaps[2] && gaps[2] < gaps[3], "{gaps:?}");
    }
}
