//! The gRPC services of discovery.

use crate::resource::ResourceType;

/// Which service a stream speaks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// All types on one stream.
    Aggregated,
    /// One type.
    Of(ResourceType),
}

impl Service {
    /// Path of the method; `None` where a variant does not exist.
    #[must_use]
    pub fn path(&self, delta: bool) -> Option<&'static str> {
        // table: service, state of the world, delta
        Some(match (self, delta) {
            (Self::Aggregated, false) => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            }
            (Self::Aggregated, true) => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            (Self::Of(ResourceType::Cluster), false) => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
            }
            (Self::Of(ResourceType::Cluster), true) => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
            }
            (Self::Of(ResourceType::Endpoint), false) => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
            }
            (Self::Of(ResourceType::Endpoint), true) => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
            }
            (Self::Of(ResourceType::Listener), false) => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners"
            }
            (Self::Of(ResourceType::Listener), true) => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"
            }
            (Self::Of(ResourceType::Route), false) => {
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes"
            }
            (Self::Of(ResourceType::Route), true) => {
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes"
            }
            (Self::Of(ResourceType::VirtualHost), true) => {
                "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"
            }
            (Self::Of(ResourceType::Secret), false) => {
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
            }
            (Self::Of(ResourceType::Secret), true) => {
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
            }
            (Self::Of(ResourceType::ExtensionConfig), false) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
            }
            (Self::Of(ResourceType::ExtensionConfig), true) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
            }
            (
                Self::Of(
                    ResourceType::VirtualHost | ResourceType::NameTable | ResourceType::Other(_),
                ),
                _,
            ) => return None,
        })
    }
}
