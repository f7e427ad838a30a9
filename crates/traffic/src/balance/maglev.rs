//! The Maglev table.

use crate::hash::xx64;

/// A host for each residue of the hash.
#[derive(Debug)]
pub(super) struct MaglevTable(Vec<u32>);

struct Filler {
    host: u32,
    offset: u64,
    skip: u64,
    share: f64,
    target: f64,
    next: u64,
}

const EMPTY: u32 = u32::MAX;

impl MaglevTable {
    /// `entries`: host, key and its share of the whole; `size` is a prime.
    pub(super) fn new(entries: &[(u32, &str, f64)], size: u64) -> Self {
        let largest = entries.iter().map(|(.., share)| *share).fold(0.0, f64::max);
        let fill = |(host, key, share): &(u32, &str, f64)| Filler {
            host: *host,
            offset: xx64(key.as_bytes(), 0) % size,
            skip: xx64(key.as_bytes(), 1) % (size - 1) + 1,
            share: *share,
            target: 0.0,
            next: 0,
        };
        // In the order of keys, so that the table does not depend on the order in which hosts were given.
        let mut sorted: Vec<&(u32, &str, f64)> = entries.iter().collect();
        sorted.sort_by(|a, b| a.1.cmp(b.1));
        let mut fillers: Vec<Filler> = sorted.into_iter().map(fill).collect();
        let mut table = vec![EMPTY; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        let mut iteration = 0.0;
        while filled < table.len() && !fillers.is_empty() {
            iteration += 1.0;
            for filler in &mut fillers {
                // Hosts with less than the largest share sit out some rounds.
                if iteration * filler.share < filler.target {
                    continue;
                }
                filler.target += largest;
                filler.take(&mut table, size);
                filled += 1;
                if filled == table.len() {
                    break;
                }
            }
        }
        Self(table)
    }

    /// The host for a hash; later attempts look elsewhere.
    pub(super) fn at(&self, hash: u64, attempt: u32) -> Option<u32> {
        let hash = if attempt > 0 {
            hash ^ (u64::MAX - u64::from(attempt) + 1)
        } else {
            hash
        };
        let position = hash.checked_rem(self.0.len() as u64)?;
        let host = self.0[usize::try_from(position).ok()?];
        (host != EMPTY).then_some(host)
    }
}

impl Filler {
    fn take(&mut self, table: &mut [u32], size: u64) {
        loop {
            let position = (self.offset + self.skip * self.next) % size;
            self.next += 1;
            if let Some(slot) = usize::try_from(position)
                .ok()
                .and_then(|at| table.get_mut(at))
                && *slot == EMPTY
            {
                *slot = self.host;
                return;
            }
        }
    }
}
