//! How the two variants of the protocol look on the wire.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{ControlPlane, Node},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            Resource as WireResource,
        },
    },
    google::protobuf::Any,
};

use crate::{
    resource::{Resource, ResourceType},
    session::{Incoming, Outgoing, Protocol},
};

/// How one variant looks on the wire.
pub(super) trait Wire: Send + 'static {
    const PROTOCOL: Protocol;
    type Request: Send + 'static;
    type Response: Send + 'static;
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn incoming(request: Self::Request) -> (ResourceType, Incoming);
    fn response(message: Outgoing) -> Self::Response;
}

/// `StreamAggregatedResources`.
pub(super) struct StateOfTheWorld;
/// `DeltaAggregatedResources`.
pub(super) struct Delta;

fn control_plane() -> Option<ControlPlane> {
    Some(ControlPlane {
        identifier: concat!("meltemi/", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

fn any(kind: &ResourceType, resource: &Resource) -> Any {
    Any {
        type_url: kind.url().to_owned(),
        value: resource.body.to_vec(),
    }
}

impl Wire for StateOfTheWorld {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn incoming(request: Self::Request) -> (ResourceType, Incoming) {
        let incoming = Incoming {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            subscribe: request.resource_names,
            ..Incoming::default()
        };
        (ResourceType::from_url(&request.type_url), incoming)
    }

    fn response(message: Outgoing) -> Self::Response {
        DiscoveryResponse {
            version_info: message.nonce.clone(),
            resources: message
                .resources
                .iter()
                .map(|resource| any(&message.kind, resource))
                .collect(),
            type_url: message.kind.url().to_owned(),
            nonce: message.nonce,
            control_plane: control_plane(),
            ..DiscoveryResponse::default()
        }
    }
}

impl Wire for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn incoming(request: Self::Request) -> (ResourceType, Incoming) {
        let incoming = Incoming {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            known: request.initial_resource_versions,
        };
        (ResourceType::from_url(&request.type_url), incoming)
    }

    fn response(message: Outgoing) -> Self::Response {
        let wire = |resource: &Arc<Resource>| WireResource {
            name: resource.name.to_string(),
            version: resource.version_text(),
            resource: Some(any(&message.kind, resource)),
            ..WireResource::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: message.nonce.clone(),
            resources: message.resources.iter().map(wire).collect(),
            removed_resources: message.removed.iter().map(ToString::to_string).collect(),
            type_url: message.kind.url().to_owned(),
            nonce: message.nonce.clone(),
            control_plane: control_plane(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}
