//! TLS contexts made from configuration and secrets, for both sides of the proxy.
//!
//! A context builds its rustls configuration at the first handshake and again after a secret it uses has changed
//! ([`SecretStore::version`]); running connections keep what they have. Nothing here decides who may do what: it
//! verifies chains and names and reports the peer's identity.

mod identity;
mod session;
mod verify;

pub use identity::peer_identity;
pub use session::{TlsSession, openssl_cipher, version_name};

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meltemi_traffic::Str;
use meltemi_traffic::discovery::Reference;
use meltemi_traffic::tls::{
    CertificatePair, CertificateSource, DataSource, DownstreamTls, PeerIdentity, Secret,
    SecretKind, TlsCommon, TlsVersion, UpstreamTls, Validation, ValidationSource,
};
use parking_lot::{Mutex, RwLock};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use verify::PeerVerifier;

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A secret that the context names has not arrived.
    #[error("secret {name} is not supplied by SDS")]
    SecretMissing {
        /// Its name.
        name: Str,
    },
    /// A secret holds something else than the context needs.
    #[error("secret {name} has the wrong kind")]
    SecretKind {
        /// Its name.
        name: Str,
    },
    /// A file cannot be read.
    #[error("read {path}")]
    File {
        /// Which file.
        path: Str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// PEM that is damaged or holds nothing usable.
    #[error("parse {what}")]
    Pem {
        /// What was expected there.
        what: &'static str,
    },
    /// rustls refused the parts.
    #[error("tls configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// The configuration asks for something that is not supported.
    #[error("{what} is not supported")]
    Unsupported {
        /// What it is.
        what: &'static str,
    },
}

/// The secrets that SDS delivered, shared by the whole process.
#[derive(Debug, Default)]
pub struct SecretStore {
    secrets: RwLock<HashMap<Str, Arc<Secret>>>,
    version: AtomicU64,
}

impl SecretStore {
    /// Stores a secret under the key of its references; contexts notice at their next handshake.
    pub fn set(&self, key: Str, secret: Arc<Secret>) {
        self.secrets.write().insert(key, secret);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Forgets a secret.
    pub fn remove(&self, name: &str) {
        self.secrets.write().remove(name);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A secret, once it has arrived.
    pub fn get(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.read().get(name).cloned()
    }

    /// All secrets, for the admin port.
    pub fn all(&self) -> Vec<Arc<Secret>> {
        self.secrets.read().values().cloned().collect()
    }

    /// Changes with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// The secrets that a context needs.
pub fn secret_references(common: &TlsCommon) -> Vec<Reference> {
    let certificates = common
        .certificates
        .iter()
        .filter_map(|source| match source {
            CertificateSource::Sds(reference) => Some(reference.clone()),
            CertificateSource::Given(_) => None,
        });
    let validation = common
        .validation
        .iter()
        .filter_map(|validation| validation.sds.clone());
    certificates.chain(validation).collect()
}

/// A server-side context.
#[derive(Debug)]
pub struct ServerContext {
    settings: Arc<DownstreamTls>,
    secrets: Arc<SecretStore>,
    built: Mutex<Option<(u64, Arc<ServerConfig>)>>,
    local: OwnIdentity,
}

impl ServerContext {
    /// A context over these settings.
    pub fn new(settings: Arc<DownstreamTls>, secrets: Arc<SecretStore>) -> Self {
        Self {
            settings,
            secrets,
            built: Mutex::new(None),
            local: OwnIdentity::default(),
        }
    }

    /// What it was made from.
    pub fn settings(&self) -> &DownstreamTls {
        &self.settings
    }

    /// The configuration for the next handshake.
    ///
    /// # Errors
    /// When a secret is missing or its content cannot be used.
    pub fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let version = self.secrets.version();
        let mut built = self.built.lock();
        if let Some((at, config)) = &*built
            && *at == version
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build()?);
        *built = Some((version, Arc::clone(&config)));
        Ok(config)
    }

    /// Who we say we are: the identity in the first certificate.
    pub fn local_identity(&self) -> Option<Arc<PeerIdentity>> {
        self.local.get(&self.settings.common, &self.secrets)
    }

    /// Client certificates are verified against trust anchors.
    pub fn verifies_peer(&self) -> bool {
        self.settings.common.validation.is_some()
    }

    fn build(&self) -> Result<ServerConfig, TlsError> {
        let common = &self.settings.common;
        let builder = ServerConfig::builder_with_provider(meltemi_identity::tls::provider())
            .with_protocol_versions(versions(common, TlsVersion::V13))?;
        let validation = validation(common.validation.as_ref(), &self.secrets)?;
        let wants_peer = self.settings.require_client_certificate || validation.is_some();
        let builder = if wants_peer {
            let verifier = PeerVerifier::new(
                validation.unwrap_or_default(),
                self.settings.require_client_certificate,
            )?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        } else {
            builder.with_no_client_auth()
        };
        let mut keys = Vec::new();
        for source in &common.certificates {
            keys.push(certified_key(source, &self.secrets)?);
        }
        if keys.is_empty() {
            return Err(TlsError::Pem {
                what: "a server certificate",
            });
        }
        let mut config = builder.with_cert_resolver(Arc::new(verify::CertificateChoice::new(keys)));
        config.alpn_protocols = common
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        // Resumption would skip the check of a certificate that was replaced since; the builder's own ticketer is
        // made anew with each configuration, so tickets end with any change of secrets.
        if !self.settings.disable_tickets {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        }
        config.send_tls13_tickets = 1;
        config.max_fragment_size = None;
        Ok(config)
    }
}

/// A client-side context.
#[derive(Debug)]
pub struct ClientContext {
    settings: Arc<UpstreamTls>,
    secrets: Arc<SecretStore>,
    built: Mutex<Option<(u64, Arc<ClientConfig>)>>,
    local: OwnIdentity,
}

impl ClientContext {
    /// A context over these settings.
    pub fn new(settings: Arc<UpstreamTls>, secrets: Arc<SecretStore>) -> Self {
        Self {
            settings,
            secrets,
            built: Mutex::new(None),
            local: OwnIdentity::default(),
        }
    }

