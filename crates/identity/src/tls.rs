//! rustls configurations for the mesh: peers are checked against roots and by the URI or DNS names of their
//! certificate, never by the address that was dialled.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use crate::{IdentityError, WorkloadCertificate, certificate_facts};

/// Which names of a peer's certificate are accepted (Envoy: `match_typed_subject_alt_names`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerNames {
    /// A URI or DNS name that equals one of these is accepted.
    pub exact: Vec<String>,
    /// A URI or DNS name that starts with one of these is accepted (Istio: `spiffe://<trust domain>/`).
    pub prefixes: Vec<String>,
}

impl PeerNames {
    /// Accepts whatever chains to the roots.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    fn accepts(&self, leaf: &CertificateDer<'_>) -> bool {
        if self.exact.is_empty() && self.prefixes.is_empty() {
            return true;
        }
        let Ok(facts) = certificate_facts(leaf) else {
            return false;
        };
        facts.uris.iter().chain(&facts.dns_names).any(|name| {
            self.exact.contains(name)
                || self
                    .prefixes
                    .iter()
                    .any(|prefix| name.starts_with(prefix.as_str()))
        })
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.accepts(leaf) {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }
}

/// Whether a server asks its clients for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// Not asked.
    None,
    /// Asked; a client without one is let in, one with a wrong one is not.
    Optional(PeerNames),
    /// Required.
    Required(PeerNames),
}

/// The provider that all of the mesh uses.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// A root store of these certificates.
///
/// # Errors
/// [`IdentityError::Tls`] when one of them is not usable as a root.
pub fn root_store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}

/// Key and chain as rustls wants them.
///
/// # Errors
/// [`IdentityError`] when the PEM is damaged or the key is of an unknown kind.
pub fn certified_key(
    certificate: &WorkloadCertificate,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let key = provider()
        .key_provider
        .load_private_key(certificate.key()?)?;
    Ok(Arc::new(CertifiedKey::new(certificate.chain()?, key)))
}

/// A server's configuration: its certificate, whom it lets in, and its protocols in order of preference.
///
/// # Errors
/// [`IdentityError`] when certificate, key or roots are unusable.
pub fn server_config(
    certificate: &WorkloadCertificate,
    clients: &ClientAuthentication,
    alpn: &[&str],
) -> Result<ServerConfig, IdentityError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        ClientAuthentication::None => builder.with_no_client_auth(),
        ClientAuthentication::Optional(names) => builder.with_client_cert_verifier(
            PeerClientVerifier::new(&certificate.roots()?, names.clone(), false)?,
        ),
        ClientAuthentication::Required(names) => builder.with_client_cert_verifier(
            PeerClientVerifier::new(&certificate.roots()?, names.clone(), true)?,
        ),
    };
    let mut config = builder.with_single_cert(certificate.chain()?, certificate.key()?)?;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client's configuration: roots and names of the server it expects, and its own certificate if it has one.
///
/// # Errors
/// [`IdentityError`] when certificate, key or roots are unusable.
pub fn client_config(
    roots: &[CertificateDer<'static>],
    server_names: PeerNames,
    own: Option<&WorkloadCertificate>,
    alpn: &[&str],
) -> Result<ClientConfig, IdentityError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(PeerServerVerifier::new(roots, server_names)?);
    let mut config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.key()?)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Checks a server by roots and by [`PeerNames`]; the dialled name plays no part.
#[derive(Debug)]
pub struct PeerServerVerifier {
    roots: Arc<RootCertStore>,
    names: PeerNames,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerServerVerifier {
    /// A verifier for these roots and names.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when a root is unusable.
    pub fn new(
        roots: &[CertificateDer<'static>],
        names: PeerNames,
    ) -> Result<Arc<Self>, IdentityError> {
        let algorithms = provider().signature_verification_algorithms;
        Ok(Arc::new(Self {
            roots: root_store(roots)?,
            names,
            algorithms,
        }))
    }
}

impl ServerCertVerifier for PeerServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.names.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks a client by roots (web PKI rules) and by [`PeerNames`].
#[derive(Debug)]
pub struct PeerClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    names: PeerNames,
}

impl PeerClientVerifier {
    /// A verifier for these roots and names; `required` makes a client without a certificate fail.
    ///
    /// # Errors
    /// [`IdentityError`] when a root is unusable.
    pub fn new(
        roots: &[CertificateDer<'static>],
        names: PeerNames,
        required: bool,
    ) -> Result<Arc<Self>, IdentityError> {
        let builder = WebPkiClientVerifier::builder_with_provider(root_store(roots)?, provider());
        let builder = if required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let chain = builder.build().map_err(|error| IdentityError::Parse {
            what: "trust bundle",
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self { chain, names }))
    }
}

impl ClientCertVerifier for PeerClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Envoy sends no hints for the mesh's own roots; clients have one certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        self.names.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
