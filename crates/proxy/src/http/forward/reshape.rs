//! Response bodies that filters change or slow down. Bodies that no filter wants never come here.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HeaderMap;
use meltemi_wire::http1::Piece;

use super::pump::{Sides, broken, end_response};
use crate::http::exchange::Ended;
use crate::http::record::Exchange;
use crate::idle::IdleTimer;

/// Whether a filter wants the response's body.
pub(super) fn applies(exchange: &Exchange) -> bool {
    exchange
        .work
        .as_ref()
        .is_some_and(|work| work.changes_response())
}

/// Moves one piece of the response towards the client.
pub(super) fn poll_response(
    cx: &mut Context<'_>,
    sides: &mut Sides<'_, '_>,
    done: &mut bool,
    idle: &mut IdleTimer,
) -> Poll<Result<(), Ended>> {
    let work = sides.exchange.work();
    if let Some(pace) = &mut work.pace
        && let Some(data) = ready!(pace.poll_next(cx))
    {
        idle.touch();
        return Poll::Ready(send(sides, data));
    }
    if let Some(trailers) = work.response_end.take() {
        *done = true;
        return Poll::Ready(end_response(sides, trailers).map_err(Ended::ClientGone));
    }
    match ready!(sides.stream.poll_body(cx)) {
        Ok(Piece::Data(data)) => {
            idle.touch();
            sides.exchange.count_response_messages(&data);
            let data = sides.exchange.work().change_data(data);
            let passed = pass(sides, data);
            if passed.is_ok() && sides.stream.response_finished() {
                return Poll::Ready(end(sides, None));
            }
            Poll::Ready(passed)
        }
        Ok(Piece::End(trailers)) => {
            idle.touch();
            Poll::Ready(end(sides, trailers))
        }
        Ok(Piece::NeedMore) => Poll::Pending,
        Err(error) => Poll::Ready(Err(broken(sides, &error))),
    }
}

/// The upstream's body ended; what waits for its turn goes first.
fn end(sides: &mut Sides<'_, '_>, trailers: Option<HeaderMap>) -> Result<(), Ended> {
    let work = sides.exchange.work();
    let (data, trailers) = work.change_end(trailers);
    work.response_end = Some(trailers);
    pass(sides, data)
}

fn pass(sides: &mut Sides<'_, '_>, data: Bytes) -> Result<(), Ended> {
    if let Some(pace) = &mut sides.exchange.work().pace {
        pace.push(data);
        return Ok(());
    }
    send(sides, data)
}

fn send(sides: &mut Sides<'_, '_>, data: Bytes) -> Result<(), Ended> {
    if data.is_empty() {
        return Ok(());
    }
    sides.exchange.sent += data.len() as u64;
    sides.down.send_data(data, false).map_err(Ended::ClientGone)
}
