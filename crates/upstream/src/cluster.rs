//! Clusters at run time: hosts behind one swap, circuit breakers, counters.
//!
//! A [`Cluster`] is made anew when its configuration changes, its [`ClusterState`] and the [`HostState`] of hosts that
//! stay are carried over, so breakers, counters and ejections survive updates. Everything here is shared by all
//! workers and changed through atomics or one swap.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meltemi_telemetry::istio::{Service, ServiceFacts};
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{
    Cluster as ClusterConfig, Thresholds, Transport as TransportConfig,
};
use meltemi_traffic::endpoint::{Address, Endpoint, Health, Locality};

use crate::balance::{AssignmentPolicy, HostSet};
use crate::connect::Target;
use crate::outlier::Outlier;
use crate::tls::{ClientContext, SecretStore};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A gauge shared by all workers.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicU32>);

/// Holds a [`Count`] up while it lives.
#[derive(Debug)]
pub struct Gauge(Arc<AtomicU32>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Count {
    /// Counts one more.
    pub fn enter(&self) -> Gauge {
        self.0.fetch_add(1, Ordering::Relaxed);
        Gauge(Arc::clone(&self.0))
    }

    /// Counts one more unless that exceeds `limit`.
    pub fn admit(&self, limit: u32) -> Option<Gauge> {
        let gauge = self.enter();
        (self.0.load(Ordering::Relaxed) <= limit).then_some(gauge)
    }

    /// The present value.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Circuit breaker of one priority.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    /// The limits of the present configuration.
    pub limits: Thresholds,
    /// Connections.
    pub connections: Count,
    /// Requests waiting for a connection.
    pub pending: Count,
    /// Requests running.
    pub requests: Count,
    /// Retries running.
    pub retries: Count,
}

impl Breaker {
    /// Room for one more retry: by budget when there is one, else by count.
    pub fn admit_retry(&self) -> Option<Gauge> {
        let limit = match self.limits.budget {
            None => self.limits.max_retries,
            Some(budget) => {
                let active = f64::from(self.requests.get()) + f64::from(self.pending.get());
                // A share of a u32 count stays in range; the fraction is cut on purpose.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let share = (active * budget.percent / 100.0) as u32;
                share.max(budget.min_concurrency)
            }
        };
        self.retries.admit(limit)
    }
}

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($field:ident $label:literal $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = $doc] pub $field: AtomicU64,)*
        }
        impl $name {
            /// Calls `each` with every counter's name and value.
            pub fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each($label, self.$field.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    /// Counters of a cluster, named as Envoy names them.
    ClusterStats {
        cx_total "upstream_cx_total" "Connections made.";
        cx_connect_fail "upstream_cx_connect_fail" "Connections that failed.";
        cx_connect_timeout "upstream_cx_connect_timeout" "Connections that timed out.";
        cx_overflow "upstream_cx_overflow" "Connections refused by the breaker.";
        rq_total "upstream_rq_total" "Requests sent, attempts counted.";
        rq_2xx "upstream_rq_2xx" "Responses.";
        rq_3xx "upstream_rq_3xx" "Responses.";
        rq_4xx "upstream_rq_4xx" "Responses.";
        rq_5xx "upstream_rq_5xx" "Responses.";
        rq_pending_overflow "upstream_rq_pending_overflow" "Requests refused by a breaker.";
        rq_retry "upstream_rq_retry" "Retries.";
        rq_retry_success "upstream_rq_retry_success" "Retries that helped.";
        rq_retry_overflow "upstream_rq_retry_overflow" "Retries refused by the breaker.";
        rq_retry_limit "upstream_rq_retry_limit_exceeded" "Requests whose retries were used up.";
        rq_timeout "upstream_rq_timeout" "Requests that timed out.";
        rq_per_try_timeout "upstream_rq_per_try_timeout" "Attempts that timed out.";
        rq_rx_reset "upstream_rq_rx_reset" "Streams reset by the peer.";
        rq_tx_reset "upstream_rq_tx_reset" "Streams reset by us.";
        rq_cancelled "upstream_rq_cancelled" "Requests cancelled while they waited for a connection.";
        rq_none_healthy "upstream_cx_none_healthy" "Requests that found no healthy host.";
        update_success "update_success" "Endpoint updates taken.";
        update_failure "update_failure" "Endpoint updates that failed.";
        membership_change "membership_change" "Changes of the host set.";
    }
}

impl ClusterStats {
    /// Counts a response's class.
    pub fn response(&self, status: u16) {
        let counter = match status / 100 {
            2 => &self.rq_2xx,
            3 => &self.rq_3xx,
            4 => &self.rq_4xx,
            5 => &self.rq_5xx,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What outlives a cluster's configuration.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// Breakers for default and high priority.
    breakers: [Breaker; 2],
    /// Hosts by dialled address, with all that is known of them.
    hosts: parking_lot::Mutex<HashMap<Target, Arc<HostState>>>,
}

/// A way to protect a connection, made ready to use.
#[derive(Debug)]
pub struct Transport {
    /// Part of the pool key: connections made with another context are not reused.
    pub id: u64,
    /// TLS, when asked for.
    pub tls: Option<ClientContext>,
}

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<ClusterConfig>,
    /// Its hosts.
    pub hosts: ArcSwap<HostSet>,
    /// Its counters.
    pub stats: Arc<ClusterStats>,
    /// The service that it declares, as metrics name it.
    pub service: Option<Service>,
    /// Ready for traffic: the first endpoints have arrived.
    pub warm: AtomicBool,
    breakers: [Breaker; 2],
    state: Arc<ClusterState>,
    transports: Vec<Arc<Transport>>,
}

/// One host of a cluster.
#[derive(Debug)]
pub struct Host {
    /// What the configuration says.
    pub endpoint: Arc<Endpoint>,
    /// What is dialled.
    pub target: Target,
    /// Address as logs print it.
    pub address: Address,
    /// Where it is.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// How connections to it are protected.
    pub transport: Arc<Transport>,
    /// What is counted and known of it.
    pub state: Arc<HostState>,
}

impl Host {
    /// May be picked outside panic.
    pub fn is_available(&self) -> bool {
        !self.endpoint.health.is_unhealthy() && !self.state.outlier.is_ejected()
    }

    /// Degraded hosts are used when the healthy ones do not suffice.
    pub fn is_degraded(&self) -> bool {
        self.endpoint.health == Health::Degraded
    }
}

/// What is counted and known of a host; survives updates.
#[derive(Debug)]
pub struct HostState {
    /// Unique in the process.
    pub id: u64,
    /// Running requests.
    pub active: Count,
    /// Open connections.
    pub cx_active: Count,
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections that failed.
    pub cx_connect_fail: AtomicU64,
    /// Requests.
    pub rq_total: AtomicU64,
    /// Requests that succeeded.
    pub rq_success: AtomicU64,
    /// Requests that failed.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
    /// Outlier detection.
    pub outlier: Outlier,
    removed: AtomicBool,
    since: Instant,
}

impl HostState {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: next_id(),
            active: Count::default(),
            cx_active: Count::default(),
            cx_total: AtomicU64::new(0),
            cx_connect_fail: AtomicU64::new(0),
            rq_total: AtomicU64::new(0),
            rq_success: AtomicU64::new(0),
            rq_error: AtomicU64::new(0),
            rq_timeout: AtomicU64::new(0),
            outlier: Outlier::default(),
            removed: AtomicBool::new(false),
            since: Instant::now(),
        })
    }

    /// Time since the host was added, for slow start.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The host left the cluster: its idle connections close.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }
}

