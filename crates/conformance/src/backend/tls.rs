//! TLS of a backend, and what is observed of it.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::client::connect::{common_name, pair};
use crate::client::wire::Duplex;

/// TLS options of a backend.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Spec {
    /// Name of its certificate.
    certificate: String,
    /// Protocols that it speaks.
    alpn: Vec<String>,
    /// `none`, `optional`, `required`: a certificate of the proxy, issued by `ca`.
    client: ClientAuth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientAuth {
    None,
    Optional,
    Required,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            certificate: "server".to_owned(),
            alpn: Vec::new(),
            client: ClientAuth::None,
        }
    }
}

impl Spec {
    /// Ready to accept.
    pub(crate) fn acceptor(&self, certificates: &Certificates) -> anyhow::Result<TlsAcceptor> {
        let (chain, key) = pair(certificates, &self.certificate)?;
        let builder = rustls::ServerConfig::builder();
        let builder = if self.client == ClientAuth::None {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(certificates.file("ca.pem"))?)?;
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            let verifier = if self.client == ClientAuth::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build()?)
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = self
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Finishes the handshake; `None` when it fails.
pub(crate) async fn accept(
    acceptor: &TlsAcceptor,
    io: Box<dyn Duplex>,
) -> Option<(Box<dyn Duplex>, Value)> {
    let stream = acceptor.accept(io).await.ok()?;
    let (_, session) = stream.get_ref();
    let facts = json!({
        "sni": session.server_name(),
        "alpn": session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        "version": session.protocol_version().map(|version| format!("{version:?}")),
        "certificate": session.peer_certificates().and_then(|chain| chain.first()).map(common_name),
    });
    Some((Box::new(stream), facts))
}
