//! Route configurations (RDS).
//!
//! [`RouteInput`] names the hosts of a listener, each with the rules that apply to it and with every destination of
//! those rules already resolved to a cluster; [`routes`] only renders.

mod action;
mod condition;
mod domains;
mod headers;
mod resilience;
mod rule;

use std::collections::BTreeMap;
use std::time::Duration;

use meltemi_model::destination::HashKey;
use meltemi_model::routing::{Destination, GatewayRef, VirtualService};
use meltemi_model::service::Service;
use meltemi_model::{MeshConfig, OutboundPolicy, Shared};
use meltemi_names::cluster::PASSTHROUGH;
use meltemi_names::{ArcStr, Hostname, Labels};

use crate::pb;

pub(crate) use rule::inbound;

/// Largest body of an answer by the proxy.
const MAX_DIRECT_RESPONSE: u32 = 1024 * 1024;

/// What shapes a route configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteInput {
    /// Its name.
    pub name: ArcStr,
    /// The port that rules and redirects see.
    pub port: u16,
    /// TLS ends at the listener: requests are HTTPS.
    pub https: bool,
    /// Where the rules apply.
    pub gateways: Vec<GatewayRef>,
    /// The hosts, in the order of their virtual hosts.
    pub hosts: Vec<HostInput>,
    /// What becomes of requests to other hosts; `None` where that is not decided here.
    pub other_hosts: Option<OutboundPolicy>,
    /// The client, when a rule asks who it is.
    pub client: Option<ClientIdentity>,
    /// The namespace of the client, for short names; empty for a router.
    pub namespace: ArcStr,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
}

/// Who the client is, for rules that ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its labels.
    pub labels: Labels,
}

/// A host of a route configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostInput {
    /// The host or wildcard.
    pub host: Hostname,
    /// The service of this name, when there is one.
    pub service: Option<Shared<Service>>,
    /// Other names of that service.
    pub aliases: Vec<Shared<Service>>,
    /// The rules, the oldest first; none routes everything to the service.
    pub rules: Vec<Shared<VirtualService>>,
    /// Where the destinations of the rules, and the service itself, lead.
    pub destinations: BTreeMap<Destination, Target>,
    /// The only host of its listener: any authority is meant.
    pub any_authority: bool,
    /// Plain requests are sent to HTTPS.
    pub https_redirect: bool,
}

/// Where a destination leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The cluster.
    pub cluster: ArcStr,
    /// The host that the cluster belongs to.
    pub host: Hostname,
    /// The port of the service.
    pub port: u16,
    /// What a consistent hash of its endpoints is taken of.
    pub hash: Option<HashKey>,
}

/// The route configuration.
#[must_use]
pub fn routes(input: &RouteInput) -> pb::route::RouteConfiguration {
    let mut virtual_hosts = Vec::with_capacity(input.hosts.len() + 1);
    let mut taken = domains::Taken::default();
    for host in &input.hosts {
        if let Some(virtual_host) = virtual_host(input, host, &mut taken) {
            virtual_hosts.push(virtual_host);
        }
    }
    if let Some(policy) = input.other_hosts {
        virtual_hosts.push(other_hosts(policy));
    }
    if virtual_hosts.is_empty() {
        virtual_hosts.push(black_hole(input.port));
    }
    pb::route::RouteConfiguration {
        name: input.name.to_string(),
        virtual_hosts,
        validate_clusters: Some(pb::boolean(false)),
        max_direct_response_body_size_bytes: Some(pb::number(MAX_DIRECT_RESPONSE)),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// `None` when no rule applies to this client, or when other hosts already have all its domains.
fn virtual_host(
    input: &RouteInput,
    host: &HostInput,
    taken: &mut domains::Taken,
) -> Option<pb::route::VirtualHost> {
    let routes = rule::of_host(input, host);
    if routes.is_empty() && !host.https_redirect {
        return None;
    }
    let domains = taken.claim(domains::of_host(input, host));
    if domains.is_empty() {
        return None;
    }
    let tls = if host.https_redirect {
        pb::route::virtual_host::TlsRequirementType::All
    } else {
        pb::route::virtual_host::TlsRequirementType::None
    };
    Some(pb::route::VirtualHost {
        name: format!("{}:{}", host.host, input.port),
        domains,
        routes,
        require_tls: tls.into(),
        include_request_attempt_count: true,
        ..Default::default()
    })
}

fn other_hosts(policy: OutboundPolicy) -> pb::route::VirtualHost {
    let (name, action) = match policy {
        OutboundPolicy::AllowAny => {
            let mut action = rule::to_cluster(PASSTHROUGH);
            rule::limit_time(&mut action, Duration::ZERO);
            ("allow_any", pb::route::route::Action::Route(action))
        }
        OutboundPolicy::RegistryOnly => {
            let refused = pb::route::DirectResponseAction {
                status: 502,
                ..Default::default()
            };
            (
                "block_all",
                pb::route::route::Action::DirectResponse(refused),
            )
        }
    };
    pb::route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![pb::route::Route {
            name: name.to_owned(),
            r#match: Some(condition::everything()),
            action: Some(action),
            ..Default::default()
        }],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// No host at all: every request gets 404.
fn black_hole(port: u16) -> pb::route::VirtualHost {
    pb::route::VirtualHost {
        name: format!("blackhole:{port}"),
        domains: vec!["*".to_owned()],
        ..Default::default()
    }
}
