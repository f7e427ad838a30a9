//! Equality selectors, evaluated.

use std::collections::BTreeMap;

/// Whether `labels` has every pair of `wanted`.
pub(crate) fn matches_all(
    wanted: &BTreeMap<String, String>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wanted_label_must_be_there() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let have = labels(&[("app", "a"), ("version", "v1")]);
        assert!(matches_all(&labels(&[("app", "a")]), Some(&have)));
        assert!(!matches_all(&labels(&[("app", "b")]), Some(&have)));
        assert!(!matches_all(
            &labels(&[("app", "a"), ("tier", "x")]),
            Some(&have)
        ));
        assert!(matches_all(&labels(&[]), None));
    }
}
