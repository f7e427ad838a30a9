//! Peer metadata: the headers that two sidecars exchange, and the workload descriptor in endpoint metadata.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderName;
use meltemi_traffic::Str;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Base64 of a deterministic `google.protobuf.Struct` that describes the sender.
pub const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
/// The sender's node id.
pub const METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
/// Longest header that is decoded.
const MAX_HEADER: usize = 64 * 1024;

/// What is known of one end of a call. Empty fields are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Pod or machine.
    pub name: Str,
    /// Namespace.
    pub namespace: Str,
    /// Workload.
    pub workload: Str,
    /// Cluster.
    pub cluster: Str,
    /// Label `app`.
    pub app: Str,
    /// Label `version`.
    pub version: Str,
    /// Canonical service.
    pub canonical_name: Str,
    /// Canonical revision.
    pub canonical_revision: Str,
    /// `kubernetes://apis/apps/v1/namespaces/<ns>/deployments/<name>`.
    pub owner: Str,
}

const APP: &str = "app";
const VERSION: &str = "version";
const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

impl Peer {
    /// Reads `x-envoy-peer-metadata`; `None` when it cannot be read.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        if value.len() > MAX_HEADER {
            return None;
        }
        let bytes = STANDARD.decode(value).ok()?;
        Self::from_struct(&Struct::decode(bytes.as_slice()).ok()?)
    }

    /// Reads the struct inside.
    pub fn from_struct(fields: &Struct) -> Option<Self> {
        let text = |fields: &Struct, key: &str| match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => Str::from(text.as_str()),
            _ => Str::default(),
        };
        let empty = Struct::default();
        let labels = match fields.fields.get("LABELS").and_then(|value| value.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => labels,
            _ => &empty,
        };
        Some(Self {
            name: text(fields, "NAME"),
            namespace: text(fields, "NAMESPACE"),
            workload: text(fields, "WORKLOAD_NAME"),
            cluster: text(fields, "CLUSTER_ID"),
            owner: text(fields, "OWNER"),
            app: text(labels, APP),
            version: text(labels, VERSION),
            canonical_name: text(labels, CANONICAL_NAME),
            canonical_revision: text(labels, CANONICAL_REVISION),
        })
    }

    /// The struct that describes this end.
    pub fn to_struct(&self) -> Struct {
        let labels = object([
            (APP, &self.app),
            (VERSION, &self.version),
            (CANONICAL_NAME, &self.canonical_name),
            (CANONICAL_REVISION, &self.canonical_revision),
        ]);
        let mut fields = object([
            ("NAME", &self.name),
            ("NAMESPACE", &self.namespace),
            ("WORKLOAD_NAME", &self.workload),
            ("CLUSTER_ID", &self.cluster),
            ("OWNER", &self.owner),
        ]);
        fields.fields.insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) });
        fields
    }

    /// The value of `x-envoy-peer-metadata`.
    pub fn to_header(&self) -> String {
        STANDARD.encode(self.to_struct().encode_to_vec())
    }

    /// Reads Istio's endpoint metadata `workload;namespace;canonical-service;canonical-revision;cluster`.
    pub fn from_workload(text: &str) -> Self {
        let mut parts = text.split(';').map(Str::from);
        let mut next = || parts.next().unwrap_or_default();
        let (workload, namespace, canonical_name, canonical_revision, cluster) = (next(), next(), next(), next(), next());
        Self {
            app: canonical_name.clone(),
            version: canonical_revision.clone(),
            workload,
            namespace,
            canonical_name,
            canonical_revision,
            cluster,
            ..Self::default()
        }
    }
}

fn object<const N: usize>(fields: [(&str, &Str); N]) -> Struct {
    let fields: BTreeMap<String, Value> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), Value { kind: Some(Kind::StringValue(value.to_string())) }))
        .collect();
    Struct { fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_sends_the_other_reads() {
        let peer = Peer {
            name: "reviews-v1-abc".into(),
            namespace: "default".into(),
            workload: "reviews-v1".into(),
            app: "reviews".into(),
            version: "v1".into(),
            canonical_name: "reviews".into(),
            canonical_revision: "v1".into(),
            ..Peer::default()
        };
        assert_eq!(Peer::from_header(peer.to_header().as_bytes()), Some(peer));
        assert_eq!(Peer::from_header(b"not base64!"), None);
    }

    #[test]
    fn the_workload_descriptor_names_five_things() {
        let peer = Peer::from_workload("reviews-v1;default;reviews;v1;Kubernetes");
        assert_eq!((peer.workload.as_str(), peer.namespace.as_str()), ("reviews-v1", "default"));
        assert_eq!((peer.canonical_revision.as_str(), peer.cluster.as_str()), ("v1", "Kubernetes"));
        assert_eq!(Peer::from_workload("only").namespace, "");
    }
}