/// A host as discovery found it, before it is matched with what is known.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// Its configuration.
    pub endpoint: Arc<Endpoint>,
    /// The address to dial.
    pub target: Target,
    /// Where it is.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Weight of its locality.
    pub locality_weight: Option<u32>,
}

impl Cluster {
    /// A cluster without hosts; `old` is its previous version, whose state is carried over.
    pub fn new(
        config: Arc<ClusterConfig>,
        secrets: &Arc<SecretStore>,
        old: Option<&Self>,
    ) -> Arc<Self> {
        let state = old.map_or_else(Arc::default, |old| Arc::clone(&old.state));
        let stats = old.map_or_else(Arc::default, |old| Arc::clone(&old.stats));
        let mut breakers = state.breakers.clone();
        for (breaker, limits) in breakers.iter_mut().zip(config.breakers) {
            breaker.limits = limits;
        }
        let sockets = config
            .transport
            .matches
            .iter()
            .map(|entry| &entry.transport);
        let transports = sockets
            .chain(std::iter::once(&config.transport.default))
            .map(|socket| transport(socket, secrets))
            .collect();
        let hosts = ArcSwap::from_pointee(HostSet::empty());
        let service = config.istio_service().map(|declared| {
            Service::resolve(&ServiceFacts {
                declared: Some(declared),
                cluster: &config.name,
                ..ServiceFacts::default()
            })
        });
        Arc::new(Self {
            config,
            hosts,
            stats,
            service,
            warm: AtomicBool::new(false),
            breakers,
            state,
            transports,
        })
    }

