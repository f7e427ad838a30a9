//! Generated resources, encoded once.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use meltemi_names::ArcStr;
use prost::{Message, Name};

use crate::{canonical, pb};

/// The kinds of resources that are generated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceKind {
    /// In the order of a push that breaks nothing: what is referred to comes before what refers to it.
    pub const PUSH_ORDER: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL of the resources.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind with this type URL.
    #[must_use]
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::PUSH_ORDER
            .into_iter()
            .find(|kind| kind.type_url() == url)
    }

    /// Whether a client that names no resource gets all of them.
    #[must_use]
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// A generated resource: its bytes are shared by every proxy that gets the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: ArcStr,
    /// Its content; equal content has equal versions, also in other processes.
    pub version: ArcStr,
    /// The message, ready to be sent.
    pub body: pb::wkt::Any,
}

impl Resource {
    pub(crate) fn new<M: Message + Name>(
        name: impl Into<ArcStr>,
        kind: ResourceKind,
        message: &M,
    ) -> Arc<Self> {
        let value = canonical::encode(message);
        let mut hasher = DefaultHasher::new();
        hasher.write(&value);
        Arc::new(Self {
            name: name.into(),
            version: arcstr_format(hasher.finish()),
            body: pb::wkt::Any {
                type_url: kind.type_url().to_owned(),
                value,
            },
        })
    }
}

fn arcstr_format(hash: u64) -> ArcStr {
    ArcStr::from(format!("{hash:016x}"))
}
