//! Names on demand: a request for a virtual host or cluster that is not there waits while it is asked for.
//!
//! [`Demand`] is the side of the workers, [`Waiters`] the side of the hub. Names that do not exist are remembered, so
//! that their requests do not ask again; they stay subscribed to, so that the server can say when they come to be.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_xds::ResourceType;
use meltemi_xds::client::Update;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::hub::Hub;
use super::wishes::Owner;

/// Longest wait for a new name.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Names that do not exist, remembered for the whole process.
const MAX_ABSENT: usize = 1000;
/// New names that are asked for in one second; a flood of made-up hosts must not become one of requests to the server.
const NAMES_A_SECOND: u32 = 200;
/// Demands that wait for the hub.
const QUEUE: usize = 256;

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// A virtual host of a route configuration (by key).
    VirtualHost {
        /// The route configuration.
        table: Str,
        /// The host, in lower case.
        host: Str,
    },
    /// A cluster.
    Cluster {
        /// Where it comes from.
        source: Source,
        /// Its name.
        name: Str,
    },
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in use now.
    Loaded,
    /// The server says that it does not exist.
    Absent,
    /// No answer in time, or too many new names.
    Unavailable,
}

/// A name with the request that waits for it.
#[derive(Debug)]
pub(crate) struct Asked {
    name: Name,
    done: oneshot::Sender<Outcome>,
}

/// The side of the workers.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    hub: OnceLock<mpsc::Sender<Asked>>,
    absent: Mutex<Absent>,
    rate: Mutex<Option<(Instant, u32)>>,
}

/// Names that do not exist, oldest first.
#[derive(Debug, Default)]
struct Absent {
    names: HashSet<Name>,
    order: VecDeque<Name>,
}

impl Demand {
    /// Connects the hub, once.
    pub(crate) fn serve(&self) -> mpsc::Receiver<Asked> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let _ = self.hub.set(sender);
        receiver
    }

    /// Asks for a name and waits for it, at most `limit`.
    pub(crate) async fn ask(&self, name: Name, limit: Duration) -> Outcome {
        if self.absent.lock().names.contains(&name) {
            return Outcome::Absent;
        }
        let Some(hub) = self.hub.get() else {
            return Outcome::Unavailable;
        };
        if !self.admits(Instant::now()) {
            return Outcome::Unavailable;
        }
        let (done, answer) = oneshot::channel();
        if hub.try_send(Asked { name, done }).is_err() {
            return Outcome::Unavailable;
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Unavailable,
        }
    }

    fn admits(&self, now: Instant) -> bool {
        let mut rate = self.rate.lock();
        match &mut *rate {
            Some((since, count)) if now.duration_since(*since) < Duration::from_secs(1) => {
                *count += 1;
                *count <= NAMES_A_SECOND
            }
            other => {
                *other = Some((now, 1));
                true
            }
        }
    }

    /// Remembers that a name does not exist; returns the one that is forgotten for it.
    fn set_absent(&self, name: Name) -> Option<Name> {
        let mut absent = self.absent.lock();
        if !absent.names.insert(name.clone()) {
            return None;
        }
        absent.order.push_back(name);
        if absent.order.len() <= MAX_ABSENT {
            return None;
        }
        let oldest = absent.order.pop_front()?;
        absent.names.remove(&oldest);
        Some(oldest)
    }

    /// A name exists now.
    fn set_present(&self, name: &Name) {
        let mut absent = self.absent.lock();
        if absent.names.remove(name) {
            absent.order.retain(|have| have != name);
        }
    }
}

/// The side of the hub: who waits for which name.
#[derive(Debug, Default)]
pub(super) struct Waiters(HashMap<Name, Vec<oneshot::Sender<Outcome>>>);

impl Waiters {
    fn finish(&mut self, name: &Name, outcome: Outcome) {
        for done in self.0.remove(name).into_iter().flatten() {
            // Whoever waited may have gone.
            let _ = done.send(outcome);
        }
    }
}

/// The owner of a name that requests asked for.
fn owner(name: &Name) -> Owner {
    match name {
        Name::VirtualHost { table, host } => {
            Owner(ResourceType::VirtualHost, format!("{table}/{host}").into())
        }
        Name::Cluster { name, .. } => Owner(ResourceType::Other("demand".into()), name.clone()),
    }
}

