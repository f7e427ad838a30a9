use std::time::{Duration, SystemTime};

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::{
    ca::{CertificateAuthority, SELF_SIGNED_ROOT_LIFETIME, self_signed_files},
    client::new_request,
};

fn authority() -> CertificateAuthority {
    let files = self_signed_files(
        "cluster.local",
        SELF_SIGNED_ROOT_LIFETIME,
        SystemTime::now(),
    )
    .expect("root");
    CertificateAuthority::from_files(files).expect("load")
}

fn workload(ca: &CertificateAuthority, account: &str) -> WorkloadCertificate {
    let request = new_request().expect("request");
    let identity = format!("spiffe://cluster.local/ns/default/sa/{account}");
    let chain = ca
        .sign(
            &request.csr_pem,
            &identity,
            Duration::ZERO,
            SystemTime::now(),
        )
        .expect("signed");
    request.finish(chain).expect("complete")
}

/// Runs a handshake in memory; the error is that of the first side to fail.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Option<Vec<u8>>, Error> {
    let name = ServerName::try_from("10.244.0.9").expect("ip");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok(client.alpn_protocol().map(<[u8]>::to_vec))
}

fn names(exact: &str) -> PeerNames {
    PeerNames {
        exact: vec![exact.to_owned()],
        prefixes: Vec::new(),
    }
}

fn trust_domain() -> ClientAuthentication {
    ClientAuthentication::Required(PeerNames {
        exact: Vec::new(),
        prefixes: vec!["spiffe://cluster.local/".into()],
    })
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let ca = authority();
    let (a, b) = (workload(&ca, "a"), workload(&ca, "b"));
    let client = client_config(
        &a.roots().unwrap(),
        names("spiffe://cluster.local/ns/default/sa/c"),
        Some(&a),
        &["istio"],
    );
    let server = server_config(&b, &trust_domain(), &["istio"]);
    assert!(handshake(client.unwrap(), server.unwrap()).is_err());
}

#[test]
fn a_client_without_certificate_or_of_another_trust_domain_is_refused() {
    let (ca, other) = (authority(), authority());
    let b = workload(&ca, "b");
    let expect = names("spiffe://cluster.local/ns/default/sa/b");
    let nobody = client_config(&b.roots().unwrap(), expect.clone(), None, &[]).unwrap();
    assert!(handshake(nobody, server_config(&b, &trust_domain(), &[]).unwrap()).is_err());
    let stranger = workload(&other, "a");
    let stranger = client_config(&b.roots().unwrap(), expect, Some(&stranger), &[]).unwrap();
    assert!(handshake(stranger, server_config(&b, &trust_domain(), &[]).unwrap()).is_err());
}

#[test]
fn both_sides_agree_on_identity_and_protocol() {
    let ca = authority();
    let (a, b) = (workload(&ca, "a"), workload(&ca, "b"));
    let client = client_config(
        &a.roots().unwrap(),
        names("spiffe://cluster.local/ns/default/sa/b"),
        Some(&a),
        &["istio", "h2"],
    );
    let server = server_config(&b, &trust_domain(), &["h2"]);
    assert_eq!(
        handshake(client.unwrap(), server.unwrap()),
        Ok(Some(b"h2".to_vec()))
    );
}

#[test]
fn a_debug_print_never_shows_the_key() {
    let certificate = workload(&authority(), "a");
    assert!(!format!("{certificate:?}").contains("PRIVATE"));
}
