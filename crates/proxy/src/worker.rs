//! A worker: one thread, one current-thread runtime, its own accept loops and connection pools.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meltemi_upstream::pool::{Pools, SWEEP_INTERVAL};
use meltemi_upstream::stream::Socket;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::accept;
use crate::listener::{Bound, BoundAddress, BoundSocket};
use crate::state::{Drain, Shared};

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
pub(crate) struct Served(Rc<Worker>);

impl Served {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.shared.stats.connection_opened();
        Self(Rc::clone(worker))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.shared.stats.connection_closed();
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
        let pools = Pools::new(shared.sockets);
        let worker = Rc::new(Worker {
            shared,
            pools,
            index,
            connections: std::cell::Cell::new(0),
        });
        tokio::task::spawn_local(sweep(Rc::clone(&worker)));
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
    match bound.sockets.get(worker.index).ok_or_else(missing)? {
        BoundSocket::Tcp(listener) => {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            Ok(tokio::task::spawn_local(accept_tcp(
                worker, listener, address,
            )))
        }
        BoundSocket::Unix(listener) => {
            let listener = UnixListener::from_std(listener.try_clone()?)?;
            Ok(tokio::task::spawn_local(accept_unix(
                worker, listener, address,
            )))
        }
    }
}

async fn accept_tcp(worker: Rc<Worker>, listener: TcpListener, address: BoundAddress) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let owner = worker.shared.listeners.look().owner(&address).cloned();
                let Some(owner) = owner else { continue };
                if !owner.config.ignore_global_limit && !worker.shared.stats.admits_connection() {
                    continue;
                }
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "client left before it was served");
                    continue;
                }
                let served = Served::new(&worker);
                tokio::task::spawn_local(accept::serve(
                    Rc::clone(&worker),
                    owner,
                    Socket::tcp(stream),
                    remote,
                    served,
                ));
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_unix(worker: Rc<Worker>, listener: UnixListener, address: BoundAddress) {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let owner = worker.shared.listeners.look().owner(&address).cloned();
                let Some(owner) = owner else { continue };
                if !owner.config.ignore_global_limit && !worker.shared.stats.admits_connection() {
                    continue;
                }
                let served = Served::new(&worker);
                tokio::task::spawn_local(accept::serve(
                    Rc::clone(&worker),
                    owner,
                    Socket::unix(stream),
                    nowhere,
                    served,
                ));
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::debug!(%error, "accept failed");
    // A client that reset before it was accepted is no reason to wait; anything else may repeat at once.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(ACCEPT_BACKOFF).await;
    }
}
