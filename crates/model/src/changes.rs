//! What differs between two snapshots.

use std::collections::BTreeSet;

use meltemi_names::Hostname;

use crate::meta::{Kind, ObjectKey};

/// What differs between two snapshots, so that a push touches only what depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Everything may differ: settings of the mesh changed.
    pub everything: bool,
    /// Services whose definition changed, or whose set of identities did.
    pub services: BTreeSet<Hostname>,
    /// Services of which only the endpoints changed.
    pub endpoints: BTreeSet<Hostname>,
    /// Changed pods and configuration objects.
    pub objects: BTreeSet<ObjectKey>,
}

impl Changes {
    /// Everything, as for a proxy that just connected.
    #[must_use]
    pub fn all() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether only endpoints differ.
    #[must_use]
    pub fn only_endpoints(&self) -> bool {
        !self.everything
            && self.services.is_empty()
            && self.objects.is_empty()
            && !self.endpoints.is_empty()
    }

    /// Whether an object of this kind differs.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.objects.iter().any(|key| key.kind == kind)
    }

    /// Adds what another comparison found; a client that fell behind gets one push for both.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.objects.extend(other.objects);
        self.endpoints.retain(|host| !self.services.contains(host));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_changes_keep_the_stronger_reason() {
        let mut changes = Changes {
            endpoints: ["a".into(), "b".into()].into(),
            ..Changes::default()
        };
        assert!(changes.only_endpoints());
        changes.merge(Changes {
            services: ["a".into()].into(),
            ..Changes::default()
        });
        assert!(!changes.only_endpoints());
        assert_eq!(changes.endpoints, ["b".into()].into());
    }
}
