//! Listener filters, limits and addresses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{Http, Proxy, backend, echo, http, plain, soon};

const SHOWN: &str = r#"              - match: { prefix: "/" }
                route: { cluster: backend, timeout: 0s }
                request_headers_to_add:
                - header: { key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS%" }
                - header: { key: x-direct, value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%" }
                - header: { key: x-local, value: "%DOWNSTREAM_LOCAL_ADDRESS%" }
                - header: { key: x-name, value: "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:name)%" }
"#;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";

/// A bootstrap with further lines of the listener.
async fn with_listener(lines: &str) -> String {
    let settings = Http {
        manager: "",
        routes: SHOWN,
        clusters: "",
    };
    let yaml = http(backend(echo).await, &settings);
    yaml.replacen(
        "    filter_chains:",
        &format!("{lines}\n    filter_chains:"),
        1,
    )
}

async fn with_proxy_protocol(settings: &str) -> Proxy {
    let lines = format!(
        r#"    listener_filters:
    - name: proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
        {settings}"#
    );
    Proxy::start(&with_listener(&lines).await)
}

fn v2(rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

#[tokio::test]
async fn a_proxy_protocol_header_replaces_the_addresses() {
    let rules = "rules: [{ tlv_type: 2, on_tlv_present: { key: name } }]";
    let proxy = with_proxy_protocol(rules).await;
    let text = b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\n".to_vec();
    let binary = v2(b"\x0a\x01\x02\x03\x0a\x04\x05\x06\x03\xe8\x07\xd0\x02\x00\x03a\xffb");
    for (header, name) in [(text, ""), (binary, "x-name: a!b\n")] {
        let answer = proxy.raw(&[header, GET.to_vec()].concat()).await;
        assert!(answer.contains("x-remote: 10.1.2.3:1000\n"), "{answer}");
        assert!(answer.contains("x-local: 10.4.5.6:2000\n"), "{answer}");
        assert!(answer.contains(name), "{answer}");
    }
    let local = [b"PROXY UNKNOWN\r\n".to_vec(), GET.to_vec()].concat();
    let answer = proxy.raw(&local).await;
    assert!(answer.contains("x-remote: 127.0.0.1:"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn without_or_with_a_broken_header_the_connection_closes() {
    let proxy = with_proxy_protocol("").await;
    for bytes in [
        GET.to_vec(),
        [
            b"PROXY TCP4 10.1.2.3 10.4.5.6 1000\r\n".to_vec(),
            GET.to_vec(),
        ]
        .concat(),
        [v2(b"\x0a\x01\x02"), GET.to_vec()].concat(),
    ] {
        let mut stream = proxy.connect().await;
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // Unread bytes make it a reset.
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn where_headers_are_optional_requests_pass_without_one() {
    let proxy = with_proxy_protocol("allow_requests_without_proxy_protocol: true").await;
    let answer = proxy.raw(GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let text = b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\n".to_vec();
    let answer = proxy.raw(&[text, GET.to_vec()].concat()).await;
    assert!(answer.contains("x-remote: 10.1.2.3:1000\n"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_version_closes_the_connection() {
    let proxy = with_proxy_protocol("disallowed_versions: [V1]").await;
    let text = b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\n".to_vec();
    let mut stream = proxy.connect().await;
    stream
        .write_all(&[text, GET.to_vec()].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    let binary = v2(b"\x0a\x01\x02\x03\x0a\x04\x05\x06\x03\xe8\x07\xd0");
    let answer = proxy.raw(&[binary, GET.to_vec()].concat()).await;
    assert!(answer.contains("x-remote: 10.1.2.3:1000\n"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn the_connection_limit_filter_refuses_what_is_too_much_for_its_chain() {
    let yaml = plain(backend(echo).await).replacen(
        "    - filters:\n",
        r#"    - filters:
      - name: limit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit
          stat_prefix: limit
          max_connections: 1
"#,
        1,
    );
    let proxy = Proxy::start(&yaml);
    let mut held = proxy.connect().await;
    held.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    soon("an answer", held.read_exact(&mut byte)).await.unwrap();
    let mut second = proxy.connect().await;
    let mut answer = Vec::new();
    let _ = soon("the end", second.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    drop(held);
    soon("room", async {
        loop {
            let mut stream = proxy.connect().await;
            let _ = stream.write_all(GET).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if answer.starts_with(b"HTTP/1.1 200") {
                return;
            }
        }
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_listener_may_have_a_path_a_name_and_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let name = format!("meltemi-test-{}", std::process::id());
    let lines = format!(
        r#"    additional_addresses:
    - address: {{ pipe: {{ path: "{}" }} }}
    - address: {{ pipe: {{ path: "@{name}" }} }}
    - address: {{ socket_address: {{ address: "::1", port_value: 0 }} }}"#,
        path.display()
    );
    let proxy = Proxy::start(&with_listener(&lines).await);
    assert!(proxy.raw(GET).await.starts_with("HTTP/1.1 200"));
    let abstract_name = {
        use std::os::linux::net::SocketAddrExt;
        std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap()
    };
    let by_name = std::os::unix::net::UnixStream::connect_addr(&abstract_name).unwrap();
    by_name.set_nonblocking(true).unwrap();
    for mut stream in [
        UnixStream::connect(&path).await.unwrap(),
        UnixStream::from_std(by_name).unwrap(),
    ] {
        stream.write_all(GET).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(proxy.engine.addresses("test").iter().any(|a| a.is_ipv6()));
    proxy.stop().await;
}

async fn asked_with(manager: &str, request: &[u8]) -> String {
    let settings = Http {
        manager,
        routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend } }",
        clusters: "",
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::start(&http(address, &settings));
    let mut client = proxy.connect().await;
    client.write_all(request).await.unwrap();
    let (mut upstream, _) = soon("the proxy", listener.accept()).await.unwrap();
    let mut seen = Vec::new();
    soon("a head", async {
        let mut byte = [0];
        while !seen.ends_with(b"\r\n\r\n") {
            upstream.read_exact(&mut byte).await.unwrap();
            seen.push(byte[0]);
        }
    })
    .await;
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nX-UpStream: 1\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer))
        .await
        .unwrap();
    proxy.stop().await;
    format!("{}{answer}", String::from_utf8(seen).unwrap())
}

#[tokio::test]
async fn header_names_are_spelt_as_configured() {
    let request = b"GET / HTTP/1.1\r\nHoSt: h\r\nX-MiXed: 1\r\nconnection: close\r\n\r\n";
    let preserve = r#"          http_protocol_options: { header_key_format: { stateful_formatter: { name: preserve_case, typed_config: { "@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig } } } }"#;
    let seen = asked_with(preserve, request).await;
    assert!(seen.contains("HoSt: h\r\n"), "{seen}");
    assert!(seen.contains("X-MiXed: 1\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
    // The upstream's codec remembers nothing.
    assert!(seen.contains("x-upstream: 1\r\n"), "{seen}");

    let proper =
        "          http_protocol_options: { header_key_format: { proper_case_words: {} } }";
    let seen = asked_with(proper, request).await;
    assert!(seen.contains("x-mixed: 1\r\n"), "{seen}");
    assert!(seen.contains("X-Upstream: 1\r\n"), "{seen}");
    assert!(seen.contains("Content-Length: 0\r\n"), "{seen}");
}

#[tokio::test]
async fn chunked_wins_over_a_length_where_that_is_allowed() {
    let request = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let allowed = "          http_protocol_options: { allow_chunked_length: true }";
    let seen = asked_with(allowed, request).await;
    assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
    assert!(!seen.contains("content-length: 99"), "{seen}");
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_cut_off() {
    let settings = Http {
        manager: "          http2_protocol_options: { connection_keepalive: { interval: 0.1s, timeout: 0.2s } }",
        routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend } }",
        clusters: "",
    };
    let proxy = Proxy::start(&http(backend(echo).await, &settings));
    let mut raw = crate::frames::Raw::open(proxy.address, &[]).await;
    let mut pings = 0;
    while let Some(frame) = raw.next().await {
        pings += u32::from(frame.kind == crate::frames::PING);
        // One answer: it goes on until the next is missing.
        if pings == 1 {
            let answer = crate::frames::frame(frame.kind, crate::frames::ACK, 0, &frame.payload);
            raw.send(&answer).await.unwrap();
        }
    }
    assert_eq!(pings, 2);
    proxy.stop().await;
}
