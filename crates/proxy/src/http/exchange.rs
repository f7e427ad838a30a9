//! The life of one request, phase by phase.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use meltemi_traffic::Str;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::{ConnectionManager, RouteSource};
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::route::{
    Action, ClusterSelector, Overrides, Route, RouteTable, WeightedCluster, WeightedClusters,
};
use meltemi_traffic::select::{RouteFacts, Selected};
use meltemi_upstream::exchange::{BodyKind, ResponseLength};
use meltemi_upstream::http1::{Conn, Http1Error};
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::encode::reason;

use super::downstream::{ClientError, Downstream, Http1Side};
use super::record::Exchange;
use super::reply::Reply;
use super::request::Request;
use super::{demand, early, filters, forward, local_reply, respond};
use crate::connection::ConnInfo;
use crate::idle::IdleTimer;
use crate::listener::HttpRuntime;
use crate::state::Drain;
use crate::stats::count;
use crate::worker::Worker;

/// Time that idle connections to a replaced chain get (Istio's `drainDuration`).
const RETIRED_IDLE: std::time::Duration = std::time::Duration::from_secs(45);

/// What the exchanges of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    info: Rc<ConnInfo>,
}

impl Context {
    pub(crate) fn new(info: Rc<ConnInfo>) -> Self {
        Self { info }
    }

    /// The connection.
    pub(crate) fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// The connection, to be kept while the exchange changes.
    pub(crate) fn info_rc(&self) -> &Rc<ConnInfo> {
        &self.info
    }

    /// The worker.
    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.info.worker
    }

    /// The connection manager's run-time part.
    pub(crate) fn runtime(&self) -> &HttpRuntime {
        self.info
            .chain
            .http
            .as_ref()
            .expect("a chain with a connection manager made this context")
    }

    /// The connection manager.
    pub(crate) fn hcm(&self) -> &Arc<ConnectionManager> {
        &self.runtime().config
    }

    /// Responses should end their connections.
    pub(crate) fn is_draining(&self) -> bool {
        let process =
            self.drains_with_process() && self.worker().shared.drain_state() != Drain::Off;
        let failed = self
            .worker()
            .shared
            .health_failed
            .load(std::sync::atomic::Ordering::Relaxed);
        process || failed || *self.info.chain.retired.borrow() || self.is_drained_by_sequence()
    }

    /// A drain sequence chose this response.
    fn is_drained_by_sequence(&self) -> bool {
        let sequences = &self.worker().shared.sequences;
        self.drains_with_process()
            && sequences.closes(self.info.listener.config.direction, fastrand::f64)
    }

    /// False where only changes of the listener drain it (`drain_type: MODIFY_ONLY`).
    fn drains_with_process(&self) -> bool {
        !self.info.listener.config.drain_modify_only
    }

    /// Whether the connection stays open after a response, the last of so many; counts why not.
    pub(crate) fn keeps_open(&self, served: u32) -> bool {
        let counters = &self.runtime().stats.counters;
        let max = self.hcm().max_requests_per_connection;
        if self.is_draining() {
            count(&counters.cx_drained);
        } else if self.sheds_keepalive() {
            count(&counters.cx_no_keepalive);
        } else if max.is_some_and(|max| served >= max) {
            count(&counters.cx_max_requests);
        } else {
            return true;
        }
        false
    }

    /// The overload manager wants this connection to end with its present exchange.
    pub(crate) fn sheds_keepalive(&self) -> bool {
        self.worker().shared.overload.keepalive.hits()
    }

    /// Ready when responses should end their connections: the process drains, or the chain was replaced.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut drain = self.worker().shared.drain();
        let mut retired = self.info.chain.retired.subscribe();
        let from = if self.drains_with_process() {
            Drain::Graceful
        } else {
            Drain::Closing
        };
        async move {
            tokio::select! {
                _ = drain.wait_for(|now| *now >= from) => {}
                _ = retired.wait_for(|retired| *retired) => {}
            }
        }
    }

    /// The end may have begun: the cheap question before [`Self::closing`].
    fn may_close(&self) -> bool {
        self.worker().shared.drain_state() != Drain::Off || *self.info.chain.retired.borrow()
    }

    /// Ready when idle connections should close. A client that is about to reuse its connection to a replaced chain
    /// would lose that request, so it is told by its next response and has the drain time for it.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + use<> {
        let mut drain = self.worker().shared.drain();
        let mut retired = self.info.chain.retired.subscribe();
        let replaced = async move {
            let _ = retired.wait_for(|retired| *retired).await;
            tokio::time::sleep(RETIRED_IDLE).await;
        };
        async move {
            tokio::select! {
                _ = drain.wait_for(|now| *now >= Drain::Closing) => {}
                () = replaced => {}
            }
        }
    }
}

