//! Outlier detection: consecutive failures at once, success rate and failure percentage at the end of each interval.
//!
//! [`HostOutlier`] counts with atomics, on the way of every request. A [`Detector`] (one per cluster and process)
//! decides: `Detector::eject` and [`Detector::sweep`] run under its lock, as Envoy runs them on its main thread.
//! Time is an argument; the maths is `traffic::outlier`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use meltemi_traffic::cluster::OutlierDetection;
use meltemi_traffic::outlier::{EjectionKind, IntervalCounts};
use parking_lot::Mutex;

use crate::host::Host;

/// How a request or a connection ended, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered with this status.
    Response {
        /// The status.
        status: u16,
        /// It counts as a failure.
        failed: bool,
    },
    /// No connection came about, or it broke off.
    ConnectFailed,
    /// The host took too long.
    Timeout,
    /// A connection for requests is there.
    Connected,
    /// A connection is there, and nothing more will be known of it (TCP).
    ConnectedFinal,
}

impl Outcome {
    /// A response that is judged by its class.
    pub fn response(status: u16) -> Self {
        Self::Response {
            status,
            failed: status >= 500,
        }
    }

    /// The status that stands for a local outcome where local and remote ones are not told apart.
    fn as_response(self) -> Option<(u16, bool)> {
        match self {
            Self::Response { status, failed } => Some((status, failed)),
            Self::ConnectFailed => Some((503, true)),
            Self::Timeout => Some((504, true)),
            Self::Connected => None,
            Self::ConnectedFinal => Some((200, false)),
        }
    }
}

#[derive(Debug, Default)]
struct Interval {
    total: AtomicU64,
    success: AtomicU64,
    /// Percent of the last interval, as bits; none is -1.
    rate: AtomicU64,
}

impl Interval {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.success
            .fetch_add(u64::from(success), Ordering::Relaxed);
    }

    fn take(&self) -> IntervalCounts {
        IntervalCounts {
            success: self.success.swap(0, Ordering::Relaxed),
            total: self.total.swap(0, Ordering::Relaxed),
        }
    }

    fn rate(&self) -> f64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => -1.0,
            bits => f64::from_bits(bits),
        }
    }
}

/// State of one host.
#[derive(Debug, Default)]
pub struct HostOutlier {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Interval,
    local: Interval,
    ejected: AtomicBool,
    /// Times ejected, counted down by sweeps without ejection.
    multiplier: AtomicU32,
    /// Milliseconds on the caller's clock.
    since: AtomicU64,
    jitter: AtomicU64,
}

/// What a result made detectable: at most a gateway failure and a 5xx at once.
pub type Detected = [Option<EjectionKind>; 2];

impl HostOutlier {
    /// The host is not to be picked.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Success rate of the last interval in percent, of answers and of local results; -1 is none.
    pub fn success_rates(&self) -> (f64, f64) {
        (self.external.rate(), self.local.rate())
    }

    /// Counts a result.
    pub fn record(&self, settings: &OutlierDetection, outcome: Outcome) -> Detected {
        let local = match outcome {
            _ if !settings.split_local => None,
            Outcome::Response { .. } => None,
            Outcome::ConnectFailed | Outcome::Timeout => Some(false),
            Outcome::Connected | Outcome::ConnectedFinal => Some(true),
        };
        match (local, outcome.as_response()) {
            (Some(success), _) => [self.local_result(settings, success), None],
            (None, Some((status, failed))) => self.response(settings, status, failed),
            (None, None) => [None, None],
        }
    }

    fn local_result(&self, settings: &OutlierDetection, success: bool) -> Option<EjectionKind> {
        self.local.count(success);
        if success {
            self.consecutive_local.store(0, Ordering::Relaxed);
            return None;
        }
        reaches(&self.consecutive_local, settings.consecutive_local)
            .then_some(EjectionKind::ConsecutiveLocal)
    }

    fn response(&self, settings: &OutlierDetection, status: u16, failed: bool) -> Detected {
        self.external.count(!failed);
        if !failed {
            self.consecutive_5xx.store(0, Ordering::Relaxed);
            self.consecutive_gateway.store(0, Ordering::Relaxed);
            return [None, None];
        }
        let mut gateway = false;
        if (502..=504).contains(&status) {
            gateway = reaches(&self.consecutive_gateway, settings.consecutive_gateway);
        } else {
            self.consecutive_gateway.store(0, Ordering::Relaxed);
        }
        let any = reaches(&self.consecutive_5xx, settings.consecutive_5xx);
        [
            gateway.then_some(EjectionKind::ConsecutiveGateway),
            any.then_some(EjectionKind::Consecutive5xx),
        ]
    }

