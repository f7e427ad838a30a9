//! An exchange as filters see it, and what they leave with it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderMap;
use meltemi_filters::counters::Entered;
use meltemi_filters::http::pace::Pace;
use meltemi_filters::stage::{
    ReadAhead, Returning, Stage, Stop as FilterStop, Trailers, Transform, Upstreams,
};
use meltemi_traffic::Str;
use meltemi_traffic::access::StreamInfo;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::metadata::Metadata;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::rbac::AuthzFacts;
use meltemi_traffic::route::Route;
use meltemi_upstream::exchange::BodyKind;
use meltemi_wire::http1::Piece;

use super::Stop;
use crate::http::downstream::{ClientError, Downstream};
use crate::http::forward::KeptBody;
use crate::http::record::Exchange;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::idle::IdleTimer;

/// What filters left with an exchange; made when the first of them does.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// To be done to the response, the last first.
    pub returning: Vec<Box<dyn Returning>>,
    /// Changes to the response's body.
    pub response_body: Vec<Box<dyn Transform>>,
    /// How fast the response's body may go.
    pub pace: Option<Box<Pace>>,
    /// The response's body ended, with these trailers; they go when the pace allows.
    pub response_end: Option<Trailers>,
    /// Changes to the request's body.
    request_body: Vec<Box<dyn Transform>>,
    /// What was read ahead of the request's body.
    ahead: Ahead,
    /// Room that is held until the end.
    kept: Vec<Entered>,
}

/// The part of a request's body that a filter read before the rest.
#[derive(Debug, Default)]
struct Ahead {
    pieces: VecDeque<Bytes>,
    size: u64,
    end: Option<Trailers>,
}

impl Work {
    pub(super) fn has_returning(&self) -> bool {
        !self.returning.is_empty()
    }

    /// What another exchange has read of the request's body already.
    pub(crate) fn replay(&mut self, body: KeptBody) {
        self.ahead = Ahead {
            size: body.pieces.iter().map(|piece| piece.len() as u64).sum(),
            pieces: body.pieces.into(),
            end: Some(body.trailers),
        };
    }

    /// The next piece that was read ahead.
    pub(crate) fn next_ahead(&mut self) -> Option<Piece> {
        if let Some(data) = self.ahead.pieces.pop_front() {
            return Some(Piece::Data(data));
        }
        self.ahead.end.take().map(Piece::End)
    }

    /// Request data as it goes on.
    pub(crate) fn change_request_data(&mut self, data: Bytes) -> Bytes {
        change_data(&mut self.request_body, data)
    }

    /// The request's end as it goes on.
    pub(crate) fn change_request_end(&mut self, trailers: Trailers) -> (Bytes, Trailers) {
        change_end(&mut self.request_body, trailers)
    }

    /// Response data as it goes on.
    pub(crate) fn change_data(&mut self, data: Bytes) -> Bytes {
        change_data(&mut self.response_body, data)
    }

    /// The response's end as it goes on.
    pub(crate) fn change_end(&mut self, trailers: Trailers) -> (Bytes, Trailers) {
        change_end(&mut self.response_body, trailers)
    }

    /// The response's body is not sent as it comes.
    pub(crate) fn changes_response(&self) -> bool {
        !self.response_body.is_empty() || self.pace.is_some()
    }
}

fn change_data(transforms: &mut [Box<dyn Transform>], data: Bytes) -> Bytes {
    transforms
        .iter_mut()
        .fold(data, |data, transform| transform.data(data))
}

/// Ends each change in turn; what one adds at its end goes through those after it.
fn change_end(transforms: &mut [Box<dyn Transform>], mut trailers: Trailers) -> (Bytes, Trailers) {
    let mut last = Bytes::new();
    for transform in transforms {
        let before = if last.is_empty() {
            Bytes::new()
        } else {
            transform.data(last)
        };
        let (more, then) = transform.end(trailers);
        last = if before.is_empty() {
            more
        } else if more.is_empty() {
            before
        } else {
            [before, more].concat().into()
        };
        trailers = then;
    }
    (last, trailers)
}

/// The stage of the connection manager.
pub(super) struct Walk<'w, 'c> {
    exchange: &'w mut Exchange,
    down: &'w mut Downstream<'c>,
    idle: &'w mut IdleTimer,
    reselect: bool,
    gone: Option<Stop>,
}

impl<'w, 'c> Walk<'w, 'c> {
    pub(super) fn new(
        exchange: &'w mut Exchange,
        down: &'w mut Downstream<'c>,
        idle: &'w mut IdleTimer,
    ) -> Self {
        Self {
            exchange,
            down,
            idle,
            reselect: false,
            gone: None,
        }
    }

    pub(super) fn exchange(&mut self) -> &mut Exchange {
        self.exchange
    }

    /// Whether a filter asked for a new selection since the last call.
    pub(super) fn take_reselect(&mut self) -> bool {
        std::mem::take(&mut self.reselect)
    }

    /// Why the stage said [`FilterStop::Gone`].
    pub(super) fn gone(&mut self) -> Stop {
        self.gone
            .take()
            .unwrap_or(Stop::ClientGone(ClientError::Gone))
    }

    fn stop(&mut self, stop: Stop) -> FilterStop {
        self.gone = Some(stop);
        FilterStop::Gone
    }

