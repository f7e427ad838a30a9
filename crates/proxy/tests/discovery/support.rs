//! Proxies on threads of this process, and resources for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meltemi_proxy::{ProxyError, StaticConfig, run_static};
use meltemi_testkit::process::{free_port, get};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Nothing on loopback takes this long; a test that waits longer has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) async fn free() -> SocketAddr {
    loopback(free_port().await.unwrap())
}

/// Runs a proxy from a bootstrap to its end; used for bootstraps that are refused.
pub(crate) fn run(bootstrap: &Value) -> Result<(), ProxyError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.json");
    std::fs::write(&path, bootstrap.to_string()).unwrap();
    run_file(path)
}

fn run_file(path: PathBuf) -> Result<(), ProxyError> {
    run_static(StaticConfig {
        path,
        concurrency: 1,
        mark: None,
        environment: Vec::new(),
    })
}

/// A proxy that runs until it is dropped.
pub(crate) struct Proxy {
    admin: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// `bootstrap` has its admin port at `admin`.
    pub(crate) fn start(bootstrap: Value, admin: SocketAddr) -> Self {
        let thread = std::thread::spawn(move || run(&bootstrap).unwrap());
        Self {
            admin,
            thread: Some(thread),
        }
    }

    /// A counter of `/stats`.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let (_, text) = get(self.admin, "admin", "/stats").await.unwrap();
        let prefix = format!("{name}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        use std::io::{Read as _, Write as _};
        if let Ok(mut stream) = std::net::TcpStream::connect(self.admin) {
            let _ = stream.write_all(b"POST /quitquitquit HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.read(&mut [0; 64]);
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the proxy failed"
            );
        }
    }
}

/// Waits until a request is answered as wanted.
pub(crate) async fn answered(address: SocketAddr, host: &str, wanted: (u16, &str)) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let last = get(address, host, "/").await;
        if matches!(&last, Ok((status, body)) if (*status, body.as_str()) == wanted) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "wanted {wanted:?}, got {last:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers every request with this text.
pub(crate) async fn backend(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, text));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, text: &str) {
    let mut head = [0; 4096];
    while matches!(stream.read(&mut head).await, Ok(count) if count > 0) {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub(crate) fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A cluster of a discovery server.
pub(crate) fn server_cluster(name: &str, server: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": assignment(name, server)})
}

pub(crate) fn assignment(name: &str, host: SocketAddr) -> Value {
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(host)}}]}]})
}

pub(crate) fn eds_cluster(name: &str, source: &Value) -> Value {
    json!({"name": name, "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": {"eds_config": source}})
}

pub(crate) fn static_cluster(name: &str, host: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment(name, host)})
}

pub(crate) fn routes(name: &str, cluster: &str) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
}

pub(crate) fn router() -> Value {
    json!({"name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

/// A listener with routes by RDS (`source`) or in itself.
pub(crate) fn listener(name: &str, address: SocketAddr, routes: &Value) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name, "http_filters": [router()]});
    let field = if routes.get("config_source").is_some() {
        "rds"
    } else {
        "route_config"
    };
    manager[field] = routes.clone();
    json!({"name": name, "address": socket(address), "filter_chains": [
        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]})
}

pub(crate) fn bootstrap(admin: SocketAddr, clusters: &[Value], dynamic: &Value) -> Value {
    json!({"node": {"id": "n", "cluster": "c"}, "admin": {"address": socket(admin)},
        "dynamic_resources": dynamic, "static_resources": {"clusters": clusters}})
}
