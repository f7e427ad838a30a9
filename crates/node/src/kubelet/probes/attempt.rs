//! HTTP, gRPC and exec attempts.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction};
use meltemi_capture::spawn::{ProcessId, ProcessSpec, SpawnerHandle, Stdio};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Target;

/// A probe's answer is read this far, as in Kubernetes.
const BODY_LIMIT: usize = 10 << 10;

/// Runs a command in the container.
#[derive(Debug, Clone)]
pub(crate) struct ExecTarget {
    pub(crate) spawner: SpawnerHandle,
    pub(crate) process: ProcessId,
    pub(crate) env: Vec<(String, String)>,
}

impl ExecTarget {
    /// Runs `command`; exit code 0 is success, the error holds its output.
    pub(crate) async fn run(&self, command: &[String]) -> Result<(), String> {
        let spec = ProcessSpec {
            argv: command.to_vec(),
            env: self.env.clone(),
            cwd: None,
        };
        let (read, write) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| e.to_string())?;
        let stderr = write.try_clone().map_err(|error| error.to_string())?;
        let stdio = Stdio {
            stdout: Some(write),
            stderr: Some(stderr),
            ..Stdio::default()
        };
        let running = self.spawner.exec(self.process, spec, stdio).await;
        let mut running = running.map_err(|error| error.to_string())?;
        // Whoever drops this future (the timeout) must not leave the command behind.
        let mut guard = KillOnDrop {
            spawner: self.spawner.clone(),
            process: Some(running.id),
        };
        let output = tokio::spawn(read_some(read));
        let status = running.wait().await.map_err(|error| error.to_string())?;
        guard.process = None;
        if status.code == 0 {
            return Ok(());
        }
        let output = output.await.unwrap_or_default();
        Err(if output.is_empty() {
            format!("command exited with code {}", status.code)
        } else {
            output
        })
    }
}

async fn read_some(from: std::os::fd::OwnedFd) -> String {
    use tokio::io::AsyncReadExt as _;
    let Ok(reader) = tokio::net::unix::pipe::Receiver::from_owned_fd(from) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ = reader.take(BODY_LIMIT as u64).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

struct KillOnDrop {
    spawner: SpawnerHandle,
    process: Option<ProcessId>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            let spawner = self.spawner.clone();
            tokio::spawn(async move { spawner.kill(process, libc::SIGKILL).await });
        }
    }
}

impl Target {
    pub(super) async fn http(&self, get: &HTTPGetAction) -> Result<(), String> {
        let to = SocketAddr::new(self.host(get.host.as_deref())?, self.port(&get.port)?);
        let secure = get.scheme.as_deref() == Some("HTTPS");
        let path = get
            .path
            .as_deref()
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        let scheme = if secure { "https" } else { "http" };
        let in_context = |error: String| format!("Get \"{scheme}://{to}{path}\": {error}");
        let stream = self.dial(to).await.map_err(in_context)?;
        let request = request(get, to, path).map_err(in_context)?;
        let status = if secure {
            let name = ServerName::IpAddress(to.ip().into());
            let stream = connector()
                .connect(name, stream)
                .await
                .map_err(|e| in_context(e.to_string()))?;
            ask(stream, request).await
        } else {
            ask(stream, request).await
        };
        match status.map_err(in_context)? {
            200..400 => Ok(()),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }

    /// `grpc.health.v1.Health/Check` over cleartext HTTP/2.
    pub(super) async fn grpc(&self, grpc: &GRPCAction) -> Result<(), String> {
        let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port {}", grpc.port))?;
        let to = SocketAddr::new(self.address.into(), port);
        let stream = self.dial(to).await?;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let connection = meltemi_kube::Task::spawn(async move {
            let _ = connection.await;
        });
        let message = health_request(grpc.service.as_deref().unwrap_or_default());
        let request = http::Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message))
            .map_err(|error| error.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        drop(connection);
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers
            .get("grpc-status")
            .or_else(|| head.headers.get("grpc-status"));
        if status.is_some_and(|status| status != "0") {
            return Err(format!("service unhealthy (grpc status {status:?})"));
        }
        // Length-prefixed message, field 1 varint: 1 is SERVING.
        if body.to_bytes().get(5..) == Some(&[0x08, 0x01]) {
            Ok(())
        } else {
            Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned())
        }
    }
}

fn health_request(service: &str) -> Bytes {
    let length = service.len().min(127);
    let mut message = BytesMut::new();
    let field = if length == 0 { 0 } else { 2 + length };
    message.put_u8(0);
    message.put_u32(u32::try_from(field).unwrap_or(0));
    if length > 0 {
        message.put_u8(0x0a);
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(&service.as_bytes()[..length]);
    }
    message.freeze()
}

fn request(
    get: &HTTPGetAction,
    to: SocketAddr,
    path: &str,
) -> Result<http::Request<Full<Bytes>>, String> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let headers: Vec<(&str, &str)> = get
        .http_headers
        .iter()
        .flatten()
        .map(|header| (header.name.as_str(), header.value.as_str()))
        .collect();
    let has = |name: &str| {
        headers
            .iter()
            .any(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let mut request = http::Request::get(path);
    for (name, value) in [
        ("host", to.to_string()),
        ("user-agent", "kube-probe/1.36".to_owned()),
    ] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    if !has("accept") {
        request = request.header("accept", "*/*");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
        .header("connection", "close")
        .body(Full::default())
        .map_err(|error| error.to_string())
}

async fn ask<S>(stream: S, request: http::Request<Full<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = meltemi_kube::Task::spawn(async move {
        let _ = connection.await;
    });
    let answer = sender.send_request(request).await.map_err(|error| {
        match error.is_incomplete_message() {
            true => "EOF".to_owned(),
            false => error.to_string(),
        }
    })?;
    let status = answer.status().as_u16();
    let _ = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
    drop(connection);
    Ok(status)
}

/// TLS without verification: probes check life, not identity (as in Kubernetes).
fn connector() -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider
        .signature_verification_algorithms
        .supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
