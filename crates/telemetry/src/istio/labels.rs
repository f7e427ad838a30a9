//! The label set of a call, and Istio's rules for its values.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use meltemi_names::ArcStr;

use super::workload::{Hashed, Peer, WorkloadMetadata};
use crate::registry::write_label;

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";
/// Value of every label of the series that takes what exceeds the bound.
pub(super) const OVERFLOW: &str = "overflow";

/// Which end reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The client's sidecar, or a gateway.
    Source,
    /// The server's sidecar.
    Destination,
}

impl Reporter {
    fn text(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
    /// Anything else.
    Tcp,
}

impl Protocol {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What decides the service that a call is counted for.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceFacts<'a> {
    /// First of the cluster's `filter_metadata.istio.services`: host, name (may be empty), namespace.
    pub declared: Option<(&'a str, &'a str, &'a str)>,
    /// Name of the cluster; empty when none was chosen.
    pub cluster: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// The request's authority; `None` where `disable_host_header_fallback` is set (inbound, gateways) and for TCP.
    pub authority: Option<&'a str>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct ServiceNames {
    host: ArcStr,
    name: ArcStr,
    namespace: ArcStr,
}

/// A service as the labels name it. Cheap to clone; keep one with each cluster.
#[derive(Debug, Clone)]
pub struct Service(Arc<Hashed<ServiceNames>>);

impl Service {
    /// A service by its names; empty ones are unknown.
    #[must_use]
    pub fn new(host: &str, name: &str, namespace: &str) -> Self {
        Self(Hashed::new(ServiceNames {
            host: host.into(),
            name: name.into(),
            namespace: namespace.into(),
        }))
    }

    /// The service of a call: what the cluster declares, the name of a special cluster, or the authority.
    #[must_use]
    pub fn resolve(facts: &ServiceFacts<'_>) -> Self {
        let authority = facts.authority.unwrap_or_default();
        let special = match (facts.route, facts.cluster) {
            ("block_all", _) => Some("BlackHoleCluster"),
            ("allow_any", _) => Some("PassthroughCluster"),
            (
                _,
                cluster @ ("BlackHoleCluster"
                | "PassthroughCluster"
                | "InboundPassthroughCluster"
                | "InboundPassthroughClusterIpv4"
                | "InboundPassthroughClusterIpv6"),
            ) => Some(cluster),
            _ => None,
        };
        match (special, facts.declared) {
            (Some(name), _) => Self::new(authority, name, ""),
            (None, Some((host, "", namespace))) => {
                Self::new(host, host.split('.').next().unwrap_or(host), namespace)
            }
            (None, Some((host, name, namespace))) => Self::new(host, name, namespace),
            (None, None) => Self::new(authority, authority, ""),
        }
    }
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        Hashed::same(&self.0, &other.0)
    }
}

impl Eq for Service {}

impl Hash for Service {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash());
    }
}

/// Everything of a label set that is known before the outcome. The own workload is not in it: [`super::Metrics`]
/// holds that once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which end this is.
    pub reporter: Reporter,
    /// What is spoken.
    pub protocol: Protocol,
    /// The other end; `None` when nothing is known of it.
    pub peer: Option<Peer>,
    /// SPIFFE id that the other end proved (`spiffe://...`); empty without mutual TLS.
    pub peer_principal: ArcStr,
    /// SPIFFE id that this end presented.
    pub local_principal: ArcStr,
    /// The service.
    pub service: Service,
}

impl Labels {
    /// The label set that takes what exceeds the bound.
    pub(super) fn overflow(reporter: Reporter, protocol: Protocol) -> Self {
        let text = || ArcStr::from(OVERFLOW);
        let peer = WorkloadMetadata {
            name: text(),
            namespace: text(),
            workload: text(),
            cluster: text(),
            app: text(),
            version: text(),
            canonical_name: text(),
            canonical_revision: text(),
            owner: text(),
        };
        Self {
            reporter,
            protocol,
            peer: Some(Peer::new(peer)),
            peer_principal: text(),
            local_principal: text(),
            service: Service::new(OVERFLOW, OVERFLOW, OVERFLOW),
        }
    }

