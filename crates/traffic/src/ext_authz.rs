//! External authorization: settings, and which headers go where.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::matcher::StringMatcher;
use crate::metadata::MetadataMatcher;
use crate::{Fraction, Limit, Str};

/// Envoy's default time for a check.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

/// `ext_authz` of HTTP chains.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: Authorizer,
    /// A failed check lets the request through.
    pub failure_mode_allow: bool,
    /// Such requests say so upstream.
    pub failure_mode_header: bool,
    /// The body goes with the check.
    pub body: Option<CheckBody>,
    /// A changed request is routed anew.
    pub clear_route_cache: bool,
    /// Status of a failed check.
    pub status_on_error: u16,
    /// Dynamic metadata that goes with the check, by namespace.
    pub metadata_namespaces: Vec<Str>,
    /// Route metadata that goes with the check, by namespace.
    pub route_metadata_namespaces: Vec<Str>,
    /// Share of requests.
    pub enabled: Fraction,
    /// Only requests whose dynamic metadata matches.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// Requests that are not checked are refused.
    pub deny_at_disable: bool,
    /// The SNI goes with the check.
    pub tls_session: bool,
    /// Further prefix of statistics.
    pub stat_prefix: Str,
    /// Request headers that go with the check; empty is the service's default.
    pub allowed_headers: Vec<StringMatcher>,
    /// Request headers that never do.
    pub disallowed_headers: Vec<StringMatcher>,
    /// The authorizer's metadata is taken.
    pub ingest_metadata: bool,
    /// Bytes of a denial's body; zero is no limit.
    pub max_denied_body: u32,
}

/// A gRPC service behind a cluster.
#[derive(Debug, Clone, Default)]
pub struct GrpcTarget {
    /// Cluster.
    pub cluster: Str,
    /// `:authority`; empty is the cluster.
    pub authority: Str,
    /// Time for the whole call.
    pub timeout: Limit,
    /// Fields sent with every call.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub enum Authorizer {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc(GrpcTarget),
    /// A server that gets the request's head.
    Http(Box<HttpAuthorizer>),
}

/// A server that gets the request's head.
#[derive(Debug, Clone)]
pub struct HttpAuthorizer {
    /// Cluster.
    pub cluster: Str,
    /// Time for the whole call.
    pub timeout: Limit,
    /// Put before the path.
    pub path_prefix: Str,
    /// Fields added to the check.
    pub headers_to_add: Vec<(HeaderName, HeaderValue)>,
    /// Fields of an approval that replace the request's.
    pub upstream: Vec<StringMatcher>,
    /// Fields of an approval that are appended to the request's.
    pub upstream_append: Vec<StringMatcher>,
    /// Fields of a denial that go to the client; empty is all but the host.
    pub client: Vec<StringMatcher>,
    /// Fields of an approval that go to the client.
    pub client_on_success: Vec<StringMatcher>,
    /// Fields of an approval that become dynamic metadata.
    pub to_metadata: Vec<StringMatcher>,
}

/// How the body goes with the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckBody {
    /// Most bytes.
    pub max: u32,
    /// A longer body is cut instead of refused.
    pub allow_partial: bool,
    /// Sent as bytes rather than text.
    pub as_bytes: bool,
}

/// `ExtAuthzPerRoute`.
#[derive(Debug, Clone, Default)]
pub struct ExtAuthzPerRoute {
    /// No check.
    pub disabled: bool,
    /// Sent with the check; all levels add up.
    pub extensions: Vec<(Str, Str)>,
    /// The body stays away.
    pub without_body: bool,
    /// Another rule for the body.
    pub body: Option<CheckBody>,
}

impl ExtAuthzPerRoute {
    /// This level over a less specific one: only the context adds up.
    #[must_use]
    pub fn over(mut self, base: &Self) -> Self {
        let more = base.extensions.iter();
        let more = more.filter(|(key, _)| self.extensions.iter().all(|(have, _)| have != key));
        let more: Vec<_> = more.cloned().collect();
        self.extensions.extend(more);
        self
    }
}

fn any(list: &[StringMatcher], name: &str) -> bool {
    list.iter().any(|matcher| matcher.matches(name.as_bytes()))
}

impl ExtAuthz {
    /// Whether a request header goes with the check. Pseudo headers are asked for by their names.
    #[must_use]
    pub fn sends(&self, name: &str) -> bool {
        if any(&self.disallowed_headers, name) {
            return false;
        }
        match self.service {
            Authorizer::Grpc(_) => {
                self.allowed_headers.is_empty() || any(&self.allowed_headers, name)
            }
            Authorizer::Http(_) => {
                matches!(
                    name,
                    "authorization" | ":method" | ":path" | ":authority" | "host"
                ) || any(&self.allowed_headers, name)
            }
        }
    }
}

impl HttpAuthorizer {
    /// Whether a denial's field goes to the client.
    #[must_use]
    pub fn tells_denied(&self, name: &str) -> bool {
        if self.client.is_empty() {
            return name != "host";
        }
        matches!(name, "www-authenticate" | "location") || any(&self.client, name)
    }

    /// Whether an approval's field goes to the client.
    #[must_use]
    pub fn tells_allowed(&self, name: &str) -> bool {
        any(&self.client_on_success, name)
    }

    /// Whether an approval's field replaces the request's.
    #[must_use]
    pub fn replaces(&self, name: &str) -> bool {
        any(&self.upstream, name)
    }

    /// Whether an approval's field is appended to the request's.
    #[must_use]
    pub fn appends(&self, name: &str) -> bool {
        any(&self.upstream_append, name)
    }

    /// Whether an approval's field becomes metadata.
    #[must_use]
    pub fn becomes_metadata(&self, name: &str) -> bool {
        any(&self.to_metadata, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(client: Vec<StringMatcher>) -> HttpAuthorizer {
        HttpAuthorizer {
            cluster: "a".into(),
            timeout: None,
            path_prefix: Str::default(),
            headers_to_add: Vec::new(),
            upstream: Vec::new(),
            upstream_append: Vec::new(),
            client,
            client_on_success: Vec::new(),
            to_metadata: Vec::new(),
        }
    }

    #[test]
    fn a_denial_shows_everything_unless_a_list_says_what() {
        assert!(http(Vec::new()).tells_denied("x-why"));
        assert!(!http(Vec::new()).tells_denied("host"));
        let listed = http(vec![StringMatcher::exact("x-a")]);
        assert!(listed.tells_denied("x-a") && listed.tells_denied("location"));
        assert!(!listed.tells_denied("x-why"));
        assert!(!listed.tells_allowed("x-a"));
    }

    #[test]
    fn the_context_of_all_levels_adds_up_and_the_nearest_wins() {
        let level = |pairs: &[(&str, &str)]| ExtAuthzPerRoute {
            extensions: pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..ExtAuthzPerRoute::default()
        };
        let merged = level(&[("a", "route")]).over(&level(&[("a", "host"), ("b", "host")]));
        assert_eq!(
            merged.extensions,
            level(&[("a", "route"), ("b", "host")]).extensions
        );
    }
}