/// [`Context::closing`] for a connection that asks between all its requests. To watch two channels takes locks, so once it
/// watches it is only polled again when there may be something to learn.
pub(crate) struct Closing<'a, F> {
    context: &'a Context,
    ends: Pin<&'a mut F>,
    watches: bool,
}

impl<'a, F: Future<Output = ()>> Closing<'a, F> {
    pub(crate) fn new(context: &'a Context, ends: Pin<&'a mut F>) -> Self {
        let watches = false;
        Self {
            context,
            ends,
            watches,
        }
    }

    /// Ready when the connection should close. All polls must come from one task.
    pub(crate) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        if self.watches && !self.context.may_close() {
            return Poll::Pending;
        }
        self.watches = true;
        self.ends.as_mut().poll(cx)
    }
}

/// How an exchange ended, when it was not a local reply.
pub(crate) enum Ended {
    /// The response was sent completely.
    Complete,
    /// The response broke off after its head.
    Broken,
    /// The client went away.
    ClientGone(ClientError),
    /// The upstream redirects, and the request has become that of the redirect.
    Redirected(forward::KeptBody),
}

/// Serves one request; returns its lifetime when it ended without any response. Cancel-safe in the sense that dropping
/// the future still records the exchange.
pub(crate) async fn serve(
    context: &Context,
    request: Request,
    down: &mut Downstream<'_>,
    idle: &mut IdleTimer,
) -> Option<Duration> {
    let mut exchange = Exchange::new(context, request);
    idle.set_limit(context.hcm().stream_idle_timeout);
    let mut first = run(&mut exchange, down, idle).await;
    while let Ok(Ended::Redirected(body)) = first {
        exchange = exchange.redirected(body);
        idle.set_limit(context.hcm().stream_idle_timeout);
        first = route(&mut exchange, down, idle).await;
    }
    let ended = match first {
        Ok(ended) => ended,
        Err(reply) => respond::local(&mut exchange, down, reply, idle).await,
    };
    match ended {
        // Redirects were followed above.
        Ended::Complete | Ended::Redirected(_) => {}
        Ended::Broken => down.abort(),
        Ended::ClientGone(ClientError::Protocol { details })
            if exchange.status.is_none() && !down.is_http2() =>
        {
            let reply = Reply::new(StatusCode::BAD_REQUEST, "Bad Request", details)
                .flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
                .closing();
            respond::local(&mut exchange, down, reply, idle).await;
            // Its head was a request for the log.
            exchange.refused = false;
        }
        Ended::ClientGone(error) => {
            client_gone(&mut exchange, &error);
            down.abort();
        }
    }
    exchange.wire = down.take_wire();
    exchange.record();
    exchange.status.is_none().then(|| exchange.elapsed())
}

fn client_gone(exchange: &mut Exchange, error: &ClientError) {
    let (flag, details): (_, Cow<'static, str>) = match error {
        ClientError::Protocol { details } => (
            ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            Cow::Borrowed(details),
        ),
        ClientError::Reset => (
            ResponseFlags::DOWNSTREAM_REMOTE_RESET,
            "http2.remote_reset".into(),
        ),
        ClientError::Gone | ClientError::Framing => (
            ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            "downstream_remote_disconnect".into(),
        ),
    };
    exchange.flags.add(flag);
    exchange.details = details;
}

