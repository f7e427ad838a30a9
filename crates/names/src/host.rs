//! Host names as configuration writes them: exact, `*`, or `*.suffix`.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;

/// A host name or a wildcard over host names. Compared byte by byte, as the configuration wrote it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(ArcStr);

impl Hostname {
    /// Takes the text as it is.
    pub fn new(text: impl Into<ArcStr>) -> Self {
        Self(text.into())
    }

    /// Expands a short name (no dot, no wildcard) to `name.namespace.svc.domain`; every other form is kept.
    ///
    /// The namespace is that of the object that wrote the name.
    #[must_use]
    pub fn resolve(name: &str, namespace: &str, domain: &str) -> Self {
        if name.is_empty() || name.contains('.') || name.starts_with('*') {
            Self(name.into())
        } else {
            Self::service(name, namespace, domain)
        }
    }

    /// The host name of a Kubernetes Service.
    #[must_use]
    pub fn service(name: &str, namespace: &str, domain: &str) -> Self {
        Self(arcstr::format!("{name}.{namespace}.svc.{domain}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    #[must_use]
    pub fn text(&self) -> &ArcStr {
        &self.0
    }

    /// Whether the name stands for many hosts.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether some host is named by both (symmetric): two wildcards overlap if one suffix contains the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.0.strip_prefix('*'), other.0.strip_prefix('*')) {
            (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
            (Some(suffix), None) => other.0.ends_with(suffix),
            (None, Some(suffix)) => self.0.ends_with(suffix),
            (None, None) => self == other,
        }
    }

    /// Whether every host named by `self` is also named by `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        match (self.0.strip_prefix('*'), other.0.strip_prefix('*')) {
            (Some(mine), Some(theirs)) => mine.ends_with(theirs),
            (Some(_), None) => false,
            (None, Some(suffix)) => self.0.ends_with(suffix),
            (None, None) => self == other,
        }
    }

    /// Order of precedence among names that match the same host: exact before wildcards, longer suffix first.
    ///
    /// Smaller is more specific.
    #[must_use]
    pub fn specificity(&self) -> (bool, std::cmp::Reverse<usize>) {
        (self.is_wildcard(), std::cmp::Reverse(self.0.len()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Hostname {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Hostname {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_take_the_namespace_of_the_object_that_wrote_them() {
        let resolve = |name| Hostname::resolve(name, "shop", "cluster.local").to_string();
        assert_eq!(resolve("reviews"), "reviews.shop.svc.cluster.local");
        assert_eq!(resolve("reviews.default"), "reviews.default");
        assert_eq!(resolve("*"), "*");
        assert_eq!(resolve("*.example.com"), "*.example.com");
    }

    #[test]
    fn wildcards_overlap_by_suffix() {
        let table = [
            ("*", "a.b", true),
            ("*.b", "a.b", true),
            ("*.b", "b", false),
            ("*.a.b", "*.b", true),
            ("*.a.b", "*.c.b", false),
            ("a.b", "a.b", true),
            ("a.b", "c.b", false),
        ];
        for (left, right, expected) in table {
            let (left, right) = (Hostname::from(left), Hostname::from(right));
            assert_eq!(left.overlaps(&right), expected, "{left} {right}");
            assert_eq!(right.overlaps(&left), expected, "{right} {left}");
        }
    }

    #[test]
    fn subset_is_directional_and_specificity_prefers_exact_then_longest() {
        let (exact, narrow, wide) = (
            Hostname::from("a.b.c"),
            Hostname::from("*.b.c"),
            Hostname::from("*"),
        );
        assert!(
            exact.is_subset_of(&narrow)
                && narrow.is_subset_of(&wide)
                && !wide.is_subset_of(&narrow)
        );
        assert!(
            exact.specificity() < narrow.specificity() && narrow.specificity() < wide.specificity()
        );
    }
}
