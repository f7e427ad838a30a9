//! Which virtual host, route and cluster a request gets.

use std::sync::Arc;

use ahash::AHashMap;

use crate::Str;
use crate::headers::RequestHead;
use crate::matcher::split_query;
use crate::metadata::Metadata;
use crate::mutation::HeaderOp;
use crate::route::{
    CaseRule, ClusterName, ClusterSelector, Forward, Overrides, PathMatch, RequireTls, Route,
    RouteMatch, RouteTable, VirtualHost, WeightedCluster, WeightedClusters,
};

/// Names without their `*` by length.
type ByLength = Vec<(usize, AHashMap<Box<[u8]>, u32>)>;

/// Domain search: exact, longest suffix wildcard, longest prefix wildcard, `*`.
#[derive(Debug, Default)]
pub struct DomainIndex {
    exact: AHashMap<Box<[u8]>, u32>,
    /// By length, longest first; keys without the `*`.
    suffixes: ByLength,
    prefixes: ByLength,
    any: Option<u32>,
}

/// A domain that two virtual hosts claim.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("domain {domain} is in more than one virtual host")]
pub struct DuplicateDomain {
    /// The domain.
    pub domain: Str,
}

impl DomainIndex {
    /// Builds the search over the hosts' domains.
    ///
    /// # Errors
    /// When a domain occurs twice.
    pub fn new(hosts: &[VirtualHost]) -> Result<Self, DuplicateDomain> {
        let mut index = Self::default();
        for (position, host) in hosts.iter().enumerate() {
            let position =
                u32::try_from(position).expect("a table has less than 2^32 virtual hosts");
            for domain in &host.domains {
                index.insert(&domain.to_ascii_lowercase(), position)?;
            }
        }
        let longest_first = |list: &mut ByLength| {
            list.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        };
        longest_first(&mut index.suffixes);
        longest_first(&mut index.prefixes);
        Ok(index)
    }

    fn insert(&mut self, domain: &str, position: u32) -> Result<(), DuplicateDomain> {
        let duplicate = || DuplicateDomain {
            domain: domain.into(),
        };
        let previous = if domain == "*" {
            self.any.replace(position)
        } else if let Some(suffix) = domain.strip_prefix('*') {
            bucket(&mut self.suffixes, suffix.len()).insert(suffix.as_bytes().into(), position)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            bucket(&mut self.prefixes, prefix.len()).insert(prefix.as_bytes().into(), position)
        } else {
            self.exact.insert(domain.as_bytes().into(), position)
        };
        previous.map_or(Ok(()), |_| Err(duplicate()))
    }

    /// The position of the host for a lower-case name.
    #[must_use]
    pub fn find(&self, host: &[u8]) -> Option<usize> {
        if let Some(position) = self.exact.get(host) {
            return Some(*position as usize);
        }
        for (length, keys) in &self.suffixes {
            if host.len() > *length
                && let Some(position) = keys.get(&host[host.len() - length..])
            {
                return Some(*position as usize);
            }
        }
        for (length, keys) in &self.prefixes {
            if host.len() > *length
                && let Some(position) = keys.get(&host[..*length])
            {
                return Some(*position as usize);
            }
        }
        self.any.map(|position| position as usize)
    }
}

fn bucket(list: &mut ByLength, length: usize) -> &mut AHashMap<Box<[u8]>, u32> {
    let at = list
        .iter()
        .position(|(have, _)| *have == length)
        .unwrap_or_else(|| {
            list.push((length, AHashMap::new()));
            list.len() - 1
        });
    &mut list[at].1
}

/// Facts of a request beside its head.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFacts<'a> {
    /// Stable for the request (from x-request-id).
    pub random: u64,
    /// Came over TLS as far as x-forwarded-proto says.
    pub https: bool,
    /// Comes from outside.
    pub external: bool,
    /// The client presented a certificate.
    pub tls_presented: bool,
    /// It was validated.
    pub tls_validated: bool,
    /// Dynamic metadata.
    pub metadata: Option<&'a Metadata>,
}

