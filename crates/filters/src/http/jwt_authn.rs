//! `envoy.filters.http.jwt_authn`: requests bring the tokens that are required, or are refused.
//!
//! [`token`] reads tokens and judges their claims, [`keys`] their signatures, [`fetch`] gets key sets. The judgement
//! itself is synchronous; when it lacks a key set, that is fetched and the judgement made again.

mod fetch;
mod keys;
mod token;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use meltemi_traffic::Str;
use meltemi_traffic::headers::{Headers, HeadersMut, RequestHead};
use meltemi_traffic::jwt::{self, Found, JwtAuthn, JwtPerRoute, Place, Requirement};
use meltemi_traffic::metadata::{Fields, Value};
use meltemi_traffic::select::RouteFacts;

use crate::counters::Counter;
use crate::metadata::from_json;
use crate::stage::{Answer, Stage, Stop};
use fetch::Provider;
use token::{Failure, Token};

const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// Longest path in a challenge.
const MAX_REALM_PATH: usize = 256;
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// The filter with its key sets.
#[derive(Debug)]
pub(super) struct Authenticator {
    config: Arc<JwtAuthn>,
    providers: Vec<Arc<Provider>>,
    allowed: Counter,
    denied: Counter,
    bypassed: Counter,
}

/// A token that was found good: what is done with it once the request may go on.
struct Good {
    provider: usize,
    place: Place,
    token: Token,
}

/// The state of one judgement.
struct Judgement<'j, S: Stage> {
    filter: &'j Authenticator,
    stage: &'j S,
    now: Duration,
    /// Providers whose claims the request may not bring itself.
    seen: Vec<usize>,
    good: Vec<Good>,
    failures: Vec<(usize, Failure)>,
}

/// Why a requirement is not met.
enum Unmet {
    Failed(Failure),
    /// The keys of this provider are needed first.
    Keys(usize),
}

impl From<Failure> for Unmet {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Authenticator {
    pub(super) fn new(config: &Arc<JwtAuthn>, scope: &str) -> Self {
        let infix = if config.stat_prefix.is_empty() {
            String::new()
        } else {
            format!("{}.", config.stat_prefix)
        };
        let scope = format!("{scope}jwt_authn.{infix}");
        let named = |name: &str| Counter::named(format!("{scope}{name}"));
        Self {
            providers: config
                .providers
                .iter()
                .map(|provider| Provider::new(Arc::clone(provider), &scope))
                .collect(),
            config: Arc::clone(config),
            allowed: named("allowed"),
            denied: named("denied"),
            bypassed: named("cors_preflight_bypassed"),
        }
    }

    /// Lets the request pass, or refuses it.
    pub(super) async fn on_request<S: Stage>(
        &self,
        route: Option<&JwtPerRoute>,
        stage: &mut S,
    ) -> Result<(), Stop> {
        if self.config.bypass_preflight && is_preflight(stage.request()) {
            self.bypassed.inc();
            return Ok(());
        }
        let requirement = match self.requirement(route, stage) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => {
                self.allowed.inc();
                return Ok(());
            }
            Err(answer) => {
                self.denied.inc();
                return Err((*answer).into());
            }
        };
        let realm = realm(stage.request());
        let now = stage.info().start;
        let mut fetched: Vec<usize> = Vec::new();
        loop {
            let mut judgement = Judgement {
                filter: self,
                stage: &*stage,
                now,
                seen: Vec::new(),
                good: Vec::new(),
                failures: Vec::new(),
            };
            let met = judgement.meets(&requirement, &fetched);
            let (seen, good, failures) = (judgement.seen, judgement.good, judgement.failures);
            match met {
                Err(Unmet::Keys(provider)) => {
                    let upstreams = stage.upstreams();
                    let fetching = self.providers[provider].refresh(&upstreams);
                    stage.wait(fetching).await?;
                    fetched.push(provider);
                }
                Ok(()) => {
                    self.allowed.inc();
                    for provider in seen {
                        self.config.providers[provider].sanitize(stage.request_mut());
                    }
                    self.write_failures(&failures, stage);
                    for one in good {
                        self.use_token(&one, stage);
                    }
                    return Ok(());
                }
                Err(Unmet::Failed(failure)) => {
                    self.denied.inc();
                    self.write_failures(&failures, stage);
                    return Err(self.refusal(failure, &realm).into());
                }
            }
        }
    }

