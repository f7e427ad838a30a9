//! Circuit breaker and retry budget arithmetic. Counters live where connections do; limits are judged here.

use crate::cluster::{RetryBudget, Thresholds};

/// What is counted of a cluster and priority, process-wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests that have one.
    pub active: u32,
    /// Retries under way.
    pub retries: u32,
}

/// Limits that can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// `max_connections`.
    Connections,
    /// `max_pending_requests`.
    Pending,
    /// `max_requests`.
    Requests,
    /// `max_retries` or the budget.
    Retries,
}

impl Thresholds {
    /// Whether one more of a kind is admitted: the present count must be below the limit.
    #[must_use]
    pub fn admits(&self, breaker: Breaker, load: Load) -> bool {
        match breaker {
            Breaker::Connections => load.connections < self.max_connections,
            Breaker::Pending => load.pending < self.max_pending,
            Breaker::Requests => load.active < self.max_requests,
            Breaker::Retries => load.retries < self.retry_limit(load),
        }
    }

    /// Retries that may run at once.
    #[must_use]
    pub fn retry_limit(&self, load: Load) -> u32 {
        self.budget
            .map_or(self.max_retries, |budget| budget.limit(load))
    }
}

impl RetryBudget {
    fn limit(self, load: Load) -> u32 {
        let base = f64::from(load.active.saturating_add(load.pending));
        let share = (base * self.percent / 100.0).floor();
        // `as` saturates, and the share is never negative.
        (share as u32).max(self.min_concurrency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_refuses_when_the_count_reaches_it() {
        let limits = Thresholds {
            max_requests: 1,
            ..Thresholds::default()
        };
        assert!(limits.admits(Breaker::Requests, Load::default()));
        assert!(!limits.admits(
            Breaker::Requests,
            Load {
                active: 1,
                ..Load::default()
            }
        ));
    }

    #[test]
    fn a_budget_replaces_the_retry_limit() {
        let budget = RetryBudget {
            percent: 20.0,
            min_concurrency: 3,
        };
        let limits = Thresholds {
            max_retries: 0,
            budget: Some(budget),
            ..Thresholds::default()
        };
        assert_eq!(limits.retry_limit(Load::default()), 3);
        assert_eq!(
            limits.retry_limit(Load {
                active: 90,
                pending: 10,
                ..Load::default()
            }),
            20
        );
    }
}
