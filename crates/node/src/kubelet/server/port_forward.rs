//! `portForward` over SPDY: each forwarded connection is a data and an error stream.
//!
//! Connections are made to 127.0.0.1 in the pod's network namespace, as on Kubernetes.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use meltemi_capture::netns::{NetNs, tcp_connect};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spdy::{self, Decoder, Encoder, Frame};
use super::{Body, text};
use crate::kubelet::Kubelet;

const PROTOCOL: &str = "portforward.k8s.io";
/// Frames on their way to the caller, and to each connection.
const QUEUE: usize = 32;
/// Connections of one session at a time.
const CONNECTIONS: usize = 256;
/// Dialling takes at most this long.
const DIAL: Duration = Duration::from_secs(10);
/// A connection that takes no bytes for this long is given up, since it holds up the others.
const STUCK: Duration = Duration::from_secs(30);

/// The upgraded connection's answer, or why there is none.
pub(super) fn start(
    kubelet: &Arc<Kubelet>,
    (namespace, pod): (&str, &str),
    mut request: Request<Incoming>,
) -> Response<Body> {
    let netns = kubelet
        .find(namespace, pod)
        .and_then(|runtime| runtime.read(|state| state.netns.clone()));
    let Some(netns) = netns else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {namespace}/{pod} does not run on this node"),
        );
    };
    let upgrade = request
        .headers()
        .get("upgrade")
        .and_then(|value| value.to_str().ok());
    if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case("SPDY/3.1")) {
        return text(
            StatusCode::BAD_REQUEST,
            "port-forward is served over SPDY/3.1",
        );
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                if let Err(error) = session(TokioIo::new(upgraded), netns).await {
                    tracing::debug!(%error, "port-forward ended");
                }
            }
            Err(error) => tracing::debug!(%error, "port-forward upgrade did not complete"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    headers.insert(
        "x-stream-protocol-version",
        HeaderValue::from_static(PROTOCOL),
    );
    response
}

/// What the session knows of its streams.
struct Session {
    netns: NetNs,
    send: mpsc::Sender<Vec<u8>>,
    encoder: Encoder,
    /// Error streams by request, until their data stream comes.
    errors: HashMap<String, u32>,
    /// Where the bytes of data streams go.
    inputs: HashMap<u32, mpsc::Sender<Vec<u8>>>,
    connections: JoinSet<()>,
}

async fn session<S>(stream: S, netns: NetNs) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (send, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let output = meltemi_kube::Task::spawn(async move {
        while let Some(frame) = queue.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    let mut session = Session {
        netns,
        send,
        encoder: Encoder::default(),
        errors: HashMap::new(),
        inputs: HashMap::new(),
        connections: JoinSet::new(),
    };
    let mut decoder = Decoder::new();
    let mut head = [0u8; spdy::HEAD];
    // Whatever ends the reading ends the session: connections are aborted with `session`.
    while reader.read_exact(&mut head).await.is_ok() {
        let length = spdy::payload_length(&head).map_err(io::Error::other)?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        let frame = decoder.decode(&head, &payload).map_err(io::Error::other)?;
        if frame == Frame::GoAway {
            break;
        }
        session.handle(frame).await?;
    }
    drop(session);
    drop(output);
    Ok(())
}

impl Session {
    async fn handle(&mut self, frame: Frame) -> io::Result<()> {
        while self.connections.try_join_next().is_some() {}
        match frame {
            Frame::Open { stream, headers } => self.open(stream, &headers).await?,
            Frame::Data { stream, bytes, end } => {
                if let Some(input) = self.inputs.get(&stream) {
                    let sent = tokio::time::timeout(STUCK, input.send(bytes)).await;
                    if end || !matches!(sent, Ok(Ok(()))) {
                        self.inputs.remove(&stream);
                    }
                }
            }
            Frame::Reset { stream } => {
                self.inputs.remove(&stream);
            }
            Frame::Ping(id) => self.send(spdy::pong(id)).await?,
            Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    async fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        self.send
            .send(frame)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)]) -> io::Result<()> {
        let header = |name: &str| {
            let found = headers
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let accepted = self.encoder.accept(stream);
        self.send(accepted).await?;
        let request = header("requestid").to_owned();
        if header("streamtype") == "error" {
            if self.errors.len() < CONNECTIONS {
                self.errors.insert(request, stream);
            }
            return Ok(());
        }
        let error = self.errors.remove(&request).unwrap_or(stream);
        let (input, bytes) = mpsc::channel(QUEUE);
        self.inputs.insert(stream, input);
        let port = header("port").parse().unwrap_or(0);
        let connection = Connection {
            data: stream,
            error,
            port,
            send: self.send.clone(),
        };
        if self.connections.len() >= CONNECTIONS {
            return connection.fail("too many connections").await;
        }
        self.connections
            .spawn(connection.run(self.netns.clone(), bytes));
        Ok(())
    }
}

struct Connection {
    data: u32,
    error: u32,
    port: u16,
    send: mpsc::Sender<Vec<u8>>,
}

impl Connection {
    async fn run(self, netns: NetNs, mut bytes: mpsc::Receiver<Vec<u8>>) {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = match tokio::time::timeout(DIAL, tcp_connect(&netns, target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return drop(self.fail(&error.to_string()).await),
            Err(_) => return drop(self.fail("timed out").await),
        };
        let (mut reader, mut writer) = stream.into_split();
        let inwards = async {
            while let Some(bytes) = bytes.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        };
        let outwards = async {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let count = reader.read(&mut buffer).await.unwrap_or(0);
                let frame = spdy::data(self.data, &buffer[..count], count == 0);
                if self.send.send(frame).await.is_err() || count == 0 {
                    return;
                }
            }
        };
        // The server's end ends the connection, as the client may keep its side open for ever.
        tokio::pin!(inwards, outwards);
        tokio::select! {
            () = &mut outwards => {}
            () = &mut inwards => outwards.await,
        }
        let _ = self.send.send(spdy::data(self.error, &[], true)).await;
    }

    /// Says on the error stream why there is no connection, and ends both streams.
    async fn fail(&self, reason: &str) -> io::Result<()> {
        let text = format!(
            "failed to connect to localhost:{} inside the pod: {reason}",
            self.port
        );
        for frame in [
            spdy::data(self.error, text.as_bytes(), true),
            spdy::data(self.data, &[], true),
        ] {
            self.send
                .send(frame)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}
