//! What moves between picks: turns and deadlines of each source of hosts.

use super::edf::Edf;
use super::priority::Part;

/// Positions in one arrangement of hosts.
#[derive(Debug, Default)]
pub(super) struct SpreadState {
    generation: u64,
    levels: Vec<LevelState>,
    /// Picks that ignored health.
    pub(super) panics: u64,
}

/// Positions in one priority.
#[derive(Debug, Default)]
pub(super) struct LevelState {
    /// Of its healthy, degraded and all hosts.
    parts: [SourceState; 3],
    /// Of the localities' healthy and degraded hosts.
    pub(super) localities: [LocalityStates; 2],
}

/// Positions in the localities of one priority.
#[derive(Debug, Default)]
pub(super) struct LocalityStates {
    /// Whose turn it is.
    pub(super) schedule: Option<Edf>,
    sources: Vec<SourceState>,
}

/// Position in one list of hosts.
#[derive(Debug, Default)]
pub(super) struct SourceState {
    /// Round robin's next turn; survives new balancers, so that an unrelated update does not restart the rotation.
    pub(super) turn: Option<u64>,
    /// Deadlines; `None` inside when the hosts need none.
    pub(super) schedule: Option<Option<Edf>>,
}

impl SpreadState {
    /// Forgets what names positions of an older arrangement.
    pub(super) fn renew(&mut self, generation: u64) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        for level in &mut self.levels {
            for part in &mut level.parts {
                part.schedule = None;
            }
            for localities in &mut level.localities {
                localities.schedule = None;
                for source in &mut localities.sources {
                    source.schedule = None;
                }
            }
        }
    }

    pub(super) fn level(&mut self, number: usize) -> &mut LevelState {
        at(&mut self.levels, number)
    }
}

impl LevelState {
    pub(super) fn part(&mut self, part: Part) -> &mut SourceState {
        &mut self.parts[match part {
            Part::Healthy => 0,
            Part::Degraded => 1,
            Part::All => 2,
        }]
    }
}

impl LocalityStates {
    pub(super) fn source(&mut self, number: usize) -> &mut SourceState {
        at(&mut self.sources, number)
    }
}

fn at<T: Default>(list: &mut Vec<T>, number: usize) -> &mut T {
    if list.len() <= number {
        list.resize_with(number + 1, T::default);
    }
    &mut list[number]
}
