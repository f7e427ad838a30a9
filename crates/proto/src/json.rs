//! The proto3 JSON mapping, for bootstrap files and configuration dumps.
//!
//! Reading is strict: an unknown field, a value of the wrong kind or two members of one choice are refused with the
//! path of the field. JSON becomes wire bytes and the other way round by a table of names and numbers, so that every
//! message of envoy-types is covered, also inside `Any`, without reflection at run time.

mod read;
pub(crate) mod table;
pub(crate) mod wire;
mod write;

use prost::{Message, Name};
use serde_json::Value;

use crate::google::protobuf::Any;

/// A value that does not fit the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", path_prefix(path))]
pub struct JsonError {
    /// Path of the field, as `static_resources.listeners[0].name`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

fn path_prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

impl JsonError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            reason: reason.into(),
        }
    }

    /// The same error, one level further out.
    #[must_use]
    pub fn below(mut self, outer: &str) -> Self {
        if self.path.is_empty() {
            outer.clone_into(&mut self.path);
        } else if self.path.starts_with('[') {
            self.path.insert_str(0, outer);
        } else {
            self.path = format!("{outer}.{}", self.path);
        }
        self
    }
}

/// Reads a message from JSON.
///
/// # Errors
/// The path and reason of the first field that does not fit.
pub fn parse<M: Message + Name + Default>(value: &Value) -> Result<M, JsonError> {
    let bytes = to_wire(&M::full_name(), value)?;
    M::decode(&bytes[..]).map_err(|e| JsonError::new(e.to_string()))
}

/// Wire bytes of a named message from JSON.
///
/// # Errors
/// As [`parse`]; also when the message is not known.
pub fn to_wire(message: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    let message = table::message(message)
        .ok_or_else(|| JsonError::new(format!("unknown message {message}")))?;
    let mut out = Vec::new();
    read::message(message, value, &mut out)?;
    Ok(out)
}

/// Writes a message as JSON, with field names as in the protos.
#[must_use]
pub fn print<M: Message + Name>(message: &M) -> Value {
    from_wire(&M::full_name(), &message.encode_to_vec(), false)
}

/// Writes a message as JSON with keys and passwords replaced by `[redacted]`.
#[must_use]
pub fn print_redacted<M: Message + Name>(message: &M) -> Value {
    from_wire(&M::full_name(), &message.encode_to_vec(), true)
}

/// Writes an `Any` as JSON (`@type` beside its fields), redacted.
#[must_use]
pub fn print_any(any: &Any) -> Value {
    from_wire("google.protobuf.Any", &any.encode_to_vec(), true)
}

/// JSON of a named message's wire bytes. Bytes that do not decode give an object with the reason.
#[must_use]
pub fn from_wire(message: &str, bytes: &[u8], redact: bool) -> Value {
    let written = table::message(message)
        .ok_or_else(|| JsonError::new(format!("unknown message {message}")))
        .and_then(|message| {
            write::message(
                message,
                bytes,
                write::At {
                    redact,
                    depth: wire::Depth::default(),
                },
            )
        });
    written.unwrap_or_else(|e| serde_json::json!({ "undecodable": e.to_string() }))
}

/// True when messages of this name can be read and written.
#[must_use]
pub fn knows(message: &str) -> bool {
    table::message(message).is_some()
}

