//! Histograms in the formats of `/stats`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Naming, Stats, label_text};
use crate::distribution::{Distribution, Flushed, QUANTILES};

/// How a histogram is shown (`histogram_buckets` of `/stats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buckets {
    /// Nothing is asked for: quantiles.
    #[default]
    Unasked,
    /// Values up to each bound.
    Cumulative,
    /// Values between bounds.
    Disjoint,
    /// Every bin.
    Detailed,
    /// Quantiles.
    Summary,
}

impl Buckets {
    /// The value of the parameter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "cumulative" => Self::Cumulative,
            "disjoint" => Self::Disjoint,
            "detailed" => Self::Detailed,
            "summary" | "none" => Self::Summary,
            _ => return None,
        })
    }
}

/// What follows a histogram's name in the text format: `: P0(interval,cumulative) ...`.
#[must_use]
pub fn histogram_text(flushed: &Flushed, bounds: &[f64], show: Buckets) -> String {
    if flushed.cumulative.count() == 0 {
        return ": No recorded values".to_owned();
    }
    match show {
        Buckets::Unasked | Buckets::Summary => format!(": {}", summary(flushed)),
        Buckets::Cumulative | Buckets::Disjoint => {
            let mut out = ":".to_owned();
            for (bound, interval, cumulative) in counted(flushed, bounds, show) {
                let _ = write!(out, " B{}({interval},{cumulative})", short(bound));
            }
            out
        }
        Buckets::Detailed => format!(
            ":\n  totals={}\n  intervals={}\n  summary={}",
            bins(&flushed.cumulative),
            bins(&flushed.interval),
            summary(flushed)
        ),
    }
}

/// The objects that stand for all histograms in the JSON format, without the list around them.
pub fn histograms_json<'h>(
    all: impl Iterator<Item = (&'h str, &'h Flushed, Vec<f64>)>,
    show: Buckets,
) -> Option<String> {
    let mut entries = Vec::new();
    for (name, flushed, bounds) in all {
        let name = serde_json::Value::from(name);
        entries.push(match show {
            Buckets::Unasked | Buckets::Summary => {
                format!("{{\"name\":{name},\"values\":[{}]}}", quantiles_json(flushed))
            }
            Buckets::Cumulative | Buckets::Disjoint => {
                let buckets = counted(flushed, &bounds, show).map(|(bound, interval, cumulative)| {
                    format!(
                        "{{\"upper_bound\":{},\"interval\":{interval},\"cumulative\":{cumulative}}}",
                        json_number(bound)
                    )
                });
                let buckets: Vec<_> = buckets.collect();
                format!("{{\"name\":{name},\"buckets\":[{}]}}", buckets.join(","))
            }
            Buckets::Detailed => format!(
                "{{\"name\":{name},\"totals\":[{}],\"intervals\":[{}],\"percentiles\":[{}]}}",
                bins_json(&flushed.cumulative),
                bins_json(&flushed.interval),
                quantiles_json(flushed)
            ),
        });
    }
    if entries.is_empty() {
        return None;
    }
    let entries = entries.join(",");
    let percents: Vec<_> = percents().map(json_number).collect();
    let percents = percents.join(",");
    Some(match show {
        Buckets::Unasked | Buckets::Summary => format!(
            "{{\"histograms\":{{\"supported_quantiles\":[{percents}],\"computed_quantiles\":[{entries}]}}}}"
        ),
        Buckets::Cumulative | Buckets::Disjoint => format!("{{\"histograms\":[{entries}]}}"),
        Buckets::Detailed => format!(
            "{{\"histograms\":{{\"supported_percentiles\":[{percents}],\"details\":[{entries}]}}}}"
        ),
    })
}

