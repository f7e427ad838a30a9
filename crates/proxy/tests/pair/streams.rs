//! Bodies stream: what one side sends is at the other at once, in both directions, with trailers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Mutex, mpsc};

use crate::client::{BOTH, Client, Version, answer, piece, piecewise};
use crate::sidecars::{ALL, Hop, Pair};
use crate::support::{Body, backend, full, soon};

/// A byte that is sent must be at the other end within this time.
const PROMISED: Duration = Duration::from_millis(50);
/// Bytes measured; the middle one counts, so that a busy machine does not decide.
const SAMPLES: usize = 15;

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_of_a_slow_response_passes_at_once() {
    for (version, hop) in both_hops() {
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
        let pair = Pair::start(hop, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::get("http://server.test/slow")
            .body(full(""))
            .unwrap();
        let response = soon("head", client.send(request)).await.unwrap();
        let server = soon("server", senders.recv()).await.unwrap();
        let mut body = response.into_body();
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let sent = Instant::now();
            server.send(Bytes::from_static(b"x")).await.unwrap();
            assert_eq!(piece(&mut body).await, "x");
            times.push(sent.elapsed());
        }
        assert!(middle(times.clone()) < PROMISED, "{version:?}: {times:?}");
        drop(server);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_of_a_slow_request_passes_at_once() {
    for (version, hop) in both_hops() {
        let (arrived, mut bytes) = mpsc::channel(1);
        let app = backend(move |request: Request<Incoming>| {
            let arrived = arrived.clone();
            async move {
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    if frame.is_data() {
                        arrived.send(Instant::now()).await.unwrap();
                    }
                }
                Response::new(full("all"))
            }
        })
        .await;
        let pair = Pair::start(hop, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let (server, body) = piecewise();
        let request = Request::post("http://server.test/up").body(body).unwrap();
        let responding = tokio::spawn(async move { client.send(request).await });
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let sent = Instant::now();
            server.send(Bytes::from_static(b"x")).await.unwrap();
            let arrived = soon("byte", bytes.recv()).await.unwrap();
            times.push(arrived.saturating_duration_since(sent));
        }
        assert!(middle(times.clone()) < PROMISED, "{version:?}: {times:?}");
        drop(server);
        let response = soon("answer", responding).await.unwrap().unwrap();
        assert_eq!(answer(response).await.body, "all");
        pair.stop().await;
    }
}

fn both_hops() -> [(Version, Hop); 4] {
    let [http1, http2] = BOTH;
    [
        (http1, Hop::Same),
        (http1, Hop::Http2),
        (http2, Hop::Same),
        (http2, Hop::Http2),
    ]
}

/// Answers every piece with itself, then with the trailers that gRPC ends with.
async fn grpc_echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().map_err(|_| panic!("broken body"));
    let ending = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-last", HeaderValue::from_static("word"));
        Some(Ok(trailers))
    };
    let mut response = Response::new(body.with_trailers(ending).boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// A gRPC message: no compression, length, content.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_runs_in_both_directions_and_ends_with_trailers() {
    let pair = Pair::start(Hop::Same, backend(grpc_echo).await, ALL);
    let mut client = Client::connect(&pair.outbound, Version::Http2).await;
    let (messages, body) = piecewise();
    let request = Request::post("http://server.test/echo.Echo/Chat")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = soon("head before any message", client.send(request))
        .await
        .unwrap();
    let mut answers = response.into_body();
    for word in ["one", "two", "three"] {
        messages.send(message(word)).await.unwrap();
        assert_eq!(piece(&mut answers).await, message(word));
    }
    drop(messages);
    let end = soon("trailers", answers.frame()).await.unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-last"]),
        (&"0".parse().unwrap(), &"word".parse().unwrap())
    );
    let (outbound, inbound) = pair.stop().await;
    for log in [outbound, inbound] {
        assert!(
            log.starts_with("POST /echo.Echo/Chat HTTP/2 200 - via_upstream 26 26 "),
            "{log}"
        );
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_whose_server_is_away_gets_status_14() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = nobody.local_addr().unwrap();
    drop(nobody);
    let pair = Pair::start(Hop::Same, app, ALL);
    let mut client = Client::connect(&pair.outbound, Version::Http2).await;
    let request = Request::post("http://server.test/echo.Echo/Chat")
        .header("content-type", "application/grpc")
        .body(full(message("anybody?")))
        .unwrap();
    let answer = client.call(request).await;
    assert_eq!(answer.status, 200);
    let status = answer
        .trailers
        .as_ref()
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| answer.headers.get("grpc-status"));
    assert_eq!(status.unwrap(), "14");
    let (outbound, inbound) = pair.stop().await;
    assert!(inbound.contains(" UF "), "{inbound}");
    assert_eq!((outbound.lines().count(), inbound.lines().count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_trailers_arrive() {
    let seen = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&seen);
    let app = backend(move |request: Request<Incoming>| {
        let keep = Arc::clone(&keep);
        async move {
            let collected = request.into_body().collect().await.unwrap();
            *keep.lock().await = collected.trailers().cloned();
            Response::new(full("thanks"))
        }
    })
    .await;
    let pair = Pair::start(Hop::Same, app, ALL);
    let mut client = Client::connect(&pair.outbound, Version::Http2).await;
    let ending = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("42"));
        Some(Ok(trailers))
    };
    let body = full("data").with_trailers(ending).boxed();
    let request = Request::post("http://server.test/").body(body).unwrap();
    assert_eq!(client.call(request).await.body, "thanks");
    assert_eq!(seen.lock().await.as_ref().unwrap()["x-checksum"], "42");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_through_a_reader_that_pauses() {
    const SIZE: usize = 24 << 20;
    for (version, hop) in both_hops() {
        let app = backend(|request: Request<Incoming>| async move {
            let body = request.into_body().map_err(|_| panic!("broken body"));
            Response::new(body.boxed())
        })
        .await;
        let pair = Pair::start(hop, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let (up, body) = piecewise();
        let request = Request::post("http://server.test/").body(body).unwrap();
        let sending = tokio::spawn(async move {
            let block = Bytes::from(vec![b'x'; 128 << 10]);
            for _ in 0..SIZE / block.len() {
                up.send(block.clone()).await.unwrap();
            }
        });
        let response = soon("head", client.send(request)).await.unwrap();
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(frame) = soon("frame", body.frame()).await {
            received += frame.unwrap().into_data().map_or(0, |data| data.len());
            tokio::task::yield_now().await;
        }
        assert_eq!(received, SIZE, "{version:?} {hop:?}");
        sending.await.unwrap();
        pair.stop().await;
    }
}
