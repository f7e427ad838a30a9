//! Which statistics the engine keeps, and which parts of their names become labels.
//!
//! A data plane with thousands of clusters has no memory for all that Envoy can count, so that only a few families
//! are kept; `proxyStatsMatcher` of the proxy's configuration and the annotations of the pod add to them.

use serde_json::{Value, json};

use crate::agent::AgentConfig;

/// Labels: the first group is cut out of the name, the second one is the value. Names of clusters and connection
/// managers contain dots, so that they end with a semicolon.
const TAGS: [(&str, &str); 7] = [
    ("cluster_name", r"^cluster\.((.+?);\.)"),
    ("http_conn_manager_prefix", r"^http\.((.+?);\.)"),
    ("tcp_prefix", r"^tcp\.((.+?)\.)\w+?$"),
    (
        "listener_address",
        r"^listener\.((.+?)\.)(?:downstream_|http\.|ssl\.|worker_|no_filter_)",
    ),
    ("worker_id", r"^(?:listener\..*?|server)\.(worker_(\d+)\.)"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    ("response_code", r"_rq(_(\d{3}))$"),
];
/// Families that are kept.
const PREFIXES: [&str; 8] = [
    "reporter=",
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
    "component",
    "istio",
];
const SUFFIXES: [&str; 4] = [
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
];
const EXPRESSIONS: [&str; 1] = [r"vhost\..*\.route\..*"];

/// `stats_config` of the bootstrap.
pub(super) fn config(config: &AgentConfig) -> Value {
    let tag = |(name, regex): (&str, &str)| json!({"tag_name": name, "regex": regex});
    let mut patterns = Vec::new();
    let kinds: [(&str, &[&str], Added); 3] = [
        (
            "prefix",
            &PREFIXES,
            ("inclusionPrefixes", "statsInclusionPrefixes"),
        ),
        (
            "suffix",
            &SUFFIXES,
            ("inclusionSuffixes", "statsInclusionSuffixes"),
        ),
        (
            "safe_regex",
            &EXPRESSIONS,
            ("inclusionRegexps", "statsInclusionRegexps"),
        ),
    ];
    for (kind, fixed, added) in kinds {
        let fixed = fixed.iter().map(|text| (*text).to_owned());
        for text in fixed.chain(additions(config, added)) {
            patterns.push(if kind == "safe_regex" {
                json!({"safe_regex": {"regex": text}})
            } else {
                json!({kind: text})
            });
        }
    }
    json!({
        "use_all_default_tags": false,
        "stats_tags": TAGS.map(tag),
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    })
}

/// Field of `proxyStatsMatcher`, and annotation (`sidecar.istio.io/…`) that takes its place.
type Added = (&'static str, &'static str);

fn additions(config: &AgentConfig, (field, annotation): Added) -> Vec<String> {
    if let Some(list) = config
        .annotations
        .get(&format!("sidecar.istio.io/{annotation}"))
    {
        let parts = list.split(',').map(str::trim);
        return parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
    }
    let list = config
        .proxy_config
        .pointer(&format!("/proxyStatsMatcher/{field}"));
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
