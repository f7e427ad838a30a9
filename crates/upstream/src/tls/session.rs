//! What logs say of a TLS session, in OpenSSL's words.

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::tls::PeerIdentity;
use rustls::{CipherSuite, CommonState, ProtocolVersion};

use super::ClientContext;

/// Facts of an upstream session.
#[derive(Debug)]
pub struct TlsSession {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// Cipher suite, by OpenSSL's name.
    pub cipher: &'static str,
    /// Server name sent; empty when none was.
    pub server_name: Str,
    /// Our certificate's identity, when the context has one.
    pub local: Option<Arc<PeerIdentity>>,
}

impl TlsSession {
    /// The facts of a finished handshake.
    pub fn new(state: &CommonState, context: Option<&ClientContext>, sni: Option<&Str>) -> Self {
        let configured = context.map(|context| &context.settings().sni);
        Self {
            version: version_name(state),
            cipher: openssl_cipher(state),
            server_name: sni.or(configured).cloned().unwrap_or_default(),
            local: context.and_then(ClientContext::local_identity),
        }
    }
}

/// The negotiated version, as Envoy prints it.
pub fn version_name(state: &CommonState) -> &'static str {
    match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// The negotiated suite by OpenSSL's name; empty for one that is not known.
pub fn openssl_cipher(state: &CommonState) -> &'static str {
    let Some(suite) = state.negotiated_cipher_suite() else {
        return "";
    };
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
