//! Walks the HTTP filters of a connection manager.
//!
//! [`run`] shows each filter the request, in order; [`on_response`] carries out what they left for the response, in
//! reverse. What the filters do is in `meltemi_filters`; they see the exchange as a [`Stage`], which [`walk`] makes of
//! it. Istio's own filters are wired in directly ([`istio`]).

mod istio;
mod walk;

use http::StatusCode;
use http::header::HeaderMap;
use meltemi_filters::stage::{self, Response};
use meltemi_upstream::exchange::ResponseLength;

pub(crate) use istio::{before_attempt, report};
pub(crate) use walk::Work;

use super::downstream::{ClientError, Downstream};
use super::plan::Plan;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;
use walk::Walk;

/// Why a request goes no further than the filters.
pub(crate) enum Stop {
    /// A filter refuses or answers.
    Reply(Reply),
    /// The client left while a filter made it wait.
    ClientGone(ClientError),
}

/// Lets every filter see the request. A filter that changes what routing looks at makes the plan anew.
///
/// # Errors
/// The reply of the filter that refuses or answers, or the client's end.
pub(crate) async fn run(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    plan: &mut Plan,
    idle: &mut IdleTimer,
) -> Result<(), Stop> {
    istio::discover_client(exchange);
    let context = exchange.context.clone();
    let chain = &context.runtime().filters;
    if chain.is_empty() {
        return Ok(());
    }
    let mut current = plan.clone();
    let mut walk = Walk::new(exchange, down, idle);
    for (position, filter) in chain.iter().enumerate() {
        let setting = current.overrides().get(filter.name());
        if !filter.is_on(setting) {
            continue;
        }
        let passed = filter.on_request(&mut walk, setting).await;
        if let Err(stop) = passed {
            for later in &chain[position + 1..] {
                let setting = current.overrides().get(later.name());
                if later.is_on(setting) {
                    later.on_skipped(&mut walk, setting);
                }
            }
            return Err(match stop {
                stage::Stop::Answer(answer) => Stop::Reply((*answer).into()),
                stage::Stop::Gone => walk.gone(),
            });
        }
        if walk.take_reselect() {
            current = current.again(walk.exchange()).map_err(Stop::Reply)?;
            *plan = current.clone();
        }
    }
    plan.hash_again(exchange);
    Ok(())
}

/// The head of a response while the filters see it.
pub(crate) struct Head<'h> {
    /// `:status`.
    pub status: StatusCode,
    /// Fields.
    pub headers: &'h mut HeaderMap,
    /// What is known of the body's length.
    pub length: ResponseLength,
    /// The proxy answers itself.
    pub local: bool,
}

/// What filters do with a response; the body's changes stay with the exchange.
pub(crate) fn on_response(exchange: &mut Exchange, head: &mut Head<'_>) {
    if !head.local {
        istio::on_response(exchange, head.headers);
    }
    let Some(work) = exchange.work.as_mut().filter(|work| work.has_returning()) else {
        return;
    };
    let returning = std::mem::take(&mut work.returning);
    let mut transforms = std::mem::take(&mut work.response_body);
    let mut pace = work.pace.take();
    let mut learned = Vec::new();
    let info = exchange.info();
    let mut response = Response {
        status: head.status,
        headers: head.headers,
        length: head.length,
        transforms: &mut transforms,
        pace: &mut pace,
        request: &exchange.request,
        info: &info,
        learned: &mut learned,
        local: head.local,
        bodyless: exchange.request.method == http::Method::HEAD
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED,
    };
    for one in returning.into_iter().rev() {
        one.on_response(&mut response);
    }
    (head.status, head.length) = (response.status, response.length);
    for (namespace, key, value) in learned {
        exchange.metadata.set(&namespace, &key, value);
    }
    let work = exchange.work();
    work.response_body = transforms;
    work.pace = pace;
}
