//! The certificate authority: self-signed or plugged in, and Istio's signing rules.
//!
//! Time is an argument everywhere, so that expiry is testable. Rules: `NotBefore` is two minutes back for clock
//! skew, the subject alternative name comes from the authenticated caller only and is critical, a lifetime above
//! the maximum is refused, and no certificate outlives its signer.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::{IdentityError, WorkloadCertificate, certificate_facts, certificates};

/// Lifetime of a workload certificate when the request names none (`DEFAULT_WORKLOAD_CERT_TTL`).
pub const DEFAULT_WORKLOAD_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Longest lifetime that a workload may ask for (`MAX_WORKLOAD_CERT_TTL`).
pub const MAX_WORKLOAD_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Lifetime of a self-signed root (`CITADEL_SELF_SIGNED_CA_CERT_TTL`).
pub const SELF_SIGNED_ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How far `NotBefore` lies back (Istio: ClockSkewGracePeriod).
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// The PEM files of a CA, as they stand in Istio's secrets.
#[derive(Clone)]
pub struct CaFiles {
    /// Signing certificate (`ca-cert.pem`).
    pub certificate: String,
    /// Its key, PKCS#8 (`ca-key.pem`).
    pub key: String,
    /// Intermediates between signer and root, empty for a self-signed CA (`cert-chain.pem`).
    pub chain: String,
    /// Trust bundle; for a self-signed CA its own certificate (`root-cert.pem`).
    pub root: String,
}

impl std::fmt::Debug for CaFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaFiles")
            .field("key", &"<redacted>")
            .finish_non_exhaustive()
    }
}

/// A ready CA: signs requests for callers whose identity somebody else has checked.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    files: CaFiles,
    not_after: SystemTime,
    root_not_after: i64,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Makes a new self-signed root for a trust domain.
///
/// # Errors
/// [`IdentityError::Generate`] when the key or certificate cannot be made.
pub fn self_signed_files(
    trust_domain: &str,
    lifetime: Duration,
    now: SystemTime,
) -> Result<CaFiles, IdentityError> {
    let key = KeyPair::generate().map_err(|source| IdentityError::Generate {
        what: "CA key",
        source,
    })?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(random_serial());
    let certificate = params
        .self_signed(&key)
        .map_err(|source| IdentityError::Generate {
            what: "CA certificate",
            source,
        })?
        .pem();
    Ok(CaFiles {
        root: certificate.clone(),
        certificate,
        key: key.serialize_pem(),
        chain: String::new(),
    })
}

impl CertificateAuthority {
    /// Loads a CA from its files and checks that they belong together.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] naming the file that is wrong.
    pub fn from_files(mut files: CaFiles) -> Result<Self, IdentityError> {
        if files.root.trim().is_empty() {
            files.root = files.certificate.clone();
        }
        let key = KeyPair::from_pem(&files.key).map_err(|error| IdentityError::Parse {
            what: "ca-key.pem",
            reason: error.to_string(),
        })?;
        let signer = certificates("ca-cert.pem", &files.certificate)?;
        let facts = certificate_facts(&signer[0])?;
        let mut root_not_after = i64::MAX;
        for root in certificates("root-cert.pem", &files.root)? {
            root_not_after = root_not_after.min(certificate_facts(&root)?.not_after);
        }
        check_key_matches(&signer[0], &key)?;
        let issuer =
            Issuer::from_ca_cert_der(&signer[0], key).map_err(|error| IdentityError::Parse {
                what: "ca-cert.pem",
                reason: error.to_string(),
            })?;
        let not_after =
            SystemTime::UNIX_EPOCH + Duration::from_secs(facts.not_after.max(0).unsigned_abs());
        Ok(Self {
            issuer,
            files,
            not_after,
            root_not_after,
        })
    }

    /// Unix times at which the first root and the signing certificate expire.
    #[must_use]
    pub fn expiry(&self) -> (i64, i64) {
        let signer = self.not_after.duration_since(SystemTime::UNIX_EPOCH);
        let signer = signer.map_or(0, |time| time.as_secs().cast_signed());
        (self.root_not_after, signer)
    }

