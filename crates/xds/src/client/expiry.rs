//! Times to live: a resource that is not renewed in time is removed.

use std::{collections::BTreeMap, time::Duration};

use envoy_types::pb::google::protobuf::Duration as WireDuration;
use meltemi_names::ArcStr;
use tokio::time::Instant;

use crate::resource::ResourceType;

/// A time to live as the wire has it.
pub(super) fn lifetime(ttl: Option<WireDuration>) -> Option<Duration> {
    let ttl = ttl?;
    let (seconds, nanos) = (ttl.seconds.try_into().ok()?, ttl.nanos.try_into().ok()?);
    Some(Duration::new(seconds, nanos))
}

/// When resources expire.
#[derive(Debug, Default)]
pub(super) struct Expiry(BTreeMap<(ResourceType, ArcStr), Instant>);

impl Expiry {
    /// A resource lives for so long from now; `None` for ever.
    pub(super) fn set(&mut self, kind: &ResourceType, name: ArcStr, lifetime: Option<Duration>) {
        let key = (kind.clone(), name);
        match lifetime {
            Some(lifetime) => self.0.insert(key, Instant::now() + lifetime),
            None => self.0.remove(&key),
        };
    }

    /// Waits for the next end; for ever when there is none.
    pub(super) async fn wait(&self) {
        match self.0.values().min() {
            Some(next) => tokio::time::sleep_until(*next).await,
            None => std::future::pending().await,
        }
    }

    /// Takes what has expired.
    pub(super) fn take_due(&mut self) -> Vec<(ResourceType, ArcStr)> {
        let now = Instant::now();
        let due: Vec<_> = self
            .0
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(key, _)| key.clone())
            .collect();
        self.0.retain(|_, end| *end > now);
        due
    }
}
