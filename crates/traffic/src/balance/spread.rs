//! One set of hosts (the cluster's, or a subset's) spread over priorities and localities.

use super::consistent::Consistent;
use super::edf::Edf;
use super::priority::{Loads, Part};
use super::state::{LevelState, LocalityStates, SourceState, SpreadState};
use super::{HostFacts, PickContext, Rules, index};
use crate::cluster::{LbPolicy, LeastRequest, SlowStart};
use crate::endpoint::Health;

/// Hosts arranged by priority, health and locality.
#[derive(Debug)]
pub(super) struct Spread {
    policy: LbPolicy,
    fail_on_panic: bool,
    /// Weight of every host of the cluster, by position.
    weights: Vec<u32>,
    loads: Loads,
    /// One for each priority.
    levels: Vec<Level>,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub(super) all: Vec<u32>,
    pub(super) healthy: Vec<u32>,
    pub(super) degraded: Vec<u32>,
    /// How many of `all` are not counted.
    pub(super) excluded: usize,
    /// Hosts and effective weight of each locality, healthy and degraded.
    localities: [Vec<(Vec<u32>, f64)>; 2],
    consistent: Option<Consistent>,
}

impl Spread {
    /// Arranges those hosts whose positions are given.
    pub(super) fn new(rules: Rules<'_>, hosts: &[HostFacts<'_>], positions: &[u32]) -> Self {
        let count = hosts
            .iter()
            .map(|host| host.priority + 1)
            .max()
            .unwrap_or(0);
        let mut levels: Vec<Level> = (0..count).map(|_| Level::default()).collect();
        for position in positions {
            let host = &hosts[*position as usize];
            let level = &mut levels[host.priority as usize];
            level.all.push(*position);
            level.excluded += usize::from(host.excluded);
            match host.health {
                Health::Healthy => level.healthy.push(*position),
                Health::Degraded => level.degraded.push(*position),
                Health::Unhealthy | Health::Draining => {}
            }
        }
        let loads = Loads::new(&levels, hosts, &rules);
        let locality_weighted = rules.common.locality_weighted;
        for (number, level) in levels.iter_mut().enumerate() {
            if locality_weighted {
                level.localities = [
                    by_locality(hosts, &level.all, &level.healthy, rules.overprovisioning),
                    by_locality(hosts, &level.all, &level.degraded, rules.overprovisioning),
                ];
            }
            let usable = if loads.panics(number) {
                &level.all
            } else {
                &level.healthy
            };
            level.consistent = Consistent::new(rules.policy, hosts, usable, locality_weighted);
        }
        Self {
            policy: rules.policy.clone(),
            fail_on_panic: rules
                .common
                .zone_aware
                .is_some_and(|zone| zone.fail_traffic_on_panic),
            weights: hosts.iter().map(|host| host.weight).collect(),
            loads,
            levels,
        }
    }

    pub(super) fn panics(&self, priority: usize) -> bool {
        self.loads.panics(priority)
    }

    #[cfg(test)]
    pub(super) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// True when there is any host, usable or not.
    pub(super) fn has_hosts(&self) -> bool {
        self.levels.iter().any(|level| !level.all.is_empty())
    }

    /// Picks, and again while the choice is to be avoided.
    pub(super) fn pick(
        &self,
        state: &mut SpreadState,
        context: &mut PickContext<'_>,
    ) -> Option<usize> {
        if matches!(self.policy, LbPolicy::RingHash(_) | LbPolicy::Maglev(_)) {
            return self.pick_consistently(state, context);
        }
        let mut chosen = self.pick_once(state, context)?;
        for _ in 0..context.attempts {
            if !(context.avoid)(chosen) {
                break;
            }
            chosen = self.pick_once(state, context)?;
        }
        Some(chosen)
    }

    fn pick_consistently(
        &self,
        state: &mut SpreadState,
        context: &mut PickContext<'_>,
    ) -> Option<usize> {
        let hash = context.hash.unwrap_or_else(|| (context.random)());
        let (number, _) = self.priority(hash, context)?;
        state.panics += u64::from(self.loads.panics(number));
        let table = self.levels.get(number)?.consistent.as_ref()?;
        let mut chosen = table.pick(hash, 0, context.active)?;
        for attempt in 0..context.attempts {
            if !(context.avoid)(chosen) {
                break;
            }
            chosen = table.pick(hash, attempt + 1, context.active)?;
        }
        Some(chosen)
    }

    fn priority(&self, draw: u64, context: &PickContext<'_>) -> Option<(usize, Part)> {
        if context.avoid_priorities.is_empty() {
            return self.loads.choose(draw);
        }
        self.loads
            .without(context.avoid_priorities)
            .map_or_else(|| self.loads.choose(draw), |loads| loads.choose(draw))
    }

    fn pick_once(&self, state: &mut SpreadState, context: &mut PickContext<'_>) -> Option<usize> {
        let draw = (context.random)();
        let (number, part) = self.priority(draw, context)?;
        let level = self.levels.get(number)?;
        state.panics += u64::from(self.loads.panics(number));
        let positions = state.level(number);
        if self.loads.panics(number) {
            if self.fail_on_panic {
                return None;
            }
            return self.pick_from(&level.all, positions.part(Part::All), context);
        }
        let (hosts, which) = match part {
            Part::All => (&level.all, None),
            Part::Healthy => (&level.healthy, Some(0)),
            Part::Degraded => (&level.degraded, Some(1)),
        };
        let locality = which.and_then(|which| level.locality(which, positions, context));
        match locality {
            Some((hosts, source)) => self.pick_from(hosts, source, context),
            None => self.pick_from(hosts, positions.part(part), context),
        }
    }

    fn pick_from(
        &self,
        hosts: &[u32],
        source: &mut SourceState,
        context: &mut PickContext<'_>,
    ) -> Option<usize> {
        if hosts.is_empty() {
            return None;
        }
        let slow = match &self.policy {
            LbPolicy::RoundRobin(slow) => *slow,
            LbPolicy::LeastRequest(settings) => settings.slow_start,
            _ => {
                let position = hosts[index((context.random)(), hosts.len())];
                return Some(position as usize);
            }
        };
        if source.schedule.is_none() {
            source.schedule = Some(self.schedule(hosts, slow, context));
        }
        if let Some(Some(schedule)) = &mut source.schedule {
            let mut weight = |position: u32| self.live_weight(position, slow, context);
            return schedule.pick(&mut weight).map(|position| position as usize);
        }
        let position = match &self.policy {
            LbPolicy::LeastRequest(settings) => least(hosts, settings, context),
            _ => {
                let random = &mut *context.random;
                let turn = source.turn.get_or_insert_with(random);
                let position = hosts[index(*turn, hosts.len())];
                *turn = turn.wrapping_add(1);
                position
            }
        };
        Some(position as usize)
    }

    /// Deadlines, where weights differ or a host starts slowly; else hosts are picked without them.
    fn schedule(
        &self,
        hosts: &[u32],
        slow: Option<SlowStart>,
        context: &mut PickContext<'_>,
    ) -> Option<Edf> {
        if hosts.len() < 2 {
            return None;
        }
        let equal = hosts
            .windows(2)
            .all(|pair| self.weight(pair[0]) == self.weight(pair[1]));
        let starting = slow.is_some_and(|slow| {
            hosts
                .iter()
                .any(|position| (context.age)(*position as usize) <= slow.window)
        });
        if equal && !starting {
            return None;
        }
        let seed = (context.random)();
        let mut weight = |position: u32| self.live_weight(position, slow, context);
        Some(Edf::with_picks(hosts, &mut weight, seed))
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
}

