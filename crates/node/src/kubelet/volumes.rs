//! Volumes of a pod as host directories: made before the containers, kept up to date while they run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    Container, Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use k8s_openapi::jiff::Timestamp;
use meltemi_capture::spawn::Mount;
use meltemi_kube::{Api, Client, Error, ResourceExt as _};
use parking_lot::Mutex;
use tokio::time::Instant;

mod sources;

use sources::{config_map, downward_api, secret};

use super::atomic_dir::{self, Payload};
use super::env::{ConfigError, Environment, Sources, expand};

/// Why a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A ConfigMap, Secret or field that it names is missing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token could not be had.
    #[error("failed to fetch token: {0}")]
    Token(#[source] Box<Error>),
    /// The host file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kind of volume does not exist on the local platform.
    #[error(
        "volumes of this kind do not exist on the local platform; on Kubernetes a driver would provide it"
    )]
    Unsupported,
    /// A container mounts a volume that the pod does not have.
    #[error("the pod has no volume \"{0}\"")]
    Unknown(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { path, source }
}

/// The volumes of one pod.
pub(crate) struct Volumes {
    client: Client,
    /// `.../volumes` of the pod.
    root: PathBuf,
    tokens: Mutex<BTreeMap<(String, String), Token>>,
    written: Mutex<BTreeMap<String, Payload>>,
    group: Option<u32>,
}

#[derive(Clone)]
struct Token {
    text: String,
    renew: Instant,
}

impl Volumes {
    /// For the pod whose volumes live under `root`; `group` is its `fsGroup` where that can be set.
    pub(crate) fn new(client: Client, root: PathBuf, group: Option<u32>) -> Self {
        Self {
            client,
            root,
            tokens: Mutex::default(),
            written: Mutex::default(),
            group,
        }
    }

    /// Makes or refreshes every volume; names the volume that failed.
    pub(crate) async fn sync(
        &self,
        pod: &Pod,
        sources: Sources<'_>,
    ) -> Result<(), (String, VolumeError)> {
        for volume in pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
        {
            self.sync_one(volume, pod, sources)
                .await
                .map_err(|error| (volume.name.clone(), error))?;
        }
        Ok(())
    }

    /// When a token is to be renewed next.
    pub(crate) fn next_renewal(&self) -> Option<Instant> {
        self.tokens.lock().values().map(|token| token.renew).min()
    }

    async fn sync_one(
        &self,
        volume: &Volume,
        pod: &Pod,
        sources: Sources<'_>,
    ) -> Result<(), VolumeError> {
        let directory = self.root.join(&volume.name);
        if volume.empty_dir.is_some() {
            return self.empty_dir(&directory);
        }
        if let Some(host) = &volume.host_path {
            return host_path(
                Path::new(&host.path),
                host.type_.as_deref().unwrap_or_default(),
            );
        }
        let payload = if let Some(map) = &volume.config_map {
            let mode = mode(map.default_mode);
            let mut payload = Payload::new();
            let items = map.items.as_deref();
            config_map(sources, &map.name, map.optional, items, mode, &mut payload)?;
            payload
        } else if let Some(source) = &volume.secret {
            let mut payload = Payload::new();
            let name = source.secret_name.as_deref().unwrap_or_default();
            let (items, mode) = (source.items.as_deref(), mode(source.default_mode));
            secret(sources, name, source.optional, items, mode, &mut payload)?;
            payload
        } else if let Some(downward) = &volume.downward_api {
            let mut payload = Payload::new();
            downward_api(
                sources,
                downward.items.as_deref(),
                mode(downward.default_mode),
                &mut payload,
            )?;
            payload
        } else if let Some(projected) = &volume.projected {
            self.projected(&volume.name, projected, pod, sources)
                .await?
        } else {
            return Err(VolumeError::Unsupported);
        };
        self.write(&volume.name, &directory, payload)
    }

    fn write(&self, name: &str, directory: &Path, payload: Payload) -> Result<(), VolumeError> {
        let mut written = self.written.lock();
        if written.get(name) != Some(&payload) {
            atomic_dir::write(directory, &payload, self.group).map_err(at(directory))?;
            written.insert(name.to_owned(), payload);
        }
        Ok(())
    }