    /// The trust bundle that peers need, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.files.root
    }

    /// The files, for storing them in a secret.
    #[must_use]
    pub fn files(&self) -> &CaFiles {
        &self.files
    }

    /// Signs a CSR for an authenticated identity (a SPIFFE URI). Answers the chain as Istio's API does: leaf,
    /// intermediates, and the whole root bundle last. The names inside the CSR are ignored.
    ///
    /// # Errors
    /// [`IdentityError::Parse`] for a bad CSR or identity, [`IdentityError::LifetimeTooLong`], or
    /// [`IdentityError::Generate`] when signing fails.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            IdentityError::Parse {
                what: "certificate signing request",
                reason: error.to_string(),
            }
        })?;
        let lifetime = if lifetime.is_zero() {
            DEFAULT_WORKLOAD_LIFETIME
        } else {
            lifetime
        };
        if lifetime > MAX_WORKLOAD_LIFETIME {
            return Err(IdentityError::LifetimeTooLong {
                requested_s: lifetime.as_secs(),
                maximum_s: MAX_WORKLOAD_LIFETIME.as_secs(),
            });
        }
        let mut params = self.leaf_params(lifetime, now);
        params.custom_extensions.push(critical_uri_san(identity)?);
        let leaf = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|source| IdentityError::Generate {
                what: "workload certificate",
                source,
            })?
            .pem();
        let mut answer = vec![leaf];
        if !self.files.chain.trim().is_empty() {
            answer.push(with_newline(&self.files.chain));
        }
        answer.push(with_newline(&self.files.root));
        Ok(answer)
    }

    /// Issues a serving certificate for DNS names (the control plane's own).
    ///
    /// # Errors
    /// [`IdentityError::Generate`] when the key or certificate cannot be made.
    pub fn issue_server(
        &self,
        dns_names: &[String],
        now: SystemTime,
    ) -> Result<WorkloadCertificate, IdentityError> {
        let fail = |source| IdentityError::Generate {
            what: "serving certificate",
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = self.leaf_params(MAX_WORKLOAD_LIFETIME, now);
        for name in dns_names {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into().map_err(fail)?));
        }
        let leaf = params.signed_by(&key, &self.issuer).map_err(fail)?.pem();
        Ok(WorkloadCertificate {
            chain_pem: format!("{leaf}{}", self.files.chain),
            key_pem: key.serialize_pem(),
            roots_pem: self.files.root.clone(),
        })
    }

    fn leaf_params(&self, lifetime: Duration, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        params.serial_number = Some(random_serial());
        params
    }
}

fn check_key_matches(
    signer: &rustls::pki_types::CertificateDer<'_>,
    key: &KeyPair,
) -> Result<(), IdentityError> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(signer).map_err(|error| IdentityError::Parse {
        what: "ca-cert.pem",
        reason: error.to_string(),
    })?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(IdentityError::Parse {
            what: "ca-key.pem",
            reason: "the key does not belong to ca-cert.pem".into(),
        });
    }
    Ok(())
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

/// 128 random bits, positive (RFC 5280 §4.1.2.2).
fn random_serial() -> SerialNumber {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

/// subjectAltName (2.5.29.17) with one URI, marked critical because the subject is empty (RFC 5280 §4.2.1.6).
fn critical_uri_san(uri: &str) -> Result<CustomExtension, IdentityError> {
    let bad = |reason: &str| IdentityError::Parse {
        what: "identity",
        reason: reason.to_owned(),
    };
    if !uri.is_ascii() || !uri.starts_with("spiffe://") {
        return Err(bad("not an ASCII spiffe:// URI"));
    }
    // GeneralNames ::= SEQUENCE OF [6] IA5String; the limit keeps every length in the two-byte DER form.
    if uri.len() > 2048 {
        return Err(bad("longer than the 2,048 bytes that SPIFFE allows"));
    }
    let name = der_field(0x86, uri.as_bytes());
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der_field(0x30, &name));
    extension.set_criticality(true);
    Ok(extension)
}

