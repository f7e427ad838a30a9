//! An engine from a bootstrap text, backends, and raw clients.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_proxy::{Engine, EngineOptions, NodeIdentity, static_resources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing on loopback takes this long; a test that waits longer has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A running engine and where it listens.
pub(crate) struct Proxy {
    pub(crate) engine: Engine,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// Starts an engine from a bootstrap whose first listener is called `test` and has port 0.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_as(yaml, NodeIdentity::default())
    }

    /// The same as a node that says who it is.
    pub(crate) fn start_as(yaml: &str, node: NodeIdentity) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let engine = Engine::start(EngineOptions {
            concurrency: 1,
            node,
            ..EngineOptions::default()
        })
        .unwrap();
        let errors = engine.apply(static_resources("test", yaml).unwrap());
        assert!(errors.is_empty(), "{errors:?}");
        engine.set_live();
        let address = engine.addresses("test")[0];
        Self { engine, address }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon("connect", TcpStream::connect(self.address))
            .await
            .unwrap()
    }

    /// Sends raw bytes on a new connection and returns all that comes back until the proxy closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        soon("answer", stream.read_to_end(&mut answer))
            .await
            .unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn stop(self) {
        self.engine
            .stop(Duration::ZERO, Duration::from_millis(100))
            .await;
    }
}

/// A hyper server that speaks both HTTP versions.
pub(crate) async fn backend<H, F>(handler: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Answers with method, path and all request headers, one on each line, then the body.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
    }
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    text.push_str(&format!("body: {}\n", String::from_utf8_lossy(&body)));
    Response::new(full(text))
}

/// What a bootstrap for one connection manager is made of.
pub(crate) struct Http<'a> {
    /// Further lines of the connection manager.
    pub(crate) manager: &'a str,
    /// Routes, one YAML flow mapping on each line.
    pub(crate) routes: &'a str,
    /// Further clusters.
    pub(crate) clusters: &'a str,
}

/// A bootstrap with one HTTP listener; the cluster `backend` leads to `address`.
pub(crate) fn http(address: SocketAddr, settings: &Http<'_>) -> String {
    let Http {
        manager,
        routes,
        clusters,
    } = settings;
    format!(
        r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
{manager}
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
{routes}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: backend
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
{clusters}
"#,
        port = address.port(),
    )
}

/// The plain case: everything goes to the backend.
pub(crate) fn plain(address: SocketAddr) -> String {
    http(
        address,
        &Http {
            manager: "",
            routes: "              - { match: { prefix: \"/\" }, route: { cluster: backend, timeout: 0s } }",
            clusters: "",
        },
    )
}

/// Lines for an access log in Istio's fields that the tests look at.
pub(crate) fn access_log(path: &std::path::Path) -> String {
    format!(
        r#"          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}
              log_format: {{ text_format_source: {{ inline_string: "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%\n" }} }}"#,
        path.display()
    )
}
