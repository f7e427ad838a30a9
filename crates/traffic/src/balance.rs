//! Which host a request gets: priorities, panic, localities, then the policy's own choice.
//!
//! A [`Balancer`] is immutable and shared: it is built when hosts come, go, change health or weight. What moves between
//! picks (positions, deadlines) is a [`PickState`], one for each worker and cluster, which survives new balancers.

mod edf;
mod maglev;
mod priority;
mod ring;

use std::time::Duration;

use ahash::AHashMap;

use crate::cluster::{LbCommon, LbPolicy, LeastRequest, SlowStart};
use crate::endpoint::Health;
use edf::Edf;
use maglev::MaglevTable;
use priority::{Loads, Part};
use ring::Ring;

/// What the maths knows of a host; its position in the list is its name.
#[derive(Debug, Clone)]
pub struct HostFacts<'a> {
    /// Hashed by consistent policies: address, host name or `hash_key` metadata.
    pub key: &'a str,
    /// At least 1.
    pub weight: u32,
    /// Health of all sources together.
    pub health: Health,
    /// 0 is used first.
    pub priority: u32,
    /// Number of its locality within the cluster.
    pub locality: u32,
    /// Weight of that locality.
    pub locality_weight: Option<u32>,
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
}

/// Hosts arranged for picking.
#[derive(Debug)]
pub struct Balancer {
    generation: u64,
    policy: LbPolicy,
    fail_on_panic: bool,
    weights: Vec<u32>,
    /// All hosts have one weight.
    uniform: bool,
    loads: Loads,
    /// One for each priority.
    levels: Vec<Level>,
}

#[derive(Debug, Default)]
struct Level {
    all: Vec<u32>,
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    /// Hosts and effective weight of each locality, healthy and degraded.
    localities: [Vec<(Vec<u32>, f64)>; 2],
    consistent: Option<Consistent>,
}

#[derive(Debug)]
enum Consistent {
    Ring(Ring),
    Maglev(MaglevTable),
}

/// Positions of one worker in one cluster.
#[derive(Debug, Default)]
pub struct PickState {
    generation: u64,
    turns: AHashMap<SourceKey, u64>,
    schedules: AHashMap<SourceKey, Edf>,
    /// Whether the hosts of a source have one weight.
    equal: AHashMap<SourceKey, bool>,
    localities: AHashMap<(u32, usize), Edf>,
}

/// Priority, part of its hosts, and locality (`u32::MAX`: all).
type SourceKey = (u32, Part, u32);