/// The outcome of a route search.
#[derive(Debug)]
pub enum Selected<'t> {
    /// A route.
    Route(&'t VirtualHost, &'t Arc<Route>),
    /// The virtual host wants HTTPS: 301.
    HttpsRequired(&'t VirtualHost),
    /// A virtual host without matching route, or none: 404 NR.
    None(Option<&'t VirtualHost>),
}

/// Longest host compared; a longer one can only match `*`.
const MAX_HOST: usize = 512;

impl RouteTable {
    /// The virtual host for an authority.
    #[must_use]
    pub fn host(&self, authority: &[u8]) -> Option<&VirtualHost> {
        let name = if self.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        let position = if name.len() > MAX_HOST {
            self.index.any.map(|position| position as usize)
        } else if name.iter().any(u8::is_ascii_uppercase) {
            self.index.find(&name.to_ascii_lowercase())
        } else {
            self.index.find(name)
        };
        position.map(|position| &self.hosts[position])
    }

    /// The route for a request.
    #[must_use]
    pub fn select<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        facts: &RouteFacts<'_>,
    ) -> Selected<'_> {
        let Some(host) = self.host(request.authority()) else {
            return Selected::None(None);
        };
        let needs_tls = match host.require_tls {
            RequireTls::None => false,
            RequireTls::External => facts.external,
            RequireTls::All => true,
        };
        if needs_tls && !facts.https {
            return Selected::HttpsRequired(host);
        }
        let route = host
            .routes
            .iter()
            .find(|route| route.matches.accepts(request, facts));
        route.map_or(Selected::None(Some(host)), |route| {
            Selected::Route(host, route)
        })
    }
}

/// Cuts `:port` from an authority; brackets of IPv6 literals stay.
#[must_use]
pub fn without_port(authority: &[u8]) -> &[u8] {
    let Some(at) = authority.iter().rposition(|b| *b == b':') else {
        return authority;
    };
    let (host, port) = (&authority[..at], &authority[at + 1..]);
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    let bare_v6 = host.contains(&b':') && !host.ends_with(b"]");
    if is_port && !bare_v6 { host } else { authority }
}

impl RouteMatch {
    /// Whether a request fulfils every condition.
    #[must_use]
    pub fn accepts<R: RequestHead + ?Sized>(&self, request: &R, facts: &RouteFacts<'_>) -> bool {
        let (path, query) = split_query(request.path());
        self.path.accepts(path, request)
            && self.headers.iter().all(|matcher| matcher.matches(request))
            && self.query.iter().all(|matcher| matcher.matches(query))
            && (!self.grpc || is_grpc(request))
            && self
                .tls_presented
                .is_none_or(|wanted| wanted == facts.tls_presented)
            && self
                .tls_validated
                .is_none_or(|wanted| wanted == facts.tls_validated)
            && self.metadata_accepted(facts.metadata)
            && self
                .fraction
                .is_none_or(|fraction| fraction.hits(facts.random))
    }

    fn metadata_accepted(&self, metadata: Option<&Metadata>) -> bool {
        self.metadata.is_empty() || {
            let empty = Metadata::default();
            let have = metadata.unwrap_or(&empty);
            self.metadata.iter().all(|matcher| matcher.matches(have))
        }
    }
}

/// content-type is `application/grpc` or begins with `application/grpc+`.
#[must_use]
pub fn is_grpc<R: RequestHead + ?Sized>(request: &R) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    request
        .get(&http::header::CONTENT_TYPE)
        .and_then(|value| value.strip_prefix(GRPC))
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

impl PathMatch {
    fn accepts<R: RequestHead + ?Sized>(&self, path: &[u8], request: &R) -> bool {
        let connect = request.method() == b"CONNECT";
        match self {
            Self::Connect => return connect,
            // Extended CONNECT has a path and matches prefixes; plain CONNECT has none.
            Self::Prefix(..) if connect && !path.is_empty() => {}
            _ if connect => return false,
            _ => {}
        }
        match self {
            Self::Prefix(prefix, rule) => rule.begins(path, prefix.as_bytes()),
            Self::Exact(wanted, rule) => rule.equal(path, wanted.as_bytes()),
            Self::Separated(prefix, rule) => {
                rule.begins(path, prefix.as_bytes())
                    && (path.len() == prefix.len() || path[prefix.len()] == b'/')
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::Template(template) => template.matches(path),
            Self::Connect => connect,
        }
    }
}

impl CaseRule {
    fn equal(self, path: &[u8], wanted: &[u8]) -> bool {
        match self {
            Self::Sensitive => path == wanted,
            Self::Insensitive => path.eq_ignore_ascii_case(wanted),
        }
    }

    fn begins(self, path: &[u8], prefix: &[u8]) -> bool {
        path.get(..prefix.len())
            .is_some_and(|head| self.equal(head, prefix))
    }
}

/// The cluster chosen for a request, with what its weighted entry adds.
#[derive(Debug, Clone, Copy)]
pub struct ClusterChoice<'r> {
    /// Name as configured or as the header gave it.
    pub name: ChosenName<'r>,
    /// The weighted entry, when there is one.
    pub entry: Option<&'r WeightedCluster>,
}

