//! What a request asks for: path and method into verb, resource and names; query parameters.
//!
//! Pure. It decides nothing about permission or existence.

use std::borrow::Cow;

use http::Method;

/// A request below `/api` or `/apis` that names a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, empty at cluster scope.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Object name or empty.
    pub name: String,
    /// Subresource or empty.
    pub subresource: String,
    /// What follows the subresource, for proxies.
    pub tail: String,
}

impl ResourcePath {
    /// Parses `/api/v1/...` and `/apis/{group}/{version}/...`; `None` for discovery and other paths.
    pub fn parse(path: &str) -> Option<Self> {
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|s| decode(s, false).into_owned())
            .collect();
        let mut parts = segments.iter().map(String::as_str);
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let version = parts.next()?.to_owned();
        let rest: Vec<&str> = parts.collect();
        let mut out = Self {
            group,
            version,
            ..Self::default()
        };
        let rest = match rest.as_slice() {
            [] | [""] => return None,
            // A namespace's own subresources, against resources inside it.
            ["namespaces", name, sub @ ("status" | "finalize"), ..] if out.group.is_empty() => {
                out.resource = "namespaces".into();
                out.name = (*name).to_owned();
                out.subresource = (*sub).to_owned();
                return Some(out);
            }
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                out.namespace = (*namespace).to_owned();
                rest
            }
            rest => rest,
        };
        out.resource = rest.first()?.to_string();
        out.name = rest.get(1).map(|s| (*s).to_owned()).unwrap_or_default();
        out.subresource = rest.get(2).map(|s| (*s).to_owned()).unwrap_or_default();
        out.tail = rest.get(3..).unwrap_or_default().join("/");
        Some(out)
    }

    /// The API verb that RBAC and admission see.
    pub fn verb(&self, method: &Method, watch: bool) -> &'static str {
        match *method {
            Method::GET | Method::HEAD if self.name.is_empty() && watch => "watch",
            Method::GET | Method::HEAD if self.name.is_empty() => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
    }
}

/// Decoded query parameters in order.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses a query string.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (
                    decode(name, true).into_owned(),
                    decode(value, true).into_owned(),
                )
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter; empty values count as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether a flag is set: `true`, `1`, or present without a value.
    pub fn flag(&self, name: &str) -> bool {
        self.pairs
            .iter()
            .find(|(n, _)| n == name)
            .is_some_and(|(_, v)| matches!(v.as_str(), "" | "true" | "1"))
    }

    /// A number, if it parses.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// Percent-decoding; bytes that are not UTF-8 become replacement characters.
fn decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    let plain = |c: char| c != '%' && !(plus_is_space && c == '+');
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => {
                let rest = bytes.as_slice_hex();
                match rest {
                    Some(value) => {
                        out.push(value);
                        bytes.next();
                        bytes.next();
                    }
                    None => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Looks at the next two bytes as hexadecimal digits without consuming them.
trait PeekHex {
    fn as_slice_hex(&self) -> Option<u8>;
}

impl PeekHex for std::str::Bytes<'_> {
    fn as_slice_hex(&self) -> Option<u8> {
        let mut ahead = self.clone();
        let digit = |b: u8| char::from(b).to_digit(16);
        let (high, low) = (digit(ahead.next()?)?, digit(ahead.next()?)?);
        u8::try_from(high * 16 + low).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_parts() {
        let p = ResourcePath::parse("/api/v1/namespaces/default/pods/web/log").expect("resource");
        assert_eq!(
            (
                p.namespace.as_str(),
                p.resource.as_str(),
                p.name.as_str(),
                p.subresource.as_str()
            ),
            ("default", "pods", "web", "log")
        );
        let p = ResourcePath::parse("/api/v1/namespaces/default").expect("resource");
        assert_eq!(
            (p.resource.as_str(), p.name.as_str(), p.namespace.as_str()),
            ("namespaces", "default", "")
        );
        let p = ResourcePath::parse("/api/v1/namespaces/x/finalize").expect("resource");
        assert_eq!((p.name.as_str(), p.subresource.as_str()), ("x", "finalize"));
        let p = ResourcePath::parse("/apis/apps/v1/deployments").expect("resource");
        assert_eq!(
            (p.group.as_str(), p.resource.as_str()),
            ("apps", "deployments")
        );
        assert_eq!(p.verb(&Method::GET, true), "watch");
        assert!(ResourcePath::parse("/apis/apps/v1").is_none());
        assert!(ResourcePath::parse("/healthz").is_none());
    }

    #[test]
    fn query_values_are_decoded_once() {
        let q = Query::parse(Some(
            "labelSelector=a%3Db%2Cc+in+%28x%29&watch=true&limit=5&bad=%zz",
        ));
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (x)"));
        assert!(q.flag("watch"));
        assert_eq!(q.number("limit"), Some(5));
        assert_eq!(q.get("bad"), Some("%zz"));
    }
}
