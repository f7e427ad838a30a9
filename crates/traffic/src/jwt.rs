//! JSON web tokens: settings, where tokens are found in a request, and which requests must bring which.
//!
//! Keys and signatures are not known here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use crate::headers::{Headers, RequestHead, RequestHeadMut};
use crate::matcher::{query_value, split_query};
use crate::route::RouteMatch;
use crate::{Limit, Str};

/// `jwt_authn`.
#[derive(Debug, Clone, Default)]
pub struct JwtAuthn {
    /// Providers, by position.
    pub providers: Vec<Arc<Provider>>,
    /// The first that matches says what is required; `None` is nothing.
    pub rules: Vec<(Arc<RouteMatch>, Option<Arc<Requirement>>)>,
    /// Requirements that routes name.
    pub named: Vec<(Str, Arc<Requirement>)>,
    /// Cross-origin preflights pass.
    pub bypass_preflight: bool,
    /// Refusals have neither body nor challenge.
    pub strip_failure: bool,
    /// Further prefix of statistics.
    pub stat_prefix: Str,
}

/// A route's setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtPerRoute {
    /// Nothing is required.
    Disabled,
    /// This requirement.
    Named(Str),
}

/// Who issues tokens, and what becomes of them.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Name.
    pub name: Str,
    /// `iss`; empty is any.
    pub issuer: Str,
    /// `aud`, any of them; empty is any.
    pub audiences: Vec<Str>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// The token goes on upstream.
    pub forward: bool,
    /// Headers to look in, with what precedes the token.
    pub from_headers: Vec<(HeaderName, Str)>,
    /// Query parameters to look in.
    pub from_params: Vec<Str>,
    /// Cookies to look in.
    pub from_cookies: Vec<Str>,
    /// Gets the payload, base64url.
    pub payload_header: Option<HeaderName>,
    /// With padding.
    pub pad_payload: bool,
    /// Key of the payload in metadata; empty is nowhere.
    pub payload_in_metadata: Str,
    /// Key of the header in metadata; empty is nowhere.
    pub header_in_metadata: Str,
    /// Key of the failure in metadata; empty is nowhere.
    pub failure_in_metadata: Str,
    /// Claims whose text becomes a list of words in metadata.
    pub space_delimited: Vec<Str>,
    /// Claims that become headers: header, and the path of the claim.
    pub claim_headers: Vec<(HeaderName, Vec<Str>)>,
    /// The request is routed anew.
    pub clear_route_cache: bool,
    /// Leeway.
    pub clock_skew: Duration,
    /// A token must expire.
    pub require_expiration: bool,
    /// A token may live so long at most.
    pub max_lifetime: Limit,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The key set itself.
    Inline(Bytes),
    /// A server.
    Remote(RemoteKeys),
}

/// A server that has the keys.
#[derive(Debug, Clone)]
pub struct RemoteKeys {
    /// Cluster.
    pub cluster: Str,
    /// `:authority`.
    pub host: Str,
    /// Path and query.
    pub path: Str,
    /// Time for a fetch.
    pub timeout: Duration,
    /// Time that keys are good for.
    pub cache: Duration,
    /// Keys are fetched before they are needed; after a failure again in so long.
    pub ahead: Option<Duration>,
    /// Further attempts of a fetch.
    pub retries: u32,
    /// Time before the first of them.
    pub back_off: Duration,
}

/// What a request must bring.
#[derive(Debug, Clone)]
pub enum Requirement {
    /// A token of this provider, with these audiences instead of its own.
    Provider(usize, Option<Vec<Str>>),
    /// One of these.
    Any(Vec<Self>),
    /// All of these.
    All(Vec<Self>),
    /// No token, or good ones of these providers.
    AllowMissing(Vec<usize>),
    /// Whatever it brings; good tokens of these providers are used.
    AllowAny(Vec<usize>),
    /// Nothing.
    Nothing,
}

/// Where a token was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(HeaderName),
    /// A query parameter.
    Param(Str),
    /// A cookie.
    Cookie,
}

