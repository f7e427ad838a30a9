//! The secret discovery service for a stock Envoy: `default` (certificate and key) and `ROOTCA` (trust bundle), and
//! files by name (`file-cert:CERT~KEY`, `file-root:PATH`, `file-root:system`), which Envoy reads and watches itself.
//!
//! Served on a unix socket that only the proxy's user can reach. A renewed certificate is pushed to open streams.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, task};

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
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Request, Response, Status, Streaming};

use crate::{WorkloadCertificate, store::CertificateReader};

/// Name of the workload certificate.
pub const DEFAULT_SECRET: &str = "default";
/// Name of the trust bundle.
pub const ROOT_SECRET: &str = "ROOTCA";
/// The trust anchors that `file-root:system` stands for, where distributions put them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
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

/// The responses of a stream and the task that makes them, which ends with it.
struct Responses {
    receiver: mpsc::Receiver<Result<DiscoveryResponse, Status>>,
    _task: JoinSet<()>,
}

impl Stream for Responses {
    type Item = Result<DiscoveryResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

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
        let mut task = JoinSet::new();
        task.spawn(serve(
            request.into_inner(),
            self.certificates.clone(),
            sender,
        ));
        Ok(Response::new(Box::pin(Responses {
            receiver,
            _task: task,
        })))
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

/// The Envoy secret of a name; `None` for one that is not served here.
#[must_use]
pub fn secret_named(name: &str, certificate: &WorkloadCertificate) -> Option<Secret> {
    let inline = |pem: &str| source(Specifier::InlineBytes(pem.as_bytes().to_vec()));
    let file = |path: &str| source(Specifier::Filename(path.to_owned()));
    let kind = match name {
        DEFAULT_SECRET => pair(inline(&certificate.chain_pem), inline(&certificate.key_pem)),
        ROOT_SECRET => roots(inline(&certificate.roots_pem)),
        _ => {
            if let Some(files) = name.strip_prefix("file-cert:") {
                let (chain, key) = files.split_once('~')?;
                pair(file(chain), file(key))
            } else {
                match name.strip_prefix("file-root:")? {
                    "system" => roots(file(SYSTEM_ROOTS)),
                    path => roots(file(path)),
                }
            }
        }
    };
    Some(Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    })
}

fn source(specifier: Specifier) -> DataSource {
    DataSource {
        specifier: Some(specifier),
        ..DataSource::default()
    }
}

fn pair(chain: DataSource, key: DataSource) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(chain),
        private_key: Some(key),
        ..TlsCertificate::default()
    })
}

fn roots(anchors: DataSource) -> secret::Type {
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(anchors),
        ..CertificateValidationContext::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_and_unknown_names_are_not_served() {
        let own = WorkloadCertificate {
            chain_pem: "chain".to_owned(),
            key_pem: "key".to_owned(),
            roots_pem: "roots".to_owned(),
        };
        let file = |path: &str| source(Specifier::Filename(path.to_owned()));
        let kind = |name: &str| secret_named(name, &own).and_then(|secret| secret.r#type);
        assert_eq!(
            kind("file-cert:/a/cert.pem~/a/key.pem"),
            Some(pair(file("/a/cert.pem"), file("/a/key.pem")))
        );
        assert_eq!(kind("file-root:/a/ca.pem"), Some(roots(file("/a/ca.pem"))));
        assert_eq!(kind("file-root:system"), Some(roots(file(SYSTEM_ROOTS))));
        for unknown in ["", "other", "file-cert:/a/cert.pem", "kubernetes://a"] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
