//! TLS of accepted connections.

use meltemi_model::MeshConfig;
use meltemi_model::gateway::{ServerTls, ServerTlsMode};
use meltemi_names::alpn;

use crate::cluster::{TLS_SOCKET, mesh_versions};
use crate::pb;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::tls;

/// Suites of TLS 1.2 between peers of the mesh.
const MESH_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// What is negotiated inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// HTTP.
    Http,
    /// Bytes; with a preamble when this proxy can read it.
    Tcp {
        /// The proxy reads the metadata preamble.
        preamble: bool,
    },
}

fn offers(inside: Inside) -> Vec<String> {
    let preamble = matches!(inside, Inside::Tcp { preamble: true }).then_some(alpn::PEER_EXCHANGE);
    preamble
        .into_iter()
        .chain([alpn::H2, alpn::HTTP_11])
        .map(str::to_owned)
        .collect()
}

/// Mutual TLS with the mesh's identities.
pub(super) fn mesh(inside: Inside, mesh: &MeshConfig) -> pb::core::TransportSocket {
    let domains = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases);
    let prefixes =
        domains.map(|domain| pb::string(MatchPattern::Prefix(format!("spiffe://{domain}/"))));
    let mut versions = mesh_versions();
    versions.cipher_suites = MESH_CIPHERS
        .iter()
        .map(|suite| (*suite).to_owned())
        .collect();
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(versions),
            alpn_protocols: offers(inside),
            tls_certificate_sds_secret_configs: vec![pb::local_secret("default")],
            validation_context_type: Some(validation(
                pb::local_secret("ROOTCA"),
                prefixes.collect(),
            )),
            ..Default::default()
        }),
        require_client_certificate: Some(pb::boolean(true)),
        ..Default::default()
    };
    pb::transport_socket(TLS_SOCKET, &context)
}

fn validation(
    root: tls::SdsSecretConfig,
    names: Vec<pb::matcher::StringMatcher>,
) -> tls::common_tls_context::ValidationContextType {
    #[allow(deprecated)] // the field that Istio's tools and tests read
    let default = tls::CertificateValidationContext {
        match_subject_alt_names: names,
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

/// TLS of a gateway's server.
pub(super) fn server(
    wanted: &ServerTls,
    inside: Inside,
    config: &MeshConfig,
) -> pb::core::TransportSocket {
    if wanted.mode == ServerTlsMode::IstioMutual {
        return mesh(inside, config);
    }
    let certificates = if wanted.credential_names.is_empty() {
        vec![pb::local_secret(&format!(
            "file-cert:{}~{}",
            wanted.server_certificate, wanted.private_key
        ))]
    } else {
        let names = wanted.credential_names.iter();
        names
            .map(|name| pb::control_plane_secret(format!("kubernetes://{name}")))
            .collect()
    };
    let verifies = matches!(
        wanted.mode,
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
    );
    let root = if !wanted.ca_credential_name.is_empty() {
        Some(pb::control_plane_secret(format!(
            "kubernetes://{}",
            wanted.ca_credential_name
        )))
    } else if let Some(name) = wanted.credential_names.first() {
        Some(pb::control_plane_secret(format!(
            "kubernetes://{name}-cacert"
        )))
    } else if !wanted.ca_certificates.is_empty() {
        Some(pb::local_secret(&format!(
            "file-root:{}",
            wanted.ca_certificates
        )))
    } else {
        None
    };
    let names = wanted
        .subject_alt_names
        .iter()
        .map(|name| pb::exact(name))
        .collect();
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: version(&wanted.min_version).into(),
                tls_maximum_protocol_version: version(&wanted.max_version).into(),
                cipher_suites: wanted
                    .cipher_suites
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                ..Default::default()
            }),
            alpn_protocols: vec![alpn::H2.to_owned(), alpn::HTTP_11.to_owned()],
            tls_certificate_sds_secret_configs: certificates,
            validation_context_type: root
                .filter(|_| verifies)
                .map(|root| validation(root, names)),
            ..Default::default()
        }),
        require_client_certificate: Some(pb::boolean(wanted.mode == ServerTlsMode::Mutual)),
        ..Default::default()
    };
    pb::transport_socket(TLS_SOCKET, &context)
}

fn version(name: &str) -> tls::tls_parameters::TlsProtocol {
    use tls::tls_parameters::TlsProtocol;
    match name {
        "TLSv1_0" => TlsProtocol::TlSv10,
        "TLSv1_1" => TlsProtocol::TlSv11,
        "TLSv1_2" => TlsProtocol::TlSv12,
        "TLSv1_3" => TlsProtocol::TlSv13,
        _ => TlsProtocol::TlsAuto,
    }
}
