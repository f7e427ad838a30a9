//! Istio's standard service metrics.
//!
//! ```text
//! Metrics (one for the process, holds what is known of this workload)
//!   └─ edge(&Labels) -> Arc<Edge>      who talks to whom about which service; resolve once, keep with the connection
//!        ├─ request(Outcome, Request)  one HTTP or gRPC exchange has ended
//!        ├─ messages(sent, received)   gRPC messages, also while the stream runs
//!        └─ connection(flags) -> TcpConnection   counts open now, bytes as they come, closed when dropped
//! ```
//!
//! A label set is shared handles and 48 bytes long, hashed through stored hashes; a series with its three histograms is
//! about 600 bytes (`cargo run --release -p meltemi-telemetry --example series_cost` measures).
//! Each thread counts in its own shard, so that a lock is only ever contended by a scrape; shards are added up when
//! they are rendered. Beyond the bound new label sets are folded into one overflow series for each reporter.

mod labels;
mod render;
mod series;
#[cfg(test)]
mod tests;
mod workload;

pub use labels::{Labels, Protocol, Reporter, Service, ServiceFacts};
pub use render::Snapshot;
pub use series::{DEFAULT_MAX_SERIES, Edge, Metrics, Outcome, Request, TcpConnection};
pub use workload::{Peer, PeerCache, WorkloadMetadata};

/// The gauge that tells which version of a component runs: `istio_build{component,tag} 1`.
pub fn build_info(component: &str, version: &str, out: &mut String) {
    let metric = crate::names::ISTIO_BUILD;
    crate::registry::write_head(out, &metric);
    crate::registry::write_sample(
        out,
        metric.name,
        &[("component", component), ("tag", version)],
        1,
    );
}