    /// What it was made from.
    pub fn settings(&self) -> &UpstreamTls {
        &self.settings
    }

    /// Who we say we are: the identity in the first certificate.
    pub fn local_identity(&self) -> Option<Arc<PeerIdentity>> {
        self.local.get(&self.settings.common, &self.secrets)
    }

    /// The configuration for the next handshake.
    ///
    /// # Errors
    /// When a secret is missing or its content cannot be used.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let version = self.secrets.version();
        let mut built = self.built.lock();
        if let Some((at, config)) = &*built
            && *at == version
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build()?);
        *built = Some((version, Arc::clone(&config)));
        Ok(config)
    }

    fn build(&self) -> Result<ClientConfig, TlsError> {
        let common = &self.settings.common;
        let validation = validation(common.validation.as_ref(), &self.secrets)?.unwrap_or_default();
        let verifier = PeerVerifier::new(validation, true)?
            .asking_for_name(self.settings.auto_sni_san_validation);
        let builder = ClientConfig::builder_with_provider(meltemi_identity::tls::provider())
            .with_protocol_versions(versions(common, TlsVersion::V12))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match common.certificates.first() {
            Some(source) => {
                let key = certified_key(source, &self.secrets)?;
                builder.with_client_cert_resolver(Arc::new(verify::OneCertificate(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = common
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config.enable_sni = !self.settings.sni.is_empty();
        // Sessions belong to this configuration, which is made anew when any secret changes.
        config.resumption = match self.settings.max_session_keys {
            0 => Resumption::disabled(),
            keys => Resumption::in_memory_sessions(keys as usize),
        };
        Ok(config)
    }
}

/// Whether a secret's content can be used: PEM that parses, a key that belongs to its certificate.
///
/// # Errors
/// What is wrong with it.
pub fn check_secret(secret: &Secret) -> Result<(), TlsError> {
    match &secret.kind {
        SecretKind::Certificate(pair) => load_pair(pair).map(|_| ()),
        SecretKind::Validation(validation) => check_validation(validation),
        SecretKind::TicketKeys(_) | SecretKind::Generic(_) => Ok(()),
    }
}

/// The secret with the content of its files in their place.
///
/// # Errors
/// When a file cannot be read.
pub fn load_files(secret: &Secret) -> Result<Secret, TlsError> {
    let mut loaded = secret.clone();
    for source in sources(&mut loaded.kind) {
        if let DataSource::File(_) = source {
            *source = DataSource::Inline(read(source)?.into());
        }
    }
    Ok(loaded)
}

/// Paths of the files that a secret's content is in.
pub fn file_paths(secret: &Secret) -> Vec<Str> {
    let mut kind = secret.kind.clone();
    sources(&mut kind)
        .into_iter()
        .filter_map(|source| match source {
            DataSource::File(path) => Some(path.clone()),
            _ => None,
        })
        .collect()
}

fn sources(kind: &mut SecretKind) -> Vec<&mut DataSource> {
    match kind {
        SecretKind::Certificate(pair) => vec![&mut pair.chain, &mut pair.key],
        SecretKind::Validation(validation) => {
            let Validation {
                trusted_ca, crl, ..
            } = &mut **validation;
            trusted_ca.iter_mut().chain(crl).collect()
        }
        SecretKind::TicketKeys(keys) => keys.iter_mut().collect(),
        SecretKind::Generic(source) => vec![source],
    }
}

/// Whether the parts of a context that it does not get from secrets can be used.
///
/// # Errors
/// What is wrong with them.
pub fn check_given(common: &TlsCommon) -> Result<(), TlsError> {
    for source in &common.certificates {
        if let CertificateSource::Given(pair) = source {
            load_pair(pair)?;
        }
    }
    match &common.validation {
        Some(validation) => check_validation(&validation.given),
        None => Ok(()),
    }
}

fn check_validation(validation: &Validation) -> Result<(), TlsError> {
    match &validation.trusted_ca {
        Some(anchors) => load_roots(anchors).map(|_| ()),
        None => Ok(()),
    }
}

/// The identity in a context's own certificate, read once for each state of the secrets.
#[derive(Debug, Default)]
struct OwnIdentity(Mutex<Option<(u64, Option<Arc<PeerIdentity>>)>>);

impl OwnIdentity {
    fn get(&self, common: &TlsCommon, secrets: &SecretStore) -> Option<Arc<PeerIdentity>> {
        let version = secrets.version();
        let mut known = self.0.lock();
        if let Some((at, identity)) = &*known
            && *at == version
        {
            return identity.clone();
        }
        let source = common.certificates.first();
        let key = source.and_then(|source| certified_key(source, secrets).ok());
        let identity = key
            .and_then(|key| identity::read(key.cert.first()?))
            .map(Arc::new);
        *known = Some((version, identity.clone()));
        identity
    }
}

fn versions(
    common: &TlsCommon,
    default_max: TlsVersion,
) -> &'static [&'static rustls::SupportedProtocolVersion] {
    use rustls::version::{TLS12, TLS13};
    let min = common.min_version.unwrap_or(TlsVersion::V12);
    let max = common.max_version.unwrap_or(default_max);
    static NEW: [&rustls::SupportedProtocolVersion; 1] = [&TLS13];
    static OLD: [&rustls::SupportedProtocolVersion; 1] = [&TLS12];
    static BOTH: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match (min, max) {
        (TlsVersion::V13, _) => &NEW,
        (TlsVersion::V12, TlsVersion::V12) => &OLD,
        (TlsVersion::V12, TlsVersion::V13) => &BOTH,
    }
}

fn validation(
    source: Option<&ValidationSource>,
    secrets: &SecretStore,
) -> Result<Option<Validation>, TlsError> {
    let Some(source) = source else {
        return Ok(None);
    };
    let Some(reference) = &source.sds else {
        return Ok(Some(source.given.clone()));
    };
    let name = || reference.name.clone();
    let secret = secrets
        .get(&reference.key)
        .ok_or_else(|| TlsError::SecretMissing { name: name() })?;
    match &secret.kind {
        SecretKind::Validation(validation) => Ok(Some(source.given.merged(validation))),
        _ => Err(TlsError::SecretKind { name: name() }),
    }
}

fn certified_key(
    source: &CertificateSource,
    secrets: &SecretStore,
) -> Result<Arc<CertifiedKey>, TlsError> {
    match source {
        CertificateSource::Given(pair) => load_pair(pair),
        CertificateSource::Sds(reference) => {
            let name = || reference.name.clone();
            let secret = secrets
                .get(&reference.key)
                .ok_or_else(|| TlsError::SecretMissing { name: name() })?;
            match &secret.kind {
                SecretKind::Certificate(pair) => load_pair(pair),
                _ => Err(TlsError::SecretKind { name: name() }),
            }
        }
    }
}

fn load_pair(pair: &CertificatePair) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(&pair.chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Pem {
            what: "a certificate chain",
        })?;
    if chain.is_empty() {
        return Err(TlsError::Pem {
            what: "a certificate chain",
        });
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&pair.key)?).map_err(|_| TlsError::Pem {
        what: "a private key",
    })?;
    Ok(Arc::new(CertifiedKey::from_der(
        chain,
        key,
        &meltemi_identity::tls::provider(),
    )?))
}

fn load_roots(source: &DataSource) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(source)?) {
        let certificate = certificate.map_err(|_| TlsError::Pem {
            what: "trust anchors",
        })?;
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        Err(TlsError::Pem {
            what: "trust anchors",
        })
    } else {
        Ok(roots)
    }
}

fn read(source: &DataSource) -> Result<Vec<u8>, TlsError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File(path) => std::fs::read(path.as_str()).map_err(|source| TlsError::File {
            path: path.clone(),
            source,
        }),
        DataSource::Environment(_) => Err(TlsError::Unsupported {
            what: "a TLS data source in an environment variable",
        }),
    }
}
