//! The workload's certificate: asked for, renewed, and put where TLS contexts look (`default`, `ROOTCA`).

use std::sync::Arc;

use bytes::Bytes;
use meltemi_identity::client::CsrClient;
use meltemi_identity::store::{CertificateReader, CertificateSource};
use meltemi_identity::{IdentityError, WorkloadCertificate};
use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source, StreamSource};
use meltemi_traffic::tls::{CertificatePair, DataSource, Secret, SecretKind, Validation};

use super::channel::CaChannel;
use super::config::AgentConfig;
use crate::state::Shared;

/// Name of the workload's certificate.
pub(crate) const OWN: &str = "default";
/// Name of the trust bundle.
pub(crate) const ROOTS: &str = "ROOTCA";

/// Cluster of the agent's secret discovery service in Istio's configuration.
const SDS_CLUSTER: &str = "sds-grpc";

/// A CSR client that connects for each request: requests are hours apart, and the control plane may have moved.
#[derive(Debug)]
pub(crate) struct LazyCsr {
    channel: CaChannel,
    config: Arc<AgentConfig>,
}

impl LazyCsr {
    pub(crate) fn new(channel: CaChannel, config: Arc<AgentConfig>) -> Self {
        Self { channel, config }
    }
}

impl CertificateSource for LazyCsr {
    async fn fetch(&self) -> Result<WorkloadCertificate, IdentityError> {
        let address = self.config.ca_address.clone();
        let channel = self
            .channel
            .open()
            .await
            .map_err(|reason| IdentityError::Request {
                address: address.clone(),
                reason,
            })?;
        let cluster = self
            .config
            .metadata
            .get("CLUSTER_ID")
            .cloned()
            .unwrap_or_else(|| "Kubernetes".to_owned());
        let client = Arc::new(CsrClient::new(
            channel,
            address,
            self.config.token.clone(),
            cluster,
        ));
        client.fetch().await
    }
}

/// Waits until there is a certificate.
pub(super) async fn wait_for_first(mut certificates: CertificateReader) {
    let _ = certificates.wait_for(Option::is_some).await;
}

/// Publishes each new certificate as secrets, for ever.
pub(super) async fn publish(shared: Arc<Shared>, mut certificates: CertificateReader) {
    loop {
        let current = certificates.borrow_and_update().clone();
        if let Some(certificate) = current {
            let principal = certificate
                .leaf_facts()
                .ok()
                .and_then(|facts| facts.uris.first().cloned());
            shared.set_principal(principal.map(Str::from));
            for secret in secrets(&certificate) {
                let secret = Arc::new(secret);
                // Under the name itself, and as a secret of the agent's own discovery service.
                let from_agent = Reference::new(agent_source(), secret.name.clone(), None);
                shared.secrets.set(from_agent.key, Arc::clone(&secret));
                shared.secrets.set(secret.name.clone(), secret);
            }
        }
        if certificates.changed().await.is_err() {
            return;
        }
    }
}

/// The agent as configuration names it.
fn agent_source() -> Source {
    Source::Stream(Arc::new(StreamSource {
        cluster: SDS_CLUSTER.into(),
        ..StreamSource::default()
    }))
}

fn secrets(certificate: &WorkloadCertificate) -> [Secret; 2] {
    let inline = |text: &str| DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()));
    let pair = CertificatePair {
        chain: inline(&certificate.chain_pem),
        key: inline(&certificate.key_pem),
    };
    let roots = Validation {
        trusted_ca: Some(inline(&certificate.roots_pem)),
        ..Validation::default()
    };
    [
        Secret {
            name: OWN.into(),
            kind: SecretKind::Certificate(pair),
        },
        Secret {
            name: ROOTS.into(),
            kind: SecretKind::Validation(Box::new(roots)),
        },
    ]
}
