//! Rate limit descriptors: what a request is counted under (`envoy.config.route.v3.RateLimit`).
//!
//! The local and the global rate limit filter both ask for them; neither the bucket nor the service is known here.

use std::net::IpAddr;
use std::sync::Arc;

use crate::Str;
use crate::headers::RequestHead;
use crate::matcher::{Cidr, Field, HeaderMatcher, QueryMatcher, query_value, split_query};
use crate::metadata::{Metadata, Value};

/// The rules that apply to a route's requests.
#[derive(Debug, Clone, Default)]
pub struct RateLimits {
    /// `RouteAction.rate_limits`.
    pub route: Arc<[RateLimitRule]>,
    /// `VirtualHost.rate_limits`, shared by the host's routes.
    pub host: Arc<[RateLimitRule]>,
    /// `include_vh_rate_limits`: the host's rules apply besides the route's, whatever the filter says.
    pub include_host: bool,
}

/// When a virtual host's rules apply (`VhRateLimitsOptions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostRules {
    /// Only to routes without rules of their own.
    #[default]
    Override,
    /// Besides the route's.
    Include,
    /// Never.
    Ignore,
}

/// One rule: its actions together make one descriptor.
#[derive(Debug, Clone)]
pub struct RateLimitRule {
    /// Only filters of this stage use it.
    pub stage: u32,
    /// Entries in order.
    pub actions: Vec<RateLimitAction>,
    /// Limit that the service is told to use.
    pub limit: Option<RequestsPerUnit>,
    /// How many hits a request counts; `None` leaves it to the filter.
    pub hits: Option<u64>,
    /// Counted when the stream ends, without limiting this request.
    pub on_stream_done: bool,
}

/// A limit that a rule sets itself (`RateLimitOverride`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestsPerUnit {
    /// How many.
    pub requests: u32,
    /// In which time.
    pub unit: LimitUnit,
}

/// `envoy.type.v3.RateLimitUnit`; the discriminants are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LimitUnit {
    /// A second.
    Second = 1,
    /// A minute.
    Minute = 2,
    /// An hour.
    Hour = 3,
    /// A day.
    Day = 4,
    /// A month.
    Month = 5,
    /// A year.
    Year = 6,
}

/// One descriptor entry.
#[derive(Debug, Clone)]
pub enum RateLimitAction {
    /// `source_cluster`: the own cluster's name.
    SourceCluster,
    /// `destination_cluster`.
    DestinationCluster,
    /// A request header's first value.
    RequestHeader {
        /// The header.
        header: Field,
        /// The entry's key.
        key: Str,
        /// Absent: the entry is left out rather than the descriptor.
        skip_if_absent: bool,
    },
    /// A query parameter's first value.
    Query {
        /// The parameter.
        name: Str,
        /// The entry's key.
        key: Str,
        /// Absent: the entry is left out rather than the descriptor.
        skip_if_absent: bool,
    },
    /// `remote_address`: the trusted client.
    RemoteAddress,
    /// `masked_remote_address`: the trusted client's network, by prefix lengths for IPv4 and IPv6.
    MaskedRemoteAddress(u8, u8),
    /// A constant when the client's address is in one of the blocks (or, inverted, in none).
    RemoteAddressMatch {
        /// The entry's key.
        key: Str,
        /// The entry's value.
        value: Str,
        /// The blocks.
        blocks: Vec<Cidr>,
        /// In none of them.
        invert: bool,
    },
    /// A constant.
    Generic(Str, Str),
    /// A constant when headers match.
    HeaderMatch {
        /// The entry's key.
        key: Str,
        /// The entry's value.
        value: Str,
        /// The wanted outcome.
        expect: bool,
        /// The headers, which all must match.
        headers: Vec<HeaderMatcher>,
    },
    /// A constant when query parameters match.
    QueryMatch {
        /// The entry's key.
        key: Str,
        /// The entry's value.
        value: Str,
        /// The wanted outcome.
        expect: bool,
        /// The parameters, which all must match.
        parameters: Vec<QueryMatcher>,
    },
    /// A string from metadata.
    Metadata {
        /// The entry's key.
        key: Str,
        /// From the route's metadata rather than the request's.
        of_route: bool,
        /// Namespace.
        namespace: Str,
        /// Object keys below it.
        path: Vec<Str>,
        /// Used when there is no such string; empty is none.
        default: Str,
        /// Absent: the entry is left out rather than the descriptor.
        skip_if_absent: bool,
    },
}

