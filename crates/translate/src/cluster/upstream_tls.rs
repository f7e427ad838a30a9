//! TLS towards the endpoints of a cluster.

use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use meltemi_model::destination::{ClientTls, ClientTlsMode, ProxyProtocol};
use meltemi_names::alpn;

use super::outbound::OutboundClusterInput;
use super::{UpstreamHttp, policy};
use crate::pb;
use crate::pb::tls;

/// The name of TLS transport sockets.
pub(crate) const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// The name of plain transport sockets.
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";
/// The name of transport sockets that send the PROXY protocol first.
const PROXY_PROTOCOL_SOCKET: &str = "envoy.transport_sockets.upstream_proxy_protocol";

/// Sets the transport sockets of a cluster.
pub(super) fn apply(
    cluster: &mut pb::cluster::Cluster,
    input: &OutboundClusterInput,
    wanted: Option<&ClientTls>,
    upstream: UpstreamHttp,
) {
    match wanted {
        None if automatic(input) => {
            let context = mesh_tls(input, None, upstream);
            if policy::is_original_destination(cluster) {
                cluster.transport_socket = Some(pb::transport_socket(TLS_SOCKET, &context));
            } else {
                cluster.transport_socket_matches = by_endpoint(&context);
            }
        }
        None => {}
        Some(written) => match written.mode {
            ClientTlsMode::Disable => {}
            ClientTlsMode::IstioMutual => {
                let context = mesh_tls(input, Some(written), upstream);
                cluster.transport_socket = Some(pb::transport_socket(TLS_SOCKET, &context));
            }
            ClientTlsMode::Simple | ClientTlsMode::Mutual => {
                let context = origination(written, upstream);
                cluster.transport_socket = Some(pb::transport_socket(TLS_SOCKET, &context));
            }
        },
    }
}

/// Whether each endpoint that takes mutual TLS gets it.
fn automatic(input: &OutboundClusterInput) -> bool {
    input.mesh.auto_mutual_tls && !input.service.mesh_external && input.service_takes_mutual_tls
}

/// Endpoints marked with the mesh's TLS mode get TLS, others plain text.
fn by_endpoint(
    context: &tls::UpstreamTlsContext,
) -> Vec<pb::cluster::cluster::TransportSocketMatch> {
    let raw = RawBuffer::default();
    vec![
        pb::cluster::cluster::TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(pb::fields([("tlsMode", pb::text_value("istio"))])),
            transport_socket: Some(pb::transport_socket(TLS_SOCKET, context)),
        },
        pb::cluster::cluster::TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(pb::wkt::Struct::default()),
            transport_socket: Some(pb::transport_socket(RAW_SOCKET, &raw)),
        },
    ]
}

/// Each connection begins with the PROXY protocol, below whatever else it carries.
pub(super) fn announce_client(cluster: &mut pb::cluster::Cluster, version: ProxyProtocol) {
    let version = match version {
        ProxyProtocol::V1 => pb::core::proxy_protocol_config::Version::V1,
        ProxyProtocol::V2 => pb::core::proxy_protocol_config::Version::V2,
    };
    let wrap = |inner: Option<pb::core::TransportSocket>| {
        let config = ProxyProtocolUpstreamTransport {
            config: Some(pb::core::ProxyProtocolConfig {
                version: version.into(),
                ..Default::default()
            }),
            transport_socket: inner
                .or_else(|| Some(pb::transport_socket(RAW_SOCKET, &RawBuffer::default()))),
            ..Default::default()
        };
        Some(pb::transport_socket(PROXY_PROTOCOL_SOCKET, &config))
    };
    for by_endpoint in &mut cluster.transport_socket_matches {
        by_endpoint.transport_socket = wrap(by_endpoint.transport_socket.take());
    }
    if cluster.transport_socket_matches.is_empty() {
        cluster.transport_socket = wrap(cluster.transport_socket.take());
    }
}

