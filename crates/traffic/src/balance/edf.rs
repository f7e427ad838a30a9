//! Earliest deadline first: each pick moves an entry's deadline by the inverse of its weight.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A schedule of weighted entries.
#[derive(Debug)]
pub(super) struct Edf {
    now: f64,
    added: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    position: u32,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap gives the greatest first, so the earliest is the greatest; ties go to the one that waits longer.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then_with(|| other.order.cmp(&self.order))
    }
}

/// A weight below this would put a host off for ever.
const LEAST_WEIGHT: f64 = 1e-9;

impl Edf {
    /// A schedule as if it had been used for `seed` picks, so that workers do not start together. What a host would
    /// have been picked for certain is reckoned, only the rest is played through.
    pub(super) fn with_picks(
        positions: &[u32],
        weight: &mut dyn FnMut(u32) -> f64,
        seed: u64,
    ) -> Self {
        let weights: Vec<f64> = positions
            .iter()
            .map(|position| weight(*position).max(LEAST_WEIGHT))
            .collect();
        let sum: f64 = weights.iter().sum();
        let picks = f64::from(u32::try_from(seed & 0xffff).unwrap_or(0));
        let mut edf = Self {
            now: 0.0,
            added: 0,
            queue: BinaryHeap::with_capacity(positions.len()),
        };
        let mut certain = 0.0;
        for (position, weight) in positions.iter().zip(&weights) {
            let times = (weight * picks / sum).floor();
            certain += times;
            edf.now = edf.now.max(times / weight);
            edf.queue.push(Entry {
                deadline: (times + 1.0) / weight,
                order: edf.added,
                position: *position,
            });
            edf.added += 1;
        }
        while certain < picks {
            certain += 1.0;
            edf.pick(weight);
        }
        edf
    }

    fn add(&mut self, position: u32, weight: f64) {
        let deadline = self.now + 1.0 / weight.max(LEAST_WEIGHT);
        self.queue.push(Entry {
            deadline,
            order: self.added,
            position,
        });
        self.added += 1;
    }

    /// The entry whose turn it is.
    pub(super) fn pick(&mut self, weight: &mut dyn FnMut(u32) -> f64) -> Option<u32> {
        let entry = self.queue.pop()?;
        self.now = entry.deadline;
        self.add(entry.position, weight(entry.position));
        Some(entry.position)
    }
}