    /// The breaker of a priority.
    pub fn breaker(&self, high_priority: bool) -> &Breaker {
        &self.breakers[usize::from(high_priority)]
    }

    /// Takes a new set of hosts. Hosts whose address stays keep their state; those that left lose their idle connections.
    pub fn set_hosts(&self, discovered: &[Discovered], policy: AssignmentPolicy) {
        let mut known = self.state.hosts.lock();
        let mut present = HashMap::with_capacity(discovered.len());
        let mut hosts = Vec::with_capacity(discovered.len());
        for found in discovered {
            if present.contains_key(&found.target) {
                continue;
            }
            let state = known
                .get(&found.target)
                .cloned()
                .unwrap_or_else(HostState::new);
            state.removed.store(false, Ordering::Relaxed);
            present.insert(found.target.clone(), Arc::clone(&state));
            hosts.push((self.host(found, state), found.locality_weight));
        }
        for (target, state) in known.iter() {
            if !present.contains_key(target) {
                state.removed.store(true, Ordering::Relaxed);
            }
        }
        if known.len() != present.len() || known.keys().any(|target| !present.contains_key(target))
        {
            self.stats.membership_change.fetch_add(1, Ordering::Relaxed);
        }
        *known = present;
        self.hosts
            .store(Arc::new(HostSet::new(hosts, policy, &self.config)));
        self.warm.store(true, Ordering::Release);
    }

    /// The host of an ORIGINAL_DST cluster for a destination, made when it is new.
    pub fn original_destination(&self, destination: std::net::SocketAddr) -> Arc<Host> {
        let target = Target::Tcp(destination);
        let state = Arc::clone(
            self.state
                .hosts
                .lock()
                .entry(target.clone())
                .or_insert_with(HostState::new),
        );
        let found = Discovered {
            endpoint: Arc::new(Endpoint::new(Address::Socket(destination))),
            target,
            locality: Locality::default(),
            priority: 0,
            locality_weight: None,
        };
        Arc::new(self.host(&found, state))
    }

    /// Arranges the hosts anew after one's health changed.
    pub fn rebuild_hosts(&self) {
        let rearranged = self.hosts.load().rearranged(&self.config);
        self.hosts.store(Arc::new(rearranged));
    }

    /// Forgets destinations of an ORIGINAL_DST cluster without connections.
    pub fn forget_idle_destinations(&self) {
        self.state
            .hosts
            .lock()
            .retain(|_, state| state.cx_active.get() > 0 || state.active.get() > 0);
    }

    /// A host that nothing is known of yet, outside the cluster's set (dynamic forward proxy).
    fn host(&self, found: &Discovered, state: Arc<HostState>) -> Host {
        let address = match &found.target {
            Target::Tcp(address) => Address::Socket(*address),
            Target::Unix(path) => Address::Pipe(path.clone()),
        };
        Host {
            transport: Arc::clone(&self.transports[self.transport_index(&found.endpoint)]),
            endpoint: Arc::clone(&found.endpoint),
            target: found.target.clone(),
            address,
            locality: found.locality.clone(),
            priority: found.priority,
            state,
        }
    }

    fn transport_index(&self, endpoint: &Endpoint) -> usize {
        let chosen = self.config.transport.select(&endpoint.metadata);
        let matches = &self.config.transport.matches;
        matches
            .iter()
            .position(|entry| std::ptr::eq(&entry.transport, chosen))
            .unwrap_or(matches.len())
    }

    /// Name for statistics.
    pub fn stat_name(&self) -> &Str {
        &self.config.stat_name
    }
}

fn transport(config: &TransportConfig, secrets: &Arc<SecretStore>) -> Arc<Transport> {
    let tls = match config {
        TransportConfig::Raw | TransportConfig::ProxyProtocol(..) => None,
        TransportConfig::Tls(settings) => Some(ClientContext::new(
            Arc::clone(settings),
            Arc::clone(secrets),
        )),
    };
    Arc::new(Transport { id: next_id(), tls })
}