/// What a request is counted under: entries in order, none with an empty key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Keys and values.
    pub entries: Vec<(Str, Str)>,
    /// Limit that the service is told to use.
    pub limit: Option<RequestsPerUnit>,
    /// How many hits the request counts; `None` leaves it to the filter.
    pub hits: Option<u64>,
    /// Counted when the stream ends, without limiting this request.
    pub on_stream_done: bool,
}

/// What descriptors are made of.
#[derive(Debug, Clone, Copy)]
pub struct RateLimitFacts<'a, R: ?Sized> {
    /// The request.
    pub request: &'a R,
    /// The trusted client; `None` when it has no IP address.
    pub remote: Option<IpAddr>,
    /// This proxy's own cluster (`node.cluster`).
    pub source_cluster: &'a str,
    /// The chosen cluster's name.
    pub destination_cluster: &'a str,
    /// Dynamic metadata.
    pub metadata: Option<&'a Metadata>,
    /// The route's metadata.
    pub route_metadata: Option<&'a Metadata>,
}

impl RateLimits {
    /// True when no request of the route has a descriptor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.route.is_empty() && self.host.is_empty()
    }

    /// The descriptors of a request for filters of a stage.
    #[must_use]
    pub fn descriptors<R: RequestHead + ?Sized>(
        &self,
        stage: u32,
        host_rules: HostRules,
        facts: &RateLimitFacts<'_, R>,
    ) -> Vec<Descriptor> {
        let mut out = Vec::new();
        append_descriptors(&self.route, stage, facts, &mut out);
        let with_host = match host_rules {
            _ if self.include_host => true,
            HostRules::Include => true,
            HostRules::Override => self.route.is_empty(),
            HostRules::Ignore => false,
        };
        if with_host {
            append_descriptors(&self.host, stage, facts, &mut out);
        }
        out
    }
}

/// Adds the descriptors that a list of rules makes of a request.
pub fn append_descriptors<R: RequestHead + ?Sized>(
    rules: &[RateLimitRule],
    stage: u32,
    facts: &RateLimitFacts<'_, R>,
    out: &mut Vec<Descriptor>,
) {
    let of_stage = rules.iter().filter(|rule| rule.stage == stage);
    out.extend(of_stage.filter_map(|rule| rule.descriptor(facts)));
}

/// What an action adds.
enum Entry {
    Add(Str, Str),
    Nothing,
    /// There is no descriptor at all.
    Drop,
}

impl RateLimitRule {
    /// The rule's descriptor; `None` when one of its actions has nothing to say of the request.
    #[must_use]
    pub fn descriptor<R: RequestHead + ?Sized>(
        &self,
        facts: &RateLimitFacts<'_, R>,
    ) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(facts) {
                Entry::Add(key, value) => entries.push((key, value)),
                Entry::Nothing => {}
                Entry::Drop => return None,
            }
        }
        Some(Descriptor {
            entries,
            limit: self.limit,
            hits: self.hits,
            on_stream_done: self.on_stream_done,
        })
    }
}

