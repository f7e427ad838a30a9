//! TLS contexts and secrets as configuration: what is asked, never the keys' use.

use base64::Engine as _;
use bytes::Bytes;

use crate::Str;
use crate::discovery::Reference;
use crate::matcher::StringMatcher;

/// Bytes given inline or by file; the driver reads files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// Read from this path (and again when it changes).
    File(Str),
    /// Given in the configuration.
    Inline(Bytes),
    /// Read from this environment variable.
    Environment(Str),
}

/// A protocol version bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (also what older values are raised to).
    V12,
    /// TLS 1.3.
    V13,
}

/// Settings common to both sides.
#[derive(Debug, Clone, Default)]
pub struct TlsCommon {
    /// Lower bound; `None` is TLS 1.2.
    pub min_version: Option<TlsVersion>,
    /// Upper bound; `None` is TLS 1.3 for servers and TLS 1.2 for clients.
    pub max_version: Option<TlsVersion>,
    /// OpenSSL names of TLS 1.2 suites; empty is the default list.
    pub cipher_suites: Vec<Str>,
    /// Names of groups; empty is the default list.
    pub curves: Vec<Str>,
    /// Offered (client) or accepted in this order (server).
    pub alpn: Vec<Str>,
    /// Own certificates.
    pub certificates: Vec<CertificateSource>,
    /// How the peer is verified; `None` does not verify.
    pub validation: Option<ValidationSource>,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// A secret by name.
    Sds(Reference),
    /// Given in place.
    Given(CertificatePair),
}

/// A chain with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// PEM chain, leaf first.
    pub chain: DataSource,
    /// PEM key.
    pub key: DataSource,
}

/// Validation settings, some of which may come from a secret.
#[derive(Debug, Clone, Default)]
pub struct ValidationSource {
    /// Settings given in place (for a combined context the defaults).
    pub given: Validation,
    /// The secret whose settings are merged over `given`.
    pub sds: Option<Reference>,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Trust anchors; `None` skips chain verification.
    pub trusted_ca: Option<DataSource>,
    /// Revocation lists.
    pub crl: Option<DataSource>,
    /// Only the leaf is looked up in them, not the authorities above it.
    pub only_leaf_revocation: bool,
    /// Any SAN matching any matcher passes; empty asks for nothing.
    pub sans: Vec<SanMatcher>,
    /// SHA-256 of the leaf, hex in lower case without colons; any passes.
    pub certificate_hashes: Vec<Str>,
    /// Base64 SHA-256 of the leaf's public key; any passes.
    pub spki_hashes: Vec<Str>,
    /// Expired certificates pass.
    pub allow_expired: bool,
    /// A peer whose chain does not verify is accepted (but is not authenticated).
    pub accept_untrusted: bool,
}

impl Validation {
    /// A combined context: the secret's settings merged over these, as protobuf merges messages.
    #[must_use]
    pub fn merged(&self, secret: &Self) -> Self {
        let join = |a: &[Str], b: &[Str]| a.iter().chain(b).cloned().collect::<Vec<_>>();
        Self {
            trusted_ca: secret
                .trusted_ca
                .clone()
                .or_else(|| self.trusted_ca.clone()),
            crl: secret.crl.clone().or_else(|| self.crl.clone()),
            only_leaf_revocation: self.only_leaf_revocation || secret.only_leaf_revocation,
            sans: self.sans.iter().chain(&secret.sans).cloned().collect(),
            certificate_hashes: join(&self.certificate_hashes, &secret.certificate_hashes),
            spki_hashes: join(&self.spki_hashes, &secret.spki_hashes),
            allow_expired: self.allow_expired || secret.allow_expired,
            accept_untrusted: self.accept_untrusted || secret.accept_untrusted,
        }
    }

    /// Whether the peer's SANs satisfy the matchers.
    #[must_use]
    pub fn san_accepted<'a>(&self, sans: impl Iterator<Item = (SanKind, &'a str)> + Clone) -> bool {
        self.sans.is_empty()
            || self.sans.iter().any(|matcher| {
                sans.clone().any(|(kind, value)| {
                    matcher.kind.is_none_or(|wanted| wanted == kind) && matcher.accepts(kind, value)
                })
            })
    }
}

/// A SAN matcher; without a kind it is tried on URI, DNS, email and IP names.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Kind of name.
    pub kind: Option<SanKind>,
    /// The test.
    pub value: StringMatcher,
}

impl SanMatcher {
    /// A wildcard of the certificate covers a DNS name that is asked for exactly.
    fn accepts(&self, kind: SanKind, value: &str) -> bool {
        if self.value.matches(value.as_bytes()) {
            return true;
        }
        let Some(suffix) = value.strip_prefix("*.") else {
            return false;
        };
        self.kind == Some(SanKind::Dns)
            && kind == SanKind::Dns
            && matches!(&self.value, StringMatcher::Exact(wanted) if wanted
                .text
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix)))
    }
}

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// URI.
    Uri,
    /// DNS.
    Dns,
    /// Email.
    Email,
    /// IP address.
    Ip,
}