    fn empty_dir(&self, directory: &Path) -> Result<(), VolumeError> {
        if directory.exists() {
            return Ok(());
        }
        fs::create_dir_all(directory).map_err(at(directory))?;
        if let Some(group) = self.group {
            std::os::unix::fs::chown(directory, None, Some(group)).map_err(at(directory))?;
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o2777)).map_err(at(directory))
    }

    async fn projected(
        &self,
        volume: &str,
        projected: &ProjectedVolumeSource,
        pod: &Pod,
        sources: Sources<'_>,
    ) -> Result<Payload, VolumeError> {
        let mode = mode(projected.default_mode);
        let mut payload = Payload::new();
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                config_map(
                    sources,
                    &map.name,
                    map.optional,
                    map.items.as_deref(),
                    mode,
                    &mut payload,
                )?;
            }
            if let Some(from) = &source.secret {
                secret(
                    sources,
                    &from.name,
                    from.optional,
                    from.items.as_deref(),
                    mode,
                    &mut payload,
                )?;
            }
            if let Some(downward) = &source.downward_api {
                downward_api(sources, downward.items.as_deref(), mode, &mut payload)?;
            }
            if let Some(token) = &source.service_account_token {
                let text = self.token(volume, token, pod).await?;
                payload.insert(token.path.clone(), (text.into_bytes(), mode));
            }
        }
        Ok(payload)
    }

    /// The pod's token for that audience, renewed at 80% of its life.
    async fn token(
        &self,
        volume: &str,
        wanted: &ServiceAccountTokenProjection,
        pod: &Pod,
    ) -> Result<String, VolumeError> {
        let key = (volume.to_owned(), wanted.path.clone());
        if let Some(token) = self
            .tokens
            .lock()
            .get(&key)
            .filter(|token| token.renew > Instant::now())
        {
            return Ok(token.text.clone());
        }
        let namespace = pod.namespace().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        let account = account
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let request = token_request(wanted, pod);
        let answer = api
            .create_token_request(&account, &Default::default(), &request)
            .await;
        let status = answer
            .map_err(|error| VolumeError::Token(Box::new(error)))?
            .status
            .unwrap_or_default();
        let expires = status
            .expiration_timestamp
            .map_or(0, |time| time.0.as_second());
        let life = u64::try_from(expires - Timestamp::now().as_second())
            .unwrap_or(0)
            .max(10);
        let renew = Instant::now() + Duration::from_secs(life * 4 / 5);
        let text = status.token.unwrap_or_default();
        self.tokens.lock().insert(
            key,
            Token {
                text: text.clone(),
                renew,
            },
        );
        Ok(text)
    }

    /// The mounts of a container.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        pod: &Pod,
        env: &Environment,
    ) -> Result<Vec<Mount>, VolumeError> {
        let volumes = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_deref())
            .unwrap_or(&[]);
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.ok_or_else(|| VolumeError::Unknown(mount.name.clone()))?;
            let mut source = match &volume.host_path {
                Some(host) => PathBuf::from(&host.path),
                None => self.root.join(&volume.name),
            };
            let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(path), _) if !path.is_empty() => Some(path.clone()),
                (_, Some(path)) if !path.is_empty() => Some(expand(path, env)),
                _ => None,
            };
            if let Some(sub_path) = sub_path {
                source = inside(&source, &sub_path)?;
            }
            let content = volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some();
            mounts.push(Mount::Bind {
                source,
                target: PathBuf::from(&mount.mount_path),
                read_only: content || mount.read_only == Some(true),
            });
        }
        mounts.sort_by_key(|mount| match mount {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target.components().count(),
        });
        Ok(mounts)
    }
}

/// `source/sub_path`, made as a directory where it does not exist; must stay inside.
fn inside(source: &Path, sub_path: &str) -> Result<PathBuf, VolumeError> {
    let normal = Path::new(sub_path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let path = source.join(sub_path);
    if !normal {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "subPath leaves the volume");
        return Err(VolumeError::Io {
            path,
            source: error,
        });
    }
    if !path.exists() {
        fs::create_dir_all(&path).map_err(at(&path))?;
    }
    let (root, real) = (
        source.canonicalize().map_err(at(source))?,
        path.canonicalize().map_err(at(&path))?,
    );
    if real.starts_with(&root) {
        return Ok(real);
    }
    let error = io::Error::new(
        io::ErrorKind::InvalidInput,
        "subPath leaves the volume through a link",
    );
    Err(VolumeError::Io {
        path,
        source: error,
    })
}

fn token_request(wanted: &ServiceAccountTokenProjection, pod: &Pod) -> TokenRequest {
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted
                .audience
                .clone()
                .filter(|a| !a.is_empty())
                .map(|audience| vec![audience]),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(3600)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    }
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(0o644)).unwrap_or(0o644)
}

fn host_path(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let found = fs::metadata(path);
    match (kind, found) {
        ("DirectoryOrCreate", Err(_)) => fs::create_dir_all(path).map_err(at(path)),
        ("FileOrCreate", Err(_)) => fs::write(path, "").map_err(at(path)),
        (_, Err(source)) => Err(VolumeError::Io {
            path: path.to_owned(),
            source,
        }),
        ("Directory", Ok(meta)) if !meta.is_dir() => Err(at(path)(io::Error::new(
            io::ErrorKind::NotADirectory,
            "hostPath type check failed",
        ))),
        _ => Ok(()),
    }
}
