//! Resource types and encoded resources.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use meltemi_names::ArcStr;

/// A kind of resource, in the order in which one push sends them: clusters before what refers to them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
    Endpoint,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    Route,
    /// `envoy.config.route.v3.VirtualHost` (VHDS).
    VirtualHost,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS).
    Secret,
    /// `envoy.config.core.v3.TypedExtensionConfig` (ECDS).
    ExtensionConfig,
    /// `istio.networking.nds.v1.NameTable` (NDS).
    NameTable,
    /// Anything else, by type URL.
    Other(ArcStr),
}

/// Type URL of each known kind.
const URLS: [(ResourceType, &str); 8] = [
    (
        ResourceType::Cluster,
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    ),
    (
        ResourceType::Endpoint,
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    (
        ResourceType::Listener,
        "type.googleapis.com/envoy.config.listener.v3.Listener",
    ),
    (
        ResourceType::Route,
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    ),
    (
        ResourceType::VirtualHost,
        "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    ),
    (
        ResourceType::Secret,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    ),
    (
        ResourceType::ExtensionConfig,
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    ),
    (
        ResourceType::NameTable,
        "type.googleapis.com/istio.networking.nds.v1.NameTable",
    ),
];

impl ResourceType {
    /// The kind of a type URL.
    #[must_use]
    pub fn from_url(url: &str) -> Self {
        URLS.iter()
            .find(|(_, known)| *known == url)
            .map_or_else(|| Self::Other(url.into()), |(kind, _)| kind.clone())
    }

    /// Its type URL.
    #[must_use]
    pub fn url(&self) -> &str {
        if let Self::Other(url) = self {
            return url;
        }
        URLS.iter()
            .find(|(kind, _)| kind == self)
            .map_or("", |(_, url)| url)
    }

    /// Subscribed as a whole (CDS, LDS and Istio's own types) rather than by name.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(
            self,
            Self::Cluster | Self::Listener | Self::NameTable | Self::Other(_)
        )
    }

    /// In the state-of-the-world variant, a response must carry everything: what it leaves out is removed.
    #[must_use]
    pub fn is_full_state(&self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url();
        f.write_str(url.rsplit(['.', '/']).next().unwrap_or(url))
    }
}

/// The name inside an encoded resource: every type of resource has it as its first field. Empty when there is none.
#[must_use]
pub fn name_in(body: &[u8]) -> &str {
    /// Tag of field 1 with a length before it.
    const FIRST_FIELD: u8 = 0x0a;
    let Some((&FIRST_FIELD, mut rest)) = body.split_first() else {
        return "";
    };
    let Ok(length) = prost::encoding::decode_varint(&mut rest) else {
        return "";
    };
    usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or_default()
}

/// One encoded resource; shared by every client that gets the same bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name, unique within its type.
    pub name: ArcStr,
    /// Changes exactly when the bytes change.
    pub version: u64,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
    /// For a cluster: the name of the endpoint resource that it waits for, if it has one.
    pub waits_for: Option<ArcStr>,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Resource({} {:016x}, {} bytes)",
            self.name,
            self.version,
            self.body.len()
        )
    }
}

impl Resource {
    /// A resource whose version is the hash of its bytes.
    #[must_use]
    pub fn new(
        name: impl Into<ArcStr>,
        body: impl Into<Bytes>,
        waits_for: Option<ArcStr>,
    ) -> Arc<Self> {
        let body = body.into();
        // Fixed seeds: replicas of the control plane must agree on versions.
        let version = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(&body);
        Arc::new(Self {
            name: name.into(),
            version,
            body,
            waits_for,
        })
    }

    /// The version as it stands on the wire.
    #[must_use]
    pub fn version_text(&self) -> String {
        format!("{:016x}", self.version)
    }
}
