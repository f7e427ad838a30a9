//! The hosts of a cluster, arranged for picking.
//!
//! A set is immutable: hosts that come, go, or change health make a new set. The policies' maths is `traffic`'s; what
//! moves between picks is a [`PickState`], one for each worker and cluster.

use std::sync::Arc;

use ahash::AHashMap;
use meltemi_traffic::balance::{Balancer, HostFacts, PickContext, PickState, Rules};
use meltemi_traffic::cluster::{Cluster as ClusterConfig, Hashing, LbCommon, LbPolicy};
use meltemi_traffic::endpoint::{Assignment, Locality};
use meltemi_traffic::{Fraction, Str, Value};

use crate::cluster::next_id;
use crate::host::{CheckFlag, Host};

/// The hosts of a cluster.
#[derive(Debug)]
pub struct HostSet {
    all: Vec<Arc<Host>>,
    locality_weights: Vec<Option<u32>>,
    policy: AssignmentPolicy,
    balancer: Balancer,
    /// Where requests may name their host.
    by_address: Option<AHashMap<String, usize>>,
}

/// What an assignment says beside its hosts.
#[derive(Debug, Clone, Default)]
pub struct AssignmentPolicy {
    overprovisioning: u32,
    weighted_health: bool,
    drops: Vec<(Str, Fraction)>,
}

impl AssignmentPolicy {
    /// Reads it.
    pub fn of(assignment: &Assignment) -> Self {
        let overprovisioning = match assignment.overprovisioning {
            0 => Assignment::DEFAULT_OVERPROVISIONING,
            given => given,
        };
        Self {
            overprovisioning,
            weighted_health: assignment.weighted_priority_health,
            drops: assignment.drop_overloads.clone(),
        }
    }
}

/// How much the control plane wants dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// Every request.
    All,
    /// This one, of a share.
    Some,
}

/// What a pick depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pick<'a> {
    /// Hash of the request, for consistent policies.
    pub hash: Option<u64>,
    /// Hosts already tried, by state id.
    pub avoid: &'a [u64],
    /// Picks until an avoided host is taken anyway.
    pub attempts: u32,
    /// Metadata that the host's subset must have, sorted by key.
    pub criteria: &'a [(Str, Value)],
    /// Priorities that a retry leaves while another has hosts.
    pub avoid_priorities: &'a [u32],
    /// Address that the request asks for.
    pub wanted: Option<&'a str>,
}

impl HostSet {
    /// No hosts.
    pub fn empty() -> Self {
        let rules = Rules {
            policy: &LbPolicy::Random,
            common: &LbCommon::default(),
            subsets: None,
            overprovisioning: 100,
            weighted_health: false,
        };
        let balancer = Balancer::new(rules, &[], next_id());
        Self {
            by_address: None,
            all: Vec::new(),
            locality_weights: Vec::new(),
            policy: AssignmentPolicy::default(),
            balancer,
        }
    }

    /// Arranges hosts, each with the weight of its locality.
    pub fn new(
        hosts: Vec<(Arc<Host>, Option<u32>)>,
        policy: AssignmentPolicy,
        config: &ClusterConfig,
    ) -> Self {
        let (all, locality_weights) = hosts.into_iter().unzip();
        Self::arrange(all, locality_weights, policy, config)
    }

    /// Every host with the weight of its locality.
    pub(crate) fn with_weights(&self) -> impl Iterator<Item = (&Arc<Host>, Option<u32>)> {
        self.all.iter().zip(self.locality_weights.iter().copied())
    }

    /// The same hosts but one.
    pub(crate) fn without(&self, id: u64, config: &ClusterConfig) -> Self {
        let hosts = self
            .with_weights()
            .filter(|(host, _)| host.state.id != id)
            .map(|(host, weight)| (Arc::clone(host), weight));
        Self::new(hosts.collect(), self.policy.clone(), config)
    }

    /// The same hosts with their present health.
    pub fn rearranged(&self, config: &ClusterConfig) -> Self {
        Self::arrange(
            self.all.clone(),
            self.locality_weights.clone(),
            self.policy.clone(),
            config,
        )
    }

