//! Families of counters, gauges and histograms, and Prometheus' text format (0.0.4).
//!
//! A label set is resolved to a handle once ([`Family::with`]); using the handle is one atomic addition. A family keeps
//! at most [`MAX_SERIES`] label sets; further ones share a series whose label values are all `overflow`.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::names::{Kind, Metric};

/// Label sets of one family. Families here have few values by design; the bound is for mistakes.
pub const MAX_SERIES: usize = 1000;
const OVERFLOW: &str = "overflow";

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more while the guard lives. The only way to count open things, so it cannot go below zero.
    #[must_use]
    pub fn hold(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self.clone())
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes its one back when dropped, also when a task is cancelled.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A distribution over fixed buckets.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The sum in millionths: seconds keep microseconds, and atomics suffice.
    micros: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Cells {
            bounds,
            counts,
            micros: AtomicU64::new(0),
        }))
    }

    /// Counts one value, which must not be negative.
    pub fn observe(&self, value: f64) {
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[at].fetch_add(1, Ordering::Relaxed);
        // Seconds and sizes: never negative, and a sum below 10^13.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.0
            .micros
            .fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }
}

/// One kind of series.
pub trait Series: Clone + Send + Sync + 'static {
    /// Nothing counted yet.
    fn new(metric: &Metric) -> Self;
    /// Writes the samples of one label set (without braces).
    fn write(&self, name: &str, labels: &str, out: &mut String);
}

impl Series for Counter {
    fn new(_: &Metric) -> Self {
        Self::default()
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        sample(out, name, "", labels, self.get());
    }
}

impl Series for Gauge {
    fn new(_: &Metric) -> Self {
        Self::default()
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        sample(out, name, "", labels, self.get());
    }
}

impl Series for Histogram {
    fn new(metric: &Metric) -> Self {
        Self::new(match metric.kind {
            Kind::Histogram(bounds) => bounds,
            Kind::Counter | Kind::Gauge => &[],
        })
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (at, count) in self.0.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let _ = match self.0.bounds.get(at) {
                Some(bound) => {
                    writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}")
                }
                None => writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {sum}"),
            };
        }
        // Shown with the precision that it has.
        #[allow(clippy::cast_precision_loss)]
        let total = self.0.micros.load(Ordering::Relaxed) as f64 / 1e6;
        sample(out, name, "_sum", labels, total);
        sample(out, name, "_count", labels, sum);
    }
}

/// Label values and what is counted for them.
type Row<S> = (Box<[Box<str>]>, S);

/// All series of one metric.
#[derive(Debug)]
pub struct Family<S> {
    metric: Metric,
    /// Sorted by label values, so that scrapes compare well.
    series: RwLock<Vec<Row<S>>>,
}

impl<S: Series> Family<S> {
    /// The series for these label values, which stand in the order of the metric's labels. Keep the handle.
    pub fn with<const N: usize>(&self, values: [&str; N]) -> S {
        debug_assert_eq!(
            N,
            self.metric.labels.len(),
            "{} has other labels",
            self.metric.name
        );
        let compare = |row: &Row<S>| row.0.iter().map(|value| &**value).cmp(values);
        let known = self.series.read();
        if let Ok(at) = known.binary_search_by(compare) {
            return known[at].1.clone();
        }
        drop(known);
        let mut all = self.series.write();
        match all.binary_search_by(compare) {
            Ok(at) => all[at].1.clone(),
            Err(at) if all.len() < MAX_SERIES || values.iter().all(|value| *value == OVERFLOW) => {
                let series = S::new(&self.metric);
                all.insert(
                    at,
                    (
                        values.iter().map(|value| Box::from(*value)).collect(),
                        series.clone(),
                    ),
                );
                series
            }
            Err(_) => {
                drop(all);
                self.with([OVERFLOW; N])
            }
        }
    }
}

trait Render: Send + Sync {
    fn render(&self, out: &mut String);
}

impl<S: Series> Render for Family<S> {
    fn render(&self, out: &mut String) {
        let all = self.series.read();
        if all.is_empty() {
            return;
        }
        write_head(out, &self.metric);
        let mut labels = String::new();
        for (values, series) in all.iter() {
            labels.clear();
            for (name, value) in self.metric.labels.iter().zip(values) {
                write_label(&mut labels, name, value);
            }
            series.write(self.metric.name, &labels, out);
        }
    }
}

struct OnScrape<F>(F);

impl<F: Fn(&mut String) + Send + Sync> Render for OnScrape<F> {
    fn render(&self, out: &mut String) {
        (self.0)(out);
    }
}

/// All families of a process.
#[derive(Default)]
pub struct Registry {
    families: Mutex<Vec<Arc<dyn Render>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("families", &self.families.lock().len())
            .finish()
    }
}

impl Registry {
    /// Registers a family of counters. Once for each metric.
    #[must_use]
    pub fn counters(&self, metric: Metric) -> Arc<Family<Counter>> {
        self.family(metric)
    }

    /// Registers a family of gauges.
    #[must_use]
    pub fn gauges(&self, metric: Metric) -> Arc<Family<Gauge>> {
        self.family(metric)
    }

    /// Registers a family of histograms.
    #[must_use]
    pub fn histograms(&self, metric: Metric) -> Arc<Family<Histogram>> {
        self.family(metric)
    }

