//! Holds many idle connections over TLS to a proxy and prints what each costs it: `idle_connections BINARY h1|h2 10000`.
//!
//! The proxy is another process, with one worker and a listener that answers by itself. Each connection carries one
//! request and stays open. Printed: bytes of resident memory for each connection, the difference to before.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Connections that are opened at the same time.
const AT_ONCE: usize = 16;
/// Longest time for the proxy to start, and for its memory to settle.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the proxy with the measurement.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

impl Proxy {
    /// Resident memory in bytes.
    fn resident(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        Ok(kilobytes.ok_or("no VmRSS")?.parse::<u64>()? * 1024)
    }
}

/// A connection that stays open.
enum Held {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments.next().ok_or("which binary?")?;
    let http2 = arguments.next().ok_or("h1 or h2?")? == "h2";
    let count: usize = arguments.next().ok_or("how many?")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(Path::new(&binary), http2, count))
}

async fn measure(binary: &Path, http2: bool, count: usize) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(directory.path().join("cert.pem"), key.cert.pem())?;
    std::fs::write(
        directory.path().join("key.pem"),
        key.signing_key.serialize_pem(),
    )?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = directory.path().join("envoy.yaml");
    std::fs::write(&config, bootstrap(directory.path(), address))?;
    let child = Command::new(binary)
        .args(["proxy", "--concurrency", "1", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .spawn()?;
    let proxy = Proxy(child);
    let connector = connector(key.cert.der().clone(), http2)?;
    let started = Instant::now();
    let mut held = loop {
        match open(&connector, address, http2).await {
            Ok(first) => break vec![first],
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let before = proxy.resident()?;
    while held.len() <= count {
        let next =
            (0..AT_ONCE.min(count + 1 - held.len())).map(|_| open(&connector, address, http2));
        for opened in futures::future::join_all(next).await {
            held.push(opened?);
        }
    }
    let after = settled(&proxy).await?;
    let each = after.saturating_sub(before) / count as u64;
    std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{each}\n"))?;
    let open = held.iter().filter(|held| held.is_open()).count();
    if open != held.len() {
        return Err(format!(
            "{} of {} connections were closed",
            held.len() - open,
            held.len()
        )
        .into());
    }
    Ok(())
}

/// Resident memory once it does not fall any more.
async fn settled(proxy: &Proxy) -> Result<u64, Failure> {
    let mut last = proxy.resident()?;
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = proxy.resident()?;
        if now >= last {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn connector(
    root: rustls::pki_types::CertificateDer<'static>,
    http2: bool,
) -> Result<TlsConnector, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Opens a connection and carries one request over it.
async fn open(connector: &TlsConnector, address: SocketAddr, http2: bool) -> Result<Held, Failure> {
    let stream = TcpStream::connect(address).await?;
    let stream = connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    let io = TokioIo::new(stream);
    let request = || {
        hyper::Request::get("https://localhost/")
            .header("host", "localhost")
            .body(Empty::new())
    };
    let (held, response) = if http2 {
        let (mut send, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(driver);
        let response = send.send_request(request()?).await?;
        (Held::Http2(send), response)
    } else {
        let (mut send, driver) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(driver);
        let response = send.send_request(request()?).await?;
        (Held::Http1(send), response)
    };
    if !response.status().is_success() {
        return Err(format!("the proxy answers {}", response.status()).into());
    }
    response.into_body().collect().await?;
    Ok(held)
}

impl Held {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(send) => !send.is_closed(),
            Self::Http2(send) => !send.is_closed(),
        }
    }
}

fn bootstrap(directory: &Path, address: SocketAddr) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: edge
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{ certificate_chain: {{ filename: "{dir}/cert.pem" }}, private_key: {{ filename: "{dir}/key.pem" }} }}]
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, direct_response: {{ status: 200, body: {{ inline_string: "hello" }} }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#,
        port = address.port(),
        dir = directory.display(),
    )
}
