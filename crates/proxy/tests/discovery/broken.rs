//! Broken bootstraps: one sentence with the field's path, and the real Envoy refuses them too.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{bootstrap, free, listener, routes, run, static_cluster};

/// What is broken, and what the refusal must name.
type Case = (&'static str, fn(&mut Value), &'static str);

const LISTENER: &str = "/static_resources/listeners/0";
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const CLUSTER: &str = "/static_resources/clusters/0";

fn at<'v>(config: &'v mut Value, pointer: &str) -> &'v mut Value {
    config.pointer_mut(pointer).unwrap()
}

/// What Envoy finds only when it runs.
const SEEN_WHEN_RUNNING: &str = "a discovery server that is no cluster";

fn tls(config: &mut Value, certificate: Value) {
    at(config, &format!("{LISTENER}/filter_chains/0"))["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [certificate]}}});
}

// table: name, change, what is named
const CASES: [Case; 20] = [
    (
        "an unknown filter",
        |c| {
            at(c, MANAGER)["http_filters"][0] = json!({"name": "x", "typed_config": {
            "@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}});
        },
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0]",
    ),
    (
        "a filter behind the router",
        |c| {
            let filters = at(c, MANAGER)["http_filters"].as_array_mut().unwrap();
            filters.push(json!({"name": "envoy.filters.http.cors", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}));
        },
        "typed_config.http_filters",
    ),
    (
        "no statistics prefix",
        |c| at(c, MANAGER)["stat_prefix"] = json!(""),
        "typed_config.stat_prefix",
    ),
    (
        "no routes",
        |c| {
            at(c, MANAGER)
                .as_object_mut()
                .unwrap()
                .remove("route_config");
        },
        "filters[0].typed_config",
    ),
    (
        "no address",
        |c| {
            at(c, LISTENER).as_object_mut().unwrap().remove("address");
        },
        "listeners[0].address",
    ),
    (
        "a port that does not exist",
        |c| at(c, LISTENER)["address"]["socket_address"]["port_value"] = json!(70000),
        "port_value",
    ),
    (
        "a bad regex",
        |c| {
            at(c, MANAGER)["route_config"]["virtual_hosts"][0]["routes"][0]["match"] =
                json!({"safe_regex": {"regex": "("}});
        },
        "route_config.virtual_hosts[0].routes[0].match.safe_regex",
    ),
    (
        "no domains",
        |c| at(c, MANAGER)["route_config"]["virtual_hosts"][0]["domains"] = json!([]),
        "virtual_hosts[0].domains",
    ),
    (
        "the same domain twice",
        |c| {
            let hosts = at(c, MANAGER)["route_config"]["virtual_hosts"]
                .as_array_mut()
                .unwrap();
            let mut second = hosts[0].clone();
            second["name"] = json!("second");
            hosts.push(second);
        },
        "route_config.virtual_hosts",
    ),
    (
        "an unknown cluster",
        |c| {
            at(c, MANAGER)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] =
                json!("nowhere");
        },
        "nowhere",
    ),
    (
        "no action",
        |c| {
            at(c, MANAGER)["route_config"]["virtual_hosts"][0]["routes"][0]
                .as_object_mut()
                .unwrap()
                .remove("route");
        },
        "routes[0]",
    ),
    (
        "a bad duration",
        |c| at(c, CLUSTER)["connect_timeout"] = json!("soon"),
        "static_resources.clusters[0].connect_timeout",
    ),
    (
        "two clusters of one name",
        |c| {
            let clusters = at(c, "/static_resources/clusters").as_array_mut().unwrap();
            clusters.push(clusters[0].clone());
        },
        "static_resources.clusters",
    ),
    (
        "no cluster name",
        |c| at(c, CLUSTER)["name"] = json!(""),
        "clusters[0].name",
    ),
    (
        "discovered endpoints without a source",
        |c| {
            let cluster = at(c, CLUSTER).as_object_mut().unwrap();
            cluster.remove("load_assignment");
            cluster.insert("type".to_owned(), json!("EDS"));
        },
        "clusters[0].eds_cluster_config",
    ),
    (
        "an unknown field",
        |c| at(c, CLUSTER)["no_such_field"] = json!(1),
        "no_such_field",
    ),
    (
        "a discovery server that is no cluster",
        |c| {
            c["dynamic_resources"]["lds_config"] = json!({"resource_api_version": "V3", "api_config_source": {"api_type": "GRPC",
            "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "nowhere"}}]}});
        },
        "dynamic_resources.lds_config",
    ),
    (
        "a file that is not there",
        |c| {
            tls(
                c,
                json!({
        "certificate_chain": {"filename": "/nowhere/cert.pem"}, "private_key": {"filename": "/nowhere/key.pem"}}),
            )
        },
        "/nowhere/cert.pem",
    ),
    (
        "a bad certificate",
        |c| {
            tls(
                c,
                json!({
        "certificate_chain": {"inline_string": "no certificate"}, "private_key": {"inline_string": "no key"}}),
            )
        },
        "listener l",
    ),
    (
        "a filter chain that is given twice",
        |c| {
            let chains = at(c, LISTENER)["filter_chains"].as_array_mut().unwrap();
            chains.push(chains[0].clone());
        },
        "filter_chains[1]",
    ),
];

async fn sound() -> Value {
    let (listen, admin) = (free().await, free().await);
    let mut config = bootstrap(admin, &[static_cluster("a", free().await)], &json!({}));
    config["static_resources"]["listeners"] = json!([listener("l", listen, &routes("r", "a"))]);
    config
}

fn envoy_refuses(binary: &std::ffi::OsStr, config: &Value) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("envoy.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["--mode", "validate", "-l", "off", "-c"])
        .arg(&path);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    !status.unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_bootstrap_is_refused_in_one_sentence_with_the_path_and_by_envoy_too() {
    let envoy = std::env::var_os("MELTEMI_TEST_ENVOY");
    let mut wrong = Vec::new();
    for (name, break_it, named) in CASES {
        let mut config = sound().await;
        if let Some(envoy) = &envoy {
            assert!(!envoy_refuses(envoy, &config), "the sound bootstrap");
        }
        break_it(&mut config);
        let checked = config.clone();
        let ran = tokio::task::spawn_blocking(move || run(&checked));
        match tokio::time::timeout(std::time::Duration::from_secs(20), ran).await {
            Ok(ended) => match ended.unwrap() {
                Ok(()) => wrong.push(format!("{name}: ended without a reason")),
                Err(error) => {
                    let text = error.to_string();
                    if !text.contains(named) || text.contains('\n') {
                        wrong.push(format!("{name}: {text}"));
                    }
                }
            },
            Err(_) => panic!("{name}: not refused; so far {wrong:#?}"),
        }
        // Validation does not open subscriptions.
        let judged = name != SEEN_WHEN_RUNNING;
        if judged
            && envoy
                .as_ref()
                .is_some_and(|envoy| !envoy_refuses(envoy, &config))
        {
            wrong.push(format!("{name}: Envoy takes it"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_with_listener_and_address() {
    let mut config = sound().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    at(&mut config, LISTENER)["address"]["socket_address"]["port_value"] = json!(port);
    let ran = tokio::task::spawn_blocking(move || run(&config));
    let text = ran.await.unwrap().unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("listener l: cannot bind 127.0.0.1:{port}")),
        "{text}"
    );
}
