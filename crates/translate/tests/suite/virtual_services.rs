//! Rules of VirtualServices as routes.

use serde_json::{Value, json};

use crate::mesh::{Mesh, SUBSETS, clusters_of};

const REVIEWS: &str = "reviews.default.svc.cluster.local:9080";

/// The routes for reviews that productpage gets under these rules.
fn routes(http: &str) -> Vec<Value> {
    let rules = format!(
        "{{kind: VirtualService, metadata: {{name: reviews}}, spec: {{hosts: [reviews], http: {http}}}}}"
    );
    let mut mesh = Mesh::bookinfo(&[SUBSETS, &rules]);
    let host = mesh.sidecar("productpage-v1").host("9080", REVIEWS);
    host["routes"].as_array().expect("routes").clone()
}

fn subset(name: &str) -> String {
    format!("outbound|9080|{name}|reviews.default.svc.cluster.local")
}

#[test]
fn a_header_selects_a_subset_and_the_rest_goes_to_another() {
    let routes = routes(
        "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v2}}]},
          {route: [{destination: {host: reviews, subset: v1}}]}]",
    );
    assert_eq!(routes.len(), 2);
    assert_eq!(
        routes[0]["match"],
        json!({"prefix": "/", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]})
    );
    assert_eq!(clusters_of(&routes[0]), [(subset("v2"), 100)]);
    assert_eq!(clusters_of(&routes[1]), [(subset("v1"), 100)]);
}

#[test]
fn weights_divide_the_traffic_and_zero_gets_none() {
    let routes = routes(
        "[{route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v2}, weight: 10},
                   {destination: {host: reviews, subset: v3}, weight: 0}]}]",
    );
    assert_eq!(
        clusters_of(&routes[0]),
        [(subset("v1"), 90), (subset("v2"), 10)]
    );
    let single = self::routes("[{route: [{destination: {host: reviews, subset: v3}, weight: 0}]}]");
    assert_eq!(
        clusters_of(&single[0]),
        [(subset("v3"), 100)],
        "a single destination gets all"
    );
}

#[test]
fn every_condition_on_a_request_is_rendered() {
    let routes = routes(
        "[{match: [{uri: {prefix: /api}, ignoreUriCase: true, method: {exact: GET}, scheme: {exact: https},
                    authority: {prefix: rev}, headers: {a: {prefix: x}, b: {}, c: {regex: '*'}, d: {regex: 'v.*'}},
                    withoutHeaders: {e: {exact: z}, f: {}}, queryParams: {q: {exact: '1'}, r: {}}, port: 9080}],
           route: [{destination: {host: reviews}}]}]",
    );
    let wanted = &routes[0]["match"];
    assert_eq!(
        (&wanted["prefix"], &wanted["case_sensitive"]),
        (&json!("/api"), &json!(false))
    );
    assert_eq!(
        wanted["headers"],
        json!([
            {"name": "a", "string_match": {"prefix": "x"}},
            {"name": "b", "present_match": true},
            {"name": "c", "present_match": true},
            {"name": "d", "string_match": {"safe_regex": {"regex": "v.*"}}},
            {"name": "e", "invert_match": true, "treat_missing_header_as_empty": true, "string_match": {"exact": "z"}},
            {"name": "f", "invert_match": true, "present_match": true},
            {"name": ":method", "string_match": {"exact": "GET"}},
            {"name": ":authority", "string_match": {"prefix": "rev"}},
            {"name": ":scheme", "string_match": {"exact": "https"}},
        ])
    );
    assert_eq!(
        wanted["query_parameters"],
        json!([{"name": "q", "string_match": {"exact": "1"}}, {"name": "r", "present_match": true}])
    );
}

