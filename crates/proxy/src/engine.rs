//! A running proxy: worker threads, background tasks, configuration, orderly end.
//!
//! The embedding interface below the roles: [`Engine::start`], [`Engine::apply`], [`Engine::stop`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use meltemi_traffic::Str;
use meltemi_traffic::cluster::Cluster;
use meltemi_traffic::endpoint::Assignment;
use meltemi_traffic::listener::{Listener, Terminal};
use meltemi_traffic::overload::OverloadManager;
use meltemi_traffic::route::RouteTable;
use meltemi_traffic::statistics::Statistics;
use meltemi_traffic::tls::Secret;
use meltemi_upstream::connect::SocketDefaults;
use tokio::task::JoinSet;

use crate::drain::Scope;
use crate::listener::{ApplyError, BoundAddress};
use crate::overload::watch_memory;
use crate::state::{Drain, NodeIdentity, ProcessFacts, Shared};
use crate::worker;

/// Poll interval while the last connections end; short against any drain time.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// How an engine is set up.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Who this proxy is.
    pub node: NodeIdentity,
    /// Workers; 0 is one for each CPU.
    pub concurrency: usize,
    /// SO_MARK of upstream connections.
    pub mark: Option<u32>,
    /// Most downstream connections of the process.
    pub max_connections: Option<u64>,
    /// Most downstream connections of a listener, by its name.
    pub listener_limits: Vec<(Str, u64)>,
    /// What is done under pressure.
    pub overload: Option<OverloadManager>,
    /// The environment that logs and tags may name.
    pub environment: Vec<(Str, Str)>,
    /// Names, labels and buckets of statistics; without it names are as Istio's bootstrap asks for.
    pub statistics: Option<Statistics>,
}

/// A change of configuration; everything in it takes effect together.
#[derive(Debug, Default)]
pub struct Change {
    /// New and changed clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Clusters that are gone.
    pub removed_clusters: Vec<Str>,
    /// Endpoint assignments.
    pub assignments: Vec<Arc<Assignment>>,
    /// New and changed routes, with the key of their references.
    pub routes: Vec<(Str, Arc<RouteTable>)>,
    /// Routes that are gone.
    pub removed_routes: Vec<Str>,
    /// Secrets.
    pub secrets: Vec<Arc<Secret>>,
    /// New and changed listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Listeners that are gone.
    pub removed_listeners: Vec<Str>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    tasks: JoinSet<()>,
}

impl Engine {
    /// Starts workers and background tasks; call inside a tokio runtime.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(options: EngineOptions) -> io::Result<Self> {
        let cpus = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let concurrency = if options.concurrency == 0 {
            cpus()
        } else {
            options.concurrency
        };
        let sockets = SocketDefaults { mark: options.mark };
        let shared = Shared::new(
            options.node,
            ProcessFacts::new(options.environment, options.statistics),
            sockets,
            concurrency,
        );
        shared.listeners.limit(&options.listener_limits);
        if let Some(max) = options.max_connections {
            shared.stats.limit_connections(max);
        }
        let mut workers = Vec::with_capacity(concurrency);
        for index in 0..concurrency {
            let shared = Arc::clone(&shared);
            let worker = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) = worker::run(shared, index) {
                        tracing::error!(%error, index, "worker could not run");
                    }
                })?;
            workers.push(worker);
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared.clusters).maintain());
        let logs = Arc::clone(&shared);
        tasks.spawn(async move { logs.logs.keep_flushed().await });
        tasks.spawn(crate::admin::keep_histograms(Arc::clone(&shared)));
        for scope in [Scope::Inbound, Scope::All] {
            tasks.spawn(crate::drain::conclude(Arc::clone(&shared), scope));
        }
        if let Some(manager) = options.overload {
            tasks.spawn(watch_memory(Arc::clone(&shared.overload), manager));
        }
        Ok(Self {
            shared,
            workers,
            tasks,
        })
    }

    /// Applies a change in the order that never lets a request meet a missing part: secrets, clusters, endpoints,
    /// routes, listeners. Returns what could not be taken into use.
    pub fn apply(&self, change: Change) -> Vec<ApplyError> {
        apply(&self.shared, change)
    }

    /// The first configuration is complete: the proxy reports itself ready.
    pub fn set_live(&self) {
        self.shared.live.store(true, Ordering::Release);
    }

    /// TCP addresses that a listener is bound to, with real ports.
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let table = self.shared.listeners.table();
        let bound = table
            .bound
            .iter()
            .filter(|(_, owner)| owner.config.name == listener);
        bound
            .filter_map(|(bound, _)| match bound.address {
                BoundAddress::Tcp(address) => Some(address),
                BoundAddress::Unix(_) => None,
            })
            .collect()
    }

    /// Istio's standard metrics as text.
    pub fn istio_metrics(&self) -> String {
        let mut out = String::new();
        self.shared.istio.render(&mut out);
        out
    }

    /// Writes waiting log lines now.
    pub fn flush_logs(&self) {
        self.shared.logs.flush();
    }

    /// Ends the proxy: responses close their connections for `drain`, then listeners and idle connections close,
    /// and after `grace` whatever still runs is cut.
    pub async fn stop(mut self, drain: Duration, grace: Duration) {
        self.shared.set_drain(Drain::Graceful);
        self.wait_until_idle(drain).await;
        self.shared.set_drain(Drain::Closing);
        self.shared.listeners.close(Scope::All);
        self.wait_until_idle(grace).await;
        self.shared.set_drain(Drain::Forced);
        for worker in self.workers.drain(..) {
            let joined = tokio::task::spawn_blocking(move || worker.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("a worker ended by panic");
            }
        }
        self.tasks.shutdown().await;
        self.shared.logs.flush();
    }

    async fn wait_until_idle(&self, limit: Duration) {
        let idle = async {
            while self.shared.stats.active() > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        let _ = tokio::time::timeout(limit, idle).await;
    }
}

/// Makes the files that a listener's logs go to.
fn open_logs(shared: &Shared, listener: &Listener) {
    shared.logs.open(&listener.access_log);
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        match &chain.terminal {
            Terminal::Http(manager) => shared.logs.open(&manager.access_log),
            Terminal::Tcp(proxy) => shared.logs.open(&proxy.access_log),
            Terminal::DirectResponse(_) | Terminal::Echo | Terminal::Close => {}
        }
    }
}

pub(crate) fn apply(shared: &Arc<Shared>, change: Change) -> Vec<ApplyError> {
    let mut errors = Vec::new();
    for secret in change.secrets {
        shared.secrets.set(secret.name.clone(), secret);
    }
    if !change.clusters.is_empty() || !change.removed_clusters.is_empty() {
        shared
            .clusters
            .apply(change.clusters, &change.removed_clusters);
    }
    let assignments: Vec<_> = change
        .assignments
        .into_iter()
        .map(|assignment| (assignment.cluster.clone(), assignment))
        .collect();
    shared.clusters.set_assignments(&assignments);
    if !change.routes.is_empty() || !change.removed_routes.is_empty() {
        shared.routes.apply(change.routes, &change.removed_routes);
    }
    if !change.listeners.is_empty() || !change.removed_listeners.is_empty() {
        for listener in &change.listeners {
            open_logs(shared, listener);
        }
        let listeners = &shared.listeners;
        errors.extend(listeners.apply(
            change.listeners,
            &change.removed_listeners,
            &shared.secrets,
        ));
    }
    errors
}
