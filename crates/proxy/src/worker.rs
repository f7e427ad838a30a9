//! A worker: one thread, one current-thread runtime, its own accept loops and connection pools.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meltemi_upstream::clock;
use meltemi_upstream::pool::{Pools, SWEEP_INTERVAL};
use meltemi_upstream::stream::{DetachedSocket, Socket};
use parking_lot::Mutex;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::accept;
use crate::limit::Slot;
use crate::listener::{Bound, BoundAddress, BoundSocket, ListenerRuntime};
use crate::state::{Drain, Shared};
use crate::stats::count;

/// Pause after accept failed for lack of descriptors or memory, so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What the tasks of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The process.
    pub shared: Arc<Shared>,
    /// Upstream connections of this worker.
    pub pools: Rc<Pools>,
    /// Position among the workers.
    pub index: usize,
    /// Connections that are served now.
    pub connections: std::cell::Cell<usize>,
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Served {
    worker: Rc<Worker>,
    _slot: Option<Slot>,
}

impl Served {
    fn new(worker: &Rc<Worker>, slot: Option<Slot>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.shared.stats.connection_opened();
        worker.shared.inboxes.opened(worker.index);
        Self {
            worker: Rc::clone(worker),
            _slot: slot,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.connections.set(worker.connections.get() - 1);
        worker.shared.stats.connection_closed();
        worker.shared.inboxes.closed(worker.index);
    }
}

/// Runs a worker until the process ends; call on its own thread.
///
/// # Errors
/// When the runtime cannot be made.
pub(crate) fn run(shared: Arc<Shared>, index: usize) -> io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let pools = Pools::new(shared.sockets, shared.identity.preamble.clone());
        let worker = Rc::new(Worker {
            shared,
            pools,
            index,
            connections: std::cell::Cell::new(0),
        });
        tokio::task::spawn_local(sweep(Rc::clone(&worker)));
        tokio::task::spawn_local(take_over(Rc::clone(&worker)));
        if index == 0 {
            tokio::task::spawn_local(crate::export::run(Rc::clone(&worker)));
        }
        supervise(worker).await;
    });
    runtime.shutdown_background();
    Ok(())
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        worker.pools.sweep();
    }
}

/// Serves what other workers accepted for this one.
async fn take_over(worker: Rc<Worker>) {
    let Some(mut inbox) = worker.shared.inboxes.open(worker.index) else {
        return;
    };
    while let Some(handed) = inbox.recv().await {
        match handed.socket.adopt() {
            Ok(socket) => serve(&worker, handed.owner, socket, handed.remote, handed.slot),
            Err(error) => tracing::debug!(%error, "connection not taken over"),
        }
    }
}

/// Keeps one accept loop for each bound address; ends when the process does.
async fn supervise(worker: Rc<Worker>) {
    let mut changed = worker.shared.listeners.changed();
    let mut drain = worker.shared.drain();
    let mut loops: HashMap<BoundAddress, JoinHandle<()>> = HashMap::new();
    while *drain.borrow_and_update() < Drain::Closing {
        changed.borrow_and_update();
        let table = worker.shared.listeners.table();
        loops.retain(|address, task| {
            let stays = table
                .bound
                .iter()
                .any(|(bound, _)| bound.address == *address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (bound, _) in &table.bound {
            if !loops.contains_key(&bound.address) {
                match accept_loop(&worker, bound) {
                    Ok(task) => {
                        loops.insert(bound.address.clone(), task);
                    }
                    Err(error) => {
                        tracing::error!(address = ?bound.address, %error, "cannot accept")
                    }
                }
            }
        }
        drop(table);
        tokio::select! {
            biased;
            _ = drain.changed() => {}
            _ = changed.changed() => {}
        }
    }
    for task in loops.into_values() {
        task.abort();
    }
    // Running connections end by themselves; the process decides how long that may take.
    let _ = drain.wait_for(|state| *state == Drain::Forced).await;
}

fn accept_loop(worker: &Rc<Worker>, bound: &Bound) -> io::Result<JoinHandle<()>> {
    let address = bound.address.clone();
    let worker = Rc::clone(worker);
    let missing = || io::Error::other("no socket for this worker");
    let acceptor = match bound.sockets.get(worker.index).ok_or_else(missing)? {
        BoundSocket::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener.try_clone()?)?),
        BoundSocket::Unix(listener) => {
            Acceptor::Unix(UnixListener::from_std(listener.try_clone()?)?)
        }
    };
    Ok(tokio::task::spawn_local(accept_all(
        worker, acceptor, address,
    )))
}

/// A listening socket of this worker.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                // Fails only when the client is gone already; reading then tells.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "client left before it was served");
                }
                Ok((Socket::tcp(stream), remote))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::unix(stream), SocketAddr::from(([0, 0, 0, 0], 0))))
            }
        }
    }
}

