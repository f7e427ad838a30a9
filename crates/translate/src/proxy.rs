//! What the control plane knows of a connected proxy.

use std::net::IpAddr;
use std::time::Duration;

use meltemi_names::{ArcStr, Labels, Locality, parse_duration};

use crate::pb;

/// A connected proxy, as its first message describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyView {
    /// What it serves.
    pub kind: ProxyKind,
    /// Its name: `pod.namespace`.
    pub id: ArcStr,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// The namespace of its workload.
    pub namespace: ArcStr,
    /// The labels of its workload.
    pub labels: Labels,
    /// The service account of its workload.
    pub service_account: ArcStr,
    /// Where it runs.
    pub locality: Locality,
    /// What shapes its resources beside where it stands in the mesh.
    pub traits: ProxyTraits,
}

/// What a proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// The application beside it.
    Sidecar,
    /// The edge of the mesh.
    Router,
}

/// Properties of a proxy that shape its resources and that many proxies share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProxyTraits {
    /// It serves the edge of the mesh.
    pub router: bool,
    /// The optional filters that it has.
    pub filters: Filters,
    /// Captured connections keep their source address.
    pub transparent: bool,
    /// It accepts HTTP/1.0.
    pub http10: bool,
    /// Idle time of connections, when it asks for one.
    pub idle_timeout: Option<Duration>,
}

/// Filters that only some data planes have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filters {
    /// `istio.alpn`: tells the server side which protocol is inside.
    pub alpn: bool,
    /// `istio.stats` for HTTP.
    pub http_stats: bool,
    /// `istio.stats` for byte streams.
    pub tcp_stats: bool,
    /// `istio.metadata_exchange` for HTTP.
    pub http_peers: bool,
    /// `istio.metadata_exchange` for byte streams, both sides.
    pub tcp_peers: bool,
    /// gRPC's message counts.
    pub grpc_stats: bool,
    /// gRPC-Web.
    pub grpc_web: bool,
}

const HTTP: &str = "envoy.filters.http";
const NETWORK: &str = "envoy.filters.network";

impl Filters {
    /// What a client has by the extensions that it lists.
    ///
    /// Istio's own filters must be listed. Envoy's are taken for granted from a client that lists nothing.
    #[must_use]
    pub fn of(extensions: &[pb::core::Extension]) -> Self {
        let listed = |name: &str, category: &str| {
            extensions.iter().any(|extension| {
                let category_fits = extension.category.is_empty() || extension.category == category;
                extension.name == name && category_fits && !extension.disabled
            })
        };
        let standard = |name: &str| extensions.is_empty() || listed(name, HTTP);
        Self {
            alpn: listed("istio.alpn", HTTP),
            http_stats: listed("istio.stats", HTTP),
            tcp_stats: listed("istio.stats", NETWORK),
            http_peers: listed("istio.metadata_exchange", HTTP),
            tcp_peers: listed("istio.metadata_exchange", NETWORK),
            grpc_stats: standard("envoy.filters.http.grpc_stats"),
            grpc_web: standard("envoy.filters.http.grpc_web"),
        }
    }

    /// Every filter.
    #[must_use]
    pub fn all() -> Self {
        Self {
            alpn: true,
            http_stats: true,
            tcp_stats: true,
            http_peers: true,
            tcp_peers: true,
            grpc_stats: true,
            grpc_web: true,
        }
    }

    /// What a stock Envoy has.
    #[must_use]
    pub fn stock() -> Self {
        Self {
            grpc_stats: true,
            grpc_web: true,
            ..Self::default()
        }
    }
}

/// Why a node is no proxy that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id has another form.
    #[error("node id `{id}` is not of the form type~ip~name.namespace~namespace.svc.domain")]
    Id {
        /// The id.
        id: String,
    },
    /// The type is not known.
    #[error("node id `{id}`: type `{kind}` is neither sidecar nor router")]
    Kind {
        /// The id.
        id: String,
        /// The type.
        kind: String,
    },
    /// The address cannot be read.
    #[error("node id `{id}`: `{address}` is not an address")]
    Address {
        /// The id.
        id: String,
        /// The address.
        address: String,
    },
}

