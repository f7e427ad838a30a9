//! `envoy.filters.http.ratelimit`: a service counts requests under their descriptors.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::common::ratelimit::v3 as shared;
use meltemi_proto::envoy::service::ratelimit::v3 as pb;
use meltemi_proto::google::protobuf::UInt64Value;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::HeadersMut;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::ratelimit::{Descriptor, RateLimit, RateLimitPerRoute, append_descriptors};

use super::local_limit::{LIMIT, REMAINING, RESET, of_route, with_facts};
use crate::client;
use crate::counters::Counter;
use crate::stage::{Answer, Response, Returning, Stage, Stop, change_response};

const SHOULD_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;

/// Asks the service, when the request has descriptors.
pub(super) async fn on_request<S: Stage>(
    limit: &RateLimit,
    route: Option<&RateLimitPerRoute>,
    stage: &mut S,
) -> Result<(), Stop> {
    let descriptors = descriptors(limit, route, stage);
    if descriptors.is_empty() {
        return Ok(());
    }
    let domain = route
        .map(|route| &route.domain)
        .filter(|domain| !domain.is_empty())
        .unwrap_or(&limit.domain);
    let question = pb::RateLimitRequest {
        domain: domain.to_string(),
        descriptors: descriptors.iter().map(wire).collect(),
        hits_addend: 0,
    };
    let upstreams = stage.upstreams();
    let asked = client::unary(&upstreams, &limit.service, SHOULD_LIMIT, &question);
    let asked: Result<pb::RateLimitResponse, _> = stage.wait(asked).await?;
    let Ok(response) = asked else {
        return failed(limit, stage);
    };
    let over = match response.overall_code() {
        pb::rate_limit_response::Code::Ok => false,
        pb::rate_limit_response::Code::OverLimit => true,
        pb::rate_limit_response::Code::Unknown => return failed(limit, stage),
    };
    let mut tell = Tell {
        add: pairs(&response.response_headers_to_add),
        set: Vec::new(),
        ops: Vec::new(),
    };
    if limit.x_ratelimit_headers {
        tell.set = state(&response.statuses);
    }
    if !over {
        count(stage, "ok");
        for (name, value) in pairs(&response.request_headers_to_add) {
            stage.request_mut().append(&name, value);
        }
        stage.on_response(Box::new(tell));
        return Ok(());
    }
    count(stage, "over_limit");
    tell.ops.clone_from(&limit.response_ops);
    if !limit.no_limited_header {
        tell.set.push((LIMITED, HeaderValue::from_static("true")));
    }
    stage.on_response(Box::new(tell));
    let status = StatusCode::from_u16(limit.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut answer = Answer::new(status, response.raw_body, "request_rate_limited")
        .flag(ResponseFlags::RATE_LIMITED);
    answer.grpc_status = limit.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
    Err(answer.into())
}

fn failed<S: Stage>(limit: &RateLimit, stage: &mut S) -> Result<(), Stop> {
    count(stage, "error");
    if !limit.failure_mode_deny {
        count(stage, "failure_mode_allowed");
        return Ok(());
    }
    let status =
        StatusCode::from_u16(limit.status_on_error).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Err(Answer::new(status, "", "rate_limiter_error")
        .flag(ResponseFlags::RATE_LIMIT_SERVICE_ERROR)
        .into())
}

fn count<S: Stage>(stage: &S, name: &str) {
    if let Some(cluster) = stage.cluster_stat_name() {
        Counter::named(format!("cluster.{cluster}.ratelimit.{name}")).inc();
    }
}

fn descriptors<S: Stage>(
    limit: &RateLimit,
    per_route: Option<&RateLimitPerRoute>,
    stage: &S,
) -> Vec<Descriptor> {
    let Some(route) = stage.route().cloned() else {
        return Vec::new();
    };
    let own = per_route.map_or(&limit.rules, |route| {
        if route.rules.is_empty() {
            &limit.rules
        } else {
            &route.rules
        }
    });
    let host_rules = per_route.map(|route| route.host_rules).unwrap_or_default();
    let mut found = with_facts(stage, &route, |facts| {
        if own.is_empty() {
            return of_route(&route, limit.stage, host_rules, facts);
        }
        let mut out = Vec::new();
        append_descriptors(own, limit.stage, facts, &mut out);
        out
    });
    found.retain(|descriptor| !descriptor.on_stream_done);
    found
}

fn wire(descriptor: &Descriptor) -> shared::RateLimitDescriptor {
    let entries =
        descriptor
            .entries
            .iter()
            .map(|(key, value)| shared::rate_limit_descriptor::Entry {
                key: key.to_string(),
                value: value.to_string(),
            });
    shared::RateLimitDescriptor {
        entries: entries.collect(),
        limit: descriptor
            .limit
            .map(|limit| shared::rate_limit_descriptor::RateLimitOverride {
                requests_per_unit: limit.requests,
                unit: limit.unit as i32,
            }),
        hits_addend: descriptor.hits.map(|value| UInt64Value { value }),
        ..shared::RateLimitDescriptor::default()
    }
}

fn pairs(list: &[core::HeaderValue]) -> Vec<(HeaderName, HeaderValue)> {
    list.iter()
        .filter_map(|header| {
            let bytes = if header.raw_value.is_empty() {
                header.value.as_bytes()
            } else {
                &header.raw_value
            };
            Some((
                HeaderName::from_bytes(header.key.as_bytes()).ok()?,
                HeaderValue::from_bytes(bytes).ok()?,
            ))
        })
        .collect()
}

/// Seconds of a window.
fn window(unit: i32) -> u32 {
    use pb::rate_limit_response::rate_limit::Unit;
    match Unit::try_from(unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 3600,
        Ok(Unit::Day) => 86_400,
        Ok(Unit::Week) => 604_800,
        Ok(Unit::Month) => 2_592_000,
        Ok(Unit::Year) => 31_536_000,
        Ok(Unit::Unknown) | Err(_) => 0,
    }
}

/// `x-ratelimit-*`: the limit that is nearest to be reached, and all windows.
fn state(statuses: &[pb::rate_limit_response::DescriptorStatus]) -> Vec<(HeaderName, HeaderValue)> {
    let limited = || {
        statuses
            .iter()
            .filter_map(|status| Some((status, status.current_limit.as_ref()?)))
    };
    let Some((nearest, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
        return Vec::new();
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, limit) in limited().filter(|(_, limit)| window(limit.unit) > 0) {
        text.push_str(&format!(
            ", {};w={}",
            limit.requests_per_unit,
            window(limit.unit)
        ));
        if !limit.name.is_empty() {
            text.push_str(&format!(";name=\"{}\"", limit.name));
        }
    }
    let reset = nearest
        .duration_until_reset
        .as_ref()
        .map_or(0, |d| d.seconds);
    let Ok(text) = HeaderValue::from_str(&text) else {
        return Vec::new();
    };
    vec![
        (LIMIT, text),
        (REMAINING, nearest.limit_remaining.into()),
        (RESET, reset.into()),
    ]
}

#[derive(Debug)]
struct Tell {
    add: Vec<(HeaderName, HeaderValue)>,
    set: Vec<(HeaderName, HeaderValue)>,
    ops: Vec<HeaderOp>,
}

impl Returning for Tell {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        let headers: &mut HeaderMap = response.headers;
        for (name, value) in self.add {
            headers.append(name, value);
        }
        for (name, value) in self.set {
            headers.insert(name, value);
        }
        change_response(&self.ops, response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::rate_limit_response::{DescriptorStatus, RateLimit as Current};

    #[test]
    fn the_nearest_limit_is_told_with_all_windows() {
        let status = |requests, unit, remaining| DescriptorStatus {
            current_limit: Some(Current {
                requests_per_unit: requests,
                unit,
                ..Current::default()
            }),
            limit_remaining: remaining,
            ..DescriptorStatus::default()
        };
        let told = state(&[status(10, 1, 5), status(100, 2, 3)]);
        let text: Vec<_> = told.iter().map(|(_, v)| v.to_str().unwrap()).collect();
        assert_eq!(text, ["100, 10;w=1, 100;w=60", "3", "0"]);
        assert!(state(&[DescriptorStatus::default()]).is_empty());
    }
}
