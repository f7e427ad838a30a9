//! Which mutual TLS a workload demands.

use std::collections::BTreeMap;

use meltemi_names::Labels;

use crate::meta::Meta;

/// What a port demands of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MutualTls {
    /// Plain text only.
    Disable,
    /// Both.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// A policy as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAuthentication {
    /// Name, namespace, age.
    pub meta: Meta,
    /// The workloads; `None` for the whole namespace (in the root namespace: the mesh).
    pub selector: Option<Labels>,
    /// Its mode; `None` inherits.
    pub mode: Option<MutualTls>,
    /// Modes of single workload ports; `None` inherits the workload's.
    pub ports: BTreeMap<u16, Option<MutualTls>>,
}

/// What a workload demands, port by port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadMutualTls {
    /// Of every port without its own entry.
    pub mode: MutualTls,
    /// Of single ports.
    pub ports: BTreeMap<u16, MutualTls>,
}

impl WorkloadMutualTls {
    /// What a port demands.
    #[must_use]
    pub fn of_port(&self, port: u16) -> MutualTls {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// Resolves policies (oldest first) for a workload: workload over namespace over mesh, the oldest of each level.
    pub fn resolve<'a>(
        policies: impl Iterator<Item = &'a PeerAuthentication> + Clone,
        root_namespace: &str,
        namespace: &str,
        labels: Option<&Labels>,
    ) -> Self {
        let level = |ns: &str| {
            policies
                .clone()
                .find(|p| p.meta.namespace == ns && p.selector.is_none())
        };
        let mesh = level(root_namespace)
            .and_then(|policy| policy.mode)
            .unwrap_or_default();
        let in_namespace = level(namespace)
            .and_then(|policy| policy.mode)
            .unwrap_or(mesh);
        let own = labels
            .filter(|_| namespace != root_namespace)
            .and_then(|labels| {
                policies.clone().find(|p| {
                    p.meta.namespace == namespace
                        && p.selector.as_ref().is_some_and(|s| s.selects(labels))
                })
            });
        let mode = own.and_then(|policy| policy.mode).unwrap_or(in_namespace);
        let ports = own
            .into_iter()
            .flat_map(|policy| &policy.ports)
            .map(|(port, m)| (*port, m.unwrap_or(mode)));
        Self {
            mode,
            ports: ports.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(
        namespace: &str,
        selector: Option<(&str, &str)>,
        mode: Option<MutualTls>,
    ) -> PeerAuthentication {
        PeerAuthentication {
            meta: Meta {
                namespace: namespace.into(),
                ..Meta::default()
            },
            selector: selector.map(|pair| [pair].into_iter().collect()),
            mode,
            ports: BTreeMap::new(),
        }
    }

    #[test]
    fn workload_beats_namespace_beats_mesh_and_unset_inherits() {
        let labels: Labels = [("app", "a")].into_iter().collect();
        let mut workload = policy("ns", Some(("app", "a")), None);
        workload.ports.insert(8080, Some(MutualTls::Disable));
        workload.ports.insert(9090, None);
        let all = [
            policy("root", None, Some(MutualTls::Strict)),
            policy("root", Some(("app", "a")), Some(MutualTls::Disable)),
            policy("ns", None, Some(MutualTls::Permissive)),
            workload,
        ];
        let resolve = |ns: &str, labels| WorkloadMutualTls::resolve(all.iter(), "root", ns, labels);
        assert_eq!(resolve("other", Some(&labels)).mode, MutualTls::Strict);
        assert_eq!(resolve("root", Some(&labels)).mode, MutualTls::Strict);
        let own = resolve("ns", Some(&labels));
        assert_eq!(
            (own.mode, own.of_port(8080), own.of_port(9090)),
            (
                MutualTls::Permissive,
                MutualTls::Disable,
                MutualTls::Permissive
            )
        );
        assert_eq!(
            WorkloadMutualTls::resolve([].iter(), "root", "ns", None).mode,
            MutualTls::Permissive
        );
    }
}