/// A server side context.
#[derive(Debug, Clone, Default)]
pub struct DownstreamTls {
    /// Common settings.
    pub common: TlsCommon,
    /// A client without certificate fails the handshake.
    pub require_client_certificate: bool,
    /// A client without SNI fails the handshake.
    pub require_sni: bool,
    /// No tickets are issued.
    pub disable_tickets: bool,
}

/// A client side context.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// Common settings.
    pub common: TlsCommon,
    /// Server name sent; empty sends none.
    pub sni: Str,
    /// SNI becomes the request's (or endpoint's) host.
    pub auto_host_sni: bool,
    /// The peer's SAN must contain the SNI sent.
    pub auto_sni_san_validation: bool,
    /// Sessions kept for resumption; 0 is off.
    pub max_session_keys: u32,
}

/// A named secret.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name.
    pub name: Str,
    /// Its content.
    pub kind: SecretKind,
}

/// What a secret holds.
#[derive(Debug, Clone)]
pub enum SecretKind {
    /// A certificate and its key.
    Certificate(CertificatePair),
    /// Trust anchors and checks.
    Validation(Box<Validation>),
    /// Ticket keys, newest first.
    TicketKeys(Vec<DataSource>),
    /// Any bytes.
    Generic(DataSource),
}

/// What is known about a verified peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// URI SANs in order.
    pub uri_sans: Vec<Str>,
    /// DNS SANs in order.
    pub dns_sans: Vec<Str>,
    /// Subject in RFC 2253 form.
    pub subject: Str,
    /// Issuer in RFC 2253 form.
    pub issuer: Str,
    /// Serial number, hex.
    pub serial: Str,
    /// IP SANs in order.
    pub ip_sans: Vec<Str>,
    /// Email SANs in order.
    pub email_sans: Vec<Str>,
    /// SHA-256 of the certificate's DER, hex.
    pub fingerprint_256: Str,
    /// SHA-1 of the certificate's DER, hex.
    pub fingerprint_1: Str,
    /// Start of the validity, seconds since the epoch.
    pub not_before: u64,
    /// End of the validity, seconds since the epoch.
    pub not_after: u64,
    /// The certificate's DER.
    pub der: Bytes,
    /// DER of the further certificates that the peer sent.
    pub chain: Vec<Bytes>,
    /// Verified against trust anchors.
    pub validated: bool,
}

impl PeerIdentity {
    /// The certificate as PEM, percent-encoded as Envoy does; empty when it was not kept.
    #[must_use]
    pub fn url_encoded_pem(&self) -> String {
        Self::url_encoded(&self.der)
    }

    /// All certificates that the peer sent, its own first, in the same form.
    #[must_use]
    pub fn url_encoded_chain(&self) -> String {
        let further = self.chain.iter().map(|der| Self::url_encoded(der));
        std::iter::once(self.url_encoded_pem())
            .chain(further)
            .collect()
    }

    fn url_encoded(der: &[u8]) -> String {
        const LINE: usize = 64;
        if der.is_empty() {
            return String::new();
        }
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let mut out = String::with_capacity(body.len() + body.len() / 8 + 80);
        out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        for (position, c) in body.chars().enumerate() {
            if position > 0 && position % LINE == 0 {
                out.push_str("%0A");
            }
            match c {
                '+' => out.push_str("%2B"),
                '/' => out.push_str("%2F"),
                '=' => out.push_str("%3D"),
                c => out.push(c),
            }
        }
        out.push_str("%0A-----END%20CERTIFICATE-----%0A");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_prints_as_encoded_pem() {
        let peer = PeerIdentity {
            der: Bytes::from(vec![0xfb; 49]),
            ..PeerIdentity::default()
        };
        let text = peer.url_encoded_pem();
        assert!(
            text.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B%2Fv7"),
            "{text}"
        );
        assert!(
            text.ends_with("%2Bw%3D%3D%0A-----END%20CERTIFICATE-----%0A"),
            "{text}"
        );
        assert_eq!(text.matches("%0A").count(), 4);
        assert_eq!(PeerIdentity::default().url_encoded_pem(), "");
    }

    #[test]
    fn any_san_that_any_matcher_accepts_passes() {
        let validation = Validation {
            sans: vec![SanMatcher {
                kind: Some(SanKind::Uri),
                value: StringMatcher::exact("spiffe://a"),
            }],
            ..Validation::default()
        };
        assert!(
            validation
                .san_accepted([(SanKind::Dns, "x"), (SanKind::Uri, "spiffe://a")].into_iter())
        );
        assert!(!validation.san_accepted([(SanKind::Dns, "spiffe://a")].into_iter()));
        assert!(Validation::default().san_accepted(std::iter::empty()));
    }

    #[test]
    fn a_combined_context_takes_anchors_from_the_secret_and_adds_matchers() {
        let given = Validation {
            sans: vec![SanMatcher {
                kind: None,
                value: StringMatcher::exact("a"),
            }],
            ..Validation::default()
        };
        let secret = Validation {
            trusted_ca: Some(DataSource::File("ca.pem".into())),
            sans: vec![SanMatcher {
                kind: None,
                value: StringMatcher::exact("b"),
            }],
            ..Validation::default()
        };
        let merged = given.merged(&secret);
        assert_eq!(merged.sans.len(), 2);
        assert!(merged.trusted_ca.is_some());
    }
}