#[test]
fn conditions_on_the_client_and_port_are_decided_when_routes_are_made() {
    let http = "[{match: [{sourceLabels: {app: ratings}}, {port: 80}, {gateways: [other]}, {sourceNamespace: elsewhere}], route: [{destination: {host: reviews, subset: v1}}]},
                 {match: [{sourceLabels: {app: productpage}, sourceNamespace: default}], route: [{destination: {host: reviews, subset: v2}}]},
                 {route: [{destination: {host: reviews, subset: v3}}]}]";
    let routes = routes(http);
    assert_eq!(
        routes
            .iter()
            .flat_map(clusters_of)
            .map(|(name, _)| name)
            .collect::<Vec<_>>(),
        [subset("v2")]
    );
}

#[test]
fn routes_after_one_that_takes_everything_are_left_out() {
    let routes = routes(
        "[{match: [{uri: {prefix: /}}], route: [{destination: {host: reviews, subset: v1}}]},
          {match: [{uri: {exact: /x}}], route: [{destination: {host: reviews, subset: v2}}]}]",
    );
    assert_eq!(routes.len(), 1);
}

#[test]
fn timeouts_retries_and_mirrors_are_rendered() {
    let routes = routes(
        "[{name: main, timeout: 3s, retries: {attempts: 3, perTryTimeout: 1s, retryOn: 'gateway-error,503', backoff: 100ms},
           mirror: {host: reviews, subset: v3}, mirrorPercentage: {value: 12.5}, route: [{destination: {host: reviews, subset: v1}}]}]",
    );
    let action = &routes[0]["route"];
    assert_eq!(routes[0]["name"], "main");
    assert_eq!(action["timeout"], "3s");
    assert_eq!(action["max_grpc_timeout"], "3s");
    let retries = &action["retry_policy"];
    assert_eq!(retries["retry_on"], "gateway-error,retriable-status-codes");
    assert_eq!(retries["retriable_status_codes"], json!([503]));
    assert_eq!(
        (&retries["num_retries"], &retries["per_try_timeout"]),
        (&json!(3), &json!("1s"))
    );
    assert_eq!(retries["retry_back_off"]["base_interval"], "0.100s");
    let mirror = &action["request_mirror_policies"][0];
    assert_eq!(mirror["cluster"], subset("v3"));
    assert_eq!(
        mirror["runtime_fraction"]["default_value"],
        json!({"numerator": 125_000, "denominator": "MILLION"})
    );
    let off = self::routes("[{retries: {attempts: 0}, route: [{destination: {host: reviews}}]}]");
    assert!(off[0]["route"]["retry_policy"].is_null());
}

#[test]
fn faults_and_cross_origin_policies_are_rendered() {
    let routes = routes(
        "[{fault: {delay: {percentage: {value: 100}, fixedDelay: 7s}, abort: {percentage: {value: 50}, httpStatus: 500}},
           corsPolicy: {allowOrigins: [{exact: https://example.com}], allowMethods: [GET, POST], maxAge: 24h},
           route: [{destination: {host: reviews}}]}]",
    );
    let filters = &routes[0]["typed_per_filter_config"];
    let fault = &filters["envoy.filters.http.fault"];
    assert_eq!(fault["delay"]["fixed_delay"], "7s");
    assert_eq!(
        fault["delay"]["percentage"],
        json!({"numerator": 1_000_000, "denominator": "MILLION"})
    );
    assert_eq!(fault["abort"]["http_status"], 500);
    let cors = &filters["envoy.filters.http.cors"];
    assert_eq!(
        (&cors["allow_methods"], &cors["max_age"]),
        (&json!("GET,POST"), &json!("86400"))
    );
    assert_eq!(
        cors["allow_origin_string_match"],
        json!([{"exact": "https://example.com"}])
    );
}

#[test]
fn rewrites_and_headers_are_rendered() {
    let routes = routes(
        "[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: other.example}, headers: {request: {set: {b: '2', a: '1'}, add: {c: '3'}, remove: [d]}, response: {remove: [e]}},
           route: [{destination: {host: reviews}, headers: {response: {set: {x: z}}}}]},
          {match: [{uri: {prefix: /re}}], rewrite: {uriRegexRewrite: {match: '^/re/(.*)$', rewrite: '/\\1'}}, headers: {request: {set: {':authority': third.example}}}, route: [{destination: {host: reviews}}]}]",
    );
    assert_eq!(routes[0]["route"]["prefix_rewrite"], "/new");
    assert_eq!(routes[0]["route"]["host_rewrite_literal"], "other.example");
    let added: Vec<(&str, &str)> = routes[0]["request_headers_to_add"]
        .as_array()
        .expect("headers")
        .iter()
        .map(|h| {
            (
                h["header"]["key"].as_str().unwrap_or(""),
                h["append_action"]
                    .as_str()
                    .unwrap_or("APPEND_IF_EXISTS_OR_ADD"),
            )
        })
        .collect();
    assert_eq!(
        added,
        [
            ("a", "OVERWRITE_IF_EXISTS_OR_ADD"),
            ("b", "OVERWRITE_IF_EXISTS_OR_ADD"),
            ("c", "APPEND_IF_EXISTS_OR_ADD")
        ]
    );
    assert_eq!(routes[0]["request_headers_to_remove"], json!(["d"]));
    assert_eq!(routes[0]["response_headers_to_remove"], json!(["e"]));
    assert_eq!(
        routes[0]["response_headers_to_add"][0]["header"]["key"],
        "x"
    );
    assert_eq!(routes[1]["route"]["regex_rewrite"]["substitution"], "/\\1");
    assert_eq!(routes[1]["route"]["host_rewrite_literal"], "third.example");
}

