//! Port-forward. Not served yet: kubectl's protocol for it is SPDY frames.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::query::Query;
use super::{Body, text};
use crate::kubelet::Kubelet;

pub(super) fn start(
    _: &Arc<Kubelet>,
    (namespace, pod): (&str, &str),
    _: &Query,
    _: Request<Incoming>,
) -> Response<Body> {
    let message = format!(
        "port-forward to {namespace}/{pod} is not served by this node yet; publish a Service instead"
    );
    text(StatusCode::NOT_IMPLEMENTED, message)
}
