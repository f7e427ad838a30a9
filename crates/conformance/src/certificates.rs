//! Certificates of a run, made once and shared by all cases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use crate::bytes_spec::sha256;

/// Name, issuer, common name, DNS names, URIs.
type Leaf = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// Leaf certificates.
const LEAVES: [Leaf; 6] = [
    (
        "server",
        "ca",
        "server",
        &["server.example.com", "*.example.com", "localhost"],
        &["spiffe://cluster.local/ns/default/sa/server"],
    ),
    (
        "second",
        "ca",
        "second",
        &["second.example.org", "*.example.org"],
        &["spiffe://cluster.local/ns/default/sa/second"],
    ),
    (
        "client",
        "ca",
        "client",
        &["client.example.com"],
        &["spiffe://cluster.local/ns/default/sa/client"],
    ),
    ("plain", "ca", "plain", &[], &[]),
    (
        "expired",
        "ca",
        "expired",
        &["server.example.com"],
        &["spiffe://cluster.local/ns/default/sa/expired"],
    ),
    (
        "other",
        "other-ca",
        "other",
        &["server.example.com"],
        &["spiffe://other.local/ns/default/sa/other"],
    ),
];

/// The directory of PEM files, and what was made.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// `NAME.pem`, `NAME.key`, `ca.pem`, `other-ca.pem`.
    pub(crate) directory: PathBuf,
    hashes: BTreeMap<String, String>,
}

impl Certificates {
    /// Makes them all.
    pub(crate) fn generate(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut made = Self {
            directory: directory.to_owned(),
            hashes: BTreeMap::new(),
        };
        let mut authorities = BTreeMap::new();
        for name in ["ca", "other-ca"] {
            let issuer = CertifiedIssuer::self_signed(authority(name), KeyPair::generate()?)?;
            made.write(
                name,
                issuer.der(),
                &issuer.pem(),
                &issuer.key().serialize_pem(),
            )?;
            authorities.insert(name, issuer);
        }
        for (number, (name, authority, common_name, dns, uris)) in LEAVES.into_iter().enumerate() {
            let issuer = authorities
                .get(authority)
                .context("an issuer of this table")?;
            let key = KeyPair::generate()?;
            let leaf = leaf(number, name, common_name, dns, uris)?.signed_by(&key, issuer)?;
            made.write(name, leaf.der(), &leaf.pem(), &key.serialize_pem())?;
        }
        Ok(made)
    }

    fn write(&mut self, name: &str, der: &[u8], pem: &str, key: &str) -> anyhow::Result<()> {
        std::fs::write(self.directory.join(format!("{name}.pem")), pem)?;
        std::fs::write(self.directory.join(format!("{name}.key")), key)?;
        self.hashes.insert(name.to_owned(), sha256(der));
        Ok(())
    }

    /// SHA-256 of a certificate's DER form.
    pub(crate) fn hash(&self, name: &str) -> anyhow::Result<String> {
        self.hashes
            .get(name)
            .cloned()
            .with_context(|| format!("no certificate {name:?}"))
    }

    /// A file of the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(
    number: usize,
    name: &str,
    common_name: &str,
    dns: &[&str],
    uris: &[&str],
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Conformance");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from(0x1000 + number as u64));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into()?));
    }
    for name in dns {
        params
            .subject_alt_names
            .push(SanType::DnsName((*name).try_into()?));
    }
    if dns.contains(&"localhost") {
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
    }
    if name == "expired" {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    Ok(params)
}
