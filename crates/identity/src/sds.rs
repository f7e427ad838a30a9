//! The secret discovery service for a stock Envoy: `default` (certificate and key) and `ROOTCA` (trust bundle).
//!
//! Served on a unix socket that only the proxy's user can reach. A renewed certificate is pushed to open streams.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, TlsCertificate, secret,
        },
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
            secret::v3::secret_discovery_service_server::{
                SecretDiscoveryService, SecretDiscoveryServiceServer,
            },
        },
    },
    google::protobuf::Any,
};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::{WorkloadCertificate, store::CertificateReader};

/// Name of the workload certificate.
pub const DEFAULT_SECRET: &str = "default";
/// Name of the trust bundle.
pub const ROOT_SECRET: &str = "ROOTCA";
/// Responses that may wait for the proxy.
const RESPONSE_QUEUE: usize = 4;
const SECRET_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Serves the current certificate of a process.
#[derive(Debug)]
pub struct SdsService {
    certificates: CertificateReader,
}

impl SdsService {
    /// The tonic service.
    #[must_use]
    pub fn new(certificates: CertificateReader) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self { certificates })
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for SdsService {
    type DeltaSecretsStream = ResponseStream<DeltaDiscoveryResponse>;
    type StreamSecretsStream = ResponseStream<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "use StreamSecrets, as the bootstrap says",
        ))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(RESPONSE_QUEUE);
        tokio::spawn(serve(
            request.into_inner(),
            self.certificates.clone(),
            sender,
        ));
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("use StreamSecrets"))
    }
}

async fn serve(
    mut requests: Streaming<DiscoveryRequest>,
    mut certificates: CertificateReader,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut names = BTreeSet::new();
    let mut nonce = 0_u64;
    loop {
        tokio::select! {
            biased; // a subscription before a renewal: it decides what to send
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                if let Some(refusal) = &request.error_detail {
                    tracing::warn!(reason = refusal.message, "the proxy refused its certificate");
                    continue;
                }
                let asked: BTreeSet<String> = request.resource_names.into_iter().take(8).collect();
                if asked == names {
                    continue; // an acceptance
                }
                names = asked;
            }
            changed = certificates.changed() => if changed.is_err() { return },
        }
        let current = certificates.borrow_and_update().clone();
        if let Some(current) = current.filter(|_| !names.is_empty()) {
            nonce += 1;
            if sender
                .send(Ok(response(&names, &current, nonce)))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

fn response(
    names: &BTreeSet<String>,
    certificate: &Arc<WorkloadCertificate>,
    nonce: u64,
) -> DiscoveryResponse {
    let secrets = names
        .iter()
        .filter_map(|name| secret_named(name, certificate));
    DiscoveryResponse {
        version_info: nonce.to_string(),
        nonce: nonce.to_string(),
        type_url: SECRET_URL.to_owned(),
        resources: secrets
            .map(|secret| Any {
                type_url: SECRET_URL.to_owned(),
                value: secret.encode_to_vec(),
            })
            .collect(),
        ..DiscoveryResponse::default()
    }
}

/// The Envoy secret of one of the two names; `None` for any other.
#[must_use]
pub fn secret_named(name: &str, certificate: &WorkloadCertificate) -> Option<Secret> {
    let inline = |pem: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(pem.as_bytes().to_vec())),
            ..DataSource::default()
        })
    };
    let kind = match name {
        DEFAULT_SECRET => secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&certificate.chain_pem),
            private_key: inline(&certificate.key_pem),
            ..TlsCertificate::default()
        }),
        ROOT_SECRET => secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(&certificate.roots_pem),
            ..CertificateValidationContext::default()
        }),
        _ => return None,
    };
    Some(Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    })
}
