//! `exec` over WebSocket: the channel protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Each binary message starts with a channel: 0 stdin, 1 stdout, 2 stderr, 3 status, 4 terminal
//! size, 255 (v5) "this channel is closed".

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meltemi_capture::spawn::{
    ExitStatus, ProcessId, ProcessSpec, SpawnerHandle, Stdio, open_terminal, resize_terminal,
};
use meltemi_kube::Task;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::query::Query;
use super::{Body, text};
use crate::kubelet::Kubelet;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Messages on their way to the caller.
const QUEUE: usize = 16;
/// After the command has ended its last output must come within this time.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The upgraded connection's answer, or why there is none.
pub(super) fn start(
    kubelet: &Arc<Kubelet>,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(runtime) = kubelet.find(namespace, pod) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {namespace}/{pod} does not run on this node"),
        );
    };
    let running = runtime.read(|state| {
        let record = state.containers.get(container)?;
        Some((record.process?, record.env.to_vec()))
    });
    let Some((process, env)) = running else {
        let message =
            format!("unable to upgrade connection: container not found (\"{container}\")");
        return text(StatusCode::NOT_FOUND, message);
    };
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        );
    }
    let wanted = Wanted {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error") && !query.flag("tty"),
        tty: query.flag("tty"),
    };
    let spec = ProcessSpec {
        argv: command,
        env: exec_environment(env, wanted.tty),
        cwd: None,
    };
    let spawner = kubelet.spawner.clone();
    upgrade(request, move |socket, protocol| async move {
        let v5 = protocol == PROTOCOLS[0];
        if let Err(error) = (Session {
            spawner,
            process,
            wanted,
            v5,
        })
        .run(socket, spec)
        .await
        {
            tracing::debug!(%error, "exec ended");
        }
    })
}

/// The container's own environment; a terminal needs a type as well.
fn exec_environment(mut env: Vec<(String, String)>, tty: bool) -> Vec<(String, String)> {
    if tty && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    env
}

