//! What is no request and response: upgrades and plain bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::sidecars::{ALL, Hop, Pair};
use crate::support::soon;

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut have = Vec::new();
    while !have.ends_with(end) {
        let count = soon("bytes", stream.read_buf(&mut have)).await.unwrap();
        assert!(count > 0, "ended: {}", String::from_utf8_lossy(&have));
    }
    have
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_both_sidecars() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(Hop::Same, listener.local_addr().unwrap(), ALL);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_until(&mut stream, b"\r\n\r\n").await;
        let head = String::from_utf8_lossy(&head).to_lowercase();
        for part in [
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
        ] {
            assert!(head.contains(part), "{head}");
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // The server speaks unasked, then echoes until the client is done.
        stream.write_all(b"\x81\x05hello").await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut client = pair.outbound.connect().await;
    client
        .write_all(b"GET /chat HTTP/1.1\r\nHost: server.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await
        .unwrap();
    let start = read_until(&mut client, b"\x81\x05hello").await;
    let start = String::from_utf8_lossy(&start).to_lowercase();
    assert!(start.starts_with("http/1.1 101 "), "{start}");
    assert!(
        start.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{start}"
    );
    for frame in [&b"\x81\x82abcd\x00\x00"[..], b"\x81\x83abcd\x01\x02\x03"] {
        client.write_all(frame).await.unwrap();
        assert_eq!(read_until(&mut client, frame).await, frame);
    }
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("end", client.read_to_end(&mut rest)).await.unwrap();
    soon("server", server).await.unwrap();
    drop(client);
    let (outbound, inbound) = pair.stop().await;
    for log in [outbound, inbound] {
        assert!(log.starts_with("GET /chat HTTP/1.1 101 "), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}

/// Both ends of a byte stream through two sidecars.
async fn tcp() -> (Pair, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::start(Hop::Tcp, listener.local_addr().unwrap(), "");
    let client = pair.outbound.connect().await;
    let (server, _) = soon("connection", listener.accept()).await.unwrap();
    (pair, client, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_greets_first_is_heard() {
    let (pair, mut client, mut server) = tcp().await;
    server.write_all(b"5.7.44-log\0").await.unwrap();
    assert_eq!(read_until(&mut client, b"\0").await, b"5.7.44-log\0");
    client.write_all(b"login\0").await.unwrap();
    assert_eq!(read_until(&mut server, b"\0").await, b"login\0");
    drop((client, server));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_all_still_hears_the_answer() {
    let (pair, mut client, mut server) = tcp().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    soon("question", server.read_to_end(&mut question))
        .await
        .unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"a long answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon("answer", client.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"a long answer");
    drop((client, server));
    let (outbound, inbound) = pair.stop().await;
    for log in [outbound, inbound] {
        assert!(log.contains(" 8 13 ") && log.lines().count() == 1, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_said_all_still_hears_the_client() {
    let (pair, mut client, mut server) = tcp().await;
    server.write_all(b"banner").await.unwrap();
    server.shutdown().await.unwrap();
    let mut banner = Vec::new();
    soon("banner", client.read_to_end(&mut banner))
        .await
        .unwrap();
    assert_eq!(banner, b"banner");
    client.write_all(b"afterthought").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("rest", server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"afterthought");
    drop((client, server));
    pair.stop().await;
}