#[test]
fn redirects_and_direct_responses_are_rendered() {
    let routes = routes(
        "[{match: [{uri: {exact: /a}}], redirect: {uri: /b, authority: other.example, scheme: https, port: 443, redirectCode: 308}},
          {match: [{uri: {prefix: /c}}], redirect: {prefixRewrite: /d, derivePort: FROM_REQUEST_PORT}},
          {match: [{uri: {exact: /odd}}], redirect: {uri: /b, redirectCode: 304}},
          {directResponse: {status: 418, body: {string: short}}}]",
    );
    assert_eq!(
        routes.len(),
        3,
        "a redirect with a status that is none is dropped"
    );
    assert_eq!(
        routes[0]["redirect"],
        json!({
            "host_redirect": "other.example", "path_redirect": "/b", "scheme_redirect": "https",
            "response_code": "PERMANENT_REDIRECT",
        })
    );
    assert_eq!(
        routes[1]["redirect"],
        json!({"prefix_rewrite": "/d", "port_redirect": 9080})
    );
    assert_eq!(
        routes[2]["direct_response"],
        json!({"status": 418, "body": {"inline_string": "short"}})
    );
}

#[test]
fn of_two_virtual_services_for_a_host_the_older_is_followed() {
    let rules = |name: &str, created: &str, subset: &str| {
        format!(
            "{{kind: VirtualService, metadata: {{name: {name}, creationTimestamp: '{created}'}}, spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}}}"
        )
    };
    let (young, old) = (
        rules("a", "2026-03-01T00:00:00Z", "v2"),
        rules("b", "2026-02-01T00:00:00Z", "v1"),
    );
    let mut mesh = Mesh::bookinfo(&[SUBSETS, &young, &old]);
    let host = mesh.sidecar("productpage-v1").host("9080", REVIEWS);
    assert_eq!(host["routes"].as_array().map(Vec::len), Some(1));
    assert_eq!(clusters_of(&host["routes"][0]), [(subset("v1"), 100)]);
}

#[test]
fn routes_and_subsets_may_come_in_either_order() {
    let rules = "{kind: VirtualService, metadata: {name: reviews}, spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}}";
    let mut routes_first = Mesh::bookinfo(&[rules]);
    let before = routes_first.sidecar("productpage-v1").host("9080", REVIEWS);
    assert_eq!(
        clusters_of(&before["routes"][0]),
        [(subset(""), 100)],
        "the whole service until the subset exists"
    );
    routes_first.apply(SUBSETS);
    let after = routes_first.sidecar("productpage-v1").host("9080", REVIEWS);
    let mut subsets_first = Mesh::bookinfo(&[SUBSETS, rules]);
    assert_eq!(
        after,
        subsets_first
            .sidecar("productpage-v1")
            .host("9080", REVIEWS)
    );
    assert_eq!(clusters_of(&after["routes"][0]), [(subset("v1"), 100)]);
}

