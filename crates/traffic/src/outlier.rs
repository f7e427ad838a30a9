//! Which hosts stand out: success rate against the others, and failure percentage, over one interval.

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
    fn rate(self) -> f64 {
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
        .filter(|(_, counts)| counts.total >= u64::from(request_volume));
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

impl OutlierDetection {
    /// Hosts to eject at the end of an interval; `draw` gives a number below 100 for each candidate.
    #[must_use]
    pub fn interval_ejections(
        &self,
        hosts: &[IntervalCounts],
        mut draw: impl FnMut() -> u32,
    ) -> Vec<usize> {
        let mut out = Vec::new();
        let candidates = [
            (
                self.success_rate.enforcing,
                self.success_rate.outliers(hosts),
            ),
            (
                self.failure_percentage.enforcing,
                self.failure_percentage.outliers(hosts),
            ),
        ];
        for (enforcing, positions) in candidates {
            for position in positions {
                if !out.contains(&position) && draw() < enforcing {
                    out.push(position);
                }
            }
        }
        out
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
}
