//! The counted series: shards by thread, edges, outcomes, and the bound on all of them.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;

use super::labels::{Labels, OVERFLOW};
use super::workload::WorkloadMetadata;

/// Label sets (with outcomes) that are kept: about 2.8 MB when all are used, each with a peer of its own. A busy sidecar has some 50.
pub const DEFAULT_MAX_SERIES: usize = 2000;
/// More than the workers of a usual proxy, so that two of them seldom share a shard.
const SHARDS: usize = 8;
/// Upper bounds of the buckets, for milliseconds and bytes alike, as Envoy's statistics have them.
pub(super) const BOUNDS: [f64; 19] = crate::distribution::DEFAULT_BUCKETS;
/// The bounds as they are printed.
pub(super) const BOUND_TEXTS: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000",
    "30000", "60000", "300000", "600000", "1800000", "3600000",
];

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The shard of this thread.
fn shard() -> usize {
    SHARD.with(|own| {
        own.get().unwrap_or_else(|| {
            let next = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
            own.set(Some(next));
            next
        })
    })
}

/// How an HTTP or gRPC exchange ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// Status; `None` when none was sent.
    pub code: Option<u16>,
    /// gRPC status, only for gRPC.
    pub grpc_status: Option<u32>,
    /// Short response flags joined by commas; empty or `-` for none.
    pub flags: &'a str,
}

/// What one exchange adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
    /// Bytes of the request.
    pub received: u64,
    /// Bytes of the response.
    pub sent: u64,
}

/// One histogram with Envoy's bounds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Buckets {
    pub(super) counts: [u64; BOUNDS.len() + 1],
    pub(super) sum: f64,
}

impl Buckets {
    fn observe(&mut self, value: f64) {
        let at = BOUNDS.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    fn add(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.sum += other.sum;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What is counted for one outcome. The number of requests is the number of durations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestSeries {
    pub(super) duration: Buckets,
    pub(super) received: Buckets,
    pub(super) sent: Buckets,
}

impl RequestSeries {
    pub(super) fn add(&mut self, other: &Self) {
        self.duration.add(&other.duration);
        self.received.add(&other.received);
        self.sent.add(&other.sent);
    }
}

/// An outcome as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OutcomeKey {
    pub(super) code: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: Box<str>,
}

/// What is counted of connections.
#[derive(Debug, Default)]
pub(super) struct TcpSeries {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: Vec<(OutcomeKey, Box<RequestSeries>)>,
    pub(super) connections: Vec<(Box<str>, Arc<TcpSeries>)>,
    /// gRPC messages: of the request, of the response.
    pub(super) messages: Option<(u64, u64)>,
}

/// The bound on all series of a process.
#[derive(Debug)]
struct Budget {
    max: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Budget {
    fn admit(&self) -> bool {
        let admitted = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.max).then_some(used + 1)
            });
        if admitted.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted.is_ok()
    }
}

/// All that is counted for one label set by one shard. Keep it as long as the connection, the route and the peer stay
/// the same.
#[derive(Debug)]
pub struct Edge {
    pub(super) labels: Labels,
    pub(super) counts: Mutex<Counts>,
    budget: Arc<Budget>,
}

