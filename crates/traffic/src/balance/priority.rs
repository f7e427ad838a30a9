//! How load spreads over priorities, and which of them panic.

use super::Level;

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
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

fn share(count: usize, total: usize, factor: u32) -> u32 {
    if total == 0 {
        return 0;
    }
    let percent = u64::from(factor) * count as u64 / total as u64;
    u32::try_from(percent.min(100)).unwrap_or(100)
}

impl Loads {
    pub(super) fn new(levels: &[Level], overprovisioning: u32, panic_threshold: f64) -> Self {
        let health: Vec<u32> = levels
            .iter()
            .map(|l| share(l.healthy.len(), l.all.len(), overprovisioning))
            .collect();
        let degraded: Vec<u32> = levels
            .iter()
            .map(|l| share(l.degraded.len(), l.all.len(), overprovisioning))
            .collect();
        let total = (health.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        let below = |level: &Level| {
            let available = level.healthy.len() + level.degraded.len();
            let percent = 100.0 * available as f64 / level.all.len().max(1) as f64;
            percent < panic_threshold
        };
        // Enough capacity somewhere means that no priority has to use unhealthy hosts.
        let panic: Vec<bool> = levels
            .iter()
            .map(|level| total < 100 && below(level))
            .collect();
        if !panic.is_empty() && panic.iter().all(|panics| *panics) {
            return Self::by_size(levels, panic);
        }
        let mut left = 100;
        let mut spread = |parts: &[u32]| -> Vec<u32> {
            let take = |part: &u32| {
                let taken = (part * 100).checked_div(total).unwrap_or(0).min(left);
                left -= taken;
                taken
            };
            parts.iter().map(take).collect()
        };
        let (mut healthy, mut degraded) = (spread(&health), spread(&degraded));
        // What rounding left over goes to the first priority that can take anything.
        if total > 0 && left > 0 {
            if let Some(first) = healthy.iter_mut().find(|load| **load > 0) {
                *first += left;
            } else if let Some(first) = degraded.iter_mut().find(|load| **load > 0) {
                *first += left;
            }
        }
        Self {
            healthy,
            degraded,
            panic,
        }
    }

    /// Everything panics: load follows the number of hosts.
    fn by_size(levels: &[Level], panic: Vec<bool>) -> Self {
        let hosts: usize = levels.iter().map(|level| level.all.len()).sum();
        let mut healthy: Vec<u32> = levels
            .iter()
            .map(|level| share(level.all.len(), hosts, 100))
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
            degraded: vec![0; levels.len()],
            healthy,
            panic,
        }
    }

    pub(super) fn panics(&self, priority: usize) -> bool {
        self.panic.get(priority).copied().unwrap_or(false)
    }

    /// The priority for a random number or hash.
    pub(super) fn choose(&self, number: u64) -> Option<(usize, Part)> {
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
}
