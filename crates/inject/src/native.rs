//! Whether the proxy runs as an init container that keeps running ("native sidecar").

use serde_json::{Map, Value};

/// The cluster-wide choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NativeSidecars {
    /// Ordinary containers.
    #[default]
    Disabled,
    /// Native sidecars.
    Enabled,
    /// Native sidecars if every node's kubelet, by version, keeps such containers running.
    ByNodes(Vec<String>),
}

/// Kubelets from this minor version on keep native sidecars running by default and without known faults.
const FIRST_MINOR: u32 = 33;

impl NativeSidecars {
    fn cluster_wide(&self) -> bool {
        match self {
            Self::Disabled => false,
            Self::Enabled => true,
            Self::ByNodes(versions) => {
                !versions.is_empty() && versions.iter().all(|v| keeps_running(v))
            }
        }
    }
}

fn keeps_running(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.');
    let mut number = || {
        let digits = parts.next()?;
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse::<u32>().ok()
    };
    match (number(), number()) {
        (Some(1), Some(minor)) => minor >= FIRST_MINOR,
        (Some(major), _) => major > 1,
        _ => false,
    }
}

/// The choice for one pod: its annotation wins over the cluster's choice.
pub fn use_native_sidecar(annotations: &Map<String, Value>, cluster: &NativeSidecars) -> bool {
    match annotations
        .get("sidecar.istio.io/nativeSidecar")
        .and_then(Value::as_str)
    {
        Some("true") => true,
        Some("false") => false,
        _ => cluster.cluster_wide(),
    }
}
