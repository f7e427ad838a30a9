//! From a snapshot and a proxy to resources, each rendered once for all proxies that share its input.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use meltemi_model::Snapshot;
use meltemi_names::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH, PASSTHROUGH};
use meltemi_names::{ArcStr, ClusterName};

use crate::answers::{Answers, Question, Scope};
use crate::cluster::{inbound, outbound, special};
use crate::listener;
use crate::plan::{GatewayPlan, Plan};
use crate::resource::{Resource, ResourceKind};
use crate::{ProxyKind, ProxyView, endpoint, route};

/// Which resources of a kind are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// All that the proxy gets; of kinds that are asked for by name, those its own configuration refers to.
    All,
    /// Those of these names.
    Named(&'a [ArcStr]),
}

/// Renders resources and remembers them by their inputs.
#[derive(Default)]
pub struct Generator {
    outbound_clusters: Memo<outbound::OutboundClusterInput, Arc<Resource>>,
    inbound_clusters: Memo<inbound::InboundClusterInput, Arc<Resource>>,
    special_clusters: Memo<special::SpecialClustersInput, Vec<Arc<Resource>>>,
    endpoints: Memo<endpoint::EndpointInput, Arc<Resource>>,
    routes: Memo<route::RouteInput, Arc<Resource>>,
    virtual_outbound: Memo<listener::outbound::VirtualOutboundInput, Arc<Resource>>,
    outbound_listeners: Memo<listener::outbound::OutboundListenerInput, Arc<Resource>>,
    inbound_listeners: Memo<listener::inbound::InboundListenerInput, Arc<Resource>>,
    gateway_listeners: Memo<listener::gateway::GatewayListenerInput, Arc<Resource>>,
    answers: Answers,
}

impl Generator {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The resources of a kind that a proxy gets. A name that means nothing to this proxy yields nothing, except for
    /// the endpoints of an unknown service: their absence must be told, or the client would wait for them.
    pub fn generate(
        &mut self,
        snapshot: &Snapshot,
        proxy: &ProxyView,
        kind: ResourceKind,
        wanted: Wanted<'_>,
    ) -> Vec<Arc<Resource>> {
        let plan = Plan::new(snapshot, proxy);
        let scope = &Scope::of(plan);
        self.answers.turn_to(snapshot.identity());
        match (kind, wanted) {
            (ResourceKind::Cluster, Wanted::All) => self.all_clusters(plan, scope),
            (ResourceKind::Cluster, Wanted::Named(names)) => names
                .iter()
                .filter_map(|name| self.cluster(plan, name))
                .collect(),
            (ResourceKind::Endpoints, Wanted::Named(names)) => names
                .iter()
                .flat_map(|name| self.endpoints(plan, scope, name))
                .collect(),
            (ResourceKind::Endpoints, Wanted::All) => {
                let inputs = plan.outbound_clusters();
                let names = inputs
                    .iter()
                    .map(|input| ArcStr::from(input.name().to_string()));
                names
                    .flat_map(|name| self.endpoints(plan, scope, &name))
                    .collect()
            }
            (ResourceKind::Listener, Wanted::All) => self.all_listeners(plan, scope),
            (ResourceKind::Listener, Wanted::Named(names)) => {
                let mut all = self.all_listeners(plan, scope);
                all.retain(|listener| names.contains(&listener.name));
                all
            }
            (ResourceKind::Route, Wanted::Named(names)) => self.routes(plan, scope, names),
            (ResourceKind::Route, Wanted::All) => {
                let names = plan.route_names();
                self.routes(plan, scope, &names)
            }
        }
    }

    /// Forgets what was not used since the last call, so that memory follows what proxies have now.
    pub fn forget_unused(&mut self) {
        self.outbound_clusters.forget_unused();
        self.inbound_clusters.forget_unused();
        self.special_clusters.forget_unused();
        self.endpoints.forget_unused();
        self.routes.forget_unused();
        self.virtual_outbound.forget_unused();
        self.outbound_listeners.forget_unused();
        self.inbound_listeners.forget_unused();
        self.gateway_listeners.forget_unused();
    }

    /// The answer to a question, worked out when nobody of this scope has asked before.
    fn answer(
        &mut self,
        scope: &Scope,
        question: Question,
        work_out: impl FnOnce(&mut Self) -> Vec<Arc<Resource>>,
    ) -> Vec<Arc<Resource>> {
        if let Some(known) = self.answers.get(scope, &question) {
            return known.clone();
        }
        let answer = work_out(self);
        self.answers.put(scope, question, answer.clone());
        answer
    }

    fn all_clusters(&mut self, plan: Plan<'_>, scope: &Scope) -> Vec<Arc<Resource>> {
        let mut out = self.answer(scope, Question::OutboundClusters, |this| {
            let inputs = plan.outbound_clusters().into_iter();
            inputs.map(|input| this.outbound_cluster(input)).collect()
        });
        if plan.proxy.kind == ProxyKind::Sidecar {
            for input in plan.inbound_clusters() {
                out.push(self.inbound_cluster(input));
            }
        }
        out.extend(self.special(plan));
        out
    }