impl Balancer {
    /// Arranges hosts. `generation` differs for every balancer of a cluster and is not 0.
    #[must_use]
    pub fn new(
        policy: &LbPolicy,
        common: &LbCommon,
        overprovisioning: u32,
        hosts: &[HostFacts<'_>],
        generation: u64,
    ) -> Self {
        let count = hosts
            .iter()
            .map(|host| host.priority + 1)
            .max()
            .unwrap_or(0);
        let mut levels: Vec<Level> = (0..count).map(|_| Level::default()).collect();
        for (host, position) in hosts.iter().zip(0..) {
            let level = &mut levels[host.priority as usize];
            level.all.push(position);
            match host.health {
                Health::Healthy => level.healthy.push(position),
                Health::Degraded => level.degraded.push(position),
                Health::Unhealthy | Health::Draining => {}
            }
        }
        let loads = Loads::new(&levels, overprovisioning, common.panic_threshold);
        for (number, level) in levels.iter_mut().enumerate() {
            if common.locality_weighted {
                level.localities = [
                    by_locality(hosts, &level.all, &level.healthy, overprovisioning),
                    by_locality(hosts, &level.all, &level.degraded, overprovisioning),
                ];
            }
            let usable = if loads.panics(number) {
                &level.all
            } else {
                &level.healthy
            };
            level.consistent = consistent(policy, hosts, usable, common.locality_weighted);
        }
        Self {
            generation,
            policy: policy.clone(),
            fail_on_panic: common
                .zone_aware
                .is_some_and(|zone| zone.fail_traffic_on_panic),
            weights: hosts.iter().map(|host| host.weight).collect(),
            uniform: hosts
                .windows(2)
                .all(|pair| pair[0].weight == pair[1].weight),
            loads,
            levels,
        }
    }

    /// Picks a host; `None` when none may be used.
    pub fn pick(&self, state: &mut PickState, context: &mut PickContext<'_>) -> Option<usize> {
        if state.generation != self.generation {
            // Turns survive, so that an unrelated update does not restart the rotation; deadlines name old positions.
            state.generation = self.generation;
            state.schedules.clear();
            state.equal.clear();
            state.localities.clear();
        }
        let mut chosen = self.pick_once(state, context, 0)?;
        for attempt in 0..context.attempts {
            if !(context.avoid)(chosen) {
                break;
            }
            chosen = self.pick_once(state, context, attempt + 1)?;
        }
        Some(chosen)
    }

    /// True when a priority ignores health because too few hosts are available.
    #[must_use]
    pub fn panics(&self, priority: usize) -> bool {
        self.loads.panics(priority)
    }

    fn pick_once(
        &self,
        state: &mut PickState,
        context: &mut PickContext<'_>,
        attempt: u32,
    ) -> Option<usize> {
        let consistent = matches!(self.policy, LbPolicy::RingHash(_) | LbPolicy::Maglev(_));
        let draw =
            if consistent { context.hash } else { None }.unwrap_or_else(|| (context.random)());
        let (number, part) = self.loads.choose(draw)?;
        let level = self.levels.get(number)?;
        if let Some(table) = &level.consistent {
            return table.pick(draw, attempt, &mut |position| {
                self.overloaded(position, level, context)
            });
        }
        let panics = self.loads.panics(number);
        if panics && self.fail_on_panic {
            return None;
        }
        let part = if panics { Part::All } else { part };
        let number = u32::try_from(number).ok()?;
        let (hosts, locality) = match part {
            Part::All => (level.all.as_slice(), u32::MAX),
            Part::Healthy => level.source(0, &level.healthy, number, state),
            Part::Degraded => level.source(1, &level.degraded, number, state),
        };
        self.pick_from(hosts, (number, part, locality), state, context)
    }

    fn pick_from(
        &self,
        hosts: &[u32],
        key: SourceKey,
        state: &mut PickState,
        context: &mut PickContext<'_>,
    ) -> Option<usize> {
        if hosts.is_empty() {
            return None;
        }
        let slow = slow_start(&self.policy);
        let equal = self.uniform
            || *state
                .equal
                .entry(key)
                .or_insert_with(|| self.equal_weights(hosts));
        if matches!(
            self.policy,
            LbPolicy::RoundRobin(_) | LbPolicy::LeastRequest(_)
        ) && (!equal || slow.is_some())
        {
            let random = (context.random)();
            let mut weight = |position: u32| self.live_weight(position, slow, context);
            let edf = state
                .schedules
                .entry(key)
                .or_insert_with(|| Edf::new(hosts, &mut weight, random));
            return edf.pick(&mut weight).map(|position| position as usize);
        }
        let position = match &self.policy {
            LbPolicy::RoundRobin(_) => {
                let random = &mut *context.random;
                let turn = state.turns.entry(key).or_insert_with(random);
                let position = hosts[index(*turn, hosts.len())];
                *turn = turn.wrapping_add(1);
                position
            }
            LbPolicy::LeastRequest(settings) => least(hosts, settings, context),
            _ => hosts[index((context.random)(), hosts.len())],
        };
        Some(position as usize)
    }

    fn equal_weights(&self, hosts: &[u32]) -> bool {
        hosts
            .windows(2)
            .all(|pair| self.weight(pair[0]) == self.weight(pair[1]))
    }

    fn weight(&self, position: u32) -> u32 {
        self.weights[position as usize]
    }

    /// The weight as it is now: scaled by slow start and, for least request, by active requests.
    fn live_weight(
        &self,
        position: u32,
        slow: Option<SlowStart>,
        context: &PickContext<'_>,
    ) -> f64 {
        let mut weight = f64::from(self.weight(position));
        if let LbPolicy::LeastRequest(settings) = &self.policy
            && settings.bias > 0.0
        {
            weight /= ((context.active)(position as usize) as f64 + 1.0).powf(settings.bias);
        }
        match slow {
            Some(slow) => weight * slow.factor((context.age)(position as usize)),
            None => weight,
        }
    }

    /// Consistent hashing with bounded load: the host has more than its share.
    fn overloaded(&self, position: u32, level: &Level, context: &PickContext<'_>) -> bool {
        let hashing = match &self.policy {
            LbPolicy::RingHash(ring) => ring.hashing,
            LbPolicy::Maglev(maglev) => maglev.hashing,
            _ => return false,
        };
        let Some(factor) = hashing.balance_factor else {
            return false;
        };
        let active = |position: &u32| (context.active)(*position as usize);
        let total: u64 = level.all.iter().map(active).sum();
        let weights: u64 = level
            .all
            .iter()
            .map(|position| u64::from(self.weight(*position)))
            .sum();
        let share = f64::from(self.weight(position)) / weights.max(1) as f64;
        let bound = ((total + 1) as f64 * share * f64::from(factor) / 100.0).ceil();
        active(&position) as f64 >= bound
    }
}

impl Level {
    /// The hosts of the part, or those of the locality whose turn it is.
    fn source<'l>(
        &'l self,
        which: usize,
        hosts: &'l [u32],
        number: u32,
        state: &mut PickState,
    ) -> (&'l [u32], u32) {
        let localities = &self.localities[which];
        if localities.is_empty() {
            return (hosts, u32::MAX);
        }
        let mut weight = |at: u32| localities[at as usize].1;
        let schedule = state.localities.entry((number, which)).or_insert_with(|| {
            let positions: Vec<u32> = (0..).take(localities.len()).collect();
            Edf::new(&positions, &mut weight, 0)
        });
        match schedule.pick(&mut weight) {
            Some(at) => (&localities[at as usize].0, at),
            None => (hosts, u32::MAX),
        }
    }
}

