//! A reader that does not read stops the writer behind the proxy, in both directions, and costs little memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, plain, soon};
use crate::{ALONE, resident};

/// Connections or streams at once.
const PEERS: usize = 16;
/// What a writer that nothing stops writes.
const MUCH: usize = 128 << 20;
/// What one of them may cost: buffers of both sides and of the test's own peers.
const EACH: u64 = 512 * 1024;
/// A write that waits this long has been stopped.
const STOPPED: Duration = Duration::from_millis(500);

static BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// Writes until it is stopped; false when it was not.
async fn is_stopped(stream: &mut TcpStream) -> bool {
    for _ in 0..MUCH / BLOCK.len() {
        match tokio::time::timeout(STOPPED, stream.write_all(&BLOCK)).await {
            Err(_) => return true,
            Ok(written) => written.unwrap(),
        }
    }
    false
}

/// What servers do with a connection: say nothing and read nothing, or write as much as they can.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Deaf,
    Loud(&'static str),
}

/// Servers whose connections last as long as the listener; the count of writers that were stopped.
async fn servers(kind: Server) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopped = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&stopped);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                if let Server::Loud(head) = kind {
                    stream.write_all(head.as_bytes()).await.unwrap();
                    if is_stopped(&mut stream).await {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (address, stopped)
}

async fn all_stopped(stopped: &AtomicU64) {
    soon("the writers stop", async {
        while stopped.load(Ordering::Relaxed) < PEERS as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn check(what: &str, before: u64) {
    let growth = resident().saturating_sub(before);
    println!("{what}: grew by {} KiB", growth / 1024);
    assert!(
        growth < PEERS as u64 * EACH,
        "{what}: grew by {growth} bytes"
    );
}

/// The bootstrap with a limit on both sides.
fn limited(yaml: &str) -> String {
    yaml.replace(
        "    filter_chains:",
        "    per_connection_buffer_limit_bytes: 32768\n    filter_chains:",
    )
    .replace(
        "    connect_timeout: 1s\n",
        "    connect_timeout: 1s\n    per_connection_buffer_limit_bytes: 32768\n",
    )
}

fn tcp(address: SocketAddr) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: test
          cluster: backend
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: backend
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}]
"#,
        address.port()
    )
}

/// Clients that ask and do not read.
async fn down(what: &str, yaml: impl Fn(SocketAddr) -> String, ask: &str, answer: &'static str) {
    let (address, stopped) = servers(Server::Loud(answer)).await;
    let proxy = Proxy::start(&yaml(address));
    let before = resident();
    let mut clients = Vec::new();
    for _ in 0..PEERS {
        let mut client = proxy.connect().await;
        client.write_all(ask.as_bytes()).await.unwrap();
        clients.push(client);
    }
    all_stopped(&stopped).await;
    check(what, before);
    drop(clients);
    proxy.stop().await;
}

/// Clients that write to servers that do not read.
async fn up(what: &str, yaml: impl Fn(SocketAddr) -> String, ask: &str) {
    let (address, _) = servers(Server::Deaf).await;
    let proxy = Proxy::start(&yaml(address));
    let before = resident();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..PEERS {
        let mut client = proxy.connect().await;
        client.write_all(ask.as_bytes()).await.unwrap();
        writers.spawn(async move { (is_stopped(&mut client).await, client) });
    }
    let mut clients = Vec::new();
    while let Some(done) = soon("a writer", writers.join_next()).await {
        let (stopped, client) = done.unwrap();
        assert!(stopped, "{what}: a writer was not stopped");
        clients.push(client);
    }
    check(what, before);
    drop(clients);
    proxy.stop().await;
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000000\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_bytes_that_do_not_read_stop_the_writer() {
    let _alone = ALONE.lock().await;
    down("tcp, down", tcp, "", "").await;
    up("tcp, up", tcp, "").await;
    down("tcp, down, limited", |to| limited(&tcp(to)), "", "").await;
    up("tcp, up, limited", |to| limited(&tcp(to)), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_http1_bodies_that_do_not_read_stop_the_writer() {
    let _alone = ALONE.lock().await;
    down("http1, down", plain, GET, ANSWER).await;
    up("http1, up", plain, POST).await;
    down(
        "http1, down, limited",
        |to| limited(&plain(to)),
        GET,
        ANSWER,
    )
    .await;
    up("http1, up, limited", |to| limited(&plain(to)), POST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http2_that_are_not_read_stop_the_writer() {
    let _alone = ALONE.lock().await;
    let (address, stopped) = servers(Server::Loud(ANSWER)).await;
    let proxy = Proxy::start(&plain(address));
    let before = resident();
    let (client, connection) = h2::client::handshake(proxy.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..PEERS {
        let request = http::Request::get("http://h/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        bodies.push(soon("a head", response).await.unwrap().into_body());
    }
    all_stopped(&stopped).await;
    check("http2, down", before);
    drop(bodies);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_http2_that_are_not_read_stop_the_writer() {
    let _alone = ALONE.lock().await;
    let (address, _) = servers(Server::Deaf).await;
    let proxy = Proxy::start(&plain(address));
    let before = resident();
    let (client, connection) = h2::client::handshake(proxy.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut sent = 0;
    let mut streams = Vec::new();
    for _ in 0..PEERS {
        let request = http::Request::post("http://h/").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        while sent < MUCH {
            stream.reserve_capacity(BLOCK.len());
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            let Ok(room) = tokio::time::timeout(STOPPED, room).await else {
                break;
            };
            let room = room.unwrap().unwrap().min(BLOCK.len());
            let piece = bytes::Bytes::from_static(&BLOCK[..room]);
            stream.send_data(piece, false).unwrap();
            sent += room;
        }
        streams.push((response, stream));
    }
    assert!(sent < MUCH, "the writer was not stopped");
    check("http2, up", before);
    drop(streams);
    proxy.stop().await;
}
