//! Label maps and subset selection.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use serde::{Deserialize, Serialize};

/// Labels of an object, or the labels that a selector asks for. Ordered, so equal maps are equal bytes everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<ArcStr, ArcStr>);

impl Labels {
    /// No labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&ArcStr> {
        self.0.get(key)
    }

    /// Sets a label.
    pub fn insert(&mut self, key: impl Into<ArcStr>, value: impl Into<ArcStr>) {
        self.0.insert(key.into(), value.into());
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&ArcStr, &ArcStr)> {
        self.0.iter()
    }

    /// Whether every label asked for stands in `candidate` with the same value; an empty selector selects all.
    #[must_use]
    pub fn selects(&self, candidate: &Self) -> bool {
        self.0
            .iter()
            .all(|(key, value)| candidate.0.get(key) == Some(value))
    }
}

impl<K: Into<ArcStr>, V: Into<ArcStr>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_subset_test() {
        let pod: Labels = [("app", "reviews"), ("version", "v1")]
            .into_iter()
            .collect();
        let selector =
            |pairs: &[(&'static str, &'static str)]| pairs.iter().copied().collect::<Labels>();
        assert!(selector(&[]).selects(&pod));
        assert!(selector(&[("version", "v1")]).selects(&pod));
        assert!(!selector(&[("version", "v2")]).selects(&pod));
        assert!(!selector(&[("tier", "x")]).selects(&pod));
    }
}
