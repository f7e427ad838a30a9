//! A peer's workload as filter state (`downstream_peer`, `upstream_peer`): Istio's `WorkloadMetadataObject`.

use std::ops::Deref;

use meltemi_telemetry::istio::Peer;
use meltemi_traffic::Str;
use meltemi_traffic::access::StateObject;
use meltemi_traffic::metadata::{Fields, Value};

/// A peer that logs can ask about.
#[derive(Debug, Clone)]
pub struct PeerObject(pub Peer);

impl Deref for PeerObject {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.0
    }
}

impl PeerObject {
    /// Names and values in the order of Istio's text; absent ones are empty.
    fn pairs(&self) -> [(&'static str, &str); 9] {
        let peer = &self.0;
        [
            ("type", workload_type(&peer.owner, &peer.workload)),
            ("workload", &peer.workload),
            ("name", &peer.name),
            ("cluster", &peer.cluster),
            ("namespace", &peer.namespace),
            ("service", &peer.canonical_name),
            ("revision", &peer.canonical_revision),
            ("app", &peer.app),
            ("version", &peer.version),
        ]
    }
}

impl StateObject for PeerObject {
    fn text(&self) -> String {
        let pairs = self.pairs();
        let present = pairs.iter().filter(|(_, value)| !value.is_empty());
        let parts: Vec<_> = present
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        parts.join(",")
    }

    fn value(&self) -> Value {
        let pairs = self.pairs();
        let present = pairs.iter().filter(|(_, value)| !value.is_empty());
        let fields: Fields = present
            .map(|(name, value)| (Str::from(*name), Value::String((*value).into())))
            .collect();
        Value::Struct(fields)
    }

    fn field(&self, name: &str) -> Option<String> {
        let (_, value) = *self.pairs().iter().find(|(have, _)| *have == name)?;
        Some(match (name, value) {
            ("type", "") => "unknown".to_owned(),
            _ => value.to_owned(),
        })
    }
}

/// The kind of a workload, from its owner (`kubernetes://apis/apps/v1/namespaces/<ns>/deployments/<name>`).
fn workload_type(owner: &str, workload: &str) -> &'static str {
    let kind = owner.strip_suffix(workload).and_then(|rest| {
        let plural = rest.strip_suffix('/')?;
        plural.rsplit('/').next()?.strip_suffix('s')
    });
    match kind {
        Some("pod") => "pod",
        Some("deployment") => "deployment",
        Some("job") => "job",
        Some("cronjob") => "cronjob",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meltemi_telemetry::istio::WorkloadMetadata;

    #[test]
    fn a_peer_reads_as_istio_writes_it() {
        let peer = PeerObject(Peer::new(WorkloadMetadata {
            workload: "reviews-v1".into(),
            namespace: "default".into(),
            owner: "kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1".into(),
            ..WorkloadMetadata::default()
        }));
        assert_eq!(
            peer.text(),
            "type=deployment,workload=reviews-v1,namespace=default"
        );
        assert_eq!(peer.field("workload").as_deref(), Some("reviews-v1"));
        assert_eq!(peer.field("color"), None);
    }
}