    fn cluster(&mut self, plan: Plan<'_>, name: &str) -> Option<Arc<Resource>> {
        if matches!(name, BLACK_HOLE | PASSTHROUGH | INBOUND_PASSTHROUGH) {
            return self
                .special(plan)
                .into_iter()
                .find(|cluster| cluster.name == name);
        }
        let parsed = ClusterName::parse(name)?;
        if let Some(input) = plan.outbound_cluster_named(&parsed) {
            return Some(self.outbound_cluster(input));
        }
        let mut inbound = plan.inbound_clusters().into_iter();
        let input = inbound.find(|input| parsed == ClusterName::inbound(input.port))?;
        Some(self.inbound_cluster(input))
    }

    fn outbound_cluster(&mut self, input: outbound::OutboundClusterInput) -> Arc<Resource> {
        self.outbound_clusters.get(input, |input| {
            let message = outbound::outbound(input);
            Resource::new(message.name.clone(), ResourceKind::Cluster, &message)
        })
    }

    fn inbound_cluster(&mut self, input: inbound::InboundClusterInput) -> Arc<Resource> {
        self.inbound_clusters.get(input, |input| {
            let message = inbound::inbound(input);
            Resource::new(message.name.clone(), ResourceKind::Cluster, &message)
        })
    }

    fn special(&mut self, plan: Plan<'_>) -> Vec<Arc<Resource>> {
        self.special_clusters.get(plan.special_clusters(), |input| {
            let messages = special::special(input);
            messages
                .iter()
                .map(|m| Resource::new(m.name.clone(), ResourceKind::Cluster, m))
                .collect()
        })
    }

    fn endpoints(&mut self, plan: Plan<'_>, scope: &Scope, name: &ArcStr) -> Vec<Arc<Resource>> {
        let render = |input: &endpoint::EndpointInput| {
            let message = endpoint::endpoints(input);
            Resource::new(
                message.cluster_name.clone(),
                ResourceKind::Endpoints,
                &message,
            )
        };
        self.answer(scope, Question::Endpoints(name.clone()), |this| {
            let input = plan.endpoints(name).into_iter();
            input
                .map(|input| this.endpoints.get(input, render))
                .collect()
        })
    }

    fn routes(&mut self, plan: Plan<'_>, scope: &Scope, names: &[ArcStr]) -> Vec<Arc<Resource>> {
        let render = |input: &route::RouteInput| {
            let message = route::routes(input);
            Resource::new(message.name.clone(), ResourceKind::Route, &message)
        };
        let input = |name: &ArcStr| match plan.proxy.kind {
            ProxyKind::Sidecar => plan.sidecar_routes(name),
            ProxyKind::Router => GatewayPlan::new(plan).routes(name),
        };
        let one = |name: &ArcStr| {
            self.answer(scope, Question::Routes(name.clone()), |this| {
                let input = input(name).into_iter();
                input.map(|input| this.routes.get(input, render)).collect()
            })
        };
        names.iter().flat_map(one).collect()
    }

    fn all_listeners(&mut self, plan: Plan<'_>, scope: &Scope) -> Vec<Arc<Resource>> {
        let render = |message: &crate::pb::listener::Listener| {
            Resource::new(message.name.clone(), ResourceKind::Listener, message)
        };
        if plan.proxy.kind == ProxyKind::Router {
            let inputs = GatewayPlan::new(plan).listeners();
            let make = |input: &_| render(&listener::gateway::gateway(input));
            return inputs
                .into_iter()
                .map(|input| self.gateway_listeners.get(input, make))
                .collect();
        }
        let mut out = vec![
            self.virtual_outbound.get(plan.virtual_outbound(), |input| {
                render(&listener::outbound::virtual_outbound(input))
            }),
            self.inbound_listeners
                .get(plan.inbound_listener(), |input| {
                    render(&listener::inbound::virtual_inbound(input))
                }),
        ];
        let make = |input: &_| render(&listener::outbound::outbound(input));
        let own = plan
            .proxy
            .addresses
            .first()
            .copied()
            .filter(|_| plan.has_pod_listeners());
        out.extend(
            self.answer(scope, Question::OutboundListeners(own), |this| {
                let inputs = plan.outbound_listeners().into_iter();
                inputs
                    .map(|input| this.outbound_listeners.get(input, make))
                    .collect()
            }),
        );
        out
    }
}

impl Plan<'_> {
    /// The routes that the proxy's own listeners refer to.
    pub(crate) fn route_names(self) -> Vec<ArcStr> {
        if self.proxy.kind == ProxyKind::Router {
            let listeners = GatewayPlan::new(self).listeners();
            let chains = listeners.into_iter().flat_map(|listener| listener.chains);
            return chains
                .filter_map(|chain| match chain.traffic {
                    listener::gateway::GatewayTraffic::Http(name) => Some(name),
                    listener::gateway::GatewayTraffic::Tcp(_) => None,
                })
                .collect();
        }
        let mut names: Vec<ArcStr> = self
            .outbound_listeners()
            .into_iter()
            .filter_map(|listener| Some(listener.http?.route))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Outputs by input, each with a mark whether it was used since the marks were cleared.
struct Memo<K, V>(HashMap<K, (V, bool), ahash::RandomState>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Hash + Eq, V: Clone> Memo<K, V> {
    fn get(&mut self, key: K, make: impl FnOnce(&K) -> V) -> V {
        if let Some((value, used)) = self.0.get_mut(&key) {
            *used = true;
            return value.clone();
        }
        let value = make(&key);
        self.0.insert(key, (value.clone(), true));
        value
    }

    fn forget_unused(&mut self) {
        self.0.retain(|_, (_, used)| std::mem::take(used));
    }
}