impl Edge {
    /// Counts one exchange that has ended.
    pub fn request(&self, outcome: Outcome<'_>, request: Request) {
        let mut counts = self.counts.lock();
        let series = self.series(&mut counts, outcome);
        series
            .duration
            .observe(request.duration.as_secs_f64() * 1000.0);
        // Sizes stay far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        {
            series.received.observe(request.received as f64);
            series.sent.observe(request.sent as f64);
        }
    }

    fn series<'c>(&self, counts: &'c mut Counts, outcome: Outcome<'_>) -> &'c mut RequestSeries {
        let code = outcome.code.unwrap_or(0);
        let flags = if outcome.flags.is_empty() {
            "-"
        } else {
            outcome.flags
        };
        let wanted = (code, outcome.grpc_status, flags);
        let is = |key: &OutcomeKey, (code, grpc, flags): (u16, Option<u32>, &str)| {
            key.code == code && key.grpc_status == grpc && *key.flags == *flags
        };
        let folded = (0, None, OVERFLOW);
        let requests = &mut counts.requests;
        let at = match requests.iter().position(|(key, _)| is(key, wanted)) {
            Some(at) => at,
            None => {
                // Only the first outcome was paid for when the edge was made; an edge may always fold.
                let paid = requests.is_empty() || self.budget.admit();
                let (code, grpc_status, flags) = if paid { wanted } else { folded };
                let known = requests
                    .iter()
                    .position(|(key, _)| is(key, (code, grpc_status, flags)));
                known.unwrap_or_else(|| {
                    // Most label sets have one outcome.
                    requests.reserve_exact(1);
                    requests.push((
                        OutcomeKey {
                            code,
                            grpc_status,
                            flags: flags.into(),
                        },
                        Box::default(),
                    ));
                    requests.len() - 1
                })
            }
        };
        &mut requests[at].1
    }

    /// Counts gRPC messages; may be called many times while a stream runs.
    pub fn messages(&self, of_request: u64, of_response: u64) {
        let mut counts = self.counts.lock();
        let (requests, responses) = counts.messages.get_or_insert_default();
        *requests += of_request;
        *responses += of_response;
    }

    /// Counts a connection as opened, and as closed when the guard is dropped. Call it when the peer is known (or
    /// will not be), and add the bytes that have passed before.
    pub fn connection(&self, flags: &str) -> TcpConnection {
        let flags = if flags.is_empty() { "-" } else { flags };
        let mut counts = self.counts.lock();
        let all = &mut counts.connections;
        let series = if let Some((_, known)) = all.iter().find(|(of, _)| **of == *flags) {
            Arc::clone(known)
        } else if all.is_empty() || self.budget.admit() {
            all.push((flags.into(), Arc::default()));
            Arc::clone(&all[all.len() - 1].1)
        } else {
            // The first series of the edge: flags of connections are few, and their bytes matter more.
            Arc::clone(&all[0].1)
        };
        series.opened.fetch_add(1, Ordering::Relaxed);
        TcpConnection(series)
    }
}

/// An open connection. The names are the server's view: `received` is what the client sent.
#[derive(Debug)]
pub struct TcpConnection(Arc<TcpSeries>);

impl TcpConnection {
    /// Counts bytes from server to client.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes from client to server.
    pub fn received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct EdgeRef(Arc<Edge>);

impl Borrow<Labels> for EdgeRef {
    fn borrow(&self) -> &Labels {
        &self.0.labels
    }
}

impl PartialEq for EdgeRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.labels == other.0.labels
    }
}

impl Eq for EdgeRef {}

impl Hash for EdgeRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.labels.hash(state);
    }
}

type Shard = Mutex<HashSet<EdgeRef, RandomState>>;

/// The standard metrics of one workload.
#[derive(Debug)]
pub struct Metrics {
    pub(super) local: WorkloadMetadata,
    shards: [Shard; SHARDS],
    budget: Arc<Budget>,
}

impl Metrics {
    /// Nothing counted yet. `local` describes this workload.
    #[must_use]
    pub fn new(local: WorkloadMetadata, max_series: usize) -> Self {
        let budget = Budget {
            max: max_series,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        };
        Self {
            local,
            shards: Default::default(),
            budget: Arc::new(budget),
        }
    }

    /// This workload.
    #[must_use]
    pub fn local(&self) -> &WorkloadMetadata {
        &self.local
    }

    /// The counters for a label set: one hash lookup, no allocation when it is known.
    pub fn edge(&self, labels: &Labels) -> Arc<Edge> {
        let mut shard = self.shards[shard()].lock();
        if let Some(EdgeRef(known)) = shard.get(labels) {
            return Arc::clone(known);
        }
        let labels = if self.budget.admit() {
            labels.clone()
        } else {
            let folded = Labels::overflow(labels.reporter, labels.protocol);
            if let Some(EdgeRef(known)) = shard.get(&folded) {
                return Arc::clone(known);
            }
            folded
        };
        let edge = Arc::new(Edge {
            labels,
            counts: Mutex::default(),
            budget: Arc::clone(&self.budget),
        });
        shard.insert(EdgeRef(Arc::clone(&edge)));
        edge
    }

    /// Counts one exchange without keeping its edge.
    pub fn request(&self, labels: &Labels, outcome: Outcome<'_>, request: Request) {
        self.edge(labels).request(outcome, request);
    }

    /// Measurements that were folded into an overflow series.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.budget.refused.load(Ordering::Relaxed)
    }

    pub(super) fn edges(&self) -> Vec<Arc<Edge>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().iter().map(|edge| Arc::clone(&edge.0)));
        }
        all
    }
}
