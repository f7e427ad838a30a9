//! Hosts of a cluster: what configuration says of them, and what is counted and known; the latter survives updates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meltemi_traffic::endpoint::{Address, Endpoint, Health, Locality};

use tokio::sync::Notify;

use crate::breaker::Count;
use crate::cluster::{Transport, next_id};
use crate::connect::Target;
use crate::outlier::HostOutlier;

/// One host of a cluster.
#[derive(Debug)]
pub struct Host {
    /// What the configuration says.
    pub endpoint: Arc<Endpoint>,
    pub(crate) identity: Target,
    /// What is dialled.
    pub target: Target,
    /// Further addresses of the same host, dialled when the first is slow or fails.
    pub more_targets: Vec<Target>,
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
    /// Health of all sources together: the assignment, outlier detection and active checks.
    pub fn health(&self) -> Health {
        let checked = &self.state.checked;
        if self.endpoint.health.is_unhealthy()
            || self.state.outlier.is_ejected()
            || checked.has(CheckFlag::Failed)
        {
            Health::Unhealthy
        } else if self.endpoint.health == Health::Degraded || checked.has(CheckFlag::Degraded) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// What it is known by.
    pub(crate) fn identity(&self) -> &Target {
        &self.identity
    }

    /// May be picked outside panic.
    pub fn is_available(&self) -> bool {
        self.health() != Health::Unhealthy
    }

    /// Degraded hosts are used when the healthy ones do not suffice.
    pub fn is_degraded(&self) -> bool {
        self.health() == Health::Degraded
    }

    /// Flags as the admin port prints them, in Envoy's order.
    pub fn health_flags(&self) -> String {
        let checked = &self.state.checked;
        let assigned = self.endpoint.health;
        // table: whether the flag is set, and its name
        let flags = [
            (checked.has(CheckFlag::Failed), "/failed_active_hc"),
            (self.state.outlier.is_ejected(), "/failed_outlier_check"),
            (assigned == Health::Unhealthy, "/failed_eds_health"),
            (checked.has(CheckFlag::Degraded), "/degraded_active_hc"),
            (assigned == Health::Degraded, "/degraded_eds_health"),
            (checked.has(CheckFlag::Leaving), "/pending_dynamic_removal"),
            (checked.has(CheckFlag::Pending), "/pending_active_hc"),
            (
                checked.has(CheckFlag::ExcludedByImmediateFailure),
                "/excluded_via_immediate_hc_fail",
            ),
            (checked.has(CheckFlag::TimedOut), "/active_hc_timeout"),
            (assigned == Health::Draining, "/eds_status_draining"),
        ];
        let set: String = flags
            .into_iter()
            .filter_map(|(is_set, name)| is_set.then_some(name))
            .collect();
        if set.is_empty() {
            "healthy".to_owned()
        } else {
            set
        }
    }
}

/// What active checks found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CheckFlag {
    /// The host is not to be used.
    Failed = 1,
    /// It says of itself that it is degraded.
    Degraded = 2,
    /// Its first check is not done.
    Pending = 4,
    /// Its last check took too long.
    TimedOut = 8,
    /// It asked for its exclusion in an answer to ordinary traffic.
    ExcludedByImmediateFailure = 16,
    /// No check of it has ended yet.
    Unchecked = 32,
    /// Discovery does not name it any more; it stays while it is healthy.
    Leaving = 64,
}

/// Set of [`CheckFlag`]s.
#[derive(Debug, Default)]
pub struct Checked(AtomicU8);

impl Checked {
    /// Whether a flag is set.
    pub fn has(&self, flag: CheckFlag) -> bool {
        self.0.load(Ordering::Relaxed) & flag as u8 != 0
    }

    /// Sets or clears a flag; true when that changed it.
    pub fn set(&self, flag: CheckFlag, on: bool) -> bool {
        let bit = flag as u8;
        let before = if on {
            self.0.fetch_or(bit, Ordering::Relaxed)
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed)
        };
        (before & bit != 0) != on
    }

    /// Clears everything.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
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
    pub outlier: HostOutlier,
    /// Active checks.
    pub checked: Checked,
    removed: AtomicBool,
    /// Changes when the host's connections are to be given up.
    drains: AtomicU32,
    given_up: Notify,
    added: Instant,
    /// Milliseconds after `added` at which the host became healthy.
    healthy_after: AtomicU64,
}

impl HostState {
    pub(crate) fn new() -> Arc<Self> {
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
            outlier: HostOutlier::default(),
            checked: Checked::default(),
            removed: AtomicBool::new(false),
            drains: AtomicU32::new(0),
            given_up: Notify::new(),
            added: Instant::now(),
            healthy_after: AtomicU64::new(0),
        })
    }

    /// Time since the host was added or an active check found it healthy, for slow start.
    pub fn age(&self) -> Duration {
        let healthy = Duration::from_millis(self.healthy_after.load(Ordering::Relaxed));
        self.added.elapsed().saturating_sub(healthy)
    }

    /// An active check has found the host healthy: slow start begins anew.
    pub fn became_healthy(&self) {
        let after = u64::try_from(self.added.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.healthy_after.store(after, Ordering::Relaxed);
    }

    /// The host left the cluster: its idle connections close.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Relaxed);
    }

    /// Connections that were made before a change of this number are not used for further requests.
    pub fn drains(&self) -> u32 {
        self.drains.load(Ordering::Relaxed)
    }

    /// Gives all present connections up, once they have finished what they do.
    pub fn drain(&self) {
        self.drains.fetch_add(1, Ordering::Relaxed);
        self.given_up.notify_waiters();
    }

    /// Ready when the present connections are given up.
    pub async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

/// A host as discovery found it, before it is matched with what is known.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// What it is known by: its address, or the name of a logical host, whose address may change.
    pub identity: Target,
    /// Its configuration.
    pub endpoint: Arc<Endpoint>,
    /// The address to dial.
    pub target: Target,
    /// Further addresses of the same host.
    pub more_targets: Vec<Target>,
    /// Where it is.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Weight of its locality.
    pub locality_weight: Option<u32>,
}
