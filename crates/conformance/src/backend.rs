//! The upstream side: scripted servers. Each kind is a module; `Backends::start` is the list of kinds.

mod http;
mod http1;
mod http2;
pub(crate) mod rules;
mod tcp;
mod tls;

pub(crate) use http2::reason;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use indexmap::IndexMap;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::certificates::Certificates;
use crate::client::wire::Duplex;
use crate::place::Place;
use crate::record::Recorder;

/// A backend as a case writes it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Spec {
    /// What it speaks.
    pub(crate) kind: Kind,
    /// Listens on `${SOCKET:name}` instead of a port.
    pub(crate) unix: bool,
    /// Address to listen on; 127.0.0.1 when absent.
    pub(crate) address: Option<IpAddr>,
    /// TLS; absent is plain text.
    pub(crate) tls: Option<tls::Spec>,
    /// Starts stopped; a step starts it.
    pub(crate) stopped: bool,
    /// HTTP: how requests are answered; the first rule that fits.
    pub(crate) responses: Vec<rules::Rule>,
    /// TCP: what happens on a connection; the n-th connection gets the n-th script, the last one is kept.
    pub(crate) scripts: Vec<Vec<tcp::Turn>>,
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// HTTP/1, and HTTP/2 when the connection starts with its preface or ALPN says so; gRPC rides on it.
    #[default]
    Http,
    /// Bytes by a script.
    Tcp,
    /// Accepts and never says anything.
    Silent,
    /// Nobody listens.
    Refused,
}

/// What a connection's handler needs.
pub(crate) struct Server {
    /// Name in the case.
    pub(crate) name: String,
    /// As written.
    pub(crate) spec: Mutex<Spec>,
    /// How often each rule was used.
    pub(crate) used: Mutex<Vec<u32>>,
    /// Attempts of each `x-id`.
    pub(crate) attempts: Mutex<std::collections::HashMap<String, usize>>,
    /// Connections so far.
    pub(crate) connections: std::sync::atomic::AtomicU32,
    /// The side's record.
    pub(crate) recorder: Recorder,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
}

struct Running {
    server: Arc<Server>,
    address: Listen,
    /// Accepting and every connection; dropped to stop.
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

enum Listen {
    Tcp(SocketAddr),
    Unix(std::path::PathBuf),
}

/// All backends of one side.
pub(crate) struct Backends {
    running: BTreeMap<String, Running>,
    /// What they got.
    pub(crate) recorder: Recorder,
}

impl Backends {
    /// Starts them.
    pub(crate) async fn start(
        specs: &IndexMap<String, Spec>,
        place: &mut Place,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let mut all = Self {
            running: BTreeMap::new(),
            recorder: Recorder::default(),
        };
        for (name, spec) in specs {
            let address = if spec.unix {
                Listen::Unix(place.socket(name))
            } else {
                let ip = spec.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
                Listen::Tcp(SocketAddr::new(ip, place.port(&format!("BACKEND:{name}"))?))
            };
            let server = Arc::new(Server {
                name: name.clone(),
                spec: Mutex::new(spec.clone()),
                used: Mutex::default(),
                attempts: Mutex::default(),
                connections: Default::default(),
                recorder: all.recorder.clone(),
                acceptor: spec
                    .tls
                    .as_ref()
                    .map(|tls| tls.acceptor(certificates))
                    .transpose()?,
            });
            let running = Running {
                server,
                address,
                task: Mutex::new(None),
            };
            if !spec.stopped && spec.kind != Kind::Refused {
                running
                    .listen()
                    .await
                    .with_context(|| format!("backend {name}"))?;
            }
            all.running.insert(name.clone(), running);
        }
        Ok(all)
    }

    fn get(&self, name: &str) -> anyhow::Result<&Running> {
        self.running
            .get(name)
            .with_context(|| format!("no backend {name:?}"))
    }

    /// Stops listening and closes every connection.
    pub(crate) async fn stop(&self, name: &str) -> anyhow::Result<()> {
        let task = self.get(name)?.task.lock().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        Ok(())
    }

    /// Listens again.
    pub(crate) async fn listen(&self, name: &str) -> anyhow::Result<()> {
        self.get(name)?.listen().await
    }

    /// Answers by other rules from now on.
    pub(crate) fn set_responses(&self, name: &str, rules: Vec<rules::Rule>) -> anyhow::Result<()> {
        let running = self.get(name)?;
        running.server.spec.lock().responses = rules;
        running.server.used.lock().clear();
        Ok(())
    }

    /// Ends all of them, also their connections.
    pub(crate) async fn end(self) {
        for running in self.running.values() {
            let task = running.task.lock().take();
            if let Some(task) = task {
                task.abort();
                let _ = task.await;
            }
        }
    }
}

impl Running {
    async fn listen(&self) -> anyhow::Result<()> {
        let server = Arc::clone(&self.server);
        let task = match &self.address {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                tokio::spawn(accept_tcp(listener, server))
            }
            Listen::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path)?;
                tokio::spawn(accept_unix(listener, server))
            }
        };
        *self.task.lock() = Some(task);
        Ok(())
    }
}

async fn accept_tcp(listener: TcpListener, server: Arc<Server>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        server.recorder.local_port(peer.port());
        connections.spawn(serve(Box::new(stream), Arc::clone(&server)));
        while connections.try_join_next().is_some() {}
    }
}

async fn accept_unix(listener: UnixListener, server: Arc<Server>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(Box::new(stream), Arc::clone(&server)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(io: Box<dyn Duplex>, server: Arc<Server>) {
    let number = 1 + server
        .connections
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (io, facts) = match &server.acceptor {
        None => (io, serde_json::Value::Null),
        Some(acceptor) => match tls::accept(acceptor, io).await {
            Some(secured) => secured,
            None => return,
        },
    };
    let kind = server.spec.lock().kind;
    match kind {
        Kind::Http => http::serve(io, &server, number, facts).await,
        Kind::Tcp => tcp::serve(io, &server, number, facts).await,
        Kind::Silent | Kind::Refused => {
            let _held = io;
            std::future::pending::<()>().await;
        }
    }
}
