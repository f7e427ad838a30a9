//! What a filter sees of the exchange it works on, and what it can do to it.
//!
//! The connection manager implements [`Stage`]; filters are written against it, so that they know neither sockets nor
//! phases. A filter that wants the response leaves a [`Returning`] behind; one that changes a body leaves a
//! [`Transform`]. What no filter asks for costs an exchange nothing.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_traffic::Str;
use meltemi_traffic::access::StreamInfo;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::{RequestHead, RequestHeadMut};
use meltemi_traffic::metadata::{Metadata, Value};
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::rbac::AuthzFacts;
use meltemi_traffic::route::Route;
use meltemi_upstream::exchange::ResponseLength;
use meltemi_upstream::manager::ClusterManager;
use meltemi_upstream::pool::Pools;

use crate::counters::Entered;

/// An answer that a filter gives instead of the upstream.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status for HTTP clients.
    pub status: StatusCode,
    /// gRPC status, where it does not follow from the HTTP status.
    pub grpc_status: Option<u32>,
    /// Body, and message for gRPC clients.
    pub body: Bytes,
    /// Further fields.
    pub headers: HeaderMap,
    /// Response flags.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The connection ends with it.
    pub close: bool,
}

impl Answer {
    /// An answer without flag.
    #[must_use]
    pub fn new(
        status: StatusCode,
        body: impl Into<Bytes>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            grpc_status: None,
            body: body.into(),
            headers: HeaderMap::new(),
            flags: ResponseFlags::NONE,
            details: details.into(),
            close: false,
        }
    }

    /// The same with a flag.
    #[must_use]
    pub fn flag(mut self, flag: ResponseFlags) -> Self {
        self.flags.add(flag);
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// Why a request goes no further than a filter.
#[derive(Debug)]
pub enum Stop {
    /// The filter refuses or answers.
    Answer(Box<Answer>),
    /// The client left, or its stream idled too long, while the filter made it wait; the stage knows which.
    Gone,
}

impl From<Answer> for Stop {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

/// What came of reading a request's body ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAhead {
    /// All of it is there.
    Complete,
    /// There is more than the limit.
    TooLong,
}

/// Ways to other servers: the clusters of the process through the connections of this worker.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// All clusters.
    pub clusters: Arc<ClusterManager>,
    /// This worker's connections.
    pub pools: Rc<Pools>,
}

/// The exchange under a filter.
pub trait Stage {
    /// The request's head.
    type Head: RequestHeadMut;

    /// The request as it is now.
    fn request(&self) -> &Self::Head;
    /// The request, to be changed.
    fn request_mut(&mut self) -> &mut Self::Head;
    /// The request's fields without pseudo headers.
    fn fields(&self) -> &HeaderMap;
    /// Protocol as in access logs.
    fn protocol(&self) -> &'static str;
    /// The request has no body.
    fn bodyless(&self) -> bool;
    /// The whole request was read ahead: its length is known now.
    fn set_length(&mut self, length: u64);
    /// The request's body is not announced by its length.
    fn forget_length(&mut self);
    /// Applies header changes to the request.
    fn change_request(&mut self, ops: &[HeaderOp]);
    /// Everything that access rules can ask about.
    fn with_facts<T>(&self, read: impl FnOnce(&AuthzFacts<'_, Self::Head>) -> T) -> T;
    /// Everything that formats can ask about.
    fn info(&self) -> StreamInfo<'_>;
    /// Dynamic metadata.
    fn metadata(&mut self) -> &mut Metadata;
    /// Filter state as text, by key.
    fn filter_state(&mut self) -> &mut Vec<(Str, Str)>;
    /// Response flags.
    fn flags(&mut self) -> &mut ResponseFlags;
    /// The random number that the whole exchange decides by.
    fn random(&self) -> u64;
    /// The client speaks gRPC.
    fn is_grpc(&self) -> bool;
    /// The route as selected now; `None` when there is none.
    fn route(&self) -> Option<&Arc<Route>>;
    /// The cluster the route names at the moment.
    fn cluster_name(&self) -> &Str;
    /// Statistics name of that cluster.
    fn cluster_stat_name(&self) -> Option<Str>;
    /// The node's own cluster name (`--service-cluster`).
    fn service_cluster(&self) -> &Str;
    /// Number of the connection: the key of state that belongs to it.
    fn connection_id(&self) -> u64;
    /// Ways to other servers.
    fn upstreams(&self) -> Upstreams;
    /// The route is selected anew before the next filter runs.
    fn clear_route_cache(&mut self);
    /// Holds room in a gauge until the exchange ends.
    fn keep(&mut self, room: Entered);
    /// Leaves something to be done to the response; the last one left acts first.
    fn on_response(&mut self, returning: Box<dyn Returning>);
    /// Leaves a change to the request's body.
    fn transform_request(&mut self, transform: Box<dyn Transform>);
    /// What has been read ahead of the request's body, in two runs.
    fn body(&self) -> (&[Bytes], &[Bytes]);
    /// Reads the request's body until it ends or is longer than `limit` bytes; what was read still goes upstream.
    ///
    /// # Errors
    /// [`Stop::Gone`] when the client left.
    fn read_ahead(&mut self, limit: u64) -> impl Future<Output = Result<ReadAhead, Stop>>;
    /// Waits for something, unless the client leaves first.
    ///
    /// # Errors
    /// [`Stop::Gone`] when the client left.
    fn wait<F: Future>(&mut self, what: F) -> impl Future<Output = Result<F::Output, Stop>>;
}

/// A response on its way to the client.
pub struct Response<'a> {
    /// `:status`; a filter may change it.
    pub status: StatusCode,
    /// Its fields, without those that frame the body.
    pub headers: &'a mut HeaderMap,
    /// What is known of the body's length.
    pub length: ResponseLength,
    /// Changes to the body; each sees what the one before it made.
    pub transforms: &'a mut Vec<Box<dyn Transform>>,
    /// How fast the body may go.
    pub pace: &'a mut Option<Box<crate::http::pace::Pace>>,
    /// The request that it answers.
    pub request: &'a dyn RequestHead,
    /// What formats can ask about.
    pub info: &'a StreamInfo<'a>,
    /// Dynamic metadata that filters learn from it: namespace, key and value.
    pub learned: &'a mut Vec<(Str, Str, Value)>,
    /// The proxy answers itself.
    pub local: bool,
    /// The request was a HEAD, or the status allows no body.
    pub bodyless: bool,
}

/// What a filter left to be done to the response.
pub trait Returning: std::fmt::Debug {
    /// Does it.
    fn on_response(self: Box<Self>, response: &mut Response<'_>);
}

/// Trailers, or the lack of them, at the end of a body.
pub type Trailers = Option<HeaderMap>;

/// A change to a body, piece by piece. Nothing is kept longer than the format of the body asks for.
pub trait Transform: std::fmt::Debug {
    /// What goes on instead of `data`; may be empty.
    fn data(&mut self, data: Bytes) -> Bytes;
    /// What goes on at the end, and the trailers that follow.
    fn end(&mut self, trailers: Trailers) -> (Bytes, Trailers);
}

/// Header changes that were left for the response.
#[derive(Debug)]
pub struct ChangeResponse(pub Vec<HeaderOp>);

impl Returning for ChangeResponse {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        change_response(&self.0, response);
    }
}

/// Applies header changes to a response.
pub fn change_response(ops: &[HeaderOp], response: &mut Response<'_>) {
    let heads = meltemi_traffic::access::Heads {
        request: Some(response.request),
        ..Default::default()
    };
    meltemi_traffic::mutation::apply_response(ops, response.headers, response.info, heads);
}