impl ProxyView {
    /// Reads the node of a client's first request.
    ///
    /// # Errors
    /// When the id is not that of a sidecar or router.
    pub fn from_node(node: &pb::core::Node) -> Result<Self, NodeError> {
        let id = || node.id.clone();
        let parts: Vec<&str> = node.id.split('~').collect();
        let [kind, address, name, domain] = parts[..] else {
            return Err(NodeError::Id { id: id() });
        };
        let kind = match kind {
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Router,
            other => {
                return Err(NodeError::Kind {
                    id: id(),
                    kind: other.to_owned(),
                });
            }
        };
        let metadata = NodeMetadata(node.metadata.as_ref());
        let primary: IpAddr = address.parse().map_err(|_| NodeError::Address {
            id: id(),
            address: address.to_owned(),
        })?;
        let mut addresses = vec![primary];
        for other in metadata
            .text("INSTANCE_IPS")
            .split(',')
            .filter_map(|text| text.trim().parse().ok())
        {
            if !addresses.contains(&other) {
                addresses.push(other);
            }
        }
        let namespace = match metadata.text("NAMESPACE") {
            "" => domain.split('.').next().unwrap_or_default(),
            stated => stated,
        };
        let locality = node
            .locality
            .as_ref()
            .map_or_else(Locality::default, |locality| Locality {
                region: locality.region.as_str().into(),
                zone: locality.zone.as_str().into(),
                sub_zone: locality.sub_zone.as_str().into(),
            });
        Ok(Self {
            kind,
            id: name.into(),
            addresses,
            namespace: namespace.into(),
            labels: metadata.labels(),
            service_account: metadata.text("SERVICE_ACCOUNT").into(),
            locality,
            traits: ProxyTraits {
                router: kind == ProxyKind::Router,
                filters: Filters::of(&node.extensions),
                transparent: metadata.text("INTERCEPTION_MODE") == "TPROXY",
                http10: metadata.flag("HTTP10"),
                idle_timeout: parse_duration(metadata.text("IDLE_TIMEOUT")).ok(),
            },
        })
    }
}

/// Access to node metadata, where numbers and booleans may come as texts.
struct NodeMetadata<'a>(Option<&'a pb::wkt::Struct>);

impl<'a> NodeMetadata<'a> {
    fn get(&self, key: &str) -> Option<&'a pb::wkt::value::Kind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> &'a str {
        match self.get(key) {
            Some(pb::wkt::value::Kind::StringValue(text)) => text,
            _ => "",
        }
    }

    fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            Some(pb::wkt::value::Kind::BoolValue(flag)) => *flag,
            Some(pb::wkt::value::Kind::StringValue(text)) => matches!(text.as_str(), "true" | "1"),
            _ => false,
        }
    }

    fn labels(&self) -> Labels {
        let Some(pb::wkt::value::Kind::StructValue(labels)) = self.get("LABELS") else {
            return Labels::new();
        };
        let pairs = labels
            .fields
            .iter()
            .filter_map(|(key, value)| match &value.kind {
                Some(pb::wkt::value::Kind::StringValue(text)) => {
                    Some((key.as_str(), text.as_str()))
                }
                _ => None,
            });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> pb::core::Node {
        pb::core::Node {
            id: id.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_becomes_a_view() {
        let labels = pb::fields([("app", pb::text_value("reviews"))]);
        let metadata = pb::fields([
            ("NAMESPACE", pb::text_value("shop")),
            ("INSTANCE_IPS", pb::text_value("10.0.0.1,fd00::1")),
            ("HTTP10", pb::text_value("1")),
            ("LABELS", pb::struct_value(labels)),
        ]);
        let node = pb::core::Node {
            metadata: Some(metadata),
            ..node("sidecar~10.0.0.1~reviews-v1-x.shop~shop.svc.cluster.local")
        };
        let view = ProxyView::from_node(&node).expect("valid");
        assert_eq!(
            (view.kind, &*view.id, &*view.namespace),
            (ProxyKind::Sidecar, "reviews-v1-x.shop", "shop")
        );
        assert_eq!(view.addresses.len(), 2);
        assert_eq!(view.labels.get("app").map(|v| v.as_str()), Some("reviews"));
        assert!(view.traits.http10 && !view.traits.router);
    }

    #[test]
    fn other_ids_are_refused_with_a_sentence() {
        assert!(matches!(
            ProxyView::from_node(&node("sidecar~10.0.0.1~a")),
            Err(NodeError::Id { .. })
        ));
        assert!(matches!(
            ProxyView::from_node(&node("x~10.0.0.1~a~b")),
            Err(NodeError::Kind { .. })
        ));
        assert!(matches!(
            ProxyView::from_node(&node("router~ten~a~b")),
            Err(NodeError::Address { .. })
        ));
    }

    #[test]
    fn istio_filters_must_be_listed_and_standard_ones_only_by_who_lists_any() {
        let extension = |name: &str, category: &str| pb::core::Extension {
            name: name.to_owned(),
            category: category.to_owned(),
            ..Default::default()
        };
        assert_eq!(Filters::of(&[]), Filters::stock());
        let listed = Filters::of(&[
            extension("istio.stats", "envoy.filters.network"),
            extension("istio.alpn", ""),
        ]);
        assert!(listed.tcp_stats && listed.alpn && !listed.http_stats && !listed.grpc_stats);
    }
}
