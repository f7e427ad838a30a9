//! `exportTo`: who may see an object.

use std::collections::BTreeSet;

use meltemi_names::ArcStr;

/// The namespaces that see an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Every namespace.
    Public,
    /// These namespaces only; none when empty.
    Namespaces(BTreeSet<ArcStr>),
}

impl Visibility {
    /// Reads `exportTo` tokens (`*`, `.`, `~`, or namespace names) written by an object of namespace `own`.
    /// No token means `default`.
    pub fn of<'a>(
        tokens: impl IntoIterator<Item = &'a str>,
        own: &ArcStr,
        default: &[ArcStr],
    ) -> Self {
        let mut tokens = tokens
            .into_iter()
            .map(str::trim)
            .filter(|token| !token.is_empty())
            .peekable();
        if tokens.peek().is_none() {
            return Self::read(default.iter().map(ArcStr::as_str), own);
        }
        Self::read(tokens, own)
    }

    fn read<'a>(tokens: impl Iterator<Item = &'a str>, own: &ArcStr) -> Self {
        let (mut namespaces, mut any) = (BTreeSet::new(), false);
        for token in tokens {
            any = true;
            match token {
                "*" => return Self::Public,
                "~" => {}
                "." => drop(namespaces.insert(own.clone())),
                namespace => drop(namespaces.insert(ArcStr::from(namespace))),
            }
        }
        if any {
            Self::Namespaces(namespaces)
        } else {
            Self::Public
        }
    }

    /// Whether `namespace` sees the object.
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }

    /// Whether only `own` sees the object.
    #[must_use]
    pub fn is_private_to(&self, own: &str) -> bool {
        matches!(self, Self::Namespaces(namespaces) if namespaces.len() == 1 && namespaces.contains(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_for_the_own_namespace() {
        let own = ArcStr::from("shop");
        let of =
            |tokens: &[&'static str]| Visibility::of(tokens.iter().copied(), &own, &["*".into()]);
        assert_eq!(of(&[]), Visibility::Public);
        assert_eq!(of(&["x", "*"]), Visibility::Public);
        assert!(of(&["."]).is_private_to("shop") && of(&["shop"]).is_private_to("shop"));
        assert!(!of(&["~"]).allows("shop"));
        assert!(of(&["a", "b"]).allows("b"));
        assert_eq!(Visibility::of([], &own, &[]), Visibility::Public);
    }
}