    fn reset(&self, kind: EjectionKind) {
        match kind {
            EjectionKind::Consecutive5xx => &self.consecutive_5xx,
            EjectionKind::ConsecutiveGateway => &self.consecutive_gateway,
            EjectionKind::ConsecutiveLocal => &self.consecutive_local,
            EjectionKind::SuccessRate
            | EjectionKind::LocalSuccessRate
            | EjectionKind::FailurePercentage
            | EjectionKind::LocalFailurePercentage => return,
        }
        .store(0, Ordering::Relaxed);
    }

    fn eject(&self, settings: &OutlierDetection, now: Duration) {
        let times = self.multiplier.load(Ordering::Relaxed);
        self.multiplier
            .store(settings.next_multiplier(times), Ordering::Relaxed);
        self.jitter.store(
            millis(settings.jitter.mul_f64(fastrand::f64())),
            Ordering::Relaxed,
        );
        self.since.store(millis(now), Ordering::Relaxed);
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// Part of the sweep; true when the host comes back.
    fn sweep(&self, settings: &OutlierDetection, now: Duration) -> bool {
        let times = self.multiplier.load(Ordering::Relaxed);
        if !self.is_ejected() {
            self.multiplier
                .store(times.saturating_sub(1), Ordering::Relaxed);
            return false;
        }
        let away = millis(now).saturating_sub(self.since.load(Ordering::Relaxed));
        let asked = millis(settings.ejection_time(times)) + self.jitter.load(Ordering::Relaxed);
        away >= asked && self.restore()
    }

    /// Takes the ejection back; false when there was none.
    fn restore(&self) -> bool {
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway.store(0, Ordering::Relaxed);
        self.consecutive_local.store(0, Ordering::Relaxed);
        self.ejected.swap(false, Ordering::Relaxed)
    }
}

/// Counts one more; true when the count is now exactly the limit.
fn reaches(counter: &AtomicU32, limit: u32) -> bool {
    let count = counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    limit > 0 && count == limit
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Decides about the hosts of one cluster.
#[derive(Debug, Default)]
pub struct Detector {
    active: AtomicU32,
    overflow: AtomicU64,
    enforced_total: AtomicU64,
    detected: [AtomicU64; 7],
    enforced: [AtomicU64; 7],
    deciding: Mutex<()>,
}

impl Detector {
    /// Hosts that are ejected now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Calls `each` with the name and value of every statistic.
    pub fn for_each(&self, each: &mut dyn FnMut(&str, u64)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        each("ejections_active", self.active().into());
        each("ejections_overflow", load(&self.overflow));
        each("ejections_enforced_total", load(&self.enforced_total));
        for kind in EjectionKind::ALL {
            let name = kind.name();
            let at = kind as usize;
            each(
                &format!("ejections_detected_{name}"),
                load(&self.detected[at]),
            );
            each(
                &format!("ejections_enforced_{name}"),
                load(&self.enforced[at]),
            );
        }
        // Older names of the same events, which Envoy still counts.
        let old = |kind: EjectionKind| load(&self.detected[kind as usize]);
        each(
            "ejections_consecutive_5xx",
            old(EjectionKind::Consecutive5xx),
        );
        each("ejections_success_rate", old(EjectionKind::SuccessRate));
        each("ejections_total", load(&self.enforced_total));
    }

    /// Counts a result of a host; true when a host was ejected for it.
    pub fn record(
        &self,
        settings: &OutlierDetection,
        host: &Host,
        outcome: Outcome,
        hosts: usize,
        now: Duration,
    ) -> bool {
        let detected = host.state.outlier.record(settings, outcome);
        let mut changed = false;
        for kind in detected.into_iter().flatten() {
            let _deciding = self.deciding.lock();
            if host.state.outlier.is_ejected() {
                break;
            }
            changed |= self.eject(settings, host, kind, hosts, now);
            host.state.outlier.reset(kind);
        }
        changed
    }

    fn eject(
        &self,
        settings: &OutlierDetection,
        host: &Host,
        kind: EjectionKind,
        hosts: usize,
        now: Duration,
    ) -> bool {
        self.detected[kind as usize].fetch_add(1, Ordering::Relaxed);
        if !settings.may_eject(self.active(), hosts) {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if fastrand::u32(0..100) >= settings.enforcing(kind) {
            return false;
        }
        self.enforced[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.enforced_total.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        host.state.outlier.eject(settings, now);
        true
    }

    /// The end of an interval: hosts whose time is over come back, then those are ejected that stood out.
    pub fn sweep(&self, settings: &OutlierDetection, hosts: &[Arc<Host>], now: Duration) -> bool {
        let _deciding = self.deciding.lock();
        let mut changed = false;
        for host in hosts {
            if host.state.outlier.sweep(settings, now) {
                self.active.fetch_sub(1, Ordering::Relaxed);
                changed = true;
            }
        }
        for local in [false, true] {
            let interval = |host: &Arc<Host>| {
                let interval = if local {
                    &host.state.outlier.local
                } else {
                    &host.state.outlier.external
                };
                let counts = interval.take();
                let usable = !host.state.outlier.is_ejected();
                let least = settings
                    .success_rate
                    .request_volume
                    .min(settings.failure_percentage.request_volume);
                let known = usable && counts.total > 0 && counts.total >= u64::from(least);
                let rate = if known { counts.rate() } else { -1.0 };
                // Zero stands for "none", so a rate of zero is the smallest number above it.
                let bits = rate.to_bits().max(1);
                interval.rate.store(bits, Ordering::Relaxed);
                usable.then_some(counts)
            };
            let counts: Vec<_> = hosts.iter().map(interval).collect();
            for (position, kind) in settings.interval_outliers(&counts, local) {
                let host = &hosts[position];
                if !host.state.outlier.is_ejected() {
                    changed |= self.eject(settings, host, kind, hosts.len(), now);
                }
            }
        }
        changed
    }

    /// A host that leaves, or that an active check has found healthy, is ejected no more; true when it was.
    pub fn restore(&self, host: &HostOutlier) -> bool {
        let _deciding = self.deciding.lock();
        let was = host.restore();
        if was {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> OutlierDetection {
        use meltemi_traffic::cluster::{FailurePercentage, SuccessRate};
        OutlierDetection {
            consecutive_5xx: 3,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway: 2,
            enforcing_consecutive_gateway: 100,
            consecutive_local: 2,
            enforcing_consecutive_local: 100,
            split_local: false,
            uneject_on_check: true,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            jitter: Duration::ZERO,
            max_ejection_percent: 100,
            always_eject_one: false,
            success_rate: SuccessRate {
                enforcing: 100,
                enforcing_local: 100,
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                enforcing: 0,
                enforcing_local: 0,
                minimum_hosts: 5,
                request_volume: 50,
            },
        }
    }

    #[test]
    fn failures_in_a_row_are_detected_exactly_at_their_limit() {
        let host = HostOutlier::default();
        let settings = settings();
        let fail = |status| host.record(&settings, Outcome::response(status));
        assert_eq!(fail(500), [None, None]);
        assert_eq!(fail(500), [None, None]);
        assert_eq!(fail(500), [None, Some(EjectionKind::Consecutive5xx)]);
        assert_eq!(fail(500), [None, None]);
    }

    #[test]
    fn a_success_and_another_kind_of_failure_start_the_row_again() {
        let host = HostOutlier::default();
        let settings = settings();
        let see = |status| host.record(&settings, Outcome::response(status));
        see(502);
        see(500);
        assert_eq!(see(502), [None, Some(EjectionKind::Consecutive5xx)]);
        assert_eq!(see(503), [Some(EjectionKind::ConsecutiveGateway), None]);
        see(200);
        assert_eq!(see(503), [None, None]);
        assert_eq!(see(503), [Some(EjectionKind::ConsecutiveGateway), None]);
    }

    #[test]
    fn local_failures_count_as_gateway_failures_unless_split() {
        let mut settings = settings();
        let host = HostOutlier::default();
        host.record(&settings, Outcome::Timeout);
        let second = host.record(&settings, Outcome::ConnectFailed);
        assert_eq!(second, [Some(EjectionKind::ConsecutiveGateway), None]);
        settings.split_local = true;
        let host = HostOutlier::default();
        host.record(&settings, Outcome::ConnectFailed);
        host.record(&settings, Outcome::response(503));
        let second = host.record(&settings, Outcome::ConnectFailed);
        assert_eq!(second, [Some(EjectionKind::ConsecutiveLocal), None]);
        host.record(&settings, Outcome::ConnectFailed);
        host.record(&settings, Outcome::Connected);
        let again = host.record(&settings, Outcome::ConnectFailed);
        assert_eq!(again, [None, None]);
    }

    #[test]
    fn an_ejected_host_returns_at_the_sweep_after_its_time_and_stays_longer_each_time() {
        let host = HostOutlier::default();
        let settings = settings();
        let at = Duration::from_secs;
        host.eject(&settings, at(5));
        assert!(!host.sweep(&settings, at(30)));
        assert!(host.sweep(&settings, at(40)));
        host.eject(&settings, at(41));
        assert!(!host.sweep(&settings, at(100)));
        assert!(host.sweep(&settings, at(110)));
        // Two quiet intervals forget both ejections.
        assert!(!host.sweep(&settings, at(120)));
        assert!(!host.sweep(&settings, at(130)));
        host.eject(&settings, at(131));
        assert!(host.sweep(&settings, at(165)));
    }
}
