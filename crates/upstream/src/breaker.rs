//! Circuit breakers: counts that the whole process shares, and the limits they are held against.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use meltemi_traffic::breaker::Load;
use meltemi_traffic::cluster::Thresholds;

/// A gauge shared by all workers.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicU32>);

/// Holds a [`Count`] up while it lives.
#[derive(Debug)]
pub struct Gauge(Arc<AtomicU32>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Count {
    /// Counts one more.
    pub fn enter(&self) -> Gauge {
        self.0.fetch_add(1, Ordering::Relaxed);
        Gauge(Arc::clone(&self.0))
    }

    /// Counts one more unless that exceeds `limit`.
    pub fn admit(&self, limit: u32) -> Option<Gauge> {
        let gauge = self.enter();
        (self.0.load(Ordering::Relaxed) <= limit).then_some(gauge)
    }

    /// The present value.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Circuit breaker of one priority.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    /// The limits of the present configuration.
    pub limits: Thresholds,
    /// Connections.
    pub connections: Count,
    /// Requests waiting for a connection.
    pub pending: Count,
    /// Requests running.
    pub requests: Count,
    /// Retries running.
    pub retries: Count,
    /// Connection pools.
    pub pools: Count,
}

impl Breaker {
    /// Room for one more retry: by budget when there is one, else by count.
    pub fn admit_retry(&self) -> Option<Gauge> {
        self.retries.admit(self.retry_limit())
    }

    fn retry_limit(&self) -> u32 {
        self.limits.retry_limit(Load {
            connections: self.connections.get(),
            pending: self.pending.get(),
            active: self.requests.get(),
            retries: self.retries.get(),
        })
    }

    /// Calls `each` with the name and value of every gauge below `circuit_breakers.<priority>.`.
    pub fn for_each(&self, each: &mut dyn FnMut(&str, u64)) {
        let limits = &self.limits;
        // table: what is counted, its limit, the gauge that says the limit is reached, the gauge of what is left
        let rows = [
            (
                &self.connections,
                limits.max_connections,
                "cx_open",
                "remaining_cx",
            ),
            (
                &self.pools,
                limits.max_pools.unwrap_or(u32::MAX),
                "cx_pool_open",
                "remaining_cx_pools",
            ),
            (
                &self.pending,
                limits.max_pending,
                "rq_pending_open",
                "remaining_pending",
            ),
            (
                &self.requests,
                limits.max_requests,
                "rq_open",
                "remaining_rq",
            ),
            (
                &self.retries,
                self.retry_limit(),
                "rq_retry_open",
                "remaining_retries",
            ),
        ];
        for (count, limit, open, remaining) in rows {
            let now = count.get();
            // Envoy sets the gauge when something is counted, so a limit of zero that nothing has passed is not "open".
            each(open, u64::from(now > 0 && now >= limit));
            let left = if limits.track_remaining {
                limit.saturating_sub(now)
            } else {
                0
            };
            each(remaining, left.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_count_admits_again_when_one_leaves() {
        let count = Count::default();
        let first = count.admit(1);
        assert!(first.is_some());
        assert!(count.admit(1).is_none());
        assert_eq!(count.get(), 1);
        drop(first);
        assert!(count.admit(1).is_some());
    }

    #[test]
    fn gauges_say_what_is_left() {
        let breaker = Breaker {
            limits: Thresholds {
                max_requests: 2,
                track_remaining: true,
                ..Thresholds::default()
            },
            ..Breaker::default()
        };
        let read = |wanted: &str| {
            let mut found = None;
            breaker.for_each(&mut |name, value| {
                if name == wanted {
                    found = Some(value);
                }
            });
            found
        };
        let _one = breaker.requests.admit(2);
        assert_eq!((read("remaining_rq"), read("rq_open")), (Some(1), Some(0)));
        let _two = breaker.requests.admit(2);
        assert_eq!((read("remaining_rq"), read("rq_open")), (Some(0), Some(1)));
    }
}
