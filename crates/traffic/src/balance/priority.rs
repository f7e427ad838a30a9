//! How load spreads over priorities, and which of them panic.

use super::spread::Level;
use super::{HostFacts, Rules};

/// Which hosts of a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Healthy ones.
    Healthy,
    /// Degraded ones.
    Degraded,
    /// All, because of panic.
    All,
}

/// Shares of load in percent, by priority.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// What is available of each priority, in percent with over-provisioning: healthy and degraded.
    available: Vec<(u32, u32)>,
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

fn share(count: u64, total: u64, factor: u32) -> u32 {
    let percent = (u64::from(factor) * count).checked_div(total);
    u32::try_from(percent.unwrap_or(0).min(100)).unwrap_or(100)
}

impl Loads {
    pub(super) fn new(levels: &[Level], hosts: &[HostFacts<'_>], rules: &Rules<'_>) -> Self {
        let size = |list: &[u32]| -> u64 {
            if rules.weighted_health {
                let weight = |at: &u32| u64::from(hosts[*at as usize].weight);
                list.iter().map(weight).sum()
            } else {
                list.len() as u64
            }
        };
        let counted = |level: &Level| (level.all.len() - level.excluded) as u64;
        let available: Vec<(u32, u32)> = levels
            .iter()
            .map(|level| {
                let total = if rules.weighted_health {
                    size(&level.all)
                } else {
                    counted(level)
                };
                let of = |list: &[u32]| share(size(list), total, rules.overprovisioning);
                (of(&level.healthy), of(&level.degraded))
            })
            .collect();
        // Envoy rounds the threshold to a whole percentage.
        let threshold = rules.common.panic_threshold.round().min(100.0);
        let below = |level: &Level| {
            let usable = (level.healthy.len() + level.degraded.len()) as f64;
            let percent = match counted(level) {
                0 => 0.0,
                total => 100.0 * usable / total as f64,
            };
            percent < threshold
        };
        let total = normalized_total(&available);
        // Enough capacity somewhere means that no priority has to use unhealthy hosts.
        let panic: Vec<bool> = levels
            .iter()
            .map(|level| total < 100 && below(level))
            .collect();
        if !panic.is_empty() && panic.iter().all(|panics| *panics) {
            return Self::by_size(levels, panic);
        }
        Self::by_availability(available, panic)
    }

    fn by_availability(available: Vec<(u32, u32)>, panic: Vec<bool>) -> Self {
        let total = normalized_total(&available);
        let mut left = 100;
        let mut take = |part: u32| {
            let taken = (part * 100).checked_div(total).unwrap_or(0).min(left);
            left -= taken;
            taken
        };
        let mut healthy: Vec<u32> = available.iter().map(|(part, _)| take(*part)).collect();
        let mut degraded: Vec<u32> = available.iter().map(|(_, part)| take(*part)).collect();
        // What rounding left over goes to the first priority that can take anything.
        if total > 0 && left > 0 {
            if let Some(first) = available.iter().position(|(part, _)| *part > 0) {
                healthy[first] += left;
            } else if let Some(first) = available.iter().position(|(_, part)| *part > 0) {
                degraded[first] += left;
            }
        }
        Self {
            available,
            healthy,
            degraded,
            panic,
        }
    }

    /// Everything panics: load follows the number of hosts.
    fn by_size(levels: &[Level], panic: Vec<bool>) -> Self {
        let hosts: u64 = levels.iter().map(|level| level.all.len() as u64).sum();
        let mut healthy: Vec<u32> = levels
            .iter()
            .map(|level| share(level.all.len() as u64, hosts, 100))
            .collect();
        let left = 100 - healthy.iter().sum::<u32>().min(100);
        if let Some(first) = healthy
            .iter_mut()
            .zip(levels)
            .find(|(_, level)| !level.all.is_empty())
        {
            *first.0 += left;
        }
        Self {
            available: vec![(0, 0); levels.len()],
            degraded: vec![0; levels.len()],
            healthy,
            panic,
        }
    }

    /// The loads when some priorities are to be avoided; `None` when nothing would be left.
    pub(super) fn without(&self, avoided: &[u32]) -> Option<Self> {
        let left: Vec<(u32, u32)> = self
            .available
            .iter()
            .zip(0..)
            .map(|(parts, number)| {
                if avoided.contains(&number) {
                    (0, 0)
                } else {
                    *parts
                }
            })
            .collect();
        (normalized_total(&left) > 0).then(|| Self::by_availability(left, self.panic.clone()))
    }

    pub(super) fn panics(&self, priority: usize) -> bool {
        self.panic.get(priority).copied().unwrap_or(false)
    }

    /// The priority for a random number or hash.
    pub(super) fn choose(&self, number: u64) -> Option<(usize, Part)> {
        if self.healthy.first() == Some(&100) {
            return Some((0, Part::Healthy));
        }
        let draw = u32::try_from(number % 100).unwrap_or(0) + 1;
        let mut sum = 0;
        for (loads, part) in [
            (&self.healthy, Part::Healthy),
            (&self.degraded, Part::Degraded),
        ] {
            for (priority, load) in loads.iter().enumerate() {
                sum += load;
                if draw <= sum {
                    return Some((priority, part));
                }
            }
        }
        None
    }

    #[cfg(test)]
    pub(super) fn healthy(&self) -> &[u32] {
        &self.healthy
    }

    #[cfg(test)]
    pub(super) fn degraded(&self) -> &[u32] {
        &self.degraded
    }
}

/// Everything that is available, at most the whole.
fn normalized_total(available: &[(u32, u32)]) -> u32 {
    let sum: u32 = available
        .iter()
        .map(|(healthy, degraded)| healthy + degraded)
        .sum();
    sum.min(100)
}