/// The mesh's own identities on both sides.
fn mesh_tls(
    input: &OutboundClusterInput,
    written: Option<&ClientTls>,
    upstream: UpstreamHttp,
) -> tls::UpstreamTlsContext {
    let stated = written
        .map(|written| written.subject_alt_names.as_slice())
        .unwrap_or_default();
    let names: Vec<String> = if stated.is_empty() {
        input.subject_alt_names()
    } else {
        stated.iter().map(ToString::to_string).collect()
    };
    let sni = written
        .map(|written| written.sni.to_string())
        .filter(|sni| !sni.is_empty());
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(mesh_versions()),
            tls_certificate_sds_secret_configs: vec![pb::local_secret("default")],
            validation_context_type: Some(root_and_names(pb::local_secret("ROOTCA"), &names)),
            alpn_protocols: offers(input, upstream),
            ..Default::default()
        }),
        sni: sni.unwrap_or_else(|| input.name().sni()),
        ..Default::default()
    }
}

/// TLS 1.2 to 1.3.
pub(crate) fn mesh_versions() -> tls::TlsParameters {
    tls::TlsParameters {
        tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
        ..Default::default()
    }
}

/// What the server side is told of the payload.
///
/// A data plane with `istio.alpn` replaces the offer request by request. For one without it the cluster itself tells
/// the protocol of its port, and the metadata preamble is offered only by those who can send it.
fn offers(input: &OutboundClusterInput, upstream: UpstreamHttp) -> Vec<String> {
    let filters = input.traits.filters;
    let http2 = upstream == UpstreamHttp::Http2;
    let tokens = if input.is_http() && !filters.alpn {
        if http2 {
            vec![alpn::ISTIO_H2, alpn::ISTIO, alpn::H2]
        } else {
            vec![alpn::ISTIO_HTTP_11, alpn::ISTIO, alpn::HTTP_11]
        }
    } else {
        let preamble = filters.tcp_peers.then_some(alpn::PEER_EXCHANGE);
        let inside = http2.then_some(alpn::H2);
        preamble
            .into_iter()
            .chain([alpn::ISTIO])
            .chain(inside)
            .collect()
    };
    tokens.into_iter().map(str::to_owned).collect()
}

/// Roots from a secret, and the names that the server may have.
fn root_and_names(
    root: tls::SdsSecretConfig,
    names: &[String],
) -> tls::common_tls_context::ValidationContextType {
    #[allow(deprecated)] // the field that Istio's tools and tests read
    let default = tls::CertificateValidationContext {
        match_subject_alt_names: names.iter().map(|name| pb::exact(name)).collect(),
        ..Default::default()
    };
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(default),
            validation_context_sds_secret_config: Some(root),
            ..Default::default()
        },
    )
}

/// TLS with certificates from outside the mesh.
fn origination(written: &ClientTls, upstream: UpstreamHttp) -> tls::UpstreamTlsContext {
    let mut common = tls::CommonTlsContext::default();
    if upstream == UpstreamHttp::Http2 {
        common.alpn_protocols = vec![alpn::H2.to_owned()];
    }
    let names: Vec<String> = written
        .subject_alt_names
        .iter()
        .map(ToString::to_string)
        .collect();
    let credential = &written.credential_name;
    if written.mode == ClientTlsMode::Mutual {
        common.tls_certificate_sds_secret_configs = vec![if credential.is_empty() {
            pb::local_secret(&format!(
                "file-cert:{}~{}",
                written.client_certificate, written.private_key
            ))
        } else {
            pb::control_plane_secret(format!("kubernetes://{credential}"))
        }];
    }
    if !written.insecure_skip_verify {
        let root = if !credential.is_empty() {
            pb::control_plane_secret(format!("kubernetes://{credential}-cacert"))
        } else if written.ca_certificates.is_empty() {
            pb::local_secret("file-root:system")
        } else {
            pb::local_secret(&format!("file-root:{}", written.ca_certificates))
        };
        common.validation_context_type = Some(root_and_names(root, &names));
    }
    tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: written.sni.to_string(),
        ..Default::default()
    }
}

/// Where the policy names no server, the request does: its host is asked for, and has to be in the certificate unless
/// other names are.
pub(super) fn names_by_request(
    written: &ClientTls,
) -> Option<pb::core::UpstreamHttpProtocolOptions> {
    let asked = written.mode.originates() && written.sni.is_empty();
    asked.then(|| pb::core::UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: written.subject_alt_names.is_empty() && !written.insecure_skip_verify,
        ..Default::default()
    })
}
