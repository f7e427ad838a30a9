//! Statistics by virtual cluster (`vhost.HOST.vcluster.NAME.*`) and by route (`vhost.HOST.route.PREFIX.*`).
//!
//! Only requests whose route has such a name come here; the counters outlive changes of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meltemi_traffic::Str;
use meltemi_upstream::cluster::StatusCounts;
use parking_lot::Mutex;

/// Counters of one name.
#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    timeout: AtomicU64,
    retry: AtomicU64,
    retry_success: AtomicU64,
    retry_limit: AtomicU64,
    retry_overflow: AtomicU64,
    statuses: StatusCounts,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// An attempt found its connection.
    Attempt,
    /// The response did not come in time.
    Timeout,
    /// Another attempt follows.
    Retry,
    /// The last attempt was good.
    RetrySuccess,
    /// No attempt was left.
    RetryLimit,
    /// The breaker allows no other attempt.
    RetryOverflow,
    /// A response with this status.
    Response(u16),
}

/// The counters of one request: of its virtual cluster and of its route.
#[derive(Debug, Default)]
pub(crate) struct Counted(Vec<Arc<Counters>>);

static BY_NAME: Mutex<BTreeMap<Str, Arc<Counters>>> = Mutex::new(BTreeMap::new());

impl Counted {
    /// Counts under a name too; an empty one is none.
    pub(crate) fn name(&mut self, name: &Str) {
        if name.is_empty() {
            return;
        }
        let mut all = BY_NAME.lock();
        self.0
            .push(Arc::clone(all.entry(name.clone()).or_default()));
    }

    /// Counts.
    pub(crate) fn count(&self, event: Event) {
        for counters in &self.0 {
            let counter = match event {
                Event::Attempt => &counters.total,
                Event::Timeout => &counters.timeout,
                Event::Retry => &counters.retry,
                Event::RetrySuccess => &counters.retry_success,
                Event::RetryLimit => &counters.retry_limit,
                Event::RetryOverflow => &counters.retry_overflow,
                Event::Response(status) => {
                    counters.statuses.add(status);
                    continue;
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Calls `each` with every counter.
pub(crate) fn for_each(mut each: impl FnMut(String, u64)) {
    for (name, counters) in BY_NAME.lock().iter() {
        // table: name, value
        let plain = [
            ("upstream_rq_total", &counters.total),
            ("upstream_rq_timeout", &counters.timeout),
            ("upstream_rq_retry", &counters.retry),
            ("upstream_rq_retry_success", &counters.retry_success),
            ("upstream_rq_retry_limit_exceeded", &counters.retry_limit),
            ("upstream_rq_retry_overflow", &counters.retry_overflow),
        ];
        for (counter, value) in plain {
            each(format!("{name}.{counter}"), value.load(Ordering::Relaxed));
        }
        let mut classes = BTreeMap::<usize, u64>::new();
        counters.statuses.for_each(|status, count| {
            each(format!("{name}.upstream_rq_{status}"), count);
            *classes.entry(status / 100).or_default() += count;
        });
        for (class, count) in &classes {
            each(format!("{name}.upstream_rq_{class}xx"), *count);
        }
        if !classes.is_empty() {
            each(
                format!("{name}.upstream_rq_completed"),
                classes.values().sum(),
            );
        }
    }
}

/// Sets all to zero.
pub(crate) fn reset() {
    BY_NAME.lock().clear();
}
