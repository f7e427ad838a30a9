//! `tcp_proxy`: half-close, server-first protocols, large transfers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, soon};

fn bootstrap(port: u16) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: backend }}
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: backend
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
"#
    )
}

async fn pair() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&bootstrap(listener.local_addr().unwrap().port()));
    let client = proxy.connect().await;
    let (server, _) = soon("upstream connection", listener.accept())
        .await
        .unwrap();
    (proxy, client, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first() {
    let (proxy, mut client, mut server) = pair().await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    soon("greeting", client.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    drop((client, server));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_may_end_before_the_other() {
    let (proxy, mut client, mut server) = pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    soon("question", server.read_to_end(&mut question))
        .await
        .unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = Vec::new();
    soon("answer", client.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"answer");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bytes_arrive_in_order() {
    const SIZE: usize = 32 << 20;
    let (proxy, mut client, mut server) = pair().await;
    let writer = tokio::spawn(async move {
        let data: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut data = Vec::new();
    soon("data", server.read_to_end(&mut data)).await.unwrap();
    assert_eq!(data.len(), SIZE);
    assert!(
        data.iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at % 251) as u8)
    );
    drop(writer.await.unwrap());
    proxy.stop().await;
}