    fn requirement<S: Stage>(
        &self,
        route: Option<&JwtPerRoute>,
        stage: &S,
    ) -> Result<Option<Arc<Requirement>>, Box<Answer>> {
        match route {
            Some(JwtPerRoute::Disabled) => return Ok(None),
            Some(JwtPerRoute::Named(name)) => {
                let found = self.config.named.iter().find(|(have, _)| have == name);
                return match found {
                    Some((_, requirement)) => Ok(Some(Arc::clone(requirement))),
                    None => Err(Box::new(self.unknown_requirement(name))),
                };
            }
            None => {}
        }
        let facts = RouteFacts {
            random: stage.random(),
            https: stage.request().scheme() == b"https",
            external: true,
            tls_presented: false,
            tls_validated: false,
            metadata: None,
        };
        let rule = self
            .config
            .rules
            .iter()
            .find(|(matches, _)| matches.accepts(stage.request(), &facts));
        Ok(rule.and_then(|(_, requirement)| requirement.clone()))
    }

    fn unknown_requirement(&self, name: &str) -> Answer {
        let mut known: Vec<&str> = self
            .config
            .named
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        known.sort_unstable();
        let reason = format!(
            "Wrong requirement_name: {name}. It should be one of [{}]",
            known.join(",")
        );
        let details = format!("jwt_authn_access_denied{{{}}}", reason.replace(' ', "_"));
        let body = format!("Failed JWT authentication: {reason}");
        Answer::new(StatusCode::FORBIDDEN, body, details)
    }

    fn refusal(&self, failure: Failure, realm: &str) -> Answer {
        let text = failure.text();
        let details = format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"));
        let status = if failure == Failure::AudienceNotAllowed {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::UNAUTHORIZED
        };
        if self.config.strip_failure {
            return Answer::new(status, "", details);
        }
        let mut challenge = format!("Bearer realm=\"{realm}\"");
        if failure != Failure::Missing {
            challenge.push_str(", error=\"invalid_token\"");
        }
        let answer = Answer::new(status, text, details);
        match HeaderValue::from_str(&challenge) {
            Ok(challenge) => answer.header(WWW_AUTHENTICATE, challenge),
            Err(_) => answer,
        }
    }

    fn write_failures<S: Stage>(&self, failures: &[(usize, Failure)], stage: &mut S) {
        for (provider, failure) in failures {
            let key = &self.config.providers[*provider].failure_in_metadata;
            if !key.is_empty() {
                let text = |text: String| Value::String(text.into());
                let fields = Fields::from_iter([
                    ("code".into(), text(failure.code().to_string())),
                    ("message".into(), text(failure.text().to_owned())),
                ]);
                stage.metadata().set(NAMESPACE, key, Value::Struct(fields));
            }
        }
    }

    /// Passes on what a good token says.
    fn use_token<S: Stage>(&self, good: &Good, stage: &mut S) {
        let provider = &self.config.providers[good.provider];
        let request = stage.request_mut();
        if let Some(header) = &provider.payload_header {
            let mut payload = good.token.payload_text.clone();
            while provider.pad_payload && !payload.len().is_multiple_of(4) {
                payload.push('=');
            }
            if let Ok(value) = HeaderValue::from_str(&payload) {
                request.append(header, value);
            }
        }
        for (header, path) in &provider.claim_headers {
            if let Some(value) = claim_text(&good.token.payload, path)
                && let Ok(value) = HeaderValue::from_str(&value)
            {
                request.append(header, value);
            }
        }
        if !provider.forward {
            jwt::remove(&good.place, request);
        }
        if provider.clear_route_cache {
            stage.clear_route_cache();
        }
        if !provider.header_in_metadata.is_empty() {
            let header = from_json(&good.token.header);
            stage
                .metadata()
                .set(NAMESPACE, &provider.header_in_metadata, header);
        }
        if !provider.payload_in_metadata.is_empty() {
            let payload = normalized(from_json(&good.token.payload), &provider.space_delimited);
            stage
                .metadata()
                .set(NAMESPACE, &provider.payload_in_metadata, payload);
        }
    }
}

