//! What a route asks for, for clients of both HTTP versions, with the flag that the access log says it by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use tokio::sync::mpsc;

use crate::client::{BOTH, Client};
use crate::sidecars::{Hop, Pair};
use crate::support::{Body, backend, echo, full, soon};

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = code;
    response
}

/// An application that counts its requests and answers always the same.
async fn counting(code: StatusCode) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let address = backend(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(status(code))
    })
    .await;
    (address, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_left_for_another_one() {
    let routes = r#"{ match: { prefix: "/" }, route: { cluster: peer, retry_policy: { retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", retriable_status_codes: [503], num_retries: 2, retry_back_off: { base_interval: 0.001s }, retry_host_predicate: [{ name: envoy.retry_host_predicates.previous_hosts, typed_config: { "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }], host_selection_retry_max_attempts: 5 } } }"#;
    for version in BOTH {
        let (bad, failures) = counting(StatusCode::SERVICE_UNAVAILABLE).await;
        let (good, successes) = counting(StatusCode::OK).await;
        let pair = Pair::with_clusters(Hop::Same, &[("peer", &[bad, good], "")], routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        for _ in 0..12 {
            assert_eq!(client.get("/").await.status, StatusCode::OK, "{version:?}");
        }
        assert_eq!(successes.load(Ordering::SeqCst), 12);
        let failed = failures.load(Ordering::SeqCst);
        assert!(
            (4..=12).contains(&failed),
            "many begin at the bad one: {failed}"
        );
        drop(client);
        let (outbound, inbound) = pair.stop().await;
        assert_eq!(outbound.lines().count(), 12, "one line for each exchange");
        assert_eq!(inbound.lines().count(), 12 + failed, "and for each attempt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_at_their_limit_with_urx() {
    let routes = r#"{ match: { prefix: "/" }, route: { cluster: peer, retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s } } } }"#;
    for version in BOTH {
        let (bad, failures) = counting(StatusCode::SERVICE_UNAVAILABLE).await;
        let pair = Pair::start(Hop::Same, bad, routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        assert_eq!(
            client.get("/").await.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(failures.load(Ordering::SeqCst), 3);
        let log = pair.outbound_log(1).await;
        let start = format!("GET / {} 503 URX via_upstream ", version.name());
        assert!(log[0].starts_with(&start), "{log:?}");
        drop(client);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_too_slow_is_repeated() {
    let routes = r#"{ match: { prefix: "/" }, route: { cluster: peer, timeout: 10s, retry_policy: { retry_on: 5xx, num_retries: 1, per_try_timeout: 0.1s, retry_back_off: { base_interval: 0.001s } } } }"#;
    for version in BOTH {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let app = backend(move |_| {
            let first = counter.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Response::new(full("second"))
            }
        })
        .await;
        let pair = Pair::start(Hop::Same, app, routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        let answer = client.get("/").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::OK, "second")
        );
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        drop(client);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_takes_too_long_is_504_ut() {
    let routes = r#"{ match: { prefix: "/" }, route: { cluster: peer, timeout: 0.1s } }"#;
    for version in BOTH {
        let app = backend(|_| std::future::pending()).await;
        let pair = Pair::start(Hop::Same, app, routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        let answer = client.get("/slow").await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.body, "upstream request timeout");
        let log = pair.outbound_log(1).await;
        let start = format!("GET /slow {} 504 UT response_timeout ", version.name());
        assert!(log[0].starts_with(&start), "{log:?}");
        let inbound = pair.inbound_log(1).await;
        assert!(
            inbound[0].contains(" 0 DC ") || inbound[0].contains(" 0 DR "),
            "the server's side sees its client leave: {inbound:?}"
        );
        drop(client);
        pair.stop().await;
    }
}

/// A route with a fault of its own.
fn fault(path: &str, fields: &str) -> String {
    format!(
        r#"{{ match: {{ path: "{path}" }}, route: {{ cluster: peer }}, typed_per_filter_config: {{ envoy.filters.http.fault: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, {fields} }} }} }}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_delay_and_abort_with_di_and_fi() {
    let all = "percentage: { numerator: 100 }";
    let delay = format!("delay: {{ fixed_delay: 0.15s, {all} }}");
    let abort = format!("abort: {{ http_status: 418, {all} }}");
    let routes = [
        fault("/delay", &delay),
        fault("/abort", &abort),
        fault("/both", &format!("{delay}, {abort}")),
    ]
    .join(", ");
    for version in BOTH {
        let (app, calls) = counting(StatusCode::OK).await;
        let pair = Pair::start(Hop::Same, app, &routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        let cases = [
            ("/delay", 200, true, "DI via_upstream"),
            ("/abort", 418, false, "FI fault_filter_abort"),
            ("/both", 418, true, "DI,FI fault_filter_abort"),
        ];
        for (path, status, delayed, _) in cases {
            let since = Instant::now();
            let answer = client.get(path).await;
            assert_eq!(answer.status.as_u16(), status, "{path}");
            assert!(
                !delayed || since.elapsed() >= Duration::from_millis(150),
                "{path}"
            );
            if status == 418 {
                assert_eq!(answer.body, "fault filter abort");
            }
        }
        assert_eq!(
            calls.load(Ordering::SeqCst),
            1,
            "an abort never reaches the server"
        );
        let log = pair.outbound_log(3).await;
        for ((path, status, _, why), line) in cases.into_iter().zip(&log) {
            let start = format!("GET {path} {} {status} {why} ", version.name());
            assert!(line.starts_with(&start), "{line}");
        }
        drop(client);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_a_copy_and_is_not_waited_for() {
    let routes = r#"{ match: { prefix: "/" }, route: { cluster: peer, request_mirror_policies: [{ cluster: shadow, runtime_fraction: { default_value: { numerator: 100 } } }] } }"#;
    for version in BOTH {
        let app = backend(echo).await;
        let (sender, mut copies) = mpsc::channel(1);
        let shadow = backend(move |request: Request<hyper::body::Incoming>| {
            let sender = sender.clone();
            async move {
                let host = request.headers().get("host").cloned();
                let authority = request.uri().authority().map(ToString::to_string);
                let body = http_body_util::BodyExt::collect(request.into_body()).await;
                let body = body.unwrap().to_bytes();
                let host = authority.or_else(|| Some(host?.to_str().ok()?.into()));
                sender.send((host, body)).await.unwrap();
                std::future::pending().await
            }
        })
        .await;
        let clusters = [("peer", &[app][..], ""), ("shadow", &[shadow][..], "")];
        let pair = Pair::with_clusters(Hop::Same, &clusters, routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::post("http://server.test/")
            .body(full("copied"))
            .unwrap();
        let answer = client.call(request).await;
        assert!(answer.body.contains("body: copied"), "{answer:?}");
        let (host, body) = soon("copy", copies.recv()).await.unwrap();
        assert_eq!(host.as_deref(), Some("server.test-shadow"), "{version:?}");
        assert_eq!(body, "copied");
        let log = pair.outbound_log(1).await;
        assert!(log[0].contains(" 200 - via_upstream 6 "), "{log:?}");
        drop(client);
        let (outbound, _) = pair.stop().await;
        assert_eq!(
            outbound.lines().count(),
            1,
            "a copy is no exchange of the client"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_rewrites_and_header_changes_are_as_configured() {
    let routes = [
        r#"{ match: { path: "/old" }, redirect: { host_redirect: elsewhere.test, path_redirect: "/new", response_code: PERMANENT_REDIRECT } }"#,
        r#"{ match: { prefix: "/v1/" }, route: { cluster: peer, prefix_rewrite: "/api/", host_rewrite_literal: internal.test } }"#,
        r#"{ match: { prefix: "/regex/" }, route: { cluster: peer, regex_rewrite: { pattern: { regex: "^/regex/([^/]+)/(.*)$" }, substitution: "/\\2/\\1" } } }"#,
        r#"{ match: { prefix: "/headers" }, route: { cluster: peer }, request_headers_to_add: [{ header: { key: x-set, value: given }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }, { header: { key: x-more, value: b } }], request_headers_to_remove: [x-secret], response_headers_to_add: [{ header: { key: x-answer, value: "%PROTOCOL%" } }], response_headers_to_remove: [date] }"#,
    ]
    .join(", ");
    for version in BOTH {
        let pair = Pair::start(Hop::Same, backend(echo).await, &routes);
        let mut client = Client::connect(&pair.outbound, version).await;
        let moved = client.get("/old?a=b").await;
        assert_eq!(moved.status, StatusCode::PERMANENT_REDIRECT);
        assert_eq!(moved.headers["location"], "http://elsewhere.test/new?a=b");

        let text = client.get("/v1/books?x=1").await.body;
        assert!(
            text.contains("/api/books?x=1\n")
                && text.contains("x-envoy-original-host: server.test\n"),
            "{text}"
        );
        assert!(text.contains("internal.test"), "{text}");
        let text = client.get("/regex/one/two").await.body;
        assert!(text.lines().next().unwrap().ends_with("/two/one"), "{text}");

        let request = Request::get("http://server.test/headers")
            .header("x-set", "own")
            .header("x-more", "a")
            .header("x-secret", "hush");
        let answer = client.call(request.body(full("")).unwrap()).await;
        let text = &answer.body;
        assert!(
            text.contains("x-set: given\n") && !text.contains("x-set: own"),
            "{text}"
        );
        assert!(
            text.contains("x-more: a\n") && text.contains("x-more: b\n"),
            "{text}"
        );
        assert!(!text.contains("x-secret"), "{text}");
        assert_eq!(answer.headers["x-answer"], version.name());

        let log = pair.outbound_log(4).await;
        assert!(log[0].contains(" 308 - direct_response "), "{log:?}");
        assert!(
            log[1..]
                .iter()
                .all(|line| line.contains(" 200 - via_upstream ")),
            "{log:?}"
        );
        drop(client);
        pair.stop().await;
    }
}
