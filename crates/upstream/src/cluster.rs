//! Clusters at run time: hosts behind one swap, circuit breakers, counters.
//!
//! A [`Cluster`] is made anew when its configuration changes, its [`ClusterState`] and the [`HostState`] of hosts that
//! stay are carried over, so breakers, counters and ejections survive updates. Everything here is shared by all
//! workers and changed through atomics or one swap.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use meltemi_telemetry::istio::{Service, ServiceFacts};
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{
    Cluster as ClusterConfig, ProxyProtocol, Transport as TransportConfig,
};
use meltemi_traffic::endpoint::{Address, Endpoint, Locality};
use tokio::sync::{Notify, watch};

use crate::balance::{AssignmentPolicy, HostSet};
use crate::breaker::Breaker;
use crate::connect::Target;
use crate::distribution::{Distributions, Measured};
use crate::dns_cache::Name;
use crate::health::CheckStats;
use crate::host::{CheckFlag, Discovered, Host, HostState};
use crate::outlier::{Detector, Outcome};
use crate::tls::{ClientContext, SecretStore};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Time since this process began to look, for ejections.
fn process_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
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

            /// Sets all to zero.
            pub fn reset(&self) {
                $(self.$field.store(0, Ordering::Relaxed);)*
            }
        }
    };
}

