//! `/stats` in its formats.

mod collect;

use std::fmt::Write as _;
use std::sync::Arc;

use http::StatusCode;
use meltemi_telemetry::distribution::DEFAULT_BUCKETS;
use meltemi_telemetry::envoy::{
    Buckets, Named, Naming, Stats, family_name, histogram_text, histograms_json, prometheus_name,
};
use meltemi_traffic::statistics::{DEFAULT_FLUSH, Statistics};
use regex::Regex;
use serde_json::Value;

use super::{Answer, decoded, parameter};
use crate::state::Shared;
use crate::stats::{HttpStats, ListenerStats, TcpStats};

const FORMATS: &str = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
const BUCKETS: &str =
    "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";
const HIDDEN: &str = "usage: /stats?hidden=(include|only|exclude)\n\n";

/// Which statistics are asked for.
struct Wanted {
    filter: Option<Regex>,
    inverted: bool,
    used_only: bool,
    counters: bool,
    gauges: bool,
    histograms: bool,
    /// Only statistics that are never shown otherwise, of which there are none.
    hidden_only: bool,
    buckets: Buckets,
}

impl Wanted {
    /// Reads the parameters that all formats share.
    fn of(query: &str) -> Result<Self, Answer> {
        let refuse = |text: String| Answer::text(StatusCode::BAD_REQUEST, text);
        let filter = match decoded(query, "filter").filter(|filter| !filter.is_empty()) {
            None => None,
            Some(text) => match Regex::new(&text) {
                Ok(regex) => Some(regex),
                Err(error) => return Err(refuse(format!("Invalid re2 regex: {error}"))),
            },
        };
        let (counters, gauges, histograms) = match parameter(query, "type") {
            None | Some("All") => (true, true, true),
            Some("Counters") => (true, false, false),
            Some("Gauges") => (false, true, false),
            Some("Histograms") => (false, false, true),
            Some("TextReadouts") => (false, false, false),
            Some(_) => return Err(refuse("invalid &type= param".to_owned())),
        };
        let buckets = match parameter(query, "histogram_buckets") {
            None => Buckets::default(),
            Some("prometheusnative") => {
                let text = "Invalid histogram_buckets type for non prometheus stats type";
                return Err(refuse(text.to_owned()));
            }
            Some(text) => Buckets::parse(text).ok_or_else(|| refuse(BUCKETS.to_owned()))?,
        };
        let hidden_only = match parameter(query, "hidden") {
            None | Some("include" | "exclude") => false,
            Some("only") => true,
            Some(_) => return Err(refuse(HIDDEN.to_owned())),
        };
        Ok(Self {
            filter,
            inverted: parameter(query, "invert_filter").is_some(),
            used_only: parameter(query, "usedonly").is_some(),
            counters,
            gauges,
            histograms,
            hidden_only,
            buckets,
        })
    }

    fn names(&self, name: &str) -> bool {
        let filter = self.filter.as_ref();
        !self.hidden_only && filter.is_none_or(|filter| filter.is_match(name) != self.inverted)
    }

    fn takes(&self, name: &str, gauge: bool, value: u64) -> bool {
        let kind = if gauge { self.gauges } else { self.counters };
        kind && (!self.used_only || value > 0) && self.names(name)
    }

    fn takes_histogram(&self, name: &str, count: u64) -> bool {
        self.histograms && (!self.used_only || count > 0) && self.names(name)
    }
}

/// `/stats`.
pub(super) fn answer(shared: &Shared, query: &str) -> Answer {
    let format = parameter(query, "format").unwrap_or("text");
    if format == "prometheus" {
        return prometheus(shared, query);
    }
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    match format {
        "json" => {
            let mut answer = Answer::text(StatusCode::OK, json(shared, &wanted));
            answer.content_type = super::server::JSON;
            answer
        }
        "text" | "html" | "active-html" => Answer::text(StatusCode::OK, text(shared, &wanted)),
        _ => Answer::text(StatusCode::BAD_REQUEST, FORMATS),
    }
}