    fn arrange(
        all: Vec<Arc<Host>>,
        locality_weights: Vec<Option<u32>>,
        policy: AssignmentPolicy,
        config: &ClusterConfig,
    ) -> Self {
        let by_name = hashing(&config.lb).is_some_and(|hashing| hashing.use_hostname);
        let keys: Vec<String> = all.iter().map(|host| hash_key(host, by_name)).collect();
        let mut localities: Vec<(&Locality, u32)> = Vec::new();
        let facts: Vec<HostFacts<'_>> = all
            .iter()
            .zip(&keys)
            .zip(&locality_weights)
            .map(|((host, key), locality_weight)| HostFacts {
                key,
                weight: host.endpoint.weight.max(1),
                health: host.health(),
                excluded: host.state.checked.has(CheckFlag::Pending),
                metadata: &host.endpoint.metadata,
                priority: host.priority,
                locality: number_of(&mut localities, host),
                locality_weight: *locality_weight,
            })
            .collect();
        let rules = Rules {
            policy: &config.lb,
            common: &config.lb_common,
            subsets: config.subsets.as_deref(),
            overprovisioning: policy.overprovisioning,
            weighted_health: policy.weighted_health,
        };
        let balancer = Balancer::new(rules, &facts, next_id());
        let by_address = config.override_host.as_ref().map(|_| {
            let named = |(at, host): (usize, &Arc<Host>)| (host.target.to_string(), at);
            all.iter().enumerate().map(named).collect()
        });
        Self {
            by_address,
            all,
            locality_weights,
            policy,
            balancer,
        }
    }

    /// Whether the control plane wants this request dropped.
    pub fn overload(&self) -> Option<Overload> {
        let drops = &self.policy.drops;
        let all = |share: &Fraction| share.numerator >= share.denominator;
        if drops.iter().any(|(_, share)| all(share)) {
            return Some(Overload::All);
        }
        drops
            .iter()
            .any(|(_, share)| share.hits(fastrand::u64(..)))
            .then_some(Overload::Some)
    }

    /// Every host, usable or not.
    pub fn all(&self) -> &[Arc<Host>] {
        &self.all
    }

    /// Picks a host; `None` when none may be used.
    pub fn pick(&self, state: &mut PickState, pick: &Pick<'_>) -> Option<&Arc<Host>> {
        let hosts = &self.all;
        if let (Some(wanted), Some(known)) = (pick.wanted, &self.by_address)
            && let Some(host) = wanted
                .split(',')
                .filter_map(|address| hosts.get(*known.get(address.trim())?))
                .find(|host| host.is_available() && !pick.avoid.contains(&host.state.id))
        {
            return Some(host);
        }
        let position = self.balancer.pick(
            state,
            &mut PickContext {
                random: &mut || fastrand::u64(..),
                hash: pick.hash,
                active: &|at| {
                    hosts
                        .get(at)
                        .map_or(0, |host| host.state.active.get().into())
                },
                age: &|at| {
                    hosts
                        .get(at)
                        .map_or(std::time::Duration::MAX, |host| host.state.age())
                },
                avoid: &|at| {
                    hosts
                        .get(at)
                        .is_some_and(|host| pick.avoid.contains(&host.state.id))
                },
                attempts: pick.attempts,
                criteria: pick.criteria,
                avoid_priorities: pick.avoid_priorities,
            },
        )?;
        hosts.get(position)
    }
}

fn hashing(policy: &LbPolicy) -> Option<Hashing> {
    match policy {
        LbPolicy::RingHash(ring) => Some(ring.hashing),
        LbPolicy::Maglev(maglev) => Some(maglev.hashing),
        LbPolicy::RoundRobin(_)
        | LbPolicy::LeastRequest(_)
        | LbPolicy::Random
        | LbPolicy::ClusterProvided => None,
    }
}

fn hash_key(host: &Host, by_name: bool) -> String {
    let given = host
        .endpoint
        .metadata
        .get("envoy.lb", &["hash_key"])
        .and_then(|value| value.as_str());
    match given {
        Some(key) => key.to_owned(),
        None if by_name => host.endpoint.hostname.to_string(),
        None => host.target.to_string(),
    }
}

fn number_of<'h>(known: &mut Vec<(&'h Locality, u32)>, host: &'h Host) -> u32 {
    let same = |(locality, priority): &(&Locality, u32)| {
        **locality == host.locality && *priority == host.priority
    };
    let position = known.iter().position(same);
    let position = position.unwrap_or_else(|| {
        known.push((&host.locality, host.priority));
        known.len() - 1
    });
    u32::try_from(position).unwrap_or(u32::MAX)
}
