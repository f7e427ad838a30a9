//! Peer metadata: what two sidecars tell each other of their workloads, in HTTP headers or before the bytes of a connection.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderName;
use meltemi_telemetry::istio::WorkloadMetadata;
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

const APP: &str = "app";
const VERSION: &str = "version";
const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// Reads a value of [`METADATA`]; `None` when it cannot be read.
pub fn decode(value: &[u8]) -> Option<WorkloadMetadata> {
    if value.len() > MAX_HEADER {
        return None;
    }
    let bytes = STANDARD.decode(value).ok()?;
    Some(workload(&Struct::decode(bytes.as_slice()).ok()?))
}

/// Reads the message of a TCP preamble: an `Any` that holds a `Struct` with [`METADATA`] and [`METADATA_ID`]. `None`
/// when it cannot be read or says nothing of the workload.
pub fn decode_preamble(message: &[u8]) -> Option<WorkloadMetadata> {
    let any = prost_types::Any::decode(message).ok()?;
    if !any.type_url.ends_with("google.protobuf.Struct") {
        return None;
    }
    let fields = Struct::decode(any.value.as_slice()).ok()?;
    match &fields.fields.get(METADATA.as_str())?.kind {
        Some(Kind::StructValue(metadata)) => Some(workload(metadata)),
        _ => None,
    }
}

/// The message that tells a TCP peer of a workload and its node, without frame.
pub fn encode_preamble(node_id: &str, workload: &WorkloadMetadata) -> Vec<u8> {
    let value = |kind| Value { kind: Some(kind) };
    let metadata = value(Kind::StructValue(fields(workload)));
    let id = value(Kind::StringValue(node_id.to_owned()));
    let mut told = BTreeMap::from([(METADATA.as_str().to_owned(), metadata)]);
    if !node_id.is_empty() {
        told.insert(METADATA_ID.as_str().to_owned(), id);
    }
    prost_types::Any {
        type_url: "type.googleapis.com/google.protobuf.Struct".to_owned(),
        value: Struct { fields: told }.encode_to_vec(),
    }
    .encode_to_vec()
}

fn workload(fields: &Struct) -> WorkloadMetadata {
    let empty = Struct::default();
    let labels = match fields
        .fields
        .get("LABELS")
        .and_then(|value| value.kind.as_ref())
    {
        Some(Kind::StructValue(labels)) => labels,
        _ => &empty,
    };
    WorkloadMetadata {
        name: text(fields, "NAME"),
        namespace: text(fields, "NAMESPACE"),
        workload: text(fields, "WORKLOAD_NAME"),
        cluster: text(fields, "CLUSTER_ID"),
        owner: text(fields, "OWNER"),
        app: text(labels, APP),
        version: text(labels, VERSION),
        canonical_name: text(labels, CANONICAL_NAME),
        canonical_revision: text(labels, CANONICAL_REVISION),
    }
}

/// The value of [`METADATA`] that describes a workload.
pub fn encode(workload: &WorkloadMetadata) -> String {
    STANDARD.encode(fields(workload).encode_to_vec())
}

fn fields(workload: &WorkloadMetadata) -> Struct {
    let labels = object([
        (APP, &workload.app),
        (VERSION, &workload.version),
        (CANONICAL_NAME, &workload.canonical_name),
        (CANONICAL_REVISION, &workload.canonical_revision),
    ]);
    let mut fields = object([
        ("NAME", &workload.name),
        ("NAMESPACE", &workload.namespace),
        ("WORKLOAD_NAME", &workload.workload),
        ("CLUSTER_ID", &workload.cluster),
        ("OWNER", &workload.owner),
    ]);
    fields.fields.insert(
        "LABELS".to_owned(),
        Value {
            kind: Some(Kind::StructValue(labels)),
        },
    );
    fields
}

fn text(fields: &Struct, key: &str) -> Str {
    match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.as_str().into(),
        _ => Str::default(),
    }
}

fn object<const N: usize>(fields: [(&str, &Str); N]) -> Struct {
    let fields: BTreeMap<String, Value> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| {
            (
                key.to_owned(),
                Value {
                    kind: Some(Kind::StringValue(value.to_string())),
                },
            )
        })
        .collect();
    Struct { fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_sends_the_other_reads() {
        let workload = WorkloadMetadata {
            name: "reviews-v1-abc".into(),
            namespace: "default".into(),
            workload: "reviews-v1".into(),
            app: "reviews".into(),
            version: "v1".into(),
            canonical_name: "reviews".into(),
            canonical_revision: "v1".into(),
            ..WorkloadMetadata::default()
        };
        assert_eq!(decode(encode(&workload).as_bytes()), Some(workload.clone()));
        let preamble = encode_preamble("sidecar~10.0.0.1~a.b~b.svc", &workload);
        assert_eq!(decode_preamble(&preamble), Some(workload));
        assert_eq!(decode_preamble(b"no message"), None);
        assert_eq!(decode(b"not base64!"), None);
    }
}
