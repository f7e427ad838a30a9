//! Which host a request gets: subset, priorities, panic, localities, then the policy's own choice.
//!
//! A [`Balancer`] is immutable and shared: it is built when hosts come, go, change health or weight. What moves between
//! picks (positions, deadlines) is a [`PickState`], one for each worker and cluster, which survives new balancers.

mod bounded;
mod consistent;
mod edf;
mod maglev;
mod priority;
mod ring;
mod spread;
mod state;
mod subset;

use std::time::Duration;

use ahash::AHashMap;

use crate::Str;
use crate::cluster::{LbCommon, LbPolicy, SlowStart, Subsets as SubsetSettings};
use crate::endpoint::Health;
use crate::metadata::{Metadata, Value};
use spread::Spread;
use state::SpreadState;
use subset::Subsets;

/// What the maths knows of a host; its position in the list is its name.
#[derive(Debug, Clone)]
pub struct HostFacts<'a> {
    /// Hashed by consistent policies: address, host name or `hash_key` metadata.
    pub key: &'a str,
    /// At least 1.
    pub weight: u32,
    /// Health of all sources together.
    pub health: Health,
    /// Not counted until its first active check is done.
    pub excluded: bool,
    /// 0 is used first.
    pub priority: u32,
    /// Number of its locality within the cluster.
    pub locality: u32,
    /// Weight of that locality.
    pub locality_weight: Option<u32>,
    /// `envoy.lb` of it chooses subsets.
    pub metadata: &'a Metadata,
}

/// What a balancer is made from beside its hosts.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How a host is picked.
    pub policy: &'a LbPolicy,
    /// Settings of all policies.
    pub common: &'a LbCommon,
    /// Subsets, when on.
    pub subsets: Option<&'a SubsetSettings>,
    /// Percent by which priorities and localities are over-provisioned.
    pub overprovisioning: u32,
    /// A priority's health is the share of weight, not of hosts.
    pub weighted_health: bool,
}

/// What a pick depends on beside the hosts.
pub struct PickContext<'a> {
    /// A new random number for each call.
    pub random: &'a mut dyn FnMut() -> u64,
    /// The request's hash.
    pub hash: Option<u64>,
    /// Active requests of a host.
    pub active: &'a dyn Fn(usize) -> u64,
    /// Time since a host became healthy, for slow start.
    pub age: &'a dyn Fn(usize) -> Duration,
    /// Hosts that a retry avoids.
    pub avoid: &'a dyn Fn(usize) -> bool,
    /// Picks made before an avoided host is taken anyway.
    pub attempts: u32,
    /// Metadata that the host's subset must have, sorted by key.
    pub criteria: &'a [(Str, Value)],
    /// Priorities that a retry does not use while another has hosts.
    pub avoid_priorities: &'a [u32],
}

/// Hosts arranged for picking.
#[derive(Debug)]
pub struct Balancer {
    generation: u64,
    whole: Spread,
    subsets: Option<Box<Subsets>>,
}

/// Positions of one worker in one cluster.
#[derive(Debug, Default)]
pub struct PickState {
    whole: SpreadState,
    subsets: AHashMap<Str, SpreadState>,
}

impl PickState {
    /// Picks since the last call that ignored health because too few hosts were available.
    pub fn take_panics(&mut self) -> u64 {
        let mut panics = std::mem::take(&mut self.whole.panics);
        for state in self.subsets.values_mut() {
            panics += std::mem::take(&mut state.panics);
        }
        panics
    }
}

impl Balancer {
    /// Arranges hosts. `generation` differs for every balancer of a cluster and is not 0.
    #[must_use]
    pub fn new(rules: Rules<'_>, hosts: &[HostFacts<'_>], generation: u64) -> Self {
        let positions: Vec<u32> = (0..).take(hosts.len()).collect();
        Self {
            generation,
            whole: Spread::new(rules, hosts, &positions),
            subsets: rules
                .subsets
                .map(|settings| Box::new(Subsets::new(settings, rules, hosts))),
        }
    }

    /// Picks a host; `None` when none may be used.
    pub fn pick(&self, state: &mut PickState, context: &mut PickContext<'_>) -> Option<usize> {
        match &self.subsets {
            None => {
                state.whole.renew(self.generation);
                self.whole.pick(&mut state.whole, context)
            }
            Some(subsets) => subsets.pick(self.generation, state, context),
        }
    }

    /// True when a priority ignores health because too few hosts are available.
    #[must_use]
    pub fn panics(&self, priority: usize) -> bool {
        self.whole.panics(priority)
    }

    /// Number of subsets that have hosts.
    #[must_use]
    pub fn subset_count(&self) -> usize {
        self.subsets.as_ref().map_or(0, |subsets| subsets.len())
    }
}

fn index(number: u64, length: usize) -> usize {
    usize::try_from(number % length.max(1) as u64).unwrap_or(0)
}

impl SlowStart {
    /// Share of its weight that a host of this age gets.
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let passed = age.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        let aggression = if self.aggression > 0.0 {
            self.aggression
        } else {
            1.0
        };
        passed
            .powf(1.0 / aggression)
            .max(self.min_weight_percent / 100.0)
    }
}

#[cfg(test)]
mod tests;
