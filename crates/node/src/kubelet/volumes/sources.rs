//! What ConfigMaps, Secrets and the downward API put into a volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath};
use meltemi_kube::ResourceExt as _;

use crate::kubelet::atomic_dir::Payload;
use crate::kubelet::env::{ConfigError, Sources};

pub(super) fn config_map(
    sources: Sources<'_>,
    name: &str,
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), ConfigError> {
    let namespace = sources.fields.pod.namespace().unwrap_or_default();
    let Some(map) = sources.config_maps.find(&namespace, name) else {
        return absent("configmap", name, optional);
    };
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(key, text)| (key.as_str(), text.as_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()));
    let content: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
    select(
        &content,
        ("ConfigMap", &namespace, name),
        optional,
        items,
        mode,
        payload,
    )
}

pub(super) fn secret(
    sources: Sources<'_>,
    name: &str,
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    payload: &mut Payload,
) -> Result<(), ConfigError> {
    let namespace = sources.fields.pod.namespace().unwrap_or_default();
    let secret: Option<Arc<_>> = sources.secrets.find(&namespace, name);
    let Some(secret) = secret else {
        return absent("secret", name, optional);
    };
    let content: BTreeMap<&str, &[u8]> = secret
        .data
        .iter()
        .flatten()
        .map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()))
        .collect();
    select(
        &content,
        ("Secret", &namespace, name),
        optional,
        items,
        mode,
        payload,
    )
}

fn absent(kind: &'static str, name: &str, optional: Option<bool>) -> Result<(), ConfigError> {
    if optional == Some(true) {
        Ok(())
    } else {
        Err(ConfigError::NoObject {
            kind,
            name: name.to_owned(),
        })
    }
}

/// Puts all keys, or the listed ones at their paths, into the payload.
fn select(
    content: &BTreeMap<&str, &[u8]>,
    (kind, namespace, name): (&'static str, &str, &str),
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    payload: &mut Payload,
) -> Result<(), ConfigError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = content
            .iter()
            .map(|(key, bytes)| ((*key).to_owned(), (bytes.to_vec(), default_mode)));
        payload.extend(all);
        return Ok(());
    };
    for item in items {
        let Some(bytes) = content.get(item.key.as_str()) else {
            if optional == Some(true) {
                continue;
            }
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            return Err(ConfigError::NoKey {
                kind,
                namespace,
                name,
                key: item.key.clone(),
            });
        };
        let mode = item
            .mode
            .and_then(|mode| u32::try_from(mode).ok())
            .unwrap_or(default_mode);
        payload.insert(item.path.clone(), (bytes.to_vec(), mode));
    }
    Ok(())
}

pub(super) fn downward_api(
    sources: Sources<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: u32,
    payload: &mut Payload,
) -> Result<(), ConfigError> {
    for item in items.unwrap_or(&[]) {
        let (value, what) = if let Some(field) = &item.field_ref {
            (
                sources.fields.field(&field.field_path),
                field.field_path.clone(),
            )
        } else if let Some(resource) = &item.resource_field_ref {
            (
                sources.fields.resource(resource, ""),
                resource.resource.clone(),
            )
        } else {
            continue;
        };
        let value = value.ok_or(ConfigError::Field(what))?;
        let mode = item
            .mode
            .and_then(|mode| u32::try_from(mode).ok())
            .unwrap_or(default_mode);
        payload.insert(item.path.clone(), (value.into_bytes(), mode));
    }
    Ok(())
}
