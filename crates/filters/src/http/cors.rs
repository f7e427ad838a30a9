//! `envoy.filters.http.cors`: answers preflights, and decorates responses to origins that the policy allows.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderValue, ORIGIN};
use meltemi_traffic::cors::{CorsDecision, CorsPolicy};
use meltemi_traffic::headers::Headers;

use crate::counters::Counter;
use crate::stage::{Answer, Response, Returning, Stage, Stop};

/// Counters of one filter.
#[derive(Debug)]
pub(super) struct Stats {
    valid: Counter,
    invalid: Counter,
}

impl Stats {
    pub(super) fn new(scope: &str) -> Self {
        Self {
            valid: Counter::named(format!("{scope}cors.origin_valid")),
            invalid: Counter::named(format!("{scope}cors.origin_invalid")),
        }
    }
}

/// Judges the origin.
pub(super) fn on_request<S: Stage>(
    stats: &Stats,
    policy: &Arc<CorsPolicy>,
    stage: &mut S,
) -> Result<(), Stop> {
    let random = stage.random();
    let Some(origin) = Headers::get(stage.request(), &ORIGIN).filter(|origin| !origin.is_empty())
    else {
        return Ok(());
    };
    if policy.enabled.hits(random) || policy.shadow.hits(random) {
        if policy.allows(origin) {
            stats.valid.inc();
        } else {
            stats.invalid.inc();
        }
    }
    match policy.decide(stage.request(), random) {
        CorsDecision::Pass => Ok(()),
        CorsDecision::Decorate(origin) => {
            stage.on_response(Box::new(Decorate {
                policy: Arc::clone(policy),
                origin,
            }));
            Ok(())
        }
        CorsDecision::Answer(headers) => {
            let mut answer = Answer::new(StatusCode::OK, "", "cors_response");
            answer.headers.extend(headers);
            Err(answer.into())
        }
    }
}

#[derive(Debug)]
struct Decorate {
    policy: Arc<CorsPolicy>,
    origin: HeaderValue,
}

impl Returning for Decorate {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        self.policy.decorate(&self.origin, response.headers);
    }
}