/// A cluster name that is configured or was read from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenName<'r> {
    /// Configured.
    Configured(&'r Str),
    /// Read from the request.
    Given(&'r [u8]),
}

impl ChosenName<'_> {
    /// The name as text; empty when a header held other bytes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Configured(name) => name,
            Self::Given(bytes) => std::str::from_utf8(bytes).unwrap_or(""),
        }
    }
}

impl Forward {
    /// The cluster for a request; `None` is 404 (the header that names it is absent).
    ///
    /// `draw` is a fresh random number, `hash` the request's hash.
    #[must_use]
    pub fn choose<'r, R: RequestHead + ?Sized>(
        &'r self,
        request: &'r R,
        draw: u64,
        hash: Option<u64>,
    ) -> Option<ClusterChoice<'r>> {
        match &self.cluster {
            ClusterSelector::Name(name) => Some(ClusterChoice {
                name: ChosenName::Configured(name),
                entry: None,
            }),
            // Without the field there is a route all the same, to a cluster without name.
            ClusterSelector::Header(field) => Some(ClusterChoice {
                name: ChosenName::Given(field.first(request).unwrap_or_default()),
                entry: None,
            }),
            ClusterSelector::Weighted(weighted) => {
                let entry = weighted.pick(request, draw, hash)?;
                let name = match &entry.name {
                    ClusterName::Name(name) => ChosenName::Configured(name),
                    ClusterName::Header(field) => {
                        ChosenName::Given(field.first(request).unwrap_or_default())
                    }
                };
                Some(ClusterChoice {
                    name,
                    entry: Some(entry),
                })
            }
        }
    }
}

