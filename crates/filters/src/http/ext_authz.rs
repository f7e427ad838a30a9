//! `envoy.filters.http.ext_authz`: a server decides about each request.
//!
//! [`grpc`] and [`http`] ask in their ways and give the same [`Verdict`]; this module decides whether to ask, and
//! carries the verdict out.

mod grpc;
mod http;

use std::sync::Arc;

use ::http::StatusCode;
use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use meltemi_traffic::Str;
use meltemi_traffic::ext_authz::{Authorizer, CheckBody, ExtAuthz, ExtAuthzPerRoute};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::{Headers, HeadersMut, RequestHead, RequestHeadMut};
use meltemi_traffic::matcher::split_query;
use meltemi_traffic::metadata::{Fields, Value};

use super::buffer::too_large;
use crate::counters::Counter;
use crate::stage::{Answer, ReadAhead, Response, Returning, Stage, Stop};

const NAMESPACE: &str = "envoy.filters.http.ext_authz";
const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// Counters of one filter.
#[derive(Debug)]
pub(super) struct Stats {
    ok: Counter,
    denied: Counter,
    error: Counter,
    disabled: Counter,
    failure_allowed: Counter,
    infix: String,
}

impl Stats {
    pub(super) fn new(scope: &str, config: &ExtAuthz) -> Self {
        let infix = if config.stat_prefix.is_empty() {
            String::new()
        } else {
            format!("{}.", config.stat_prefix)
        };
        let named = |name: &str| Counter::named(format!("{scope}ext_authz.{infix}{name}"));
        Self {
            ok: named("ok"),
            denied: named("denied"),
            error: named("error"),
            disabled: named("disabled"),
            failure_allowed: named("failure_mode_allowed"),
            infix,
        }
    }

    /// The same is counted for the request's cluster.
    fn count<S: Stage>(&self, stage: &S, own: &Counter, name: &str) {
        own.inc();
        if let Some(cluster) = stage.cluster_stat_name() {
            Counter::named(format!("cluster.{cluster}.ext_authz.{}{name}", self.infix)).inc();
        }
    }
}

/// What an authorizer says.
#[derive(Debug, Default)]
struct Verdict {
    /// Dynamic metadata.
    metadata: Option<Fields>,
    outcome: Outcome,
}

#[derive(Debug, Default)]
enum Outcome {
    Allowed(Box<Changes>),
    Denied {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
    #[default]
    Failed,
}

/// What an approval changes.
#[derive(Debug, Default)]
struct Changes {
    set: Vec<(HeaderName, HeaderValue)>,
    /// Joined to a present value; nothing without one.
    join: Vec<(HeaderName, HeaderValue)>,
    /// Added behind a present value; nothing without one.
    more: Vec<(HeaderName, HeaderValue)>,
    absent: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    query_set: Vec<(String, String)>,
    query_remove: Vec<String>,
    response: ResponseChanges,
}

/// What an approval changes in the response.
#[derive(Debug, Default)]
struct ResponseChanges {
    add: Vec<(HeaderName, HeaderValue)>,
    set: Vec<(HeaderName, HeaderValue)>,
    absent: Vec<(HeaderName, HeaderValue)>,
    present: Vec<(HeaderName, HeaderValue)>,
}

impl Returning for ResponseChanges {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        for (name, value) in self.add {
            response.headers.append(name, value);
        }
        for (name, value) in self.set {
            response.headers.insert(name, value);
        }
        for (name, value) in self.absent {
            response.headers.entry(name).or_insert(value);
        }
        for (name, value) in self.present {
            if response.headers.contains_key(&name) {
                response.headers.insert(name, value);
            }
        }
    }
}

/// What goes with a check beside the request's head.
struct Question<'q> {
    config: &'q ExtAuthz,
    extensions: &'q [(Str, Str)],
    body: Option<(CheckBody, Bytes, ReadAhead)>,
}

/// Asks, and does what the authorizer says.
pub(super) async fn on_request<S: Stage>(
    stats: &Stats,
    config: &ExtAuthz,
    route: Option<&Arc<ExtAuthzPerRoute>>,
    stage: &mut S,
) -> Result<(), Stop> {
    if route.is_some_and(|route| route.disabled) {
        return Ok(());
    }
    let random = stage.random();
    let metadata = stage.metadata();
    let matched = config
        .enabled_metadata
        .as_ref()
        .is_none_or(|matcher| matcher.matches(metadata));
    if !(matched && config.enabled.hits(random)) {
        stats.disabled.inc();
        return if config.deny_at_disable {
            Err(failed(config).into())
        } else {
            Ok(())
        };
    }
    let rule = match route {
        Some(route) if route.without_body => None,
        Some(route) => route.body.or(config.body),
        None => config.body,
    };
    let body = match rule.filter(|_| !stage.bodyless()) {
        Some(rule) => {
            // A body of exactly the limit still fits; one byte more does not.
            let read = stage.read_ahead(u64::from(rule.max)).await?;
            if read == ReadAhead::TooLong && !rule.allow_partial {
                return Err(too_large().into());
            }
            Some((rule, collected(stage, rule.max as usize), read))
        }
        None => None,
    };
    let question = Question {
        config,
        extensions: route.map_or(&[], |route| &route.extensions),
        body,
    };
    let upstreams = stage.upstreams();
    let verdict = match &config.service {
        Authorizer::Grpc(target) => {
            let check = grpc::question(stage, &question);
            let asked = stage.wait(grpc::ask(&upstreams, target, &check)).await?;
            grpc::verdict(asked)
        }
        Authorizer::Http(server) => {
            let call = http::question(stage, &question, server);
            let asked = stage
                .wait(crate::client::call(
                    &upstreams,
                    &server.cluster,
                    call,
                    server.timeout,
                ))
                .await?;
            http::verdict(server, asked)
        }
    };
    carry_out(stats, config, verdict, stage)
}

