//! `url()`, `isURL()` and what a URL is made of.

use cel::common::types::{CelBool, CelString};
use cel::{DeclarationError, Env, ExecutionError};

use super::{opaque_value, truth};

/// A parsed absolute URL or absolute path, as Go's `url.ParseRequestURI` accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::schema) struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

opaque_value!(Url, "kubernetes.URL");

impl Url {
    /// Parses an absolute URI or an absolute path.
    pub(in crate::schema) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return None;
        }
        let (scheme, rest) = match split_scheme(text) {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None if text.starts_with('/') => (String::new(), text),
            None => return None,
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//") {
            Some(authority) if !scheme.is_empty() || text.starts_with("//") => {
                let end = authority.find('/').unwrap_or(authority.len());
                (&authority[..end], &authority[end..])
            }
            _ => ("", rest),
        };
        // An opaque part ("mailto:x") is fine; a relative path after a scheme is too.
        let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
        (valid_user(user) && valid_host(host) && valid_escapes(path)).then(|| Self {
            scheme,
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    fn hostname(&self) -> &str {
        split_port(&self.host).0.trim_matches(['[', ']'])
    }

    fn port(&self) -> &str {
        split_port(&self.host).1
    }
}

/// `http` and what follows the colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    let good =
        starts && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    good.then_some((scheme, rest))
}

fn split_port(host: &str) -> (&str, &str) {
    if let Some(end) = host.rfind(']') {
        return (
            &host[..=end],
            host[end + 1..].strip_prefix(':').unwrap_or(""),
        );
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn allowed(text: &str, punctuation: &str) -> bool {
    let good = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || punctuation.contains(c);
    text.chars().all(good) && valid_escapes(text)
}

fn valid_user(user: &str) -> bool {
    allowed(user, "-._:~!$&'()*+,;=%")
}

fn valid_host(host: &str) -> bool {
    let (name, port) = split_port(host);
    let name_good = match name.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => allowed(name, "-._~!$&'()*+,;=<>\"%"),
    };
    name_good && port.bytes().all(|b| b.is_ascii_digit())
}

fn valid_escapes(text: &str) -> bool {
    let bytes = text.as_bytes();
    (0..bytes.len()).filter(|i| bytes[*i] == b'%').all(|i| {
        bytes
            .get(i + 1..i + 3)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    })
}

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(env, fn url: (CelString) -> Result<Url>, name = "url")?;
    cel::add_overload!(env, fn is_url: (CelString) -> CelBool, name = "isURL")?;
    cel::add_member_overload!(env, fn get_scheme: (Url) -> CelString)?;
    cel::add_member_overload!(env, fn get_host: (Url) -> CelString)?;
    cel::add_member_overload!(env, fn get_hostname: (Url) -> CelString)?;
    cel::add_member_overload!(env, fn get_port: (Url) -> CelString)?;
    cel::add_member_overload!(env, fn get_escaped_path: (Url) -> CelString)?;
    Ok(())
}

fn url(text: &CelString<'_>) -> Result<Url, ExecutionError> {
    let parsed = Url::parse(text.inner());
    parsed.ok_or_else(|| ExecutionError::function_error("url", format!("URL parse error during conversion from string: parse {:?}: invalid URI for request", text.inner())))
}

fn is_url(text: &CelString<'_>) -> CelBool {
    truth(Url::parse(text.inner()).is_some())
}

fn get_scheme(url: &Url) -> CelString<'static> {
    url.scheme.clone().into()
}

fn get_host(url: &Url) -> CelString<'static> {
    url.host.clone().into()
}

fn get_hostname(url: &Url) -> CelString<'static> {
    url.hostname().to_owned().into()
}

fn get_port(url: &Url) -> CelString<'static> {
    url.port().to_owned().into()
}

fn get_escaped_path(url: &Url) -> CelString<'static> {
    url.path.clone().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("https://user@[::1]:8443/a/b?c=d").expect("valid");
        assert_eq!(
            (
                url.scheme.as_str(),
                url.hostname(),
                url.port(),
                url.path.as_str()
            ),
            ("https", "::1", "8443", "/a/b")
        );
        assert_eq!(url.query, "c=d");
        assert!(Url::parse("/just/a/path").is_some());
        assert_eq!(
            Url::parse("oci://docker.io/x:1").expect("valid").hostname(),
            "docker.io"
        );
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for bad in [
            "",
            "docker.io/x",
            "http://a b",
            "http://[::1",
            "http://a:b",
            "http://a/%zz",
        ] {
            assert!(Url::parse(bad).is_none(), "{bad}");
        }
    }
}
