//! Routing rules in the neutral form that every configuration API compiles to.

use std::collections::BTreeMap;
use std::time::Duration;

use meltemi_names::{ArcStr, Hostname, Labels};

use crate::Visibility;
use crate::meta::Meta;

/// Rules for the traffic to some hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualService {
    /// Name, namespace, age.
    pub meta: Meta,
    /// The hosts, resolved to full names.
    pub hosts: Vec<Hostname>,
    /// Where the rules apply.
    pub gateways: Vec<GatewayRef>,
    /// Who sees them.
    pub export_to: Visibility,
    /// Rules for HTTP, in order.
    pub http: Vec<HttpRule>,
    /// Rules for TLS that is not opened, in order.
    pub tls: Vec<TlsRule>,
    /// Rules for byte streams, in order.
    pub tcp: Vec<TcpRule>,
}

impl VirtualService {
    /// Whether the rules apply there.
    #[must_use]
    pub fn binds_to(&self, gateway: &GatewayRef) -> bool {
        self.gateways.contains(gateway)
    }

    /// The part of every condition that selects proxies and listeners.
    pub fn scopes(&self) -> impl Iterator<Item = &MatchScope> {
        let http = self
            .http
            .iter()
            .flat_map(|rule| &rule.matches)
            .map(|wanted| &wanted.scope);
        let tls = self
            .tls
            .iter()
            .flat_map(|rule| &rule.matches)
            .map(|wanted| &wanted.scope);
        let tcp = self
            .tcp
            .iter()
            .flat_map(|rule| &rule.matches)
            .map(|wanted| &wanted.scope);
        http.chain(tls).chain(tcp)
    }

    /// Every destination that a rule names.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let http = self.http.iter().flat_map(HttpRule::destinations);
        let tls = self
            .tls
            .iter()
            .flat_map(|rule| rule.route.iter().map(|share| &share.destination));
        let tcp = self
            .tcp
            .iter()
            .flat_map(|rule| rule.route.iter().map(|share| &share.destination));
        http.chain(tls).chain(tcp)
    }
}

/// Where rules apply.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// Every sidecar.
    Mesh,
    /// The proxies of a Gateway object.
    Named {
        /// Its namespace.
        namespace: ArcStr,
        /// Its name.
        name: ArcStr,
    },
}

/// One rule for HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpRule {
    /// Its name.
    pub name: ArcStr,
    /// Alternatives; none means every request.
    pub matches: Vec<HttpMatch>,
    /// What becomes of the request.
    pub action: HttpAction,
    /// Changes of path and authority.
    pub rewrite: Option<Rewrite>,
    /// Time for the whole exchange; `None` is unlimited.
    pub timeout: Option<Duration>,
    /// Retries; `None` is the mesh's default.
    pub retries: Option<Retries>,
    /// Faults to inject.
    pub fault: Fault,
    /// Copies of the request.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Changes of headers.
    pub headers: HeaderChanges,
    /// Namespace and name of the virtual service whose rules take the place of this one. A snapshot has none left.
    pub delegate: Option<(ArcStr, ArcStr)>,
}

impl HttpRule {
    fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let shares = match &self.action {
            HttpAction::Forward(shares) => shares.as_slice(),
            HttpAction::Redirect(_) | HttpAction::Respond(_) => &[],
        };
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.destination);
        shares.iter().map(|share| &share.destination).chain(mirrors)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HttpAction {
    /// It goes to one of these.
    Forward(Vec<HttpShare>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers.
    Respond(DirectResponse),
}

/// A share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpShare {
    /// Where it goes.
    pub destination: Destination,
    /// Its weight among the shares of the rule.
    pub weight: u32,
    /// Changes of headers.
    pub headers: HeaderChanges,
}

/// A destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// The host, resolved to its full name.
    pub host: Hostname,
    /// A subset; empty for the whole service.
    pub subset: ArcStr,
    /// Its port; `None` when the service tells.
    pub port: Option<u16>,
}

/// Conditions on a request; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// Its name.
    pub name: ArcStr,
    /// The path.
    pub uri: Option<StringMatch>,
    /// The path in any letter case.
    pub ignore_uri_case: bool,
    /// The scheme.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The authority.
    pub authority: Option<StringMatch>,
    /// Headers that must be so; `None` means present.
    pub headers: BTreeMap<ArcStr, Option<StringMatch>>,
    /// Headers that must not be so; `None` means absent.
    pub without_headers: BTreeMap<ArcStr, Option<StringMatch>>,
    /// Query parameters; `None` means present.
    pub query_params: BTreeMap<ArcStr, Option<StringMatch>>,
    /// Which clients and listeners the condition is for.
    pub scope: MatchScope,
    /// Prefix of the route's statistics.
    pub stat_prefix: ArcStr,
}