/// Every field name of a message with its number, for documentation and completeness checks.
#[must_use]
pub fn fields(message: &str) -> Vec<(u32, &'static str)> {
    table::message(message)
        .map(|m| m.fields().map(|f| (f.number, f.name)).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envoy::config::bootstrap::v3::Bootstrap;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::route::v3::RouteConfiguration;
    use crate::envoy::extensions::transport_sockets::tls::v3::Secret;
    use crate::istio::filters::alpn;

    fn bootstrap() -> Value {
        json!({
            "node": { "id": "sidecar~10.0.0.1~a.b~b.svc", "metadata": { "LABELS": { "app": "a" }, "N": 1.5, "L": [true, null] } },
            "staticResources": { "clusters": [{
                "name": "backend", "type": "STATIC", "connect_timeout": "0.250s",
                "circuit_breakers": { "thresholds": [{ "max_connections": 100000 }] },
                "load_assignment": { "cluster_name": "backend", "endpoints": [
                    { "lb_endpoints": [{ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 80 } } } }] }
                ] },
                "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} }
                } }
            }] }
        })
    }

    #[test]
    fn a_bootstrap_survives_the_round_trip() {
        let parsed: Bootstrap = parse(&bootstrap()).unwrap();
        let cluster = &parsed.static_resources.as_ref().unwrap().clusters[0];
        assert_eq!(cluster.connect_timeout.unwrap().nanos, 250_000_000);
        let options = cluster
            .typed_extension_protocol_options
            .values()
            .next()
            .unwrap();
        assert!(options.type_url.ends_with("HttpProtocolOptions") && !options.value.is_empty());
        let printed = print(&parsed);
        assert_eq!(
            printed["static_resources"]["clusters"][0]["connect_timeout"],
            "0.250s"
        );
        assert_eq!(printed["node"]["metadata"]["LABELS"]["app"], "a");
        assert_eq!(parse::<Bootstrap>(&printed).unwrap(), parsed);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path() {
        let mut value = bootstrap();
        value["staticResources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoint"] =
            json!([]);
        let error = parse::<Bootstrap>(&value).unwrap_err();
        assert_eq!(
            error.to_string(),
            "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoint: no such field in envoy.config.endpoint.v3.LocalityLbEndpoints"
        );
    }

    #[test]
    fn fields_inside_any_are_checked_too() {
        let mut value = bootstrap();
        let options =
            &mut value["staticResources"]["clusters"][0]["typed_extension_protocol_options"];
        options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["nope"] = json!(1);
        let error = parse::<Bootstrap>(&value).unwrap_err();
        assert!(
            error
                .path
                .ends_with("[envoy.extensions.upstreams.http.v3.HttpProtocolOptions].nope"),
            "{error}"
        );
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused() {
        for (value, reason) in [
            (json!({ "name": 1 }), "name: expected a string"),
            (
                json!({ "type": "NOPE" }),
                "type: NOPE is no value of envoy.config.cluster.v3.Cluster.DiscoveryType",
            ),
            (
                json!({ "connect_timeout": "5" }),
                "connect_timeout: expected a duration such as 1.5s",
            ),
            (
                json!({ "max_requests_per_connection": -1 }),
                "max_requests_per_connection: expected a number from 0 to 4294967295",
            ),
            (
                json!({ "type": "EDS", "cluster_type": { "name": "x" } }),
                "cluster_type: another member of the same choice is set",
            ),
        ] {
            assert_eq!(parse::<Cluster>(&value).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn keys_are_redacted_in_dumps() {
        let secret: Secret = parse(&json!({ "name": "s", "tls_certificate": {
            "certificate_chain": { "inline_string": "chain" }, "private_key": { "inline_string": "key" } } }))
        .unwrap();
        let printed = print_redacted(&secret);
        assert_eq!(
            printed["tls_certificate"]["private_key"]["inline_string"],
            "[redacted]"
        );
        assert_eq!(
            printed["tls_certificate"]["certificate_chain"]["inline_string"],
            "chain"
        );
    }

    #[test]
    fn istios_messages_are_known() {
        let value = json!({ "alpn_override": [{ "upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"] }] });
        let config: alpn::FilterConfig = parse(&value).unwrap();
        assert_eq!(
            config.alpn_override[0].upstream_protocol,
            alpn::Protocol::Http2 as i32
        );
        assert_eq!(print(&config), value);
    }

    #[test]
    fn wrappers_and_maps_have_their_plain_forms() {
        let value = json!({
            "name": "r", "validate_clusters": false,
            "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" },
                "route": { "weighted_clusters": { "clusters": [{ "name": "a", "weight": 3 }] } },
                "typed_per_filter_config": { "f": { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x" } }
            }] }]
        });
        let routes: RouteConfiguration = parse(&value).unwrap();
        assert!(!routes.validate_clusters.unwrap().value);
        assert_eq!(print(&routes), value);
    }
}
