//! Every metric and log field, once.
//!
//! `docs/metrics.md` is written from these tables by `cargo run -p meltemi-telemetry --example metrics_doc`; a test
//! compares. Names, kinds and labels that Istio has are Istio's, so that dashboards and Kiali work unchanged.

mod doc;
pub mod fields;
mod table;

pub use doc::page;
pub use table::*;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution over buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As Prometheus names it.
    #[must_use]
    pub fn text(&self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What one step of a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Messages.
    Messages,
    /// Connections.
    Connections,
    /// Whatever the help says.
    Things,
    /// Always 1; the labels carry the information.
    One,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::Messages => "messages",
            Self::Connections => "connections",
            Self::Things => "count",
            Self::One => "1",
        }
    }
}

/// Whether others may build on a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Name, labels and meaning stay.
    Stable,
    /// May change with a release note.
    Unstable,
    /// The name is kept for it; nothing exports it yet.
    Planned,
}

impl Stability {
    fn text(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Unstable => "unstable",
            Self::Planned => "planned",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What is counted.
    pub unit: Unit,
    /// Names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// Whether others may build on it.
    pub stability: Stability,
    /// One sentence.
    pub help: &'static str,
}

/// A statistic as Envoy names it, inside its scope (`cluster.<name>.`, `http.<prefix>.` ...).
#[derive(Debug, Clone, Copy)]
pub struct EnvoyStat {
    /// `cluster`, `http`, `listener`, `server`, ...
    pub scope: &'static str,
    /// Its name inside the scope.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// One sentence.
    pub help: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_page_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/metrics.md is out of date: cargo run -p meltemi-telemetry --example metrics_doc > docs/metrics.md"
        );
    }

    /// Sources of all crates but the tables themselves.
    fn sources() -> String {
        fn read(directory: &std::path::Path, all: &mut String) {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() && entry.file_name() != "names" {
                    read(&path, all);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    all.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        let mut all = String::new();
        read(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
            &mut all,
        );
        all
    }

    #[test]
    fn what_is_not_planned_is_exported_by_somebody() {
        let sources = sources();
        for metric in groups().iter().flat_map(|(_, _, metrics)| *metrics) {
            let constant = format!("names::{}", metric.name.to_uppercase());
            let literal = format!("\"{}\"", metric.name);
            assert!(
                metric.stability == Stability::Planned
                    || sources.contains(&constant)
                    || sources.contains(&literal),
                "{} is documented, but nothing exports it: mark it as planned",
                metric.name
            );
        }
        for stat in ENVOY_STATS {
            let (stem, _) = stat.name.split_once("_1xx").unwrap_or((stat.name, ""));
            let stem = stem.trim_end_matches(|c: char| c == 'x' || c.is_ascii_digit());
            // Counters of a discovery service are put together of its name and theirs.
            let literal = |name: &str| sources.contains(&format!("\"{name}\""));
            let composed = stem.split_once('.');
            assert!(
                sources.contains(stem)
                    || composed.is_some_and(|(service, name)| literal(service) && literal(name)),
                "{}.{} is documented, but nothing exports it",
                stat.scope,
                stat.name
            );
        }
    }

    #[test]
    fn names_and_labels_are_valid_and_unique() {
        let valid = |text: &str| {
            !text.starts_with(|first: char| first.is_ascii_digit())
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let mut seen = std::collections::HashSet::new();
        for metric in groups().iter().flat_map(|(_, _, metrics)| *metrics) {
            assert!(seen.insert(metric.name), "{} is there twice", metric.name);
            assert!(
                valid(metric.name) && metric.labels.iter().copied().all(valid),
                "{}",
                metric.name
            );
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted(), "{}", metric.name);
            }
        }
    }
}
