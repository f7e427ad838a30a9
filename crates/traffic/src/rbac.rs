//! Role-based access control: permissions and principals against one request or connection.

use std::net::IpAddr;

use crate::Str;
use crate::chain::ConnectionFacts;
use crate::headers::RequestHead;
use crate::matcher::{Cidr, HeaderMatcher, StringMatcher, split_query};
use crate::metadata::{Metadata, MetadataMatcher};
use crate::path::Template;
use crate::tls::PeerIdentity;

/// `rbac` of HTTP and network chains.
#[derive(Debug, Clone, Default)]
pub struct RbacFilter {
    /// Enforced rules; `None` allows everything.
    pub rules: Option<Rules>,
    /// Rules that only report.
    pub shadow: Option<Rules>,
    /// Prefix of the shadow keys in dynamic metadata and of shadow statistics.
    pub shadow_prefix: Str,
    /// Prefix of the enforced rules' statistics.
    pub rules_prefix: Str,
    /// Network only: prefix of all statistics.
    pub stat_prefix: Str,
    /// Network only: every new data is checked, not just the first.
    pub continuous: bool,
    /// Network only: time between a denial and the close.
    pub delay_deny: crate::Limit,
}

/// What both sets of rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged<'p> {
    /// The enforced rules, when there are any.
    pub enforced: Option<Verdict<'p>>,
    /// The shadow rules, when there are any.
    pub shadow: Option<Shadowed>,
}

/// What shadow rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// They would have let the call through.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<Str>,
}

impl RbacFilter {
    /// Judges a call by both sets of rules.
    #[must_use]
    pub fn judge<R: RequestHead + ?Sized>(&self, facts: &AuthzFacts<'_, R>) -> Judged<'_> {
        Judged {
            enforced: self.rules.as_ref().map(|rules| rules.judge(facts)),
            shadow: self.shadow.as_ref().map(|rules| {
                let verdict = rules.judge(facts);
                Shadowed {
                    allowed: verdict.allowed,
                    policy: verdict.policy.cloned(),
                }
            }),
        }
    }
}

/// An action with its policies.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What a match means.
    pub action: RbacAction,
    /// Policies by name, in the order of their names.
    pub policies: Vec<Policy>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    /// Some policy must match.
    Allow,
    /// No policy may match.
    Deny,
    /// Never denies; a match sets the access log hint.
    Log,
}

/// One policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub name: Str,
    /// Any must hold.
    pub permissions: Vec<Permission>,
    /// Any must hold.
    pub principals: Vec<Principal>,
}

/// What may be done.
#[derive(Debug, Clone)]
pub enum Permission {
    /// All.
    And(Vec<Self>),
    /// Any.
    Or(Vec<Self>),
    /// Negation.
    Not(Box<Self>),
    /// Anything (true) or nothing (false).
    Any(bool),
    /// Request header.
    Header(HeaderMatcher),
    /// Path without query.
    UrlPath(StringMatcher),
    /// Path template.
    Template(Template),
    /// Restored destination.
    DestinationIp(Cidr),
    /// Restored destination port in `[start, end)`.
    DestinationPorts(u32, u32),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// SNI.
    ServerName(StringMatcher),
    /// Filter state.
    FilterState(Str, StringMatcher),
}

/// Who does it.
#[derive(Debug, Clone)]
pub enum Principal {
    /// All.
    And(Vec<Self>),
    /// Any.
    Or(Vec<Self>),
    /// Negation.
    Not(Box<Self>),
    /// Anyone (true) or no one (false).
    Any(bool),
    /// A TLS client, with this name when one is asked.
    Authenticated(Option<StringMatcher>),
    /// The TCP peer.
    DirectRemoteIp(Cidr),
    /// The client after X-Forwarded-For or a PROXY header.
    RemoteIp(Cidr),
    /// Request header.
    Header(HeaderMatcher),
    /// Path without query.
    UrlPath(StringMatcher),
    /// Dynamic metadata.
    Metadata(MetadataMatcher),
    /// Filter state.
    FilterState(Str, StringMatcher),
}

/// What is judged. `request` is `None` on network chains: HTTP conditions then do not match.
#[derive(Clone, Copy)]
pub struct AuthzFacts<'a, R: ?Sized> {
    /// The request.
    pub request: Option<&'a R>,
    /// The connection.
    pub connection: &'a ConnectionFacts<'a>,
    /// The client after X-Forwarded-For (network: the PROXY header).
    pub remote_ip: IpAddr,
    /// The connection is TLS that ends here.
    pub tls: bool,
    /// The TLS client, when it presented a certificate.
    pub peer: Option<&'a PeerIdentity>,
    /// Dynamic metadata.
    pub metadata: Option<&'a Metadata>,
    /// Filter state as text.
    pub filter_state: &'a [(Str, Str)],
}