/// Early checks, then the rest.
async fn run(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    idle: &mut IdleTimer,
) -> Result<Ended, Reply> {
    let context = exchange.context.clone();
    if context.worker().shared.overload.requests.hits() {
        return Err(Reply::shed());
    }
    exchange.early = early::process(context.hcm(), context.info(), &mut exchange.request)?;
    if context.runtime().filter_missing {
        return Err(Reply::filter_missing());
    }
    if context.hcm().filters.is_empty() {
        return unanswered(down, idle).await;
    }
    route(exchange, down, idle).await
}

/// Route, filters, action.
async fn route(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    idle: &mut IdleTimer,
) -> Result<Ended, Reply> {
    let context = exchange.context.clone();
    let mut plan = Plan::find(exchange, fastrand::u64(..))?;
    super::trace::begin(exchange);
    if context.hcm().log_on_new_request {
        exchange.log("DownstreamStart", None);
    }
    if context.runtime().on_demand.is_some() {
        plan = demand::complete(exchange, plan).await?;
    }
    if plan.missing.is_none() {
        check_upgrade(exchange, &plan.route)?;
    }
    match filters::run(exchange, down, &mut plan, idle).await {
        Ok(()) => {}
        Err(filters::Stop::Reply(reply)) => return Err(reply),
        Err(filters::Stop::ClientGone(error)) => return Ok(Ended::ClientGone(error)),
    }
    count(&context.runtime().stats.counters.rq_routed);
    if let Some(reply) = plan.missing.take() {
        let counters = &context.runtime().stats.counters;
        count(if reply.flags.any_of(ResponseFlags::NO_ROUTE_FOUND) {
            &counters.no_route
        } else {
            &counters.rq_direct_response
        });
        return Err(reply);
    }
    let route = Arc::clone(&plan.route);
    match &route.action {
        Action::Redirect(redirect) => {
            count(&context.runtime().stats.counters.rq_direct_response);
            let scheme: &[u8] = if forwarded_https(&exchange.request) {
                b"https"
            } else {
                b"http"
            };
            let location = redirect.location(&route, &exchange.request, scheme);
            if let Some(path) = redirect.rewritten(&route, &exchange.request) {
                let show = !context.runtime().suppress_envoy_headers;
                forward::replace_path(&mut exchange.request, path, show);
            }
            Err(Reply::redirect(redirect.status, &location))
        }
        Action::Respond(answer) => {
            count(&context.runtime().stats.counters.rq_direct_response);
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
            let mut reply = Reply::new(status, "", "direct_response");
            reply.body = answer.body.clone();
            if status == StatusCode::CREATED || status.is_redirection() {
                reply = reply.located(&own_location(&exchange.request));
            }
            Err(reply)
        }
        Action::NonForwarding => Err(Reply::no_route()),
        Action::Forward(forward) => forward::run(exchange, down, &plan, forward, idle).await,
    }
}

/// Nobody answers where there is no filter: the client leaves, or the stream is idle for too long.
async fn unanswered(down: &mut Downstream<'_>, idle: &mut IdleTimer) -> Result<Ended, Reply> {
    std::future::poll_fn(|cx| {
        while !down.body_finished() {
            match down.poll_body(cx) {
                Poll::Ready(Ok(Piece::NeedMore)) | Poll::Pending => break,
                Poll::Ready(Ok(_)) => idle.touch(),
                Poll::Ready(Err(error)) => return Poll::Ready(Ok(Ended::ClientGone(error))),
            }
        }
        if down.body_finished()
            && let Poll::Ready(error) = down.poll_gone(cx)
        {
            return Poll::Ready(Ok(Ended::ClientGone(error)));
        }
        let complete = down.body_finished();
        idle.poll(cx).map(|()| Err(Reply::idle(complete)))
    })
    .await
}

