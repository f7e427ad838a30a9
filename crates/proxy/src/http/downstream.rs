//! The client's side of one exchange, whatever protocol it speaks.
//!
//! The counterpart of `meltemi_upstream::exchange`: `poll_` functions on `&mut self`, so one task pumps both sides.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, UPGRADE};
use meltemi_upstream::exchange::ResponseLength;
use meltemi_upstream::http1::{Conn, Http1Error};
use meltemi_upstream::http2;
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::case::HeaderCase;
use meltemi_wire::http1::encode::ResponseBody;

/// Why the client's side ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The client went away.
    #[error("client disconnected")]
    Gone,
    /// The client reset the stream.
    #[error("client reset the stream")]
    Reset,
    /// The client broke the protocol.
    #[error("client broke the protocol: {details}")]
    Protocol {
        /// Response code details.
        details: &'static str,
    },
    /// We could not frame our own response.
    #[error("response could not be framed")]
    Framing,
}

impl From<Http1Error> for ClientError {
    fn from(error: Http1Error) -> Self {
        match error {
            Http1Error::Body(meltemi_wire::http1::body::BodyError::Malformed) => Self::Protocol {
                details: "http1.codec_error",
            },
            Http1Error::Head(head) => Self::Protocol {
                details: head.details(),
            },
            Http1Error::LengthMismatch => Self::Framing,
            Http1Error::Body(_) | Http1Error::Closed | Http1Error::Io(_) => Self::Gone,
        }
    }
}

impl From<h2::Error> for ClientError {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() && error.is_remote() {
            Self::Reset
        } else if error.is_io() || error.is_go_away() {
            Self::Gone
        } else {
            Self::Protocol {
                details: "http2.violation.of.messaging.rule",
            }
        }
    }
}

/// The client's side of one exchange.
#[derive(Debug)]
pub(crate) enum Downstream<'c> {
    /// HTTP/1: the connection itself.
    Http1(Http1Side<'c>),
    /// HTTP/2: one stream.
    Http2(Http2Side),
}

/// HTTP/1: what the response's framing depends on.
#[derive(Debug)]
pub(crate) struct Http1Side<'c> {
    pub conn: &'c mut Conn,
    /// The request was a HEAD.
    pub head_request: bool,
    /// The client speaks HTTP/1.0: no chunked coding, keep-alive is announced.
    pub http10: bool,
    /// Another request may follow.
    pub keep_alive: bool,
    /// Trailers are passed on.
    pub trailers: bool,
}

/// HTTP/2: both halves of the stream.
#[derive(Debug)]
pub(crate) struct Http2Side {
    pub recv: http2::Recv,
    pub respond: SendResponse<Bytes>,
    /// The request was a HEAD.
    pub head_request: bool,
    pub send: Option<http2::Send>,
}