fn index(number: u64, length: usize) -> usize {
    usize::try_from(number % length.max(1) as u64).unwrap_or(0)
}

fn slow_start(policy: &LbPolicy) -> Option<SlowStart> {
    match policy {
        LbPolicy::RoundRobin(slow) => *slow,
        LbPolicy::LeastRequest(settings) => settings.slow_start,
        _ => None,
    }
}

impl SlowStart {
    /// Share of its weight that a host of this age gets.
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        let passed = age.as_secs_f64() / self.window.as_secs_f64();
        if passed >= 1.0 {
            return 1.0;
        }
        passed
            .powf(1.0 / self.aggression.max(f64::MIN_POSITIVE))
            .max(self.min_weight_percent / 100.0)
    }
}

fn least(hosts: &[u32], settings: &LeastRequest, context: &mut PickContext<'_>) -> u32 {
    if settings.full_scan {
        let fewest = hosts
            .iter()
            .map(|position| (context.active)(*position as usize))
            .min();
        let tied: Vec<u32> = hosts
            .iter()
            .copied()
            .filter(|position| Some((context.active)(*position as usize)) == fewest)
            .collect();
        return tied[index((context.random)(), tied.len())];
    }
    let mut best = hosts[index((context.random)(), hosts.len())];
    for _ in 1..settings.choices {
        let other = hosts[index((context.random)(), hosts.len())];
        if (context.active)(other as usize) < (context.active)(best as usize) {
            best = other;
        }
    }
    best
}

/// Hosts of each locality that has a weight, with the weight that its availability leaves it.
fn by_locality(
    hosts: &[HostFacts<'_>],
    all: &[u32],
    usable: &[u32],
    overprovisioning: u32,
) -> Vec<(Vec<u32>, f64)> {
    let mut numbers: Vec<u32> = all
        .iter()
        .map(|position| hosts[*position as usize].locality)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let within = |list: &[u32], number: u32| -> Vec<u32> {
        list.iter()
            .copied()
            .filter(|position| hosts[*position as usize].locality == number)
            .collect()
    };
    let entry = |number: u32| {
        let (total, mine) = (within(all, number), within(usable, number));
        let weight = hosts[*total.first()? as usize].locality_weight?;
        let available =
            f64::from(overprovisioning) / 100.0 * mine.len() as f64 / total.len() as f64;
        let effective = f64::from(weight) * available.min(1.0);
        (effective > 0.0).then_some((mine, effective))
    };
    numbers.into_iter().filter_map(entry).collect()
}

fn consistent(
    policy: &LbPolicy,
    hosts: &[HostFacts<'_>],
    usable: &[u32],
    locality_weighted: bool,
) -> Option<Consistent> {
    if usable.is_empty() || !matches!(policy, LbPolicy::RingHash(_) | LbPolicy::Maglev(_)) {
        return None;
    }
    let of = |position: &u32| {
        let host = &hosts[*position as usize];
        let locality = if locality_weighted {
            host.locality_weight.unwrap_or(0)
        } else {
            1
        };
        (
            *position,
            host.key,
            f64::from(host.weight) * f64::from(locality),
        )
    };
    let entries: Vec<(u32, &str, f64)> = usable
        .iter()
        .map(of)
        .filter(|(.., weight)| *weight > 0.0)
        .collect();
    let total: f64 = entries.iter().map(|(.., weight)| weight).sum();
    let entries: Vec<(u32, &str, f64)> = entries
        .into_iter()
        .map(|(position, key, weight)| (position, key, weight / total))
        .collect();
    match policy {
        LbPolicy::RingHash(settings) => Some(Consistent::Ring(Ring::new(&entries, settings))),
        LbPolicy::Maglev(settings) => Some(Consistent::Maglev(MaglevTable::new(
            &entries,
            settings.table_size,
        ))),
        _ => None,
    }
}

impl Consistent {
    fn pick(
        &self,
        hash: u64,
        attempt: u32,
        overloaded: &mut dyn FnMut(u32) -> bool,
    ) -> Option<usize> {
        // A host over its bound passes the request on; when all are over, the first one takes it.
        let first = self.at(hash, attempt)?;
        let mut chosen = first;
        let mut tries = 0;
        while overloaded(chosen) && tries < 64 {
            tries += 1;
            chosen = self.at(hash, attempt + tries)?;
        }
        Some(if tries == 64 { first } else { chosen } as usize)
    }

    fn at(&self, hash: u64, attempt: u32) -> Option<u32> {
        match self {
            Self::Ring(ring) => ring.at(hash, attempt),
            Self::Maglev(table) => table.at(hash, attempt),
        }
    }
}

#[cfg(test)]
mod tests;
