//! The CSR gRPC service, `istio.v1.auth.IstioCertificateService`.
//!
//! Who the caller is decides an [`Authenticator`]; what he is told when he is nobody is always the same opaque
//! sentence (the reasons go to the log).

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use meltemi_proto::istio::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use meltemi_telemetry::{Counter, Registry, names, registry::Family};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{IdentityError, ca::CertificateAuthority};

/// Largest CSR that is parsed, bytes: one has a few hundred, with an RSA key a few thousand.
const MAX_CSR_BYTES: usize = 64 << 10;

/// What a caller shows of himself.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Bearer token of the `authorization` metadata, without the scheme.
    pub token: Option<String>,
    /// URI names of the verified client certificate, if the connection had one.
    pub certificate_uris: Vec<String>,
}

impl Credentials {
    /// Reads them from gRPC metadata and connection extensions ([`PeerCertificate`]).
    #[must_use]
    pub fn of<T>(request: &Request<T>) -> Self {
        let nobody = PeerCertificate::default();
        let peer = request.extensions().get().unwrap_or(&nobody);
        Self::from_parts(request.metadata(), peer)
    }

    /// The same from a stream whose request is already taken apart.
    #[must_use]
    pub fn from_parts(metadata: &MetadataMap, peer: &PeerCertificate) -> Self {
        Self {
            token: bearer(metadata),
            certificate_uris: peer.uris.clone(),
        }
    }
}

/// Connection extension: the verified client certificate's names. Servers put it in after the handshake.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// URI subject alternative names.
    pub uris: Vec<String>,
}

fn bearer(metadata: &MetadataMap) -> Option<String> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    value
        .strip_prefix("Bearer ")
        .or_else(|| value.strip_prefix("Istio "))
        .map(|token| token.trim().to_owned())
}

/// Finds out who a caller is.
pub trait Authenticator: Send + Sync + 'static {
    /// The caller's SPIFFE URI.
    ///
    /// # Errors
    /// The reason, for the log; the caller never sees it.
    fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> impl Future<Output = Result<String, String>> + Send;
}

/// What is counted of certificate requests.
#[derive(Debug, Clone)]
pub struct CsrMetrics {
    requests: Counter,
    issued: Counter,
    nobodies: Counter,
    unreadable: Counter,
    unsigned: Arc<Family<Counter>>,
}

impl CsrMetrics {
    /// Registers them; once for a registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.counter(names::CITADEL_SERVER_CSR_COUNT),
            issued: registry.counter(names::CITADEL_SERVER_SUCCESS_CERT_ISSUANCE_COUNT),
            nobodies: registry.counter(names::CITADEL_SERVER_AUTHENTICATION_FAILURE_COUNT),
            unreadable: registry.counter(names::CITADEL_SERVER_CSR_PARSING_ERR_COUNT),
            unsigned: registry.counters(names::CITADEL_SERVER_CSR_SIGN_ERR_COUNT),
        }
    }

    fn failed(&self, error: &IdentityError) {
        let reason = match error {
            IdentityError::Parse { .. } => return self.unreadable.inc(),
            IdentityError::LifetimeTooLong { .. } => "TTL_ERROR",
            IdentityError::Generate { .. }
            | IdentityError::Request { .. }
            | IdentityError::Tls(_)
            | IdentityError::File { .. } => "CERT_GEN_ERROR",
        };
        self.unsigned.with([reason]).inc();
    }
}

/// The service over a CA that may be replaced at run time (root rotation).
pub struct CsrService<A> {
    ca: Arc<ArcSwap<CertificateAuthority>>,
    authenticator: Arc<A>,
    metrics: CsrMetrics,
}

impl<A> std::fmt::Debug for CsrService<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsrService").finish_non_exhaustive()
    }
}

impl<A: Authenticator> CsrService<A> {
    /// The tonic service; nobody reads what it counts.
    #[must_use]
    pub fn new(
        ca: Arc<ArcSwap<CertificateAuthority>>,
        authenticator: Arc<A>,
    ) -> IstioCertificateServiceServer<Self> {
        Self::counted(ca, authenticator, CsrMetrics::new(&Registry::default()))
    }

    /// The tonic service with its counters.
    #[must_use]
    pub fn counted(
        ca: Arc<ArcSwap<CertificateAuthority>>,
        authenticator: Arc<A>,
        metrics: CsrMetrics,
    ) -> IstioCertificateServiceServer<Self> {
        let service = Self {
            ca,
            authenticator,
            metrics,
        };
        IstioCertificateServiceServer::new(service)
    }
}

#[tonic::async_trait]
impl<A: Authenticator> IstioCertificateService for CsrService<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.requests.inc();
        let credentials = Credentials::of(&request);
        let identity = self
            .authenticator
            .authenticate(&credentials)
            .await
            .map_err(|reason| {
                self.metrics.nobodies.inc();
                tracing::warn!(reason, "certificate request refused");
                Status::unauthenticated("request authenticate failure")
            })?;
        let message = request.into_inner();
        if message.csr.len() > MAX_CSR_BYTES {
            self.metrics.unreadable.inc();
            return Err(Status::invalid_argument(
                "CSR signing error (the request is larger than 64 KiB)",
            ));
        }
        let lifetime = Duration::from_secs(u64::try_from(message.validity_duration).unwrap_or(0));
        let cert_chain = self
            .ca
            .load()
            .sign(&message.csr, &identity, lifetime, SystemTime::now())
            .map_err(|error| {
                self.metrics.failed(&error);
                signing_status(&error)
            })?;
        self.metrics.issued.inc();
        tracing::info!(identity, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn signing_status(error: &IdentityError) -> Status {
    let message = format!("CSR signing error ({error})");
    match error {
        IdentityError::Parse { .. } | IdentityError::LifetimeTooLong { .. } => {
            Status::invalid_argument(message)
        }
        IdentityError::Generate { .. }
        | IdentityError::Request { .. }
        | IdentityError::Tls(_)
        | IdentityError::File { .. } => Status::internal(message),
    }
}
