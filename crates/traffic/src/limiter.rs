//! Token buckets that the whole process takes from without a lock, and the local rate limiter made of them.
//!
//! A bucket refills continuously: it remembers the moment at which it would have been empty (as Envoy's does since it
//! has no refill timer).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Str;
use crate::ratelimit::{BucketConfig, Descriptor};

/// A token bucket. Time is the caller's monotonic clock.
#[derive(Debug)]
pub struct AtomicBucket {
    max: f64,
    /// Tokens a second.
    rate: f64,
    /// Bits of the moment, in seconds, at which the bucket was empty.
    empty_at: AtomicU64,
}

impl AtomicBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(config: BucketConfig) -> Self {
        Self {
            max: f64::from(config.max_tokens),
            rate: f64::from(config.tokens_per_fill) / config.fill_interval.as_secs_f64().max(1e-9),
            empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
        }
    }

    /// Tokens a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Capacity.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.max
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.rate).clamp(0.0, self.max)
    }

    /// Takes tokens; false when there are too few, and then takes none.
    pub fn take(&self, count: f64, now: Duration) -> bool {
        let now = now.as_secs_f64();
        let taken = self
            .empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                let have = self.tokens(f64::from_bits(bits), now);
                (have >= count).then(|| (now - (have - count) / self.rate).to_bits())
            });
        taken.is_ok()
    }

    /// Whole tokens left.
    pub fn left(&self, now: Duration) -> u64 {
        let empty_at = f64::from_bits(self.empty_at.load(Ordering::Relaxed));
        // Never negative, never above a u32.
        self.tokens(empty_at, now.as_secs_f64()) as u64
    }

    /// Time until there is a whole token.
    pub fn next(&self, now: Duration) -> Duration {
        let empty_at = f64::from_bits(self.empty_at.load(Ordering::Relaxed));
        let have = self.tokens(empty_at, now.as_secs_f64());
        if have >= 1.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64((1.0 - have) / self.rate).unwrap_or(Duration::MAX)
    }
}

/// The buckets of one local rate limit.
#[derive(Debug)]
pub struct Limiter {
    default: Option<AtomicBucket>,
    by_descriptor: Vec<(Vec<(Str, Str)>, AtomicBucket)>,
    always_default: bool,
}

/// What a limiter says.
#[derive(Debug)]
pub struct Limited<'l> {
    /// The request may go.
    pub allowed: bool,
    /// The bucket that clients are told of.
    pub bucket: Option<&'l AtomicBucket>,
}

impl Limiter {
    /// Full buckets.
    #[must_use]
    pub fn new(
        default: Option<BucketConfig>,
        descriptors: &[crate::ratelimit::DescriptorBucket],
        always_default: bool,
    ) -> Self {
        Self {
            default: default.map(AtomicBucket::new),
            by_descriptor: descriptors
                .iter()
                .map(|own| (own.entries.clone(), AtomicBucket::new(own.bucket)))
                .collect(),
            always_default,
        }
    }

    /// Whether descriptors make a difference.
    #[must_use]
    pub fn has_descriptors(&self) -> bool {
        !self.by_descriptor.is_empty()
    }

    /// Takes from every bucket that a request belongs to, the slowest first, until one is empty.
    pub fn admit(&self, descriptors: &[Descriptor], now: Duration) -> Limited<'_> {
        let mut matched: Vec<(&AtomicBucket, u64)> = descriptors
            .iter()
            .filter_map(|wanted| {
                let found = self
                    .by_descriptor
                    .iter()
                    .find(|(entries, _)| *entries == wanted.entries);
                found.map(|(_, bucket)| (bucket, wanted.hits.unwrap_or(1)))
            })
            .collect();
        matched.sort_by(|(a, _), (b, _)| a.rate().total_cmp(&b.rate()));
        for (bucket, hits) in &matched {
            if !bucket.take(*hits as f64, now) {
                return Limited {
                    allowed: false,
                    bucket: Some(bucket),
                };
            }
        }
        let first = matched.first().map(|(bucket, _)| *bucket);
        if (first.is_none() || self.always_default)
            && let Some(default) = &self.default
            && !default.take(1.0, now)
        {
            return Limited {
                allowed: false,
                bucket: Some(default),
            };
        }
        Limited {
            allowed: true,
            bucket: first.or(self.default.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratelimit::DescriptorBucket;

    fn config(max: u32, per_fill: u32) -> BucketConfig {
        BucketConfig {
            max_tokens: max,
            tokens_per_fill: per_fill,
            fill_interval: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_bucket_starts_full_and_refills_as_time_passes() {
        let at = Duration::from_millis;
        let bucket = AtomicBucket::new(config(4, 2));
        assert!((0..4).all(|_| bucket.take(1.0, at(10_000))));
        assert!(!bucket.take(1.0, at(10_499)));
        assert!(bucket.take(1.0, at(10_500)));
        assert_eq!(bucket.left(at(60_000)), 4);
    }

    #[test]
    fn a_descriptor_takes_from_its_own_bucket_and_the_default_when_told() {
        let entries = vec![(Str::from("k"), Str::from("v"))];
        let own = [DescriptorBucket {
            entries: entries.clone(),
            bucket: config(1, 1),
        }];
        let request = [Descriptor {
            entries,
            limit: None,
            hits: None,
            on_stream_done: false,
        }];
        let now = Duration::from_secs(100);
        let limiter = Limiter::new(Some(config(5, 1)), &own, true);
        assert!(limiter.admit(&request, now).allowed);
        assert!(!limiter.admit(&request, now).allowed);
        assert_eq!(limiter.default.as_ref().map(|b| b.left(now)), Some(4));
        let limiter = Limiter::new(Some(config(1, 1)), &own, false);
        assert!(limiter.admit(&request, now).allowed);
        assert!(
            limiter.admit(&[], now).allowed,
            "the default bucket is untouched"
        );
    }
}
