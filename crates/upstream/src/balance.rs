//! The hosts of a cluster, arranged for picking.
//!
//! A set is immutable: hosts that come, go, or change health make a new set. The policies' maths is `traffic`'s.

use std::sync::Arc;

use meltemi_traffic::cluster::{Cluster as ClusterConfig, LbPolicy};

use crate::cluster::Host;

/// The hosts of a cluster.
#[derive(Debug)]
pub struct HostSet {
    all: Vec<Arc<Host>>,
    locality_weights: Vec<Option<u32>>,
    /// Hosts that may be picked now: those of the first priority that has any.
    usable: Vec<Arc<Host>>,
    policy: LbPolicy,
    weighted: bool,
}

/// What a pick depends on.
#[derive(Debug, Clone, Copy)]
pub struct Pick<'a> {
    /// Hash of the request, for consistent policies.
    pub hash: Option<u64>,
    /// Round robin position.
    pub turn: u64,
    /// Random numbers.
    pub random: [u64; 2],
    /// Hosts already tried, by state id.
    pub avoid: &'a [u64],
    /// Picks until an avoided host is taken anyway.
    pub attempts: u32,
}

impl HostSet {
    /// No hosts.
    pub fn empty() -> Self {
        Self {
            all: Vec::new(),
            locality_weights: Vec::new(),
            usable: Vec::new(),
            policy: LbPolicy::RoundRobin(None),
            weighted: false,
        }
    }

    /// Arranges hosts, each with the weight of its locality.
    pub fn new(hosts: Vec<(Host, Option<u32>)>, config: &ClusterConfig) -> Self {
        let (all, locality_weights) = hosts
            .into_iter()
            .map(|(host, weight)| (Arc::new(host), weight))
            .unzip();
        Self::arrange(all, locality_weights, config)
    }

    /// The same hosts with their present health.
    pub fn rearranged(&self, config: &ClusterConfig) -> Self {
        Self::arrange(self.all.clone(), self.locality_weights.clone(), config)
    }

    fn arrange(
        all: Vec<Arc<Host>>,
        locality_weights: Vec<Option<u32>>,
        config: &ClusterConfig,
    ) -> Self {
        let priorities = all
            .iter()
            .map(|host| host.priority)
            .max()
            .map_or(0, |max| max + 1);
        let available = |priority: u32| -> Vec<Arc<Host>> {
            all.iter()
                .filter(|host| host.priority == priority && host.is_available())
                .cloned()
                .collect()
        };
        let mut usable = (0..priorities)
            .map(available)
            .find(|hosts| !hosts.is_empty())
            .unwrap_or_default();
        if usable.is_empty() && config.lb_common.panic_threshold > 0.0 {
            usable = all
                .iter()
                .filter(|host| host.priority == 0)
                .cloned()
                .collect();
        }
        let weighted = usable
            .windows(2)
            .any(|pair| pair[0].endpoint.weight != pair[1].endpoint.weight);
        Self {
            all,
            locality_weights,
            usable,
            policy: config.lb.clone(),
            weighted,
        }
    }

    /// Every host, usable or not.
    pub fn all(&self) -> &[Arc<Host>] {
        &self.all
    }

    /// Picks a host; `None` when none may be used.
    pub fn pick(&self, pick: &Pick<'_>) -> Option<&Arc<Host>> {
        let mut chosen = self.pick_once(pick, 0)?;
        for attempt in 1..=u64::from(pick.attempts) {
            if !pick.avoid.contains(&chosen.state.id) {
                break;
            }
            chosen = self.pick_once(pick, attempt)?;
        }
        Some(chosen)
    }

    fn pick_once(&self, pick: &Pick<'_>, attempt: u64) -> Option<&Arc<Host>> {
        let hosts = &self.usable;
        let count = hosts.len() as u64;
        if count == 0 {
            return None;
        }
        if count == 1 {
            return hosts.first();
        }
        let turn = pick.turn.wrapping_add(attempt);
        if self.weighted {
            return self.by_weight(turn);
        }
        let at = |index: u64| hosts.get((index % count) as usize);
        match &self.policy {
            LbPolicy::LeastRequest(_) => {
                let first = at(pick.random[0].wrapping_add(attempt))?;
                let second = at(pick.random[1].wrapping_add(attempt.rotate_left(3)))?;
                Some(if second.state.active.get() < first.state.active.get() {
                    second
                } else {
                    first
                })
            }
            LbPolicy::Random => at(pick.random[0].wrapping_add(attempt)),
            LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => {
                at(pick.hash.unwrap_or(pick.random[0]).wrapping_add(attempt))
            }
            LbPolicy::RoundRobin(_) | LbPolicy::ClusterProvided => at(turn),
        }
    }

    fn by_weight(&self, turn: u64) -> Option<&Arc<Host>> {
        let total: u64 = self
            .usable
            .iter()
            .map(|host| u64::from(host.endpoint.weight.max(1)))
            .sum();
        let mut left = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) % total;
        for host in &self.usable {
            let weight = u64::from(host.endpoint.weight.max(1));
            if left < weight {
                return Some(host);
            }
            left -= weight;
        }
        self.usable.first()
    }
}
