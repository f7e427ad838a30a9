//! Resources from files: a `DiscoveryResponse` as YAML or JSON, read again when another file takes its place.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use meltemi_traffic::Str;
use meltemi_traffic::discovery::FileSource;
use meltemi_xds::ResourceType;
use meltemi_xds::client::{Received, Subscriber, Update};
use meltemi_xds::resource::name_in;
use prost::{Message as _, Name as _};

/// How often a file is looked at. Envoy is told by the kernel; the difference is at most this.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// Which file stands under a path: a move into place (or a changed link on the way) changes it, writing does not.
/// The time of its making tells it from an older file whose number it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    made: Option<std::time::SystemTime>,
}

impl FileIdentity {
    /// The file that is there now.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Self {
            device: facts.dev(),
            inode: facts.ino(),
            made: facts.created().ok(),
        })
    }
}

/// Reads a file now and whenever it is replaced, for ever.
pub(super) async fn keep_reading<S: Subscriber>(
    file: Arc<FileSource>,
    kind: ResourceType,
    mut subscriber: S,
) {
    let path = Path::new(file.path.as_str());
    let mut seen = None;
    let mut present = BTreeSet::new();
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let identity = FileIdentity::of(path);
        if identity.is_none() || identity == seen {
            continue;
        }
        seen = identity;
        match read(path, &kind).await {
            Ok(mut update) => {
                let now: BTreeSet<Str> = update
                    .resources
                    .iter()
                    .map(|resource| resource.name.clone())
                    .collect();
                if kind.is_full_state() {
                    update.removed = present.difference(&now).cloned().collect();
                    present = now;
                }
                if let Err(reason) = subscriber.apply(&kind, update) {
                    tracing::warn!(path = %file.path, kind = %kind, reason, "configuration refused; the previous one stays in use");
                }
            }
            Err(reason) => {
                subscriber.failed();
                tracing::warn!(path = %file.path, kind = %kind, reason, "configuration refused; the previous one stays in use");
            }
        }
    }
}

async fn read(path: &Path, kind: &ResourceType) -> Result<Update, String> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| error.to_string())?;
    parse(&text, kind)
}

/// The update in a file.
pub(super) fn parse(text: &str, kind: &ResourceType) -> Result<Update, String> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let response: DiscoveryResponse =
        meltemi_proto::json::parse(&value).map_err(|error| error.to_string())?;
    let mut update = Update {
        version: response.version_info.as_str().into(),
        ..Update::default()
    };
    for (position, any) in response.resources.into_iter().enumerate() {
        let at = |reason: String| format!("resources[{position}]: {reason}");
        let (name, any) = if type_name(&any.type_url) == Resource::full_name() {
            let wrapped =
                Resource::decode(&any.value[..]).map_err(|error| at(error.to_string()))?;
            let inner = wrapped
                .resource
                .ok_or_else(|| at("has no content".to_owned()))?;
            (wrapped.name, inner)
        } else {
            (String::new(), any)
        };
        if ResourceType::from_url(&any.type_url) != *kind {
            return Err(at(format!(
                "is a {}, expected a {kind}",
                type_name(&any.type_url)
            )));
        }
        let name = if name.is_empty() {
            name_in(&any.value).into()
        } else {
            Str::from(name)
        };
        update.resources.push(Received {
            name,
            aliases: Vec::new(),
            body: any.value.into(),
        });
    }
    Ok(update)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_type_is_refused_with_the_resource() {
        let text = r#"{"resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a"}]}"#;
        let update = parse(text, &ResourceType::Cluster).unwrap();
        assert_eq!(update.resources[0].name, "a");
        let reason = parse(text, &ResourceType::Listener).unwrap_err();
        assert!(
            reason.starts_with("resources[0]: is a envoy.config.cluster.v3.Cluster"),
            "{reason}"
        );
    }
}