impl WeightedClusters {
    fn pick<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        draw: u64,
        hash: Option<u64>,
    ) -> Option<&WeightedCluster> {
        let from_header = self.header.as_ref().and_then(|header| {
            std::str::from_utf8(request.get(header)?)
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        });
        let number = from_header
            .or(if self.use_hash { hash } else { None })
            .unwrap_or(draw);
        let mut left = number.checked_rem(self.total)?;
        self.clusters.iter().find(|entry| {
            let weight = u64::from(entry.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
    }
}

impl Route {
    /// Request header changes for a choice.
    #[must_use]
    pub fn request_ops<'r>(&'r self, choice: Option<&ClusterChoice<'r>>) -> &'r [HeaderOp] {
        choice
            .and_then(|c| c.entry)
            .map_or(&self.request_ops, |entry| &entry.request_ops)
    }

    /// Response header changes for a choice.
    #[must_use]
    pub fn response_ops<'r>(&'r self, choice: Option<&ClusterChoice<'r>>) -> &'r [HeaderOp] {
        choice
            .and_then(|c| c.entry)
            .map_or(&self.response_ops, |entry| &entry.response_ops)
    }

    /// Filter settings for a choice.
    #[must_use]
    pub fn overrides<'r>(&'r self, choice: Option<&ClusterChoice<'r>>) -> &'r Overrides {
        choice
            .and_then(|c| c.entry)
            .map_or(&self.overrides, |entry| &entry.overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;
    use crate::route::{Action, PathMatch};

    fn host(name: &str, domains: &[&str]) -> VirtualHost {
        VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| Str::from(*d)).collect(),
            ..VirtualHost::default()
        }
    }

    fn table(hosts: Vec<VirtualHost>) -> RouteTable {
        let index = DomainIndex::new(&hosts).unwrap();
        RouteTable {
            hosts,
            index,
            ignore_port: true,
            ..RouteTable::default()
        }
    }

    #[test]
    fn domains_are_searched_exact_then_suffix_then_prefix_then_any() {
        let table = table(vec![
            host("any", &["*"]),
            host("prefix", &["foo.*"]),
            host("short", &["*.bar.com"]),
            host("long", &["*-x.bar.com"]),
            host("exact", &["foo.bar.com"]),
        ]);
        for (authority, wanted) in [
            ("foo.bar.com", "exact"),
            ("FOO.bar.com:8080", "exact"),
            ("a-x.bar.com", "long"),
            ("a.bar.com", "short"),
            ("foo.com", "prefix"),
            ("bar.com", "any"),
            ("-x.bar.com", "short"),
        ] {
            assert_eq!(
                table.host(authority.as_bytes()).unwrap().name,
                wanted,
                "{authority}"
            );
        }
    }

    #[test]
    fn a_domain_in_two_hosts_is_refused() {
        let hosts = [host("a", &["x.com"]), host("b", &["X.com"])];
        assert_eq!(
            DomainIndex::new(&hosts).unwrap_err(),
            DuplicateDomain {
                domain: "x.com".into()
            }
        );
    }

    #[test]
    fn only_a_real_port_is_cut() {
        for (authority, wanted) in [
            ("a:80", "a"),
            ("a:", "a:"),
            ("a:x", "a:x"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(without_port(authority.as_bytes()), wanted.as_bytes());
        }
    }

    fn route(name: &str, path: PathMatch) -> Arc<Route> {
        Arc::new(Route {
            name: name.into(),
            matches: RouteMatch {
                path,
                ..RouteMatch::default()
            },
            action: Action::NonForwarding,
            request_ops: Vec::new(),
            response_ops: Vec::new(),
            overrides: Overrides::default(),
            metadata: Metadata::default(),
            decorator: None,
            stat_prefix: Str::default(),
            virtual_clusters: None,
            attempt_count_in_request: false,
            attempt_count_in_response: false,
            is_timeout_retry_header: false,
            retry_buffer_limit: None,
        })
    }

    fn selected(table: &RouteTable, request: &SimpleRequest) -> Option<String> {
        match table.select(request, &RouteFacts::default()) {
            Selected::Route(_, route) => Some(route.name.to_string()),
            _ => None,
        }
    }

    #[test]
    fn the_first_route_whose_path_matches_is_taken() {
        let mut all = host("v", &["*"]);
        all.routes = vec![
            route(
                "exact",
                PathMatch::Exact("/a".into(), CaseRule::Insensitive),
            ),
            route(
                "separated",
                PathMatch::Separated("/b".into(), CaseRule::Sensitive),
            ),
            route(
                "regex",
                PathMatch::Regex(crate::matcher::whole("/c[0-9]+").unwrap()),
            ),
            route("connect", PathMatch::Connect),
            route(
                "prefix",
                PathMatch::Prefix("/d".into(), CaseRule::Sensitive),
            ),
        ];
        let table = table(vec![all]);
        for (path, wanted) in [
            ("/A?x=1", Some("exact")),
            ("/b", Some("separated")),
            ("/b/c", Some("separated")),
            ("/bc", None),
            ("/c12?q", Some("regex")),
            ("/c12/d", None),
            ("/dd", Some("prefix")),
            ("/D", None),
        ] {
            assert_eq!(
                selected(&table, &SimpleRequest::get("h", path)).as_deref(),
                wanted,
                "{path}"
            );
        }
        let connect = SimpleRequest {
            method: "CONNECT".into(),
            ..SimpleRequest::get("h:443", "")
        };
        assert_eq!(selected(&table, &connect).as_deref(), Some("connect"));
    }

    #[test]
    fn weights_divide_the_draws_and_a_header_may_decide() {
        let entry = |name: &str, weight| WeightedCluster {
            criteria: Vec::new(),
            name: ClusterName::Name(name.into()),
            weight,
            request_ops: Vec::new(),
            response_ops: Vec::new(),
            overrides: Overrides::default(),
            host_rewrite: None,
        };
        let mut weighted = WeightedClusters {
            clusters: vec![entry("none", 0), entry("a", 80), entry("b", 20)],
            total: 100,
            header: None,
            use_hash: false,
        };
        let pick = |weighted: &WeightedClusters, request: &SimpleRequest, draw| match &weighted
            .pick(request, draw, None)
            .unwrap()
            .name
        {
            ClusterName::Name(name) => name.to_string(),
            ClusterName::Header(_) => unreachable!("names are given"),
        };
        let request = SimpleRequest::get("h", "/").with("x-draw", "99");
        assert_eq!(pick(&weighted, &request, 0), "a");
        assert_eq!(pick(&weighted, &request, 79), "a");
        assert_eq!(pick(&weighted, &request, 80), "b");
        weighted.header = Some(http::header::HeaderName::from_static("x-draw"));
        assert_eq!(pick(&weighted, &request, 0), "b");
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        let of = |kind: &str| is_grpc(&SimpleRequest::get("h", "/").with("content-type", kind));
        assert!(of("application/grpc") && of("application/grpc+proto"));
        assert!(!of("application/grpc-web") && !of("application/json"));
    }
}
