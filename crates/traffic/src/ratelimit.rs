//! Token buckets and rate limit rules.

use std::time::Duration;

use crate::mutation::HeaderOp;
use crate::{Fraction, Str};

mod descriptor;

pub use descriptor::{
    Descriptor, HostRules, LimitUnit, RateLimitAction, RateLimitFacts, RateLimitRule, RateLimits,
    RequestsPerUnit, append_descriptors,
};

/// Settings of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Capacity; the bucket starts full.
    pub max_tokens: u32,
    /// Tokens for each interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

/// A token bucket that is refilled in whole intervals. One for the process, behind a lock or an owner.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    config: BucketConfig,
    tokens: u32,
    /// Time of the last refill, on the caller's monotonic clock.
    filled_at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(config: BucketConfig, now: Duration) -> Self {
        Self {
            config,
            tokens: config.max_tokens,
            filled_at: now,
        }
    }

    /// Takes tokens; false when there are too few.
    pub fn take(&mut self, count: u32, now: Duration) -> bool {
        self.refill(now);
        match self.tokens.checked_sub(count) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// Tokens left and time to the next refill.
    pub fn state(&mut self, now: Duration) -> (u32, Duration) {
        self.refill(now);
        (
            self.tokens,
            (self.filled_at + self.config.fill_interval).saturating_sub(now),
        )
    }

    fn refill(&mut self, now: Duration) {
        let interval = self.config.fill_interval.as_nanos().max(1);
        let intervals = now.saturating_sub(self.filled_at).as_nanos() / interval;
        if intervals == 0 {
            return;
        }
        let added = intervals.saturating_mul(u128::from(self.config.tokens_per_fill));
        let total = u128::from(self.tokens)
            .saturating_add(added)
            .min(u128::from(self.config.max_tokens));
        self.tokens = u32::try_from(total).unwrap_or(u32::MAX);
        let passed = intervals.saturating_mul(interval);
        self.filled_at += Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX));
    }
}

/// `local_ratelimit` of HTTP chains.
#[derive(Debug, Clone)]
pub struct LocalRateLimit {
    /// Statistics prefix.
    pub stat_prefix: Str,
    /// Status of a denial.
    pub status: u16,
    /// The bucket; `None` limits nothing.
    pub bucket: Option<BucketConfig>,
    /// Share of requests that are looked at.
    pub enabled: Fraction,
    /// Share of requests that are denied.
    pub enforced: Fraction,
    /// Changes to requests over the limit that still go upstream.
    pub request_ops: Vec<HeaderOp>,
    /// Changes to denials.
    pub response_ops: Vec<HeaderOp>,
    /// Buckets by descriptor.
    pub descriptors: Vec<DescriptorBucket>,
    /// A descriptor's match also takes from the default bucket.
    pub always_default: bool,
    /// gRPC clients see RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
    /// One bucket for each connection.
    pub per_connection: bool,
    /// x-ratelimit-* fields are sent.
    pub x_ratelimit_headers: bool,
}

/// A bucket for requests with these descriptor entries.
#[derive(Debug, Clone)]
pub struct DescriptorBucket {
    /// Keys and values, all equal; an empty value is any, each with its own bucket.
    pub entries: Vec<(Str, Str)>,
    /// The bucket.
    pub bucket: BucketConfig,
}

/// Body of a denial.
pub const LIMITED_BODY: &str = "local_rate_limited";

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BucketConfig = BucketConfig {
        max_tokens: 4,
        tokens_per_fill: 2,
        fill_interval: Duration::from_secs(1),
    };

    #[test]
    fn a_bucket_starts_full_and_refills_in_whole_intervals() {
        let at = Duration::from_millis;
        let mut bucket = TokenBucket::new(CONFIG, at(0));
        assert!((0..4).all(|_| bucket.take(1, at(0))));
        assert!(!bucket.take(1, at(999)));
        assert!(bucket.take(1, at(1000)));
        assert!(bucket.take(1, at(1000)));
        assert!(!bucket.take(1, at(1999)));
        assert_eq!(bucket.state(at(60_000)), (4, at(1000)));
    }
}
