//! Deterministic bytes of messages.
//!
//! Map fields encode in the order of a hash map, which differs from run to run. A push must not differ when its
//! content does not, so the entries of the maps that our generators fill are brought into the order of their keys.
//! The tables name the paths from a resource to such maps; everything else is copied.

use prost::{Message, Name};

/// The encoding of a message with its maps in order.
pub(crate) fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    match shape_of(&M::full_name()) {
        Some(shape) => reorder(&bytes, shape).unwrap_or(bytes),
        None => bytes,
    }
}

/// What a message of interest holds at some of its field numbers.
struct Shape(&'static [(u64, Field)]);

#[derive(Clone, Copy)]
enum Field {
    /// A map whose entries are sorted; the shape is that of its values.
    Map(&'static Shape),
    /// A message to look into.
    Message(&'static Shape),
}

static OPAQUE: Shape = Shape(&[]);
static STRUCT: Shape = Shape(&[(1, Field::Map(&VALUE))]);
static VALUE: Shape = Shape(&[(5, Field::Message(&STRUCT)), (6, Field::Message(&LIST))]);
static LIST: Shape = Shape(&[(1, Field::Message(&VALUE))]);
static METADATA: Shape = Shape(&[(1, Field::Map(&STRUCT)), (2, Field::Map(&OPAQUE))]);
static SOCKET_MATCH: Shape = Shape(&[(2, Field::Message(&STRUCT))]);
static CLUSTER: Shape = Shape(&[
    (25, Field::Message(&METADATA)),
    (36, Field::Map(&OPAQUE)),
    (43, Field::Message(&SOCKET_MATCH)),
]);
static LB_ENDPOINT: Shape = Shape(&[(3, Field::Message(&METADATA))]);
static LOCALITY: Shape = Shape(&[(2, Field::Message(&LB_ENDPOINT))]);
static LOAD_ASSIGNMENT: Shape = Shape(&[(2, Field::Message(&LOCALITY))]);
static CLUSTER_WEIGHT: Shape = Shape(&[(10, Field::Map(&OPAQUE))]);
static WEIGHTED: Shape = Shape(&[(1, Field::Message(&CLUSTER_WEIGHT))]);
static ROUTE_ACTION: Shape = Shape(&[(3, Field::Message(&WEIGHTED))]);
static ROUTE: Shape = Shape(&[
    (2, Field::Message(&ROUTE_ACTION)),
    (4, Field::Message(&METADATA)),
    (13, Field::Map(&OPAQUE)),
]);
static VIRTUAL_HOST: Shape = Shape(&[(3, Field::Message(&ROUTE)), (15, Field::Map(&OPAQUE))]);
static ROUTE_CONFIGURATION: Shape = Shape(&[
    (2, Field::Message(&VIRTUAL_HOST)),
    (16, Field::Map(&OPAQUE)),
]);
static CONNECTION_MANAGER: Shape = Shape(&[(4, Field::Message(&ROUTE_CONFIGURATION))]);
static LOG_FORMAT: Shape = Shape(&[(2, Field::Message(&STRUCT))]);
static FILE_ACCESS_LOG: Shape = Shape(&[(5, Field::Message(&LOG_FORMAT))]);

fn shape_of(name: &str) -> Option<&'static Shape> {
    // table: the messages that reach the wire and hold maps
    Some(match name {
        "envoy.config.cluster.v3.Cluster" => &CLUSTER,
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => &LOAD_ASSIGNMENT,
        "envoy.config.route.v3.RouteConfiguration" => &ROUTE_CONFIGURATION,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            &CONNECTION_MANAGER
        }
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => &FILE_ACCESS_LOG,
        _ => return None,
    })
}

/// One field as it stands in the bytes.
struct Piece<'a> {
    number: u64,
    /// With its tag.
    whole: &'a [u8],
    /// The content of a length-delimited field.
    body: Option<&'a [u8]>,
}

fn reorder(bytes: &[u8], shape: &Shape) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut map = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = split(&mut rest)?;
        // Entries of one map stand together; the next field ends them.
        if piece.number != map {
            flush(&mut entries, &mut out);
        }
        match shape
            .0
            .iter()
            .find(|(number, _)| *number == piece.number)
            .zip(piece.body)
        {
            None => out.extend_from_slice(piece.whole),
            Some(((_, Field::Message(inner)), body)) => {
                put(&mut out, piece.number, &reorder(body, inner)?)
            }
            Some(((_, Field::Map(values)), body)) => {
                map = piece.number;
                let (key, entry) = reorder_entry(body, values)?;
                let mut whole = Vec::with_capacity(entry.len() + 4);
                put(&mut whole, piece.number, &entry);
                entries.push((key, whole));
            }
        }
    }
    flush(&mut entries, &mut out);
    Some(out)
}

/// The key of a map entry, and the entry with its value in order.
fn reorder_entry(bytes: &[u8], values: &Shape) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut key = Vec::new();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = split(&mut rest)?;
        match (piece.number, piece.body) {
            (2, Some(body)) if !values.0.is_empty() => put(&mut out, 2, &reorder(body, values)?),
            (number, body) => {
                if number == 1 {
                    key = body.unwrap_or(piece.whole).to_vec();
                }
                out.extend_from_slice(piece.whole);
            }
        }
    }
    Some((key, out))
}

fn flush(entries: &mut Vec<(Vec<u8>, Vec<u8>)>, out: &mut Vec<u8>) {
    entries.sort();
    for (_, entry) in entries.drain(..) {
        out.extend_from_slice(&entry);
    }
}

fn put(out: &mut Vec<u8>, number: u64, body: &[u8]) {
    prost::encoding::encode_varint(number << 3 | 2, out);
    prost::encoding::encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Takes the next field off `rest`.
fn split<'a>(rest: &mut &'a [u8]) -> Option<Piece<'a>> {
    let start = *rest;
    let tag = prost::encoding::decode_varint(rest).ok()?;
    let body = match tag & 7 {
        0 => {
            prost::encoding::decode_varint(rest).ok()?;
            None
        }
        1 => {
            *rest = rest.get(8..)?;
            None
        }
        2 => {
            let length = usize::try_from(prost::encoding::decode_varint(rest).ok()?).ok()?;
            let (body, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Some(body)
        }
        5 => {
            *rest = rest.get(4..)?;
            None
        }
        _ => return None,
    };
    Some(Piece {
        number: tag >> 3,
        whole: &start[..start.len() - rest.len()],
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn endpoint(keys: &[&str]) -> pb::endpoint::ClusterLoadAssignment {
        let filter_metadata = keys
            .iter()
            .map(|key| {
                (
                    (*key).to_owned(),
                    pb::fields([("b", pb::text_value("x")), ("a", pb::text_value(*key))]),
                )
            })
            .collect();
        pb::endpoint::ClusterLoadAssignment {
            cluster_name: "c".into(),
            endpoints: vec![pb::endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![pb::endpoint::LbEndpoint {
                    health_status: 1,
                    metadata: Some(pb::core::Metadata {
                        filter_metadata,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                priority: 3,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn equal_maps_have_equal_bytes_and_keep_their_content() {
        let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let backwards: Vec<&str> = keys.iter().rev().copied().collect();
        let bytes = encode(&endpoint(&keys));
        assert_eq!(bytes, encode(&endpoint(&backwards)));
        let decoded = pb::endpoint::ClusterLoadAssignment::decode(&bytes[..]).expect("valid");
        assert_eq!(decoded, endpoint(&keys));
    }
}