impl<S: Stage> Judgement<'_, S> {
    /// Whether the request meets a requirement. `fetched` are providers whose keys were just fetched, well or not.
    fn meets(&mut self, requirement: &Requirement, fetched: &[usize]) -> Result<(), Unmet> {
        match requirement {
            Requirement::Nothing => Ok(()),
            Requirement::Provider(provider, audiences) => {
                self.one_provider(*provider, audiences.as_deref(), fetched)
            }
            Requirement::AllowMissing(providers) => self.optional(providers, false, fetched),
            Requirement::AllowAny(providers) => self.optional(providers, true, fetched),
            Requirement::All(all) => all.iter().try_for_each(|one| self.meets(one, fetched)),
            Requirement::Any(any) => {
                let mut failure = Failure::Missing;
                for one in any {
                    match self.meets(one, fetched) {
                        Ok(()) => return Ok(()),
                        Err(keys @ Unmet::Keys(_)) => return Err(keys),
                        // What is wrong with a token says more than that another is not there.
                        Err(Unmet::Failed(Failure::Missing)) => {}
                        Err(Unmet::Failed(Failure::UnknownIssuer))
                            if failure != Failure::Missing => {}
                        Err(Unmet::Failed(found)) => failure = found,
                    }
                }
                Err(failure.into())
            }
        }
    }

    fn find(&mut self, providers: &[usize]) -> Vec<Found> {
        for provider in providers {
            if !self.seen.contains(provider) {
                self.seen.push(*provider);
            }
        }
        self.filter.config.find(providers, self.stage.request())
    }

    /// Every token for the provider must be good, and there must be one.
    fn one_provider(
        &mut self,
        provider: usize,
        audiences: Option<&[Str]>,
        fetched: &[usize],
    ) -> Result<(), Unmet> {
        let found = self.find(&[provider]);
        if found.is_empty() {
            self.failures.push((provider, Failure::Missing));
            return Err(Failure::Missing.into());
        }
        // The last one found is looked at first.
        for one in found.into_iter().rev() {
            match self.token(&one, Some(provider), audiences, fetched) {
                Err(Unmet::Failed(failure)) => {
                    self.failures.push((provider, failure));
                    return Err(failure.into());
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Tokens may be missing, or even bad.
    fn optional(
        &mut self,
        providers: &[usize],
        even_bad: bool,
        fetched: &[usize],
    ) -> Result<(), Unmet> {
        let mut last = Ok(());
        for one in self.find(providers).into_iter().rev() {
            last = match self.token(&one, None, None, fetched) {
                Err(keys @ Unmet::Keys(_)) => return Err(keys),
                other => other,
            };
        }
        if even_bad { Ok(()) } else { last }
    }

    fn token(
        &mut self,
        found: &Found,
        provider: Option<usize>,
        audiences: Option<&[Str]>,
        fetched: &[usize],
    ) -> Result<(), Unmet> {
        let token = Token::parse(&found.token)?;
        let config = &self.filter.config;
        let issuer_fits = |at: &usize| {
            let wanted = &config.providers[*at].issuer;
            wanted.is_empty() || wanted == token.issuer()
        };
        if !found.providers.iter().any(issuer_fits) {
            return Err(Failure::UnknownIssuer.into());
        }
        let named = || {
            let all = found.providers.iter().copied();
            let exact = all.clone().find(|at| {
                let wanted = &config.providers[*at].issuer;
                !wanted.is_empty() && wanted == token.issuer()
            });
            exact.or_else(|| all.clone().find(issuer_fits))
        };
        let at = provider
            .or_else(named)
            .ok_or(Unmet::Failed(Failure::UnknownIssuer))?;
        let own = &config.providers[at];
        token.check_times(own, self.now)?;
        token.check_audience(audiences.unwrap_or(&own.audiences))?;
        match self.filter.providers[at].keys() {
            Some(keys) => keys.verify(&token)?,
            None if fetched.contains(&at) => return Err(Failure::FetchFailed.into()),
            None => return Err(Unmet::Keys(at)),
        }
        self.good.push(Good {
            provider: at,
            place: found.place.clone(),
            token,
        });
        Ok(())
    }
}

fn is_preflight<R: RequestHead>(request: &R) -> bool {
    request.method() == b"OPTIONS"
        && request
            .get(&ORIGIN)
            .is_some_and(|origin| !origin.is_empty())
        && request
            .get(&ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|method| !method.is_empty())
}

/// The request's URI as the client sent it.
fn realm<R: RequestHead>(request: &R) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = Headers::get(request, &ORIGINAL_PATH).unwrap_or_else(|| request.path());
    let path = &path[..path.len().min(MAX_REALM_PATH)];
    format!(
        "{}://{}{}",
        text(request.scheme()),
        text(request.authority()),
        text(path)
    )
}

/// A claim as header text: numbers without a fraction as integers, lists and objects as base64 of their JSON.
fn claim_text(payload: &serde_json::Value, path: &[Str]) -> Option<String> {
    let claim = path
        .iter()
        .try_fold(payload, |here, key| here.get(key.as_str()))?;
    match claim {
        serde_json::Value::Null => None,
        serde_json::Value::Bool(flag) => Some(flag.to_string()),
        serde_json::Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        serde_json::Value::Number(number) => {
            let value = number.as_f64()?;
            Some(if (0.0..1.8e19).contains(&value) && value.fract() == 0.0 {
                // In range and whole, as just seen.
                (value as u64).to_string()
            } else {
                format!("{value:.6}")
            })
        }
        list => Some(base64::engine::general_purpose::STANDARD.encode(list.to_string())),
    }
}

/// Claims that list words in one text become lists.
fn normalized(payload: Value, claims: &[Str]) -> Value {
    let Value::Struct(mut fields) = payload else {
        return payload;
    };
    for claim in claims {
        let Some(text) = fields.get(claim).and_then(Value::as_str) else {
            continue;
        };
        let words = text.split(' ').filter(|word| !word.is_empty());
        let list = words.map(|word| Value::String(word.into())).collect();
        fields.insert(claim.clone(), Value::List(list));
    }
    Value::Struct(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_text() {
        let payload = serde_json::json!({
            "a": {"b": 7}, "f": 1.5, "t": true, "s": "x", "l": [1], "e": ""
        });
        let text = |path: &[&str]| {
            let path: Vec<Str> = path.iter().map(|part| Str::from(*part)).collect();
            claim_text(&payload, &path)
        };
        assert_eq!(text(&["a", "b"]).as_deref(), Some("7"));
        assert_eq!(text(&["f"]).as_deref(), Some("1.500000"));
        assert_eq!(text(&["t"]).as_deref(), Some("true"));
        assert_eq!(text(&["l"]).as_deref(), Some("WzFd"));
        assert_eq!(text(&["e"]), None);
        assert_eq!(text(&["missing"]), None);
    }

    #[test]
    fn scopes_become_lists() {
        let mut fields = Fields::default();
        fields.insert("scope".into(), Value::String("a b".into()));
        let Value::Struct(out) = normalized(Value::Struct(fields), &["scope".into()]) else {
            unreachable!("an object stays one")
        };
        assert_eq!(
            out.get("scope"),
            Some(&Value::List(vec![
                Value::String("a".into()),
                Value::String("b".into())
            ]))
        );
    }
}
