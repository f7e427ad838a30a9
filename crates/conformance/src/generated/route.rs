//! Virtual hosts with their routes, and the bootstrap around them.

use serde_json::{Value, json};

use super::draw::Draw;
use super::{matching, mutation, rbac};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A virtual host without name and domains.
pub(super) fn host(draw: &mut Draw) -> Value {
    let count = 1 + draw.below(4);
    let routes: Vec<Value> = (0..count).map(|number| route(draw, number)).collect();
    let mut host = json!({ "routes": routes });
    mutation::add(draw, &mut host);
    if draw.chance(10) {
        host["include_request_attempt_count"] = json!(true);
    }
    if draw.chance(10) {
        host["include_attempt_count_in_response"] = json!(true);
    }
    if draw.chance(10) {
        host["retry_policy"] = retry(draw);
    }
    host
}

fn route(draw: &mut Draw, number: usize) -> Value {
    let rule = matching::route_match(draw);
    let mut route = json!({ "name": format!("r{number}"), "match": rule });
    match draw.below(10) {
        0 => route["direct_response"] = direct(draw),
        1 | 2 => route["redirect"] = redirect(draw),
        _ => route["route"] = forward(draw),
    }
    mutation::add(draw, &mut route);
    if draw.chance(30) {
        route["typed_per_filter_config"] =
            json!({ "envoy.filters.http.rbac": rbac::per_route(draw) });
    }
    route
}

fn direct(draw: &mut Draw) -> Value {
    let mut answer = json!({ "status": draw.one(&[&200, &204, &301, &404, &503]) });
    if draw.chance(60) && answer["status"] != 204 {
        answer["body"] = json!({ "inline_string": "here" });
    }
    answer
}

fn redirect(draw: &mut Draw) -> Value {
    let mut redirect = json!({});
    match draw.below(4) {
        0 => redirect["path_redirect"] = json!(draw.one(&["/new", "/new?x=1", "/a/b"])),
        1 => redirect["prefix_rewrite"] = json!(draw.one(&["/new", "/", "/new/"])),
        2 => redirect["regex_rewrite"] = rewrite(draw),
        _ => {}
    }
    match draw.below(4) {
        0 => redirect["https_redirect"] = json!(true),
        1 => redirect["scheme_redirect"] = json!("https"),
        _ => {}
    }
    if draw.chance(40) {
        redirect["host_redirect"] = json!("other.example");
    }
    if draw.chance(30) {
        redirect["port_redirect"] = json!(draw.one(&[&80, &443, &8443]));
    }
    if draw.chance(30) {
        redirect["strip_query"] = json!(true);
    }
    if draw.chance(50) {
        let code = draw.one(&[
            "FOUND",
            "SEE_OTHER",
            "TEMPORARY_REDIRECT",
            "PERMANENT_REDIRECT",
        ]);
        redirect["response_code"] = json!(code);
    }
    redirect
}

fn rewrite(draw: &mut Draw) -> Value {
    let (pattern, substitution) = draw.one(&[
        &("^/a", "/x"),
        &("a", "b"),
        &("/([^/]+)", "/<\\1>"),
        &("^/(.*)/(.*)$", "/\\2/\\1"),
        &("[0-9]+", "\\0\\0"),
        &("$", "/end"),
    ]);
    json!({ "pattern": { "regex": pattern }, "substitution": substitution })
}

fn forward(draw: &mut Draw) -> Value {
    let mut forward = json!({ "cluster": if draw.chance(80) { "app" } else { "other" } });
    match draw.below(6) {
        0 => forward["prefix_rewrite"] = json!(draw.one(&["/new", "/", "/new/", "/n?q=1"])),
        1 => forward["regex_rewrite"] = rewrite(draw),
        _ => {}
    }
    match draw.below(8) {
        0 => forward["host_rewrite_literal"] = json!("new.host"),
        1 => forward["host_rewrite_header"] = json!(draw.field()),
        2 => {
            forward["host_rewrite_path_regex"] =
                json!({ "pattern": { "regex": "^/([a-z]+).*$" }, "substitution": "\\1.host" });
        }
        _ => {}
    }
    if forward
        .as_object()
        .is_some_and(|map| map.keys().any(|key| key.starts_with("host_rewrite")))
        && draw.chance(30)
    {
        forward["append_x_forwarded_host"] = json!(true);
    }
    if draw.chance(40) {
        forward["retry_policy"] = retry(draw);
    }
    if draw.chance(10) {
        forward["timeout"] = json!("3s");
    }
    forward
}

fn retry(draw: &mut Draw) -> Value {
    let conditions = [
        "5xx",
        "gateway-error",
        "retriable-4xx",
        "retriable-status-codes",
        "5xx,retriable-4xx",
        "retriable-headers",
        "connect-failure,reset",
    ];
    let mut policy = json!({
        "retry_on": draw.one(&conditions),
        "num_retries": draw.below(3),
        "retry_back_off": { "base_interval": "0.001s", "max_interval": "0.002s" },
    });
    if draw.chance(40) {
        policy["retriable_status_codes"] = json!([draw.one(&[&404, &500, &503])]);
    }
    if draw.chance(20) {
        policy["retriable_headers"] =
            json!([{ "name": "x-up", "string_match": { "exact": "yes" } }]);
    }
    if draw.chance(20) {
        policy["retriable_request_headers"] = json!([matching::header(draw)]);
    }
    policy
}

/// A bootstrap with these virtual hosts.
pub(super) fn bootstrap(hosts: Vec<Value>) -> Value {
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC" },
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let format = "%REQ(X-ID)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %UPSTREAM_CLUSTER% \
                  %REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH)% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n";
    let log = json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "${DIR}/access.log",
            "log_format": { "text_format_source": { "inline_string": format } },
        },
    });
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": HTTP,
            "stat_prefix": "test",
            "access_log": [log],
            "http_filters": [rbac, router],
            "route_config": { "name": "local", "virtual_hosts": hosts },
        },
    });
    // A placeholder as a number: the text is filled in before it is parsed.
    let address =
        |port: &str| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let cluster = |name: &str| {
        let endpoint =
            json!({ "endpoint": { "address": address(&format!("${{BACKEND:{name}}}")) } });
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        })
    };
    json!({
        "admin": { "address": address("${ADMIN}") },
        "static_resources": {
            "listeners": [{ "name": "main", "address": address("${PORT}"), "filter_chains": [{ "filters": [manager] }] }],
            "clusters": [cluster("app"), cluster("other")],
        },
    })
}