counters! {
    /// Counters of a cluster, named as Envoy names them.
    ClusterStats {
        cx_total "upstream_cx_total" "Connections made.";
        cx_http1 "upstream_cx_http1_total" "Connections that speak HTTP/1.";
        cx_http2 "upstream_cx_http2_total" "Connections that speak HTTP/2.";
        cx_destroyed "upstream_cx_destroy" "Connections that ended.";
        cx_connect_fail "upstream_cx_connect_fail" "Connections that failed.";
        cx_connect_timeout "upstream_cx_connect_timeout" "Connections that timed out.";
        cx_overflow "upstream_cx_overflow" "Connections refused by the breaker.";
        rq_total "upstream_rq_total" "Requests sent, attempts counted.";
        rq_2xx "upstream_rq_2xx" "Responses.";
        rq_3xx "upstream_rq_3xx" "Responses.";
        rq_4xx "upstream_rq_4xx" "Responses.";
        rq_5xx "upstream_rq_5xx" "Responses.";
        rq_pending_total "upstream_rq_pending_total" "Requests that waited for a connection.";
        rq_pending_failure_eject "upstream_rq_pending_failure_eject" "Requests that waited for a connection that failed.";
        rq_pending_overflow "upstream_rq_pending_overflow" "Requests refused because too many wait.";
        rq_active_overflow "upstream_rq_active_overflow" "Requests refused because too many run.";
        healthy_panic "lb_healthy_panic" "Picks that ignored health.";
        rq_retry "upstream_rq_retry" "Retries.";
        rq_retry_success "upstream_rq_retry_success" "Retries that helped.";
        rq_retry_overflow "upstream_rq_retry_overflow" "Retries refused by the breaker.";
        rq_retry_limit "upstream_rq_retry_limit_exceeded" "Requests whose retries were used up.";
        rq_back_off "upstream_rq_retry_backoff_exponential" "Retries after a back-off of ours.";
        rq_back_off_asked "upstream_rq_retry_backoff_ratelimited" "Retries after the wait that a response asked for.";
        rq_retry_abandoned "retry_or_shadow_abandoned" "Requests too large to be sent again.";
        redirect_succeeded "upstream_internal_redirect_succeeded_total" "Redirects followed.";
        redirect_failed "upstream_internal_redirect_failed_total" "Redirects passed on although they might be followed.";
        rq_timeout "upstream_rq_timeout" "Requests that timed out.";
        rq_per_try_timeout "upstream_rq_per_try_timeout" "Attempts that timed out.";
        rq_per_try_idle_timeout "upstream_rq_per_try_idle_timeout" "Attempts that were silent for too long.";
        rq_rx_reset "upstream_rq_rx_reset" "Streams reset by the peer.";
        rq_tx_reset "upstream_rq_tx_reset" "Streams reset by us.";
        rq_cancelled "upstream_rq_cancelled" "Requests cancelled while they waited for a connection.";
        rq_none_healthy "upstream_cx_none_healthy" "Requests that found no healthy host.";
        update_attempt "update_attempt" "Name lookups made.";
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

/// Responses by status; the table is made with the first of them, because most clusters of a mesh see none.
#[derive(Debug, Default)]
pub struct StatusCounts(std::sync::OnceLock<Box<[AtomicU64]>>);

impl StatusCounts {
    /// Statuses from 100 to 599.
    const STATUSES: usize = 500;

    /// Counts a response.
    pub fn add(&self, status: u16) {
        let table = self.0.get_or_init(|| {
            let zeros = (0..Self::STATUSES).map(|_| AtomicU64::new(0));
            zeros.collect()
        });
        let at = usize::from(status).wrapping_sub(100);
        if let Some(counter) = table.get(at) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls `each` with every status that was seen and its count.
    pub fn for_each(&self, mut each: impl FnMut(usize, u64)) {
        for (at, counter) in self.0.get().into_iter().flatten().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                each(at + 100, count);
            }
        }
    }

    /// Sets all to zero.
    pub fn reset(&self) {
        for counter in self.0.get().into_iter().flatten() {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// What outlives a cluster's configuration.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// Breakers for default and high priority.
    breakers: [Breaker; 2],
    /// Responses by status, to requests from outside and from inside the mesh.
    statuses: [StatusCounts; 2],
    /// Hosts by dialled address, with all that is known of them. Held while a set of hosts is replaced.
    hosts: parking_lot::Mutex<HashMap<Target, Arc<HostState>>>,
    /// Outlier detection.
    detector: Detector,
    /// Active checks.
    checks: CheckStats,
    /// Histograms, made with the first connection.
    distributions: std::sync::OnceLock<Box<Distributions>>,
}

impl ClusterState {
    /// The histograms.
    pub(crate) fn distributions(&self) -> &Distributions {
        self.distributions.get_or_init(Box::default)
    }
}

/// A way to protect a connection, made ready to use.
#[derive(Debug)]
pub struct Transport {
    /// Part of the pool key: connections made with another context are not reused.
    pub id: u64,
    /// TLS, when asked for.
    pub tls: Option<ClientContext>,
    /// The PROXY header that goes first.
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
    /// Its cluster was replaced or removed: what was connected through it serves no further request.
    retired: AtomicBool,
}

impl Transport {
    /// Connections made through it are to be closed once they are idle.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
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
    /// A host was checked for the first time.
    pub(crate) checked_first: Notify,
    hosts_changed: watch::Sender<u64>,
    breakers: [Breaker; 2],
    state: Arc<ClusterState>,
    transports: Vec<Arc<Transport>>,
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
            checked_first: Notify::new(),
            hosts_changed: watch::channel(0).0,
            breakers,
            state,
            transports,
        })
    }

    /// The cluster serves no more: its pooled connections close at the next sweep.
    pub(crate) fn retire(&self) {
        for transport in &self.transports {
            transport.retired.store(true, Ordering::Relaxed);
        }
    }

    /// Responses by status, to internal requests or to others.
    pub fn statuses(&self, internal: bool) -> &StatusCounts {
        &self.state.statuses[usize::from(internal)]
    }

    /// The histograms, to record in.
    pub fn distributions(&self) -> &Distributions {
        self.state.distributions()
    }

    /// The histograms, when there are any.
    pub fn recorded(&self) -> Option<&Distributions> {
        self.state.distributions.get().map(Box::as_ref)
    }

    /// Counts a connection for as long as the result lives.
    pub(crate) fn measured(&self) -> Measured {
        Measured::new(&self.state, &self.stats)
    }

    /// The breaker of a priority.
    pub fn breaker(&self, high_priority: bool) -> &Breaker {
        &self.breakers[usize::from(high_priority)]
    }

    /// Takes a new set of hosts. Hosts whose address stays keep their state; those that left lose their idle connections.
    pub fn set_hosts(&self, discovered: &[Discovered], policy: AssignmentPolicy) {
        let mut known = self.state.hosts.lock();
        let checked = !self.config.health_checks.is_empty();
        let mut present = HashMap::with_capacity(discovered.len());
        let mut hosts = Vec::with_capacity(discovered.len());
        for found in discovered {
            if present.contains_key(&found.identity) {
                continue;
            }
            let state = known.get(&found.identity).cloned();
            let state = state.unwrap_or_else(|| self.new_host());
            state.set_removed(false);
            if checked && !found.endpoint.check.disabled {
                state.checked.set(CheckFlag::Leaving, false);
            } else {
                state.checked.clear();
            }
            present.insert(found.identity.clone(), Arc::clone(&state));
            hosts.push((Arc::new(self.host(found, state)), found.locality_weight));
        }
        if checked && !self.config.ignore_health_on_removal {
            self.keep_healthy(&mut present, &mut hosts);
        }
        for (target, state) in known.iter() {
            if !present.contains_key(target) {
                state.set_removed(true);
                self.state.detector.restore(&state.outlier);
            }
        }
        if known.len() != present.len() || known.keys().any(|target| !present.contains_key(target))
        {
            self.stats.membership_change.fetch_add(1, Ordering::Relaxed);
        }
        *known = present;
        self.hosts
            .store(Arc::new(HostSet::new(hosts, policy, &self.config)));
        if !checked || self.all_checked() {
            self.warm.store(true, Ordering::Release);
        }
        drop(known);
        self.hosts_changed.send_modify(|version| *version += 1);
    }

    /// Hosts that discovery has dropped stay while active checks call them healthy.
    fn keep_healthy(
        &self,
        present: &mut HashMap<Target, Arc<HostState>>,
        hosts: &mut Vec<(Arc<Host>, Option<u32>)>,
    ) {
        for (host, weight) in self.hosts.load().with_weights() {
            let healthy = !host.state.checked.has(CheckFlag::Failed);
            if present.contains_key(host.identity()) || !healthy {
                continue;
            }
            host.state.checked.set(CheckFlag::Leaving, true);
            present.insert(host.identity().clone(), Arc::clone(&host.state));
            hosts.push((Arc::clone(host), weight));
        }
    }

    /// Tells when the set of hosts is another one.
    pub(crate) fn watch_hosts(&self) -> watch::Receiver<u64> {
        self.hosts_changed.subscribe()
    }

    /// Every host was checked at least once.
    pub(crate) fn all_checked(&self) -> bool {
        let hosts = self.hosts.load();
        let waits = |host: &Arc<Host>| host.state.checked.has(CheckFlag::Unchecked);
        !hosts.all().iter().any(waits)
    }

    /// Active checks of this cluster.
    pub fn checks(&self) -> &CheckStats {
        &self.state.checks
    }

    /// An answer to ordinary traffic said that the host is not to be used.
    pub fn fail_at_once(&self, host: &Host) {
        let flags = &host.state.checked;
        self.state.checks.passive();
        flags.set(CheckFlag::ExcludedByImmediateFailure, true);
        if flags.set(CheckFlag::Failed, true) {
            self.health_changed(host);
        }
    }

    /// A host that nothing is known of; where active checks decide it is not used before the first one.
    fn new_host(&self) -> Arc<HostState> {
        let state = HostState::new();
        if !self.config.health_checks.is_empty() {
            state.checked.set(CheckFlag::Failed, true);
            state.checked.set(CheckFlag::Unchecked, true);
            let waits = self.config.lb_common.ignore_unchecked;
            state.checked.set(CheckFlag::Pending, waits);
        }
        state
    }

    /// Outlier detection of this cluster.
    pub fn detector(&self) -> &Detector {
        &self.state.detector
    }

    /// Counts how a request to a host ended, or a connection; ejects the host when outlier detection says so.
    pub fn report(&self, host: &Host, outcome: Outcome) {
        match outcome {
            Outcome::Response { failed: false, .. } => &host.state.rq_success,
            Outcome::Response { .. } | Outcome::ConnectFailed | Outcome::Timeout => {
                &host.state.rq_error
            }
            Outcome::Connected | Outcome::ConnectedFinal => return self.judge(host, outcome),
        }
        .fetch_add(1, Ordering::Relaxed);
        self.judge(host, outcome);
    }

    fn judge(&self, host: &Host, outcome: Outcome) {
        let Some(settings) = &self.config.outlier else {
            return;
        };
        let count = self.hosts.load().all().len();
        let now = process_time();
        if self
            .state
            .detector
            .record(settings, host, outcome, count, now)
        {
            self.health_changed(host);
        }
    }

    /// The end of an interval of outlier detection.
    pub fn sweep_outliers(&self) {
        let Some(settings) = &self.config.outlier else {
            return;
        };
        let hosts = self.hosts.load();
        if self
            .state
            .detector
            .sweep(settings, hosts.all(), process_time())
        {
            self.rebuild_hosts();
        }
    }

    /// Arranges the hosts anew after this one became healthy or unhealthy.
    pub fn health_changed(&self, host: &Host) {
        if self.config.close_on_health_failure && !host.is_available() {
            host.state.drain();
        }
        let flags = &host.state.checked;
        if flags.has(CheckFlag::Leaving) && flags.has(CheckFlag::Failed) {
            return self.let_go(host);
        }
        self.rebuild_hosts();
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
            identity: target.clone(),
            endpoint: Arc::new(Endpoint::new(Address::Socket(destination))),
            target,
            more_targets: Vec::new(),
            locality: Locality::default(),
            priority: 0,
            locality_weight: None,
        };
        Arc::new(self.host(&found, state))
    }

    /// The port of hosts that a request names without one.
    pub fn default_port(&self) -> u16 {
        match self.transports.last().and_then(|last| last.tls.as_ref()) {
            Some(_) => 443,
            None => 80,
        }
    }

    /// The host of a dynamic forward proxy for a name with these addresses; `None` when it has none.
    pub fn forward_host(&self, name: &Name, targets: &[Target]) -> Option<Arc<Host>> {
        let (target, more) = targets.split_first()?;
        let identity = Target::Unix(format!("dns:{}", name.key()).into());
        let state = Arc::clone(
            self.state
                .hosts
                .lock()
                .entry(identity.clone())
                .or_insert_with(HostState::new),
        );
        let address = match target {
            Target::Tcp(address) => Address::Socket(*address),
            Target::Unix(path) => Address::Pipe(path.clone()),
        };
        let mut endpoint = Endpoint::new(address);
        endpoint.hostname = name.host.clone();
        let found = Discovered {
            identity,
            endpoint: Arc::new(endpoint),
            target: target.clone(),
            more_targets: more.to_vec(),
            locality: Locality::default(),
            priority: 0,
            locality_weight: None,
        };
        Some(Arc::new(self.host(&found, state)))
    }

    /// A host that stayed only because it was healthy goes.
    fn let_go(&self, host: &Host) {
        let mut known = self.state.hosts.lock();
        known.remove(host.identity());
        host.state.set_removed(true);
        self.state.detector.restore(&host.state.outlier);
        let without = self.hosts.load().without(host.state.id, &self.config);
        self.hosts.store(Arc::new(without));
        drop(known);
        self.stats.membership_change.fetch_add(1, Ordering::Relaxed);
        self.hosts_changed.send_modify(|version| *version += 1);
    }

    /// Arranges the hosts anew after one's health changed.
    pub fn rebuild_hosts(&self) {
        let _replacing = self.state.hosts.lock();
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
            identity: found.identity.clone(),
            target: found.target.clone(),
            more_targets: found.more_targets.clone(),
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

    /// Calls `each` with the name and value of every statistic of breakers, outlier detection and checks.
    pub fn for_each_limit(&self, each: &mut dyn FnMut(&str, u64)) {
        for (priority, breaker) in ["default", "high"].iter().zip(&self.breakers) {
            breaker.for_each(&mut |name, value| {
                each(&format!("circuit_breakers.{priority}.{name}"), value);
            });
        }
        if self.config.outlier.is_some() {
            self.state.detector.for_each(&mut |name, value| {
                each(&format!("outlier_detection.{name}"), value);
            });
        }
        if !self.config.health_checks.is_empty() {
            self.state.checks.for_each(&mut |name, value| {
                each(&format!("health_check.{name}"), value);
            });
        }
    }

    /// Name for statistics.
    pub fn stat_name(&self) -> &Str {
        &self.config.stat_name
    }
}

fn transport(config: &TransportConfig, secrets: &Arc<SecretStore>) -> Arc<Transport> {
    let (mut proxy_protocol, mut inner) = (None, config);
    while let TransportConfig::ProxyProtocol(header, below) = inner {
        proxy_protocol = Some(Arc::clone(header));
        inner = below;
    }
    let tls = match inner {
        TransportConfig::Raw | TransportConfig::ProxyProtocol(..) => None,
        TransportConfig::Tls(settings) => Some(ClientContext::new(
            Arc::clone(settings),
            Arc::clone(secrets),
        )),
    };
    Arc::new(Transport {
        id: next_id(),
        tls,
        proxy_protocol,
        retired: AtomicBool::new(false),
    })
}
