//! String, header, query, path and address matchers.

use std::net::IpAddr;

use http::header::HeaderName;
use regex::bytes::Regex;

use crate::Str;
use crate::headers::{Headers, RequestHead};

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// Equal.
    Exact(Pattern),
    /// Begins with.
    Prefix(Pattern),
    /// Ends with.
    Suffix(Pattern),
    /// Contains.
    Contains(Pattern),
    /// The whole value matches.
    Regex(Regex),
}

/// A literal with its case rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The literal; lower case when `ignore_case`.
    pub text: Str,
    /// ASCII case is ignored.
    pub ignore_case: bool,
}

impl StringMatcher {
    /// Case-sensitive equality.
    #[must_use]
    pub fn exact(text: &str) -> Self {
        Self::Exact(Pattern {
            text: text.into(),
            ignore_case: false,
        })
    }

    /// Case-sensitive prefix.
    #[must_use]
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(Pattern {
            text: text.into(),
            ignore_case: false,
        })
    }

    /// Tests a value.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(p) => p.equals(value),
            Self::Prefix(p) => value.get(..p.text.len()).is_some_and(|head| p.equals(head)),
            Self::Suffix(p) => {
                value.len() >= p.text.len() && p.equals(&value[value.len() - p.text.len()..])
            }
            Self::Contains(p) => {
                p.text.is_empty() || value.windows(p.text.len()).any(|w| p.equals(w))
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Pattern {
    fn equals(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            value.eq_ignore_ascii_case(self.text.as_bytes())
        } else {
            value == self.text.as_bytes()
        }
    }
}

/// Compiles a regex that has to match the whole value, as Envoy's do.
///
/// # Errors
/// The regex crate's reason.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
}

/// A compiled program above this is refused: configuration must not eat the memory of the proxy.
const REGEX_SIZE_LIMIT: usize = 4 << 20;

/// A field that matchers and mutations can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority` or `host`
    Authority,
    /// `:scheme`
    Scheme,
    /// Any other.
    Name(HeaderName),
}

impl Field {
    /// Reads a configured name; `None` when it is no valid field name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            other => Self::Name(HeaderName::from_bytes(other.as_bytes()).ok()?),
        })
    }

    /// The field's first value.
    pub fn first<'r, R: RequestHead + ?Sized>(&self, request: &'r R) -> Option<&'r [u8]> {
        match self {
            Self::Method => Some(request.method()),
            Self::Path => Some(request.path()),
            Self::Authority => Some(request.authority()),
            Self::Scheme => Some(request.scheme()),
            Self::Name(name) => request.get(name),
        }
    }

    /// Calls `test` with the field's value, repeated fields joined by `,`; `None` when absent.
    pub fn with_value<R: RequestHead + ?Sized, T>(
        &self,
        request: &R,
        test: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let name = match self {
            Self::Method => return Some(test(request.method())),
            Self::Path => return Some(test(request.path())),
            Self::Authority => return Some(test(request.authority())),
            Self::Scheme => return Some(test(request.scheme())),
            Self::Name(name) => name,
        };
        joined(request, name, test)
    }
}

/// Calls `test` with a field's value, repeated fields joined by `,`; `None` when absent.
pub fn joined<H: Headers + ?Sized, T>(
    fields: &H,
    name: &HeaderName,
    test: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    let first = fields.get(name)?;
    let mut count = 0;
    fields.for_each(name, &mut |_| count += 1);
    if count == 1 {
        return Some(test(first));
    }
    let mut joined = Vec::new();
    fields.for_each(name, &mut |value| {
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(value);
    });
    Some(test(&joined))
}

/// Whether any value of a field passes; `None` when absent.
fn any<H: Headers + ?Sized>(
    fields: &H,
    name: &HeaderName,
    test: impl Fn(&[u8]) -> bool,
) -> Option<bool> {
    let first = fields.get(name)?;
    let mut found = test(first);
    if !found {
        fields.for_each(name, &mut |value| found = found || test(value));
    }
    Some(found)
}