impl RateLimitAction {
    // table: the kinds of actions
    fn entry<R: RequestHead + ?Sized>(&self, facts: &RateLimitFacts<'_, R>) -> Entry {
        let constant = |key: &str, value: &str| Entry::Add(key.into(), value.into());
        let when = |hit: bool, key: &Str, value: &Str| {
            if hit {
                Entry::Add(key.clone(), value.clone())
            } else {
                Entry::Drop
            }
        };
        let query = || split_query(facts.request.path()).1;
        match self {
            Self::SourceCluster => constant("source_cluster", facts.source_cluster),
            Self::DestinationCluster => constant("destination_cluster", facts.destination_cluster),
            Self::RequestHeader {
                header,
                key,
                skip_if_absent,
            } => found(key, first_value(header, facts.request), *skip_if_absent),
            Self::Query {
                name,
                key,
                skip_if_absent,
            } => {
                let value = query_value(query(), name.as_bytes()).map(text);
                found(key, value, *skip_if_absent)
            }
            Self::RemoteAddress => facts.remote.map_or(Entry::Drop, |address| {
                constant("remote_address", &address.to_string())
            }),
            Self::MaskedRemoteAddress(v4, v6) => facts
                .remote
                .and_then(|address| masked(address, *v4, *v6))
                .map_or(Entry::Drop, |block| {
                    constant("masked_remote_address", &block)
                }),
            Self::RemoteAddressMatch {
                key,
                value,
                blocks,
                invert,
            } => {
                let inside = |address| blocks.iter().any(|block| block.contains(address));
                let hit = facts
                    .remote
                    .is_some_and(|address| inside(address) != *invert);
                when(hit, key, value)
            }
            Self::Generic(key, value) => Entry::Add(key.clone(), value.clone()),
            Self::HeaderMatch {
                key,
                value,
                expect,
                headers,
            } => {
                let all = headers.iter().all(|one| one.matches(facts.request));
                when(all == *expect, key, value)
            }
            Self::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => {
                let all = parameters.iter().all(|one| one.matches(query()));
                when(all == *expect, key, value)
            }
            Self::Metadata {
                key,
                of_route,
                namespace,
                path,
                default,
                skip_if_absent,
            } => {
                let from = if *of_route {
                    facts.route_metadata
                } else {
                    facts.metadata
                };
                let value = from.and_then(|from| from.get(namespace, path));
                let value = value.and_then(Value::as_str).filter(|v| !v.is_empty());
                let value = value.or(Some(default)).filter(|v| !v.is_empty());
                found(key, value.map(Str::from), *skip_if_absent)
            }
        }
    }
}

fn found(key: &Str, value: Option<Str>, skip_if_absent: bool) -> Entry {
    match value {
        Some(value) => Entry::Add(key.clone(), value),
        None if skip_if_absent => Entry::Nothing,
        None => Entry::Drop,
    }
}

fn text(bytes: &[u8]) -> Str {
    String::from_utf8_lossy(bytes).as_ref().into()
}

fn first_value<R: RequestHead + ?Sized>(field: &Field, request: &R) -> Option<Str> {
    match field {
        Field::Name(name) => request.get(name).map(text),
        Field::Method | Field::Path | Field::Authority | Field::Scheme => {
            field.with_value(request, text)
        }
    }
}

