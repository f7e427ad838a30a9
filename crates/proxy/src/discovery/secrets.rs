//! Secrets: from discovery, from files that their names say, from the agent.

use std::sync::Arc;

use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::Secret as SecretMessage;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster, Transport};
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_traffic::listener::Listener;
use meltemi_traffic::tls::{
    CertificatePair, DataSource, Secret, SecretKind, TlsCommon, Validation,
};
use meltemi_upstream::tls::{TlsError, check_given, check_secret};
use meltemi_xds::ResourceType;
use meltemi_xds::client::Update;

use super::hub::{Hub, compile};
use super::wishes::Need;
use crate::agent::identity::{OWN, ROOTS};
use crate::listener::ApplyError;

/// System trust anchors, where distributions put them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Refuses a secret whose content cannot be used.
pub(super) fn check(secret: &Secret) -> Result<(), ApplyError> {
    check_secret(secret).map_err(|error| tls_error("secret", &secret.name, &error))
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
    pub(super) fn secret_update(&mut self, source: &Source, update: &Update) -> Vec<String> {
        let kind = ResourceType::Secret;
        let mut errors = Vec::new();
        for received in &update.resources {
            let Some(key) = self.wishes.key(source, &kind, &received.name) else {
                continue;
            };
            let checked =
                compile::<SecretMessage, _>(received, meltemi_compile::secret).and_then(|secret| {
                    match check(&secret) {
                        Ok(()) => Ok(secret),
                        Err(error) => Err(error.to_string()),
                    }
                });
            match checked {
                Ok(secret) => self.shared.secrets.set(key, secret),
                Err(error) => errors.push(error),
            }
        }
        for name in &update.removed {
            if let Some(key) = self.wishes.key(source, &kind, name) {
                self.shared.secrets.remove(&key);
            }
        }
        errors
    }

    /// Leaves out what the agent supplies: the workload's own secrets, and those whose name says which files they are.
    pub(super) fn not_local(&self, needs: Vec<Need>) -> Vec<Need> {
        if !self.agent {
            return needs;
        }
        needs
            .into_iter()
            .filter(|(kind, reference)| *kind != ResourceType::Secret || !self.supply(reference))
            .collect()
    }

    fn supply(&self, reference: &Reference) -> bool {
        if reference.name == OWN || reference.name == ROOTS {
            return true;
        }
        let Some(secret) = local_secret(&reference.name) else {
            return false;
        };
        if self.shared.secrets.get(&reference.key).is_none() {
            self.shared
                .secrets
                .set(reference.key.clone(), Arc::new(secret));
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
