//! Moving bytes between both sides of an exchange in one task.
//!
//! Back-pressure: a side is only read while the other can take more. Bytes that are there are gathered before they
//! are flushed, so that a small message leaves in one write.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use meltemi_traffic::cluster::LbPolicy;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_upstream::exchange::{
    BodyKind, Exchange as Stream, ResponseLength, ResponseStart, StreamError, content_length,
};
use meltemi_wire::http1::Piece;
use tokio::sync::mpsc;

use super::Failure;
use super::mirror::Copied;
use super::redirect::KeptBody;
use super::reshape;
use super::timeouts::Timeouts;
use crate::http::downstream::{ClientError, Downstream};
use crate::http::exchange::Ended;
use crate::http::filters::{self, Head};
use crate::http::plan::Plan;
use crate::http::record::Exchange;
use crate::http::respond;
use crate::idle::IdleTimer;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Both sides and the exchange between them.
pub(super) struct Sides<'a, 'c> {
    pub exchange: &'a mut Exchange,
    pub down: &'a mut Downstream<'c>,
    pub stream: &'a mut Stream,
}

/// The request body on its way, kept for another attempt where that is wanted and small enough.
#[derive(Debug)]
pub(super) struct RequestBody {
    kept: Vec<Bytes>,
    kept_size: u64,
    /// Too large to keep; not told yet.
    abandoned: bool,
    keep_limit: u64,
    keeping: bool,
    /// Position in `kept` of what this attempt sends next.
    next: usize,
    /// The client's body ended, with these trailers.
    ended: Option<Option<HeaderMap>>,
    /// The end was handed to the present attempt.
    sent_end: bool,
    tunnel: bool,
    mirrors: Vec<mpsc::Sender<Copied>>,
}

impl RequestBody {
    pub(super) fn new(kind: BodyKind, keeping: bool, keep_limit: u64) -> Self {
        Self {
            kept: Vec::new(),
            kept_size: 0,
            abandoned: false,
            keep_limit,
            keeping,
            next: 0,
            ended: matches!(kind, BodyKind::None | BodyKind::Length(0)).then_some(None),
            sent_end: false,
            tunnel: kind == BodyKind::Tunnel,
            mirrors: Vec::new(),
        }
    }

    pub(super) fn mirror_to(&mut self, mirrors: Vec<mpsc::Sender<Copied>>) {
        self.mirrors = mirrors;
    }

    /// Begins from the start for a new attempt.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
        self.sent_end = false;
    }

    /// Whether it has become too large to be kept since the last call.
    pub(super) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.abandoned)
    }

    /// Nothing that was read is lost.
    pub(super) fn can_rewind(&self) -> bool {
        self.keeping
    }

    /// The whole body, when it has come and nothing of it is lost.
    pub(super) fn again(&self) -> Option<KeptBody> {
        let trailers = self.ended.clone().filter(|_| self.keeping)?;
        Some(KeptBody {
            pieces: self.kept.clone(),
            trailers,
        })
    }

    /// No further attempt: what is kept and sent can go.
    pub(super) fn forget(&mut self) {
        self.keeping = false;
        if self.next >= self.kept.len() {
            self.kept = Vec::new();
            self.next = 0;
        }
    }

    fn take(&mut self, data: &Bytes) {
        self.mirrors
            .retain(|mirror| mirror.try_send(Copied::Data(data.clone())).is_ok());
        if !self.keeping {
            return;
        }
        self.kept_size += data.len() as u64;
        if self.kept_size > self.keep_limit {
            // Too large to repeat: this attempt is the last.
            self.keeping = false;
            self.abandoned = true;
            self.kept.clear();
            self.next = 0;
        } else {
            self.kept.push(data.clone());
            self.next = self.kept.len();
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        for mirror in self.mirrors.drain(..) {
            let _ = mirror.try_send(Copied::End(trailers.clone()));
        }
        self.ended = Some(trailers);
    }

    fn is_sent(&self) -> bool {
        self.sent_end
    }
}

