//! Path and host rewrites, and redirects.

use bytes::Bytes;
use http::header::HeaderName;
use regex::bytes::Regex;

use crate::Str;
use crate::headers::RequestHead;
use crate::matcher::split_query;
use crate::path::{Template, TemplateRewrite};
use crate::route::{PathMatch, Route};
use crate::select::without_port;

/// How the path changes.
#[derive(Debug, Clone, Default)]
pub enum PathRewrite {
    /// Not at all.
    #[default]
    None,
    /// The matched prefix (or whole path) is replaced.
    Prefix(Str),
    /// Every match of the regex is replaced.
    Regex(RegexRewrite),
    /// A path template's variables are put into another.
    Template(Box<(Template, TemplateRewrite)>),
}

/// A regex with its substitution.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    /// The regex.
    pub regex: Regex,
    /// Substitution in the regex crate's syntax (`${1}`).
    pub substitution: Bytes,
}

impl RegexRewrite {
    /// Reads an RE2 substitution (`\1`, `\\`).
    ///
    /// # Errors
    /// A sentence when the regex or the substitution cannot be read.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|e| e.to_string())?;
        let mut out = String::with_capacity(substitution.len());
        let mut rest = substitution.chars();
        while let Some(c) = rest.next() {
            match c {
                '$' => out.push_str("$$"),
                '\\' => match rest.next() {
                    Some('\\') => out.push('\\'),
                    Some(d) if d.is_ascii_digit() => {
                        let group = d as usize - '0' as usize;
                        if group >= regex.captures_len() {
                            return Err(format!(
                                "substitution names group {group}, the regex has less"
                            ));
                        }
                        out.push_str(&format!("${{{group}}}"));
                    }
                    _ => {
                        return Err(
                            "a backslash must be followed by a digit or a backslash".to_owned()
                        );
                    }
                },
                c => out.push(c),
            }
        }
        Ok(Self {
            regex,
            substitution: Bytes::from(out),
        })
    }

    /// Replaces every match.
    #[must_use]
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.regex
            .replace_all(text, &self.substitution[..])
            .into_owned()
    }
}

/// How the host changes.
#[derive(Debug, Clone, Default)]
pub enum HostRewrite {
    /// Not at all.
    #[default]
    None,
    /// To this.
    Literal(Str),
    /// To the chosen endpoint's host name.
    Auto,
    /// To this header's value.
    Header(HeaderName),
    /// To the path with this regex applied.
    PathRegex(RegexRewrite),
}

/// `RedirectAction`.
#[derive(Debug, Clone, Default)]
pub struct Redirect {
    /// Status.
    pub status: u16,
    /// New scheme.
    pub scheme: Option<Str>,
    /// New host.
    pub host: Option<Str>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: RedirectPath,
    /// The query is dropped.
    pub strip_query: bool,
}

/// How a redirect changes the path.
#[derive(Debug, Clone, Default)]
pub enum RedirectPath {
    /// Kept.
    #[default]
    Keep,
    /// Replaced (a `?` in it replaces the query too).
    Path(Str),
    /// Rewritten.
    Rewrite(PathRewrite),
}

impl PathRewrite {
    /// The new `:path` (query kept); `None` when nothing changes.
    #[must_use]
    pub fn apply(&self, matched: &PathMatch, path_and_query: &[u8]) -> Option<Vec<u8>> {
        let (path, _) = split_query(path_and_query);
        let tail = &path_and_query[path.len()..];
        let mut new = match self {
            Self::None => return None,
            Self::Prefix(replacement) => {
                let cut = match matched {
                    PathMatch::Prefix(prefix, _) | PathMatch::Separated(prefix, _) => {
                        prefix.len().min(path.len())
                    }
                    // A regex or exact match stands for the whole path.
                    _ => path.len(),
                };
                [replacement.as_bytes(), &path[cut..]].concat()
            }
            Self::Regex(rewrite) => rewrite.apply(path),
            Self::Template(pair) => pair.1.apply(&pair.0, path)?,
        };
        new.extend_from_slice(tail);
        Some(new)
    }
}

impl HostRewrite {
    /// The new host; `endpoint_host` is the chosen endpoint's name, when it has one.
    #[must_use]
    pub fn apply<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        endpoint_host: Option<&str>,
    ) -> Option<Vec<u8>> {
        match self {
            Self::None => None,
            Self::Literal(host) => Some(host.as_bytes().to_vec()),
            Self::Auto => endpoint_host
                .filter(|host| !host.is_empty())
                .map(|host| host.as_bytes().to_vec()),
            Self::Header(name) => request
                .get(name)
                .filter(|value| !value.is_empty())
                .map(<[u8]>::to_vec),
            Self::PathRegex(rewrite) => Some(rewrite.apply(split_query(request.path()).0)),
        }
    }
}

