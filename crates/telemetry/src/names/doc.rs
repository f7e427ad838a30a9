//! The documentation page.

use std::fmt::Write as _;

use super::{ENVOY_STATS, Kind, fields, groups};

/// `docs/metrics.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(
        "# Metrics and log fields\n\n\
         Written from the tables in `crates/telemetry/src/names` by\n\
         `cargo run -p meltemi-telemetry --example metrics_doc > docs/metrics.md`; do not edit.\n\n\
         Stable names, labels and meanings stay; unstable ones may change with a note in the changelog; planned ones\n\
         are not exported yet. A metric appears when something was counted. Numbers of label sets are bounded: what exceeds the bound is counted in series whose\n\
         label values are `overflow`.\n",
    );
    for (title, what, metrics) in groups() {
        let title = title.replace('_', " ").to_lowercase();
        let mut letters = title.chars();
        let title: String = letters
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .chain(letters)
            .collect();
        // A String takes everything; so below.
        let _ = writeln!(out, "\n## {title}\n\n{what}\n");
        out.push_str(
            "| Metric | Kind | Unit | Labels | Stability | Meaning |\n|---|---|---|---|---|---|\n",
        );
        for metric in metrics {
            let (kind, unit, stability) = (
                metric.kind.text(),
                metric.unit.text(),
                metric.stability.text(),
            );
            let labels = match metric.labels.len() {
                0 => "none".to_owned(),
                1..=6 => metric.labels.join(", "),
                all => format!("{all}, see below"),
            };
            let _ = writeln!(
                out,
                "| `{}` | {kind} | {unit} | {labels} | {stability} | {} |",
                metric.name, metric.help
            );
        }
        for metric in metrics {
            match metric.kind {
                Kind::Histogram(bounds) if metric.labels.len() <= 6 => {
                    let bounds: Vec<_> = bounds.iter().map(f64::to_string).collect();
                    let _ = writeln!(
                        out,
                        "\nBuckets of `{}`: {}.",
                        metric.name,
                        bounds.join(", ")
                    );
                }
                _ => {}
            }
        }
        if let Some(most) = metrics
            .iter()
            .filter(|metric| metric.labels.len() > 6)
            .max_by_key(|m| m.labels.len())
        {
            service_labels(&mut out, most);
        }
    }
    envoy(&mut out);
    out.push_str("\n## Log fields\n\n| Field | Meaning |\n|---|---|\n");
    for (name, help) in fields::ALL {
        let _ = writeln!(out, "| `{name}` | {help} |");
    }
    out
}

fn service_labels(out: &mut String, most: &super::Metric) {
    out.push_str(
        "\nLabels, in this order (TCP metrics have no `response_code` and `grpc_response_status`; the metrics of gRPC\n\
         messages end with `destination_service_namespace`):\n\n",
    );
    for label in most.labels {
        let _ = writeln!(out, "- `{label}`");
    }
    out.push_str(
        "\nWhat is not known is `unknown`; a missing revision is `latest`; without response flags the value is `-`;\n\
         `grpc_response_status` is empty for plain HTTP; `response_code` is `0` when none was sent.\n\
         `connection_security_policy` is `mutual_tls` or `none` at the server and `unknown` at the client. The namespace\n\
         of the other end comes from its certificate where it has one, else from what it told.\n",
    );
    if let Kind::Histogram(bounds) = super::ISTIO_REQUEST_DURATION_MILLISECONDS.kind {
        let bounds: Vec<_> = bounds.iter().map(f64::to_string).collect();
        let _ = writeln!(out, "\nBuckets of the histograms: {}.", bounds.join(", "));
    }
}

fn envoy(out: &mut String) {
    out.push_str(
        "\n## Data plane\n\nOf a proxy, as Envoy names them: `/stats` on 15000 prints `<scope>.<name>.<statistic>`,\n\
         `/stats/prometheus` prints `envoy_<scope>_<statistic>` with the name in a label (`cluster_name`,\n\
         `http_conn_manager_prefix`, `listener_address`); a trailing `_2xx` becomes the label `response_code_class`.\n\n\
         | Scope | Statistic | Kind | Meaning |\n|---|---|---|---|\n",
    );
    for stat in ENVOY_STATS {
        let _ = writeln!(
            out,
            "| {} | `{}` | {} | {} |",
            stat.scope,
            stat.name,
            stat.kind.text(),
            stat.help
        );
    }
}
