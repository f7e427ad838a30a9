//! Outlier detection of one host: consecutive failures and ejection, with Envoy's formulas.
//!
//! Time is an argument. Ejection happens at once when a counter reaches its threshold; the sweep, one per cluster
//! and interval, brings hosts back.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use meltemi_traffic::cluster::OutlierDetection;
use meltemi_traffic::outlier::IntervalCounts;

/// State of one host.
#[derive(Debug, Default)]
pub struct Outlier {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    /// Requests since the last sweep, and those that did not fail.
    interval_total: AtomicU64,
    interval_success: AtomicU64,
    ejected: AtomicBool,
    /// Times ejected, counted down by sweeps without ejection.
    multiplier: AtomicU32,
    /// Milliseconds on the caller's clock.
    until: AtomicU64,
}

impl Outlier {
    /// The host is not to be picked.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Takes a result (a locally made one as the status that stands for it); true when the host should be ejected.
    pub fn report(&self, settings: &OutlierDetection, status: u16) -> bool {
        self.interval_total.fetch_add(1, Ordering::Relaxed);
        if status < 500 {
            self.interval_success.fetch_add(1, Ordering::Relaxed);
        }
        let threshold = |counter: &AtomicU32, failed: bool, limit: u32, enforcing: u32| {
            if !failed {
                counter.store(0, Ordering::Relaxed);
                return false;
            }
            let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
            if limit == 0 || count < limit {
                return false;
            }
            counter.store(0, Ordering::Relaxed);
            fastrand::u32(0..100) < enforcing
        };
        let failed = threshold(
            &self.consecutive_5xx,
            status >= 500,
            settings.consecutive_5xx,
            settings.enforcing_consecutive_5xx,
        );
        let gateway = threshold(
            &self.consecutive_gateway,
            (502..=504).contains(&status),
            settings.consecutive_gateway,
            settings.enforcing_consecutive_gateway,
        );
        (failed || gateway) && !self.is_ejected()
    }

    /// Ejects the host.
    pub fn eject(&self, settings: &OutlierDetection, now: Duration) {
        let times = self.multiplier.fetch_add(1, Ordering::Relaxed) + 1;
        let length = settings
            .base_ejection
            .saturating_mul(times)
            .min(settings.max_ejection);
        let jitter = settings.jitter.mul_f64(fastrand::f64());
        let until = now + length + jitter;
        self.until.store(
            u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// Part of the sweep: what was counted since the last one.
    pub fn take_interval(&self) -> IntervalCounts {
        IntervalCounts {
            success: self.interval_success.swap(0, Ordering::Relaxed),
            total: self.interval_total.swap(0, Ordering::Relaxed),
        }
    }

    /// Part of the sweep; true when the host comes back.
    pub fn sweep(&self, now: Duration) -> bool {
        if !self.is_ejected() {
            let _ = self
                .multiplier
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| {
                    times.checked_sub(1)
                });
            return false;
        }
        let due = u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
            >= self.until.load(Ordering::Relaxed);
        if due {
            self.consecutive_5xx.store(0, Ordering::Relaxed);
            self.consecutive_gateway.store(0, Ordering::Relaxed);
            self.ejected.store(false, Ordering::Relaxed);
        }
        due
    }
}

/// Whether one more host may be ejected when `ejected` of `hosts` already are.
pub fn may_eject(settings: &OutlierDetection, ejected: usize, hosts: usize) -> bool {
    (settings.always_eject_one && ejected == 0)
        || (hosts > 0 && 100 * (ejected + 1) / hosts <= settings.max_ejection_percent as usize)
}
