//! Counters of filters by their full Envoy name. A name is looked up when configuration is taken in; counting is one
//! atomic addition. Counters live as long as the process, so that an update of the configuration keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Names that are kept at most; those beyond count into one that nobody sees. Only names that peers influence
/// (collections of a database, clusters named by a header) can come near it.
const MAX_NAMES: usize = 20_000;

static BY_NAME: Mutex<BTreeMap<String, Counter>> = Mutex::new(BTreeMap::new());

/// One counter (or gauge), shared by all that name it.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// The counter of a name.
    pub fn named(name: String) -> Self {
        let mut all = BY_NAME.lock();
        if let Some(known) = all.get(&name) {
            return known.clone();
        }
        let counter = Self::default();
        if all.len() < MAX_NAMES {
            all.insert(name, counter.clone());
        }
        counter
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes one off a gauge.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one for as long as the guard lives; `None` when there are `limit` already.
    #[must_use]
    pub fn enter(&self, limit: u64) -> Option<Entered> {
        let admitted = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < limit).then_some(now + 1)
            });
        admitted.is_ok().then(|| Entered(self.clone()))
    }
}

/// One that [`Counter::enter`] admitted.
#[derive(Debug)]
pub struct Entered(Counter);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Calls `each` with every name and value.
pub fn for_each(mut each: impl FnMut(&str, u64)) {
    for (name, counter) in BY_NAME.lock().iter() {
        each(name, counter.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_counter() {
        Counter::named("counters.test.same".to_owned()).inc();
        Counter::named("counters.test.same".to_owned()).add(2);
        let mut found = None;
        for_each(|name, value| {
            if name == "counters.test.same" {
                found = Some(value);
            }
        });
        assert_eq!(found, Some(3));
    }

    #[test]
    fn a_gauge_admits_up_to_its_limit_and_forgets_who_left() {
        let gauge = Counter::default();
        let first = gauge.enter(1);
        assert!(first.is_some() && gauge.enter(1).is_none());
        drop(first);
        assert_eq!(gauge.get(), 0);
        assert!(gauge.enter(1).is_some());
    }
}