impl Level {
    /// The locality whose turn it is; `None` when localities are not weighted.
    fn locality<'l, 's>(
        &'l self,
        which: usize,
        state: &'s mut LevelState,
        context: &mut PickContext<'_>,
    ) -> Option<(&'l Vec<u32>, &'s mut SourceState)> {
        let localities = &self.localities[which];
        if localities.is_empty() {
            return None;
        }
        let mut weight = |at: u32| localities[at as usize].1;
        let states: &mut LocalityStates = &mut state.localities[which];
        let random = &mut *context.random;
        let schedule = states.schedule.get_or_insert_with(|| {
            let positions: Vec<u32> = (0..).take(localities.len()).collect();
            Edf::with_picks(&positions, &mut weight, random())
        });
        let at = schedule.pick(&mut weight)? as usize;
        Some((&localities[at].0, states.source(at)))
    }
}

fn least(hosts: &[u32], settings: &LeastRequest, context: &mut PickContext<'_>) -> u32 {
    if settings.full_scan {
        return least_of_all(hosts, context);
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

/// The host with the fewest requests; each of several has the same chance.
fn least_of_all(hosts: &[u32], context: &mut PickContext<'_>) -> u32 {
    let mut best = hosts[0];
    let mut tied = 1;
    for position in &hosts[1..] {
        let (mine, least) = (
            (context.active)(*position as usize),
            (context.active)(best as usize),
        );
        if mine < least {
            (best, tied) = (*position, 1);
        } else if mine == least {
            tied += 1;
            if (context.random)().is_multiple_of(tied) {
                best = *position;
            }
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
    let facts = |position: &u32| &hosts[*position as usize];
    let mut numbers: Vec<u32> = all.iter().map(|at| facts(at).locality).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let entry = |number: u32| {
        let within = |at: &&u32| facts(at).locality == number;
        let counted = all.iter().filter(within).filter(|at| !facts(at).excluded);
        let total = counted.count();
        let weight = facts(all.iter().find(within)?).locality_weight?;
        let mine: Vec<u32> = usable.iter().filter(within).copied().collect();
        let available = f64::from(overprovisioning) / 100.0 * mine.len() as f64 / total as f64;
        let effective = f64::from(weight) * available.min(1.0);
        (total > 0 && effective > 0.0).then_some((mine, effective))
    };
    numbers.into_iter().filter_map(entry).collect()
}