/// The part of a condition that selects proxies and listeners instead of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchScope {
    /// The listener's port.
    pub port: Option<u16>,
    /// Labels of the client.
    pub source_labels: Labels,
    /// Namespace of the client.
    pub source_namespace: ArcStr,
    /// Where it applies, instead of the rule's own list.
    pub gateways: Vec<GatewayRef>,
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The text itself.
    Exact(ArcStr),
    /// Its beginning.
    Prefix(ArcStr),
    /// The whole text matches.
    Regex(ArcStr),
}

/// Changes of path and authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// Instead of the matched path or prefix.
    pub uri: ArcStr,
    /// The authority.
    pub authority: ArcStr,
    /// A pattern of the path and what replaces it.
    pub uri_regex: Option<(ArcStr, ArcStr)>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// The path.
    pub uri: ArcStr,
    /// Instead of the matched prefix.
    pub prefix_rewrite: ArcStr,
    /// The authority.
    pub authority: ArcStr,
    /// The port.
    pub port: Option<RedirectPort>,
    /// The scheme.
    pub scheme: ArcStr,
    /// The status.
    pub code: u16,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedirectPort {
    /// This one.
    Number(u16),
    /// The usual one of the scheme.
    ProtocolDefault,
    /// That of the request.
    Request,
}

/// An answer by the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirectResponse {
    /// The status.
    pub status: u32,
    /// The body.
    pub body: Option<Vec<u8>>,
}

/// Retries of failed attempts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Retries {
    /// How many; zero for none.
    pub attempts: u32,
    /// Time of one attempt.
    pub per_try_timeout: Option<Duration>,
    /// Conditions; empty for the default ones.
    pub retry_on: ArcStr,
    /// Also in other localities.
    pub remote_localities: bool,
    /// Prefer an endpoint that was not tried; `None` is yes.
    pub ignore_previous_hosts: Option<bool>,
    /// Base of the pauses.
    pub backoff: Option<Duration>,
}

/// A share in millionths.
pub type Millionths = u32;

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fault {
    /// A pause before the request goes on.
    pub delay: Option<(Duration, Millionths)>,
    /// An answer instead.
    pub abort: Option<(Abort, Millionths)>,
}

impl Fault {
    /// Whether nothing is injected.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

/// The answer of an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abort {
    /// With this HTTP status.
    Http(u32),
    /// With this gRPC status.
    Grpc(u32),
}

/// A copy of the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where it goes.
    pub destination: Destination,
    /// For which share of the requests.
    pub share: Millionths,
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cors {
    /// Allowed origins.
    pub allow_origins: Vec<StringMatch>,
    /// Allowed methods.
    pub allow_methods: Vec<ArcStr>,
    /// Allowed headers.
    pub allow_headers: Vec<ArcStr>,
    /// Headers shown to scripts.
    pub expose_headers: Vec<ArcStr>,
    /// Life time of the answer.
    pub max_age: Option<Duration>,
    /// Whether credentials are allowed.
    pub allow_credentials: Option<bool>,
    /// Preflights of other origins are answered by the proxy instead of forwarded.
    pub ignore_unmatched_preflights: bool,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderChanges {
    /// Of the request.
    pub request: HeaderOperations,
    /// Of the response.
    pub response: HeaderOperations,
}

/// Changes of one header map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderOperations {
    /// Replaced or added.
    pub set: BTreeMap<ArcStr, ArcStr>,
    /// Appended.
    pub add: BTreeMap<ArcStr, ArcStr>,
    /// Removed.
    pub remove: Vec<ArcStr>,
}

impl HeaderOperations {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// One rule for TLS that is not opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsRule {
    /// Alternatives.
    pub matches: Vec<TlsMatch>,
    /// Where connections go.
    pub route: Vec<TcpShare>,
}

/// Conditions on a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsMatch {
    /// Server names.
    pub sni_hosts: Vec<Hostname>,
    /// Original destinations in CIDR form.
    pub destination_subnets: Vec<ArcStr>,
    /// Which clients and listeners the condition is for.
    pub scope: MatchScope,
}

/// One rule for byte streams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpRule {
    /// Alternatives; none means every connection.
    pub matches: Vec<TcpMatch>,
    /// Where connections go.
    pub route: Vec<TcpShare>,
}

/// Conditions on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpMatch {
    /// Original destinations in CIDR form.
    pub destination_subnets: Vec<ArcStr>,
    /// Which clients and listeners the condition is for.
    pub scope: MatchScope,
}

/// A share of the connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpShare {
    /// Where it goes.
    pub destination: Destination,
    /// Its weight among the shares of the rule.
    pub weight: u32,
}