    /// Registers a counter without labels.
    #[must_use]
    pub fn counter(&self, metric: Metric) -> Counter {
        self.counters(metric).with([])
    }

    /// Registers a gauge without labels.
    #[must_use]
    pub fn gauge(&self, metric: Metric) -> Gauge {
        self.gauges(metric).with([])
    }

    /// Registers a histogram without labels.
    #[must_use]
    pub fn histogram(&self, metric: Metric) -> Histogram {
        self.histograms(metric).with([])
    }

    /// Registers something that writes its samples when it is asked.
    pub fn on_scrape(&self, write: impl Fn(&mut String) + Send + Sync + 'static) {
        self.families.lock().push(Arc::new(OnScrape(write)));
    }

    fn family<S: Series>(&self, metric: Metric) -> Arc<Family<S>> {
        let family = Arc::new(Family {
            metric,
            series: RwLock::default(),
        });
        let shared: Arc<dyn Render> = Arc::<Family<S>>::clone(&family);
        self.families.lock().push(shared);
        family
    }

    /// Writes everything in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let families = self.families.lock().clone();
        for family in families {
            family.render(out);
        }
    }
}

/// Writes the two comment lines before a family.
pub fn write_head(out: &mut String, metric: &Metric) {
    let _ = writeln!(
        out,
        "# HELP {0} {1}\n# TYPE {0} {2}",
        metric.name,
        metric.help,
        metric.kind.text()
    );
}

/// Writes one sample.
pub fn write_sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let mut text = String::new();
    for (label, of) in labels {
        write_label(&mut text, label, of);
    }
    sample(out, name, "", &text, value);
}

fn sample(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name}{suffix} {value}")
    } else {
        writeln!(out, "{name}{suffix}{{{labels}}} {value}")
    };
}

/// Appends `name="value"` to a list of labels.
pub(crate) fn write_label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    write_escaped(labels, value);
    labels.push('"');
}

/// Appends a label value with backslash, quote and newline escaped.
pub(crate) fn write_escaped(out: &mut String, value: &str) {
    for part in value.split_inclusive(['\\', '"', '\n']) {
        match part.as_bytes().last() {
            Some(b'\n') => {
                out.push_str(&part[..part.len() - 1]);
                out.push_str("\\n");
            }
            Some(special @ (b'\\' | b'"')) => {
                out.push_str(&part[..part.len() - 1]);
                out.push('\\');
                out.push(char::from(*special));
            }
            _ => out.push_str(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Stability, Unit};

    const CALLS: Metric = Metric {
        name: "calls_total",
        kind: Kind::Counter,
        unit: Unit::Requests,
        labels: &["method"],
        stability: Stability::Unstable,
        help: "Calls.",
    };
    const OPEN: Metric = Metric {
        name: "open",
        kind: Kind::Gauge,
        labels: &[],
        ..CALLS
    };
    const WAIT: Metric = Metric {
        name: "wait_seconds",
        kind: Kind::Histogram(&[0.1, 1.0]),
        labels: &[],
        ..CALLS
    };

    fn text(registry: &Registry) -> String {
        let mut out = String::new();
        registry.render(&mut out);
        out
    }

    #[test]
    fn a_family_prints_its_head_once_and_its_series_in_order() {
        let registry = Registry::default();
        let calls = registry.counters(CALLS);
        calls.with(["b"]).add(2);
        calls.with(["a"]).inc();
        calls.with(["b"]).inc();
        assert_eq!(
            text(&registry),
            "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{method=\"a\"} 1\ncalls_total{method=\"b\"} 3\n"
        );
    }

    #[test]
    fn label_values_from_peers_cannot_break_the_text() {
        let registry = Registry::default();
        registry.counters(CALLS).with(["a\"b\\c\nd"]).inc();
        assert!(text(&registry).ends_with("calls_total{method=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let registry = Registry::default();
        let open = registry.gauge(OPEN);
        let guards = [open.hold(), open.hold()];
        assert!(text(&registry).ends_with("open 2\n"));
        drop(guards);
        assert_eq!(open.get(), 0);
    }

    #[test]
    fn buckets_of_a_histogram_are_cumulative() {
        let registry = Registry::default();
        let wait = registry.histogram(WAIT);
        for value in [0.1, 0.25, 7.0] {
            wait.observe(value);
        }
        assert!(text(&registry).ends_with(
            "wait_seconds_bucket{le=\"0.1\"} 1\nwait_seconds_bucket{le=\"1\"} 2\nwait_seconds_bucket{le=\"+Inf\"} 3\n\
             wait_seconds_sum 7.35\nwait_seconds_count 3\n"
        ));
    }

    #[test]
    fn label_sets_beyond_the_bound_share_one_series() {
        let registry = Registry::default();
        let calls = registry.counters(CALLS);
        for number in 0..MAX_SERIES + 7 {
            calls.with([&number.to_string()]).inc();
        }
        assert_eq!(calls.with([OVERFLOW]).get(), 7);
        assert_eq!(text(&registry).lines().count(), 2 + MAX_SERIES + 1);
    }

    #[test]
    fn what_writes_itself_is_asked_at_each_scrape() {
        let registry = Registry::default();
        let count = Counter::default();
        let shown = count.clone();
        registry.on_scrape(move |out| write_sample(out, "own", &[], shown.get()));
        count.inc();
        assert_eq!(text(&registry), "own 1\n");
    }
}