/// What the engine found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'p> {
    /// The call may proceed.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'p Str>,
}

impl Rules {
    /// Judges a call.
    #[must_use]
    pub fn judge<R: RequestHead + ?Sized>(&self, facts: &AuthzFacts<'_, R>) -> Verdict<'_> {
        let policy = self
            .policies
            .iter()
            .find(|policy| policy.matches(facts))
            .map(|policy| &policy.name);
        let allowed = match self.action {
            RbacAction::Allow => policy.is_some(),
            RbacAction::Deny => policy.is_none(),
            RbacAction::Log => true,
        };
        Verdict { allowed, policy }
    }
}

impl Verdict<'_> {
    /// `response_code_details` of a denial; spaces become underscores.
    #[must_use]
    pub fn denial_details(&self) -> String {
        let name = self
            .policy
            .map_or_else(|| "none".into(), |name| name.replace(' ', "_"));
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

/// Body of a denial.
pub const DENIED_BODY: &str = "RBAC: access denied";

impl Policy {
    fn matches<R: RequestHead + ?Sized>(&self, facts: &AuthzFacts<'_, R>) -> bool {
        self.permissions
            .iter()
            .any(|permission| permission.holds(facts))
            && self
                .principals
                .iter()
                .any(|principal| principal.holds(facts))
    }
}

impl Permission {
    fn holds<R: RequestHead + ?Sized>(&self, facts: &AuthzFacts<'_, R>) -> bool {
        match self {
            Self::And(all) => all.iter().all(|p| p.holds(facts)),
            Self::Or(any) => any.iter().any(|p| p.holds(facts)),
            Self::Not(inner) => !inner.holds(facts),
            Self::Any(any) => *any,
            Self::Header(matcher) => facts.header(matcher),
            Self::UrlPath(matcher) => facts.path(|path| matcher.matches(path)),
            Self::Template(template) => facts.path(|path| template.matches(path)),
            Self::DestinationIp(block) => block.contains(facts.connection.local.ip()),
            Self::DestinationPorts(start, end) => {
                (*start..*end).contains(&u32::from(facts.connection.local.port()))
            }
            Self::Metadata(matcher) => facts.metadata(matcher),
            Self::ServerName(matcher) => matcher.matches(facts.connection.server_name.as_bytes()),
            Self::FilterState(key, matcher) => facts.state(key, matcher),
        }
    }
}

impl Principal {
    fn holds<R: RequestHead + ?Sized>(&self, facts: &AuthzFacts<'_, R>) -> bool {
        match self {
            Self::And(all) => all.iter().all(|p| p.holds(facts)),
            Self::Or(any) => any.iter().any(|p| p.holds(facts)),
            Self::Not(inner) => !inner.holds(facts),
            Self::Any(any) => *any,
            Self::Authenticated(None) => facts.tls,
            Self::Authenticated(Some(matcher)) => {
                facts.peer.is_some_and(|peer| authenticated(peer, matcher))
            }
            Self::DirectRemoteIp(block) => block.contains(facts.connection.direct_remote.ip()),
            Self::RemoteIp(block) => block.contains(facts.remote_ip),
            Self::Header(matcher) => facts.header(matcher),
            Self::UrlPath(matcher) => facts.path(|path| matcher.matches(path)),
            Self::Metadata(matcher) => facts.metadata(matcher),
            Self::FilterState(key, matcher) => facts.state(key, matcher),
        }
    }
}

/// Any URI name, any DNS name, or the subject.
fn authenticated(peer: &PeerIdentity, matcher: &StringMatcher) -> bool {
    let mut names = peer
        .uri_sans
        .iter()
        .chain(&peer.dns_sans)
        .chain([&peer.subject]);
    names.any(|name| matcher.matches(name.as_bytes()))
}

impl<R: RequestHead + ?Sized> AuthzFacts<'_, R> {
    fn header(&self, matcher: &HeaderMatcher) -> bool {
        self.request.is_some_and(|request| matcher.matches(request))
    }

    fn path(&self, test: impl FnOnce(&[u8]) -> bool) -> bool {
        self.request
            .is_some_and(|request| test(split_query(request.path()).0))
    }

    fn metadata(&self, matcher: &MetadataMatcher) -> bool {
        match self.metadata {
            Some(metadata) => matcher.matches(metadata),
            None => matcher.matches(&Metadata::default()),
        }
    }

    fn state(&self, key: &Str, matcher: &StringMatcher) -> bool {
        self.filter_state
            .iter()
            .any(|(have, value)| have == key && matcher.matches(value.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::headers::SimpleRequest;
    use crate::matcher::{Field, HeaderTest};

    fn connection() -> ConnectionFacts<'static> {
        ConnectionFacts {
            local: SocketAddr::from(([10, 0, 0, 1], 9080)),
            remote: SocketAddr::from(([10, 0, 0, 9], 4000)),
            direct_remote: SocketAddr::from(([10, 0, 0, 9], 4000)),
            transport: "tls",
            server_name: "",
            application_protocols: &[],
        }
    }

    fn peer(uri: &str) -> PeerIdentity {
        PeerIdentity {
            uri_sans: vec![uri.into()],
            ..PeerIdentity::default()
        }
    }

    fn judge(
        rules: &Rules,
        request: &SimpleRequest,
        peer: Option<&PeerIdentity>,
    ) -> (bool, Option<String>) {
        let connection = connection();
        let facts = AuthzFacts {
            request: Some(request),
            connection: &connection,
            remote_ip: connection.remote.ip(),
            tls: peer.is_some(),
            peer,
            metadata: None,
            filter_state: &[],
        };
        let verdict = rules.judge(&facts);
        (verdict.allowed, verdict.policy.map(ToString::to_string))
    }

    fn reviews_policy() -> Rules {
        let method = |m: &str| {
            Permission::Header(HeaderMatcher {
                field: Field::Method,
                test: HeaderTest::Value(StringMatcher::exact(m)),
                invert: false,
                missing_as_empty: false,
            })
        };
        Rules {
            action: RbacAction::Allow,
            policies: vec![Policy {
                name: "ns[default]-policy[reviews]-rule[0]".into(),
                permissions: vec![Permission::And(vec![Permission::Or(vec![
                    method("GET"),
                    method("POST"),
                ])])],
                principals: vec![Principal::And(vec![Principal::Or(vec![
                    Principal::Authenticated(Some(StringMatcher::exact(
                        "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
                    ))),
                ])])],
            }],
        }
    }

    #[test]
    fn an_allow_rule_admits_the_named_identity_and_method_only() {
        let rules = reviews_policy();
        let request = SimpleRequest::get("reviews", "/reviews/1");
        let productpage = peer("spiffe://cluster.local/ns/default/sa/bookinfo-productpage");
        assert!(judge(&rules, &request, Some(&productpage)).0);
        assert!(
            !judge(
                &rules,
                &request,
                Some(&peer("spiffe://cluster.local/ns/default/sa/other"))
            )
            .0
        );
        assert!(!judge(&rules, &request, None).0);
        let delete = SimpleRequest {
            method: "DELETE".into(),
            ..request
        };
        assert_eq!(judge(&rules, &delete, Some(&productpage)), (false, None));
    }

    #[test]
    fn empty_policies_deny_everything_under_allow_and_nothing_under_deny() {
        let request = SimpleRequest::get("a", "/");
        let rules = |action| Rules {
            action,
            policies: Vec::new(),
        };
        assert!(!judge(&rules(RbacAction::Allow), &request, None).0);
        assert!(judge(&rules(RbacAction::Deny), &request, None).0);
        assert!(judge(&rules(RbacAction::Log), &request, None).0);
    }

    #[test]
    fn url_paths_exclude_the_query() {
        let rules = Rules {
            action: RbacAction::Deny,
            policies: vec![Policy {
                name: "p".into(),
                permissions: vec![Permission::UrlPath(StringMatcher::exact("/admin"))],
                principals: vec![Principal::Any(true)],
            }],
        };
        assert_eq!(
            judge(&rules, &SimpleRequest::get("a", "/admin?x"), None),
            (false, Some("p".into()))
        );
        assert!(judge(&rules, &SimpleRequest::get("a", "/admin/x"), None).0);
    }

    #[test]
    fn network_chains_do_not_match_http_conditions() {
        let connection = connection();
        let facts: AuthzFacts<'_, SimpleRequest> = AuthzFacts {
            request: None,
            connection: &connection,
            remote_ip: connection.remote.ip(),
            tls: false,
            peer: None,
            metadata: None,
            filter_state: &[],
        };
        assert!(!Permission::UrlPath(StringMatcher::prefix("/")).holds(&facts));
        assert!(Permission::DestinationPorts(9080, 9081).holds(&facts));
        assert!(
            Principal::RemoteIp(Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()).holds(&facts)
        );
        let negated = Principal::Not(Box::new(Principal::Authenticated(Some(
            StringMatcher::prefix("x"),
        ))));
        assert!(negated.holds(&facts));
    }

    #[test]
    fn a_denial_names_the_policy_or_none() {
        let name = Str::from("my policy");
        assert_eq!(
            Verdict {
                allowed: false,
                policy: Some(&name)
            }
            .denial_details(),
            "rbac_access_denied_matched_policy[my_policy]"
        );
        assert_eq!(
            Verdict {
                allowed: false,
                policy: None
            }
            .denial_details(),
            "rbac_access_denied_matched_policy[none]"
        );
    }
}
