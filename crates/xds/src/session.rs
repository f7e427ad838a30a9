//! One client's subscriptions: what it asked for, what it was sent, what it accepted. No I/O, no clock.
//!
//! Requests and snapshots go in, [`Outgoing`] messages come out. A push is made before it breaks:
//!
//! 1. clusters that are new or changed, and endpoints; the client warms them;
//! 2. when the client has answered and has asked for the endpoints of every new cluster (or the deadline of the
//!    caller has passed, [`Session::give_up_waiting`]): listeners, routes, secrets and the rest;
//! 3. last, removed clusters, which nothing refers to any more.
//!
//! A snapshot that arrives during a push replaces the one that waits: at most one push is pending.

mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meltemi_names::ArcStr;

use crate::resource::{Resource, ResourceType};

pub use state::{Incoming, MAX_NAMES, Names, Outgoing, Protocol, Source, SyncStatus};
use state::{Sent, TypeState};

#[derive(Debug)]
struct WaitingPush {
    /// Endpoint names that the client has not asked for yet.
    endpoints: BTreeSet<ArcStr>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    types: BTreeMap<ResourceType, TypeState>,
    waiting: Option<WaitingPush>,
    nonce: u64,
    nonce_salt: String,
}

impl Session {
    /// A new stream; `nonce_salt` makes its nonces differ from those of other streams.
    #[must_use]
    pub fn new(protocol: Protocol, nonce_salt: impl Into<String>) -> Self {
        Self {
            protocol,
            types: BTreeMap::new(),
            waiting: None,
            nonce: 0,
            nonce_salt: nonce_salt.into(),
        }
    }

    /// True while a push waits for the client to warm its clusters.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Status per type that the client has asked for.
    pub fn status(&self) -> impl Iterator<Item = (&ResourceType, SyncStatus, Option<&str>)> {
        self.types.iter().map(|(kind, state)| {
            let status = match (&state.last_nonce, &state.error) {
                (None, _) => SyncStatus::NotSent,
                (Some(_), Some(_)) => SyncStatus::Error,
                (Some(_), None) if state.is_answered() => SyncStatus::Synced,
                (Some(_), None) => SyncStatus::Stale,
            };
            (kind, status, state.error.as_deref())
        })
    }

    /// Handles a request; answers come from `source`.
    pub fn request(
        &mut self,
        kind: &ResourceType,
        request: Incoming,
        source: &dyn Source,
    ) -> Vec<Outgoing> {
        let mut out = match self.protocol {
            Protocol::StateOfTheWorld => self.request_sotw(kind, request, source),
            Protocol::Delta => self.request_delta(kind, request, source),
        };
        self.resume(source, &mut out);
        out
    }

    /// Sends what differs in a new state of the world; see the module documentation for the order.
    pub fn push(&mut self, source: &dyn Source) -> Vec<Outgoing> {
        let mut out = Vec::new();
        let mut endpoints = BTreeSet::new();
        let mut changed = BTreeSet::new();
        if let Some(Difference { update, .. }) =
            self.difference(&ResourceType::Cluster, source, Removals::Keep)
        {
            let watched = self
                .types
                .get(&ResourceType::Endpoint)
                .map(|state| &state.names);
            for name in update
                .iter()
                .filter_map(|resource| resource.waits_for.clone())
            {
                if watched.is_some_and(|names| names.contains(&name)) {
                    changed.insert(name);
                } else {
                    endpoints.insert(name);
                }
            }
            let message = self.send(&ResourceType::Cluster, update, Vec::new());
            out.push(message);
            if let Some(state) = self.types.get_mut(&ResourceType::Endpoint) {
                state.answer_next = true;
            }
        }
        // A changed cluster warms again and waits for its endpoints, also when they are as before.
        if let Some(state) = self.types.get_mut(&ResourceType::Endpoint) {
            state.sent.retain(|name, _| !changed.contains(name));
        }
        // Endpoints that vanish with their cluster are no removal: the cluster still serves until routes have moved.
        if let Some(Difference { update, .. }) =
            self.difference(&ResourceType::Endpoint, source, Removals::Keep)
        {
            let message = self.send(&ResourceType::Endpoint, update, Vec::new());
            out.push(message);
        }
        self.waiting = Some(WaitingPush { endpoints });
        self.resume(source, &mut out);
        out
    }

    /// Goes on with a push although the client has not warmed everything.
    pub fn give_up_waiting(&mut self, source: &dyn Source) -> Vec<Outgoing> {
        let mut out = Vec::new();
        if self.waiting.take().is_some() {
            self.finish_push(source, &mut out);
        }
        out
    }

