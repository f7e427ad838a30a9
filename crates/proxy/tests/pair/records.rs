//! Exactly one access-log line for each exchange, however it ends.

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::client::{BOTH, Client, Version, piece, piecewise};
use crate::sidecars::{ALL, Hop, Pair};
use crate::support::{backend, full, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_answer_is_dc_or_reset_on_both_sides() {
    for version in BOTH {
        let (arrived, mut requests) = mpsc::channel(1);
        let app = backend(move |_| {
            let arrived = arrived.clone();
            async move {
                arrived.send(()).await.unwrap();
                std::future::pending().await
            }
        })
        .await;
        let pair = Pair::start(Hop::Same, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::get("http://server.test/left")
            .body(full(""))
            .unwrap();
        let call = tokio::spawn(async move {
            let _ = client.send(request).await;
        });
        soon("request", requests.recv()).await.unwrap();
        call.abort();
        let _ = call.await;
        let log = pair.outbound_log(1).await;
        let (flag, details) = match version {
            Version::Http1 => ("DC", "downstream_remote_disconnect"),
            Version::Http2 => ("DR", "http2.remote_reset"),
        };
        let start = format!("GET /left {} 0 {flag} {details} 0 0 ", version.name());
        // A client that drops its connection with the stream is seen as either.
        let gone = format!(
            "GET /left {} 0 DC downstream_remote_disconnect 0 0 ",
            version.name()
        );
        assert!(
            log[0].starts_with(&start) || log[0].starts_with(&gone),
            "{log:?}"
        );
        let inbound = pair.inbound_log(1).await;
        assert!(
            inbound[0].contains(" 0 DC ") || inbound[0].contains(" 0 DR "),
            "{inbound:?}"
        );
        let (outbound, inbound) = pair.stop().await;
        assert_eq!((outbound.lines().count(), inbound.lines().count()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_amid_the_answer_is_recorded_once_with_its_status() {
    for version in BOTH {
        let (hand_over, mut senders) = mpsc::channel(1);
        let app = backend(move |_| {
            let hand_over = hand_over.clone();
            async move {
                let (sender, body) = piecewise();
                hand_over.send(sender).await.unwrap();
                Response::new(body)
            }
        })
        .await;
        let pair = Pair::start(Hop::Same, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::get("http://server.test/part")
            .body(full(""))
            .unwrap();
        let response = soon("head", client.send(request)).await.unwrap();
        let server = soon("server", senders.recv()).await.unwrap();
        let mut body = response.into_body();
        server.send("some".into()).await.unwrap();
        assert_eq!(piece(&mut body).await, "some");
        drop((body, client));
        soon("the server learns it", server.closed()).await;
        let log = pair.outbound_log(1).await;
        let start = format!("GET /part {} 200 D", version.name());
        assert!(log[0].starts_with(&start), "{log:?}");
        let (outbound, inbound) = pair.stop().await;
        assert_eq!((outbound.lines().count(), inbound.lines().count()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_off_is_uc() {
    for version in BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pair = Pair::start(Hop::Same, listener.local_addr().unwrap(), ALL);
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !is_complete(&head) {
                stream.read_buf(&mut head).await.unwrap();
            }
        });
        let mut client = Client::connect(&pair.outbound, version).await;
        assert_eq!(client.get("/").await.status, 503);
        soon("server", server).await.unwrap();
        drop(client);
        let (outbound, inbound) = pair.stop().await;
        let reason = "upstream_reset_before_response_started{connection_termination}";
        let line = format!("GET / {} 503 UC {reason} 0 ", version.name());
        assert!(inbound.starts_with(&line), "{inbound}");
        let line = format!("GET / {} 503 - via_upstream 0 ", version.name());
        assert!(outbound.starts_with(&line), "{outbound}");
        assert_eq!((outbound.lines().count(), inbound.lines().count()), (1, 1));
    }
}

fn is_complete(head: &[u8]) -> bool {
    head.ends_with(b"\r\n\r\n") || head.starts_with(b"PRI * HTTP/2.0")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_upe_after_its_status_and_the_client_learns_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(Hop::Same, listener.local_addr().unwrap(), ALL);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !is_complete(&head) {
            stream.read_buf(&mut head).await.unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
        stream.write_all(answer).await.unwrap();
    });
    let mut client = Client::connect(&pair.outbound, Version::Http1).await;
    let request = Request::get("http://server.test/cut")
        .body(full(""))
        .unwrap();
    let response = soon("head", client.send(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let rest = soon("body", response.into_body().collect()).await;
    assert!(
        rest.is_err(),
        "a body that is not complete must not look complete"
    );
    drop(client);
    let (outbound, inbound) = pair.stop().await;
    for log in [outbound, inbound] {
        assert!(
            log.starts_with("GET /cut HTTP/1.1 200 UPE upstream_reset_after_response_started{protocol_error} 0 9 "),
            "{log}"
        );
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_an_injected_delay_is_recorded_at_once_and_nothing_is_sent_for_it()
 {
    let routes = r#"{ match: { path: "/now" }, direct_response: { status: 200 } }, { match: { path: "/late" }, route: { cluster: peer }, typed_per_filter_config: { envoy.filters.http.fault: { "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: { fixed_delay: 3600s, percentage: { numerator: 100 } } } } }"#;
    for version in BOTH {
        let app = backend(|_| async { panic!("nobody asked") }).await;
        let pair = Pair::start(Hop::Same, app, routes);
        let lines = match version {
            Version::Http1 => {
                let mut client = pair.outbound.connect().await;
                let request = b"GET /late HTTP/1.1\r\nHost: server.test\r\n\r\n";
                client.write_all(request).await.unwrap();
                1
            }
            Version::Http2 => {
                let mut client = Client::connect(&pair.outbound, version).await;
                let late = Request::get("http://server.test/late").body(full(""));
                let late = client.send(late.unwrap());
                let late = tokio::time::timeout(std::time::Duration::ZERO, late).await;
                assert!(late.is_err(), "it is delayed");
                // Frames arrive in their order: this answer shows that the other request was there and was reset.
                assert_eq!(client.get("/now").await.status, 200);
                2
            }
        };
        let log = pair.outbound_log(lines).await;
        let late = log.iter().find(|line| line.contains(" /late ")).unwrap();
        let start = format!("GET /late {} 0 D", version.name());
        assert!(late.starts_with(&start) && late.contains("DI"), "{late}");
        let (outbound, inbound) = pair.stop().await;
        assert_eq!(
            (outbound.lines().count(), inbound.lines().count()),
            (lines, 0)
        );
    }
}
