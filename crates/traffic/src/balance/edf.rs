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
    /// A schedule that begins `random` picks into its rotation, so that workers do not start together.
    pub(super) fn new(positions: &[u32], weight: &mut dyn FnMut(u32) -> f64, random: u64) -> Self {
        let mut edf = Self {
            now: 0.0,
            added: 0,
            queue: BinaryHeap::with_capacity(positions.len()),
        };
        for position in positions {
            edf.add(*position, weight(*position));
        }
        for _ in 0..random % positions.len().max(1) as u64 {
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