/// A token in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its text.
    pub token: String,
    /// Where.
    pub place: Place,
    /// The providers, by position, that look there.
    pub providers: Vec<usize>,
}

/// Name of the query parameter where nothing is configured.
const ACCESS_TOKEN: &str = "access_token";
/// What precedes a token in `Authorization` where nothing is configured.
const BEARER: &str = "Bearer ";
/// Longest token that is looked at.
const MAX_TOKEN: usize = 64 * 1024;

impl Provider {
    fn by_default(&self) -> bool {
        self.from_headers.is_empty() && self.from_params.is_empty() && self.from_cookies.is_empty()
    }

    /// Removes what only this provider may say, before anything is verified.
    pub fn sanitize<R: RequestHeadMut>(&self, request: &mut R) {
        let claims = self.claim_headers.iter().map(|(header, _)| header);
        for header in self.payload_header.iter().chain(claims) {
            request.remove(header);
        }
    }
}

impl JwtAuthn {
    /// Tokens that the given providers look for: headers, then parameters, then cookies.
    #[must_use]
    pub fn find<R: RequestHead>(&self, providers: &[usize], request: &R) -> Vec<Found> {
        let mut out: Vec<Found> = Vec::new();
        let mut add = |place: Place, token: &[u8], provider: usize| {
            let Ok(token) = std::str::from_utf8(token) else {
                return;
            };
            if token.is_empty() || token.len() > MAX_TOKEN {
                return;
            }
            let same = out
                .iter_mut()
                .find(|found| found.place == place && found.token == token);
            match same {
                Some(found) if found.providers.contains(&provider) => {}
                Some(found) => found.providers.push(provider),
                None => out.push(Found {
                    token: token.to_owned(),
                    place,
                    providers: vec![provider],
                }),
            }
        };
        let each = || providers.iter().map(|at| (*at, &self.providers[*at]));
        for (at, provider) in each() {
            if provider.by_default()
                && let Some(value) = request.get(&AUTHORIZATION)
                && let Some(token) = after(value, BEARER)
            {
                add(Place::Header(AUTHORIZATION), token, at);
            }
            for (header, prefix) in &provider.from_headers {
                if let Some(token) = joined(request, header).and_then(|v| own_after(&v, prefix)) {
                    add(Place::Header(header.clone()), &token, at);
                }
            }
        }
        let query = split_query(request.path()).1;
        for (at, provider) in each() {
            let standard = Str::from(ACCESS_TOKEN);
            let standard = provider.by_default().then_some(&standard);
            for name in provider.from_params.iter().chain(standard) {
                if let Some(token) = query_value(query, name.as_bytes()) {
                    add(Place::Param(name.clone()), token, at);
                }
            }
        }
        for (at, provider) in each() {
            for name in &provider.from_cookies {
                if let Some(token) = cookie(request, name) {
                    add(Place::Cookie, token, at);
                }
            }
        }
        out
    }
}

/// All values of a header, joined as one field line.
fn joined<R: RequestHead>(request: &R, header: &HeaderName) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    Headers::for_each(request, header, &mut |value| match &mut out {
        Some(have) => {
            have.push(b',');
            have.extend_from_slice(value);
        }
        None => out = Some(value.to_vec()),
    });
    out
}

fn own_after(value: &[u8], prefix: &str) -> Option<Vec<u8>> {
    after(value, prefix).map(<[u8]>::to_vec)
}

/// The token after a prefix: the longest run of its characters.
fn after<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let prefix = prefix.as_bytes();
    let at = value
        .windows(prefix.len())
        .position(|part| part == prefix)?;
    let rest = &value[at + prefix.len()..];
    let start = rest.iter().position(|b| is_token(*b)).unwrap_or(rest.len());
    let rest = &rest[start..];
    let end = rest
        .iter()
        .position(|b| !is_token(*b))
        .unwrap_or(rest.len());
    Some(&rest[..end])
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'/' | b'=')
}

