//! The overload manager: how pressure on resources becomes actions.

use std::time::Duration;

use crate::Str;

/// `overload_manager` of a bootstrap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverloadManager {
    /// Time between two looks at the monitors.
    pub refresh: Duration,
    /// What is measured.
    pub monitors: Vec<Monitor>,
    /// What follows.
    pub actions: Vec<Action>,
}

/// A measured resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Name that triggers use.
    pub name: Str,
    /// Bytes of memory that count as all there is (`fixed_heap`).
    pub max_heap: u64,
}

impl Monitor {
    /// The pressure, from 0 to 1 and beyond.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a ratio needs no exact bytes")]
    pub fn pressure(&self, used: u64) -> f64 {
        used as f64 / self.max_heap.max(1) as f64
    }
}

/// An action with what sets it off.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// What is done.
    pub kind: ActionKind,
    /// By position in [`OverloadManager::monitors`]; the strongest counts.
    pub triggers: Vec<(usize, Trigger)>,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionKind {
    /// Requests get 503.
    StopAcceptingRequests,
    /// Responses end their connections.
    DisableKeepalive,
    /// Listeners do not accept; clients wait in the kernel's queue.
    StopAcceptingConnections,
    /// New connections are closed at once.
    RejectConnections,
    /// Free memory is given back; the allocator here does so by itself.
    ShrinkHeap,
}

/// When an action is taken, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// Wholly, from this pressure on.
    Threshold(f64),
    /// Growing from nothing at the first pressure to all at the second.
    Scaled(f64, f64),
}

impl Trigger {
    /// How much of the action a pressure asks for, from 0 to 1.
    #[must_use]
    pub fn strength(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(from) if pressure >= from => 1.0,
            Self::Threshold(_) => 0.0,
            Self::Scaled(from, _) if pressure <= from => 0.0,
            Self::Scaled(_, to) if pressure >= to => 1.0,
            Self::Scaled(from, to) => (pressure - from) / (to - from),
        }
    }
}

impl OverloadManager {
    /// How much of an action the present pressures (in the order of the monitors) ask for.
    #[must_use]
    pub fn strength(&self, kind: ActionKind, pressures: &[f64]) -> f64 {
        let actions = self.actions.iter().filter(|action| action.kind == kind);
        actions
            .flat_map(|action| &action.triggers)
            .filter_map(|(monitor, trigger)| Some(trigger.strength(*pressures.get(*monitor)?)))
            .fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_all_or_nothing_and_a_scale_grows() {
        let threshold = Trigger::Threshold(0.9);
        assert_eq!(
            [0.0, 0.89, 0.9, 2.0].map(|p| threshold.strength(p)),
            [0.0, 0.0, 1.0, 1.0]
        );
        let scaled = Trigger::Scaled(0.5, 1.0);
        assert_eq!(
            [0.0, 0.5, 0.75, 1.0, 2.0].map(|p| scaled.strength(p)),
            [0.0, 0.0, 0.5, 1.0, 1.0]
        );
    }

    #[test]
    fn the_strongest_trigger_of_an_action_counts() {
        let manager = OverloadManager {
            actions: vec![Action {
                kind: ActionKind::RejectConnections,
                triggers: vec![(0, Trigger::Threshold(0.9)), (1, Trigger::Scaled(0.0, 1.0))],
            }],
            ..OverloadManager::default()
        };
        let reject = ActionKind::RejectConnections;
        assert_eq!(manager.strength(reject, &[0.1, 0.25]), 0.25);
        assert_eq!(manager.strength(reject, &[0.95, 0.25]), 1.0);
        assert_eq!(manager.strength(ActionKind::ShrinkHeap, &[0.95, 0.25]), 0.0);
    }

    #[test]
    fn pressure_is_the_share_of_the_allowed_memory() {
        let monitor = Monitor {
            name: "heap".into(),
            max_heap: 1000,
        };
        assert_eq!(monitor.pressure(950), 0.95);
    }
}
