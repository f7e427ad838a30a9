//! The client of the CSR service: makes a key and a request, and turns the answer into a certificate.
//!
//! The key is made here and never leaves the process. The token is read anew for each call, because the kubelet
//! rotates it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use meltemi_proto::istio::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};

use crate::{IdentityError, WorkloadCertificate, store::CertificateSource};

/// Lifetime that a sidecar asks for (`SECRET_TTL`).
pub const REQUESTED_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Attempts of one call before it counts as failed.
const ATTEMPTS: u32 = 5;
/// First pause between attempts; doubles up to 1.6 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// An attempt that takes longer has failed.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

/// A fresh key and the request to have it certified.
pub struct PendingRequest {
    /// PKCS#10 request, PEM.
    pub csr_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for PendingRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingRequest").finish_non_exhaustive()
    }
}

/// Makes a new ECDSA P-256 key and its request. The request carries no names: the CA decides them.
///
/// # Errors
/// [`IdentityError::Generate`] when key or request cannot be made.
pub fn new_request() -> Result<PendingRequest, IdentityError> {
    let fail = |source| IdentityError::Generate {
        what: "certificate request",
        source,
    };
    let key = KeyPair::generate().map_err(fail)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr_pem = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(fail)?;
    Ok(PendingRequest {
        csr_pem,
        key_pem: key.serialize_pem(),
    })
}

impl PendingRequest {
    /// Joins the CA's answer (leaf, intermediates, root bundle last) with the key.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] for an answer of fewer than two elements, as Istio's agent refuses it.
    pub fn finish(self, mut chain: Vec<String>) -> Result<WorkloadCertificate, IdentityError> {
        if chain.len() < 2 {
            let reason = format!(
                "{} certificates in the answer, at least leaf and root expected",
                chain.len()
            );
            return Err(IdentityError::Parse {
                what: "certificate chain",
                reason,
            });
        }
        let roots_pem = chain.pop().expect("checked above");
        let certificate = WorkloadCertificate {
            chain_pem: chain.concat(),
            key_pem: self.key_pem,
            roots_pem,
        };
        certificate.chain()?;
        certificate.roots()?;
        Ok(certificate)
    }
}

/// Asks an Istio CA for certificates, with a service-account token as proof.
pub struct CsrClient {
    channel: Channel,
    address: String,
    token_path: PathBuf,
    cluster_id: String,
}

impl std::fmt::Debug for CsrClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsrClient")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl CsrClient {
    /// A client over a ready channel; `address` is only for messages.
    #[must_use]
    pub fn new(channel: Channel, address: String, token_path: PathBuf, cluster_id: String) -> Self {
        Self {
            channel,
            address,
            token_path,
            cluster_id,
        }
    }

    async fn attempt(&self, csr: &str) -> Result<Vec<String>, tonic::Status> {
        let token = tokio::fs::read_to_string(&self.token_path)
            .await
            .map_err(|error| {
                tonic::Status::unavailable(format!("read {}: {error}", self.token_path.display()))
            })?;
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: i64::try_from(REQUESTED_LIFETIME.as_secs()).expect("a day fits"),
            metadata: None,
        });
        let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| {
            tonic::Status::invalid_argument("the token holds bytes that no header can carry")
        })?;
        request.metadata_mut().insert("authorization", bearer);
        if let Ok(cluster) = MetadataValue::try_from(self.cluster_id.as_str()) {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        tokio::time::timeout(ATTEMPT_DEADLINE, client.create_certificate(request))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer within 10 s"))?
            .map(|answer| answer.into_inner().cert_chain)
    }

    async fn request(&self) -> Result<WorkloadCertificate, IdentityError> {
        let pending = new_request()?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.attempt(&pending.csr_pem).await {
                Ok(chain) => return pending.finish(chain),
                Err(status) if attempt < ATTEMPTS && is_transient(status.code()) => {
                    tracing::debug!(address = %self.address, code = ?status.code(), "certificate request failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(status) => {
                    let reason = format!("{:?}: {}", status.code(), status.message());
                    return Err(IdentityError::Request {
                        address: self.address.clone(),
                        reason,
                    });
                }
            }
        }
        unreachable!("the last attempt returns")
    }
}

impl CertificateSource for Arc<CsrClient> {
    async fn fetch(&self) -> Result<WorkloadCertificate, IdentityError> {
        self.request().await
    }
}

/// The codes after which Istio's agent tries again.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::Unknown
    )
}