/// `envoy.config.route.v3.HeaderMatcher`. Each value of a repeated field is tested by itself; one that passes is enough.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Which field.
    pub field: Field,
    /// The test.
    pub test: HeaderTest,
    /// Negates the result of a value test.
    pub invert: bool,
    /// A missing field counts as an empty value.
    pub missing_as_empty: bool,
}

/// What a [`HeaderMatcher`] asks of the value.
#[derive(Debug, Clone)]
pub enum HeaderTest {
    /// Present (true) or absent (false).
    Present(bool),
    /// The value matches.
    Value(StringMatcher),
    /// The value is an integer in `[start, end)`.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Tests a request.
    #[must_use]
    pub fn matches<R: RequestHead + ?Sized>(&self, request: &R) -> bool {
        self.judge(match &self.field {
            Field::Name(name) => any(request, name, |value| self.holds(value)),
            Field::Method | Field::Path | Field::Authority | Field::Scheme => {
                self.field.with_value(request, |value| self.holds(value))
            }
        })
    }

    /// Tests the fields of a response; pseudo headers are absent from it.
    #[must_use]
    pub fn matches_fields<H: Headers + ?Sized>(&self, fields: &H) -> bool {
        let found = match &self.field {
            Field::Name(name) => any(fields, name, |value| self.holds(value)),
            Field::Method | Field::Path | Field::Authority | Field::Scheme => None,
        };
        self.judge(found)
    }

    fn holds(&self, value: &[u8]) -> bool {
        match &self.test {
            HeaderTest::Present(_) => true,
            HeaderTest::Value(matcher) => matcher.matches(value),
            HeaderTest::Range(start, end) => {
                parse_integer(value).is_some_and(|n| *start <= n && n < *end)
            }
        }
    }

    /// The outcome, given the test's result for a field that is present.
    fn judge(&self, found: Option<bool>) -> bool {
        if let HeaderTest::Present(wanted) = self.test {
            let present = found.is_some() || self.missing_as_empty;
            return (present == wanted) != self.invert;
        }
        match found {
            Some(result) => result != self.invert,
            None if self.missing_as_empty => self.holds(b"") != self.invert,
            None => false,
        }
    }
}

fn parse_integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Parameter name, case-sensitive.
    pub name: Str,
    /// The test; `None` asks for presence.
    pub test: QueryTest,
}

/// What a [`QueryMatcher`] asks.
#[derive(Debug, Clone)]
pub enum QueryTest {
    /// Present or absent.
    Present(bool),
    /// The first value matches.
    Value(StringMatcher),
}

impl QueryMatcher {
    /// Tests a query string (without `?`).
    #[must_use]
    pub fn matches(&self, query: &[u8]) -> bool {
        let found = query_value(query, self.name.as_bytes());
        match &self.test {
            QueryTest::Present(wanted) => found.is_some() == *wanted,
            QueryTest::Value(matcher) => found.is_some_and(|value| matcher.matches(value)),
        }
    }
}

/// The first value of a query parameter, not decoded.
#[must_use]
pub fn query_value<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|b| *b == b'&').find_map(|pair| {
        let split = pair.iter().position(|b| *b == b'=');
        let (key, value) = split.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        (key == name).then_some(value)
    })
}

/// Splits `:path` into path and query; a fragment counts to neither.
#[must_use]
pub fn split_query(path: &[u8]) -> (&[u8], &[u8]) {
    let Some(at) = memchr::memchr2(b'?', b'#', path) else {
        return (path, b"");
    };
    let (before, after) = (&path[..at], &path[at + 1..]);
    if path[at] == b'#' {
        return (before, b"");
    }
    let end = memchr::memchr(b'#', after).unwrap_or(after.len());
    (before, &after[..end])
}

/// An address block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// Network address with the host bits cleared.
    pub address: IpAddr,
    /// Prefix length.
    pub length: u8,
}

