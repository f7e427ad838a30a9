//! Dotted names of statistics as Prometheus' families and labels.

use std::borrow::Cow;

use super::Named;

/// The Prometheus family and labels of a dotted name.
#[must_use]
pub fn prometheus_name(name: &str) -> Named {
    let mut labels: Vec<(&'static str, Cow<'_, str>)> = Vec::new();
    let (family, instance, mut rest) = split(name);
    if let Some((label, instance)) = instance {
        labels.push((label, Cow::Borrowed(instance)));
    }
    // `upstream_rq_2xx` and `upstream_rq_200` are one family with the class or code as a label.
    if let Some((head, tail)) = rest.rsplit_once('_')
        && head.ends_with("_rq")
        && tail.len() == 3
        && tail.starts_with(|first: char| first.is_ascii_digit())
    {
        if tail.ends_with("xx") {
            labels.push(("response_code_class", Cow::Borrowed(tail)));
            rest = head;
        } else if tail.bytes().all(|byte| byte.is_ascii_digit()) {
            labels.push(("response_code", Cow::Borrowed(tail)));
            rest = head;
        }
    }
    let mut text = String::with_capacity(name.len() + 8);
    text.push_str("envoy_");
    for part in [family, if family.is_empty() { "" } else { "." }, rest] {
        text.extend(
            part.chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
        );
    }
    (text, owned(labels))
}

/// A name that has lost its tags, as a Prometheus family.
#[must_use]
pub fn family_name(name: &str) -> String {
    let letters = name.chars();
    let letters = letters.map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    "envoy_".chars().chain(letters).collect()
}

fn owned(labels: Vec<(&'static str, Cow<'_, str>)>) -> Vec<(String, String)> {
    let labels = labels.into_iter();
    labels
        .map(|(label, value)| (label.to_owned(), value.into_owned()))
        .collect()
}

/// Family, the instance with its label, and what remains.
pub(super) fn split(name: &str) -> (&str, Option<(&'static str, &str)>, &str) {
    let (family, rest) = name.split_once('.').unwrap_or(("", name));
    let label = match family {
        "cluster" => "cluster_name",
        "http" => "http_conn_manager_prefix",
        "tcp" => "tcp_prefix",
        "listener" => "listener_address",
        _ => return (family, None, rest),
    };
    let found = match family {
        // The names end with `;` where the control plane chose them; else the last dot must do.
        "cluster" | "http" => rest.rsplit_once(";.").or_else(|| rest.rsplit_once('.')),
        // An address has no lower-case word in it, but dots; what follows may have dots too.
        "listener" => rest
            .find(|c: char| c.is_ascii_lowercase())
            .map(|at| (rest[..at].trim_end_matches('.'), &rest[at..])),
        _ => rest.rsplit_once('.'),
    };
    match found {
        Some((instance, rest)) if !instance.is_empty() => (family, Some((label, instance)), rest),
        _ => (family, None, rest),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn family(name: &str) -> String {
        let (mut text, labels) = prometheus_name(name);
        for (label, value) in labels {
            let _ = write!(text, " {label}={value}");
        }
        text
    }

    #[test]
    fn names_become_families_with_istios_labels() {
        let table = [
            (
                "cluster.xds-grpc;.upstream_cx_active",
                "envoy_cluster_upstream_cx_active cluster_name=xds-grpc",
            ),
            (
                "cluster.outbound|9080|v1|reviews.default.svc.cluster.local;.upstream_rq_2xx",
                "envoy_cluster_upstream_rq cluster_name=outbound|9080|v1|reviews.default.svc.cluster.local response_code_class=2xx",
            ),
            (
                "cluster.a;.upstream_rq_503",
                "envoy_cluster_upstream_rq cluster_name=a response_code=503",
            ),
            (
                "cluster.a;.upstream_rq_total",
                "envoy_cluster_upstream_rq_total cluster_name=a",
            ),
            (
                "http.outbound_0.0.0.0_80;.downstream_rq_total",
                "envoy_http_downstream_rq_total http_conn_manager_prefix=outbound_0.0.0.0_80",
            ),
            (
                "listener.0.0.0.0_15001.downstream_cx_total",
                "envoy_listener_downstream_cx_total listener_address=0.0.0.0_15001",
            ),
            (
                "listener.0.0.0.0_15006.ssl.handshake",
                "envoy_listener_ssl_handshake listener_address=0.0.0.0_15006",
            ),
            (
                "tcp.outbound|1||a.b.downstream_cx_total",
                "envoy_tcp_downstream_cx_total tcp_prefix=outbound|1||a.b",
            ),
            (
                "cluster_manager.cds.update_success",
                "envoy_cluster_manager_cds_update_success",
            ),
            ("server.state", "envoy_server_state"),
        ];
        for (name, wanted) in table {
            assert_eq!(family(name), wanted, "{name}");
        }
    }
}
