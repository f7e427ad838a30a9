//! HTTP/1.1 on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use meltemi_proxy::{Change, static_resources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Http, Proxy, access_log, backend, echo, full, http, plain, soon};

const FLOW: tokio::runtime::RuntimeFlavor = tokio::runtime::RuntimeFlavor::MultiThread;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_with_the_fields_that_envoy_adds() {
    assert_eq!(tokio::runtime::Handle::current().runtime_flavor(), FLOW);
    let proxy = Proxy::start(&plain(backend(echo).await));
    let answer = proxy
        .raw(b"GET /a?b=c HTTP/1.1\r\nHost: Example.com\r\nX-A: 1\r\nConnection: close\r\n\r\n")
        .await;
    for part in [
        "HTTP/1.1 200 OK\r\n",
        "GET /a?b=c\n",
        "host: Example.com\n",
        "x-a: 1\n",
        "x-forwarded-proto: http\n",
        "x-request-id: ",
        "\r\nserver: envoy\r\n",
        "\r\ndate: ",
        "\r\nx-envoy-upstream-service-time: ",
        "\r\nconnection: close\r\n",
    ] {
        assert!(answer.contains(part), "{part:?} in {answer}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    let answer = proxy
        .raw(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let positions: Vec<_> = ["GET /1", "POST /2", "body: abc", "GET /3"]
        .map(|part| answer.find(part))
        .to_vec();
    assert!(
        positions.iter().all(Option::is_some) && positions.is_sorted(),
        "{answer}"
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_get_400_and_close_the_connection() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    for (bytes, status) in [
        (&b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", 426),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ] {
        let close = if status == 400 && bytes.ends_with(b"1.1\r\n\r\n") { &b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"[..] } else { bytes };
        let answer = proxy.raw(close).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_chunk_passes_before_the_response_ends() {
    let address = backend(|_| async {
        let (sender, receiver) =
            tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
        tokio::spawn(async move {
            let _ = sender
                .send(Ok(Frame::data(Bytes::from_static(b"first"))))
                .await;
            sender.closed().await;
        });
        Response::new(
            StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed(),
        )
    })
    .await;
    let proxy = Proxy::start(&plain(address));
    let mut stream = proxy.connect().await;
    let started = Instant::now();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut have = Vec::new();
    while !String::from_utf8_lossy(&have).contains("first") {
        assert!(
            soon("first chunk", stream.read_buf(&mut have))
                .await
                .unwrap()
                > 0
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    drop(stream);
    proxy.stop().await;
}

/// Answers with the request's body, as it arrives.
async fn mirror(request: http::Request<hyper::body::Incoming>) -> Response<crate::support::Body> {
    let body = request.into_body().map_err(|_| unreachable_error()).boxed();
    Response::new(body)
}

fn unreachable_error() -> std::convert::Infallible {
    panic!("the request body broke off")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_both_ways_at_once() {
    const SIZE: usize = 48 << 20;
    let proxy = Proxy::start(&plain(backend(mirror).await));
    let stream = proxy.connect().await;
    let (mut read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..SIZE / block.len() {
            write.write_all(&block).await.unwrap();
        }
        write
    });
    let mut received = 0;
    let mut block = vec![0; 256 * 1024];
    loop {
        let count = soon("body", read.read(&mut block)).await.unwrap();
        if count == 0 {
            break;
        }
        received += count;
    }
    assert!(received > SIZE, "{received}");
    drop(writer.await.unwrap());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_becomes_a_raw_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        assert!(
            text.contains("upgrade: websocket") && text.contains("connection: upgrade"),
            "{text}"
        );
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello").await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let yaml = http(
        address,
        &Http {
            manager: "          upgrade_configs: [{ upgrade_type: websocket }]",
            routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend } }",
            clusters: "",
        },
    );
    let proxy = Proxy::start(&yaml);
    let mut stream = proxy.connect().await;
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let mut have = Vec::new();
    while !have.ends_with(b"hello") {
        assert!(
            soon("upgrade", stream.read_buf(&mut have)).await.unwrap() > 0,
            "{}",
            String::from_utf8_lossy(&have)
        );
    }
    assert!(have.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    soon("echo", stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"ping");
    stream.shutdown().await.unwrap();
    have.clear();
    soon("end", stream.read_to_end(&mut have)).await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_not_configured_is_refused() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    let answer = proxy
        .raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_response_is_retried_with_its_body() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let address = backend(move |request| {
        let attempt = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if attempt < 2 {
                let mut response = Response::new(full("no"));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            echo(request).await
        }
    })
    .await;
    let yaml = http(
        address,
        &Http {
            manager: "",
            routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend, retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s } } } }",
            clusters: "",
        },
    );
    let proxy = Proxy::start(&yaml);
    let answer = proxy
        .raw(b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("body: body"),
        "{answer}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_replies_and_log_lines_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let slow = backend(|_| std::future::pending()).await;
    let routes = "
              - { match: { path: \"/refused\" }, route: { cluster: backend } }
              - { match: { path: \"/slow\" }, route: { cluster: slow, timeout: 0.05s } }
              - { match: { path: \"/none\" }, route: { cluster: nowhere } }
              - { match: { path: \"/direct\" }, direct_response: { status: 418, body: { inline_string: short } } }
              - { match: { path: \"/moved\" }, redirect: { path_redirect: /there } }";
    let clusters = format!(
        "  - {{ name: slow, type: STATIC, connect_timeout: 1s, load_assignment: {{ cluster_name: slow, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }} }}",
        slow.port()
    );
    let mut yaml = http(
        closed,
        &Http {
            manager: &access_log(&log),
            routes,
            clusters: &clusters,
        },
    );
    yaml = yaml.replace(
        "name: local\n",
        "name: local\n            validate_clusters: false\n",
    );
    let proxy = Proxy::start(&yaml);
    let cases = [
        ("/refused", "503", "UF", "upstream connect error"),
        ("/slow", "504", "UT", "upstream request timeout"),
        ("/none", "503", "NC", ""),
        ("/direct", "418", "-", "short"),
        ("/moved", "301", "-", "location: http://h/there"),
        ("/nothing", "404", "NR", ""),
    ];
    for (path, status, _, part) in cases {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = proxy.raw(request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part),
            "{path}: {answer}"
        );
    }
    proxy.engine.flush_logs();
    let lines = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), cases.len(), "{lines:#?}");
    for ((path, status, flag, _), line) in cases.into_iter().zip(lines) {
        assert!(
            line.starts_with(&format!("GET {status} {flag} ")),
            "{path}: {line}"
        );
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_logged_once_as_dc() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let arrived = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&arrived);
    let address = backend(move |_| {
        notify.notify_one();
        std::future::pending()
    })
    .await;
    let routes =
        "              - { match: { prefix: \"/\" }, route: { cluster: backend, timeout: 0s } }";
    let proxy = Proxy::start(&http(
        address,
        &Http {
            manager: &access_log(&log),
            routes,
            clusters: "",
        },
    ));
    let mut stream = proxy.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    soon("request at the backend", arrived.notified()).await;
    drop(stream);
    soon("log line", async {
        loop {
            proxy.engine.flush_logs();
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if !text.is_empty() {
                assert_eq!(text, "GET 0 DC downstream_remote_disconnect 0 0 backend\n");
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_cluster_gives_its_idle_connections_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = plain(listener.local_addr().unwrap());
    let proxy = Proxy::start(&bootstrap);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let count = stream.read(&mut head).await.unwrap();
        assert!(count > 0);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream.read(&mut head).await.unwrap()
    });
    let answer = proxy
        .raw(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let again = static_resources("test", &bootstrap).unwrap();
    let errors = proxy.engine.apply(Change {
        clusters: again.clusters,
        ..Change::default()
    });
    assert!(errors.is_empty(), "{errors:?}");
    let read = soon("the end of the connection", serving).await.unwrap();
    assert_eq!(read, 0, "nothing but the end comes on an idle connection");
    proxy.stop().await;
}