    fn resume(&mut self, source: &dyn Source, out: &mut Vec<Outgoing>) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let clusters_answered = self
            .types
            .get(&ResourceType::Cluster)
            .is_none_or(TypeState::is_answered);
        if let Some(endpoints) = self.types.get(&ResourceType::Endpoint) {
            waiting
                .endpoints
                .retain(|name| !endpoints.sent.contains_key(name));
        }
        if clusters_answered && waiting.endpoints.is_empty() {
            self.waiting = None;
            self.finish_push(source, out);
        }
    }

    fn finish_push(&mut self, source: &dyn Source, out: &mut Vec<Outgoing>) {
        let late =
            |kind: &ResourceType| !matches!(kind, ResourceType::Cluster | ResourceType::Endpoint);
        let kinds: Vec<_> = self
            .types
            .keys()
            .filter(|kind| late(kind))
            .cloned()
            .collect();
        for kind in kinds {
            out.extend(self.send_difference(&kind, source));
        }
        out.extend(self.send_difference(&ResourceType::Cluster, source));
    }

    /// Istio's order of checks: refusal, unsubscription, (re)subscription, stale, acceptance.
    fn request_sotw(
        &mut self,
        kind: &ResourceType,
        request: Incoming,
        source: &dyn Source,
    ) -> Vec<Outgoing> {
        let is_new = self
            .types
            .get(kind)
            .is_none_or(|state| state.last_nonce.is_none());
        if request.error.is_some() {
            if let Some(state) = self.types.get_mut(kind) {
                state.acked_nonce.clone_from(&state.last_nonce);
                state.error = request.error;
            }
            return Vec::new();
        }
        if !kind.is_wildcard() && request.subscribe.is_empty() {
            self.types.remove(kind);
            return Vec::new();
        }
        let names: BTreeSet<ArcStr> = request
            .subscribe
            .iter()
            .take(MAX_NAMES)
            .map(|name| name.as_str().into())
            .collect();
        let state = self.types.entry(kind.clone()).or_default();
        if request.nonce.is_empty() || is_new {
            *state = TypeState {
                all: kind.is_wildcard() && names.is_empty(),
                names,
                ..TypeState::default()
            };
            return self.answer(kind, source).into_iter().collect();
        }
        if state.last_nonce.as_deref() != Some(request.nonce.as_str()) {
            return Vec::new();
        }
        state.acked_nonce = Some(request.nonce);
        state.error = None;
        let added: BTreeSet<ArcStr> = names.difference(&state.names).cloned().collect();
        let always = std::mem::take(&mut state.answer_next);
        state.names = names;
        let names = &state.names;
        if !state.all {
            state.sent.retain(|name, _| names.contains(name));
        }
        if always && added.is_empty() {
            state.sent.clear();
            return self.answer(kind, source).into_iter().collect();
        }
        if added.is_empty() {
            return Vec::new();
        }
        self.answer_names(kind, added, source).into_iter().collect()
    }

    fn request_delta(
        &mut self,
        kind: &ResourceType,
        request: Incoming,
        source: &dyn Source,
    ) -> Vec<Outgoing> {
        let first = !self.types.contains_key(kind);
        let state = self.types.entry(kind.clone()).or_default();
        if !request.nonce.is_empty() {
            if state.last_nonce.as_deref() != Some(request.nonce.as_str()) {
                // Istiod drops the whole request; the specification asks to honour the names in it, and so do we.
                return self
                    .change_names(kind, &request, source)
                    .into_iter()
                    .collect();
            }
            state.acked_nonce = Some(request.nonce.clone());
            state.error = request.error.clone();
        }
        if first {
            for (name, version) in request.known.iter().take(MAX_NAMES) {
                let version = u64::from_str_radix(version, 16).unwrap_or(0);
                state.sent.insert(
                    name.as_str().into(),
                    Sent {
                        version,
                        resource: None,
                    },
                );
            }
            if kind.is_wildcard() && request.subscribe.is_empty() {
                state.all = true;
            }
            // The known ones of a by-name type were subscribed to before the reconnection.
            if !kind.is_wildcard() {
                state
                    .names
                    .extend(request.known.keys().map(|name| ArcStr::from(name.as_str())));
            }
            self.note_names(kind, &request);
            return self.answer(kind, source).into_iter().collect();
        }
        self.change_names(kind, &request, source)
            .into_iter()
            .collect()
    }

    fn note_names(&mut self, kind: &ResourceType, request: &Incoming) -> BTreeSet<ArcStr> {
        let state = self.types.entry(kind.clone()).or_default();
        let mut added = BTreeSet::new();
        for name in &request.subscribe {
            if name == "*" {
                state.all = true;
            } else if state.names.len() < MAX_NAMES {
                state.names.insert(name.as_str().into());
                added.insert(name.as_str().into());
            }
        }
        for name in &request.unsubscribe {
            if name == "*" {
                state.all = false;
            } else {
                state.names.remove(name.as_str());
                state.sent.remove(name.as_str());
            }
        }
        added
    }

    fn change_names(
        &mut self,
        kind: &ResourceType,
        request: &Incoming,
        source: &dyn Source,
    ) -> Option<Outgoing> {
        let added = self.note_names(kind, request);
        if added.is_empty() {
            None
        } else {
            self.answer_names(kind, added, source)
        }
    }

    /// Answers added names, also when the client has them already. A name that does not exist is reported as
    /// removed (delta), so that the client stops waiting for it.
    fn answer_names(
        &mut self,
        kind: &ResourceType,
        added: BTreeSet<ArcStr>,
        source: &dyn Source,
    ) -> Option<Outgoing> {
        let resources = source.resources(kind, &Names::Some(added.clone()));
        let mut missing = added;
        for resource in &resources {
            missing.remove(&resource.name);
        }
        let removed = if self.protocol == Protocol::Delta {
            missing.into_iter().collect()
        } else {
            Vec::new()
        };
        if resources.is_empty() && removed.is_empty() {
            return None;
        }
        Some(self.send(kind, resources, removed))
    }

    /// Answers a subscription as a whole. A first wildcard request is always answered, even with nothing.
    fn answer(&mut self, kind: &ResourceType, source: &dyn Source) -> Option<Outgoing> {
        let empty = || kind.is_full_state().then(Difference::default);
        let difference = self
            .difference(kind, source, Removals::Apply)
            .or_else(empty)?;
        Some(self.send_all(kind, difference))
    }

    fn send_difference(&mut self, kind: &ResourceType, source: &dyn Source) -> Option<Outgoing> {
        let difference = self.difference(kind, source, Removals::Apply)?;
        Some(self.send_all(kind, difference))
    }

    /// Sends a difference and forgets what is gone; only the delta variant names it.
    fn send_all(&mut self, kind: &ResourceType, difference: Difference) -> Outgoing {
        if let Some(state) = self.types.get_mut(kind) {
            for name in &difference.gone {
                state.sent.remove(name);
            }
        }
        let removed = match self.protocol {
            Protocol::Delta => difference.gone,
            Protocol::StateOfTheWorld => Vec::new(),
        };
        self.send(kind, difference.update, removed)
    }

    /// What must be sent so that the client has what `source` says; `None` when it has it.
    fn difference(
        &self,
        kind: &ResourceType,
        source: &dyn Source,
        removals: Removals,
    ) -> Option<Difference> {
        let state = self.types.get(kind)?;
        let mut now = source.resources(kind, &state.wanted());
        let is_new = |resource: &Arc<Resource>| {
            state
                .sent
                .get(&resource.name)
                .is_none_or(|sent| sent.version != resource.version)
        };
        let changed = now.iter().any(is_new);
        let gone: Vec<ArcStr> = match removals {
            Removals::Keep => Vec::new(),
            Removals::Apply => {
                let names: BTreeSet<&ArcStr> = now.iter().map(|resource| &resource.name).collect();
                let is_gone = |name: &&ArcStr| !names.contains(name);
                state.sent.keys().filter(is_gone).cloned().collect()
            }
        };
        if !changed && gone.is_empty() {
            return None;
        }
        if self.protocol == Protocol::Delta || !kind.is_full_state() {
            now.retain(is_new);
            let is_told = !now.is_empty() || (!gone.is_empty() && self.protocol == Protocol::Delta);
            return is_told.then_some(Difference { update: now, gone });
        }
        if removals == Removals::Keep {
            let names: BTreeSet<ArcStr> =
                now.iter().map(|resource| resource.name.clone()).collect();
            let kept = state.sent.iter().filter(|(name, _)| !names.contains(*name));
            now.extend(kept.filter_map(|(_, sent)| sent.resource.clone()));
        }
        Some(Difference { update: now, gone })
    }

    fn send(
        &mut self,
        kind: &ResourceType,
        resources: Vec<Arc<Resource>>,
        removed: Vec<ArcStr>,
    ) -> Outgoing {
        self.nonce += 1;
        let nonce = format!("{}-{}", self.nonce_salt, self.nonce);
        let keep = self.protocol == Protocol::StateOfTheWorld && kind.is_full_state();
        let state = self.types.entry(kind.clone()).or_default();
        for resource in &resources {
            let sent = Sent {
                version: resource.version,
                resource: keep.then(|| Arc::clone(resource)),
            };
            state.sent.insert(resource.name.clone(), sent);
        }
        state.last_nonce = Some(nonce.clone());
        Outgoing {
            kind: kind.clone(),
            resources,
            removed,
            nonce,
        }
    }
}

/// What a client lacks, and what it has that no longer exists.
#[derive(Debug, Default)]
struct Difference {
    update: Vec<Arc<Resource>>,
    gone: Vec<ArcStr>,
}

/// What a difference does about resources that no longer exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removals {
    /// They stay for now (clusters, in the first part of a push).
    Keep,
    /// They go.
    Apply,
}

#[cfg(test)]
mod tests;
