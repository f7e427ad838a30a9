//! Hashes for consistent balancing: xxHash64 as Envoy uses it, and the hash policies of routes.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{COOKIE, HeaderName};

use crate::Str;
use crate::headers::RequestHead;
use crate::matcher::{query_value, split_query};
use crate::rewrite::RegexRewrite;

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn round(acc: u64, input: u64) -> u64 {
    acc.wrapping_add(input.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// xxHash64.
#[must_use]
pub fn xx64(data: &[u8], seed: u64) -> u64 {
    let mut rest = data;
    let mut hash = if data.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        while rest.len() >= 32 {
            for (lane, chunk) in lanes.iter_mut().zip(rest.chunks_exact(8)) {
                *lane = round(*lane, word(chunk));
            }
            rest = &rest[32..];
        }
        let [a, b, c, d] = lanes;
        let joined = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.iter().fold(joined, |h, lane| {
            (h ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    } else {
        seed.wrapping_add(P5)
    };
    hash = hash.wrapping_add(data.len() as u64);
    while rest.len() >= 8 {
        hash = (hash ^ round(0, word(rest)))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
        rest = &rest[8..];
    }
    if rest.len() >= 4 {
        let half = u64::from(u32::from_le_bytes(
            rest[..4].try_into().expect("four bytes"),
        ));
        hash = (hash ^ half.wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
        rest = &rest[4..];
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

/// One hash policy.
#[derive(Debug, Clone)]
pub struct HashPolicy {
    /// Where the value comes from.
    pub source: HashSource,
    /// A hash found so far ends the list.
    pub terminal: bool,
}

/// Where a hash comes from.
#[derive(Debug, Clone)]
pub enum HashSource {
    /// A header, optionally rewritten.
    Header(HeaderName, Option<RegexRewrite>),
    /// A cookie.
    Cookie(Cookie),
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Str),
    /// Filter state.
    FilterState(Str),
}

/// A cookie that is generated when a lifetime is given.
#[derive(Debug, Clone)]
pub struct Cookie {
    /// Name.
    pub name: Str,
    /// Lifetime; zero is a session cookie, `None` generates nothing.
    pub ttl: Option<Duration>,
    /// Path.
    pub path: Str,
    /// Further attributes.
    pub attributes: Vec<(Str, Str)>,
}

/// What a hash is made of beside the request.
#[derive(Debug, Clone, Copy)]
pub struct HashFacts<'a> {
    /// The client.
    pub source_ip: Option<IpAddr>,
    /// Text from which a new cookie is made (addresses of the connection).
    pub connection: &'a str,
    /// Filter state as text.
    pub filter_state: &'a [(Str, Str)],
}

/// A request's hash, and the cookie that the response must set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// The hash; `None` picks at random.
    pub hash: Option<u64>,
    /// `set-cookie` value.
    pub set_cookie: Option<String>,
}

/// Evaluates a route's policies.
#[must_use]
pub fn request_hash<R: RequestHead + ?Sized>(
    policies: &[HashPolicy],
    request: &R,
    facts: &HashFacts<'_>,
) -> RequestHash {
    let mut out = RequestHash::default();
    for policy in policies {
        if let Some(new) = policy.source.hash(request, facts, &mut out.set_cookie) {
            out.hash = Some(out.hash.unwrap_or(0).rotate_left(1) ^ new);
        }
        if policy.terminal && out.hash.is_some() {
            break;
        }
    }
    out
}

impl HashSource {
    fn hash<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        facts: &HashFacts<'_>,
        set_cookie: &mut Option<String>,
    ) -> Option<u64> {
        match self {
            Self::Header(name, rewrite) => {
                let mut values = Vec::new();
                request.for_each(name, &mut |value| values.push(value.to_vec()));
                if values.is_empty() {
                    return None;
                }
                if let Some(rewrite) = rewrite {
                    values = values.iter().map(|value| rewrite.apply(value)).collect();
                }
                values.sort();
                Some(match values.as_slice() {
                    [only] => xx64(only, 0),
                    all => all.iter().fold(0, |seed, value| xx64(value, seed)),
                })
            }
            Self::Cookie(cookie) => cookie.hash(request, facts, set_cookie),
            Self::SourceIp => facts.source_ip.map(|ip| xx64(ip.to_string().as_bytes(), 0)),
            Self::Query(name) => query_value(split_query(request.path()).1, name.as_bytes())
                .map(|value| xx64(value, 0)),
            Self::FilterState(key) => facts
                .filter_state
                .iter()
                .find(|(have, _)| have == key)
                .map(|(_, v)| xx64(v.as_bytes(), 0)),
        }
    }
}

impl Cookie {
    fn hash<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        facts: &HashFacts<'_>,
        set_cookie: &mut Option<String>,
    ) -> Option<u64> {
        if let Some(value) = cookie_value(request, self.name.as_bytes()) {
            return Some(xx64(value, 0));
        }
        let ttl = self.ttl?;
        let value = format!("{:016x}", xx64(facts.connection.as_bytes(), 0));
        let mut header = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            header.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !self.path.is_empty() {
            header.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            header.push_str("; ");
            header.push_str(name);
            if !value.is_empty() {
                header.push('=');
                header.push_str(value);
            }
        }
        header.push_str("; HttpOnly");
        *set_cookie = Some(header);
        Some(xx64(value.as_bytes(), 0))
    }
}

/// The value of a request cookie.
pub fn cookie_value<'r, R: RequestHead + ?Sized>(request: &'r R, name: &[u8]) -> Option<&'r [u8]> {
    let mut found = None;
    request.for_each(&COOKIE, &mut |line| {
        for pair in line.split(|b| *b == b';') {
            let pair = pair.trim_ascii_start();
            if found.is_none()
                && let Some(value) = pair
                    .strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix(b"="))
            {
                let value = value.trim_ascii_end();
                let bare = value
                    .strip_prefix(b"\"")
                    .and_then(|v| v.strip_suffix(b"\""));
                found = Some(bare.unwrap_or(value));
            }
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    #[test]
    fn xxhash_gives_the_published_values() {
        assert_eq!(xx64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(xx64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xx64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(
            xx64(
                b"Call me Ishmael. Some years ago--never mind how long precisely-",
                0
            ),
            0x02A2_E854_70D6_FD96
        );
    }

    const FACTS: HashFacts<'static> = HashFacts {
        source_ip: None,
        connection: "10.0.0.1:1,10.0.0.2:2",
        filter_state: &[],
    };

    fn header(name: &'static str, terminal: bool) -> HashPolicy {
        HashPolicy {
            source: HashSource::Header(HeaderName::from_static(name), None),
            terminal,
        }
    }

    #[test]
    fn hashes_combine_by_rotation_and_a_terminal_policy_ends_the_list() {
        let request = SimpleRequest::get("a", "/")
            .with("x-a", "1")
            .with("x-b", "2");
        let both = request_hash(
            &[header("x-a", false), header("x-b", false)],
            &request,
            &FACTS,
        );
        assert_eq!(
            both.hash,
            Some(xx64(b"1", 0).rotate_left(1) ^ xx64(b"2", 0))
        );
        let first = request_hash(
            &[header("x-a", true), header("x-b", false)],
            &request,
            &FACTS,
        );
        assert_eq!(first.hash, Some(xx64(b"1", 0)));
        assert_eq!(
            request_hash(&[header("x-c", true)], &request, &FACTS).hash,
            None
        );
    }

    #[test]
    fn a_missing_cookie_with_a_lifetime_is_generated() {
        let policy = HashPolicy {
            source: HashSource::Cookie(Cookie {
                name: "user".into(),
                ttl: Some(Duration::ZERO),
                path: "/".into(),
                attributes: Vec::new(),
            }),
            terminal: false,
        };
        let hash = request_hash(
            std::slice::from_ref(&policy),
            &SimpleRequest::get("a", "/"),
            &FACTS,
        );
        let cookie = hash.set_cookie.unwrap();
        assert!(
            cookie.starts_with("user=\"") && cookie.ends_with("; Path=/; HttpOnly"),
            "{cookie}"
        );
        let value = cookie.split('"').nth(1).unwrap();
        let again = SimpleRequest::get("a", "/").with("cookie", &format!("x=1; user=\"{value}\""));
        assert_eq!(
            request_hash(&[policy], &again, &FACTS),
            RequestHash {
                hash: hash.hash,
                set_cookie: None
            }
        );
    }
}