fn text(shared: &Shared, wanted: &Wanted) -> String {
    let all = collected(shared);
    let mut lines = String::new();
    for (name, gauge, value) in all.iter() {
        if wanted.takes(name, gauge, value) {
            let _ = writeln!(lines, "{name}: {value}");
        }
    }
    for (name, flushed) in all.histograms() {
        if wanted.takes_histogram(name, flushed.cumulative.count()) {
            let shown = histogram_text(flushed, &bounds(shared, name), wanted.buckets);
            let _ = writeln!(lines, "{name}{shown}");
        }
    }
    lines
}

fn json(shared: &Shared, wanted: &Wanted) -> String {
    let all = collected(shared);
    let chosen = all
        .iter()
        .filter(|(name, gauge, value)| wanted.takes(name, *gauge, *value));
    let mut stats: Vec<String> = chosen
        .map(|(name, _, value)| format!("{{\"name\":{},\"value\":{value}}}", Value::from(name)))
        .collect();
    let histograms = all
        .histograms()
        .filter(|(name, flushed)| wanted.takes_histogram(name, flushed.cumulative.count()))
        .map(|(name, flushed)| (name, flushed, bounds(shared, name)));
    stats.extend(histograms_json(histograms, wanted.buckets));
    format!("{{\"stats\":[{}]}}", stats.join(","))
}

/// Everything in Prometheus' text format: Istio's metrics, the process's, and Envoy's.
pub(super) fn prometheus(shared: &Shared, query: &str) -> Answer {
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    if matches!(wanted.buckets, Buckets::Disjoint | Buckets::Detailed) {
        let text = "unsupported prometheus histogram bucket mode";
        return Answer::text(StatusCode::BAD_REQUEST, text);
    }
    let mut out = String::new();
    if wanted.filter.is_none() {
        shared.istio.render(&mut out);
        meltemi_telemetry::istio::build_info("proxy", env!("CARGO_PKG_VERSION"), &mut out);
        meltemi_telemetry::process::render(&mut out);
    }
    let mut all = collected(shared);
    all.retain(
        // The type of statistics is no parameter of this format.
        |name, value| (!wanted.used_only || value > 0) && wanted.names(name),
    );
    let naming = Configured(shared.process.statistics.as_ref());
    all.prometheus(&naming, wanted.buckets == Buckets::Summary, &mut out);
    let mut answer = Answer::text(StatusCode::OK, out);
    answer.content_type = meltemi_telemetry::PROMETHEUS_TEXT;
    answer
}

/// Names as the bootstrap wants them.
struct Configured<'s>(Option<&'s Statistics>);

impl Naming for Configured<'_> {
    fn named(&self, name: &str) -> Named {
        let Some(statistics) = self.0 else {
            return prometheus_name(name);
        };
        let (rest, tags) = statistics.tagged(name);
        let tags = tags.into_iter();
        (
            family_name(&rest),
            tags.map(|(name, value)| (label(&name), value.to_string()))
                .collect(),
        )
    }

    fn bounds(&self, name: &str) -> Vec<f64> {
        let configured = self.0.and_then(|statistics| statistics.bounds(name));
        configured.unwrap_or(&DEFAULT_BUCKETS).to_vec()
    }
}

/// A tag's name as a label.
fn label(name: &str) -> String {
    let letters = name.chars();
    letters
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

fn bounds(shared: &Shared, name: &str) -> Vec<f64> {
    Configured(shared.process.statistics.as_ref()).bounds(name)
}

fn collected(shared: &Shared) -> Stats {
    let statistics = shared.process.statistics.as_ref();
    if statistics.is_some_and(|statistics| statistics.flush_on_admin) {
        flush(shared);
    }
    collect::all(shared)
}

/// Brings what histograms show up to date, for ever; its owner ends it.
pub(crate) async fn keep_histograms(shared: Arc<Shared>) {
    let statistics = shared.process.statistics.as_ref();
    let interval = statistics.map_or(DEFAULT_FLUSH, |statistics| statistics.flush_interval);
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        flush(&shared);
    }
}

fn flush(shared: &Shared) {
    collect::for_each_histogram(shared, &mut |_, _, histogram| histogram.flush());
}

/// Sets all counters to zero; gauges and histograms stay.
pub(super) fn reset(shared: &Shared) {
    for cluster in shared.clusters.all() {
        cluster.stats.reset();
        for internal in [true, false] {
            cluster.statuses(internal).reset();
        }
    }
    HttpStats::reset_all();
    crate::http::counted::reset();
    ListenerStats::reset_all();
    TcpStats::reset_all();
}
