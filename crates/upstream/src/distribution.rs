//! Histograms of a cluster, and what is counted when one of its connections ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meltemi_telemetry::distribution::Histogram;
use tokio::time::Instant;

use crate::cluster::{ClusterState, ClusterStats};

/// The histograms of a cluster that was used; most clusters of a mesh never are.
#[derive(Debug, Default)]
pub struct Distributions {
    answered: Histogram,
    /// To requests from outside and from inside the mesh.
    by_origin: [Histogram; 2],
    connected: Histogram,
    lived: Histogram,
    served: Histogram,
}

impl Distributions {
    /// An upstream answered completely, so long after the request was complete.
    pub fn answered(&self, took: Duration, internal: bool) {
        self.answered.record_time(took);
        self.by_origin[usize::from(internal)].record_time(took);
    }

    /// A connection was made.
    pub(crate) fn connected(&self, took: Duration) {
        self.connected.record_time(took);
    }

    /// Calls `each` with every histogram's name.
    pub fn for_each(&self, mut each: impl FnMut(&'static str, &Histogram)) {
        each("upstream_rq_time", &self.answered);
        each("external.upstream_rq_time", &self.by_origin[0]);
        each("internal.upstream_rq_time", &self.by_origin[1]);
        each("upstream_cx_connect_ms", &self.connected);
        each("upstream_cx_length_ms", &self.lived);
        each("upstream_rq_per_cx", &self.served);
    }
}

/// A connection, counted when it ends.
#[derive(Debug)]
pub(crate) struct Measured {
    state: Arc<ClusterState>,
    stats: Arc<ClusterStats>,
    born: Instant,
    served: AtomicU32,
}

impl Measured {
    /// A connection that was just made.
    pub(crate) fn new(state: &Arc<ClusterState>, stats: &Arc<ClusterStats>) -> Self {
        Self {
            state: Arc::clone(state),
            stats: Arc::clone(stats),
            born: Instant::now(),
            served: AtomicU32::new(0),
        }
    }

    /// One more request goes over it.
    pub(crate) fn request(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Since when there is it.
    pub(crate) fn born(&self) -> Instant {
        self.born
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.stats.cx_destroyed.fetch_add(1, Ordering::Relaxed);
        let all = self.state.distributions();
        all.lived.record_time(self.born.elapsed());
        let served = self.served.load(Ordering::Relaxed);
        if served > 0 {
            all.served.record(served.into());
        }
    }
}
