//! Connection limits and the overload manager.

use std::time::Duration;

use meltemi_proxy::EngineOptions;
use meltemi_traffic::overload::{Action, ActionKind, Monitor, OverloadManager, Trigger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::start_with;
use crate::support::{Proxy, backend, echo, plain, soon};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

/// Reads until the answer's head is there; empty when the connection closed.
async fn head(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    soon("an answer", async {
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => answer.push(byte[0]),
                _ => break,
            }
        }
    })
    .await;
    String::from_utf8(answer).unwrap()
}

async fn ask(proxy: &Proxy) -> (TcpStream, String) {
    let mut stream = proxy.connect().await;
    // One that is refused may be closed by now.
    let _ = stream.write_all(GET).await;
    let answer = head(&mut stream).await;
    (stream, answer)
}

/// Asks until the answer is as wanted: what counts connections learns of their end a little later.
async fn until(proxy: &Proxy, what: &str, wanted: impl Fn(&str) -> bool) {
    soon(what, async {
        loop {
            if wanted(&ask(proxy).await.1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_over_the_limit_of_the_process_are_closed_and_room_is_used_again() {
    let yaml = plain(backend(echo).await);
    let options = EngineOptions {
        max_connections: Some(3),
        ..EngineOptions::default()
    };
    let proxy = start_with(&yaml, options);
    let mut held = Vec::new();
    for _ in 0..3 {
        let (stream, answer) = ask(&proxy).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        held.push(stream);
    }
    for _ in 0..50 {
        assert_eq!(ask(&proxy).await.1, "");
    }
    for stream in &mut held {
        stream.write_all(GET).await.unwrap();
        // What is left of the body before comes first.
        assert!(head(stream).await.contains("HTTP/1.1 200"));
    }
    held.pop();
    until(&proxy, "room", |answer| answer.starts_with("HTTP/1.1 200")).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_listener_has_a_limit_of_its_own() {
    let yaml = plain(backend(echo).await);
    let options = EngineOptions {
        listener_limits: vec![("test".into(), 1), ("other".into(), 0)],
        ..EngineOptions::default()
    };
    let proxy = start_with(&yaml, options);
    let (held, answer) = ask(&proxy).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(ask(&proxy).await.1, "");
    drop(held);
    until(&proxy, "room", |answer| answer.starts_with("HTTP/1.1 200")).await;
    proxy.stop().await;
}

fn under_pressure(kind: ActionKind) -> EngineOptions {
    EngineOptions {
        overload: Some(OverloadManager {
            refresh: Duration::from_millis(10),
            // Any process occupies more than one byte.
            monitors: vec![Monitor {
                name: "heap".into(),
                max_heap: 1,
            }],
            actions: vec![Action {
                kind,
                triggers: vec![(0, Trigger::Threshold(0.95))],
            }],
        }),
        ..EngineOptions::default()
    }
}

#[tokio::test]
async fn requests_are_refused_when_memory_runs_out() {
    let yaml = plain(backend(echo).await);
    let proxy = start_with(&yaml, under_pressure(ActionKind::StopAcceptingRequests));
    until(&proxy, "pressure", |answer| {
        answer.starts_with("HTTP/1.1 503")
    })
    .await;
    let mut stream = proxy.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.ends_with("envoy overloaded"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn connections_end_after_their_answer_when_keep_alive_is_off() {
    let yaml = plain(backend(echo).await);
    let proxy = start_with(&yaml, under_pressure(ActionKind::DisableKeepalive));
    until(&proxy, "pressure", |answer| {
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close")
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn connections_are_rejected_or_left_waiting_as_configured() {
    let yaml = plain(backend(echo).await);
    let proxy = start_with(&yaml, under_pressure(ActionKind::RejectConnections));
    until(&proxy, "pressure", str::is_empty).await;
    proxy.stop().await;

    let proxy = start_with(&yaml, under_pressure(ActionKind::StopAcceptingConnections));
    soon("pressure", async {
        loop {
            let mut stream = proxy.connect().await;
            stream.write_all(GET).await.unwrap();
            let mut byte = [0];
            let waited = Duration::from_millis(200);
            if tokio::time::timeout(waited, stream.read(&mut byte))
                .await
                .is_err()
            {
                return;
            }
        }
    })
    .await;
    proxy.stop().await;
}
