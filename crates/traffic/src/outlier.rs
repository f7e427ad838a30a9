//! Which hosts stand out: success rate against the others, and failure percentage, over one interval.

use std::time::Duration;

use crate::cluster::{FailurePercentage, OutlierDetection, SuccessRate};

/// Requests of a host in the past interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IntervalCounts {
    /// Those that did not fail.
    pub success: u64,
    /// All.
    pub total: u64,
}

impl IntervalCounts {
    /// Percent that did not fail.
    #[must_use]
    pub fn rate(self) -> f64 {
        100.0 * self.success as f64 / self.total.max(1) as f64
    }
}

/// Positions of the hosts with enough requests, with their rates; empty when they are too few to compare.
fn comparable(
    hosts: &[IntervalCounts],
    minimum_hosts: u32,
    request_volume: u32,
) -> Vec<(usize, f64)> {
    let busy = hosts
        .iter()
        .enumerate()
        .filter(|(_, counts)| counts.total > 0 && counts.total >= u64::from(request_volume));
    let rates: Vec<(usize, f64)> = busy
        .map(|(position, counts)| (position, counts.rate()))
        .collect();
    if rates.len() >= minimum_hosts as usize {
        rates
    } else {
        Vec::new()
    }
}

impl SuccessRate {
    /// Hosts whose rate lies too far below the mean.
    #[must_use]
    pub fn outliers(&self, hosts: &[IntervalCounts]) -> Vec<usize> {
        let rates = comparable(hosts, self.minimum_hosts, self.request_volume);
        if rates.is_empty() {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates
            .iter()
            .map(|(_, rate)| (rate - mean).powi(2))
            .sum::<f64>()
            / count;
        let threshold = mean - variance.sqrt() * f64::from(self.stdev_factor) / 1000.0;
        rates
            .into_iter()
            .filter(|(_, rate)| *rate < threshold)
            .map(|(position, _)| position)
            .collect()
    }
}

impl FailurePercentage {
    /// Hosts that fail too often.
    #[must_use]
    pub fn outliers(&self, hosts: &[IntervalCounts]) -> Vec<usize> {
        let rates = comparable(hosts, self.minimum_hosts, self.request_volume);
        let failing = rates
            .into_iter()
            .filter(|(_, rate)| 100.0 - rate >= f64::from(self.threshold));
        failing.map(|(position, _)| position).collect()
    }
}

/// What an ejection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionKind {
    /// 5xx in a row.
    Consecutive5xx,
    /// 502, 503, 504 in a row.
    ConsecutiveGateway,
    /// Local failures in a row (split mode).
    ConsecutiveLocal,
    /// Success rate far below the others'.
    SuccessRate,
    /// The same, of local failures (split mode).
    LocalSuccessRate,
    /// Too many failures.
    FailurePercentage,
    /// The same, of local failures (split mode).
    LocalFailurePercentage,
}

impl EjectionKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::ConsecutiveLocal,
        Self::SuccessRate,
        Self::LocalSuccessRate,
        Self::FailurePercentage,
        Self::LocalFailurePercentage,
    ];

    /// The end of its counters' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocal => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalFailurePercentage => "local_origin_failure_percentage",
        }
    }
}

impl OutlierDetection {
    /// Percent chance that an ejection of this kind is carried out.
    #[must_use]
    pub fn enforcing(&self, kind: EjectionKind) -> u32 {
        match kind {
            EjectionKind::Consecutive5xx => self.enforcing_consecutive_5xx,
            EjectionKind::ConsecutiveGateway => self.enforcing_consecutive_gateway,
            EjectionKind::ConsecutiveLocal => self.enforcing_consecutive_local,
            EjectionKind::SuccessRate => self.success_rate.enforcing,
            EjectionKind::LocalSuccessRate => self.success_rate.enforcing_local,
            EjectionKind::FailurePercentage => self.failure_percentage.enforcing,
            EjectionKind::LocalFailurePercentage => self.failure_percentage.enforcing_local,
        }
    }

    /// Whether one more of `hosts` may be ejected when `ejected` already are.
    #[must_use]
    pub fn may_eject(&self, ejected: u32, hosts: usize) -> bool {
        if self.always_eject_one && ejected == 0 {
            return true;
        }
        let percent = 100.0 * (f64::from(ejected) + 1.0) / hosts.max(1) as f64;
        percent <= f64::from(self.max_ejection_percent.min(100))
    }

    /// How long a host stays away that was ejected `times` times.
    #[must_use]
    pub fn ejection_time(&self, times: u32) -> Duration {
        self.base_ejection
            .saturating_mul(times)
            .min(self.max_ejection)
    }

    /// The count of ejections after one more: it stops where the time does not grow any more.
    #[must_use]
    pub fn next_multiplier(&self, times: u32) -> u32 {
        let now = self.base_ejection.saturating_mul(times);
        if now < self.max_ejection.saturating_add(self.base_ejection) {
            times.saturating_add(1)
        } else {
            times
        }
    }

