//! Workload identity: who a process is, how it proves it, and how it checks a peer.
//!
//! - [`ca`]: the built-in certificate authority (self-signed or plugged in) and its signing rules.
//! - [`service`]: the CSR gRPC service (`istio.v1.auth.IstioCertificateService`) over a [`ca`].
//! - [`client`]: the other side of it: key, CSR, answer.
//! - [`store`]: the current certificate of a process and its renewal before expiry.
//! - [`tls`]: rustls configurations whose peers are checked by SPIFFE identity, not by host name.
//! - [`sds`]: the secret discovery service that hands the certificate to a stock Envoy.
//!
//! Never here: Kubernetes (tokens are checked through [`service::Authenticator`]) and xDS subscriptions.
//! Private keys never reach a log: the types that hold them print a placeholder.

pub mod ca;
pub mod client;
pub mod sds;
pub mod service;
pub mod store;
pub mod tls;
mod x509;

pub use x509::{CertificateFacts, certificate_facts};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Why a piece of identity could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate, key or request could not be generated.
    #[error("generate {what}")]
    Generate {
        /// What was being generated.
        what: &'static str,
        /// The generator's own reason.
        #[source]
        source: rcgen::Error,
    },
    /// PEM or DER input is not what its place asks for.
    #[error("parse {what}: {reason}")]
    Parse {
        /// What was being parsed, named by its place (`ca-cert.pem`).
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A requested lifetime is above the limit of the CA (Istio: refused, not clamped).
    #[error("requested lifetime of {requested_s} s is above the maximum of {maximum_s} s")]
    LifetimeTooLong {
        /// Seconds asked for.
        requested_s: u64,
        /// Seconds allowed (`MAX_WORKLOAD_CERT_TTL`).
        maximum_s: u64,
    },
    /// The CA did not answer, or refused.
    #[error("certificate request to {address}: {reason}")]
    Request {
        /// The CA's address.
        address: String,
        /// Status and message of the last attempt.
        reason: String,
    },
    /// rustls refused a certificate, key or root.
    #[error("tls configuration")]
    Tls(#[from] rustls::Error),
    /// A file of the identity could not be read.
    #[error("read {path}")]
    File {
        /// Which file.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// A certificate chain, its key, and the roots that its peers must chain to.
#[derive(Clone)]
pub struct WorkloadCertificate {
    /// Leaf first, then intermediates, PEM.
    pub chain_pem: String,
    /// PKCS#8 private key, PEM.
    pub key_pem: String,
    /// Trust bundle, one or more roots, PEM.
    pub roots_pem: String,
}

impl std::fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("key_pem", &"<redacted>")
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// The chain as DER, leaf first.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] when the PEM is damaged or empty.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates("certificate chain", &self.chain_pem)
    }

    /// The roots as DER.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] when the PEM is damaged or empty.
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates("trust bundle", &self.roots_pem)
    }

    /// The key as DER.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] when the PEM holds no private key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        private_key("private key", &self.key_pem)
    }

    /// Facts of the leaf: identities, validity.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] when the leaf is not a certificate.
    pub fn leaf_facts(&self) -> Result<CertificateFacts, IdentityError> {
        let chain = self.chain()?;
        certificate_facts(chain.first().expect("certificates() refuses an empty list"))
    }
}

/// All certificates of a PEM text; `what` names its place in errors.
///
/// # Errors
/// [`IdentityError::Parse`] when damaged or when there is none.
pub fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let list = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| IdentityError::Parse {
            what,
            reason: format!("{error:?}"),
        })?;
    if list.is_empty() {
        return Err(IdentityError::Parse {
            what,
            reason: "no certificate in it".into(),
        });
    }
    Ok(list)
}

/// The private key of a PEM text; `what` names its place in errors.
///
/// # Errors
/// [`IdentityError::Parse`] when there is no key in it.
pub fn private_key(what: &'static str, pem: &str) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| IdentityError::Parse {
        what,
        reason: format!("{error:?}"),
    })
}
