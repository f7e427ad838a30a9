//! The overload manager at work: one task looks at the memory now and then, workers read what follows from atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use meltemi_traffic::overload::{ActionKind, OverloadManager};
use tokio::sync::watch;

/// The share of new work that an action concerns, in 2^32ths; the largest value is all of it.
#[derive(Debug, Default)]
pub(crate) struct Share(AtomicU32);

impl Share {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1"
    )]
    fn set(&self, strength: f64) {
        let scaled = (strength.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        self.0.store(scaled, Ordering::Relaxed);
    }

    /// Whether the action is taken for one more piece of work.
    pub(crate) fn hits(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            u32::MAX => true,
            share => fastrand::u32(..) < share,
        }
    }

    /// The action is taken for all or for none.
    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// What the process sheds at the moment.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Requests that get 503.
    pub requests: Share,
    /// Responses that end their connections.
    pub keepalive: Share,
    /// Connections that are closed at once.
    pub connections: Share,
    /// Connections that were.
    pub rejected: AtomicU64,
    paused: watch::Sender<bool>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            requests: Share::default(),
            keepalive: Share::default(),
            connections: Share::default(),
            rejected: AtomicU64::new(0),
            paused: watch::channel(false).0,
        }
    }
}

impl Overload {
    /// True while listeners should not accept.
    pub(crate) fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Closes one more connection at once; counts it.
    pub(crate) fn rejects_connection(&self) -> bool {
        let rejects = self.connections.hits();
        if rejects {
            self.rejected.fetch_add(1, Ordering::Relaxed);
        }
        rejects
    }

    /// Actions by Envoy's name with 1 while they are taken.
    pub(crate) fn active(&self) -> [(&'static str, u64); 4] {
        [
            ("stop_accepting_requests", self.requests.is_on()),
            ("disable_http_keepalive", self.keepalive.is_on()),
            ("reject_incoming_connections", self.connections.is_on()),
            ("stop_accepting_connections", *self.paused.borrow()),
        ]
        .map(|(name, on)| (name, u64::from(on)))
    }

    fn apply(&self, manager: &OverloadManager, pressures: &[f64]) {
        let strength = |kind| manager.strength(kind, pressures);
        self.requests
            .set(strength(ActionKind::StopAcceptingRequests));
        self.keepalive.set(strength(ActionKind::DisableKeepalive));
        self.connections
            .set(strength(ActionKind::RejectConnections));
        let pause = strength(ActionKind::StopAcceptingConnections) >= 1.0;
        self.paused.send_if_modified(|paused| {
            let changed = *paused != pause;
            if changed {
                tracing::warn!(
                    pause,
                    "listeners stop or resume accepting under memory pressure"
                );
            }
            *paused = pause;
            changed
        });
    }
}

/// Looks at the monitors until the process ends.
pub(crate) async fn watch_memory(overload: Arc<Overload>, manager: OverloadManager) {
    let mut ticks = tokio::time::interval(manager.refresh);
    loop {
        ticks.tick().await;
        let Some(used) = resident_bytes() else {
            continue;
        };
        let pressures: Vec<f64> = manager
            .monitors
            .iter()
            .map(|monitor| monitor.pressure(used))
            .collect();
        overload.apply(&manager, &pressures);
    }
}

/// Memory that the process occupies: what the kernel ends it for.
fn resident_bytes() -> Option<u64> {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meltemi_traffic::overload::{Action, Trigger};

    #[test]
    fn actions_come_and_go_with_the_pressure() {
        let action = |kind| Action {
            kind,
            triggers: vec![(0, Trigger::Threshold(0.9))],
        };
        let manager = OverloadManager {
            actions: vec![
                action(ActionKind::StopAcceptingRequests),
                action(ActionKind::StopAcceptingConnections),
            ],
            ..OverloadManager::default()
        };
        let overload = Overload::default();
        let paused = overload.paused();
        overload.apply(&manager, &[0.95]);
        assert!(overload.requests.hits() && *paused.borrow());
        assert!(!overload.rejects_connection());
        overload.apply(&manager, &[0.5]);
        assert!(!overload.requests.hits() && !*paused.borrow());
    }

    #[test]
    fn a_share_concerns_some_of_the_work() {
        let share = Share::default();
        share.set(0.5);
        let hits = (0..10_000).filter(|_| share.hits()).count();
        assert!((4_000..6_000).contains(&hits), "{hits}");
    }

    #[test]
    fn the_process_occupies_memory() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
