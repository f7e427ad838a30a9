//! Secrets: from discovery, from files that their names say, from the agent.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster, Transport};
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_traffic::listener::Listener;
use meltemi_traffic::tls::{
    CertificatePair, DataSource, Secret, SecretKind, TlsCommon, Validation,
};
use meltemi_upstream::tls::{TlsError, check_given, check_secret, file_paths, load_files};
use meltemi_xds::ResourceType;
use meltemi_xds::client::Update;

use super::file::FileIdentity;
use super::hub::{Hub, compile};
use super::wishes::Need;
use crate::agent::identity::{OWN, ROOTS};
use crate::listener::ApplyError;

/// System trust anchors, where distributions put them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Secrets whose content is in files, by key: read again when other files take their place.
#[derive(Debug, Default)]
pub(super) struct SecretFiles(HashMap<Str, Watched>);

#[derive(Debug)]
struct Watched {
    secret: Arc<Secret>,
    files: Vec<(Str, Option<FileIdentity>)>,
}

impl SecretFiles {
    /// There is something to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nobody needs a secret any more.
    pub(super) fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// A secret that is complete in itself.
fn load(secret: &Secret) -> Result<Arc<Secret>, ApplyError> {
    let loaded = load_files(secret).and_then(|secret| {
        check_secret(&secret)?;
        Ok(Arc::new(secret))
    });
    loaded.map_err(|error| tls_error("secret", &secret.name, &error))
}

/// Refuses a listener whose own certificates cannot be used.
pub(super) fn check_listener_tls(listener: &Listener) -> Result<(), ApplyError> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    let contexts = chains.filter_map(|chain| chain.tls.as_ref().map(|tls| &tls.common));
    check_contexts("listener", &listener.name, contexts)
}

/// Refuses a cluster whose own certificates cannot be used.
pub(super) fn check_cluster_tls(cluster: &Cluster) -> Result<(), ApplyError> {
    let sockets = cluster
        .transport
        .matches
        .iter()
        .map(|entry| &entry.transport);
    let contexts = sockets
        .chain([&cluster.transport.default])
        .filter_map(|socket| match socket {
            Transport::Tls(tls) => Some(&tls.common),
            _ => None,
        });
    check_contexts("cluster", &cluster.name, contexts)
}

fn check_contexts<'c>(
    kind: &'static str,
    name: &Str,
    mut contexts: impl Iterator<Item = &'c TlsCommon>,
) -> Result<(), ApplyError> {
    contexts
        .try_for_each(check_given)
        .map_err(|error| tls_error(kind, name, &error))
}

fn tls_error(kind: &'static str, name: &Str, error: &TlsError) -> ApplyError {
    let source = std::error::Error::source(error);
    let reason = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    ApplyError::Tls {
        kind,
        name: name.clone(),
        reason,
    }
}

impl Hub {
    /// Takes one of the bootstrap's secrets; its files are read once.
    pub(super) fn set_fixed_secret(&mut self, secret: &Secret) -> Result<(), ApplyError> {
        let loaded = load(secret)?;
        self.shared.secrets.set(secret.name.clone(), loaded);
        Ok(())
    }

    /// Takes a secret; its files are watched.
    fn set_secret(&mut self, key: Str, secret: Arc<Secret>) -> Result<(), ApplyError> {
        // Looked at before they are read: a change in between is seen later.
        let files: Vec<_> = file_paths(&secret)
            .into_iter()
            .map(|path| {
                let identity = FileIdentity::of(Path::new(path.as_str()));
                (path, identity)
            })
            .collect();
        let loaded = load(&secret)?;
        self.shared.secrets.set(key.clone(), loaded);
        if files.is_empty() {
            self.secret_files.0.remove(&key);
        } else {
            self.secret_files.0.insert(key, Watched { secret, files });
        }
        Ok(())
    }

    /// Reads secrets again whose files were replaced; a broken file changes nothing.
    pub(crate) fn look_at_secret_files(&mut self) {
        let mut changed = Vec::new();
        for (key, watched) in &mut self.secret_files.0 {
            let mut differs = false;
            for (path, seen) in &mut watched.files {
                let now = FileIdentity::of(Path::new(path.as_str()));
                differs |= now.is_some() && now != *seen;
                *seen = now.or(*seen);
            }
            if differs {
                changed.push((key.clone(), Arc::clone(&watched.secret)));
            }
        }
        for (key, secret) in changed {
            match load(&secret) {
                Ok(loaded) => self.shared.secrets.set(key, loaded),
                Err(error) => {
                    tracing::warn!(%error, "secret refused; the previous one stays in use");
                }
            }
        }
    }

    pub(super) fn secret_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let kind = ResourceType::Secret;
        let mut errors = Vec::new();
        for received in &update.resources {
            let Some(key) = self.wishes.key(source, &kind, &received.name) else {
                continue;
            };
            let secret = compile::<SecretMessage, _>(received, meltemi_compile::secret);
            let taken = secret.and_then(|secret| {
                self.set_secret(key, secret)
                    .map_err(|error| error.to_string())
            });
            errors.extend(taken.err());
        }
        for name in &update.removed {
            if let Some(key) = self.wishes.key(source, &kind, name) {
                self.shared.secrets.remove(&key);
                self.secret_files.forget(&key);
            }
        }
        errors
    }

    /// Leaves out what the agent supplies: the workload's own secrets, and those whose name says which files they are.
    pub(super) fn not_local(&mut self, needs: Vec<Need>) -> Vec<Need> {
        if !self.agent {
            return needs;
        }
        needs
            .into_iter()
            .filter(|(kind, reference)| *kind != ResourceType::Secret || !self.supply(reference))
            .collect()
    }

    fn supply(&mut self, reference: &Reference) -> bool {
        if reference.name == OWN || reference.name == ROOTS {
            return true;
        }
        let Some(secret) = local_secret(&reference.name) else {
            return false;
        };
        if self.shared.secrets.get(&reference.key).is_some() {
            return true;
        }
        let (key, secret) = (reference.key.clone(), Arc::new(secret));
        if let Err(error) = self.set_secret(key.clone(), Arc::clone(&secret)) {
            tracing::warn!(%error, "secret cannot be read yet");
            let files = file_paths(&secret).into_iter().map(|path| (path, None));
            let files = files.collect();
            self.secret_files.0.insert(key, Watched { secret, files });
        }
        true
    }
}

/// Secrets whose name says which files they are.
fn local_secret(name: &Str) -> Option<Secret> {
    let kind = if let Some(files) = name.strip_prefix("file-cert:") {
        let (chain, key) = files.split_once('~')?;
        let file = |path: &str| DataSource::File(path.into());
        SecretKind::Certificate(CertificatePair {
            chain: file(chain),
            key: file(key),
        })
    } else {
        let path = match name.strip_prefix("file-root:")? {
            "system" => SYSTEM_ROOTS,
            path => path,
        };
        let anchors = Some(DataSource::File(path.into()));
        SecretKind::Validation(Box::new(Validation {
            trusted_ca: anchors,
            ..Validation::default()
        }))
    };
    Some(Secret {
        name: name.clone(),
        kind,
    })
}
