//! Making a client: from a kubeconfig file, from a pod's service account, or from parts.
//!
//! Nothing here reads the environment; the binary passes paths and addresses.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig is missing, unreadable or incomplete.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// A mounted service-account file is missing or unreadable.
    #[error("service account file {path}: {source}")]
    ServiceAccount {
        /// The file that was read.
        path: PathBuf,
        /// Why it could not be read.
        source: std::io::Error,
    },
    /// The service-account CA file holds no certificate.
    #[error("{path} holds no PEM certificate")]
    NoCertificate {
        /// The CA file.
        path: PathBuf,
    },
    /// The API server's address is not a URL.
    #[error("API server address `{0}` is not a URL")]
    Address(String),
    /// TLS or HTTP set-up failed.
    #[error("cannot set up the Kubernetes client: {0}")]
    Client(#[source] Box<kube::Error>),
}

impl From<ConnectError> for kube::Error {
    fn from(error: ConnectError) -> Self {
        Self::Service(Box::new(error))
    }
}

/// A client for the current context of the kubeconfig file at `path`.
pub async fn from_kubeconfig(path: &Path, user_agent: &str) -> Result<Client, ConnectError> {
    let wrong = |source| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(wrong)?;
    from_config(config, user_agent)
}

/// The API server's URL in the current context of a kubeconfig, for those who relay to it.
pub fn server_url(path: &Path) -> Result<String, ConnectError> {
    let wrong = |source| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    let current = file.current_context.as_deref();
    let context = file
        .contexts
        .iter()
        .find(|context| Some(context.name.as_str()) == current);
    let cluster = context
        .and_then(|context| context.context.as_ref())
        .map(|context| context.cluster.as_str());
    let named = file
        .clusters
        .iter()
        .find(|candidate| Some(candidate.name.as_str()) == cluster);
    let server = named.and_then(|cluster| cluster.cluster.as_ref()?.server.clone());
    server.ok_or_else(|| wrong(kube::config::KubeconfigError::MissingClusterUrl))
}

/// Where a pod finds its API server: `KUBERNETES_SERVICE_HOST`/`_PORT` and the mounted account.
#[derive(Debug, Clone)]
pub struct InCluster {
    /// Host of the API server, usually the ClusterIP of `default/kubernetes`.
    pub host: String,
    /// Port of the API server.
    pub port: u16,
    /// Directory with `token`, `ca.crt` and `namespace`.
    pub account_dir: PathBuf,
}

impl InCluster {
    /// Directory where Kubernetes mounts a pod's service account.
    pub const ACCOUNT_DIR: &'static str = "/var/run/secrets/kubernetes.io/serviceaccount";
}

/// A client with the pod's own service account; the token file is read again as it rotates.
pub fn in_cluster(place: &InCluster, user_agent: &str) -> Result<Client, ConnectError> {
    let host = if place.host.contains(':') {
        format!("[{}]", place.host)
    } else {
        place.host.clone()
    };
    let address = format!("https://{host}:{}", place.port);
    let mut config = Config::new(
        address
            .parse()
            .map_err(|_| ConnectError::Address(address.clone()))?,
    );
    let ca = place.account_dir.join("ca.crt");
    let pem = read(&ca)?;
    config.root_cert = Some(certificates(&pem));
    if config.root_cert.as_ref().is_none_or(Vec::is_empty) {
        return Err(ConnectError::NoCertificate { path: ca });
    }
    config.default_namespace = read(&place.account_dir.join("namespace"))?
        .trim()
        .to_owned();
    let token = place.account_dir.join("token");
    read(&token)?;
    config.auth_info = AuthInfo {
        token_file: Some(token.to_string_lossy().into_owned()),
        ..AuthInfo::default()
    };
    from_config(config, user_agent)
}

/// A client for a configuration built by the caller.
pub fn from_config(mut config: Config, user_agent: &str) -> Result<Client, ConnectError> {
    if let Ok(value) = http::HeaderValue::from_str(user_agent) {
        config.headers.push((http::header::USER_AGENT, value));
    }
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

fn read(path: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|source| ConnectError::ServiceAccount {
        path: path.to_owned(),
        source,
    })
}

/// DER of every certificate in a PEM bundle; blocks that do not decode are left out.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(|der| der.ok().map(|der| der.as_ref().to_vec()))
        .collect()
}
