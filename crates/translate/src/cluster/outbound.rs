//! Clusters of services.

use std::collections::BTreeSet;

use meltemi_model::destination::{DestinationRule, LoadBalancer, PolicyBlocks};
use meltemi_model::service::{Resolution, Service};
use meltemi_model::{MeshConfig, Shared};
use meltemi_names::{ArcStr, ClusterName, Protocol, SpiffeId};

use super::{
    HttpSettings, original_destination, policy, set_http_options, set_type, stat_name, upstream_tls,
};
use crate::ProxyTraits;
use crate::pb;

/// What shapes the cluster of a service's port, or of one of its subsets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundClusterInput {
    /// The service.
    pub service: Shared<Service>,
    /// The number of its port.
    pub port: u16,
    /// The subset; empty for the whole service.
    pub subset: ArcStr,
    /// The policy that the client follows.
    pub rule: Option<Shared<DestinationRule>>,
    /// The identities behind the service.
    pub identities: Shared<BTreeSet<SpiffeId>>,
    /// The service's namespace does not forbid mutual TLS.
    pub service_takes_mutual_tls: bool,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// The proxy.
    pub traits: ProxyTraits,
}

impl OutboundClusterInput {
    /// The name of the cluster.
    #[must_use]
    pub fn name(&self) -> ClusterName {
        ClusterName::outbound(self.port, self.subset.clone(), self.service.host.clone())
    }

    fn protocol(&self) -> Protocol {
        self.service
            .port(self.port)
            .map_or(Protocol::Tcp, |port| port.protocol)
    }

    pub(super) fn is_http(&self) -> bool {
        self.protocol().is_http()
    }

    fn policy(&self) -> PolicyBlocks {
        let effective = self.rule.as_ref().map(|rule| {
            let subset = rule
                .subset(&self.subset)
                .filter(|_| !self.subset.is_empty());
            rule.effective(self.port, subset)
        });
        effective.unwrap_or_default().blocks
    }

    /// Who may answer: the identities seen behind the service and those declared for it, in every trust domain that
    /// counts as this one.
    pub(super) fn subject_alt_names(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = self
            .service
            .subject_alt_names
            .iter()
            .map(ToString::to_string)
            .collect();
        for identity in self.identities.iter() {
            names.insert(identity.to_string());
            names.extend(self.mesh.trust_domain_aliases.iter().map(|alias| {
                SpiffeId {
                    trust_domain: alias.clone(),
                    ..identity.clone()
                }
                .to_string()
            }));
        }
        names.into_iter().collect()
    }
}

/// The cluster.
#[must_use]
pub fn outbound(input: &OutboundClusterInput) -> pb::cluster::Cluster {
    let name = input.name().to_string();
    let policy = input.policy();
    let pool = policy.connection_pool.as_ref();
    let mut cluster = pb::cluster::Cluster {
        name: name.clone(),
        alt_stat_name: stat_name(&name),
        ..Default::default()
    };
    let passthrough = matches!(policy.load_balancer, Some(LoadBalancer::Passthrough));
    if passthrough || (input.service.resolution == Resolution::Passthrough && !input.traits.router)
    {
        original_destination(&mut cluster);
    } else {
        set_type(&mut cluster, pb::cluster::cluster::DiscoveryType::Eds);
        cluster.eds_cluster_config = Some(pb::cluster::cluster::EdsClusterConfig {
            eds_config: Some(pb::ads()),
            service_name: name,
        });
    }
    policy::apply(&mut cluster, &policy, &input.mesh);
    let upstream = policy::upstream_http(input.protocol(), pool, &input.mesh, input.traits.router);
    let outlier = policy.outlier_detection.as_ref();
    let settings = HttpSettings {
        common: policy::common_http(pool),
        max_concurrent_streams: pool.and_then(|pool| pool.max_concurrent_streams),
        keepalive: pool.and_then(|pool| pool.http2_keepalive),
        error_codes: outlier
            .map(|outlier| outlier.error_codes.clone())
            .unwrap_or_default(),
        names: policy.tls.as_ref().and_then(upstream_tls::names_by_request),
    };
    set_http_options(&mut cluster, upstream, settings);
    upstream_tls::apply(&mut cluster, input, policy.tls.as_ref(), upstream);
    if let Some(version) = policy.proxy_protocol {
        upstream_tls::announce_client(&mut cluster, version);
    }
    if input.traits.filters.tcp_peers && !input.service.mesh_external {
        cluster
            .filters
            .push(crate::istio_filters::upstream_metadata_exchange());
    }
    cluster.metadata = Some(metadata(input));
    cluster
}

/// What telemetry and tools read.
fn metadata(input: &OutboundClusterInput) -> pb::core::Metadata {
    let mut istio = pb::fields([(
        "services",
        pb::list_value(vec![service_value(&input.service)]),
    )]);
    let mut add =
        |key: &str, value: pb::wkt::Value| drop(istio.fields.insert(key.to_owned(), value));
    if let Some(rule) = &input.rule {
        let (namespace, name) = (&rule.meta.namespace, &rule.meta.name);
        let path =
            format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}");
        add("config", pb::text_value(path));
    }
    if !input.subset.is_empty() {
        add("subset", pb::text_value(input.subset.as_str()));
    }
    if input.service.mesh_external {
        add(
            "external",
            pb::wkt::Value {
                kind: Some(pb::wkt::value::Kind::BoolValue(true)),
            },
        );
    }
    if input.policy().tls.is_some_and(|tls| tls.mode.originates()) {
        add("alpn_override", pb::text_value("false"));
    }
    pb::metadata([("istio", istio)])
}

/// A service as telemetry names it.
pub(super) fn service_value(service: &Service) -> pb::wkt::Value {
    pb::struct_value(pb::fields([
        ("host", pb::text_value(service.host.as_str())),
        ("name", pb::text_value(service.meta.name.as_str())),
        ("namespace", pb::text_value(service.meta.namespace.as_str())),
    ]))
}
