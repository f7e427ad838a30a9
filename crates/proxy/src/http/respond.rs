//! Sending responses: the fields every response gets, and local replies as a whole.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, SERVER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use meltemi_traffic::access::Heads;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::ServerHeader;
use meltemi_traffic::mutation::{HeaderOp, apply_response};
use meltemi_upstream::exchange::ResponseLength;

use super::downstream::{ClientError, Downstream};
use super::early::X_REQUEST_ID;
use super::exchange::Ended;
use super::filters::{self, Head};
use super::local_reply;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Longest time a local reply may take to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Answers a request ourselves.
pub(crate) async fn local(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    mut reply: Reply,
    idle: &mut IdleTimer,
) -> Ended {
    exchange.flags.add(reply.flags);
    exchange.details = reply.details.clone();
    // What the codec refuses was never a request for the log.
    exchange.refused |= reply.flags.any_of(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
    // The rest of an unread body cannot be told from the next request's head.
    // After a messaging error HTTP/1 does not go on, nor after an upgrade or CONNECT, whose payload may be on its way.
    let is_broken = reply.status == StatusCode::BAD_REQUEST || exchange.early.upgrade.is_some();
    if reply.close || is_broken || !down.body_finished() {
        down.close_after();
    }
    let by_filter = reply.by_filter;
    let applies = |route: &meltemi_traffic::route::Route| {
        !by_filter || matches!(route.action, meltemi_traffic::route::Action::Forward(_))
    };
    if let Some(route) = exchange.route.clone().filter(|route| applies(route)) {
        change(exchange, &route.response_ops, &mut reply.parts().headers);
    }
    let hcm = Arc::clone(exchange.context.hcm());
    if let Some(config) = &hcm.local_reply {
        local_reply::rewrite(exchange, config, reply.parts());
    }
    let (status, mut headers, mut body) = reply.into_response(exchange.grpc);
    let length = if body.is_empty() {
        ResponseLength::Empty
    } else {
        ResponseLength::Known(body.len() as u64)
    };
    exchange.status = Some(status);
    let mut head = Head {
        status,
        headers: &mut headers,
        length,
        local: true,
    };
    filters::on_response(exchange, &mut head);
    let (status, length) = (head.status, head.length);
    if let Some(work) = &mut exchange.work {
        body = work.change_data(body);
        let (rest, _) = work.change_end(None);
        if !rest.is_empty() {
            body = [body, rest].concat().into();
        }
    }
    complete(exchange, &mut headers);
    idle.touch();
    match send(exchange, down, status, headers, body, length).await {
        Ok(()) => Ended::Complete,
        Err(error) => Ended::ClientGone(error),
    }
}

async fn send(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
    length: ResponseLength,
) -> Result<(), ClientError> {
    exchange.status = Some(status);
    let now = exchange.elapsed();
    exchange.times.first_tx = Some(now);
    if down.body_finished() {
        exchange.times.request_end.get_or_insert(now);
    }
    if exchange.keeps_response() {
        exchange.keep_response(&headers, length);
    }
    down.send_head(status, &mut headers, length, false)?;
    if exchange.request.method != http::Method::HEAD && !body.is_empty() {
        exchange.sent += body.len() as u64;
        down.send_data(body, true)?;
    } else if !down.is_http2() {
        down.send_end(None)?;
    }
    let flushed = std::future::poll_fn(|cx| down.poll_flush(cx));
    tokio::time::timeout(WRITE_LIMIT, flushed)
        .await
        .unwrap_or(Err(ClientError::Gone))
}

/// Applies a route's changes to a response.
pub(crate) fn change(exchange: &Exchange, ops: &[HeaderOp], headers: &mut HeaderMap) {
    if ops.is_empty() {
        return;
    }
    let heads = Heads {
        request: Some(&exchange.request),
        ..Heads::default()
    };
    apply_response(ops, headers, &exchange.info(), heads);
}

/// Removes what belongs to the upstream's hop; one pass over the names tells what there is to do.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, tunnel: bool) {
    let (mut length, mut coding, mut connection, mut rest) = (false, false, false, false);
    for name in headers.keys() {
        match name.as_str() {
            "content-length" => length = true,
            "transfer-encoding" => coding = true,
            "connection" => connection = true,
            "keep-alive" | "proxy-connection" | "upgrade" => rest = true,
            _ => {}
        }
    }
    if length {
        headers.remove(CONTENT_LENGTH);
    }
    if coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if tunnel {
        return;
    }
    if connection && let Some(connection) = headers.remove(CONNECTION) {
        for name in connection.as_bytes().split(|byte| *byte == b',') {
            let name = name.trim_ascii();
            // What HTTP/1 servers say most, and names no field.
            if name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(name) {
                headers.remove(name);
            }
        }
    }
    if rest {
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
        headers.remove(UPGRADE);
    }
}

/// Adds what every response carries.
pub(crate) fn complete(exchange: &Exchange, headers: &mut HeaderMap) {
    let hcm = exchange.context.hcm();
    let runtime = exchange.context.runtime();
    headers.entry(DATE).or_insert_with(date);
    match hcm.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, runtime.server.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers
                .entry(SERVER)
                .or_insert_with(|| runtime.server.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &runtime.via {
        add_via(headers, via);
    }
    if (hcm.always_set_request_id_in_response || exchange.early.force_trace)
        && let Some(id) = exchange.request.headers.get(X_REQUEST_ID)
    {
        headers.insert(X_REQUEST_ID, id.clone());
    }
}

/// Adds us to the list of `via`.
pub(crate) fn add_via(headers: &mut HeaderMap, via: &HeaderValue) {
    let value = match headers.get(VIA) {
        None => Ok(via.clone()),
        Some(have) => HeaderValue::from_bytes(&[have.as_bytes(), b", ", via.as_bytes()].concat()),
    };
    if let Ok(value) = value {
        headers.insert(VIA, value);
    }
}

thread_local! {
    /// The `date` value and the second it is for: formatted once a second for each worker.
    static DATE_NOW: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

fn date() -> HeaderValue {
    let second = crate::logs::now().as_secs();
    DATE_NOW.with_borrow_mut(|(at, value)| {
        if *at != second {
            let text = i64::try_from(second)
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok())
                .map(|now| now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
            *value = text
                .and_then(|text| HeaderValue::from_str(&text).ok())
                .unwrap_or_else(|| HeaderValue::from_static(""));
            *at = second;
        }
        value.clone()
    })
}