/// A problem on one side of the request's way.
enum RequestError {
    Client(ClientError),
    Upstream(StreamError),
}

/// Result of waiting for a response head.
pub(super) enum Waited {
    Head(ResponseStart),
    Failed(Failure),
}

/// Sends the request and waits for the response head; interim responses are passed on.
pub(super) async fn until_head(
    sides: &mut Sides<'_, '_>,
    body: &mut RequestBody,
    timeouts: &mut Timeouts,
    idle: &mut IdleTimer,
) -> Waited {
    let mut write_error: Option<StreamError> = None;
    // An interim response is on its way to the client.
    let mut unflushed = false;
    let mut sent = 0;
    std::future::poll_fn(|cx| {
        if write_error.is_none() {
            match poll_request(cx, sides, body, idle) {
                Poll::Ready(Err(RequestError::Client(error))) => {
                    return failed(Failure::Client(error));
                }
                // The upstream may have answered before it closed: look at the response first.
                Poll::Ready(Err(RequestError::Upstream(error))) => write_error = Some(error),
                Poll::Pending if sides.stream.defers() => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if let Poll::Ready(waited) = poll_head(cx, sides, &mut unflushed, idle) {
            return Poll::Ready(waited);
        }
        if let Some(error) = write_error.take() {
            return failed(Failure::Stream {
                error,
                request_sent: true,
            });
        }
        let now = sides.exchange.received;
        if std::mem::replace(&mut sent, now) != now {
            timeouts.touch();
        }
        let complete = body.is_sent() || body.tunnel;
        if complete && let Poll::Ready(error) = sides.down.poll_gone(cx) {
            return failed(Failure::Client(error));
        }
        if let Poll::Ready(failure) = timeouts.poll(cx, complete) {
            return failed(failure);
        }
        sides.exchange.poll_log(cx);
        match idle.poll(cx) {
            Poll::Ready(()) => failed(Failure::Idle {
                request_complete: complete,
            }),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Looks for the response head; interim responses go on to the client, `unflushed` tells that one is on its way.
fn poll_head(
    cx: &mut Context<'_>,
    sides: &mut Sides<'_, '_>,
    unflushed: &mut bool,
    idle: &mut IdleTimer,
) -> Poll<Waited> {
    loop {
        match sides.stream.poll_response(cx) {
            Poll::Ready(Ok(start)) if start.status.is_informational() && !start.tunnel => {
                interim(sides, start.status, start.headers);
                *unflushed = true;
            }
            Poll::Ready(Ok(start)) => {
                idle.touch();
                let now = sides.exchange.elapsed();
                sides.exchange.times.upstream_first_rx = Some(now);
                return Poll::Ready(Waited::Head(start));
            }
            Poll::Ready(Err(error)) => {
                return failed(Failure::Stream {
                    error,
                    request_sent: true,
                });
            }
            Poll::Pending => break,
        }
    }
    if *unflushed {
        match sides.down.poll_flush(cx) {
            Poll::Ready(Ok(())) => *unflushed = false,
            Poll::Ready(Err(error)) => return failed(Failure::Client(error)),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}

fn failed(failure: Failure) -> Poll<Waited> {
    Poll::Ready(Waited::Failed(failure))
}

fn interim(sides: &mut Sides<'_, '_>, status: StatusCode, mut headers: HeaderMap) {
    // Only 100 passes by default; Envoy drops other interim responses unless told otherwise.
    if status == StatusCode::CONTINUE && sides.exchange.context.hcm().proxy_100_continue {
        respond::remove_hop_by_hop(&mut headers, false);
        sides.down.send_interim(status, &headers);
    }
}

/// Moves request bytes upstream. Ready when the whole request was written.
fn poll_request(
    cx: &mut Context<'_>,
    sides: &mut Sides<'_, '_>,
    body: &mut RequestBody,
    idle: &mut IdleTimer,
) -> Poll<Result<(), RequestError>> {
    loop {
        let more = gather_request(cx, sides, body, idle)?;
        match sides.stream.poll_flush(cx) {
            Poll::Ready(Ok(())) if body.is_sent() => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) if more => {}
            Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(RequestError::Upstream(error))),
        }
    }
}

/// Hands over what is there; false when the client has nothing more for now.
fn gather_request(
    cx: &mut Context<'_>,
    sides: &mut Sides<'_, '_>,
    body: &mut RequestBody,
    idle: &mut IdleTimer,
) -> Result<bool, RequestError> {
    while !body.sent_end && !sides.stream.congested() {
        if let Some(again) = body.kept.get(body.next) {
            sides
                .stream
                .send_data(again.clone(), false)
                .map_err(RequestError::Upstream)?;
            body.next += 1;
            continue;
        }
        if let Some(trailers) = &body.ended {
            sides
                .stream
                .send_end(trailers.clone())
                .map_err(RequestError::Upstream)?;
            body.sent_end = true;
            let now = sides.exchange.elapsed();
            sides.exchange.times.request_end.get_or_insert(now);
            sides.exchange.times.upstream_last_tx = Some(now);
            return Ok(true);
        }
        if body.tunnel {
            return Ok(false);
        }
        let ahead = sides
            .exchange
            .work
            .as_mut()
            .and_then(|work| work.next_ahead());
        let counted = ahead.is_some();
        let piece = ahead.map_or_else(|| sides.down.poll_body(cx), |piece| Poll::Ready(Ok(piece)));
        match piece {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(RequestError::Client(error)),
            Poll::Ready(Ok(Piece::Data(mut data))) => {
                idle.touch();
                if !counted {
                    sides.exchange.count_request(&data);
                }
                if let Some(work) = &mut sides.exchange.work {
                    data = work.change_request_data(data);
                    if data.is_empty() {
                        continue;
                    }
                }
                body.take(&data);
                sides
                    .stream
                    .send_data(data, false)
                    .map_err(RequestError::Upstream)?;
            }
            Poll::Ready(Ok(Piece::End(trailers))) => {
                idle.touch();
                end_request(sides, body, trailers).map_err(RequestError::Upstream)?;
            }
            Poll::Ready(Ok(Piece::NeedMore)) => return Ok(false),
        }
    }
    Ok(true)
}

/// The client's body ended; what filters add to it goes first.
fn end_request(
    sides: &mut Sides<'_, '_>,
    body: &mut RequestBody,
    mut trailers: Option<HeaderMap>,
) -> Result<(), StreamError> {
    if let Some(work) = &mut sides.exchange.work {
        let (rest, then) = work.change_request_end(trailers);
        trailers = then;
        if !rest.is_empty() {
            body.take(&rest);
            sides.stream.send_data(rest, false)?;
        }
    }
    body.end(trailers);
    Ok(())
}

/// Turns the upstream's head into the client's and queues it.
pub(super) fn send_head(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    plan: &Plan,
    start: ResponseStart,
) -> Result<(), ClientError> {
    let ResponseStart {
        status,
        mut headers,
        body,
        tunnel,
        case,
    } = start;
    down.set_spelling(case);
    let bodyless =
        exchange.request.method == http::Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let announced = || content_length(&headers);
    let length = match body {
        // Announced for what a GET would have got; nothing follows.
        _ if bodyless => announced().map_or(body, ResponseLength::Known),
        // HTTP/2 has no need to announce an empty body, but passes on that the upstream did.
        _ if down.is_http2() && announced() == Some(0) => ResponseLength::Known(0),
        _ => body,
    };
    exchange.status = Some(status);
    exchange.details = "via_upstream".into();
    respond::remove_hop_by_hop(&mut headers, tunnel);
    if !tunnel && !down.body_finished() {
        // Nobody waits for the rest of the request, which cannot be told from the next one's head.
        down.close_after();
    }
    // An answer before the end of its request has no service time.
    if !exchange.context.runtime().suppress_envoy_headers
        && let Some(since) = exchange.times.request_end
    {
        let millis = exchange.elapsed().saturating_sub(since).as_millis();
        headers.insert(SERVICE_TIME, decimal(millis));
    }
    if plan.route.attempt_count_in_response {
        headers.insert(ATTEMPT_COUNT, exchange.attempts.into());
    }
    if let Some(cookie) = exchange.cookie.take()
        && hashes(exchange, plan)
        && let Ok(cookie) = HeaderValue::from_str(&cookie)
    {
        headers.append(SET_COOKIE, cookie);
    }
    crate::http::trace::on_response(exchange, &mut headers);
    respond::change(exchange, plan.response_ops(), &mut headers);
    let mut head = Head {
        status,
        headers: &mut headers,
        length,
        local: false,
    };
    filters::on_response(exchange, &mut head);
    let (status, length) = (head.status, head.length);
    exchange.status = Some(status);
    respond::complete(exchange, &mut headers);
    if exchange.keeps_response() {
        exchange.keep_response(&headers, length);
    }
    let now = exchange.elapsed();
    exchange.times.first_tx = Some(now);
    down.send_head(status, &mut headers, length, tunnel)
}

/// A number of milliseconds; those of quick answers are at hand.
fn decimal(millis: u128) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let digit = usize::try_from(millis).ok().and_then(|at| DIGITS.get(at));
    match digit {
        Some(digit) => HeaderValue::from_static(digit),
        None => u64::try_from(millis).unwrap_or(u64::MAX).into(),
    }
}

/// Whether anything asked for the request's hash; a cookie that nobody needed is not set.
fn hashes(exchange: &Exchange, plan: &Plan) -> bool {
    let by_cluster = exchange.cluster.as_ref().is_some_and(|cluster| {
        matches!(
            cluster.config.lb,
            LbPolicy::RingHash(_) | LbPolicy::Maglev(_)
        )
    });
    by_cluster || plan.chooses_by_hash()
}

/// Moves both bodies until the response is complete (a tunnel: both directions).
pub(super) async fn both(
    sides: &mut Sides<'_, '_>,
    body: &mut RequestBody,
    timeouts: &mut Timeouts,
    idle: &mut IdleTimer,
) -> Ended {
    let tunnel = body.tunnel
        && sides
            .exchange
            .status
            .is_some_and(|status| !status.is_client_error() && !status.is_server_error());
    body.tunnel = false;
    if tunnel {
        sides.down.switch_to_raw();
    }
    let mut response_done = false;
    let mut request_done = false;
    let mut moved = (0, 0);
    std::future::poll_fn(|cx| {
        if !request_done {
            match poll_request(cx, sides, body, idle) {
                Poll::Ready(Err(RequestError::Client(error))) => {
                    return Poll::Ready(Ended::ClientGone(error));
                }
                // The upstream wants no more of the request; its response still counts.
                Poll::Ready(Err(RequestError::Upstream(_))) => request_done = true,
                // An HTTP/1 client that ends its tunnel is gone, whatever is still on its way back.
                Poll::Ready(Ok(())) if tunnel && !sides.down.is_http2() => {
                    return Poll::Ready(Ended::ClientGone(ClientError::Gone));
                }
                Poll::Ready(Ok(())) => request_done = true,
                Poll::Pending => {}
            }
        }
        match poll_response(cx, sides, &mut response_done, idle) {
            Poll::Ready(Some(ended)) => return Poll::Ready(ended),
            Poll::Ready(None) if request_done || !tunnel || sides.stream.is_raw() => {
                return Poll::Ready(Ended::Complete);
            }
            Poll::Pending if sides.down.defers() => return Poll::Pending,
            Poll::Ready(None) | Poll::Pending => {}
        }
        if request_done
            && !tunnel
            && let Poll::Ready(error) = sides.down.poll_gone(cx)
        {
            return Poll::Ready(Ended::ClientGone(error));
        }
        let now = (sides.exchange.received, sides.exchange.sent);
        if std::mem::replace(&mut moved, now) != now {
            timeouts.touch();
        }
        if !tunnel && let Poll::Ready(failure) = timeouts.poll(cx, request_done) {
            late(sides.exchange, &failure);
            return Poll::Ready(Ended::Broken);
        }
        sides.exchange.poll_log(cx);
        match idle.poll(cx) {
            Poll::Ready(()) => {
                sides.exchange.flags.add(ResponseFlags::STREAM_IDLE_TIMEOUT);
                sides.exchange.details = "stream_idle_timeout".into();
                Poll::Ready(Ended::Broken)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Moves response bytes to the client. Ready with `None` when all of it was written.
fn poll_response(
    cx: &mut Context<'_>,
    sides: &mut Sides<'_, '_>,
    done: &mut bool,
    idle: &mut IdleTimer,
) -> Poll<Option<Ended>> {
    loop {
        let mut more = true;
        while !*done && more && !sides.down.congested() {
            if reshape::applies(sides.exchange) {
                match reshape::poll_response(cx, sides, done, idle) {
                    Poll::Pending => more = false,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(ended)) => return Poll::Ready(Some(ended)),
                }
                continue;
            }
            match sides.stream.poll_body(cx) {
                Poll::Pending => more = false,
                Poll::Ready(Ok(Piece::Data(data))) => {
                    idle.touch();
                    sides.exchange.count_response(&data);
                    let end = sides.stream.response_finished();
                    if let Err(error) = sides.down.send_data(data, end) {
                        return Poll::Ready(Some(Ended::ClientGone(error)));
                    }
                    *done = end;
                }
                Poll::Ready(Ok(Piece::End(trailers))) => {
                    idle.touch();
                    if let Err(error) = end_response(sides, trailers) {
                        return Poll::Ready(Some(Ended::ClientGone(error)));
                    }
                    *done = true;
                }
                Poll::Ready(Ok(Piece::NeedMore)) => more = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(broken(sides, &error))),
            }
        }
        match sides.down.poll_flush(cx) {
            Poll::Ready(Ok(())) if *done => return Poll::Ready(None),
            Poll::Ready(Ok(())) if more => {}
            Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Ended::ClientGone(error))),
        }
    }
}

pub(super) fn end_response(
    sides: &mut Sides<'_, '_>,
    trailers: Option<HeaderMap>,
) -> Result<(), ClientError> {
    if sides.exchange.keeps_response() {
        sides.exchange.trailers.clone_from(&trailers);
    }
    sides.down.send_end(trailers)
}

/// Time is up after the head was sent.
fn late(exchange: &mut Exchange, failure: &Failure) {
    exchange.details = match failure {
        Failure::MaxDuration { .. } => "max_duration_timeout".into(),
        Failure::PerTryTimeout { .. } => "upstream_per_try_idle_timeout".into(),
        _ => "response_timeout".into(),
    };
    if !matches!(failure, Failure::MaxDuration { .. }) {
        exchange.flags.add(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
    }
}

/// The upstream broke off after its head.
pub(super) fn broken(sides: &mut Sides<'_, '_>, error: &StreamError) -> Ended {
    let (flag, reason) = match error {
        StreamError::Terminated => (
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "connection_termination",
        ),
        StreamError::Refused | StreamError::RemoteReset => {
            (ResponseFlags::UPSTREAM_REMOTE_RESET, "remote_reset")
        }
        StreamError::LocalReset => (ResponseFlags::LOCAL_RESET, "local_reset"),
        StreamError::Protocol(_) | StreamError::HeadersTooLarge => {
            (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol_error")
        }
    };
    if let Some(cluster) = &sides.exchange.cluster
        && matches!(error, StreamError::Refused | StreamError::RemoteReset)
    {
        crate::stats::count(&cluster.stats.rq_rx_reset);
    }
    sides.exchange.flags.add(flag);
    sides.exchange.details = format!("upstream_reset_after_response_started{{{reason}}}").into();
    Ended::Broken
}
