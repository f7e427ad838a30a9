//! What routing decides for an exchange: route, cluster, weighted entry, hash.

use std::sync::Arc;

use http::StatusCode;
use meltemi_traffic::Str;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::RouteSource;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::route::{
    Action, ClusterSelector, Overrides, Route, RouteTable, WeightedCluster, WeightedClusters,
};
use meltemi_traffic::select::{RouteFacts, Selected};

use super::context::Context;
use super::early;
use super::record::Exchange;
use super::reply::Reply;
use super::request::Request;

/// What routing decided. Filters see the request also when there is no route; only then the client learns of it.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Decides between weighted clusters; the same for every selection of an exchange.
    draw: u64,
    /// The answer where there is no route.
    pub missing: Option<Reply>,
    /// The weighted entry, by position.
    entry: Option<usize>,
    /// The route.
    pub route: Arc<Route>,
    /// Keeps the table of the decision alive.
    #[allow(dead_code, reason = "pins the snapshot that the decision was made in")]
    pub table: Arc<RouteTable>,
    /// Hash for consistent balancing.
    pub hash: Option<u64>,
}

fn routes(context: &Context) -> Result<Arc<RouteTable>, Reply> {
    match &context.hcm().routes {
        RouteSource::Inline(table) => Ok(Arc::clone(table)),
        RouteSource::Rds(reference) => {
            let table = context.worker().shared.routes.get(&reference.key);
            table.ok_or_else(|| {
                Reply::new(StatusCode::NOT_FOUND, "", "route_configuration_not_found")
                    .flag(ResponseFlags::NO_ROUTE_FOUND)
            })
        }
    }
}