/// Appends the histograms in Prometheus' text.
pub(super) fn prometheus(stats: &Stats, naming: &dyn Naming, as_summary: bool, out: &mut String) {
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    for (name, flushed) in stats.histograms() {
        let (family, labels) = naming.named(name);
        let labels = label_text(&labels);
        // A summary is of the last interval, buckets are of all time.
        let all = if as_summary {
            &flushed.interval
        } else {
            &flushed.cumulative
        };
        let comma = if labels.is_empty() { "" } else { "," };
        let mut lines = String::new();
        if as_summary {
            for part in QUANTILES {
                let value = digits(all.quantile(part));
                let _ = writeln!(
                    lines,
                    "{family}{{{labels}{comma}quantile=\"{part}\"}} {value}"
                );
            }
        } else {
            let mut bucket = |bound: &str, count: u64| {
                let _ = writeln!(
                    lines,
                    "{family}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                );
            };
            for bound in naming.bounds(name) {
                bucket(&digits(bound), all.up_to(bound));
            }
            bucket("+Inf", all.count());
        }
        let _ = writeln!(lines, "{family}_sum{{{labels}}} {}", digits(all.sum()));
        let _ = writeln!(lines, "{family}_count{{{labels}}} {}", all.count());
        families.entry(family).or_default().push_str(&lines);
    }
    let kind = if as_summary { "summary" } else { "histogram" };
    for (family, lines) in families {
        let _ = writeln!(out, "# TYPE {family} {kind}");
        out.push_str(&lines);
    }
}

fn percents() -> impl Iterator<Item = f64> {
    QUANTILES.iter().map(|part| (part * 1e6).round() / 1e4)
}

fn summary(flushed: &Flushed) -> String {
    let one = |(part, percent): (&f64, f64)| {
        let interval = number(flushed.interval.quantile(*part));
        let cumulative = number(flushed.cumulative.quantile(*part));
        format!("P{percent}({interval},{cumulative})")
    };
    let all: Vec<_> = QUANTILES.iter().zip(percents()).map(one).collect();
    all.join(" ")
}

fn bins(of: &Distribution) -> String {
    let one = |(bin, count): (crate::distribution::Bin, u64)| {
        format!("{},{}:{count}", bin.lower, bin.width)
    };
    of.bins().map(one).collect::<Vec<_>>().join(", ")
}

fn bins_json(of: &Distribution) -> String {
    let one = |(bin, count): (crate::distribution::Bin, u64)| {
        format!(
            "{{\"lower_bound\":{},\"width\":{},\"count\":{count}}}",
            json_number(bin.lower),
            json_number(bin.width)
        )
    };
    of.bins().map(one).collect::<Vec<_>>().join(",")
}

fn quantiles_json(flushed: &Flushed) -> String {
    let value = |of: &Distribution, part: f64| match of.quantile(part) {
        value if value.is_nan() => "null".to_owned(),
        value => json_number(value),
    };
    let one = |part: &f64| {
        format!(
            "{{\"cumulative\":{},\"interval\":{}}}",
            value(&flushed.cumulative, *part),
            value(&flushed.interval, *part)
        )
    };
    QUANTILES.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Bounds with the values of the interval and of all time.
fn counted<'f>(
    flushed: &'f Flushed,
    bounds: &'f [f64],
    show: Buckets,
) -> impl Iterator<Item = (f64, u64, u64)> + 'f {
    let mut before = (0, 0);
    bounds.iter().map(move |bound| {
        let now = (
            flushed.interval.up_to(*bound),
            flushed.cumulative.up_to(*bound),
        );
        let shown = match show {
            Buckets::Disjoint => (now.0 - before.0, now.1 - before.1),
            _ => now,
        };
        before = now;
        (*bound, shown.0, shown.1)
    })
}

/// The shortest text that reads back as the number; `nan` where there is none.
fn number(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else {
        value.to_string()
    }
}

/// As [`number`], with an exponent where that is shorter.
fn json_number(value: f64) -> String {
    let plain = value.to_string();
    let scientific = with_exponent(&format!("{value:e}"));
    if scientific.len() < plain.len() {
        scientific
    } else {
        plain
    }
}

