//! The words of the state machine, and what is remembered of each type.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use meltemi_names::ArcStr;

use crate::resource::{Resource, ResourceType};

/// Most names that one client may subscribe to, per type.
pub const MAX_NAMES: usize = 200_000;

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `StreamAggregatedResources`.
    StateOfTheWorld,
    /// `DeltaAggregatedResources`.
    Delta,
}

/// What a client wants of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Everything.
    All,
    /// These.
    Some(BTreeSet<ArcStr>),
}

/// Produces resources of one consistent state of the world.
pub trait Source {
    /// The resources of a type that these names select; unknown names are left out.
    fn resources(&self, kind: &ResourceType, names: &Names) -> Vec<Arc<Resource>>;
}

/// A request of either variant.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// Nonce of the response it answers; empty for a first or spontaneous request.
    pub nonce: String,
    /// Why the client refused that response.
    pub error: Option<String>,
    /// State of the world: the complete list. Delta: names to add (`*` = everything).
    pub subscribe: Vec<String>,
    /// Delta only: names to drop.
    pub unsubscribe: Vec<String>,
    /// Delta only: what the client still has from an earlier stream, name to version.
    pub known: HashMap<String, String>,
}

/// A response to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its type.
    pub kind: ResourceType,
    /// New or changed resources; for a full-state type in the state-of-the-world variant, all of them.
    pub resources: Vec<Arc<Resource>>,
    /// Delta only: names that are gone.
    pub removed: Vec<ArcStr>,
    /// To be repeated by the client's answer.
    pub nonce: String,
}

/// How far a client is with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStatus {
    /// Never sent.
    NotSent,
    /// The last response was accepted.
    Synced,
    /// The last response is not answered yet.
    Stale,
    /// The last response was refused.
    Error,
}

#[derive(Debug, Default)]
pub(super) struct TypeState {
    pub(super) all: bool,
    pub(super) names: BTreeSet<ArcStr>,
    /// What the client has, as far as we sent it: name to version.
    pub(super) sent: HashMap<ArcStr, Sent>,
    pub(super) last_nonce: Option<String>,
    pub(super) acked_nonce: Option<String>,
    pub(super) error: Option<String>,
    pub(super) answer_next: bool,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) version: u64,
    pub(super) resource: Option<Arc<Resource>>,
}

impl TypeState {
    pub(super) fn wanted(&self) -> Names {
        if self.all {
            Names::All
        } else {
            Names::Some(self.names.clone())
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.last_nonce.is_none() || self.last_nonce == self.acked_nonce
    }
}
