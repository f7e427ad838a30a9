//! Certificates for workloads.

use std::sync::Arc;

use meltemi_identity::{
    client::{CsrClient, new_request},
    store::CertificateSource as _,
};
use meltemi_proto::istio::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use tonic::{Code, Request};

use crate::{
    client::{bearer, secure},
    support::{Mesh, soon},
};

#[tokio::test]
async fn a_projected_token_gives_a_certificate_with_exactly_its_identity() {
    let mut mesh = Mesh::start().await;
    let root = mesh.root().await;
    let address = mesh.control().addresses().secure;
    let token = mesh.token("bookinfo-reviews", "istio-ca").await;
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("istio-token");
    std::fs::write(&path, token).expect("token");
    let channel = secure(address, &root).await;
    let client = Arc::new(CsrClient::new(
        channel,
        address.to_string(),
        path,
        "Kubernetes".into(),
    ));
    let certificate = soon("a certificate", client.fetch()).await.expect("issued");
    let facts = certificate.leaf_facts().expect("certificate");
    assert_eq!(
        facts.uris,
        ["spiffe://cluster.local/ns/default/sa/bookinfo-reviews"]
    );
    assert_eq!(facts.dns_names, Vec::<String>::new());
    assert_eq!(certificate.roots_pem.trim(), root.trim());

    let (_, metrics) = mesh.page("/metrics").await;
    for line in [
        "citadel_server_csr_count 1",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(
            metrics.lines().any(|one| one == line),
            "{line} in {metrics}"
        );
    }
}

#[tokio::test]
async fn a_caller_without_a_fitting_token_gets_no_certificate_and_no_reason() {
    let mut mesh = Mesh::start().await;
    let foreign = mesh.token("bookinfo-reviews", "kubernetes").await;
    let channel = secure(mesh.control().addresses().secure, &mesh.root().await).await;
    for token in [None, Some("nonsense"), Some(foreign.as_str())] {
        let mut request = Request::new(IstioCertificateRequest {
            csr: new_request().expect("request").csr_pem,
            ..IstioCertificateRequest::default()
        });
        if let Some(token) = token {
            *request.metadata_mut() = bearer(token);
        }
        let mut client = IstioCertificateServiceClient::new(channel.clone());
        let refused = soon("an answer", client.create_certificate(request))
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(refused.message(), "request authenticate failure");
    }
}