/// Where the request itself points, which Envoy adds to direct responses of 201 and 3xx (RFC 9110 §10.2.2).
fn own_location(request: &Request) -> Vec<u8> {
    let scheme: &[u8] = if forwarded_https(request) {
        b"https://"
    } else {
        b"http://"
    };
    [scheme, &request.authority, &request.path].concat()
}

/// An upgrade passes when the route, or else the connection manager, allows it.
fn check_upgrade(exchange: &mut Exchange, route: &Route) -> Result<(), Reply> {
    let Some(asked) = &exchange.early.upgrade else {
        return Ok(());
    };
    let of = |list: &[(Str, bool)]| {
        let found = list
            .iter()
            .find(|(name, _)| name.as_bytes() == asked.as_ref());
        found.map(|(_, enabled)| *enabled)
    };
    let here = match &route.action {
        Action::Forward(forward) => of(&forward.upgrades),
        Action::Redirect(_) | Action::Respond(_) | Action::NonForwarding => None,
    };
    if here.or_else(|| of(&exchange.context.hcm().upgrades)) != Some(true) {
        return Err(Reply::new(StatusCode::FORBIDDEN, "", "upgrade_failed"));
    }
    exchange.request.body = BodyKind::Tunnel;
    Ok(())
}

/// What routing decided. Filters see the request also when there is no route; only then the client learns of it.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Decides between weighted clusters; the same for every selection of an exchange.
    draw: u64,
    /// The answer where there is no route.
    missing: Option<Reply>,
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

fn forwarded_https(request: &Request) -> bool {
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

/// Answers a request whose head could not be decoded, and records it.
pub(crate) fn refuse(context: &Context, conn: &mut Conn, error: &Http1Error) {
    let (status, details) = match error {
        Http1Error::Head(head) => (head.status(), head.details()),
        Http1Error::Body(_)
        | Http1Error::Closed
        | Http1Error::LengthMismatch
        | Http1Error::Io(_) => return,
    };
    let reply =
        Reply::new(status, reason(status), details).flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
    answer_unread(context, conn, reply);
}

/// Answers a request whose head did not come to its end in time, and records it.
pub(crate) fn refuse_slow(context: &Context, conn: &mut Conn) {
    let reply = Reply::new(
        StatusCode::REQUEST_TIMEOUT,
        "request header timeout",
        "request_header_timeout",
    );
    answer_unread(context, conn, reply);
}

/// Resets a stream whose names are refused, and records it.
pub(crate) fn refuse_stream(context: &Context, request: &Request, down: &mut Downstream<'_>) {
    let mut exchange = Exchange::new(context, Request::placeholder());
    exchange.request.protocol = request.protocol;
    exchange.flags.add(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
    exchange.details = "http2.unexpected_underscore".into();
    exchange.refused = true;
    down.abort();
    exchange.record();
}

/// Answers what never became a request.
fn answer_unread(context: &Context, conn: &mut Conn, mut reply: Reply) {
    let mut exchange = Exchange::new(context, Request::placeholder());
    exchange.flags.add(reply.flags);
    exchange.details = reply.details.clone();
    exchange.refused = true;
    let unread = conn.buffered().len() as u64;
    if let Some(config) = &context.hcm().local_reply {
        local_reply::rewrite(&mut exchange, config, reply.parts());
    }
    let (status, mut headers, body) = reply.into_response(false);
    exchange.status = Some(status);
    respond::complete(&exchange, &mut headers);
    let mut down = Downstream::Http1(Http1Side {
        conn,
        head_request: false,
        http10: false,
        keep_alive: false,
        trailers: false,
    });
    exchange.sent = body.len() as u64;
    let sent = down
        .send_head(
            status,
            &mut headers,
            ResponseLength::Known(body.len() as u64),
            false,
        )
        .and_then(|()| down.send_data(body, true));
    if let Err(error) = sent {
        tracing::debug!(%error, "refusal not sent");
    }
    exchange.wire = down.take_wire();
    exchange.wire.0 += unread;
    exchange.record();
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
    fn find(exchange: &mut Exchange, draw: u64) -> Result<Self, Reply> {
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