    /// Positions to eject at the end of an interval, and why; `None` in `hosts` is an ejected one, which does not count.
    #[must_use]
    pub fn interval_outliers(
        &self,
        hosts: &[Option<IntervalCounts>],
        local: bool,
    ) -> Vec<(usize, EjectionKind)> {
        let enough = |minimum: u32| hosts.len() >= minimum as usize;
        if !enough(self.success_rate.minimum_hosts)
            && !enough(self.failure_percentage.minimum_hosts)
        {
            return Vec::new();
        }
        let counts: Vec<IntervalCounts> = hosts.iter().map(|c| c.unwrap_or_default()).collect();
        let (rate, percentage) = if local {
            (
                EjectionKind::LocalSuccessRate,
                EjectionKind::LocalFailurePercentage,
            )
        } else {
            (EjectionKind::SuccessRate, EjectionKind::FailurePercentage)
        };
        let rates = self.success_rate.outliers(&counts);
        let failing = self.failure_percentage.outliers(&counts);
        let rates = rates.into_iter().map(|at| (at, rate));
        rates
            .chain(failing.into_iter().map(|at| (at, percentage)))
            .filter(|(at, _)| hosts[*at].is_some())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: SuccessRate = SuccessRate {
        enforcing: 100,
        enforcing_local: 100,
        minimum_hosts: 5,
        request_volume: 100,
        stdev_factor: 1900,
    };
    const FAILURES: FailurePercentage = FailurePercentage {
        threshold: 85,
        enforcing: 0,
        enforcing_local: 0,
        minimum_hosts: 5,
        request_volume: 50,
    };

    fn hosts(rates: &[u64]) -> Vec<IntervalCounts> {
        rates
            .iter()
            .map(|success| IntervalCounts {
                success: *success,
                total: 100,
            })
            .collect()
    }

    #[test]
    fn a_host_far_below_the_mean_stands_out() {
        assert_eq!(RATE.outliers(&hosts(&[100, 100, 100, 100, 50])), [4]);
        assert!(RATE.outliers(&hosts(&[100, 99, 98, 97, 96])).is_empty());
    }

    #[test]
    fn too_few_hosts_or_requests_are_not_compared() {
        assert!(RATE.outliers(&hosts(&[100, 100, 100, 0])).is_empty());
        let mut quiet = hosts(&[100, 100, 100, 100, 0]);
        quiet[4] = IntervalCounts {
            success: 0,
            total: 99,
        };
        assert!(RATE.outliers(&quiet).is_empty());
    }

    #[test]
    fn failure_percentage_counts_from_its_threshold_on() {
        assert_eq!(FAILURES.outliers(&hosts(&[100, 100, 100, 16, 15])), [4]);
    }

    const DETECTION: OutlierDetection = OutlierDetection {
        consecutive_5xx: 5,
        enforcing_consecutive_5xx: 100,
        consecutive_gateway: 5,
        enforcing_consecutive_gateway: 0,
        consecutive_local: 5,
        enforcing_consecutive_local: 100,
        split_local: false,
        uneject_on_check: true,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(100),
        jitter: Duration::ZERO,
        max_ejection_percent: 10,
        always_eject_one: false,
        success_rate: RATE,
        failure_percentage: FAILURES,
    };

    #[test]
    fn the_share_of_ejected_hosts_is_never_exceeded() {
        assert!(!DETECTION.may_eject(0, 9));
        assert!(DETECTION.may_eject(0, 10));
        assert!(!DETECTION.may_eject(1, 10));
        let one = OutlierDetection {
            always_eject_one: true,
            ..DETECTION
        };
        assert!(one.may_eject(0, 2));
        assert!(!one.may_eject(1, 2));
        let third = OutlierDetection {
            max_ejection_percent: 33,
            ..DETECTION
        };
        assert!(!third.may_eject(0, 3));
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_limit() {
        let seconds = |times| DETECTION.ejection_time(times).as_secs();
        assert_eq!([1, 2, 3, 4].map(seconds), [30, 60, 90, 100]);
        let mut times = 0;
        for _ in 0..10 {
            times = DETECTION.next_multiplier(times);
        }
        // 30 s times 5 is more than the limit and one base time.
        assert_eq!(times, 5);
    }

    #[test]
    fn ejected_hosts_are_not_judged_again() {
        let mut counts: Vec<_> = hosts(&[100, 100, 100, 100, 100, 0])
            .into_iter()
            .map(Some)
            .collect();
        assert_eq!(
            DETECTION.interval_outliers(&counts, false),
            [
                (5, EjectionKind::SuccessRate),
                (5, EjectionKind::FailurePercentage)
            ]
        );
        counts[5] = None;
        assert!(DETECTION.interval_outliers(&counts, false).is_empty());
    }
}
