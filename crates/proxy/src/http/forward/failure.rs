//! Why an attempt gave no response, and the replies that tell the client.

use bytes::Bytes;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::exchange::StreamError;

use crate::http::downstream::ClientError;
use crate::http::reply::Reply;

/// gRPC's status for a stream that lived too long.
const DEADLINE_EXCEEDED: u32 = 4;

/// Why an attempt gave no response.
#[derive(Debug)]
pub(super) enum Failure {
    Client(ClientError),
    NoHost,
    Connect(ConnectError),
    Stream {
        error: StreamError,
        request_sent: bool,
    },
    Timeout,
    /// The attempt took too long, or was silent for too long.
    PerTryTimeout {
        idle: bool,
    },
    MaxDuration {
        request_complete: bool,
    },
    /// The request did not arrive as a whole in time.
    Late,
    Idle {
        request_complete: bool,
    },
}

pub(super) fn connect_failure(error: &ConnectError) -> Reply {
    let (body, details) = match error {
        ConnectError::Timeout => (
            "connection timeout".to_owned(),
            "connection_timeout".to_owned(),
        ),
        ConnectError::Tls(reason) => (
            format!("remote connection failure, transport failure reason: {reason}"),
            format!("remote_connection_failure|{}", reason.replace(' ', "_")),
        ),
        other => (
            "remote connection failure".to_owned(),
            format!(
                "remote_connection_failure|{}",
                other.to_string().replace(' ', "_")
            ),
        ),
    };
    let mut reply = Reply::new(
        http::StatusCode::SERVICE_UNAVAILABLE,
        "",
        format!("upstream_reset_before_response_started{{{details}}}"),
    );
    reply.body =
        format!("upstream connect error or disconnect/reset before headers. reset reason: {body}")
            .into();
    reply.flag(ResponseFlags::UPSTREAM_CONNECTION_FAILURE)
}

pub(super) fn stream_failure(error: &StreamError) -> Reply {
    let (status, flag, reason) = match error {
        StreamError::Terminated => (
            503,
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "connection termination",
        ),
        StreamError::Refused => (
            503,
            ResponseFlags::UPSTREAM_REMOTE_RESET,
            "remote refused stream reset",
        ),
        StreamError::RemoteReset => (503, ResponseFlags::UPSTREAM_REMOTE_RESET, "remote reset"),
        StreamError::LocalReset => (503, ResponseFlags::LOCAL_RESET, "local reset"),
        StreamError::Protocol(_) => (
            502,
            ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            "protocol error",
        ),
        StreamError::HeadersTooLarge => (503, ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "overflow"),
    };
    let status =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
    let details = format!(
        "upstream_reset_before_response_started{{{}}}",
        reason.replace(' ', "_")
    );
    let mut reply = Reply::new(status, "", details).flag(flag);
    reply.body = format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
    )
    .into();
    reply
}

/// The request did not arrive as a whole in time.
pub(super) fn late() -> Reply {
    Reply::new(
        http::StatusCode::REQUEST_TIMEOUT,
        "request timeout",
        "request_overall_timeout",
    )
}

/// The sentence that says why the last of several attempts failed.
pub(super) fn after_retries(body: &Bytes) -> Bytes {
    const BEFORE: &str = "before headers. ";
    match std::str::from_utf8(body)
        .ok()
        .and_then(|text| text.split_once(BEFORE))
    {
        Some((head, reason)) => format!("{head}{BEFORE}retried and the latest {reason}").into(),
        None => body.clone(),
    }
}

/// The stream lived longer than it may.
pub(super) fn max_duration(request_complete: bool) -> Reply {
    let status = if request_complete {
        http::StatusCode::GATEWAY_TIMEOUT
    } else {
        http::StatusCode::REQUEST_TIMEOUT
    };
    let mut reply = Reply::new(
        status,
        "downstream duration timeout",
        "max_duration_timeout",
    );
    reply.grpc_status = Some(DEADLINE_EXCEEDED);
    reply
}
