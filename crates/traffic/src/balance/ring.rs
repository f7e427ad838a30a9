//! The ketama ring.

use crate::cluster::RingHash;
use crate::hash::xx64;

/// Hashes in order, each with its host.
#[derive(Debug)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// `entries`: host, key and its share of the whole.
    pub(super) fn new(entries: &[(u32, &str, f64)], settings: &RingHash) -> Self {
        let least = entries.iter().map(|(.., share)| *share).fold(1.0, f64::min);
        let scale = ((least * settings.min as f64).ceil() / least).min(settings.max as f64);
        let mut ring = Vec::with_capacity(scale.ceil() as usize);
        let (mut current, mut target) = (0.0, 0.0);
        let mut name = String::new();
        for (host, key, share) in entries {
            target += scale * share;
            let mut number = 0_u64;
            while current < target {
                name.clear();
                name.push_str(key);
                name.push('_');
                name.push_str(&number.to_string());
                let hash = if settings.murmur {
                    murmur2(name.as_bytes())
                } else {
                    xx64(name.as_bytes(), 0)
                };
                ring.push((hash, *host));
                number += 1;
                current += 1.0;
            }
        }
        ring.sort_unstable();
        Self(ring)
    }

    /// The host at or after a hash; later attempts take the following entries.
    pub(super) fn at(&self, hash: u64, attempt: u32) -> Option<u32> {
        let first = self.0.partition_point(|(entry, _)| *entry < hash);
        let position = first
            .checked_add(attempt as usize)?
            .checked_rem(self.0.len())?;
        Some(self.0[position].1)
    }
}

/// MurmurHash2, 64 bit, with the seed of the C++ standard library.
fn murmur2(data: &[u8]) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mix = |value: u64| {
        let value = value.wrapping_mul(MUL);
        (value ^ (value >> 47)).wrapping_mul(MUL)
    };
    let mut hash = SEED ^ (data.len() as u64).wrapping_mul(MUL);
    let mut chunks = data.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        hash = (hash ^ mix(word)).wrapping_mul(MUL);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MUL);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(MUL);
    hash ^ (hash >> 47)
}
