//! Bodies stream: what passes through two proxies does not stay in them. A process of its own, because it measures
//! the memory of the process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod readers;
#[allow(dead_code, reason = "shared with the other tests of the proxy")]
#[path = "../proxy/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use support::{Proxy, plain, soon};

const BODY: usize = 256 << 20;
/// Both proxies (4 MiB each), and the buffers of client and server in the same process.
const MAX_GROWTH: u64 = 10 << 20;

/// One test at a time: they measure the same memory.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Bytes of this process that no file backs.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Answers a GET with a large body, and a POST with nothing after it has read all of its body.
async fn serve(mut stream: TcpStream) {
    let mut input = Vec::new();
    while !input.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        if input.starts_with(b"GET") { BODY } else { 0 }
    );
    if input.starts_with(b"GET") {
        stream.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..BODY / block.len() {
            stream.write_all(&block).await.unwrap();
        }
    } else {
        let end = input
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .unwrap()
            + 4;
        let mut left = BODY - (input.len() - end);
        let mut block = vec![0; 64 * 1024];
        while left > 0 {
            left -= stream.read(&mut block).await.unwrap();
        }
        stream.write_all(head.as_bytes()).await.unwrap();
    }
}

async fn download(proxy: &Proxy) {
    let mut stream = proxy.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut block = vec![0; 64 * 1024];
    let mut received = 0;
    loop {
        match stream.read(&mut block).await.unwrap() {
            0 => break,
            count => received += count,
        }
    }
    assert!(received > BODY);
}

async fn upload(proxy: &Proxy) {
    let mut stream = proxy.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {BODY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; 64 * 1024];
    for _ in 0..BODY / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_any_size_leaves_the_memory_of_two_proxies_as_it_was() {
    let _alone = ALONE.lock().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let near = Proxy::start(&plain(address));
    let far = Proxy::start(&plain(near.address).replace(
        "    connect_timeout: 1s\n",
        "    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
",
    ));
    let peak = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let before = resident();
    let sampler = {
        let (peak, done) = (Arc::clone(&peak), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(), Ordering::Relaxed);
                std::thread::yield_now();
            }
        })
    };
    soon("download", download(&far)).await;
    soon("upload", upload(&far)).await;
    done.store(true, Ordering::Relaxed);
    sampler.join().unwrap();
    let growth = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!("grew by {} KiB at most", growth / 1024);
    assert!(growth < MAX_GROWTH, "grew by {growth} bytes");
    far.stop().await;
    near.stop().await;
}
