//! What one snapshot means to proxies that it cannot tell apart.
//!
//! Most of what a proxy gets depends on its namespace and traits only. The answers to such questions are worked out
//! once and live as long as the snapshot that they were read from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_names::{ArcStr, Labels, Locality};

use crate::ProxyTraits;
use crate::plan::Plan;
use crate::resource::Resource;

/// Proxies that a snapshot cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    traits: ProxyTraits,
    namespace: ArcStr,
    locality: Locality,
    /// Where they matter: at gateways, and where rules or policies ask for them.
    labels: Option<Labels>,
}

impl Scope {
    pub(crate) fn of(plan: Plan<'_>) -> Self {
        let matter = plan.proxy.traits.router || plan.snapshot.client_labels_matter();
        Self {
            traits: plan.proxy.traits,
            namespace: plan.proxy.namespace.clone(),
            locality: plan.proxy.locality.clone(),
            labels: matter.then(|| plan.proxy.labels.clone()),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// Every cluster of a service.
    OutboundClusters,
    /// Every outbound listener; by the proxy's address where pods have listeners of their own.
    OutboundListeners(Option<IpAddr>),
    /// The routes of this name.
    Routes(ArcStr),
    /// The endpoints of this cluster.
    Endpoints(ArcStr),
}

/// The answers that were worked out from one snapshot.
#[derive(Default)]
pub(crate) struct Answers {
    /// Holding the mark keeps it from being given to another snapshot.
    snapshot: Arc<()>,
    by_scope: HashMap<Scope, ByQuestion, ahash::RandomState>,
}

type ByQuestion = HashMap<Question, Vec<Arc<Resource>>, ahash::RandomState>;

impl Answers {
    /// Forgets everything unless this is the snapshot that is remembered.
    pub(crate) fn turn_to(&mut self, snapshot: &Arc<()>) {
        if !Arc::ptr_eq(&self.snapshot, snapshot) {
            self.snapshot = Arc::clone(snapshot);
            self.by_scope.clear();
        }
    }

    pub(crate) fn get(&self, scope: &Scope, question: &Question) -> Option<&Vec<Arc<Resource>>> {
        self.by_scope.get(scope)?.get(question)
    }

    pub(crate) fn put(&mut self, scope: &Scope, question: Question, answer: Vec<Arc<Resource>>) {
        self.by_scope
            .entry(scope.clone())
            .or_default()
            .insert(question, answer);
    }
}
