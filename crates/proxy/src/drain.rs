//! Drain sequences that somebody asks for at the admin port: responses end their connections with a probability that
//! grows over the drain time, so that clients do not come back all at once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use meltemi_traffic::listener::Direction;
use tokio::sync::Notify;

use crate::state::Shared;

/// Time from the begin of a sequence until every response ends its connection (Envoy's `--drain-time-s`).
const DRAIN_TIME: Duration = Duration::from_secs(600);

/// Which listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of inbound traffic.
    Inbound,
    /// All.
    All,
}

/// The sequences that were begun; none ends before the process does.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    inbound: OnceLock<Instant>,
    all: OnceLock<Instant>,
    /// Sockets are to be closed after the sequence: of inbound listeners, of all.
    stops: [Notify; 2],
}

/// Closes the sockets of a scope once its sequence is over, when that was asked for.
pub(crate) async fn conclude(shared: Arc<Shared>, scope: Scope) {
    shared.sequences.stops[usize::from(scope == Scope::All)]
        .notified()
        .await;
    tokio::time::sleep(DRAIN_TIME).await;
    shared.listeners.close(scope);
}

impl Sequences {
    /// Begins a sequence; false when it runs already.
    pub(crate) fn begin(&self, scope: Scope) -> bool {
        let begun = match scope {
            Scope::Inbound => &self.inbound,
            Scope::All => &self.all,
        };
        begun.set(Instant::now()).is_ok()
    }

    /// Sockets of the scope close after its sequence.
    pub(crate) fn stop_afterwards(&self, scope: Scope) {
        self.stops[usize::from(scope == Scope::All)].notify_one();
    }

    /// Whether a response on a connection of this direction ends it; `draw` is a random number.
    pub(crate) fn closes(&self, direction: Direction, draw: impl FnOnce() -> f64) -> bool {
        let inbound = self
            .inbound
            .get()
            .filter(|_| direction == Direction::Inbound);
        let Some(begun) = self.all.get().or(inbound) else {
            return false;
        };
        draw() < begun.elapsed().as_secs_f64() / DRAIN_TIME.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_closes_more_and_more_connections_of_its_direction() {
        let sequences = Sequences::default();
        assert!(!sequences.closes(Direction::Inbound, || 0.0));
        assert!(sequences.begin(Scope::Inbound) && !sequences.begin(Scope::Inbound));
        assert!(sequences.closes(Direction::Inbound, || -1.0));
        assert!(!sequences.closes(Direction::Inbound, || 0.5));
        assert!(!sequences.closes(Direction::Outbound, || -1.0));
        sequences.begin(Scope::All);
        assert!(sequences.closes(Direction::Outbound, || -1.0));
    }
}
