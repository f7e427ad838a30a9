//! Cross-origin decisions.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN,
};

use crate::headers::{HeadersMut, RequestHead};
use crate::matcher::StringMatcher;
use crate::{Fraction, Str};

/// `CorsPolicy` with all levels merged.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Origins.
    pub origins: Vec<StringMatcher>,
    /// Methods; empty adds no header.
    pub allow_methods: Str,
    /// Headers; empty adds no header.
    pub allow_headers: Str,
    /// Exposed headers; empty adds no header.
    pub expose_headers: Str,
    /// Seconds; empty adds no header.
    pub max_age: Str,
    /// Credentials; unset is no.
    pub allow_credentials: Option<bool>,
    /// Private networks; unset is no.
    pub allow_private_network: Option<bool>,
    /// Share of requests.
    pub enabled: Fraction,
    /// Share of requests that only count.
    pub shadow: Fraction,
    /// A preflight that does not match goes upstream; unset is yes.
    pub forward_unmatched: Option<bool>,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsDecision {
    /// Nothing.
    Pass,
    /// Forward; the response gets the fields of [`CorsPolicy::decorate`] for this origin.
    Decorate(HeaderValue),
    /// Answer 200 with these fields.
    Answer(Vec<(HeaderName, HeaderValue)>),
}

const PRIVATE_REQUEST: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const PRIVATE_ALLOW: HeaderName = HeaderName::from_static("access-control-allow-private-network");

impl CorsPolicy {
    /// This policy with what it leaves unset taken from a less specific one.
    #[must_use]
    pub fn over(mut self, base: &Self) -> Self {
        if self.origins.is_empty() {
            self.origins.clone_from(&base.origins);
        }
        for (own, base) in [
            (&mut self.allow_methods, &base.allow_methods),
            (&mut self.allow_headers, &base.allow_headers),
            (&mut self.expose_headers, &base.expose_headers),
            (&mut self.max_age, &base.max_age),
        ] {
            if own.is_empty() {
                own.clone_from(base);
            }
        }
        self.allow_credentials = self.allow_credentials.or(base.allow_credentials);
        self.allow_private_network = self.allow_private_network.or(base.allow_private_network);
        self.forward_unmatched = self.forward_unmatched.or(base.forward_unmatched);
        self
    }

