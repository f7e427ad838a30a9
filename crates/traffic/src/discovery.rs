//! Where resources come from, and references to resources that configuration needs by name.

use std::sync::Arc;
use std::time::Duration;

use crate::{Limit, Str};

/// Where resources come from. Equal sources share one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Source {
    /// The bootstrap's static resources.
    #[default]
    Static,
    /// The aggregated stream.
    Ads,
    /// A stream of their own.
    Stream(Arc<StreamSource>),
    /// A file that is watched.
    File(Arc<FileSource>),
}

/// A discovery stream (`ApiConfigSource`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct StreamSource {
    /// Only changes are sent (`DELTA_GRPC`).
    pub delta: bool,
    /// Cluster of the server (`envoy_grpc.cluster_name`).
    pub cluster: Str,
    /// `:authority` of the stream; empty is the cluster's name.
    pub authority: Str,
    /// The node is sent only once for each stream.
    pub node_once: bool,
    /// Headers of the stream.
    pub initial_metadata: Vec<(Str, Str)>,
    /// Longest wait for the server's first answer (`GrpcService.timeout`).
    pub timeout: Option<Duration>,
}

/// A watched file (`PathConfigSource`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileSource {
    /// The file: a `DiscoveryResponse` as YAML or JSON.
    pub path: Str,
    /// A move inside this directory (instead of the file's own) makes the file be read again.
    pub watched_directory: Option<Str>,
}

/// A resource that a configuration needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Reference {
    /// Its name at its source.
    pub name: Str,
    /// Its name in this process: unlike [`Self::name`] it differs between sources.
    pub key: Str,
    /// Where it comes from.
    pub source: Source,
    /// Time to wait for it before going on without; `None` waits for ever.
    pub wait: Limit,
}

impl Reference {
    /// A reference; its key is the name itself for the bootstrap and the aggregated stream.
    #[must_use]
    pub fn new(source: Source, name: Str, wait: Limit) -> Self {
        let key = match &source {
            Source::Static | Source::Ads => name.clone(),
            Source::Stream(stream) => format!("{name}@{}", stream.cluster).into(),
            Source::File(file) => format!("{name}@{}", file.path).into(),
        };
        Self {
            name,
            key,
            source,
            wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_from_two_files_is_two_resources() {
        let file = |path: &str| {
            Source::File(Arc::new(FileSource {
                path: path.into(),
                watched_directory: None,
            }))
        };
        let a = Reference::new(file("/a"), "cert".into(), None);
        let b = Reference::new(file("/b"), "cert".into(), None);
        assert_ne!(a.key, b.key);
        assert_eq!(Reference::new(Source::Ads, "cert".into(), None).key, "cert");
    }
}
