//! Active health checks: when a result changes a host's health, and when the next check is due. Envoy's rules.

use std::time::Duration;

use crate::cluster::HealthCheck;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// As expected.
    Passed {
        /// The host says of itself that it is degraded.
        degraded: bool,
    },
    /// The host answered that it is not well.
    Failed,
    /// An answer that counts only when it comes often enough (`retriable_statuses`).
    Retriable,
    /// No answer: no connection, or it broke off.
    Network,
    /// No answer in time.
    TimedOut,
}

/// What one check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The host is not to be used.
    pub failed: bool,
    /// That differs from before.
    pub changed: bool,
    /// It would differ if more of the same came.
    pub pending: bool,
}

/// Results in a row of one host and check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckState {
    checked: bool,
    passed: u32,
    missed: u32,
}

impl CheckState {
    /// Takes a result; `failed` is the host's present state.
    pub fn judge(&mut self, settings: &HealthCheck, failed: bool, result: CheckResult) -> Judged {
        let first = !std::mem::replace(&mut self.checked, true);
        if matches!(result, CheckResult::Passed { .. }) {
            self.missed = 0;
            if !failed {
                return Judged::new(false, false, false);
            }
            // The first result ever counts at once, so that a start is quick.
            self.passed += 1;
            let passes = first || self.passed >= settings.healthy_threshold;
            return Judged::new(!passes, passes, !passes);
        }
        self.passed = 0;
        if failed {
            return Judged::new(true, false, false);
        }
        self.missed += 1;
        let fails = result == CheckResult::Failed || self.missed >= settings.unhealthy_threshold;
        Judged::new(fails, fails, !fails)
    }
}

impl Judged {
    fn new(failed: bool, changed: bool, pending: bool) -> Self {
        Self {
            failed,
            changed,
            pending,
        }
    }
}

impl HealthCheck {
    /// Time to the next check. `passed` is this check's result, `traffic` whether the cluster ever made a connection.
    #[must_use]
    pub fn next_in(&self, passed: bool, judged: Judged, traffic: bool, random: u64) -> Duration {
        let base = match (traffic, passed, judged.pending) {
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, ..) => self.no_traffic_interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, true, false) => self.interval,
            (true, false, true) => self.unhealthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
        };
        let fixed = up_to(self.interval_jitter, random);
        let share = base.mul_f64(f64::from(self.interval_jitter_percent) / 100.0);
        (base + fixed + up_to(share, random)).max(Duration::from_millis(1))
    }

    /// Time before the first check.
    #[must_use]
    pub fn first_in(&self, random: u64) -> Duration {
        up_to(self.initial_jitter, random)
    }
}

fn up_to(limit: Duration, random: u64) -> Duration {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.checked_rem(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HealthCheckKind;

    fn settings() -> HealthCheck {
        let second = Duration::from_secs;
        HealthCheck {
            timeout: second(1),
            interval: second(10),
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            no_traffic_interval: second(60),
            no_traffic_healthy_interval: second(50),
            unhealthy_interval: second(20),
            unhealthy_edge_interval: second(3),
            healthy_edge_interval: second(4),
            unhealthy_threshold: 2,
            healthy_threshold: 3,
            reuse_connection: true,
            alpn: Vec::new(),
            kind: HealthCheckKind::Tcp {
                send: Vec::new(),
                receive: Vec::new(),
            },
        }
    }

    const PASS: CheckResult = CheckResult::Passed { degraded: false };

    #[test]
    fn the_first_pass_counts_at_once_and_later_ones_by_the_threshold() {
        let settings = settings();
        let mut state = CheckState::default();
        assert_eq!(
            state.judge(&settings, true, PASS),
            Judged::new(false, true, false)
        );
        state.judge(&settings, false, CheckResult::Failed);
        for _ in 0..2 {
            assert_eq!(
                state.judge(&settings, true, PASS),
                Judged::new(true, false, true)
            );
        }
        assert_eq!(
            state.judge(&settings, true, PASS),
            Judged::new(false, true, false)
        );
    }

    #[test]
    fn an_answer_that_the_host_is_not_well_counts_at_once_silence_by_the_threshold() {
        let settings = settings();
        for result in [
            CheckResult::Network,
            CheckResult::TimedOut,
            CheckResult::Retriable,
        ] {
            let mut state = CheckState::default();
            assert_eq!(
                state.judge(&settings, false, result),
                Judged::new(false, false, true)
            );
            assert_eq!(
                state.judge(&settings, false, result),
                Judged::new(true, true, false)
            );
        }
        let mut state = CheckState::default();
        let judged = state.judge(&settings, false, CheckResult::Failed);
        assert_eq!(judged, Judged::new(true, true, false));
    }

    #[test]
    fn a_pass_between_two_misses_starts_the_row_again() {
        let settings = settings();
        let mut state = CheckState::default();
        state.judge(&settings, false, CheckResult::Network);
        state.judge(&settings, false, PASS);
        assert!(!state.judge(&settings, false, CheckResult::Network).failed);
    }

    #[test]
    fn intervals_depend_on_traffic_health_and_the_edge() {
        let settings = settings();
        let next = |passed: bool, pending: bool, traffic: bool| {
            let judged = Judged::new(!passed, false, pending);
            settings.next_in(passed, judged, traffic, 7).as_secs()
        };
        assert_eq!(next(true, false, true), 10);
        assert_eq!(next(true, true, true), 4);
        assert_eq!(next(false, false, true), 20);
        assert_eq!(next(false, true, true), 3);
        assert_eq!(next(true, false, false), 50);
        assert_eq!(next(true, true, false), 60);
        assert_eq!(next(false, false, false), 60);
    }
}