impl Cidr {
    /// Makes a block; `None` when the length exceeds the address.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// True when the address lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.length).is_some_and(|block| block.address == self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    fn header(name: &str, test: HeaderTest) -> HeaderMatcher {
        HeaderMatcher {
            field: Field::parse(name).unwrap(),
            test,
            invert: false,
            missing_as_empty: false,
        }
    }

    #[test]
    fn the_query_begins_at_the_first_question_mark_and_the_fragment_is_neither() {
        for (whole, path, query) in [
            ("/a", "/a", ""),
            ("/a?b=c", "/a", "b=c"),
            ("/a?b?c", "/a", "b?c"),
            ("/a?b#c?d", "/a", "b"),
            ("/a#b?c", "/a", ""),
            ("/a?", "/a", ""),
        ] {
            let (found, rest) = split_query(whole.as_bytes());
            assert_eq!(
                (found, rest),
                (path.as_bytes(), query.as_bytes()),
                "{whole}"
            );
        }
    }

    #[test]
    fn a_missing_header_fails_value_matchers_even_inverted() {
        let request = SimpleRequest::get("a", "/");
        let mut matcher = header("x-user", HeaderTest::Value(StringMatcher::exact("jason")));
        assert!(!matcher.matches(&request));
        matcher.invert = true;
        assert!(!matcher.matches(&request));
        matcher.missing_as_empty = true;
        assert!(matcher.matches(&request));
        assert!(header("x-user", HeaderTest::Present(false)).matches(&request));
    }

    #[test]
    fn one_value_of_a_repeated_header_is_enough_and_inverted_one_too_many() {
        let request = SimpleRequest::get("a", "/")
            .with("x-user", "a")
            .with("x-user", "b");
        let mut matcher = header("x-user", HeaderTest::Value(StringMatcher::exact("b")));
        assert!(matcher.matches(&request));
        matcher.invert = true;
        assert!(!matcher.matches(&request));
        let joined = header("x-user", HeaderTest::Value(StringMatcher::exact("a,b")));
        assert!(!joined.matches(&request));
    }

    #[test]
    fn ranges_are_half_open() {
        let request = SimpleRequest::get("a", "/").with("x-n", "10");
        assert!(header("x-n", HeaderTest::Range(10, 11)).matches(&request));
        assert!(!header("x-n", HeaderTest::Range(9, 10)).matches(&request));
    }

    #[test]
    fn a_regex_must_match_the_whole_value() {
        let matcher = StringMatcher::Regex(whole("a|b").unwrap());
        assert!(matcher.matches(b"a"));
        assert!(!matcher.matches(b"ab"));
    }

    #[test]
    fn literal_matchers_follow_their_case_rule() {
        let lower = Pattern {
            text: "abc".into(),
            ignore_case: true,
        };
        assert!(StringMatcher::Suffix(lower.clone()).matches(b"xABC"));
        assert!(StringMatcher::Contains(lower).matches(b"xAbCx"));
        assert!(!StringMatcher::prefix("abc").matches(b"ABCx"));
    }

    #[test]
    fn the_first_query_value_decides_and_is_not_decoded() {
        assert_eq!(query_value(b"a=1&a=2&b", b"a"), Some(&b"1"[..]));
        assert_eq!(query_value(b"a=1&a=2&b", b"b"), Some(&b""[..]));
        assert_eq!(query_value(b"a=%20", b"a"), Some(&b"%20"[..]));
        assert_eq!(query_value(b"a=1", b"c"), None);
    }

    #[test]
    fn blocks_contain_only_their_own_family() {
        let block = Cidr::new("10.1.2.3".parse().unwrap(), 8).unwrap();
        assert!(block.contains("10.255.0.1".parse().unwrap()));
        assert!(!block.contains("11.0.0.1".parse().unwrap()));
        assert!(!block.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(
            Cidr::new("0.0.0.0".parse().unwrap(), 0)
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
    }
}
