//! Who the peer is, read from its certificate.

use bytes::Bytes;
use meltemi_traffic::Str;
use meltemi_traffic::tls::{PeerIdentity, SanKind};
use rustls::pki_types::CertificateDer;

/// The identity of a connection's peer; `None` when it showed no certificate.
pub fn peer_identity(state: &rustls::CommonState, verified: bool) -> Option<PeerIdentity> {
    let (leaf, further) = state.peer_certificates()?.split_first()?;
    let mut peer = read(leaf)?;
    peer.chain = further
        .iter()
        .map(|der| Bytes::copy_from_slice(der))
        .collect();
    peer.validated = verified;
    Some(peer)
}

pub(super) fn read(leaf: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let facts = meltemi_identity::certificate_facts(leaf).ok()?;
    let hex = |algorithm| -> Str {
        let digest = aws_lc_rs::digest::digest(algorithm, leaf);
        let bytes = digest.as_ref().iter();
        bytes
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into()
    };
    let shared = |names: Vec<String>| names.into_iter().map(Str::from).collect();
    Some(PeerIdentity {
        uri_sans: shared(facts.uris),
        dns_sans: shared(facts.dns_names),
        ip_sans: shared(facts.ips),
        email_sans: shared(facts.emails),
        subject: facts.subject.into(),
        issuer: facts.issuer.into(),
        serial: facts.serial.into(),
        fingerprint_256: hex(&aws_lc_rs::digest::SHA256),
        fingerprint_1: hex(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY),
        not_before: u64::try_from(facts.not_before).unwrap_or(0),
        not_after: u64::try_from(facts.not_after).unwrap_or(0),
        der: Bytes::copy_from_slice(leaf),
        chain: Vec::new(),
        validated: false,
    })
}

pub(super) fn sans(peer: &PeerIdentity) -> impl Iterator<Item = (SanKind, &str)> + Clone {
    let uris = peer
        .uri_sans
        .iter()
        .map(|name| (SanKind::Uri, name.as_str()));
    uris.chain(
        peer.dns_sans
            .iter()
            .map(|name| (SanKind::Dns, name.as_str())),
    )
}