#[test]
fn hosts_without_a_service_are_routed_on_port_80_only() {
    let rules = "{kind: VirtualService, metadata: {name: free}, spec: {hosts: [free.example], http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]}}";
    let mut mesh = Mesh::bookinfo(&[rules]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let host = sidecar.host("80", "free.example:80");
    assert_eq!(host["domains"], json!(["free.example", "free.example."]));
    let routes = sidecar.routes();
    assert!(
        !routes["9080"]
            .virtual_hosts
            .iter()
            .any(|host| host.name.starts_with("free"))
    );
}

#[test]
fn the_usual_port_of_a_derived_redirect_is_left_out() {
    let rules = "{kind: VirtualService, metadata: {name: free}, spec: {hosts: [free.example], http: [{redirect: {uri: /x, derivePort: FROM_REQUEST_PORT}}]}}";
    let mut mesh = Mesh::bookinfo(&[rules]);
    let host = mesh.sidecar("productpage-v1").host("80", "free.example:80");
    assert_eq!(
        host["routes"][0]["redirect"],
        json!({"path_redirect": "/x"})
    );
}

#[test]
fn a_service_answers_to_its_other_names() {
    let alias = "{kind: Service, metadata: {name: opinions}, spec: {type: ExternalName, externalName: reviews.default.svc.cluster.local}}";
    let rules = "{kind: VirtualService, metadata: {name: ratings}, spec: {hosts: [ratings], http: [{route: [{destination: {host: opinions}}]}]}}";
    let mut mesh = Mesh::bookinfo(&[alias, rules]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let domains = &sidecar.host("9080", REVIEWS)["domains"];
    assert!(domains.to_string().contains("\"opinions\""), "{domains}");
    let ratings = sidecar.host("9080", "ratings.default.svc.cluster.local:9080");
    assert_eq!(
        clusters_of(&ratings["routes"][0]),
        [(subset(""), 100)],
        "a destination by another name"
    );
    assert!(
        !sidecar
            .clusters()
            .keys()
            .any(|name| name.contains("opinions"))
    );
}

#[test]
fn a_delegate_continues_the_rules_within_their_conditions() {
    let rules = r#"
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - {name: root, match: [{uri: {prefix: /reviews}}], timeout: 5s, delegate: {name: inner, namespace: team}}
  - {route: [{destination: {host: reviews, subset: v1}}]}
---
kind: VirtualService
metadata: {name: inner, namespace: team}
spec:
  http:
  - {name: deep, match: [{uri: {prefix: /reviews/deep}, headers: {a: {exact: b}}}], route: [{destination: {host: reviews.default.svc.cluster.local, subset: v2}}]}
  - {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: reviews.default.svc.cluster.local, subset: v3}}]}
  - {timeout: 1s, route: [{destination: {host: reviews.default.svc.cluster.local, subset: v3}}]}
"#;
    let mut mesh = Mesh::bookinfo(&[SUBSETS, rules]);
    let host = mesh.sidecar("productpage-v1").host("9080", REVIEWS);
    let routes = host["routes"].as_array().expect("routes");
    let clusters: Vec<_> = routes
        .iter()
        .flat_map(clusters_of)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(clusters, [subset("v2"), subset("v3"), subset("v1")]);
    assert_eq!(routes[0]["name"], "root-deep");
    assert_eq!(routes[0]["match"]["prefix"], "/reviews/deep");
    assert_eq!(
        (
            &routes[0]["route"]["timeout"],
            &routes[1]["route"]["timeout"]
        ),
        (&json!("5s"), &json!("1s"))
    );
    assert_eq!(routes[1]["match"]["prefix"], "/reviews");
}
