//! The life of one request, phase by phase.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use meltemi_traffic::Str;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::route::{Action, Route};
use meltemi_upstream::exchange::{BodyKind, ResponseLength};
use meltemi_upstream::http1::{Conn, Http1Error};
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::encode::reason;

use super::context::Context;
use super::downstream::{ClientError, Downstream, Http1Side};
use super::plan::{Plan, forwarded_https};
use super::record::Exchange;
use super::reply::Reply;
use super::request::Request;
use super::{demand, early, filters, forward, local_reply, respond};
use crate::idle::IdleTimer;
use crate::stats::count;

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