fn der_field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = u16::try_from(content.len())
        .expect("callers stay below 64 KiB")
        .to_be_bytes();
    match content.len() {
        0..=0x7f => out.push(length[1]),
        0x80..=0xff => out.extend([0x81, length[1]]),
        _ => out.extend([0x82, length[0], length[1]]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";

    fn ca() -> CertificateAuthority {
        let files = self_signed_files(
            "cluster.local",
            SELF_SIGNED_ROOT_LIFETIME,
            SystemTime::now(),
        )
        .expect("root");
        CertificateAuthority::from_files(files).expect("own files load")
    }

    fn csr(names: &[&str]) -> String {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        for name in names {
            params
                .subject_alt_names
                .push(SanType::URI((*name).try_into().expect("ascii")));
        }
        params
            .serialize_request(&key)
            .expect("csr")
            .pem()
            .expect("pem")
    }

    fn facts(pem: &str) -> CertificateFacts {
        certificate_facts(&certificates("test", pem).expect("pem")[0]).expect("facts")
    }
    use crate::CertificateFacts;

    #[test]
    fn the_identity_comes_from_the_caller_and_never_from_the_request() {
        let chain = ca().sign(
            &csr(&["spiffe://cluster.local/ns/kube-system/sa/admin"]),
            ID,
            Duration::ZERO,
            SystemTime::now(),
        );
        assert_eq!(facts(&chain.expect("signed")[0]).uris, [ID]);
    }

    #[test]
    fn a_lifetime_above_the_maximum_is_refused_not_clamped() {
        let asked = MAX_WORKLOAD_LIFETIME + Duration::from_secs(1);
        let refused = ca().sign(&csr(&[]), ID, asked, SystemTime::now());
        assert!(matches!(
            refused,
            Err(IdentityError::LifetimeTooLong { .. })
        ));
    }

    #[test]
    fn a_leaf_never_outlives_its_signer() {
        let now = SystemTime::now();
        let files =
            self_signed_files("cluster.local", Duration::from_secs(3600), now).expect("root");
        let ca = CertificateAuthority::from_files(files).expect("load");
        let chain = ca
            .sign(&csr(&[]), ID, DEFAULT_WORKLOAD_LIFETIME, now)
            .expect("signed");
        assert_eq!(facts(&chain[0]).not_after, facts(ca.root_pem()).not_after);
    }

    #[test]
    fn the_answer_ends_with_the_root_bundle() {
        let ca = ca();
        let chain = ca
            .sign(&csr(&[]), ID, Duration::ZERO, SystemTime::now())
            .expect("signed");
        assert_eq!(chain.len(), 2);
        assert_eq!(chain[1].trim(), ca.root_pem().trim());
    }

    #[test]
    fn a_damaged_request_and_a_foreign_key_are_refused_by_name() {
        let refused = ca().sign(
            "-----BEGIN GARBAGE-----",
            ID,
            Duration::ZERO,
            SystemTime::now(),
        );
        assert!(matches!(
            refused,
            Err(IdentityError::Parse {
                what: "certificate signing request",
                ..
            })
        ));
        let mut files = ca().files().clone();
        files.key = KeyPair::generate().expect("key").serialize_pem();
        let refused = CertificateAuthority::from_files(files);
        assert!(matches!(
            refused,
            Err(IdentityError::Parse {
                what: "ca-key.pem",
                ..
            })
        ));
    }

    #[test]
    fn a_long_identity_is_encoded_and_an_endless_one_refused() {
        let long = format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            "n".repeat(63),
            "s".repeat(253)
        );
        let chain = ca()
            .sign(&csr(&[]), &long, Duration::ZERO, SystemTime::now())
            .expect("signed");
        assert_eq!(facts(&chain[0]).uris, [long]);
        let endless = format!("spiffe://{}", "x".repeat(3000));
        assert!(
            ca().sign(&csr(&[]), &endless, Duration::ZERO, SystemTime::now())
                .is_err()
        );
    }
}
