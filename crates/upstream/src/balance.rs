//! The hosts of a cluster, arranged for picking.
//!
//! A set is immutable: hosts that come, go, or change health make a new set. The policies' maths is `traffic`'s; what
//! moves between picks is a [`PickState`], one for each worker and cluster.

use std::sync::Arc;

use meltemi_traffic::balance::{Balancer, HostFacts, PickContext, PickState};
use meltemi_traffic::cluster::{Cluster as ClusterConfig, Hashing, LbCommon, LbPolicy};
use meltemi_traffic::endpoint::{Assignment, Health, Locality};
use meltemi_traffic::{Fraction, Str};

use crate::cluster::{Host, next_id};

/// The hosts of a cluster.
#[derive(Debug)]
pub struct HostSet {
    all: Vec<Arc<Host>>,
    locality_weights: Vec<Option<u32>>,
    policy: AssignmentPolicy,
    balancer: Balancer,
}

/// What an assignment says beside its hosts.
#[derive(Debug, Clone, Default)]
pub struct AssignmentPolicy {
    overprovisioning: u32,
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
            drops: assignment.drop_overloads.clone(),
        }
    }
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
}

impl HostSet {
    /// No hosts.
    pub fn empty() -> Self {
        let balancer = Balancer::new(&LbPolicy::Random, &LbCommon::default(), 100, &[], next_id());
        Self {
            all: Vec::new(),
            locality_weights: Vec::new(),
            policy: AssignmentPolicy::default(),
            balancer,
        }
    }

    /// Arranges hosts, each with the weight of its locality.
    pub fn new(
        hosts: Vec<(Host, Option<u32>)>,
        policy: AssignmentPolicy,
        config: &ClusterConfig,
    ) -> Self {
        let (all, locality_weights) = hosts
            .into_iter()
            .map(|(host, weight)| (Arc::new(host), weight))
            .unzip();
        Self::arrange(all, locality_weights, policy, config)
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
                health: health(host),
                priority: host.priority,
                locality: number_of(&mut localities, host),
                locality_weight: *locality_weight,
            })
            .collect();
        let balancer = Balancer::new(
            &config.lb,
            &config.lb_common,
            policy.overprovisioning,
            &facts,
            next_id(),
        );
        Self {
            all,
            locality_weights,
            policy,
            balancer,
        }
    }

    /// True when this request is one of those that the control plane wants dropped.
    pub fn drops_request(&self) -> bool {
        self.policy
            .drops
            .iter()
            .any(|(_, share)| share.hits(fastrand::u64(..)))
    }

    /// Every host, usable or not.
    pub fn all(&self) -> &[Arc<Host>] {
        &self.all
    }

    /// Picks a host; `None` when none may be used.
    pub fn pick(&self, state: &mut PickState, pick: &Pick<'_>) -> Option<&Arc<Host>> {
        let hosts = &self.all;
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
        None if by_name && !host.endpoint.hostname.is_empty() => host.endpoint.hostname.to_string(),
        None => host.target.to_string(),
    }
}

/// All sources of health together.
fn health(host: &Host) -> Health {
    if host.is_available() {
        host.endpoint.health
    } else {
        Health::Unhealthy
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