    /// Ready when the client left or idled too long. Over HTTP/1 leaving shows only once its body has been taken.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if (self.down.is_http2() || self.down.body_finished())
            && let Poll::Ready(error) = self.down.poll_gone(cx)
        {
            return Poll::Ready(Stop::ClientGone(error));
        }
        let idle = self.idle.poll(cx);
        idle.map(|()| Stop::Reply(Reply::idle(false)))
    }
}

impl Stage for Walk<'_, '_> {
    type Head = Request;

    fn request(&self) -> &Request {
        &self.exchange.request
    }

    fn request_mut(&mut self) -> &mut Request {
        &mut self.exchange.request
    }

    fn fields(&self) -> &HeaderMap {
        &self.exchange.request.headers
    }

    fn protocol(&self) -> &'static str {
        self.exchange.request.protocol.name()
    }

    fn bodyless(&self) -> bool {
        matches!(
            self.exchange.request.body,
            BodyKind::None | BodyKind::Length(0) | BodyKind::Tunnel
        )
    }

    fn set_length(&mut self, length: u64) {
        if self.exchange.request.body == BodyKind::Stream {
            self.exchange.request.body = BodyKind::Length(length);
        }
    }

    fn forget_length(&mut self) {
        if let BodyKind::Length(_) = self.exchange.request.body {
            self.exchange.request.body = BodyKind::Stream;
        }
    }

    fn change_request(&mut self, ops: &[HeaderOp]) {
        self.exchange.change_request(ops);
    }

    fn with_facts<T>(&self, read: impl FnOnce(&AuthzFacts<'_, Request>) -> T) -> T {
        let exchange = &*self.exchange;
        let info = exchange.context.info();
        info.with_facts(|connection| {
            read(&AuthzFacts {
                request: Some(&exchange.request),
                connection,
                remote_ip: exchange.early.remote.unwrap_or_else(|| info.remote.ip()),
                tls: info.tls.is_some(),
                peer: info.tls.as_ref().and_then(|tls| tls.peer.as_ref()),
                metadata: Some(&exchange.metadata),
                filter_state: &exchange.filter_state,
            })
        })
    }

    fn info(&self) -> StreamInfo<'_> {
        self.exchange.info()
    }

    fn metadata(&mut self) -> &mut Metadata {
        &mut self.exchange.metadata
    }

    fn filter_state(&mut self) -> &mut Vec<(Str, Str)> {
        &mut self.exchange.filter_state
    }

    fn flags(&mut self) -> &mut ResponseFlags {
        &mut self.exchange.flags
    }

    fn random(&self) -> u64 {
        self.exchange.early.random
    }

    fn is_grpc(&self) -> bool {
        self.exchange.grpc
    }

    fn route(&self) -> Option<&Arc<Route>> {
        self.exchange.route.as_ref()
    }

    fn cluster_name(&self) -> &Str {
        &self.exchange.cluster_name
    }

    fn cluster_stat_name(&self) -> Option<Str> {
        let cluster = self.exchange.cluster.as_ref()?;
        Some(cluster.stat_name().into())
    }

    fn service_cluster(&self) -> &Str {
        &self.exchange.context.worker().shared.node.cluster
    }

    fn connection_id(&self) -> u64 {
        self.exchange.context.info().id
    }

    fn upstreams(&self) -> Upstreams {
        let worker = self.exchange.context.worker();
        Upstreams {
            clusters: Arc::clone(&worker.shared.clusters),
            pools: std::rc::Rc::clone(&worker.pools),
        }
    }

    fn clear_route_cache(&mut self) {
        self.reselect = true;
    }

    fn keep(&mut self, room: Entered) {
        self.exchange.work().kept.push(room);
    }

    fn on_response(&mut self, returning: Box<dyn Returning>) {
        self.exchange.work().returning.push(returning);
    }

    fn transform_request(&mut self, transform: Box<dyn Transform>) {
        self.forget_length();
        self.exchange.work().request_body.push(transform);
    }

    fn body(&self) -> (&[Bytes], &[Bytes]) {
        match &self.exchange.work {
            Some(work) => work.ahead.pieces.as_slices(),
            None => (&[], &[]),
        }
    }

    async fn read_ahead(&mut self, limit: u64) -> Result<ReadAhead, FilterStop> {
        loop {
            let ahead = &self.exchange.work().ahead;
            if ahead.size > limit {
                return Ok(ReadAhead::TooLong);
            }
            if ahead.end.is_some() {
                return Ok(ReadAhead::Complete);
            }
            let next = std::future::poll_fn(|cx| match self.down.poll_body(cx) {
                Poll::Ready(Ok(Piece::NeedMore)) | Poll::Pending => self.poll_left(cx).map(Err),
                Poll::Ready(Ok(piece)) => Poll::Ready(Ok(piece)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(Stop::ClientGone(error))),
            })
            .await;
            self.idle.touch();
            match next {
                Ok(Piece::Data(data)) => {
                    self.exchange.count_request(&data);
                    let ahead = &mut self.exchange.work().ahead;
                    ahead.size += data.len() as u64;
                    ahead.pieces.push_back(data);
                }
                Ok(Piece::End(trailers)) => {
                    self.exchange.work().ahead.end = Some(trailers);
                }
                Ok(Piece::NeedMore) => {}
                Err(stop) => return Err(self.stop(stop)),
            }
        }
    }

    async fn wait<F: Future>(&mut self, what: F) -> Result<F::Output, FilterStop> {
        let mut what = std::pin::pin!(what);
        let done = std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll_left(cx).map(Err)
        })
        .await;
        self.idle.touch();
        done.map_err(|stop| self.stop(stop))
    }
}
