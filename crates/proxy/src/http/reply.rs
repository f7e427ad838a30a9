//! Local replies: what the proxy answers itself, with status, body, flag and details as Envoy has them.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use meltemi_filters::stage::Answer;
use meltemi_traffic::access::grpc_status_of;
use meltemi_traffic::flags::ResponseFlags;

/// `x-envoy-overloaded`.
pub(crate) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer that the proxy makes itself; boxed, because it travels as the error of every phase.
#[derive(Debug, Clone)]
pub(crate) struct Reply(Box<ReplyParts>);

impl std::ops::Deref for Reply {
    type Target = ReplyParts;
    fn deref(&self) -> &ReplyParts {
        &self.0
    }
}

impl std::ops::DerefMut for Reply {
    fn deref_mut(&mut self) -> &mut ReplyParts {
        &mut self.0
    }
}

/// What an answer is made of.
#[derive(Debug, Clone)]
pub(crate) struct ReplyParts {
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
    /// The connection cannot go on.
    pub close: bool,
    /// A filter made it: only the response header changes of a route that forwards apply.
    pub by_filter: bool,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self(Box::new(ReplyParts {
            status: answer.status,
            grpc_status: answer.grpc_status,
            body: answer.body,
            headers: answer.headers,
            flags: answer.flags,
            details: answer.details,
            close: answer.close,
            by_filter: true,
        }))
    }
}

impl Reply {
    /// A reply without flag.
    pub(crate) fn new(
        status: StatusCode,
        body: &'static str,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(ReplyParts {
            status,
            grpc_status: None,
            body: Bytes::from_static(body.as_bytes()),
            headers: HeaderMap::new(),
            flags: ResponseFlags::NONE,
            details: details.into(),
            close: false,
            by_filter: false,
        }))
    }

    /// The same with a flag.
    pub(crate) fn flag(mut self, flag: ResponseFlags) -> Self {
        self.flags.add(flag);
        self
    }

    /// The same, ending the connection.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The same with a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// 400 to a request that breaks the protocol.
    pub(crate) fn bad_request(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "", details)
    }

    /// 404: no route.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", "route_not_found").flag(ResponseFlags::NO_ROUTE_FOUND)
    }

    /// The configuration of a filter was not discovered: nothing may pass without it.
    pub(crate) fn filter_missing() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "",
            "filter_chain_not_found",
        )
        .flag(ResponseFlags::NO_FILTER_CONFIG_FOUND)
    }

    /// A name on demand that nobody supplied in time.
    pub(crate) fn on_demand_unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "", "on_demand_unavailable")
            .flag(ResponseFlags::NO_ROUTE_FOUND)
    }

    /// The route's cluster does not exist.
    pub(crate) fn no_cluster(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self::new(status, "", "cluster_not_found").flag(ResponseFlags::NO_CLUSTER_FOUND)
    }

    /// No host may be used.
    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            "no_healthy_upstream",
        )
        .flag(ResponseFlags::NO_HEALTHY_UPSTREAM)
    }

    /// The control plane wants all requests dropped, or this one among some.
    pub(crate) fn drop_overload(all: bool, suppress_headers: bool) -> Self {
        let (body, details, flag, name) = if all {
            (
                "unconditional drop overload",
                "unconditional_drop_overload",
                ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
                "x-envoy-unconditional-drop-overload",
            )
        } else {
            (
                "drop overload",
                "drop_overload",
                ResponseFlags::DROP_OVERLOAD,
                "x-envoy-drop-overload",
            )
        };
        let reply = Self::new(StatusCode::SERVICE_UNAVAILABLE, body, details).flag(flag);
        if suppress_headers {
            return reply;
        }
        let name = HeaderName::from_static(name);
        reply.header(name, HeaderValue::from_static("true"))
    }

    /// A circuit breaker is full.
    pub(crate) fn overflow() -> Self {
        let body =
            "upstream connect error or disconnect/reset before headers. reset reason: overflow";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            body,
            "upstream_reset_before_response_started{overflow}",
        )
        .flag(ResponseFlags::UPSTREAM_OVERFLOW)
        .header(OVERLOADED, HeaderValue::from_static("true"))
    }

    /// The overload manager takes no requests.
    pub(crate) fn shed() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "envoy overloaded",
            "overload",
        )
    }

    /// Nothing happened for too long, before or after the request was complete.
    pub(crate) fn idle(request_complete: bool) -> Self {
        let status = if request_complete {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        Self::new(status, "stream timeout", "stream_idle_timeout")
            .flag(ResponseFlags::STREAM_IDLE_TIMEOUT)
    }

    /// The route's timeout.
    pub(crate) fn timeout(details: &'static str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            details,
        )
        .flag(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT)
    }

    /// A redirect.
    pub(crate) fn redirect(status: u16, location: &[u8]) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
        let reply = Self::new(status, "", "direct_response");
        match HeaderValue::from_bytes(location) {
            Ok(location) => reply.header(LOCATION, location),
            Err(_) => Self::bad_request("invalid_redirect_location"),
        }
    }

    /// The reply with a `location`; one that is no field value is left out.
    pub(crate) fn located(self, location: &[u8]) -> Self {
        match HeaderValue::from_bytes(location) {
            Ok(location) => self.header(LOCATION, location),
            Err(_) => self,
        }
    }

    /// What the reply is made of, to be changed.
    pub(crate) fn parts(&mut self) -> &mut ReplyParts {
        &mut self.0
    }

    /// Turns the reply into a response: as it is for HTTP, trailers-only for gRPC.
    pub(crate) fn into_response(self, grpc: bool) -> (StatusCode, HeaderMap, Bytes) {
        let reply = *self.0;
        let mut headers = reply.headers;
        if grpc {
            let status = reply
                .grpc_status
                .unwrap_or_else(|| grpc_status_of(Some(reply.status.as_u16())));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers
                .entry(GRPC_STATUS)
                .or_insert_with(|| HeaderValue::from(status));
            // JSON formats end their line.
            let text = reply.body.strip_suffix(b"\n").unwrap_or(&reply.body);
            if !text.is_empty()
                && let Ok(message) = HeaderValue::from_str(&percent_encode(text))
            {
                headers.insert(GRPC_MESSAGE, message);
            }
            return (StatusCode::OK, headers, Bytes::new());
        }
        if reply.body.is_empty() {
            headers.remove(CONTENT_TYPE);
        } else if !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (reply.status, headers, reply.body)
    }
}

/// gRPC's encoding of `grpc-message`: printable ASCII but `%` stays.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b' '..=b'~') && *byte != b'%' {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_gets_status_and_message_in_headers() {
        let (status, headers, body) = Reply::no_healthy_upstream().into_response(true);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "no healthy upstream");
        assert!(body.is_empty());
    }

    #[test]
    fn an_http_client_gets_the_sentence_as_text() {
        let (status, headers, body) = Reply::no_healthy_upstream().into_response(false);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(body, "no healthy upstream");
    }
}
