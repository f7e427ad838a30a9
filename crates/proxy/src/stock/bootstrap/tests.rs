//! The bootstrap's content, and a real Envoy's opinion of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::agent::Role;

fn config(extra: &[(&str, &str)]) -> AgentConfig {
    let fixed = [
        ("POD_NAME", "reviews-v1-abc"),
        ("POD_NAMESPACE", "default"),
        ("INSTANCE_IP", "10.244.0.7"),
        ("SERVICE_ACCOUNT", "bookinfo-reviews"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
    ];
    let vars: HashMap<String, String> = fixed
        .iter()
        .chain(extra)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    AgentConfig::from_environment(Role::Sidecar, "default.svc.cluster.local", 0, &vars).unwrap()
}

fn rendered(config: &AgentConfig) -> Value {
    let sockets = Sockets {
        secrets: "/tmp/meltemi/sds".into(),
        discovery: "/tmp/meltemi/xds".into(),
    };
    render(config, &sockets)
}

fn validate(envoy: &std::path::Path, bootstrap: &Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bootstrap.json");
    std::fs::write(&file, bootstrap.to_string()).unwrap();
    let output = Command::new(envoy)
        .args([
            "--mode",
            "validate",
            "--log-level",
            "warning",
            "--config-path",
        ])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(
        !text.contains("[warning]") && !text.contains("[error]"),
        "{text}"
    );
}

/// The Envoy that `cargo xtask tool envoy` installs.
fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        return Some(path.into());
    }
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/envoy/lib");
    let versions = std::fs::read_dir(library).ok()?;
    versions
        .filter_map(Result::ok)
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
}

#[test]
fn a_stock_envoy_accepts_the_bootstrap() {
    let Some(envoy) = envoy() else {
        println!("SKIPPED: no Envoy; `cargo xtask tool envoy` installs one");
        return;
    };
    let matcher = r#"{"proxyStatsMatcher": {"inclusionPrefixes": ["cluster.outbound"]}}"#;
    validate(&envoy, &rendered(&config(&[])));
    validate(
        &envoy,
        &rendered(&config(&[
            ("MELTEMI_SO_MARK", "1337"),
            ("PROXY_CONFIG", matcher),
        ])),
    );
}

#[test]
fn the_node_is_the_workload_and_leaves_the_extensions_to_the_engine() {
    let node = &rendered(&config(&[]))["node"];
    assert_eq!(
        node["id"],
        "sidecar~10.244.0.7~reviews-v1-abc.default~default.svc.cluster.local"
    );
    assert_eq!(node["metadata"]["SERVICE_ACCOUNT"], "bookinfo-reviews");
    assert_eq!(node["metadata"]["CLUSTER_ID"], "Kubernetes");
    assert!(node.get("extensions").is_none(), "{node}");
    assert!(node.get("user_agent_name").is_none(), "{node}");
}

#[test]
fn every_upstream_socket_is_marked_where_the_mark_exempts_the_proxy() {
    let path = "/cluster_manager/upstream_bind_config";
    assert_eq!(rendered(&config(&[])).pointer(path), None);
    let marked = rendered(&config(&[("MELTEMI_SO_MARK", "1337")]));
    let option = marked
        .pointer(path)
        .and_then(|bind| bind.pointer("/socket_options/0"));
    let option = option.expect("one option");
    assert_eq!(
        (&option["level"], &option["name"], &option["int_value"]),
        (&json!(1), &json!(36), &json!(1337))
    );
}

#[test]
fn statistics_are_added_by_configuration_and_annotation() {
    let matcher = r#"{"proxyStatsMatcher": {"inclusionRegexps": ["a.*b"], "inclusionSuffixes": ["from_config"]}}"#;
    let mut config = config(&[("PROXY_CONFIG", matcher)]);
    config.annotations.insert(
        "sidecar.istio.io/statsInclusionSuffixes".to_owned(),
        "x, y".to_owned(),
    );
    let patterns = rendered(&config)["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
        .as_array()
        .unwrap()
        .clone();
    for wanted in [
        json!({"prefix": "cluster_manager"}),
        json!({"suffix": "x"}),
        json!({"suffix": "y"}),
        json!({"safe_regex": {"regex": "a.*b"}}),
    ] {
        assert!(patterns.contains(&wanted), "{wanted} in {patterns:?}");
    }
    assert!(!patterns.contains(&json!({"suffix": "from_config"})));
}