/// Six significant digits, with an exponent from a million on (C's `%g`).
fn short(value: f64) -> String {
    if value == 0.0 || (1e-4..1e6).contains(&value.abs()) {
        let places = (5 - order(value)).max(0);
        trimmed(format!("{value:.*}", usize::try_from(places).unwrap_or(0)))
    } else {
        let text = format!("{value:.5e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        with_exponent(&format!("{}e{exponent}", trimmed(mantissa.to_owned())))
    }
}

/// 32 significant digits, without zeros at the end.
fn digits(value: f64) -> String {
    if value == 0.0 || value.is_nan() {
        return number(value);
    }
    let places = (31 - order(value)).max(0);
    trimmed(format!("{value:.*}", usize::try_from(places).unwrap_or(0)))
}

/// The power of ten of the first digit.
#[expect(clippy::cast_possible_truncation, reason = "at most 308")]
fn order(value: f64) -> i32 {
    if value == 0.0 {
        0
    } else {
        value.abs().log10().floor() as i32
    }
}

fn trimmed(text: String) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `3e5` as C writes it: `3e+05`.
fn with_exponent(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{size:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{DEFAULT_BUCKETS, Histogram};

    fn flushed(values: &[u64]) -> Flushed {
        let histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        histogram.flush();
        histogram.flushed()
    }

    #[test]
    fn text_formats_are_envoys() {
        let two = flushed(&[2, 43]);
        let text = |show| histogram_text(&two, &DEFAULT_BUCKETS, show);
        assert!(
            text(Buckets::Unasked)
                .starts_with(": P0(2.05,2.05) P25(2.05,2.05) P50(2.05,2.05) P75(43.5,43.5)")
        );
        assert!(
            text(Buckets::Unasked).ends_with("P99.5(43.5,43.5) P99.9(43.5,43.5) P100(43.5,43.5)")
        );
        assert!(text(Buckets::Cumulative).starts_with(": B0.5(0,0) B1(0,0) B5(1,1)"));
        assert!(text(Buckets::Cumulative).ends_with("B600000(2,2) B1.8e+06(2,2) B3.6e+06(2,2)"));
        assert!(text(Buckets::Disjoint).contains("B25(0,0) B50(1,1) B100(0,0)"));
        assert!(text(Buckets::Detailed).starts_with(":\n  totals=2,0.1:1, 43,1:1\n  intervals="));
        let none = histogram_text(&Flushed::default(), &DEFAULT_BUCKETS, Buckets::Unasked);
        assert_eq!(none, ": No recorded values");
    }

    #[test]
    fn numbers_are_written_as_envoy_writes_them() {
        assert_eq!(
            [0.5, 60_000.0, 300_000.0].map(json_number),
            ["0.5", "60000", "3e+05"]
        );
        assert_eq!([1.8e6, 250.0].map(json_number), ["1800000", "250"]);
        assert_eq!(digits(2.05), "2.049999999999999822364316059975");
        assert_eq!([0.5, 1.0, 3.6e6].map(digits), ["0.5", "1", "3600000"]);
    }

    #[test]
    fn json_names_the_quantiles_once() {
        let two = flushed(&[2, 43]);
        let all = [("a", &two, vec![5.0])];
        let text = histograms_json(all.clone().into_iter(), Buckets::Cumulative);
        assert_eq!(
            text.as_deref(),
            Some(
                r#"{"histograms":[{"name":"a","buckets":[{"upper_bound":5,"interval":1,"cumulative":1}]}]}"#
            )
        );
        let text = histograms_json(all.into_iter(), Buckets::Unasked).unwrap_or_default();
        assert!(text.starts_with(r#"{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"a","values":[{"cumulative":2.05,"interval":2.05},"#));
        assert_eq!(histograms_json(std::iter::empty(), Buckets::Unasked), None);
    }
}
