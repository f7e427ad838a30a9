//! HTTP/2 downstream and upstream.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Http, Proxy, backend, echo, http, plain, soon};

type Client<B> = hyper::client::conn::http2::SendRequest<B>;

async fn client<B>(proxy: &Proxy) -> Client<B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = proxy.connect().await;
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

fn to_http2(address: std::net::SocketAddr) -> String {
    plain(address).replace(
        "    connect_timeout: 1s\n",
        "    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn prior_knowledge_http2_reaches_an_http1_backend() {
    let proxy = Proxy::start(&plain(backend(echo).await));
    let mut client = client(&proxy).await;
    for number in 0..3 {
        let request = Request::get(format!("http://h/{number}"))
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = soon("response", client.send_request(request))
            .await
            .unwrap();
        assert_eq!(
            (response.status(), response.version()),
            (http::StatusCode::OK, Version::HTTP_2)
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.contains(&format!("GET /{number}")) && text.contains("host: h\n"),
            "{text}"
        );
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_reaches_an_http2_backend_with_its_body() {
    let proxy = Proxy::start(&to_http2(backend(echo).await));
    let answer = proxy
        .raw(b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("body: abc"),
        "{answer}"
    );
    assert!(answer.contains("POST http://h/x"), "{answer}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_of_an_http2_stream_run_at_once_and_trailers_pass() {
    let address = backend(|request| async {
        let body = request.into_body().map_err(|_| panic!("broken body"));
        let with_trailers = body.with_trailers(async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            Some(Ok(trailers))
        });
        Response::new(with_trailers.boxed())
    })
    .await;
    let proxy = Proxy::start(&to_http2(address));
    let (sender, receiver) =
        tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut client = client(&proxy).await;
    let request = Request::post("http://h/chat")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let responding = tokio::spawn(async move { client.send_request(request).await });
    sender
        .send(Ok(Frame::data(Bytes::from_static(b"one"))))
        .await
        .unwrap();
    let response = soon("response", responding).await.unwrap().unwrap();
    let mut answers = response.into_body();
    for word in ["one", "two", "three"] {
        let frame = soon("message", answers.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
        let next = match word {
            "one" => "two",
            "two" => "three",
            _ => break,
        };
        sender
            .send(Ok(Frame::data(Bytes::from_static(next.as_bytes()))))
            .await
            .unwrap();
    }
    drop(sender);
    let last = soon("trailers", answers.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_gets_local_replies_as_grpc_status() {
    let yaml = http(
        ([127, 0, 0, 1], 1).into(),
        &Http {
            manager: "",
            routes: "              - { match: { prefix: \"/x\" }, route: { cluster: backend } }",
            clusters: "",
        },
    );
    let proxy = Proxy::start(&yaml);
    let mut client = client(&proxy).await;
    let request = Request::post("http://h/x")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = soon("response", client.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    proxy.stop().await;
}
