//! The CA of the mesh, its secret, and the control plane's own serving certificate.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use meltemi_identity::{
    ca::{CaFiles, CertificateAuthority, SELF_SIGNED_ROOT_LIFETIME, self_signed_files},
    tls::{ClientAuthentication, PeerNames, server_config},
};
use meltemi_kube::{Api, Client, Task, write};
use rustls::ServerConfig;

use crate::{Config, Error, objects};

/// Secret of the self-signed CA.
const CA_SECRET: &str = "istio-ca-secret";
/// Secret of a plugged-in CA; wins when it exists.
const PLUGGED_IN_SECRET: &str = "cacerts";
/// How often the serving certificate is made anew; it lives 90 days.
const SERVING_RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// The CA and what is served with it.
pub(crate) struct Authority {
    /// The CA, for the CSR service.
    pub(crate) ca: Arc<ArcSwap<CertificateAuthority>>,
    /// TLS of xDS and CSR: h2, client certificates optional.
    pub(crate) grpc_tls: ArcSwap<ServerConfig>,
    /// TLS of webhooks: HTTP/1.1 and h2, no client certificates.
    pub(crate) webhook_tls: ArcSwap<ServerConfig>,
    names: Vec<String>,
}

impl Authority {
    /// Reads the CA from its secret, or makes one. When replicas race, all use the secret of the first.
    pub(crate) async fn load_or_create(
        client: &Client,
        config: &Config,
    ) -> Result<Arc<Self>, Error> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
        let files = match read(&api, PLUGGED_IN_SECRET).await? {
            Some(files) => files,
            None => match read(&api, CA_SECRET).await? {
                Some(files) => files,
                None => create(&api, config).await?,
            },
        };
        let ca = CertificateAuthority::from_files(files)
            .map_err(Error::identity("load the CA of the mesh"))?;
        let names = serving_names(&config.namespace, &config.revision);
        let (grpc, webhook) = serving(&ca, &names)?;
        Ok(Arc::new(Self {
            ca: Arc::new(ArcSwap::from_pointee(ca)),
            grpc_tls: ArcSwap::from_pointee(grpc),
            webhook_tls: ArcSwap::from_pointee(webhook),
            names,
        }))
    }

    /// The trust bundle, PEM.
    pub(crate) fn root_pem(&self) -> String {
        self.ca.load().root_pem().to_owned()
    }
}

/// Names under which proxies and the API server call the control plane.
fn serving_names(namespace: &str, revision: &str) -> Vec<String> {
    let mut names = vec![
        format!("istiod.{namespace}.svc"),
        format!("istiod.{namespace}"),
        format!("istio-pilot.{namespace}.svc"),
        format!("istiod-remote.{namespace}.svc"),
    ];
    if revision != "default" {
        names.push(format!("istiod-{revision}.{namespace}.svc"));
    }
    names
}

fn serving(
    ca: &CertificateAuthority,
    names: &[String],
) -> Result<(ServerConfig, ServerConfig), Error> {
    let fail = || Error::identity("make the control plane's serving certificate");
    let certificate = ca.issue_server(names, SystemTime::now()).map_err(fail())?;
    let optional = ClientAuthentication::Optional(PeerNames::any());
    let grpc = server_config(&certificate, &optional, &["h2"]).map_err(fail())?;
    let webhook = server_config(
        &certificate,
        &ClientAuthentication::None,
        &["h2", "http/1.1"],
    )
    .map_err(fail())?;
    Ok((grpc, webhook))
}

/// Makes the serving certificate anew each day.
pub(crate) fn renew_serving(authority: Arc<Authority>) -> Task {
    Task::spawn(async move {
        loop {
            tokio::time::sleep(SERVING_RENEWAL).await;
            match serving(&authority.ca.load(), &authority.names) {
                Ok((grpc, webhook)) => {
                    authority.grpc_tls.store(Arc::new(grpc));
                    authority.webhook_tls.store(Arc::new(webhook));
                }
                Err(error) => {
                    tracing::error!(%error, "serving certificate not renewed; the old one stays")
                }
            }
        }
    })
}

async fn read(api: &Api<Secret>, name: &str) -> Result<Option<CaFiles>, Error> {
    let secret = api
        .get_opt(name)
        .await
        .map_err(Error::kubernetes(format!("read Secret {name}")))?;
    let Some(data) = secret.and_then(|secret| secret.data) else {
        return Ok(None);
    };
    let text = |key: &str| {
        let bytes = data
            .get(key)
            .map(|value| value.0.as_slice())
            .unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    if text("ca-cert.pem").is_empty() {
        return Ok(None);
    }
    Ok(Some(CaFiles {
        certificate: text("ca-cert.pem"),
        key: text("ca-key.pem"),
        chain: text("cert-chain.pem"),
        root: text("root-cert.pem"),
    }))
}

async fn create(api: &Api<Secret>, config: &Config) -> Result<CaFiles, Error> {
    let files = self_signed_files(
        &config.trust_domain,
        SELF_SIGNED_ROOT_LIFETIME,
        SystemTime::now(),
    )
    .map_err(Error::identity("make a self-signed CA"))?;
    let mut secret: Secret = objects::named(&config.namespace, CA_SECRET);
    secret.type_ = Some("istio.io/ca-root".to_owned());
    let entry = |key: &str, value: &str| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
    // Istio leaves the last three empty for a self-signed CA, and so do we: its tools read them so.
    let entries = [
        entry("ca-cert.pem", &files.certificate),
        entry("ca-key.pem", &files.key),
        entry("cert-chain.pem", ""),
        entry("key.pem", ""),
        entry("root-cert.pem", ""),
    ];
    secret.data = Some(entries.into());
    let action = || Error::kubernetes(format!("create Secret {CA_SECRET}"));
    if write::create_if_absent(api, &secret)
        .await
        .map_err(action())?
    {
        tracing::info!("self-signed CA created");
        return Ok(files);
    }
    read(api, CA_SECRET).await?.ok_or_else(|| Error::Identity {
        action: format!("read Secret {CA_SECRET}"),
        source: meltemi_identity::IdentityError::Parse {
            what: "istio-ca-secret",
            reason: "it has no ca-cert.pem".into(),
        },
    })
}