/// Answers a WebSocket upgrade and runs `session` on the connection.
pub(super) fn upgrade<F, Fut>(mut request: Request<Incoming>, session: F) -> Response<Body>
where
    F: FnOnce(Socket, &'static str) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let is_websocket =
        header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let key = header("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
    let offered = header("sec-websocket-protocol").unwrap_or_default();
    let protocol = PROTOCOLS
        .into_iter()
        .find(|p| offered.split(',').any(|offer| offer.trim() == *p));
    let (Some(key), Some(protocol), true) = (key, protocol, is_websocket) else {
        let message = format!(
            "only WebSocket with one of the protocols {} is served here",
            PROTOCOLS.join(", ")
        );
        return text(StatusCode::BAD_REQUEST, message);
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None)
                        .await;
                session(socket, protocol).await;
            }
            Err(error) => tracing::debug!(%error, "exec upgrade did not complete"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert("sec-websocket-accept", key);
    }
    response
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

struct Session {
    spawner: SpawnerHandle,
    process: ProcessId,
    wanted: Wanted,
    v5: bool,
}

/// Our ends of the process's streams.
struct Streams {
    input: Option<pipe::Sender>,
    outputs: Vec<Task>,
    terminal: Option<OwnedFd>,
}

impl Session {
    async fn run(self, socket: Socket, spec: ProcessSpec) -> io::Result<()> {
        let (mut sink, source) = socket.split();
        let (send, mut queue) = mpsc::channel::<Message>(QUEUE);
        let writer = Task::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let normal = CloseFrame {
                code: CloseCode::Normal,
                reason: Default::default(),
            };
            let _ = sink.send(Message::Close(Some(normal))).await;
            let _ = sink.close().await;
        });
        let (stdio, streams) = self.streams(&send)?;
        let status = match self.spawner.exec(self.process, spec, stdio).await {
            Ok(mut running) => {
                let Streams {
                    input,
                    outputs,
                    terminal,
                } = streams;
                let incoming = receive(source, input, terminal, self.v5);
                let exit = tokio::select! {
                    exit = running.wait() => exit,
                    // The caller is gone: so is the command.
                    () = incoming => {
                        let _ = self.spawner.kill(running.id, libc::SIGKILL).await;
                        running.wait().await
                    }
                };
                for output in outputs {
                    let _ = tokio::time::timeout(LAST_OUTPUT, output.join()).await;
                }
                exit.map_or_else(|error| failure(&error.to_string()), status)
            }
            Err(error) => failure(&error.to_string()),
        };
        let _ = send
            .send(message(STATUS, status.to_string().as_bytes()))
            .await;
        drop(send);
        writer.join().await;
        Ok(())
    }

    fn streams(&self, send: &mpsc::Sender<Message>) -> io::Result<(Stdio, Streams)> {
        if self.wanted.tty {
            return self.terminal(send);
        }
        let mut stdio = Stdio::default();
        let mut streams = Streams {
            input: None,
            outputs: Vec::new(),
            terminal: None,
        };
        if self.wanted.stdin {
            let (read, write) = pipe_pair()?;
            stdio.stdin = Some(read);
            streams.input = Some(pipe::Sender::from_owned_fd(write)?);
        }
        if self.wanted.stdout {
            let (read, write) = pipe_pair()?;
            stdio.stdout = Some(write);
            streams.outputs.push(forward(
                pipe::Receiver::from_owned_fd(read)?,
                STDOUT,
                send.clone(),
            ));
        }
        if self.wanted.stderr {
            let (read, write) = pipe_pair()?;
            stdio.stderr = Some(write);
            streams.outputs.push(forward(
                pipe::Receiver::from_owned_fd(read)?,
                STDERR,
                send.clone(),
            ));
        }
        Ok((stdio, streams))
    }

    fn terminal(&self, send: &mpsc::Sender<Message>) -> io::Result<(Stdio, Streams)> {
        let (controller, terminal) = open_terminal(80, 24)?;
        set_nonblocking(&controller)?;
        let stdio = Stdio {
            stdin: Some(terminal.try_clone()?),
            stdout: Some(terminal.try_clone()?),
            stderr: Some(terminal),
            terminal: true,
            ..Stdio::default()
        };
        // A terminal's controller polls like a pipe; reading it ends with EIO when its last process has ended.
        let output = pipe::Receiver::from_owned_fd_unchecked(controller.try_clone()?)?;
        let input = pipe::Sender::from_owned_fd_unchecked(controller.try_clone()?)?;
        let streams = Streams {
            input: self.wanted.stdin.then_some(input),
            outputs: vec![forward(output, STDOUT, send.clone())],
            terminal: Some(controller),
        };
        Ok((stdio, streams))
    }
}

fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(Bytes::from(bytes))
}

fn forward(mut from: pipe::Receiver, channel: u8, send: mpsc::Sender<Message>) -> Task {
    Task::spawn(async move {
        let mut buffer = vec![0; 8192];
        while let Ok(count) = from.read(&mut buffer).await {
            if count == 0 || send.send(message(channel, &buffer[..count])).await.is_err() {
                return;
            }
        }
    })
}

/// Handles what the caller sends. Returns when the caller is gone.
async fn receive(
    mut source: SplitStream<Socket>,
    mut input: Option<pipe::Sender>,
    terminal: Option<OwnedFd>,
    v5: bool,
) {
    while let Some(Ok(received)) = source.next().await {
        let data = match received {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return,
            _ => continue,
        };
        match data.split_first() {
            Some((&STDIN, bytes)) => {
                if let Some(stream) = &mut input
                    && stream.write_all(bytes).await.is_err()
                {
                    input = None;
                }
            }
            Some((&RESIZE, size)) => {
                let size: Value = serde_json::from_slice(size).unwrap_or_default();
                let number = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
                if let (Some(fd), Some(columns), Some(rows)) =
                    (&terminal, number("Width"), number("Height"))
                {
                    let _ = resize_terminal(fd, columns, rows);
                }
            }
            Some((&CLOSE, [STDIN])) if v5 => input = None,
            _ => {}
        }
    }
}

/// The status message of an ended command, as kubectl expects it.
fn status(exit: ExitStatus) -> Value {
    if exit.code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
        "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}})
}

fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("error executing command in container: {message}")})
}