impl Downstream<'_> {
    /// The next piece of the request body.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ClientError>> {
        match self {
            Self::Http1(side) => match ready!(side.conn.poll_body(cx))? {
                Piece::End(Some(_)) if !side.trailers => Poll::Ready(Ok(Piece::End(None))),
                piece => Poll::Ready(Ok(piece)),
            },
            Self::Http2(side) => side.recv.poll_body(cx).map_err(ClientError::from),
        }
    }

    /// The whole request was taken.
    pub(crate) fn body_finished(&self) -> bool {
        match self {
            Self::Http1(side) => side.conn.body_finished(),
            Self::Http2(side) => side.recv.is_finished(),
        }
    }

    /// Ready when the client goes away while nothing is expected from it. Pipelined bytes do not count.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<ClientError> {
        match self {
            Self::Http1(side) => {
                while side.conn.buffered().is_empty() {
                    match ready!(side.conn.poll_fill(cx)) {
                        Ok(0) | Err(_) => return Poll::Ready(ClientError::Gone),
                        Ok(_) => {}
                    }
                }
                Poll::Pending
            }
            Self::Http2(side) => {
                let reset = match &mut side.send {
                    Some(send) => ready!(send.poll_reset(cx)),
                    None => ready!(side.respond.poll_reset(cx)),
                };
                Poll::Ready(match reset {
                    Ok(_) => ClientError::Reset,
                    Err(_) => ClientError::Gone,
                })
            }
        }
    }

    /// Sends an interim response (1xx).
    pub(crate) fn send_interim(&mut self, status: StatusCode, headers: &HeaderMap) {
        match self {
            Self::Http1(side) => {
                if !side.http10 {
                    side.conn.send_response(
                        status,
                        headers,
                        ResponseBody::Unannounced,
                        None,
                        false,
                    );
                }
            }
            Self::Http2(side) => {
                let mut head = http::Response::new(());
                *head.status_mut() = status;
                *head.headers_mut() = headers.clone();
                if let Err(error) = side.respond.send_informational(head) {
                    tracing::debug!(%error, "interim response not sent");
                }
            }
        }
    }

    /// Sends the response head. `headers` must not hold framing fields; HTTP/2 takes them away.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn send_head(
        &mut self,
        status: StatusCode,
        headers: &mut HeaderMap,
        length: ResponseLength,
        tunnel: bool,
    ) -> Result<(), ClientError> {
        match self {
            Self::Http1(side) => {
                side.send_head(status, headers, length, tunnel);
                Ok(())
            }
            Self::Http2(side) => {
                let bodyless =
                    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
                if let ResponseLength::Known(length) = length {
                    headers.insert(CONTENT_LENGTH, length.into());
                }
                let is_empty = matches!(length, ResponseLength::Empty | ResponseLength::Known(0));
                let end = (is_empty || side.head_request || bodyless) && !tunnel;
                let mut head = http::Response::new(());
                *head.status_mut() = status;
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    // HTTP/2 agrees to an extended CONNECT like to any other (RFC 8441 §5).
                    *head.status_mut() = StatusCode::OK;
                    headers.remove(UPGRADE);
                    headers.remove(CONNECTION);
                }
                *head.headers_mut() = std::mem::take(headers);
                let send = side.respond.send_response(head, end)?;
                side.send = Some(http2::Send::new(send, end));
                Ok(())
            }
        }
    }

    /// The response's names go out as the upstream spelt them.
    pub(crate) fn set_spelling(&mut self, case: Option<Arc<HeaderCase>>) {
        if let Self::Http1(side) = self {
            side.conn.set_spelling(case);
        }
    }

    /// True while the upstream should not be read.
    pub(crate) fn congested(&self) -> bool {
        match self {
            Self::Http1(side) => side.conn.congested(),
            Self::Http2(side) => side.send.as_ref().is_some_and(http2::Send::congested),
        }
    }

    /// Takes response data; only while not [`Self::congested`].
    pub(crate) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), ClientError> {
        match self {
            Self::Http1(side) => {
                side.conn.send_data(data)?;
                if end {
                    side.conn.send_end(None)?;
                }
            }
            Self::Http2(side) => {
                if let Some(send) = side.send.as_mut().filter(|send| !send.is_finished()) {
                    send.send_data(data, end);
                }
            }
        }
        Ok(())
    }

    /// Ends the response.
    pub(crate) fn send_end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientError> {
        match self {
            Self::Http1(side) => {
                let trailers = trailers.filter(|_| side.trailers);
                side.conn.send_end(trailers.as_ref())?;
            }
            Self::Http2(side) => {
                if let Some(send) = &mut side.send {
                    send.send_end(trailers);
                }
            }
        }
        Ok(())
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match self {
            Self::Http1(side) => side.conn.poll_flush(cx).map_err(|_| ClientError::Gone),
            Self::Http2(side) => match &mut side.send {
                Some(send) => send.poll_flush(cx).map_err(ClientError::from),
                None => Poll::Ready(Ok(())),
            },
        }
    }

    /// Nothing was flushed yet: the task is polled again within this turn.
    pub(crate) fn defers(&self) -> bool {
        match self {
            Self::Http1(side) => side.conn.defers(),
            Self::Http2(_) => false,
        }
    }

    /// From now on the client's bytes are opaque (after 101, or 200 to CONNECT).
    pub(crate) fn switch_to_raw(&mut self) {
        if let Self::Http1(side) = self {
            side.conn.switch_to_raw();
            side.keep_alive = false;
        }
    }

    /// No further request is served on this connection.
    pub(crate) fn close_after(&mut self) {
        if let Self::Http1(side) = self {
            side.keep_alive = false;
        }
    }

    /// The response broke off: HTTP/2 resets the stream, HTTP/1 closes the connection.
    pub(crate) fn abort(&mut self) {
        match self {
            Self::Http1(side) => side.keep_alive = false,
            Self::Http2(side) => match &mut side.send {
                Some(send) => send.reset(Reason::INTERNAL_ERROR),
                None => side.respond.send_reset(Reason::INTERNAL_ERROR),
            },
        }
    }

    /// Bytes received and sent for this exchange; HTTP/2 shares its connection and does not say.
    pub(crate) fn take_wire(&mut self) -> (u64, u64) {
        match self {
            Self::Http1(side) => {
                let (sent, received) = side.conn.take_wire();
                (received, sent)
            }
            Self::Http2(_) => (0, 0),
        }
    }

    /// True for HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

impl Http1Side<'_> {
    fn send_head(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        length: ResponseLength,
        tunnel: bool,
    ) {
        let bodyless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let sends_body = !self.head_request && !bodyless && !tunnel;
        let body = match length {
            _ if tunnel => ResponseBody::Unannounced,
            ResponseLength::Known(length) => ResponseBody::Length(length),
            ResponseLength::Empty if bodyless => ResponseBody::Unannounced,
            // What a GET would have got has no known length.
            ResponseLength::Empty if self.head_request && self.http10 => ResponseBody::Unannounced,
            ResponseLength::Empty if self.head_request => ResponseBody::Chunked,
            ResponseLength::Empty => ResponseBody::Length(0),
            ResponseLength::Unknown if bodyless => ResponseBody::Unannounced,
            ResponseLength::Unknown if self.http10 => ResponseBody::Unannounced,
            ResponseLength::Unknown => ResponseBody::Chunked,
        };
        if sends_body && body == ResponseBody::Unannounced {
            self.keep_alive = false;
        }
        let connection = match (tunnel, self.keep_alive, self.http10) {
            (true, ..) | (false, true, false) => None,
            (false, true, true) => Some("keep-alive"),
            (false, false, _) => Some("close"),
        };
        self.conn
            .send_response(status, headers, body, connection, sends_body);
        if tunnel {
            self.conn.switch_to_raw();
            self.keep_alive = false;
        }
    }
}