fn cookie<'r, R: RequestHead>(request: &'r R, name: &str) -> Option<&'r [u8]> {
    let mut found = None;
    Headers::for_each(request, &COOKIE, &mut |line: &'r [u8]| {
        for pair in line.split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let value = pair
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = value
                && found.is_none()
            {
                found = Some(value.strip_prefix(b"\"").unwrap_or(value));
            }
        }
    });
    found.map(|value: &[u8]| value.strip_suffix(b"\"").unwrap_or(value))
}

/// Removes a token from a request. Cookies stay: they may say more than the token.
pub fn remove<R: RequestHeadMut>(place: &Place, request: &mut R) {
    match place {
        Place::Header(header) => request.remove(header),
        Place::Param(name) => {
            let path = request.path().to_vec();
            let (before, query) = split_query(&path);
            let kept: Vec<&[u8]> = query
                .split(|byte| *byte == b'&')
                .filter(|pair| pair.split(|byte| *byte == b'=').next() != Some(name.as_bytes()))
                .collect();
            let mut rest = before.to_vec();
            let kept = kept.join(&b'&');
            if !kept.is_empty() {
                rest.push(b'?');
                rest.extend(kept);
            }
            request.set_path(&rest);
        }
        Place::Cookie => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    fn provider() -> Provider {
        Provider {
            name: "p".into(),
            issuer: Str::default(),
            audiences: Vec::new(),
            keys: KeySource::Inline(Bytes::new()),
            forward: false,
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            payload_header: None,
            pad_payload: false,
            payload_in_metadata: Str::default(),
            header_in_metadata: Str::default(),
            failure_in_metadata: Str::default(),
            space_delimited: Vec::new(),
            claim_headers: Vec::new(),
            clear_route_cache: false,
            clock_skew: Duration::from_secs(60),
            require_expiration: false,
            max_lifetime: None,
        }
    }

    fn find(provider: Provider, request: &SimpleRequest) -> Vec<(String, Place)> {
        let filter = JwtAuthn {
            providers: vec![Arc::new(provider)],
            ..JwtAuthn::default()
        };
        let found = filter.find(&[0], request);
        found.into_iter().map(|f| (f.token, f.place)).collect()
    }

    #[test]
    fn without_locations_bearer_and_access_token_are_looked_at() {
        let request = SimpleRequest::get("a", "/p?x=1&access_token=q.q.q")
            .with("authorization", "Bearer a.b.c");
        assert_eq!(
            find(provider(), &request),
            [
                ("a.b.c".into(), Place::Header(AUTHORIZATION)),
                ("q.q.q".into(), Place::Param("access_token".into())),
            ]
        );
        let basic = SimpleRequest::get("a", "/").with("authorization", "Basic abc");
        assert!(find(provider(), &basic).is_empty());
    }

    #[test]
    fn configured_locations_replace_the_standard_ones() {
        let request = SimpleRequest::get("a", "/?access_token=no")
            .with("authorization", "Bearer no")
            .with("x-token", "jwt a.b.c,other")
            .with("cookie", "a=1; session=s.s.s");
        let own = Provider {
            from_headers: vec![(HeaderName::from_static("x-token"), "jwt ".into())],
            from_cookies: vec!["session".into()],
            ..provider()
        };
        assert_eq!(
            find(own, &request),
            [
                (
                    "a.b.c".into(),
                    Place::Header(HeaderName::from_static("x-token"))
                ),
                ("s.s.s".into(), Place::Cookie),
            ]
        );
    }

    #[test]
    fn a_token_leaves_the_query_and_nothing_else_does() {
        let mut request = SimpleRequest::get("a", "/p?a=1&access_token=t&b=2");
        remove(&Place::Param("access_token".into()), &mut request);
        assert_eq!(request.path, "/p?a=1&b=2");
        let mut request = SimpleRequest::get("a", "/p?access_token=t");
        remove(&Place::Param("access_token".into()), &mut request);
        assert_eq!(request.path, "/p");
    }
}