/// What was read ahead, up to a size.
fn collected<S: Stage>(stage: &S, max: usize) -> Bytes {
    let (head, tail) = stage.body();
    let mut out = Vec::new();
    for piece in head.iter().chain(tail) {
        let room = max - out.len();
        out.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    out.into()
}

fn failed(config: &ExtAuthz) -> Answer {
    let status = StatusCode::from_u16(config.status_on_error).unwrap_or(StatusCode::FORBIDDEN);
    Answer::new(status, "", "ext_authz_error").flag(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE)
}

fn carry_out<S: Stage>(
    stats: &Stats,
    config: &ExtAuthz,
    verdict: Verdict,
    stage: &mut S,
) -> Result<(), Stop> {
    if let Some(fields) = verdict
        .metadata
        .filter(|fields| config.ingest_metadata && !fields.is_empty())
    {
        for (key, value) in fields.iter() {
            stage.metadata().set(NAMESPACE, key, value.clone());
        }
    }
    match verdict.outcome {
        Outcome::Allowed(changes) => {
            stats.count(stage, &stats.ok, "ok");
            change(config, *changes, stage);
            Ok(())
        }
        Outcome::Denied {
            status,
            headers,
            mut body,
        } => {
            stats.count(stage, &stats.denied, "denied");
            if config.max_denied_body > 0 {
                body.truncate(config.max_denied_body as usize);
            }
            let mut answer = Answer::new(status, body, "ext_authz_denied")
                .flag(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
            answer.headers = headers;
            Err(answer.into())
        }
        Outcome::Failed => {
            stats.count(stage, &stats.error, "error");
            if !config.failure_mode_allow {
                return Err(failed(config).into());
            }
            stats.count(stage, &stats.failure_allowed, "failure_mode_allowed");
            if config.failure_mode_header {
                let yes = HeaderValue::from_static("true");
                stage.request_mut().set(&FAILURE_ALLOWED, yes);
            }
            Ok(())
        }
    }
}

fn change<S: Stage>(config: &ExtAuthz, changes: Changes, stage: &mut S) {
    let request = stage.request_mut();
    let mut changed = false;
    for (name, value) in changes.set {
        request.set(&name, value);
        changed = true;
    }
    for (name, value) in changes.more {
        if request.has(&name) {
            request.append(&name, value);
            changed = true;
        }
    }
    for (name, value) in changes.absent {
        if !request.has(&name) {
            request.append(&name, value);
            changed = true;
        }
    }
    for (name, value) in changes.join {
        let Some(present) = Headers::get(request, &name) else {
            continue;
        };
        let joined = [present, b",", value.as_bytes()].concat();
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            request.set(&name, joined);
            changed = true;
        }
    }
    for name in changes.remove {
        request.remove(&name);
        changed = true;
    }
    if !changes.query_set.is_empty() || !changes.query_remove.is_empty() {
        let path = with_query(request.path(), &changes.query_set, &changes.query_remove);
        request.set_path(&path);
        changed = true;
    }
    if changed && config.clear_route_cache {
        stage.clear_route_cache();
    }
    let response = changes.response;
    let none = [
        &response.add,
        &response.set,
        &response.absent,
        &response.present,
    ]
    .iter()
    .all(|list| list.is_empty());
    if !none {
        stage.on_response(Box::new(response));
    }
}

/// The path with parameters set and removed.
fn with_query(path: &[u8], set: &[(String, String)], remove: &[String]) -> Vec<u8> {
    let (before, query) = split_query(path);
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair[..at].to_vec(), pair[at + 1..].to_vec()),
            None => (pair.to_vec(), Vec::new()),
        })
        .collect();
    for (key, value) in set {
        pairs.retain(|(have, _)| have != key.as_bytes());
        pairs.push((key.clone().into_bytes(), value.clone().into_bytes()));
    }
    pairs.retain(|(have, _)| remove.iter().all(|name| name.as_bytes() != have));
    pairs.sort();
    let mut out = before.to_vec();
    for (position, (key, value)) in pairs.iter().enumerate() {
        out.push(if position == 0 { b'?' } else { b'&' });
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
    }
    out
}

/// Fields as an object of metadata.
fn as_fields(pairs: impl Iterator<Item = (String, String)>) -> Fields {
    pairs
        .map(|(key, value)| (Str::from(key), Value::String(value.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_and_removed() {
        let set = [("b".to_owned(), "2".to_owned())];
        let remove = ["c".to_owned()];
        assert_eq!(with_query(b"/p?a=1&b=0&c=3", &set, &remove), b"/p?a=1&b=2");
        assert_eq!(with_query(b"/p?c=3", &[], &remove), b"/p");
        assert_eq!(with_query(b"/p", &set, &[]), b"/p?b=2");
    }
}