async fn accept_all(worker: Rc<Worker>, acceptor: Acceptor, address: BoundAddress) {
    let listeners = &worker.shared.listeners;
    let mut paused = worker.shared.overload.paused();
    loop {
        let exempt = || {
            let owner = listeners.look().owner(&address).cloned();
            owner.is_some_and(|owner| owner.config.ignore_global_limit)
        };
        if *paused.borrow_and_update() && !exempt() {
            // The sender lives as long as the process.
            let _ = paused.wait_for(|paused| !*paused).await;
            continue;
        }
        let accepted = tokio::select! {
            biased;
            _ = paused.changed() => continue,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((socket, remote)) => {
                let owner = listeners.look().owner(&address).cloned();
                let Some(owner) = owner else { continue };
                take(&worker, owner, socket, remote);
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Serves a connection here, or hands it to the worker that has the fewest.
fn take(worker: &Rc<Worker>, owner: Arc<ListenerRuntime>, socket: Socket, remote: SocketAddr) {
    let shared = &worker.shared;
    let counters = &owner.stats.counters;
    if !owner.config.ignore_global_limit {
        if !shared.stats.admits_connection() {
            return count(&counters.global_overflow);
        }
        if shared.overload.rejects_connection() {
            return count(&counters.cx_overload);
        }
    }
    let slot = match &owner.limit {
        None => None,
        Some(limit) => match limit.take() {
            Some(slot) => Some(slot),
            None => return count(&counters.cx_overflow),
        },
    };
    if owner.config.exact_balance
        && let Some(other) = shared.inboxes.idlest(worker.index)
    {
        other.hand_over(owner, socket, remote, slot);
        return;
    }
    serve(worker, owner, socket, remote, slot);
}

fn serve(
    worker: &Rc<Worker>,
    owner: Arc<ListenerRuntime>,
    socket: Socket,
    remote: SocketAddr,
    slot: Option<Slot>,
) {
    let served = Served::new(worker, slot);
    let connection = accept::serve(Rc::clone(worker), owner, socket, remote, served);
    tokio::task::spawn_local(clock::in_turns(connection));
}

async fn accept_failed(error: &io::Error) {
    tracing::debug!(%error, "accept failed");
    // A client that reset before it was accepted is no reason to wait; anything else may repeat at once.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(ACCEPT_BACKOFF).await;
    }
}

/// Connections that wait for their worker at most.
const INBOX: usize = 1024;

/// A connection on its way to another worker.
#[derive(Debug)]
struct Handed {
    owner: Arc<ListenerRuntime>,
    socket: DetachedSocket,
    remote: SocketAddr,
    slot: Option<Slot>,
}

/// The workers as connections are spread over them (`exact_balance`).
#[derive(Debug, Default)]
pub(crate) struct Inboxes(Vec<Inbox>);

#[derive(Debug)]
struct Inbox {
    connections: AtomicUsize,
    sender: mpsc::Sender<Handed>,
    receiver: Mutex<Option<mpsc::Receiver<Handed>>>,
}

impl Inboxes {
    pub(crate) fn new(workers: usize) -> Self {
        let inbox = |_| {
            let (sender, receiver) = mpsc::channel(INBOX);
            Inbox {
                connections: AtomicUsize::new(0),
                sender,
                receiver: Mutex::new(Some(receiver)),
            }
        };
        Self((0..workers).map(inbox).collect())
    }

    fn open(&self, index: usize) -> Option<mpsc::Receiver<Handed>> {
        self.0.get(index)?.receiver.lock().take()
    }

    fn opened(&self, index: usize) {
        if let Some(inbox) = self.0.get(index) {
            inbox.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn closed(&self, index: usize) {
        if let Some(inbox) = self.0.get(index) {
            inbox.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The worker with the fewest connections, when that is not this one.
    fn idlest(&self, this: usize) -> Option<&Inbox> {
        let count = |inbox: &Inbox| inbox.connections.load(Ordering::Relaxed);
        let here = count(self.0.get(this)?);
        let other = self.0.iter().min_by_key(|inbox| count(inbox))?;
        (count(other) < here).then_some(other)
    }
}

impl Inbox {
    fn hand_over(
        &self,
        owner: Arc<ListenerRuntime>,
        socket: Socket,
        remote: SocketAddr,
        slot: Option<Slot>,
    ) {
        let handed = socket.detach().map(|socket| Handed {
            owner,
            socket,
            remote,
            slot,
        });
        match handed.map(|handed| self.sender.try_send(handed)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::warn!("a worker takes no more connections"),
            Err(error) => tracing::debug!(%error, "connection not handed over"),
        }
    }
}