impl Hub {
    /// Asks for a name that a request needs.
    pub(crate) fn demand(&mut self, asked: Asked) {
        let Asked { name, done } = asked;
        if self.is_loaded(&name) {
            let _ = done.send(Outcome::Loaded);
            return;
        }
        let need = match &name {
            Name::VirtualHost { table, host } => {
                let Some(from) = self.on_demand.from(table) else {
                    let _ = done.send(Outcome::Absent);
                    return;
                };
                let resource = format!("{}/{host}", from.name).into();
                let reference = Reference::new(from.source.clone(), resource, None);
                (ResourceType::VirtualHost, reference)
            }
            Name::Cluster { source, name } => (
                ResourceType::Cluster,
                Reference::new(source.clone(), name.clone(), None),
            ),
        };
        self.need_more(owner(&name), vec![need]);
        let waiting = self.waiters.0.entry(name).or_default();
        waiting.retain(|done| !done.is_closed());
        waiting.push(done);
    }

    fn is_loaded(&self, name: &Name) -> bool {
        match name {
            Name::VirtualHost { table, host } => self
                .shared
                .routes
                .get(table)
                .is_some_and(|table| table.host(host.as_bytes()).is_some()),
            Name::Cluster { name, .. } => self.shared.clusters.get(name).is_some(),
        }
    }

    /// Answers those whose name is there now.
    pub(super) fn finish_loaded(&mut self) {
        let loaded: Vec<Name> = self
            .waiters
            .0
            .keys()
            .filter(|name| self.is_loaded(name))
            .cloned()
            .collect();
        for name in loaded {
            self.waiters.finish(&name, Outcome::Loaded);
        }
    }

    /// What a response says of names on demand: some exist now, some do not.
    pub(super) fn note_names(&mut self, source: &Source, kind: &ResourceType, update: &Update) {
        let present = update
            .resources
            .iter()
            .flat_map(|received| received.aliases.iter().chain([&received.name]));
        for name in present {
            if let Some(name) = self.demanded(source, kind, name) {
                self.shared.demand.set_present(&name);
            }
        }
        for name in update.absent.iter().chain(&update.removed) {
            let Some(name) = self.demanded(source, kind, name) else {
                continue;
            };
            self.waiters.finish(&name, Outcome::Absent);
            if let Some(oldest) = self.shared.demand.set_absent(name) {
                self.need(owner(&oldest), Vec::new());
            }
        }
    }

    fn demanded(&self, source: &Source, kind: &ResourceType, name: &str) -> Option<Name> {
        self.wishes.key(source, kind, name)?;
        match kind {
            ResourceType::VirtualHost => {
                let (table, host) = name.rsplit_once('/')?;
                Some(Name::VirtualHost {
                    table: self.on_demand.key(source, table)?,
                    host: host.into(),
                })
            }
            ResourceType::Cluster => Some(Name::Cluster {
                source: source.clone(),
                name: name.into(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        Name::VirtualHost {
            table: "t".into(),
            host: format!("h{number}").into(),
        }
    }

    #[test]
    fn the_oldest_absent_name_makes_room() {
        let demand = Demand::default();
        for number in 0..MAX_ABSENT {
            assert_eq!(demand.set_absent(name(number)), None);
        }
        assert_eq!(demand.set_absent(name(5)), None);
        assert_eq!(demand.set_absent(name(MAX_ABSENT)), Some(name(0)));
        assert_eq!(demand.absent.lock().names.len(), MAX_ABSENT);
    }

    #[test]
    fn new_names_are_limited_by_the_second() {
        let demand = Demand::default();
        let now = Instant::now();
        let admitted = (0..1000).filter(|_| demand.admits(now)).count();
        assert_eq!(admitted, NAMES_A_SECOND as usize);
        assert!(demand.admits(now + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_answers_is_unavailable_after_a_second() {
        let demand = Demand::default();
        let _hub = demand.serve();
        let started = tokio::time::Instant::now();
        assert_eq!(
            demand.ask(name(1), LONGEST_WAIT).await,
            Outcome::Unavailable
        );
        assert_eq!(started.elapsed(), LONGEST_WAIT);
    }
}