    /// Writes the labels of both ends and the service, in Istio's order.
    pub(super) fn write_ends(&self, local: &WorkloadMetadata, out: &mut String) {
        write_label(out, "reporter", self.reporter.text());
        let unknown = WorkloadMetadata::default();
        let peer = self.peer.as_deref().unwrap_or(&unknown);
        let peer_namespace = namespace_of(&self.peer_principal).unwrap_or(&peer.namespace);
        let service = self.service.0.get();
        match self.reporter {
            Reporter::Destination => {
                write_end(out, "source", peer, peer_namespace, &self.peer_principal);
                write_end(
                    out,
                    "destination",
                    local,
                    &local.namespace,
                    &self.local_principal,
                );
                let or_own = |text: &ArcStr| {
                    if text.is_empty() {
                        local.canonical_name.clone()
                    } else {
                        text.clone()
                    }
                };
                write_service(
                    out,
                    &or_own(&service.host),
                    &or_own(&service.name),
                    &local.namespace,
                );
            }
            Reporter::Source => {
                write_end(
                    out,
                    "source",
                    local,
                    &local.namespace,
                    &self.local_principal,
                );
                write_end(
                    out,
                    "destination",
                    peer,
                    peer_namespace,
                    &self.peer_principal,
                );
                let namespace = if service.namespace.is_empty() {
                    peer_namespace
                } else {
                    service.namespace.as_str()
                };
                write_service(out, &service.host, &service.name, namespace);
            }
        }
    }

    /// Writes what follows the service: the protocol, the outcome of an exchange, and how it was protected.
    pub(super) fn write_outcome(
        &self,
        http: Option<(u16, Option<u32>)>,
        flags: &str,
        out: &mut String,
    ) {
        write_label(out, "request_protocol", self.protocol.text());
        if let Some((code, grpc)) = http {
            let _ = write!(out, ",response_code=\"{code}\",grpc_response_status=\"");
            if let Some(status) = grpc {
                let _ = write!(out, "{status}");
            }
            out.push('"');
        }
        write_label(
            out,
            "response_flags",
            if flags.is_empty() { "-" } else { flags },
        );
        write_label(out, "connection_security_policy", self.security());
    }

    /// The client cannot know what the server enforces; the server knows whether both ends proved who they are.
    fn security(&self) -> &'static str {
        match self.reporter {
            Reporter::Source => UNKNOWN,
            Reporter::Destination
                if self.peer_principal.is_empty() || self.local_principal.is_empty() =>
            {
                "none"
            }
            Reporter::Destination => "mutual_tls",
        }
    }
}

/// The namespace inside `spiffe://<domain>/ns/<namespace>/sa/<account>`: proven, so it goes before what was only told.
fn namespace_of(principal: &str) -> Option<&str> {
    let mut parts = principal.strip_prefix("spiffe://")?.split('/');
    let (_, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    (ns == "ns" && !namespace.is_empty()).then_some(namespace)
}

fn write_end(
    out: &mut String,
    side: &'static str,
    end: &WorkloadMetadata,
    namespace: &str,
    principal: &str,
) {
    // table: the labels of one end with their values and what stands for an unknown one
    let labels: [(&str, &str, &str); 8] = [
        ("_workload", &end.workload, UNKNOWN),
        ("_canonical_service", &end.canonical_name, UNKNOWN),
        ("_canonical_revision", &end.canonical_revision, LATEST),
        ("_workload_namespace", namespace, UNKNOWN),
        ("_principal", principal, UNKNOWN),
        ("_app", &end.app, UNKNOWN),
        ("_version", &end.version, UNKNOWN),
        ("_cluster", &end.cluster, UNKNOWN),
    ];
    for (name, value, missing) in labels {
        out.push(',');
        out.push_str(side);
        write_label_tail(out, name, if value.is_empty() { missing } else { value });
    }
}

fn write_service(out: &mut String, host: &str, name: &str, namespace: &str) {
    let or_unknown = |text| if str::is_empty(text) { UNKNOWN } else { text };
    write_label(out, "destination_service", or_unknown(host));
    write_label(out, "destination_service_name", or_unknown(name));
    write_label(out, "destination_service_namespace", or_unknown(namespace));
}

fn write_label_tail(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    crate::registry::write_escaped(out, value);
    out.push('"');
}