impl Redirect {
    /// The `location` of a request. `scheme` is the request's.
    #[must_use]
    pub fn location<R: RequestHead + ?Sized>(
        &self,
        route: &Route,
        request: &R,
        scheme: &[u8],
    ) -> Vec<u8> {
        let new_scheme = self.scheme.as_ref().map_or(scheme, |s| s.as_bytes());
        let mut out = [new_scheme, b"://"].concat();
        let scheme_changes = !new_scheme.eq_ignore_ascii_case(scheme);
        match (&self.host, self.port) {
            (Some(host), None) => out.extend_from_slice(host.as_bytes()),
            (host, Some(port)) => {
                let host = host
                    .as_ref()
                    .map_or_else(|| without_port(request.authority()), |h| h.as_bytes());
                out.extend_from_slice(host);
                out.extend_from_slice(format!(":{port}").as_bytes());
            }
            (None, None) => {
                out.extend_from_slice(host_for_scheme(request.authority(), scheme, scheme_changes))
            }
        }
        out.extend_from_slice(&self.new_path(&route.matches.path, request.path()));
        out
    }

    /// The `:path` of a request whose redirect rewrites it, query included: header changes and the log see it.
    #[must_use]
    pub fn rewritten<R: RequestHead + ?Sized>(
        &self,
        route: &Route,
        request: &R,
    ) -> Option<Vec<u8>> {
        let RedirectPath::Rewrite(rewrite) = &self.path else {
            return None;
        };
        let (path, query) = split_query(request.path());
        let new = rewrite.apply(&route.matches.path, path)?;
        Some(if query.is_empty() {
            new
        } else {
            [&new[..], b"?", query].concat()
        })
    }

    fn new_path(&self, matched: &PathMatch, path_and_query: &[u8]) -> Vec<u8> {
        let (path, query) = split_query(path_and_query);
        let new = match &self.path {
            RedirectPath::Keep => path.to_vec(),
            RedirectPath::Path(new) => new.as_bytes().to_vec(),
            RedirectPath::Rewrite(rewrite) => rewrite
                .apply(matched, path)
                .unwrap_or_else(|| path.to_vec()),
        };
        if self.strip_query || query.is_empty() || new.contains(&b'?') {
            return new;
        }
        [&new[..], b"?", query].concat()
    }
}

/// The default port of the old scheme is cut when the scheme changes.
fn host_for_scheme<'h>(authority: &'h [u8], scheme: &[u8], changes: bool) -> &'h [u8] {
    let default: &[u8] = if scheme.eq_ignore_ascii_case(b"https") {
        b":443"
    } else {
        b":80"
    };
    if changes {
        authority.strip_suffix(default).unwrap_or(authority)
    } else {
        authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;
    use crate::route::CaseRule;

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into(), CaseRule::Sensitive)
    }

    #[test]
    fn a_prefix_rewrite_replaces_the_matched_prefix_and_keeps_the_query() {
        let rewrite = PathRewrite::Prefix("/new".into());
        assert_eq!(
            rewrite.apply(&prefix("/old"), b"/old/x?a=1").unwrap(),
            b"/new/x?a=1"
        );
        let exact = PathMatch::Exact("/old".into(), CaseRule::Sensitive);
        assert_eq!(rewrite.apply(&exact, b"/old?a").unwrap(), b"/new?a");
    }

    #[test]
    fn a_regex_rewrite_uses_groups() {
        let rewrite = RegexRewrite::new("^/svc/([^/]+)(/.*)$", r"\2/of/\1").unwrap();
        assert_eq!(rewrite.apply(b"/svc/a/b"), b"/b/of/a");
        assert!(RegexRewrite::new("a", r"\1").is_err());
        assert_eq!(RegexRewrite::new("a", "$1").unwrap().apply(b"a"), b"$1");
    }

    fn route() -> Route {
        Route {
            name: Str::default(),
            matches: crate::route::RouteMatch {
                path: prefix("/"),
                ..Default::default()
            },
            action: crate::route::Action::NonForwarding,
            request_ops: Vec::new(),
            response_ops: Vec::new(),
            overrides: crate::route::Overrides::default(),
            metadata: crate::metadata::Metadata::default(),
            decorator: None,
            stat_prefix: Str::default(),
            virtual_clusters: None,
            attempt_count_in_request: false,
            attempt_count_in_response: false,
            is_timeout_retry_header: false,
            retry_buffer_limit: None,
        }
    }

    #[test]
    fn a_scheme_redirect_cuts_the_old_default_port() {
        let redirect = Redirect {
            status: 301,
            scheme: Some("https".into()),
            ..Redirect::default()
        };
        let request = SimpleRequest::get("a.example:80", "/p?q=1");
        assert_eq!(
            redirect.location(&route(), &request, b"http"),
            b"https://a.example/p?q=1"
        );
        let request = SimpleRequest::get("a.example:8080", "/p");
        assert_eq!(
            redirect.location(&route(), &request, b"http"),
            b"https://a.example:8080/p"
        );
    }

    #[test]
    fn a_redirect_path_with_a_query_replaces_the_query() {
        let redirect = Redirect {
            status: 302,
            path: RedirectPath::Path("/n?x=2".into()),
            ..Redirect::default()
        };
        let request = SimpleRequest::get("a", "/p?q=1");
        assert_eq!(
            redirect.location(&route(), &request, b"http"),
            b"http://a/n?x=2"
        );
    }
}
