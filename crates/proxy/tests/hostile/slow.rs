//! HTTP/1 clients that are slow, large or many.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::resident;
use crate::support::{Http, Proxy, backend, echo, http, plain, soon};

async fn proxy(manager: &str) -> Proxy {
    let settings = Http {
        manager,
        routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend, timeout: 0s } }",
        clusters: "",
    };
    Proxy::start(&http(backend(echo).await, &settings))
}

async fn others_are_served(proxy: &Proxy) {
    let answer = proxy
        .raw(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn heads_that_never_end_are_cut_off_and_others_are_served() {
    let proxy = proxy("          request_headers_timeout: 0.3s").await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = proxy.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: h\r\nx-slow: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    others_are_served(&proxy).await;
    for mut stream in slow {
        let mut answer = String::new();
        soon("the end", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    proxy.stop().await;
}

#[tokio::test]
async fn bodies_that_stop_are_given_up() {
    let proxy = proxy("          stream_idle_timeout: 0.3s").await;
    let answer = proxy
        .raw(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nsome")
        .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn silent_connections_are_closed_after_their_idle_time() {
    let proxy = proxy("          common_http_protocol_options: { idle_timeout: 0.3s }").await;
    assert_eq!(proxy.raw(b"").await, "");
    assert_eq!(proxy.raw(b"P").await, "");
    proxy.stop().await;
}

#[tokio::test]
async fn heads_over_the_limit_are_refused_whatever_makes_them_large() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    let before = resident();
    let line = format!("x-a: {}\r\n", "b".repeat(1000));
    let many = "x-a: b\r\n".repeat(101);
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(70_000));
    let one_line = format!(
        "GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
        "b".repeat(70_000)
    );
    for bytes in [
        format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", line.repeat(70)),
        format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n"),
        long_target,
        one_line,
        // It never ends: refused as soon as it is too long.
        format!("GET / HTTP/1.1\r\nhost: h\r\n{}", line.repeat(70)),
    ] {
        let mut stream = proxy.connect().await;
        // The proxy answers before it has read everything.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = [0; 12];
        soon("an answer", stream.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    others_are_served(&proxy).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    proxy.stop().await;
}

#[tokio::test]
async fn chunk_lines_and_trailers_have_limits() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    let head = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = "a".repeat(10_000);
    for body in [
        format!("1;{long}\r\nx\r\n0\r\n\r\n"),
        format!("1\r\nx\r\n0\r\nt: {}\r\n\r\n", "v".repeat(70_000)),
        format!("1\r\nx\r\n0\r\n{}\r\n", "t: v\r\n".repeat(200)),
        "ffffffffffffffffff\r\n".to_owned(),
    ] {
        let mut stream = proxy.connect().await;
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let mut answer = Vec::new();
        // A reset is an answer too: our bytes were not all read.
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    others_are_served(&proxy).await;
    proxy.stop().await;
}

#[tokio::test]
async fn idle_connections_hold_little_memory() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    others_are_served(&proxy).await;
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut stream = proxy.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    others_are_served(&proxy).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 400 * 48 * 1024, "{} bytes each", grown / 400);
    proxy.stop().await;
}
