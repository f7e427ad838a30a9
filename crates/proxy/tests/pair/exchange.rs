//! Two sidecars tell each other who they are before the bytes of a connection (Istio's TCP metadata exchange).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::sidecars::{Hop, Pair};
use crate::support::soon;

async fn open(hop: Hop) -> (Pair, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(hop, listener.local_addr().unwrap(), "");
    let client = pair.outbound.connect().await;
    let (server, _) = soon("connection", listener.accept()).await.unwrap();
    (pair, client, server)
}

async fn hear(stream: &mut TcpStream, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    soon("bytes", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, wanted);
}

/// Waits for a line of Istio's metrics with all of these parts.
async fn metric(proxy: &crate::support::Proxy, parts: &[&str]) {
    soon("metric", async {
        loop {
            let text = proxy.engine.istio_metrics();
            let found = |line: &str| parts.iter().all(|part| line.contains(part));
            if text.lines().any(found) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_learn_who_the_other_is_and_the_ends_see_only_their_bytes() {
    let (pair, mut client, mut server) = open(Hop::Exchange).await;
    client.write_all(b"question").await.unwrap();
    hear(&mut server, b"question").await;
    server.write_all(b"an answer").await.unwrap();
    hear(&mut client, b"an answer").await;
    let opened = "istio_tcp_connections_opened_total";
    let from = "source_workload=\"client\"";
    let to = "destination_workload=\"server\"";
    metric(&pair.outbound, &[opened, from, to, "reporter=\"source\""]).await;
    metric(
        pair.inbound(),
        &[opened, from, to, "reporter=\"destination\""],
    )
    .await;
    let received = "istio_tcp_received_bytes_total";
    metric(pair.inbound(), &[received, from, to, " 8"]).await;
    drop((client, server));
    let (outbound, inbound) = pair.stop().await;
    assert_eq!(outbound, "- server 8 9\n");
    assert_eq!(inbound, "client - 8 9\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_greets_first_is_heard_and_known() {
    let (pair, mut client, mut server) = open(Hop::Exchange).await;
    server.write_all(b"hello").await.unwrap();
    hear(&mut client, b"hello").await;
    drop((client, server));
    let (outbound, inbound) = pair.stop().await;
    assert_eq!(outbound, "- server 0 5\n");
    assert_eq!(inbound, "client - 0 5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_nothing_is_served_and_unknown() {
    let (pair, mut client, mut server) = open(Hop::Mute).await;
    // Its side does not take the preamble off, as one that only negotiates the protocol.
    let mut head = [0; 8];
    soon("preamble", server.read_exact(&mut head))
        .await
        .unwrap();
    assert_eq!(head[..4], [0x3D, 0x23, 0x04, 0x67]);
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let mut message = vec![0; length as usize];
    soon("message", server.read_exact(&mut message))
        .await
        .unwrap();
    server.write_all(b"hi").await.unwrap();
    hear(&mut client, b"hi").await;
    metric(
        &pair.outbound,
        &[
            "istio_tcp_connections_opened_total",
            "source_workload=\"client\"",
            "destination_workload=\"unknown\"",
        ],
    )
    .await;
    drop((client, server));
    let (outbound, _) = pair.stop().await;
    assert_eq!(outbound, "- - 0 2\n");
}