/// The client's request came over TLS, as far as X-Forwarded-Proto says.
pub(crate) fn forwarded_https(request: &Request) -> bool {
    request
        .headers
        .get(early::X_FORWARDED_PROTO)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The route for a request, or the answer where there is none.
fn select(exchange: &mut Exchange, table: &RouteTable) -> Result<Arc<Route>, Reply> {
    let tls = exchange.context.info().tls.as_ref();
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    let mut facts = RouteFacts {
        random: exchange.early.random,
        https: false,
        external: !exchange.early.internal,
        tls_presented: peer.is_some(),
        tls_validated: peer.is_some_and(|peer| peer.validated),
        metadata: Some(&exchange.metadata),
    };
    let mut selected = table.select(&exchange.request, &facts);
    // Looked up only where a virtual host asks for it.
    if matches!(selected, Selected::HttpsRequired(_)) && forwarded_https(&exchange.request) {
        facts.https = true;
        selected = table.select(&exchange.request, &facts);
    }
    match selected {
        Selected::Route(_, route) => Ok(Arc::clone(route)),
        Selected::HttpsRequired(_) => {
            let host = &exchange.request.authority[..];
            let location = [b"https://", host, &exchange.request.path[..]].concat();
            Err(Reply::redirect(301, &location))
        }
        Selected::None(_) => Err(Reply::no_route()),
    }
}

fn route_hash(exchange: &mut Exchange, route: &Route) -> Option<u64> {
    let Action::Forward(forward) = &route.action else {
        return None;
    };
    if forward.hash.is_empty() {
        return None;
    }
    let info = exchange.context.info();
    let connection = format!("{}{}", info.remote, info.local);
    let facts = meltemi_traffic::hash::HashFacts {
        source_ip: exchange.early.remote,
        connection: &connection,
        filter_state: &exchange.filter_state,
    };
    let found = meltemi_traffic::hash::request_hash(&forward.hash, &exchange.request, &facts);
    exchange.cookie = found.set_cookie;
    found.hash
}

/// Stands in where there is no route: no filter settings, no changes, nowhere to go.
fn nowhere() -> Arc<Route> {
    static NOWHERE: std::sync::LazyLock<Arc<Route>> = std::sync::LazyLock::new(|| {
        Arc::new(Route {
            name: Str::default(),
            matches: Default::default(),
            action: Action::NonForwarding,
            request_ops: Vec::new(),
            response_ops: Vec::new(),
            overrides: Overrides::default(),
            metadata: Default::default(),
            decorator: None,
            stat_prefix: Str::default(),
            virtual_clusters: None,
            attempt_count_in_request: false,
            attempt_count_in_response: false,
            is_timeout_retry_header: false,
            retry_buffer_limit: None,
        })
    });
    Arc::clone(&NOWHERE)
}

fn position(route: &Route, entry: &WeightedCluster) -> Option<usize> {
    weighted(route)?
        .clusters
        .iter()
        .position(|have| std::ptr::eq(have, entry))
}

fn weighted(route: &Route) -> Option<&WeightedClusters> {
    match &route.action {
        Action::Forward(forward) => match &forward.cluster {
            ClusterSelector::Weighted(weighted) => Some(weighted),
            ClusterSelector::Name(_) | ClusterSelector::Header(_) => None,
        },
        Action::Redirect(_) | Action::Respond(_) | Action::NonForwarding => None,
    }
}

impl Plan {
    /// Selects the route and its cluster.
    pub(crate) fn find(exchange: &mut Exchange, draw: u64) -> Result<Self, Reply> {
        let table = routes(&exchange.context)?;
        if !exchange.early.internal {
            for name in &table.internal_only_headers {
                exchange.request.headers.remove(name);
            }
        }
        Self::within(exchange, &table, draw)
    }

    /// Selects the route and its cluster in a table.
    fn within(exchange: &mut Exchange, table: &Arc<RouteTable>, draw: u64) -> Result<Self, Reply> {
        let context = exchange.context.clone();
        let mut plan = Self {
            draw,
            missing: None,
            entry: None,
            hash: None,
            route: nowhere(),
            table: Arc::clone(table),
        };
        exchange.route = None;
        exchange.route_name = Str::default();
        exchange.cluster = None;
        exchange.cluster_name = Str::default();
        let route = match select(exchange, table) {
            Ok(route) => route,
            Err(reply) => {
                plan.missing = Some(reply);
                return Ok(plan);
            }
        };
        exchange.route_name = route.name.clone();
        exchange.route = Some(Arc::clone(&route));
        plan.hash = route_hash(exchange, &route);
        let choice = match &route.action {
            Action::Forward(forward) => forward.choose(&exchange.request, draw, plan.hash),
            Action::Redirect(_) | Action::Respond(_) | Action::NonForwarding => None,
        };
        if let Some(choice) = choice {
            exchange.cluster_name = match choice.name {
                meltemi_traffic::select::ChosenName::Configured(name) => name.clone(),
                meltemi_traffic::select::ChosenName::Given(_) => choice.name.as_str().into(),
            };
            exchange.cluster = context.worker().shared.clusters.get(&exchange.cluster_name);
            plan.entry = choice.entry.and_then(|entry| position(&route, entry));
        } else if matches!(route.action, Action::Forward(_)) {
            plan.missing = Some(Reply::no_route());
        }
        plan.route = route;
        Ok(plan)
    }

    /// The same for a request that a filter has changed.
    ///
    /// # Errors
    /// The reply when the routes themselves are gone.
    pub(crate) fn again(&self, exchange: &mut Exchange) -> Result<Self, Reply> {
        let table = routes(&exchange.context)?;
        Self::within(exchange, &table, self.draw)
    }

    /// Selects anew for a request that has become another; its route's name, `None` where there is no route.
    pub(crate) fn next_route(&self, exchange: &mut Exchange) -> Option<Str> {
        let next = self.again(exchange).ok()?;
        match &next.missing {
            None => Some(next.route.name.clone()),
            // A redirect to https is a route too, one without name.
            Some(reply) => (!reply.flags.any_of(ResponseFlags::NO_ROUTE_FOUND)).then(Str::default),
        }
    }

    /// There is no route.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing.is_some()
    }

    /// Takes the hash anew: filters may have changed what it is made of.
    pub(crate) fn hash_again(&mut self, exchange: &mut Exchange) {
        self.hash = route_hash(exchange, &self.route);
    }

    /// The weighted entry that was drawn.
    pub(crate) fn entry(&self) -> Option<&WeightedCluster> {
        weighted(&self.route)?.clusters.get(self.entry?)
    }

    /// The hash of the request decides between weighted clusters.
    pub(crate) fn chooses_by_hash(&self) -> bool {
        weighted(&self.route).is_some_and(|weighted| weighted.use_hash)
    }

    /// Filter settings of all levels.
    pub(crate) fn overrides(&self) -> &Overrides {
        self.entry()
            .map_or(&self.route.overrides, |entry| &entry.overrides)
    }

    /// Metadata that the host must have, sorted by key.
    pub(crate) fn criteria(&self) -> &[(meltemi_traffic::Str, meltemi_traffic::Value)] {
        match (self.entry(), &self.route.action) {
            (Some(entry), _) => &entry.criteria,
            (None, Action::Forward(forward)) => &forward.criteria,
            (None, _) => &[],
        }
    }

    /// Response header changes.
    pub(crate) fn response_ops(&self) -> &[HeaderOp] {
        self.entry()
            .map_or(&self.route.response_ops, |entry| &entry.response_ops)
    }

    /// Applies the request header changes.
    pub(crate) fn change_request(&self, exchange: &mut Exchange) {
        let ops = self
            .entry()
            .map_or(&self.route.request_ops, |entry| &entry.request_ops);
        exchange.change_request(ops);
    }
}
