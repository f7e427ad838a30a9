//! Identity and age of configuration objects.

use std::fmt;

use meltemi_names::ArcStr;

/// The kinds of objects that the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A Kubernetes Namespace.
    Namespace,
    /// A Kubernetes Service.
    Service,
    /// A Kubernetes EndpointSlice.
    EndpointSlice,
    /// A Kubernetes Pod.
    Pod,
    /// An Istio Gateway.
    Gateway,
    /// An Istio VirtualService.
    VirtualService,
    /// An Istio DestinationRule.
    DestinationRule,
    /// An Istio PeerAuthentication.
    PeerAuthentication,
}

impl Kind {
    /// The kind of an object by its `apiVersion` and `kind`; any served version of the group is the same kind.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        // table: one row for each kind that the model reads
        Some(match (group, kind) {
            ("", "Namespace") => Self::Namespace,
            ("", "Service") => Self::Service,
            ("", "Pod") => Self::Pod,
            ("discovery.k8s.io", "EndpointSlice") => Self::EndpointSlice,
            ("networking.istio.io", "Gateway") => Self::Gateway,
            ("networking.istio.io", "VirtualService") => Self::VirtualService,
            ("networking.istio.io", "DestinationRule") => Self::DestinationRule,
            ("security.istio.io", "PeerAuthentication") => Self::PeerAuthentication,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without one.
    pub namespace: ArcStr,
    /// Its name.
    pub name: ArcStr,
}

impl ObjectKey {
    /// Names an object.
    pub fn new(kind: Kind, namespace: impl Into<ArcStr>, name: impl Into<ArcStr>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What the rules of precedence need to know of a configuration object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Its name.
    pub name: ArcStr,
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its creation time in RFC 3339, which sorts as text.
    pub created: ArcStr,
}

impl Meta {
    /// The order of precedence: oldest first, then by name, then by namespace.
    #[must_use]
    pub fn age(&self) -> (&str, &str, &str) {
        (&self.created, &self.name, &self.namespace)
    }
}
