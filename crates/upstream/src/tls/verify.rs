//! Checking the peer's certificate, and choosing our own.

use std::sync::Arc;

use meltemi_traffic::tls::{DataSource, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureAlgorithm, SignatureScheme,
};

use super::{TlsError, identity, load_roots, read};

/// Checks a chain against the trust anchors and the names against the matchers, for either side.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    validation: Validation,
    roots: Option<Arc<RootCertStore>>,
    client: Option<Arc<dyn ClientCertVerifier>>,
    /// Checks revocation of servers, where lists are given.
    server: Option<Arc<WebPkiServerVerifier>>,
    required: bool,
    /// The name sent as SNI must be in the certificate.
    name_sent: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(validation: Validation, required: bool) -> Result<Self, TlsError> {
        let provider = meltemi_identity::tls::provider();
        let roots = validation
            .trusted_ca
            .as_ref()
            .map(load_roots)
            .transpose()?
            .map(Arc::new);
        let revoked = validation
            .crl
            .as_ref()
            .map(load_revocation_lists)
            .transpose()?;
        let client = match &roots {
            Some(roots) => {
                let mut builder = WebPkiClientVerifier::builder_with_provider(
                    Arc::clone(roots),
                    Arc::clone(&provider),
                );
                if let Some(revoked) = &revoked {
                    builder = builder.with_crls(revoked.iter().cloned());
                    if validation.only_leaf_revocation {
                        builder = builder.only_check_end_entity_revocation();
                    }
                }
                let built = builder.build();
                Some(built.map_err(|error| Error::General(error.to_string()))?)
            }
            None => None,
        };
        let server = match (&roots, revoked) {
            (Some(roots), Some(revoked)) => {
                let mut builder = WebPkiServerVerifier::builder_with_provider(
                    Arc::clone(roots),
                    Arc::clone(&provider),
                )
                .with_crls(revoked);
                if validation.only_leaf_revocation {
                    builder = builder.only_check_end_entity_revocation();
                }
                let built = builder.build();
                Some(built.map_err(|error| Error::General(error.to_string()))?)
            }
            _ => None,
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self {
            validation,
            roots,
            client,
            server,
            required,
            name_sent: false,
            algorithms,
        })
    }

    /// The same verifier, which also asks for the name that was sent as SNI.
    pub(super) fn asking_for_name(self, name_sent: bool) -> Self {
        Self { name_sent, ..self }
    }

    fn names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.validation.sans.is_empty()
            && self.validation.certificate_hashes.is_empty()
            && self.validation.spki_hashes.is_empty()
        {
            return Ok(());
        }
        let peer =
            identity::read(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (hashes, keys) = (
            &self.validation.certificate_hashes,
            &self.validation.spki_hashes,
        );
        // Either kind of pin is enough.
        let pinned = hashes.contains(&peer.fingerprint_256)
            || (!keys.is_empty() && keys.iter().any(|pin| *pin == public_key_hash(leaf)));
        let pins = !(hashes.is_empty() && keys.is_empty());
        if pins && !pinned {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if self.validation.san_accepted(identity::sans(&peer)) {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    /// Expired chains pass where the configuration says so, untrusted ones likewise.
    fn tolerate(&self, error: Error) -> Result<(), Error> {
        let expired = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            )
        );
        if (expired && self.validation.allow_expired) || self.validation.accept_untrusted {
            Ok(())
        } else {
            Err(error)
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(server) = &self.server {
            let checked =
                server.verify_server_cert(end_entity, intermediates, server_name, &[], now);
            match checked {
                // The chain and its revocation were in order; names have their own check below.
                Ok(_)
                | Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => self.tolerate(error)?,
            }
        } else if let Some(roots) = &self.roots {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )
            .or_else(|error| self.tolerate(error))?;
        }
        if self.name_sent {
            rustls::client::verify_server_name(
                &ParsedCertificate::try_from(end_entity)?,
                server_name,
            )?;
        }
        self.names(end_entity)?;
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

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.client
            .as_ref()
            .map_or(&[], |client| client.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(client) = &self.client {
            client
                .verify_client_cert(end_entity, intermediates, now)
                .map(|_| ())
                .or_else(|error| self.tolerate(error))?;
        }
        self.names(end_entity)?;
        Ok(ClientCertVerified::assertion())
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

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }
}

/// Base64 of the SHA-256 of a certificate's public key; empty when it cannot be read.
fn public_key_hash(leaf: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else {
        return String::new();
    };
    let key = parsed.subject_public_key_info();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key);
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn load_revocation_lists(
    source: &DataSource,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(&read(source)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Pem {
            what: "revocation lists",
        })?;
    if lists.is_empty() {
        return Err(TlsError::Pem {
            what: "revocation lists",
        });
    }
    Ok(lists)
}

/// The client certificate, whatever the server hints at.
#[derive(Debug)]
pub(super) struct OneCertificate(pub(super) Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Server certificates by name: exact, then wildcard, then the first; ECDSA where the client can.
#[derive(Debug)]
pub(super) struct CertificateChoice {
    keys: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl CertificateChoice {
    pub(super) fn new(keys: Vec<Arc<CertifiedKey>>) -> Self {
        let named = |key: Arc<CertifiedKey>| {
            let peer = key.cert.first().and_then(identity::read);
            let names = peer.map(|peer| {
                peer.dns_sans
                    .iter()
                    .map(|name| name.to_ascii_lowercase())
                    .collect()
            });
            (names.unwrap_or_default(), key)
        };
        Self {
            keys: keys.into_iter().map(named).collect(),
        }
    }
}

impl ResolvesServerCert for CertificateChoice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let [(_, only)] = self.keys.as_slice() {
            return Some(Arc::clone(only));
        }
        let is_ecdsa = |scheme: &SignatureScheme| {
            use SignatureScheme as Scheme;
            matches!(
                scheme,
                Scheme::ECDSA_NISTP256_SHA256
                    | Scheme::ECDSA_NISTP384_SHA384
                    | Scheme::ECDSA_NISTP521_SHA512
            )
        };
        let ecdsa = hello.signature_schemes().iter().any(is_ecdsa);
        let name = hello
            .server_name()
            .map(str::to_ascii_lowercase)
            .unwrap_or_default();
        let wildcard = name
            .split_once('.')
            .map(|(_, rest)| format!("*.{rest}"))
            .unwrap_or_default();
        let rank = |names: &[String]| {
            if names.contains(&name) {
                0
            } else if names.contains(&wildcard) {
                1
            } else {
                2
            }
        };
        let preferred =
            |key: &CertifiedKey| (key.key.algorithm() == SignatureAlgorithm::ECDSA) != ecdsa;
        self.keys
            .iter()
            .min_by_key(|(names, key)| (rank(names), preferred(key)))
            .map(|(_, key)| Arc::clone(key))
    }
}
