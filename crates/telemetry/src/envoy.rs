//! Envoy's statistics: dotted names for `/stats`, and their Prometheus form with the labels that Istio's bootstrap
//! takes out of the names (`cluster_name`, `http_conn_manager_prefix`, `listener_address`, `response_code_class` ...).
//!
//! Whoever keeps counters adds them to a [`Stats`] when somebody asks; nothing here is on the path of a request.

mod histograms;
mod naming;

pub use histograms::{Buckets, histogram_text, histograms_json};
pub use naming::{family_name, prometheus_name};

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::distribution::{Flushed, Histogram};
use crate::names::{ENVOY_STATS, Kind};
use crate::registry::write_label;
use naming::split;

/// What a statistic belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// A cluster, by the name it has in statistics (`alt_stat_name` or its name).
    Cluster(&'a str),
    /// HTTP connection managers with this `stat_prefix`.
    Http(&'a str),
    /// TCP proxies with this `stat_prefix`.
    Tcp(&'a str),
    /// A listener, by its address as text (`0.0.0.0_15001`).
    Listener(&'a str),
    /// Parts of the process: `server`, `cluster_manager`, `listener_manager`.
    Process(&'a str),
}

/// Family and labels of a statistic in Prometheus' text.
pub type Named = (String, Vec<(String, String)>);

/// How statistics become Prometheus' text.
pub trait Naming {
    /// Family and labels of a dotted name.
    fn named(&self, name: &str) -> Named;
    /// Upper bounds of a histogram's buckets.
    fn bounds(&self, name: &str) -> Vec<f64>;
}

/// Statistics as they are now.
#[derive(Debug, Default)]
pub struct Stats {
    /// Dotted name to kind and value: sorted, as Envoy prints them.
    all: BTreeMap<String, (Kind, u64)>,
    histograms: BTreeMap<String, Flushed>,
}

impl Stats {
    /// Adds a statistic; its kind is looked up in [`ENVOY_STATS`], an unlisted one is a counter. The same name twice
    /// adds up.
    pub fn add(&mut self, scope: Scope<'_>, name: &str, value: u64) {
        let (family, instance) = scope.parts();
        self.put(dotted(family, instance, name), kind(family, name), value);
    }

    /// Adds a statistic by its full dotted name.
    pub fn add_dotted(&mut self, name: String, value: u64) {
        let (family, _, rest) = split(&name);
        let kind = kind(family, rest);
        self.put(name, kind, value);
    }

    fn put(&mut self, name: String, kind: Kind, value: u64) {
        self.all.entry(name).or_insert((kind, 0)).1 += value;
    }

    /// The text of `/stats`: `name: value` lines of the names that `wanted` selects.
    pub fn text(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut out = String::new();
        for (name, (_, value)) in self.all.iter().filter(|(name, _)| wanted(name)) {
            let _ = writeln!(out, "{name}: {value}");
        }
        out
    }

    /// Name, whether it is a gauge, and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool, u64)> {
        self.all
            .iter()
            .map(|(name, (kind, value))| (name.as_str(), *kind == Kind::Gauge, *value))
    }

    /// Adds a histogram as it was last flushed.
    pub fn add_histogram(&mut self, scope: Scope<'_>, name: &str, histogram: &Histogram) {
        let (family, instance) = scope.parts();
        let name = dotted(family, instance, name);
        self.histograms.insert(name, histogram.flushed());
    }

    /// Histograms in order of their names.
    pub fn histograms(&self) -> impl Iterator<Item = (&str, &Flushed)> {
        let all = self.histograms.iter();
        all.map(|(name, flushed)| (name.as_str(), flushed))
    }

    /// Drops everything whose name is not wanted.
    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.all.retain(|name, _| wanted(name));
        self.histograms.retain(|name, _| wanted(name));
    }

    /// Drops what is not wanted, by name and value; a histogram's value is how many it counts.
    pub fn retain(&mut self, wanted: impl Fn(&str, u64) -> bool) {
        self.all.retain(|name, (_, value)| wanted(name, *value));
        self.histograms
            .retain(|name, flushed| wanted(name, flushed.cumulative.count()));
    }

    /// Appends Prometheus' text: counters, gauges, then histograms, as quantiles where `summary` says so.
    pub fn prometheus(&self, naming: &dyn Naming, summary: bool, out: &mut String) {
        // By kind and family.
        let mut families: BTreeMap<(&str, String), String> = BTreeMap::new();
        for (name, (kind, value)) in &self.all {
            let (family, labels) = naming.named(name);
            let line = format!("{family}{{{}}} {value}\n", label_text(&labels));
            let lines = families.entry((kind.text(), family)).or_default();
            lines.push_str(&line);
        }
        for ((kind, family), lines) in &families {
            let _ = writeln!(out, "# TYPE {family} {kind}");
            out.push_str(lines);
        }
        histograms::prometheus(self, naming, summary, out);
    }
}

impl FromIterator<(String, u64)> for Stats {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(all: I) -> Self {
        let mut stats = Self::default();
        for (name, value) in all {
            stats.add_dotted(name, value);
        }
        stats
    }
}

/// Labels as Prometheus writes them between the braces.
fn label_text(labels: &[(String, String)]) -> String {
    let mut text = String::new();
    for (label, value) in labels {
        write_label(&mut text, label, value);
    }
    text
}

/// The kind of a statistic inside its scope.
fn kind(family: &str, name: &str) -> Kind {
    let listed = ENVOY_STATS
        .iter()
        .find(|stat| stat.scope == family && stat.name == name);
    match listed {
        Some(stat) => stat.kind,
        // Each priority has its own.
        None if name.starts_with("circuit_breakers.") => Kind::Gauge,
        None => Kind::Counter,
    }
}

impl<'a> Scope<'a> {
    fn parts(self) -> (&'a str, &'a str) {
        match self {
            Self::Cluster(name) => ("cluster", name),
            Self::Http(prefix) => ("http", prefix),
            Self::Tcp(prefix) => ("tcp", prefix),
            Self::Listener(address) => ("listener", address),
            Self::Process(part) => (part, ""),
        }
    }
}

/// The full name. Colons are separators of some statistics backends, so Envoy writes `_` for them.
fn dotted(family: &str, instance: &str, name: &str) -> String {
    if instance.is_empty() {
        format!("{family}.{name}")
    } else {
        format!("{family}.{}.{name}", instance.replace(':', "_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Istio;

    impl Naming for Istio {
        fn named(&self, name: &str) -> Named {
            prometheus_name(name)
        }

        fn bounds(&self, _: &str) -> Vec<f64> {
            Vec::new()
        }
    }

    #[test]
    fn statistics_print_sorted_and_with_their_kinds() {
        let mut stats = Stats::default();
        stats.add(Scope::Process("server"), "state", 0);
        stats.add(Scope::Cluster("outbound|80||a.b;"), "upstream_rq_total", 3);
        stats.add(Scope::Cluster("xds-grpc"), "upstream_cx_active", 1);
        stats.add_dotted("cluster.outbound|80||a.b;.upstream_rq_total".to_owned(), 2);
        assert_eq!(
            stats.text(|_| true),
            "cluster.outbound|80||a.b;.upstream_rq_total: 5\ncluster.xds-grpc.upstream_cx_active: 1\nserver.state: 0\n"
        );
        assert_eq!(
            stats.text(|name| name.starts_with("server.")),
            "server.state: 0\n"
        );
        let mut out = String::new();
        stats.retain(|name, _| name.starts_with("cluster."));
        stats.prometheus(&Istio, false, &mut out);
        assert_eq!(
            out,
            "# TYPE envoy_cluster_upstream_rq_total counter\n\
             envoy_cluster_upstream_rq_total{cluster_name=\"outbound|80||a.b\"} 5\n\
             # TYPE envoy_cluster_upstream_cx_active gauge\n\
             envoy_cluster_upstream_cx_active{cluster_name=\"xds-grpc\"} 1\n"
        );
    }
}
