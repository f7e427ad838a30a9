//! The cluster's certificates and kubeconfigs: made on first start, read afterwards.
//!
//! Private keys and kubeconfigs are readable by their owner only. Nothing here is ever sent to a
//! client except the CA certificate.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

/// Years until the local certificates end; a local cluster is thrown away long before.
const VALID_YEARS: i32 = 10;

/// Names under which pods reach the API server.
const SERVER_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
/// Loopback, the `kubernetes` Service and the node's gateway.
const SERVER_ADDRESSES: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1)),
];

/// Why the certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// File trouble.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted: `write`, `read`, `create`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificate trouble.
    #[error("certificate {name}: {source}")]
    Certificate {
        /// Which.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Certificate chain.
    pub certificate: String,
    /// PKCS#8 key.
    pub key: String,
}

/// Everything the server needs of the cluster's PKI.
#[derive(Debug)]
pub struct Pki {
    /// CA certificate, PEM.
    pub ca: String,
    /// Serving certificate.
    pub server: Pair,
    /// Client certificate towards the kubelet.
    pub kubelet_client: Pair,
    /// Signs service-account tokens: PKCS#8 PEM, P-256.
    pub service_account_key: String,
    admin: Pair,
    node: Pair,
}

impl Pki {
    /// Reads `directory`, creating what is missing.
    ///
    /// # Errors
    /// When the directory cannot be written, or holds files that are not certificates.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| PkiError::File {
                action: "create",
                path: directory.to_owned(),
                source,
            })?;
        let ca = load_or(directory, "ca", certificate_authority)?;
        let signed = |name: &str, params: CertificateParams| {
            load_or(directory, name, || sign(name, &ca, params))
        };
        let server = signed("apiserver", server_params("kube-apiserver", SERVER_NAMES))?;
        let kubelet_client = signed(
            "apiserver-kubelet-client",
            client_params("kube-apiserver-kubelet-client", Some("system:masters")),
        )?;
        signed(
            "kubelet",
            server_params("system:node:meltemi", &["localhost"]),
        )?;
        let admin = signed(
            "admin",
            client_params("kubernetes-admin", Some("system:masters")),
        )?;
        let node = signed(
            "node",
            client_params("system:node:meltemi", Some("system:nodes")),
        )?;
        let service_account_key = load_or(directory, "sa", service_account_pair)?.key;
        Ok(Self {
            ca: ca.certificate,
            server,
            kubelet_client,
            service_account_key,
            admin,
            node,
        })
    }

    /// Writes `kubeconfig` and `node.kubeconfig` for a server on this address.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write_kubeconfigs(&self, state: &Path, server: &str) -> Result<(), PkiError> {
        let admin = self.kubeconfig(server, "kubernetes-admin", &self.admin);
        write_private(&state.join("kubeconfig"), &admin)?;
        let node = self.kubeconfig(server, "system:node:meltemi", &self.node);
        write_private(&state.join("node.kubeconfig"), &node)
    }

    fn kubeconfig(&self, server: &str, user: &str, pair: &Pair) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: meltemi\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
             client-key-data: {key}\ncontexts:\n- name: meltemi\n  context:\n    cluster: meltemi\n    user: {user}\n\
             current-context: meltemi\npreferences: {{}}\n",
            ca = STANDARD.encode(&self.ca),
            certificate = STANDARD.encode(&pair.certificate),
            key = STANDARD.encode(&pair.key),
        )
    }
}

/// Reads `name.crt` and `name.key`, or makes and writes them. The key is written first: a
/// certificate on disk means that its key is there too.
fn load_or(
    directory: &Path,
    name: &str,
    make: impl FnOnce() -> Result<Pair, PkiError>,
) -> Result<Pair, PkiError> {
    let (certificate, key) = (
        directory.join(format!("{name}.crt")),
        directory.join(format!("{name}.key")),
    );
    if certificate.exists() && key.exists() {
        return Ok(Pair {
            certificate: read(&certificate)?,
            key: read(&key)?,
        });
    }
    let pair = make()?;
    write_private(&key, &pair.key)?;
    write_private(&certificate, &pair.certificate)?;
    Ok(pair)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Replaces a file as a whole, readable by its owner only.
fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| PkiError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn failed(name: &str) -> impl Fn(rcgen::Error) -> PkiError + '_ {
    move |source| PkiError::Certificate {
        name: name.to_owned(),
        source,
    }
}

fn certificate_authority() -> Result<Pair, PkiError> {
    let key = KeyPair::generate().map_err(failed("ca"))?;
    let mut params = base_params("kubernetes", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params.self_signed(&key).map_err(failed("ca"))?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// The key signs tokens; the "certificate" beside it is its public key for whoever verifies offline.
fn service_account_pair() -> Result<Pair, PkiError> {
    let key = KeyPair::generate().map_err(failed("sa"))?;
    Ok(Pair {
        certificate: key.public_key_pem(),
        key: key.serialize_pem(),
    })
}

fn sign(name: &str, ca: &Pair, params: CertificateParams) -> Result<Pair, PkiError> {
    let ca_key = KeyPair::from_pem(&ca.key).map_err(failed("ca"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(failed("ca"))?;
    let key = KeyPair::generate().map_err(failed(name))?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed(name))?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn base_params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let year = i32::from(
        jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .year(),
    );
    // A year of slack at the start tolerates a clock that is behind.
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + VALID_YEARS, 1, 1);
    params.serial_number = Some(SerialNumber::from(uuid::Uuid::new_v4().as_bytes().to_vec()));
    params
}

fn server_params(common_name: &str, names: &[&str]) -> CertificateParams {
    let mut params = base_params(common_name, None);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let names = names
        .iter()
        .filter_map(|name| Some(SanType::DnsName((*name).try_into().ok()?)));
    let addresses = SERVER_ADDRESSES.iter().map(|a| SanType::IpAddress(*a));
    params.subject_alt_names = names.chain(addresses).collect();
    params
}

fn client_params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = base_params(common_name, organization);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_second_start_reads_what_the_first_made() {
        let state = tempfile::tempdir().expect("tempdir");
        let directory = state.path().join("pki");
        let first = Pki::load_or_create(&directory).expect("create");
        first
            .write_kubeconfigs(state.path(), "https://127.0.0.1:6443")
            .expect("kubeconfigs");
        let second = Pki::load_or_create(&directory).expect("read");
        assert_eq!(first.ca, second.ca);
        assert_eq!(first.service_account_key, second.service_account_key);
        let mode = fs::metadata(state.path().join("kubeconfig"))
            .expect("written")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_unwritable_directory_is_named() {
        let error = Pki::load_or_create(Path::new("/proc/nowhere")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot create /proc/nowhere: ")
        );
    }
}
