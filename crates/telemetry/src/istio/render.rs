//! Shards added up, and their Prometheus text in pieces of bounded size.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use ahash::AHashMap;

use super::labels::Labels;
use super::series::{BOUND_TEXTS, Buckets, Metrics, OutcomeKey, RequestSeries, TcpSeries};
use super::workload::WorkloadMetadata;
use crate::names::{self, Metric};
use crate::registry::write_head;

/// A piece is handed out when it is this long: a scrape of thousands of series must not need a hundred megabytes.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Default, Clone, Copy)]
struct Connections {
    opened: u64,
    closed: u64,
    sent: u64,
    received: u64,
}

impl Connections {
    fn add(&mut self, series: &TcpSeries) {
        // Closed before opened: a guard dropped in between must not show more closed than opened.
        self.closed += series.closed.load(Ordering::Acquire);
        self.opened += series.opened.load(Ordering::Relaxed);
        self.sent += series.sent.load(Ordering::Relaxed);
        self.received += series.received.load(Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Sums {
    requests: BTreeMap<OutcomeKey, RequestSeries>,
    connections: BTreeMap<Box<str>, Connections>,
    messages: Option<(u64, u64)>,
}

/// All series at one moment.
#[derive(Debug)]
pub struct Snapshot {
    local: WorkloadMetadata,
    edges: Vec<(Labels, Sums)>,
    folded: u64,
}

impl Metrics {
    /// Adds the shards up. Counting goes on meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut sums: AHashMap<Labels, Sums> = AHashMap::new();
        for edge in self.edges() {
            let sum = sums.entry(edge.labels.clone()).or_default();
            let counts = edge.counts.lock();
            for (outcome, series) in &counts.requests {
                sum.requests.entry(outcome.clone()).or_default().add(series);
            }
            for (flags, series) in &counts.connections {
                sum.connections
                    .entry(flags.clone())
                    .or_default()
                    .add(series);
            }
            if let Some((requests, responses)) = counts.messages {
                let all = sum.messages.get_or_insert_default();
                all.0 += requests;
                all.1 += responses;
            }
        }
        Snapshot {
            local: self.local.clone(),
            edges: sums.into_iter().collect(),
            folded: self.folded(),
        }
    }

    /// Writes everything in Prometheus' text format. For a scrape prefer [`Snapshot::pieces`].
    pub fn render(&self, out: &mut String) {
        for piece in self.snapshot().pieces() {
            out.push_str(&piece);
        }
    }
}

/// What one metric takes from a request series.
enum Family {
    Requests(Metric),
    Histogram(Metric, fn(&RequestSeries) -> &Buckets),
    Connections(Metric, fn(&Connections) -> u64),
    Messages(Metric, fn((u64, u64)) -> u64),
}

// table: the metrics in the order of the text
const FAMILIES: [Family; 10] = [
    Family::Requests(names::ISTIO_REQUESTS_TOTAL),
    Family::Histogram(names::ISTIO_REQUEST_DURATION_MILLISECONDS, |series| {
        &series.duration
    }),
    Family::Histogram(names::ISTIO_REQUEST_BYTES, |series| &series.received),
    Family::Histogram(names::ISTIO_RESPONSE_BYTES, |series| &series.sent),
    Family::Messages(names::ISTIO_REQUEST_MESSAGES_TOTAL, |both| both.0),
    Family::Messages(names::ISTIO_RESPONSE_MESSAGES_TOTAL, |both| both.1),
    Family::Connections(names::ISTIO_TCP_CONNECTIONS_OPENED_TOTAL, |all| all.opened),
    Family::Connections(names::ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL, |all| all.closed),
    Family::Connections(names::ISTIO_TCP_SENT_BYTES_TOTAL, |all| all.sent),
    Family::Connections(names::ISTIO_TCP_RECEIVED_BYTES_TOTAL, |all| all.received),
];

impl Snapshot {
    /// The text in pieces of about 64 KiB, each ending with a whole line.
    pub fn pieces(&self) -> impl Iterator<Item = String> {
        let mut family = 0;
        let mut edge = 0;
        let mut done = false;
        std::iter::from_fn(move || {
            let mut out = String::new();
            while out.len() < PIECE && !done {
                match FAMILIES.get(family) {
                    Some(what) => {
                        edge = self.write(what, edge, &mut out);
                        if edge == self.edges.len() {
                            family += 1;
                            edge = 0;
                        }
                    }
                    None => {
                        self.write_folded(&mut out);
                        done = true;
                    }
                }
            }
            (!out.is_empty()).then_some(out)
        })
    }

    /// Writes one family from an edge on until the piece is full; returns the edge to go on with.
    fn write(&self, family: &Family, from: usize, out: &mut String) -> usize {
        if from == 0 && self.edges.iter().any(|(_, sums)| family.is_in(sums)) {
            write_head(out, family.metric());
        }
        for (at, (labels, sums)) in self.edges.iter().enumerate().skip(from) {
            if out.len() >= PIECE {
                return at;
            }
            if family.is_in(sums) {
                let mut ends = String::with_capacity(1024);
                labels.write_ends(&self.local, &mut ends);
                family.write(labels, sums, &ends, out);
            }
        }
        self.edges.len()
    }

    fn write_folded(&self, out: &mut String) {
        if self.folded > 0 {
            write_head(out, &names::MELTEMI_METRIC_SERIES_OVERFLOW_TOTAL);
            let _ = writeln!(
                out,
                "{} {}",
                names::MELTEMI_METRIC_SERIES_OVERFLOW_TOTAL.name,
                self.folded
            );
        }
    }
}

impl Family {
    fn metric(&self) -> &Metric {
        match self {
            Self::Requests(metric)
            | Self::Histogram(metric, _)
            | Self::Connections(metric, _)
            | Self::Messages(metric, _) => metric,
        }
    }

    fn is_in(&self, sums: &Sums) -> bool {
        match self {
            Self::Requests(_) | Self::Histogram(..) => !sums.requests.is_empty(),
            Self::Connections(..) => !sums.connections.is_empty(),
            Self::Messages(..) => sums.messages.is_some(),
        }
    }

    /// Writes the samples of one edge; `ends` are the labels that do not depend on the outcome.
    fn write(&self, labels: &Labels, sums: &Sums, ends: &str, out: &mut String) {
        let name = self.metric().name;
        let mut all = ends.to_owned();
        match self {
            Self::Requests(_) | Self::Histogram(..) => {
                for (outcome, series) in &sums.requests {
                    all.truncate(ends.len());
                    labels.write_outcome(
                        Some((outcome.code, outcome.grpc_status)),
                        &outcome.flags,
                        &mut all,
                    );
                    match self {
                        Self::Histogram(_, pick) => write_histogram(out, name, &all, pick(series)),
                        _ => line(out, name, &all, series.duration.count()),
                    }
                }
            }
            Self::Connections(_, pick) => {
                for (flags, counts) in &sums.connections {
                    all.truncate(ends.len());
                    labels.write_outcome(None, flags, &mut all);
                    line(out, name, &all, pick(counts));
                }
            }
            Self::Messages(_, pick) => {
                if let Some(both) = sums.messages {
                    line(out, name, &all, pick(both));
                }
            }
        }
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

fn write_histogram(out: &mut String, name: &str, labels: &str, buckets: &Buckets) {
    let mut sum = 0;
    for (bound, count) in BOUND_TEXTS.iter().chain(&["+Inf"]).zip(&buckets.counts) {
        sum += count;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", buckets.sum);
    let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
}
