//! A server on a free port in a temporary directory, and clients for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use meltemi_apiserver::{Config, Running, start};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) state: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().expect("tempdir");
        let mut config = Config::new(state.path(), 0);
        adjust(&mut config);
        let running = start(config).await.expect("start");
        Self { running, state }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::from_state(self.state.path())
            .await
            .expect("connect")
    }

    /// What the node's controllers do for a new namespace, as far as pods need it.
    pub(crate) async fn with_default_account(self) -> Self {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let mut client = self.client().await;
        client
            .ok(
                "POST",
                "/api/v1/namespaces/default/serviceaccounts",
                Some(&account),
            )
            .await;
        self
    }

    /// Runs kubectl; `None` (with a note) where there is none.
    pub(crate) fn kubectl(&self) -> Option<Kubectl> {
        let found = Command::new("kubectl")
            .args(["version", "--client"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        if !found {
            println!("SKIPPED: kubectl not found");
            return None;
        }
        Some(Kubectl {
            kubeconfig: self.running.kubeconfig().to_owned(),
            home: self.state.path().join("home"),
        })
    }
}

/// The real kubectl against one server.
#[derive(Clone)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// What a kubectl call printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Kubectl {
    pub(crate) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.home.join("cache"))
            .args(arguments)
            .env("HOME", &self.home)
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Printed {
        self.feed(arguments, "").await
    }

    /// Runs with a manifest on standard input.
    pub(crate) async fn feed(&self, arguments: &[&str], input: &str) -> Printed {
        use tokio::io::AsyncWriteExt as _;
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
            .await
            .expect("kubectl took too long")
            .expect("kubectl ran");
        Printed {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs and expects success; returns standard output.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments).await;
        assert!(
            printed.ok,
            "kubectl {arguments:?}: {}{}",
            printed.out, printed.err
        );
        printed.out
    }

    /// Applies a manifest and expects success.
    pub(crate) async fn apply(&self, manifest: &str) -> String {
        let printed = self.feed(&["apply", "-f", "-"], manifest).await;
        assert!(printed.ok, "kubectl apply: {}{}", printed.out, printed.err);
        printed.out
    }
}

/// Credentials and address out of a kubeconfig.
struct Access {
    host: String,
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Access {
    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let config: Value = serde_saphyr::from_str(&text).ok()?;
        let decode = |v: &Value| STANDARD.decode(v.as_str()?).ok();
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let server: Uri = cluster["server"].as_str()?.parse().ok()?;
        Some(Self {
            host: server.authority()?.to_string(),
            ca: decode(&cluster["certificate-authority-data"])?,
            certificate: decode(&user["client-certificate-data"])?,
            key: decode(&user["client-key-data"])?,
        })
    }
}

/// A raw client on one HTTP/1.1 connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
    state: PathBuf,
}

async fn open(access: &Access, with_certificate: bool) -> Option<SendRequest<Full<Bytes>>> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&access.ca).ok()?)
        .ok()?;
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .ok()?
    .with_root_certificates(roots);
    let config = if with_certificate {
        let chain = vec![CertificateDer::from_pem_slice(&access.certificate).ok()?];
        builder
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&access.key).ok()?)
            .ok()?
    } else {
        builder.with_no_client_auth()
    };
    let tcp = TcpStream::connect(&access.host).await.ok()?;
    let name = ServerName::try_from("127.0.0.1").ok()?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .ok()?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .ok()?;
    tokio::spawn(connection.with_upgrades());
    Some(sender)
}

impl Client {
    /// The admin's client; `None` while the server is not up.
    pub(crate) async fn from_state(state: &Path) -> Option<Self> {
        let access = Access::read(&state.join("kubeconfig"))?;
        Some(Self {
            sender: open(&access, true).await?,
            host: access.host,
            token: None,
            state: state.to_owned(),
        })
    }

    /// A client that shows a bearer token, or nothing.
    pub(crate) async fn with_token(&self, token: Option<&str>) -> Self {
        let access = Access::read(&self.state.join("kubeconfig")).expect("kubeconfig");
        Self {
            sender: open(&access, false).await.expect("connect"),
            host: access.host,
            token: token.map(str::to_owned),
            state: self.state.clone(),
        }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("user-agent", "test/1")
            .header("content-type", media);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        request
            .body(Full::new(Bytes::from(bytes)))
            .expect("request")
    }

    /// Sends; `None` when the connection broke.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let request = self.request(method, path, body);
        self.exchange(request)
            .await
            .map(|(code, _, body)| (code, body))
    }

    /// Sends a request as it is.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Option<(u16, http::HeaderMap, Value)> {
        self.sender.ready().await.ok()?;
        let response = self.sender.send_request(request).await.ok()?;
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
        Some((code, headers, body))
    }

    /// Sends and expects 2xx.
    pub(crate) async fn ok(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (code, answer) = self.send(method, path, body).await.expect("connected");
        assert!(
            (200..300).contains(&code),
            "{method} {path}: {code} {answer}"
        );
        answer
    }

    /// Sends and expects a refusal; returns the code and the `Status`.
    pub(crate) async fn refused(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let (code, answer) = self.send(method, path, body).await.expect("connected");
        assert!(code >= 400, "{method} {path}: {code} {answer}");
        (code, answer)
    }

    /// Upgrades a connection of its own to SPDY, whatever is spoken on it then.
    pub(crate) async fn upgrade(
        &self,
        method: &str,
        path: &str,
    ) -> TokioIo<hyper::upgrade::Upgraded> {
        let access = Access::read(&self.state.join("kubeconfig")).expect("kubeconfig");
        let mut sender = open(&access, true).await.expect("connect");
        let mut request = self.request(method, path, None);
        request
            .headers_mut()
            .insert("connection", "Upgrade".parse().expect("header"));
        request
            .headers_mut()
            .insert("upgrade", "SPDY/3.1".parse().expect("header"));
        let response = sender.send_request(request).await.expect("answer");
        assert_eq!(response.status(), 101);
        TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"))
    }

    /// Opens a watch on a connection of its own.
    pub(crate) async fn watch(&mut self, path: &str) -> Watch {
        let access = Access::read(&self.state.join("kubeconfig")).expect("kubeconfig");
        let mut sender = open(&access, true).await.expect("connect");
        let response = sender
            .send_request(self.request("GET", path, None))
            .await
            .expect("watch");
        assert_eq!(response.status(), 200);
        Watch {
            body: response.into_body(),
            buffer: Vec::new(),
            _sender: sender,
        }
    }
}

/// An open watch.
pub(crate) struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
    _sender: SendRequest<Full<Bytes>>,
}

impl Watch {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(DEADLINE, self.line())
            .await
            .expect("no event in time")
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn summary(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!(
            "{} {}",
            event["type"].as_str().unwrap_or_default(),
            event["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
        )
    }
}

/// Asks again until the answer is right or the deadline passes.
pub(crate) async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    let deadline = Instant::now() + DEADLINE;
    while !check().await {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
