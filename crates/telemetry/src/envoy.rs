//! Envoy's statistics: dotted names for `/stats`, and their Prometheus form with the labels that Istio's bootstrap
//! takes out of the names (`cluster_name`, `http_conn_manager_prefix`, `listener_address`, `response_code_class` ...).
//!
//! Whoever keeps counters adds them to a [`Stats`] when somebody asks; nothing here is on the path of a request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::names::{ENVOY_STATS, Kind};
use crate::registry::write_label;

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

/// What becomes a label of a Prometheus name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tags {
    /// The tags of Istio's bootstrap (`use_all_default_tags: false`).
    #[default]
    Istio,
    /// Envoy's own tags, whose names begin with `envoy_`.
    Default,
}

/// Statistics as they are now.
#[derive(Debug, Default)]
pub struct Stats {
    /// Dotted name to kind and value: sorted, as Envoy prints them.
    all: BTreeMap<String, (Kind, u64)>,
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

    /// Appends the Prometheus text of the names that `wanted` selects.
    pub fn prometheus(&self, tags: Tags, wanted: impl Fn(&str) -> bool, out: &mut String) {
        let mut families: BTreeMap<String, (Kind, String)> = BTreeMap::new();
        for (name, (kind, value)) in self.all.iter().filter(|(name, _)| wanted(name)) {
            let (family, labels) = match tags {
                Tags::Istio => prometheus_name(name),
                Tags::Default => default_name(name),
            };
            let (_, lines) = families
                .entry(family.clone())
                .or_insert_with(|| (*kind, String::new()));
            let mut text = String::new();
            for (label, of) in &labels {
                write_label(&mut text, label, of);
            }
            let _ = writeln!(lines, "{family}{{{text}}} {value}");
        }
        for (family, (kind, lines)) in families {
            let _ = writeln!(out, "# TYPE {family} {}", kind.text());
            out.push_str(&lines);
        }
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

/// The kind of a statistic inside its scope.
fn kind(family: &str, name: &str) -> Kind {
    let listed = ENVOY_STATS
        .iter()
        .find(|stat| stat.scope == family && stat.name == name);
    listed.map_or(Kind::Counter, |stat| stat.kind)
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

/// The Prometheus family and labels of a dotted name.
#[must_use]
pub fn prometheus_name(name: &str) -> (String, Vec<(&'static str, Cow<'_, str>)>) {
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
    (text, labels)
}

/// The Prometheus family and labels of a dotted name with Envoy's default tags.
fn default_name(name: &str) -> (String, Vec<(&'static str, Cow<'_, str>)>) {
    let mut labels: Vec<(&'static str, Cow<'_, str>)> = Vec::new();
    let (scope, rest) = name.split_once('.').unwrap_or(("", name));
    let label = match scope {
        "cluster" => Some("envoy_cluster_name"),
        "http" => Some("envoy_http_conn_manager_prefix"),
        "tcp" => Some("envoy_tcp_prefix"),
        "listener" => Some("envoy_listener_address"),
        _ => None,
    };
    let found = match scope {
        // An address has dots, but no lower-case word.
        "listener" => rest
            .find(|c: char| c.is_ascii_lowercase())
            .map(|at| (rest[..at].trim_end_matches('.'), &rest[at..])),
        _ => rest.split_once('.'),
    };
    let mut family = String::with_capacity(name.len() + 8);
    let mut text = match (label, found) {
        (Some(label), Some((instance, rest))) if !instance.is_empty() => {
            labels.push((label, Cow::Borrowed(instance)));
            format!("{scope}.{rest}")
        }
        _ => name.to_owned(),
    };
    if let Some(at) = text.rfind("_rq_") {
        let tail = &text[at + 4..];
        let first = tail.chars().next().filter(char::is_ascii_digit);
        if let (Some(class), true) = (first, tail.len() == 3 && tail.ends_with("xx")) {
            labels.insert(
                0,
                ("envoy_response_code_class", Cow::Owned(class.to_string())),
            );
            text.replace_range(at + 4..at + 5, "");
        } else if tail.len() == 3 && tail.bytes().all(|byte| byte.is_ascii_digit()) {
            labels.insert(0, ("envoy_response_code", Cow::Owned(tail.to_owned())));
            text.truncate(at + 3);
        }
    }
    family.push_str("envoy_");
    family.extend(
        text.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
    );
    (family, labels)
}

/// Family, the instance with its label, and what remains.
fn split(name: &str) -> (&str, Option<(&'static str, &str)>, &str) {
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
    use super::*;

    #[test]
    fn default_tags_are_envoys() {
        let text = |name: &str| {
            let (mut text, labels) = default_name(name);
            for (label, value) in labels {
                let _ = write!(text, " {label}={value}");
            }
            text
        };
        let table = [
            (
                "cluster.app.upstream_rq_2xx",
                "envoy_cluster_upstream_rq_xx envoy_response_code_class=2 envoy_cluster_name=app",
            ),
            (
                "cluster.app.external.upstream_rq_200",
                "envoy_cluster_external_upstream_rq envoy_response_code=200 envoy_cluster_name=app",
            ),
            (
                "http.test.downstream_rq_total",
                "envoy_http_downstream_rq_total envoy_http_conn_manager_prefix=test",
            ),
            (
                "listener.127.0.0.1_80.downstream_cx_total",
                "envoy_listener_downstream_cx_total envoy_listener_address=127.0.0.1_80",
            ),
            ("server.live", "envoy_server_live"),
        ];
        for (name, wanted) in table {
            assert_eq!(text(name), wanted);
        }
    }

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
        stats.prometheus(
            Tags::Istio,
            |name| name.contains("xds-grpc") || name.contains("upstream_rq"),
            &mut out,
        );
        assert_eq!(
            out,
            "# TYPE envoy_cluster_upstream_cx_active gauge\n\
             envoy_cluster_upstream_cx_active{cluster_name=\"xds-grpc\"} 1\n\
             # TYPE envoy_cluster_upstream_rq_total counter\n\
             envoy_cluster_upstream_rq_total{cluster_name=\"outbound|80||a.b\"} 5\n"
        );
    }
}
