//! gRPC framing, and the message types of the services that a proxy calls.

use serde_json::{Value, json};

use crate::bytes_spec::observed;

/// Path, request type, response type. Add a row for a service that a backend should understand.
const METHODS: [(&str, &str, &str); 11] = [
    (
        "/envoy.service.auth.v3.Authorization/Check",
        "envoy.service.auth.v3.CheckRequest",
        "envoy.service.auth.v3.CheckResponse",
    ),
    (
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "envoy.service.ratelimit.v3.RateLimitRequest",
        "envoy.service.ratelimit.v3.RateLimitResponse",
    ),
    (
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "envoy.service.accesslog.v3.StreamAccessLogsMessage",
        "envoy.service.accesslog.v3.StreamAccessLogsResponse",
    ),
    (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        DISCOVERY_REQUEST,
        DISCOVERY_RESPONSE,
    ),
    (
        "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        "envoy.service.discovery.v3.DeltaDiscoveryRequest",
        "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    ),
];

const DISCOVERY_REQUEST: &str = "envoy.service.discovery.v3.DiscoveryRequest";
const DISCOVERY_RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// Type of the requests of a path.
pub(crate) fn request_type(path: &str) -> Option<&'static str> {
    METHODS.iter().find(|row| row.0 == path).map(|row| row.1)
}

/// Type of the responses of a path.
pub(crate) fn response_type(path: &str) -> Option<&'static str> {
    METHODS.iter().find(|row| row.0 == path).map(|row| row.2)
}

/// Adds a message with its frame.
pub(crate) fn frame(message: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}

/// Takes every complete message from the start of the bytes.
pub(crate) fn take(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = &bytes[..] {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if rest.len() < length {
            break;
        }
        messages.push(rest[..length].to_vec());
        bytes.drain(..5 + length);
    }
    messages
}

/// A message as an observation: JSON when the type is known, text when it is some, else field numbers and values.
pub(crate) fn message(name: Option<&str>, bytes: &[u8]) -> Value {
    if let Some(name) = name
        && meltemi_proto::json::knows(name)
    {
        return meltemi_proto::json::from_wire(name, bytes, false);
    }
    let text = observed(bytes);
    let is_printable = text
        .as_str()
        .is_some_and(|text| !text.contains(char::is_control));
    if is_printable {
        text
    } else {
        crate::schemaless::decode(bytes).unwrap_or(text)
    }
}

/// Messages of a whole body; what is left over is the last one.
pub(crate) fn messages(name: Option<&str>, body: &[u8]) -> Vec<Value> {
    let mut rest = body.to_vec();
    let mut all: Vec<Value> = take(&mut rest)
        .iter()
        .map(|bytes| message(name, bytes))
        .collect();
    if !rest.is_empty() {
        all.push(json!({ "incomplete": observed(&rest) }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_complete() {
        let mut bytes = Vec::new();
        frame(b"ab", &mut bytes);
        frame(b"c", &mut bytes);
        bytes.pop();
        assert_eq!(take(&mut bytes), [b"ab"]);
        assert_eq!(bytes, [0, 0, 0, 0, 1]);
        assert_eq!(
            messages(None, &bytes),
            [json!({"incomplete": "\0\0\0\0\u{1}"})]
        );
    }

    #[test]
    fn every_type_of_the_table_is_known() {
        let unknown: Vec<&str> = METHODS
            .iter()
            .flat_map(|row| [row.1, row.2])
            .filter(|name| !meltemi_proto::json::knows(name))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