fn masked(address: IpAddr, v4: u8, v6: u8) -> Option<String> {
    let length = if address.is_ipv4() { v4 } else { v6 };
    let block = Cidr::new(address, length)?;
    Some(format!("{}/{length}", block.address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;
    use crate::matcher::{HeaderTest, StringMatcher};

    fn rule(actions: Vec<RateLimitAction>) -> RateLimitRule {
        RateLimitRule {
            stage: 0,
            actions,
            limit: None,
            hits: None,
            on_stream_done: false,
        }
    }

    fn generic(value: &str) -> RateLimitAction {
        RateLimitAction::Generic("generic_key".into(), value.into())
    }

    fn header(name: &str, skip_if_absent: bool) -> RateLimitAction {
        RateLimitAction::RequestHeader {
            header: Field::parse(name).unwrap(),
            key: "h".into(),
            skip_if_absent,
        }
    }

    fn facts(request: &SimpleRequest) -> RateLimitFacts<'_, SimpleRequest> {
        RateLimitFacts {
            request,
            remote: Some("10.1.2.3".parse().unwrap()),
            source_cluster: "own",
            destination_cluster: "theirs",
            metadata: None,
            route_metadata: None,
        }
    }

    fn entries(actions: Vec<RateLimitAction>, request: &SimpleRequest) -> Option<String> {
        let descriptor = rule(actions).descriptor(&facts(request))?;
        let pairs = descriptor.entries.iter().map(|(k, v)| format!("{k}={v}"));
        Some(pairs.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn actions_make_entries_in_their_order() {
        let request = SimpleRequest::get("a", "/p?u=7&u=8").with("x-user", "me");
        let actions = vec![
            RateLimitAction::SourceCluster,
            RateLimitAction::DestinationCluster,
            header("x-user", false),
            header(":path", false),
            RateLimitAction::RemoteAddress,
            RateLimitAction::MaskedRemoteAddress(8, 64),
            RateLimitAction::Query {
                name: "u".into(),
                key: "q".into(),
                skip_if_absent: false,
            },
        ];
        assert_eq!(
            entries(actions, &request).unwrap(),
            "source_cluster=own destination_cluster=theirs h=me h=/p?u=7&u=8 remote_address=10.1.2.3 \
             masked_remote_address=10.0.0.0/8 q=7"
        );
    }

    #[test]
    fn an_action_without_value_drops_its_descriptor_unless_it_may_be_skipped() {
        let request = SimpleRequest::get("a", "/");
        let with = |skip| vec![generic("x"), header("x-none", skip)];
        assert_eq!(entries(with(false), &request), None);
        assert_eq!(
            entries(with(true), &request).as_deref(),
            Some("generic_key=x")
        );
    }

    #[test]
    fn a_header_match_wants_its_expected_outcome() {
        let matcher = |expect| RateLimitAction::HeaderMatch {
            key: "header_match".into(),
            value: "v".into(),
            expect,
            headers: vec![HeaderMatcher {
                field: Field::parse("x-a").unwrap(),
                test: HeaderTest::Value(StringMatcher::exact("1")),
                invert: false,
                missing_as_empty: false,
            }],
        };
        let with = SimpleRequest::get("a", "/").with("x-a", "1");
        let without = SimpleRequest::get("a", "/");
        for (expect, request, hit) in [
            (true, &with, true),
            (true, &without, false),
            (false, &with, false),
            (false, &without, true),
        ] {
            assert_eq!(entries(vec![matcher(expect)], request).is_some(), hit);
        }
    }

    #[test]
    fn metadata_falls_back_to_its_default() {
        let action = |default: &str, of_route| RateLimitAction::Metadata {
            key: "m".into(),
            of_route,
            namespace: "ns".into(),
            path: vec!["k".into()],
            default: default.into(),
            skip_if_absent: false,
        };
        let mut metadata = Metadata::default();
        metadata.set("ns", "k", Value::String("found".into()));
        let request = SimpleRequest::get("a", "/");
        let facts = RateLimitFacts {
            metadata: Some(&metadata),
            ..facts(&request)
        };
        let of = |action| {
            let descriptor = rule(vec![action]).descriptor(&facts);
            descriptor.map(|d| d.entries[0].1.to_string())
        };
        assert_eq!(of(action("", false)).as_deref(), Some("found"));
        assert_eq!(of(action("other", true)).as_deref(), Some("other"));
        assert_eq!(of(action("", true)), None);
    }

    #[test]
    fn the_hosts_rules_apply_as_the_filter_says() {
        let rules = |value| Arc::from(vec![rule(vec![generic(value)])]);
        let request = SimpleRequest::get("a", "/");
        let count = |limits: &RateLimits, host_rules| {
            limits.descriptors(0, host_rules, &facts(&request)).len()
        };
        let both = RateLimits {
            route: rules("r"),
            host: rules("h"),
            include_host: false,
        };
        let only_host = RateLimits {
            route: Arc::default(),
            ..both.clone()
        };
        assert_eq!(count(&both, HostRules::Override), 1);
        assert_eq!(count(&both, HostRules::Include), 2);
        assert_eq!(count(&only_host, HostRules::Override), 1);
        assert_eq!(count(&only_host, HostRules::Ignore), 0);
        let always = RateLimits {
            include_host: true,
            ..both.clone()
        };
        assert_eq!(count(&always, HostRules::Ignore), 2);
        assert!(
            both.descriptors(1, HostRules::Include, &facts(&request))
                .is_empty()
        );
    }
}