    /// Whether an origin is allowed.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins
            .iter()
            .any(|matcher| self.origin_matches(matcher, origin))
    }

    /// Decides.
    #[must_use]
    pub fn decide<R: RequestHead + ?Sized>(&self, request: &R, random: u64) -> CorsDecision {
        let Some(origin) = request.get(&ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsDecision::Pass;
        };
        if !self.enabled.hits(random) {
            return CorsDecision::Pass;
        }
        let matched = self.allows(origin);
        let Ok(origin) = HeaderValue::from_bytes(origin) else {
            return CorsDecision::Pass;
        };
        let preflight =
            request.method() == b"OPTIONS" && request.has(&ACCESS_CONTROL_REQUEST_METHOD);
        match (preflight, matched) {
            (false, true) => CorsDecision::Decorate(origin),
            (false, false) => CorsDecision::Pass,
            (true, false) if self.forward_unmatched.unwrap_or(true) => CorsDecision::Pass,
            (true, matched) => {
                CorsDecision::Answer(self.preflight(request, matched.then_some(origin)))
            }
        }
    }

    fn origin_matches(&self, matcher: &StringMatcher, origin: &[u8]) -> bool {
        matches!(matcher, StringMatcher::Exact(p) if p.text == "*") || matcher.matches(origin)
    }

    fn preflight<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        origin: Option<HeaderValue>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut out = Vec::new();
        let mut put = |name: HeaderName, value: &[u8]| {
            if !value.is_empty()
                && let Ok(value) = HeaderValue::from_bytes(value)
            {
                out.push((name, value));
            }
        };
        // `*` stands for what the client asked for.
        let listed = |list: &Str, asked: &HeaderName| match list.as_str() {
            "*" => request.get(asked).unwrap_or_default().to_vec(),
            list => list.as_bytes().to_vec(),
        };
        let allowed = origin.is_some();
        if let Some(origin) = &origin {
            put(ACCESS_CONTROL_ALLOW_ORIGIN, origin.as_bytes());
        }
        if allowed && self.allow_credentials == Some(true) {
            put(ACCESS_CONTROL_ALLOW_CREDENTIALS, b"true");
        }
        if allowed
            && self.allow_private_network == Some(true)
            && request.get(&PRIVATE_REQUEST) == Some(b"true")
        {
            put(PRIVATE_ALLOW, b"true");
        }
        put(
            ACCESS_CONTROL_ALLOW_METHODS,
            &listed(&self.allow_methods, &ACCESS_CONTROL_REQUEST_METHOD),
        );
        put(
            ACCESS_CONTROL_ALLOW_HEADERS,
            &listed(&self.allow_headers, &ACCESS_CONTROL_REQUEST_HEADERS),
        );
        put(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            self.expose_headers.as_bytes(),
        );
        put(ACCESS_CONTROL_MAX_AGE, self.max_age.as_bytes());
        out
    }

    /// Adds the fields of a simple response.
    pub fn decorate<H: HeadersMut>(&self, origin: &HeaderValue, response: &mut H) {
        response.set(&ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.allow_credentials == Some(true) {
            response.set(
                &ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if !self.expose_headers.is_empty()
            && let Ok(value) = HeaderValue::from_str(&self.expose_headers)
        {
            response.set(&ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    fn policy() -> CorsPolicy {
        CorsPolicy {
            origins: vec![StringMatcher::exact("https://ok.example")],
            allow_methods: "GET,POST".into(),
            allow_headers: "*".into(),
            expose_headers: "x-a".into(),
            max_age: "60".into(),
            allow_credentials: Some(true),
            allow_private_network: None,
            enabled: Fraction::ALL,
            shadow: Fraction::NONE,
            forward_unmatched: None,
        }
    }

    fn preflight(origin: &str) -> SimpleRequest {
        let mut request = SimpleRequest::get("a", "/")
            .with("origin", origin)
            .with("access-control-request-method", "POST")
            .with("access-control-request-headers", "x-b");
        request.method = "OPTIONS".into();
        request
    }

    #[test]
    fn a_matching_preflight_is_answered() {
        let CorsDecision::Answer(fields) = policy().decide(&preflight("https://ok.example"), 0)
        else {
            unreachable!("a matching preflight is answered")
        };
        let field = |name| {
            fields
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.to_str().unwrap())
        };
        assert_eq!(
            field(ACCESS_CONTROL_ALLOW_ORIGIN),
            Some("https://ok.example")
        );
        assert_eq!(field(ACCESS_CONTROL_ALLOW_HEADERS), Some("x-b"));
        assert_eq!(field(ACCESS_CONTROL_MAX_AGE), Some("60"));
    }

    #[test]
    fn an_unmatched_preflight_is_forwarded_or_answered_without_origin() {
        assert_eq!(
            policy().decide(&preflight("https://no.example"), 0),
            CorsDecision::Pass
        );
        let strict = CorsPolicy {
            forward_unmatched: Some(false),
            ..policy()
        };
        let CorsDecision::Answer(fields) = strict.decide(&preflight("https://no.example"), 0)
        else {
            unreachable!("answered when forwarding is off")
        };
        assert!(
            fields
                .iter()
                .all(|(name, _)| *name != ACCESS_CONTROL_ALLOW_ORIGIN)
        );
    }

    #[test]
    fn a_simple_request_gets_the_origin_echoed() {
        let request = SimpleRequest::get("a", "/").with("origin", "https://ok.example");
        let CorsDecision::Decorate(origin) = policy().decide(&request, 0) else {
            unreachable!("a simple request is decorated")
        };
        let mut response = http::HeaderMap::new();
        policy().decorate(&origin, &mut response);
        assert_eq!(
            response["access-control-allow-origin"],
            "https://ok.example"
        );
        assert_eq!(response["access-control-expose-headers"], "x-a");
    }
}
