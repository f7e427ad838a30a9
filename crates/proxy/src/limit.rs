//! Places that may be taken at once, one count for the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of places.
#[derive(Debug)]
pub(crate) struct Slots {
    max: u64,
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Slots {
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Takes a place for as long as the result lives; counts a refusal.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let took = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.max).then_some(taken + 1)
            });
        if took.is_ok() {
            Some(Slot(Arc::clone(self)))
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            None
        }
    }

    /// How often there was no place.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_its_holder_is_gone() {
        let slots = Slots::new(2);
        let first = slots.take();
        let second = slots.take();
        assert!(first.is_some() && second.is_some() && slots.take().is_none());
        drop(first);
        assert!(slots.take().is_some());
        assert_eq!(slots.refused(), 1);
    }
}
